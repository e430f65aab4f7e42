"""Where the seconds of a backup and of a restore go.

    script/bench profile [--stream FILE]

The stream is that of ``script/bench throughput``. First each step alone, in one process, chunk by
chunk: seconds of processor time. Then a whole backup and restore by the command line, to a folder
on this disk: seconds on the clock, and of processor time by process, looked at ten times a second.
What the processes of a command took beyond the steps is start-up, signing, and bytes on their way:
pipes, sockets, the disk, rclone's own hash of what it stored.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from bench import throughput
from bench.throughput import CHUNK, Contender
from offsite import age, seal
from offsite.age import Identities, Recipients
from offsite.digests import digest
from offsite.values import LEVELS

READ, FOLLOW, XXH, ZSTD = "reading", "following the records", "XXH3", "zstd"
AGE, SHA256, STORED = "age", "SHA-256", "XXH3 of what is stored"  # as a local folder asks it
POLL = 0.1  # seconds


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables."""
    stream = throughput.made_or(throughput.parser(__doc__).parse_args(argv).stream)
    print(f"{stream.stat().st_size / 1e9:.2f} GB of zfs send stream, {os.cpu_count()} cores")
    there, back = steps(stream)
    there[FOLLOW] = throughput.following(stream)
    with tempfile.TemporaryDirectory(prefix="offsite-bench-") as folder:
        contender = throughput.offsite(stream, Path(folder))
        for what, alone in (("backup", there), ("restore", back)):
            report(what, alone, *watched(contender, what))
    return 0


class Clock(defaultdict[str, float]):
    """Seconds of this process's processor time, by step."""

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        began = time.process_time()
        yield
        self[step] += time.process_time() - began


def steps(stream: Path) -> tuple[Clock, Clock]:
    """What sealing and opening its chunks take, each step by itself."""
    identity = age.generate_identity()
    identities, recipients = Identities((identity,)), Recipients((identity.recipient,))
    bound = seal.sealed_bound(CHUNK, recipients)
    plain, sealed, again = (memoryview(bytearray(size)) for size in (CHUNK, bound, bound))
    there, back = Clock(float), Clock(float)
    with stream.open("rb") as file:
        while True:
            with there.of(READ):
                size = file.readinto(plain)
            if not size:
                break
            with there.of(ZSTD):  # and what is taken off below
                chunk = seal.seal_chunk(
                    plain[:size], sealed, recipients, level=LEVELS["default"], hashes=("xxh128",)
                )
            stored = sealed[: chunk.size]
            for step, kind, data in (
                (XXH, "xxh128", plain[:size]),
                (SHA256, "sha256", stored),
                (STORED, "xxh128", stored),
            ):
                with there.of(step):
                    digest(kind, data)
            with back.of(AGE):
                pieces = list(age.decrypt_stream((stored,), identities))
            with there.of(AGE):
                age.encrypt_stream(pieces, again, recipients)
            with back.of(ZSTD):
                seal.open_chunk(stored, plain, identities)
    there[ZSTD] -= sum(there[step] for step in (XXH, SHA256, STORED, AGE))
    back[SHA256] = there[SHA256]
    back[ZSTD] -= back[AGE]
    return there, back


def watched(contender: Contender, what: str) -> tuple[float, Clock]:
    """Seconds on the clock, and of processor time by process."""
    began = time.monotonic()
    used: dict[tuple[int, float], tuple[str, float]] = {}
    with subprocess.Popen(
        contender.commands[what], env=contender.environment, stdout=subprocess.DEVNULL
    ) as running:
        over = threading.Event()

        def watch() -> None:
            top = psutil.Process(running.pid)
            while not over.wait(POLL):
                look(top, used)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            status = running.wait()
        finally:
            over.set()
            watcher.join()
    if status:
        raise SystemExit(f"the {what} ended with status {status}")
    by_name = Clock(float)
    for name, seconds in used.values():
        by_name[name] += seconds
    return time.monotonic() - began, by_name


def look(top: psutil.Process, used: dict[tuple[int, float], tuple[str, float]]) -> None:
    """Note what each process of the family has used so far."""
    try:
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for one in family:
        try:
            times, name = one.cpu_times(), one.name()
        except psutil.NoSuchProcess:
            continue
        if name.startswith("python"):
            name = "offsite itself" if one == top else "its workers"
        used[one.pid, one.create_time()] = name, times.user + times.system


def report(what: str, alone: Clock, seconds: float, used: Clock) -> None:
    """The most expensive first."""
    total = sum(used.values())
    print(f"\n{what}: {seconds:.1f} s on the clock, {total:.1f} s of processor time")
    for title, those in (("steps alone", alone), ("processes", used)):
        print(f"  {title}, {sum(those.values()):.1f} s:")
        for name, spent in sorted(those.items(), key=lambda one: -one[1]):
            print(f"    {name:24} {spent:6.2f} s  {100 * spent / total:4.0f} %")


if __name__ == "__main__":
    sys.exit(main())
