"""Time to the first new chunk after an interruption at 80 % of a stream: token against re-send.

    script/bench resume [--sizes MIB MIB] [--rounds N]

A dataset of noise for each size, on the lab's OpenZFS, is backed up in chunks of 1 MiB to a folder
on this disk, and killed when 80 % of the chunks are there. From copies of that one state the same
command goes on, with a zfs that serves tokens and with one that does not, in turns. Printed are the
medians, in seconds from the start of the command: until the log names the engine (the start-up:
what is stored is read; for the re-send also zfs's refusal of a token), and until the first chunk is
written to the folder; then what came out of zfs send in the whole run. The exit status is 1 if,
without the start-up, the token's time grows with the stream (by more than half as much), or the
re-send is not slower at the larger size.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lab.guest import boot
from lab.machine import Machine
from lab.world import PATIENCE, World

MIB = 1 << 20
STORED = 0.8
POLL = 0.03  # seconds
POOL = "bench"
OLD_ZFS = "/tmp/zfs-without-tokens"  # noqa: S108 (on the guest)
# An OpenZFS that cannot resume a send, as before 0.7.
MAKE_OLD_ZFS = f"""
cat > {OLD_ZFS} << 'END'
#!/bin/sh
if [ "$1 $2" = "send -t" ]; then echo "invalid option 't'" >&2; exit 2; fi
exec zfs "$@"
END
chmod 755 {OLD_ZFS}
"""
TOKEN, RESEND = "token", "re-send and compare"  # as the log names them
ENGINES: Mapping[str, Mapping[str, str]] = {TOKEN: {}, RESEND: {"ZFS_COMMAND": OLD_ZFS}}


@dataclass(frozen=True)
class Run:
    """Seconds from the start of the command, bytes out of zfs send, chunks before and in all."""

    startup: float
    first: float
    sent: int
    resumed: int
    chunks: int


@dataclass(frozen=True)
class Row:
    """The medians of all runs of one engine at one size."""

    size: int
    engine: str
    runs: list[Run]

    @property
    def startup(self) -> float:
        return statistics.median(run.startup for run in self.runs)

    @property
    def first(self) -> float:
        return statistics.median(run.first for run in self.runs)

    @property
    def after(self) -> float:
        """Seconds from the start-up's end to the first new chunk."""
        return statistics.median(run.first - run.startup for run in self.runs)

    def __str__(self) -> str:
        each = " ".join(f"{run.first:.1f}" for run in self.runs)
        last = self.runs[-1]
        return (
            f"{self.size:4} MiB  {last.resumed:3}/{last.chunks:<3}  {self.engine:20}"
            f"{self.startup:8.1f} s{self.after:8.1f} s{self.first:8.1f} s"
            f"{last.sent / MIB:8.1f} MiB  ({each})"
        )


def main() -> int:
    """Run all rounds at all sizes and print the table; 0 if it is flat against linear."""
    options = argparse.ArgumentParser(prog="script/bench resume", description=summary())
    options.add_argument("--sizes", type=int, nargs=2, default=[32, 128], metavar="MIB")
    options.add_argument("--rounds", type=int, default=3)
    chosen = options.parse_args()
    chosen.sizes.sort()
    rows = [Row(size, engine, []) for size in chosen.sizes for engine in ENGINES]
    with boot() as guest, tempfile.TemporaryDirectory(prefix="offsite-bench-") as folder:
        guest.make_pool(POOL, 4 * sum(chosen.sizes) * MIB + 256 * MIB, compression="off")
        guest.script(MAKE_OLD_ZFS)
        print(f"OpenZFS {guest.version}; {os.cpu_count()} cores, {load()}", flush=True)
        begun = {size: interrupted(guest, Path(folder) / str(size), size) for size in chosen.sizes}
        for number in range(chosen.rounds):
            for row in rows if number % 2 == 0 else rows[::-1]:
                again = copy_of(begun[row.size], Path(folder) / "again")
                row.runs.append(measured(again, snapshot(row.size), row.engine))
                shutil.rmtree(again.home)
    print(f"at the end: {load()}")
    report(rows)
    faults = amiss(rows)
    for fault in faults:
        print(f"NOT AS IT SHALL BE: {fault}")
    return int(bool(faults))


def load() -> str:
    """What else this machine does; about 2 is the bench's own."""
    return "load " + ", ".join(f"{value:.1f}" for value in os.getloadavg())


def summary() -> str:
    assert __doc__ is not None
    return __doc__.splitlines()[0]


def report(rows: list[Row]) -> None:
    """The table, the ratio at each size, and how much longer the larger stream takes."""
    print(
        f"{'stream':>8}  {'stored':7}  {'engine':20}{'start-up':>10}{'then':>10}{'in all':>10}"
        f"{'from zfs':>12}  (in all, each round)"
    )
    for row in rows:
        print(row)
    for token, resend in zip(rows[::2], rows[1::2], strict=True):
        print(f"{token.size} MiB: re-send / token {resend.first / token.first:.1f}", end="")
        print(f", without start-up {resend.after / token.after:.1f}")
    for small, large in zip(rows[:2], rows[2:], strict=True):
        grown = f"{large.size / small.size:.1f} times the stream, {small.engine}:"
        print(f"{grown} {large.first / small.first:.1f} times as long", end="")
        print(f", without start-up {large.after / small.after:.1f}")


def amiss(rows: list[Row]) -> list[str]:
    """What of the smaller and the larger stream's rows is not as it shall be."""
    small, _, large, resent = rows
    grown, allowed = large.after / small.after, 1 + (large.size / small.size - 1) / 2
    faults = [f"the token's time grows: {grown:.1f} times"] if grown > allowed else []
    return faults + (["re-send is not slower"] if resent.after <= large.after else [])


def snapshot(size: int) -> str:
    return f"{POOL}/noise{size}@s"


def interrupted(machine: Machine, home: Path, size: int) -> World:
    """A user whose backup of ``size`` MiB of noise was killed at 80 %."""
    data = snapshot(size).partition("@")[0]
    machine.run("zfs", "create", data)
    machine.script(f"dd if=/dev/urandom of=/{data}/noise bs=1M count={size}; sync")
    world = world_in(home, machine)
    world.offsite("keys", "init")
    wanted = math.ceil(size * STORED) + 1  # the journal may not have the last one yet
    with world.start("--backup", snapshot(size)) as running:
        try:
            wait_for(lambda: len(chunks(world)) >= wanted, running)
        finally:
            running.kill()
    time.sleep(2)  # for zfs on the guest to notice
    return world


def world_in(home: Path, machine: Machine) -> World:
    """A user whose only provider is a folder in the home."""
    world = World(home, machine)
    remote(world).mkdir(parents=True, exist_ok=True)
    world.configure(LOCAL_REMOTE=str(remote(world)))
    return world


def copy_of(world: World, home: Path) -> World:
    """The same user, provider included, without logs and sockets."""
    shutil.copytree(
        world.home, home, symlinks=True, ignore=shutil.ignore_patterns("run", "offsite-*.log")
    )
    return world_in(home, world.machine)


def remote(world: World) -> Path:
    return world.home / "remote"


def measured(world: World, name: str, engine: str) -> Run:
    """Go on with the backup to its end."""
    before = chunks(world)
    began = time.monotonic()
    with world.start("--backup", name, "--json", **ENGINES[engine]) as running:
        try:
            startup = wait_for(lambda: f"are stored ({engine})" in log_of(world), running) - began
            first = wait_for(lambda: chunks(world) - before, running) - began
            stdout, stderr = running.communicate(timeout=PATIENCE)
        finally:
            running.kill()
    if running.returncode:
        raise SystemExit(f"offsite ended with status {running.returncode}: {stderr}")
    if engine == TOKEN and RESEND in log_of(world):
        raise SystemExit(f"zfs did not go on from a token: {log_of(world)}")
    done = json.loads(stdout)["backup"]
    return Run(startup, first, done["sent_bytes"], done["resumed_chunks"], done["chunks"])


def wait_for(happened: Callable[[], object], running: subprocess.Popen[str]) -> float:
    """The monotonic time at which it happened. Give up if the command ends without it."""
    deadline = time.monotonic() + PATIENCE
    while True:
        over = running.poll() is not None or time.monotonic() > deadline
        if happened():
            return time.monotonic()
        if over:
            running.kill()
            raise SystemExit(f"what was waited for did not happen: {running.communicate()}")
        time.sleep(POLL)


def chunks(world: World) -> set[tuple[str, int]]:
    """Name and time of every chunk: one that an interrupted run left unsigned is written again."""
    found = set[tuple[str, int]]()
    for backup in (remote(world) / "offsite/backups").glob("*"):
        with os.scandir(backup) as entries:
            found |= {
                (entry.name, entry.stat().st_mtime_ns)
                for entry in entries
                if entry.name.startswith("chunk-") and entry.name.endswith(".age")
            }
    return found


def log_of(world: World) -> str:
    """What the run in the background has written."""
    return "".join(path.read_text() for path in world.home.glob("offsite-backup-*.log"))


if __name__ == "__main__":
    sys.exit(main())
