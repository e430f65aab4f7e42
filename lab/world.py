"""A user's world: a HOME with keys and settings, a machine with pools, and the offsite command."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.machine import Machine

PATIENCE = 600  # seconds for one command; the guest is emulated and CI's cores are shared
PROVIDERS = ("one", "two")
# With the fewest iterations that zfs takes: an emulator derives a key of its own default for 4 s.
QUICK_KEY = "-o keyformat=passphrase -o pbkdf2iters=100000"
PASSPHRASE = "correct-horse-battery"  # noqa: S105 - of throw-away datasets
LOCKED = f"echo {PASSPHRASE} | zfs create -o encryption=on {QUICK_KEY}"
FILES = """
cd "{mountpoint}"
mkdir -p text many "odd name"
seq 1 60000 > text/numbers
cp /bin/busybox text/binary 2>/dev/null || cp /bin/sh text/binary
dd if=/dev/urandom of=noise bs=1M count={noise} 2>/dev/null
dd if=/dev/urandom of=sparse bs=64k count=1 seek=70 2>/dev/null
truncate -s 9M hole
for i in $(seq 120); do echo "small file $i" > "many/$i"; done
: > empty
ln -s text/numbers link
ln text/numbers hardlink
echo "secret-content-$(basename {mountpoint})" > "odd name/with spaces and ünïcode"
touch ./-n "two
lines"
setfattr -n user.note -v "an extended attribute" text/numbers
setfattr -n user.of -v "a folder" "odd name"
setfattr -n trusted.note -v "of root" many/9
chmod 640 text/numbers
chmod 2751 many
chown -h 1234:2345 many many/7 link
touch -d @1111111111.222333444 many/8 "odd name"
mkfifo pipe
sync
"""
FACTS = r"""
cd "{mountpoint}"
find . -xdev -type f -exec sha256sum {{}} + | sort
find . -xdev ! -type d -exec stat -c '%n %f %s %u %g %y %h' {{}} + | sort
find . -xdev -type d {others} -exec stat -c '%n %f %u %g %y' {{}} + | sort
find . -xdev -exec getfattr -hdm - {{}} + 2>/dev/null | sed 's|^# file: \./|# file: |' | sort
find . -xdev -type l -exec readlink {{}} +
find . -xdev -type f -links +1 -exec stat -c '%i %n' {{}} + | sort |
    awk '{{ names[$1] = names[$1] " " $2 }} END {{ for (one in names) print names[one] }}' | sort
"""


def recipe(title: str = "recipe") -> str:
    """The shell script of FORMAT.md, below this title, that restores without Offsite."""
    script = rf"<!-- {title}: executed by the tests -->\n```sh\n(.*?)```"
    text = (Path(__file__).parents[1] / "FORMAT.md").read_text()
    found = re.search(script, text, re.DOTALL)
    assert found is not None
    return found[1]


@dataclass(frozen=True)
class Ran:
    """How one offsite command ended."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def log(self) -> str:
        """What is in the log file that a run in the background names first."""
        return Path(self.stdout.splitlines()[0].removeprefix("Log file: ")).read_text()


def write_settings(path: Path, settings: Mapping[str, str]) -> None:
    """A config.env, and the folders in which its providers are."""
    lines = (f"{key}={shlex.quote(value)}\n" for key, value in settings.items())
    path.write_text("".join(lines))
    for key, value in settings.items():  # but for those right below /, which are in memory
        if key.endswith("_REMOTE") and value.startswith("/") and value.count("/") > 1:
            Path(value).mkdir(parents=True, exist_ok=True)


def remotes(folder: Path) -> dict[str, str]:
    """The settings of the providers, each a folder in this one."""
    return {f"{name.upper()}_REMOTE": str(folder / name) for name in PROVIDERS}


@dataclass(frozen=True)
class World:
    """``home`` is the user's, ``machine`` is where the pools are, ``patience`` is in seconds."""

    home: Path
    machine: Machine
    patience: float = PATIENCE  # with each command

    @classmethod
    def new(cls, home: Path, machine: Machine) -> World:
        """A user with fresh keys and two local providers, ``one`` and ``two``."""
        made = cls(home, machine)
        for name in PROVIDERS:
            (home / name).mkdir(parents=True)
        made.configure(**remotes(home))
        made.offsite("keys", "init")
        return made

    def configure(self, **settings: str) -> None:
        """Write config.env: how to reach the machine, small chunks, and ``settings``."""
        folder = self.home / ".config/offsite"
        folder.mkdir(parents=True, exist_ok=True)
        lines = {"SHARD_SIZE": "1M", **self.machine.zfs_settings(), **settings}
        write_settings(folder / "config.env", lines)

    def environment(self) -> dict[str, str]:
        runtime = self.home / "run"
        runtime.mkdir(mode=0o700, exist_ok=True)
        return {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
            "XDG_RUNTIME_DIR": str(runtime),
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
        }

    def stock_zfs(self, folder: Path) -> Path:
        """A folder with a ``zfs`` command that reaches the machine, for scripts run here."""
        folder.mkdir(exist_ok=True)
        program = folder / "zfs"
        name, *more = self.machine.command("zfs")
        found = shutil.which(name)  # where zfs is here, the script would run itself by that name
        assert found is not None
        program.write_text(f'#!/bin/sh\nexec {shlex.join([found, *more])} "$@"\n')
        program.chmod(0o755)
        return folder

    def start(self, *args: str, **environment: str) -> subprocess.Popen[str]:
        """Begin an offsite command in the background, as a user's shell would."""
        return subprocess.Popen(
            [sys.executable, "-m", "offsite", *args],
            env=self.environment() | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def offsite(self, *args: str, status: int = 0, **environment: str) -> Ran:
        """Run an offsite command and check its exit status."""
        running = self.start(*args, **environment)
        try:
            stdout, stderr = running.communicate(timeout=self.patience)
        except subprocess.TimeoutExpired:
            running.send_signal(signal.SIGKILL)
            raise
        ran = Ran(running.returncode, stdout, stderr)
        assert ran.status == status, f"offsite {shlex.join(args)}: {ran}"
        assert "Traceback" not in stderr
        return ran

    def fill(self, dataset: str, noise: int = 4) -> None:
        """Put all sorts of files into the filesystem ``dataset``: ``noise`` MiB incompressible."""
        self.machine.script(FILES.format(mountpoint=f"/{dataset}", noise=noise))

    def device(self, volume: str) -> str:
        """The block device of ``volume``; zfs is done a moment before it is there."""
        path = f"/dev/zvol/{volume}"
        wait_for(lambda: self.machine.run("test", "-b", path, check=False).status == 0)
        return path

    def facts(self, dataset: str) -> str:
        """Hashes, metadata and attributes of all files of a filesystem, mounted if need be."""
        if self.get(dataset, "mounted") == "no":
            self.machine.run("zfs", "mount", dataset)
        listed = self.machine.run("zfs", "list", "-Ho", "name", "-r", "-d", "1", dataset).stdout
        below = (name.removeprefix(dataset) for name in listed.splitlines()[1:])
        others = " ".join(f"! -path {shlex.quote(f'.{name}')}" for name in below)  # mounted or not
        return self.machine.script(FACTS.format(mountpoint=f"/{dataset}", others=others)).stdout

    def content(self, name: str, key: str = "") -> str:
        """The same of a filesystem; of a volume, its hash.

        ``key``: the machine's file with which it is opened if it is locked.
        """
        if key and self.get(name, "keystatus") == "unavailable":
            self.machine.run("zfs", "load-key", "-L", f"file://{key}", name)
        if self.get(name, "type") == "volume":
            return self.machine.script(f"sha256sum <{self.device(name)}").stdout
        return self.facts(name)

    def get(self, name: str, wanted: str, *, check: bool = True) -> str:
        """The value of a dataset's property; unless ``check``, empty if there is no dataset."""
        asked = ("zfs", "get", "-Hpo", "value", wanted, name)
        return self.machine.run(*asked, check=check).stdout.strip()

    def program(self, name: str, text: str) -> str:
        """Make a program of our own on the machine: its path."""
        path = f"/tmp/{name}-{os.getpid()}"  # noqa: S108 - nobody else is on that machine
        self.machine.run("/bin/sh", "-c", f"cat > {path}; chmod 755 {path}", stdin=text.encode())
        return path

    def receipts(self) -> int:
        """Chunks that all providers have, as the journals tell."""
        journals = (self.home / ".local/state/offsite/journals").glob("*.jsonl")
        return sum(path.read_bytes().count(b"}\n") for path in journals)

    def exists(self, name: str) -> bool:
        """Whether there is such a dataset or snapshot."""
        return self.machine.run("zfs", "list", "-t", "all", name, check=False).status == 0


def wait_for(happened: Callable[[], object], seconds: float = 60) -> None:
    """Wait until ``happened()`` is true."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)
