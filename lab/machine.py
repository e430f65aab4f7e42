"""What tests may ask of a machine with OpenZFS, be it an emulated guest or this host."""

import shlex
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from lab.errors import CommandError, DeadlineError

GRACE = 20  # seconds that a loaded machine may take beyond a command's deadline to end it
PUSH_TIMEOUT = 600
TAR_FLAGS = ("--sparse", "--numeric-owner", "--xattrs", "--xattrs-include=user.*")
TAKE_FOLDER = 'to=$1; shift; mkdir -p "$to"; exec tar -xp "$@" -f - -C "$to"'
# A file is unpacked beside its place, so that the last step is a rename.
TAKE_FILE = """
to=$1; from=$2; shift 2
mkdir -p "$(dirname "$to")"
new=$(mktemp -d "$(dirname "$to")/.push.XXXXXX")
tar -xp "$@" -f - -C "$new"
mv "$new/$from" "$to"
rmdir "$new"
"""
POOL_PROPERTIES = frozenset(
    {"altroot", "ashift", "autoexpand", "autotrim", "cachefile", "comment", "compatibility",
     "failmode", "listsnapshots"},
)  # fmt: skip


@dataclass(frozen=True)
class Completed:
    """How a command ended. Bytes that are not UTF-8 appear as surrogate escapes."""

    stdout: str
    stderr: str
    status: int


class Machine(ABC):
    """A machine where we are root and OpenZFS works."""

    version: str
    """The OpenZFS version, as `2.1.11`."""

    pool_folder: str
    """Where pools' files live: a folder in memory."""

    @abstractmethod
    def command(self, *argv: str) -> list[str]:
        """Return the host's command line that runs `argv` on the machine, for own pipelines."""

    @abstractmethod
    def zfs_settings(self) -> dict[str, str]:
        """Return Offsite's settings that let it reach this machine's ZFS."""

    @abstractmethod
    def given_up(self, argv: Sequence[str], timeout: float) -> DeadlineError:
        """Clean up after a command that did not even die at its deadline; return the error."""

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: bytes | None = None,
        timeout: float = 120,
    ) -> Completed:
        """Run a program (arguments arrive as given) and wait for its end.

        Raises CommandError for a status other than zero if `check` is set, and
        DeadlineError when it still runs after `timeout` seconds; then it was killed.
        """
        began = time.monotonic()
        words = self.command("timeout", "-s", "KILL", f"{timeout:g}", *argv)
        try:
            done = subprocess.run(
                words,
                input=stdin or b"",
                capture_output=True,
                timeout=timeout + GRACE,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self.given_up(argv, timeout) from error
        # timeout(1) ends its whole group, itself too: a shell far away calls that 137.
        if done.returncode in {128 + 9, -9} and time.monotonic() - began >= timeout:
            raise DeadlineError(f"{shlex.join(argv)[:200]}: killed after {timeout:g} s")
        result = Completed(_text(done.stdout), _text(done.stderr), done.returncode)
        return self.checked(argv, result) if check else result

    def checked(self, argv: Sequence[str], done: Completed) -> Completed:
        """Return a command's result if its status is zero, else raise CommandError."""
        if done.status:
            said = (done.stderr or done.stdout).strip()
            raise CommandError(f"{shlex.join(argv)[:200]}: status {done.status}: {said}")
        return done

    def script(self, text: str, *, check: bool = True, timeout: float = 120) -> Completed:
        """Run a /bin/sh script, which ends at its first failing command (`sh -e`).

        At most 128 KiB: the shell gets it as one argument, for a script that is read from
        standard input is eaten by the first command that reads there.
        """
        loader = 'exec /bin/sh -ec "$(cat)"'
        return self.run("/bin/sh", "-c", loader, check=check, stdin=text.encode(), timeout=timeout)

    def push(self, local: Path, remote: str) -> None:
        """Copy a file or a directory's contents to `remote` (its new name), parents made.

        Holes, modes, owners, links and user.* attributes are kept.
        """
        if local.is_dir():
            folder, member, names, script = local, ".", [remote], TAKE_FOLDER
        else:
            names, script = [remote, local.name], TAKE_FILE
            folder, member = local.parent, f"./{local.name}"
        unpack = self.command("/bin/sh", "-ec", script, "sh", *names, *TAR_FLAGS)
        pack = ["tar", "-c", *TAR_FLAGS, "-C", str(folder), "-f", "-", member]
        with subprocess.Popen(pack, stdout=subprocess.PIPE) as source:
            try:
                done = subprocess.run(
                    unpack,
                    stdin=source.stdout,
                    capture_output=True,
                    timeout=PUSH_TIMEOUT,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                source.kill()
                raise self.given_up(["push", str(local)], PUSH_TIMEOUT) from error
        if source.returncode or done.returncode:
            raise CommandError(f"push of {local} to {remote}: {_text(done.stderr).strip()}")

    def make_pool(self, name: str, size: int = 512 << 20, **props: str) -> None:
        """Create a pool of `size` bytes on a file in memory, mounted at /name.

        `props` are properties of the pool (`ashift`, `feature@…`) or of its root file system.
        """
        backing = self._backing(name)
        words = ["zpool", "create", "-f", "-m", f"/{name}"]
        for key, value in {"cachefile": "none", **props}.items():
            pool = key in POOL_PROPERTIES or key.startswith("feature@")
            words += ["-o" if pool else "-O", f"{key}={value}"]
        self.run("truncate", "-s", str(size), backing)
        self.run(*words, name, backing)

    def destroy_pool(self, name: str) -> None:
        """Destroy a pool made by make_pool, if it is there; its file goes too.

        A killed send may keep it busy for a moment, until it notices that its pipe is closed.
        """
        deadline = time.monotonic() + GRACE
        while self.run("zpool", "list", name, check=False).status == 0:
            done = self.run("zpool", "destroy", "-f", name, check=time.monotonic() > deadline)
            if done.status:
                time.sleep(0.5)
        self.run("rm", "-f", self._backing(name))

    def _backing(self, name: str) -> str:
        return str(PurePosixPath(self.pool_folder) / f"{name}.pool")


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
