"""One offsite command under observation: what phase it is in, what it moved, how it ended."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path

from lab.faults import victims
from lab.faults.victims import Process
from lab.world import Ran, World

POLL = 0.04  # seconds between two looks at a stream
LEISURE = 0.15  # seconds between two looks for one: each goes through all processes
GAP = 0.7  # seconds after which a token that is refused has been followed by a stream
PATIENCE = 180  # seconds without an end: it hangs
# Bytes that are moved when the stream flows for sure. Before zfs receive reads anything, ssh takes
# as much as the window at its other end.
FLOWING = {"--backup": 256 << 10, "--restore": 1280 << 10}


class DefectError(Exception):
    """What must not happen, with what is needed to understand it."""


class Phase(StrEnum):
    """Where a run is: before its stream flows, while it does, after it ended."""

    BEFORE = "before"
    TRANSFER = "transfer"
    AFTER = "after"


class Run:
    """A running command. ``moved``: bytes that it read from zfs send, or zfs receive took from it.

    The kernel counts them (proc(5), io): for a backup those that the main thread read, which little
    else reads, since the stream began; for a restore those that ssh, or zfs itself, read. The
    restore of a chain has one stream after the other; ``shared`` is named shared memory.
    """

    def __init__(self, world: World, args: Sequence[str], settings: Mapping[str, str]) -> None:
        self.args = tuple(args)
        self.shared: set[Path] = set()
        self.moved = 0
        self._home = world.home
        self._older = set(world.home.glob("*.log"))
        self._stream: Process | None = None
        self._begun_at: int | None = None
        self._earlier = 0  # moved by streams before this one
        self._seen = 0.0  # when there was a stream
        self._manifests = self._count_manifests()
        environment = {"PYTHONFAULTHANDLER": "1", **settings}
        self._popen = world.start(*args, "--json", "--verbose", **environment)

    @property
    def main(self) -> int:
        return self._popen.pid

    @property
    def phase(self) -> Phase:
        if self._begun_at is None:
            return Phase.BEFORE
        if self._stream is None:
            return Phase.BEFORE if self._more_to_come else Phase.AFTER
        return Phase.TRANSFER if self._flowed else Phase.BEFORE

    @property
    def through(self) -> bool:
        """Whether a stream has ended that was more than a token that zfs refuses."""
        ended = self.phase is Phase.AFTER
        return ended and (self._flowed or time.monotonic() > self._seen + GAP)

    @property
    def pause(self) -> float:
        """How long not to look."""
        return LEISURE if self._stream is None else POLL

    @property
    def loaded(self) -> bool:
        """Whether Python is up and reads our code: before that nobody can answer a signal."""
        try:
            return "/site-packages/" in Path(f"/proc/{self.main}/maps").read_text()
        except OSError:
            return False

    @property
    def committing(self) -> bool:
        """Whether a manifest came since it started."""
        return self._count_manifests() > self._manifests

    @property
    def log(self) -> str:
        """What the command itself told of its doings."""
        new = set(self._home.glob("*.log")) - self._older
        return "".join(path.read_text() for path in sorted(new))

    def look(self) -> bool:
        """Note what is to be seen; whether it still runs."""
        if self._popen.poll() is not None:
            return False
        # Only what came and went makes it worth to go through all processes.
        if self._stream is None or victims.look_up(self._stream.pid) != self._stream:
            self._find_stream()
        if self._stream is not None:
            self._seen = time.monotonic()
        self._count()
        return True

    def watch(self, seconds: float) -> bool:
        """Look for so long; whether it still runs."""
        deadline = time.monotonic() + seconds
        while self.look():
            if (left := deadline - time.monotonic()) <= 0:
                return True
            time.sleep(min(self.pause, left))
        return False

    def end(self) -> Ran:
        """Wait for the end, also of everything that has our pipes. DefectError if it hangs."""
        deadline = time.monotonic() + PATIENCE
        while self.look() and time.monotonic() < deadline:
            time.sleep(self.pause)
        try:
            stdout, stderr = self._popen.communicate(timeout=POLL if self.look() else 30)
        except subprocess.TimeoutExpired:
            raise DefectError(self._told(f"it hangs\n{self._stacks()}")) from None
        ran = Ran(self._popen.returncode, stdout, stderr)
        if "Traceback" in stderr:
            raise DefectError(self._told(stderr))
        return ran

    def kill(self) -> None:
        """Whatever became of it, leave nothing behind."""
        self._popen.kill()
        self._popen.wait()

    def note_shared(self) -> None:
        """Before one of its processes is killed."""
        self.shared |= victims.shared_files(victims.children(self.main))

    def _find_stream(self) -> None:
        family = victims.children(self.main)
        self._stream = next((child for child in family if child.is_stream), None)
        if self._stream is None:
            return
        self.shared |= victims.shared_files(family)
        if self.args[0] == "--restore":
            self._earlier, self._begun_at = self.moved, None

    def _count(self) -> None:
        if self._stream is None and (self.args[0] == "--restore" or self._begun_at is None):
            return
        # Not the whole process: its count grows by that of every child it has waited for.
        reader = Path(f"/proc/{self.main}/task/{self.main}/io")
        if self.args[0] == "--restore" and self._stream is not None:
            reader = Path(f"/proc/{self._stream.pid}/io")
        try:
            lines = reader.read_text().splitlines()
        except OSError:
            return
        count = int(dict(line.split(": ") for line in lines)["rchar"])
        if self._begun_at is None:
            self._begun_at = count
        self.moved = max(self.moved, self._earlier + count - self._begun_at)

    @property
    def _flowed(self) -> bool:
        return self.moved - self._earlier >= FLOWING[self.args[0]]

    @property
    def _more_to_come(self) -> bool:
        """Whether the next stream of a chain follows: told where one begins."""
        told = [line for line in self.log.splitlines() if "Receiving @" in line]
        return bool(told) and "; then" in told[-1]

    def _count_manifests(self) -> int:
        return sum(1 for _ in self._home.glob("*/offsite/backups/*/manifest.age"))

    def _stacks(self) -> str:
        """Where its threads are, by Python's faulthandler; and who else holds our pipes."""
        self._popen.send_signal(signal.SIGABRT)
        orphans = [" ".join(one.argv)[:200] for one in victims.of_home(self._home)]
        self._popen.kill()
        try:
            _, stderr = self._popen.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            stderr = "(its pipes are held by others)"
        return "\n".join([stderr, *orphans])

    def _told(self, what: str) -> str:
        return f"offsite {' '.join(self.args)}: {what}\n{self.log}"
