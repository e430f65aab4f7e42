"""Throughput, side by side: offsite against ``zstd -T0 -3 | age | rclone rcat``, and back.

    script/bench [throughput] [--stream FILE] [--rounds N]

Both get the same real zfs send stream through a pipe (``cat`` in zfs's place) and write to a folder
on this disk, then bring it back into /dev/null (the other one: ``rclone cat | age -d | zstd -d``),
in turns, in one run. The stream is made once by the lab's OpenZFS (programs and libraries of this
machine, text, and a quarter of incompressible data) and cached. Printed: seconds, MB/s, the ratio
of the medians, processor seconds, stored bytes, the peak memory (PSS) of all processes of each
together, and what following the stream's records costs of the processor time of a backup. The exit
status is 1 if the backup's ratio is below 1.3, or the restore's below 1; if the backup takes more
processor time than the other's, or stores more; if following takes 5 % or more. Each is told.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from lab.cache import root
from lab.guest import boot
from offsite.rclone.launch import find_program
from offsite.zfs.records import HEADER_SIZE
from offsite.zfs.stream import Follower

MIB = 1 << 20
LEAST = {"backup": 1.3, "restore": 1.0}  # times as fast as the other
MOST = 5  # percent of a backup's processor time, for following the records
QUIET = 0.5  # load at the start, above which the figures say little
SEND_FLAGS = ("-L",)  # as offsite sends a dataset without compression
PIECE = 64 << 10  # bytes; as they come out of a pipe
CHUNK = 32 * MIB
FOLDERS = ("/usr/lib/python3", "/usr/lib/x86_64-linux-gnu", "/usr/bin", "/usr/share/doc")
CONTENT = 800 * MIB
NOISE = 300 * MIB
USAGE = Path(__file__).parents[1] / "tests/usages/linux-2.3.2.txt"
# Answers what a backup asks, as zfs would; the stream itself is the file.
STAND_IN = """#!/bin/sh
case "$1 $*" in
" ") exec cat '{usage}' >&2 ;;
"send "*-nP*) printf 'size\\t{size}\\n' ;;
"send "*) exec cat '{stream}' ;;
"version "*) printf 'zfs-2.3.2\\nzfs-kmod-2.3.2\\n' ;;
"list "*snapshot*) printf 'tank/data@s\\t{guid}\\t12\\t1700000000\\n' ;;
"list "*) printf 'tank/data\\t5\\tfilesystem\\tlz4\\t{size}\\t{size}\\toff\\n' ;;
"get "*) printf 'type\\tfilesystem\\t-\\n' ;;
esac
"""


@dataclass(frozen=True)
class Run:
    """Seconds, on the clock and of processors; bytes stored on the disk, and the highest PSS of the
    whole process tree in bytes."""

    seconds: float
    processor: float
    stored: int
    memory: int


@dataclass(frozen=True)
class Contender:
    """Its commands, and the folder where it stores."""

    name: str
    commands: Mapping[str, list[str]]
    environment: Mapping[str, str]
    target: Path


PEER, OURS = "zstd | age | rclone", "offsite"
Runs = dict[tuple[str, str], list[Run]]  # by what was done, and by whom


def main(argv: Sequence[str] | None = None) -> int:
    """Run all rounds and print the tables; 0 if offsite is as much faster as it shall be."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args(argv)
    stream = made_or(chosen.stream)
    size, load = stream.stat().st_size, os.getloadavg()[0]
    state = "quiet" if load <= QUIET else "not quiet: the figures say little"
    print(f"{size / 1e9:.2f} GB of zfs send stream, {os.cpu_count()} cores")
    print(f"load at the start {load:.1f}: {state}")
    runs: Runs = {}
    for number in range(chosen.rounds):
        for make in (shell, offsite)[:: 1 if number % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory(prefix="offsite-bench-") as folder:
                compete(make(stream, Path(folder)), stream, runs)
    ratios = {what: report(what, size, runs) for what in LEAST}
    ours, peers = (middle(runs["backup", name]) for name in (OURS, PEER))
    spent = following(stream)
    share = 100 * spent / ours.processor
    print(
        f"following the records: {spent:.2f} s of processor time,"
        f" {share:.1f} % of a backup's {ours.processor:.1f} s"
    )
    faults = [f"{what} is slower" for what, least in LEAST.items() if ratios[what] < least]
    faults += ["backup takes more processor time"] if ours.processor >= peers.processor else []
    faults += ["backup stores more"] if ours.stored > peers.stored else []
    faults += ["following the records takes too much"] if share >= MOST else []
    for fault in faults:
        print(f"NOT AS IT SHALL BE: {fault}")
    return int(bool(faults))


def parser(told: str) -> argparse.ArgumentParser:
    """A bench's options: the stream."""
    options = argparse.ArgumentParser(description=told.splitlines()[0])
    options.add_argument("--stream", type=Path, help="a zfs send stream (default: made in the lab)")
    return options


def made_or(stream: Path | None) -> Path:
    """The stream that was chosen, or the lab's."""
    return stream or make_stream(root() / f"bench{''.join(SEND_FLAGS)}.zfs")


def compete(contender: Contender, stream: Path, runs: Runs) -> None:
    """A backup and a restore of one of them."""
    with stream.open("rb") as warm:
        while warm.read(16 * MIB):
            pass
    for what, command in contender.commands.items():
        done = measured(command, contender.environment, contender.target)
        runs.setdefault((what, contender.name), []).append(done)


def middle(done: Sequence[Run]) -> Run:
    """The medians of some runs, but the most memory."""
    return Run(
        statistics.median(run.seconds for run in done),
        statistics.median(run.processor for run in done),
        int(statistics.median(run.stored for run in done)),
        max(run.memory for run in done),
    )


def report(what: str, size: int, runs: Runs) -> float:
    """One line a contender, then the ratio of the medians, which is returned."""
    mine = {name: done for (verb, name), done in runs.items() if verb == what}
    medians = {name: middle(done) for name, done in mine.items()}
    for name, median in medians.items():
        each = " ".join(f"{run.seconds:.1f}" for run in mine[name])
        print(
            f"{what:8} {name:20} {size / median.seconds / 1e6:6.0f} MB/s  ({each} s)"
            f"  processors {median.processor:.1f} s"
            f"  stored {median.stored / size:.3f}"
            f"  memory {median.memory / MIB:.0f} MiB"
        )
    ratio = medians[PEER].seconds / medians[OURS].seconds
    print(f"{what:8} ratio {ratio:.2f}")
    return ratio


def following(stream: Path) -> float:
    """Seconds of processor time to follow the whole stream, in a backup's pieces and chunks."""
    follower, chunk, spent = Follower(), memoryview(bytearray(CHUNK)), 0.0
    with stream.open("rb") as file:
        while size := file.readinto(chunk):
            began = time.process_time()
            for at in range(0, size, PIECE):
                follower.feed(chunk[at : min(at + PIECE, size)])
            follower.mark(chunk[:size])
            spent += time.process_time() - began
    return spent


def shell(stream: Path, folder: Path) -> Contender:
    """The pipelines an admin would type."""
    target, identity = folder / "stored", folder / "identity"
    target.mkdir()
    subprocess.run(["age-keygen", "-o", identity], check=True, capture_output=True)
    recipient = identity.read_text().partition("public key: ")[2].split()[0]
    there = 'cat "$1" | zstd -q -T0 -3 -c | age -r "$2" | "$3" rcat "$4/object"'
    back = '"$3" cat "$4/object" | age -d -i "$5" | zstd -q -d -c'
    told = ["sh", str(stream), recipient, find_rclone(), str(target), str(identity)]
    commands = {"backup": ["sh", "-c", there, *told], "restore": ["sh", "-c", back, *told]}
    return Contender(PEER, commands, os.environ, target)


def offsite(stream: Path, folder: Path) -> Contender:
    """The whole command, start-up, signing and verification of the upload included."""
    home, target = folder / "home", folder / "stored"
    for place in (target, home / "run", home / ".config/offsite"):
        place.mkdir(parents=True)
    (home / "run").chmod(0o700)
    stand_in = home / "zfs"
    stand_in.write_text(
        STAND_IN.format(
            stream=stream, size=stream.stat().st_size, guid=guid_of(stream), usage=USAGE
        )
    )
    stand_in.chmod(0o755)
    settings = f"LOCAL_REMOTE={target}\nZFS_COMMAND={stand_in}\n"
    (home / ".config/offsite/config.env").write_text(settings)
    environment = {
        **os.environ,
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(home / "run"),
        "PYTHONPYCACHEPREFIX": str(home / "compiled"),  # compiled once, as pip does
        "PYTHONDONTWRITEBYTECODE": "",
    }
    command = [sys.executable, "-m", "offsite", "--quiet"]
    subprocess.run([*command, "keys", "init"], env=environment, check=True, capture_output=True)
    commands = {
        "backup": [*command, "--backup", "tank/data@s"],
        "restore": [*command, "--restore", "tank/data@s", "--to-file", "-"],
    }
    return Contender(OURS, commands, environment, target)


def measured(argv: list[str], environment: Mapping[str, str], target: Path) -> Run:
    """Run a command."""
    began, before = time.monotonic(), processor_time()
    with subprocess.Popen(argv, env=environment, stdout=subprocess.DEVNULL) as running:
        peak = Peak(running.pid)
        status = running.wait()
    seconds, processor = time.monotonic() - began, processor_time() - before
    memory = peak.stop()
    if status:
        raise SystemExit(f"{argv[0]} ended with status {status}")
    stored = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    return Run(seconds, processor, stored, memory)


def processor_time() -> float:
    """Seconds that all children of this process have used, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Peak:
    """Watches the memory of a process and all below it, twice a second: looking costs time, too."""

    def __init__(self, pid: int) -> None:
        self._top = psutil.Process(pid)
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> int:
        """The highest sum seen, in bytes."""
        self._over.set()
        self._thread.join()
        return self._peak

    def _watch(self) -> None:
        while not self._over.wait(0.5):
            self._peak = max(self._peak, self._sum())

    def _sum(self) -> int:
        total = 0
        try:
            family = [self._top, *self._top.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0
        for process in family:
            try:
                total += process.memory_full_info().pss
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return total


def find_rclone() -> str:
    """The rclone that offsite uses, too."""
    return find_program(os.environ["PATH"])


def guid_of(stream: Path) -> int:
    """The snapshot guid in the stream's BEGIN record."""
    follower = Follower()
    with stream.open("rb") as file:
        follower.feed(memoryview(file.read(HEADER_SIZE + MIB)))
    assert follower.begin is not None
    return follower.begin.toguid


def make_stream(stream: Path) -> Path:
    """Let the lab's OpenZFS send a dataset of real files; a few minutes, once."""
    if stream.exists():
        return stream
    print(f"making {stream} in the lab (3 to 5 minutes, once)", flush=True)
    with boot(memory=5120) as guest, tempfile.TemporaryDirectory() as folder:
        content = Path(folder) / "content"
        gather(content)
        guest.make_pool("bench", 2000 * MIB, compression="off")
        guest.run("zfs", "create", "bench/data")
        guest.push(content, "/bench/data")
        guest.script(f"dd if=/dev/urandom of=/bench/data/noise bs=1M count={NOISE // MIB}")
        guest.run("zfs", "snapshot", "bench/data@s")
        part = stream.with_suffix(".part")
        with part.open("wb") as out:
            send = guest.command("zfs", "send", *SEND_FLAGS, "bench/data@s")
            subprocess.run(send, stdout=out, check=True)
        part.replace(stream)
    return stream


def gather(content: Path) -> None:
    """About CONTENT bytes of this machine's own files."""
    left = CONTENT
    for top in FOLDERS:
        for path in sorted(Path(top).rglob("*")):
            if left <= 0:
                return
            if path.is_file() and not path.is_symlink():
                target = content / path.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                left -= path.stat().st_size


if __name__ == "__main__":
    sys.exit(main())
