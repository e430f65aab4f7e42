"""One series: a command is killed again and again, and run again until its work is done."""

from __future__ import annotations

import json
import random
import re
import signal
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lab.faults import victims
from lab.faults.plan import Strike
from lab.faults.report import Fault, Score
from lab.faults.run import DefectError, Phase, Run
from lab.faults.victims import Victim
from lab.world import Ran, World, wait_for

NOTICE = 0.3  # seconds a run gets to notice what was killed, before the next strike is aimed
SPARE = 4  # runs more than faults that a series may take
# How a run may end of its faults. A dead rclone is started again; 130 is an orderly stop. python -m
# ends itself by the signal (a shell shows 130, too) if that came while a dataclass was being made.
STATUSES = {
    Victim.MAIN: {-9},
    Victim.FAMILY: {-9},
    Victim.INTERRUPT: {130, -signal.SIGINT},
    Victim.WORKER: {1},  # the last one
    Victim.RCLONE: set[int](),
    Victim.SSH: {1},
    Victim.ZFS: {1},
}
FATAL = {Victim.MAIN, Victim.INTERRUPT, Victim.FAMILY, Victim.SSH, Victim.ZFS}
_NOTES_OBJECTS = [2, 2, 8]  # zfs receive does, from here on: see zfs/resuming.py
_CHUNK = 1 << 20  # bytes; as World.configure sets it
# Bytes that an interrupted run has read and nobody finds again. All that is read and has no receipt
# yet is in as many chunks as there are slots (pipeline.store: ``in_flight``), none of which is
# smaller than a chunk, in an arena of ARENA MiB (matrix.prepare).
ARENA = 5  # for two chunks on their way: zfs shall wait for the providers, as it mostly does
IN_FLIGHT = ARENA * _CHUNK
# Bytes that ``zfs send -t`` repeats up to the seam's end (zfs/join.py): what governs it, and whole
# blocks from its own on (of at most 1 MiB, the largest recordsize here). As the lab's tests of
# resumes: 2 MiB behind the begin of the seam's chunk, so up to 3 where the seam ends that.
REPEATED = 3 << 20
LINKS = 2  # of a chain, at most
# Bytes that the main thread reads besides, of which a killed run's count cannot be rid (run.Run).
ELSE = 1 << 20
RESUMING = re.compile(
    r"Resuming (?:backup|restore) .*: (\d+)(?: of ~?\d+)? chunks? are"
    r" (?:stored|received)(?: \((.*)\))?"
)


@dataclass
class Series:
    """``command`` in ``world`` with ``settings``, and ``slow`` ones while the stream is struck.

    ``known`` chunks are what the next run must find. Only the ``lasting`` ones of them, up to the
    last seam, stay when it goes on by a token: what is behind is sent again (ARCHITECTURE.md).
    ``seam`` is where that ends in the stream. ``tokens``: whether zfs knows them when it sends.
    ``batch``: MiB, less than which 32 objects have.
    """

    world: World
    command: tuple[str, ...]
    settings: Mapping[str, str]
    slow: Mapping[str, str]
    rng: random.Random
    score: Score
    shared: set[Path] = field(default_factory=set)
    known: int = 0
    lasting: int = 0
    seam: int = 0
    tokens: bool = True
    batch: int = 0

    def play(self, plan: Sequence[Strike], enough: int) -> Ran:
        """Strike as planned, then let one run go to its end; how that ended.

        After ``enough`` interruptions, or once the stream is through, only the late strikes are
        left of the plan. A series is shorter if a run ends before it is struck. Raises DefectError.
        """
        began, left = time.monotonic(), deque(plan)
        for _ in range(len(plan) + SPARE):
            if self.score.interrupted >= enough:
                _leave_late(left)
            ran = self._attempt(left)
            if ran.status == 0:
                self.score.seconds += time.monotonic() - began
                return ran
        raise DefectError(f"offsite {' '.join(self.command)}: not done after so many runs")

    def _attempt(self, left: deque[Strike]) -> Ran:
        self._read_journal()
        slow = {} if all(strike.late for strike in left) else self.slow
        run = Run(self.world, self.command, {**self.settings, **slow})
        try:
            struck = self._strike(run, left)
            ran = run.end()
        finally:
            run.kill()
        wait_for(lambda: not victims.of_home(self.world.home))
        self.shared |= run.shared
        if not struck and self._was_done(ran):
            self.command = (*self.command, "--update")  # looks whether all is there, and says so
        else:
            self._judge(run, ran, struck)
        return ran

    def _was_done(self, ran: Ran) -> bool:
        """Whether the run before may have been killed when all its work was done, but for saying
        so: of a restore that is whole nothing tells that it was one. Then nothing is left to do."""
        killed = any(each.interrupted for each in self.score.faults[-1:])
        restore = self.command[0] == "--restore" and "--update" not in self.command
        return killed and restore and "exists; it was not touched" in ran.stderr

    def _strike(self, run: Run, left: deque[Strike]) -> list[tuple[Victim, Phase]]:
        """Whom we killed, until one of them ends the run."""
        struck: list[tuple[Victim, Phase]] = []
        while left and left[0].await_moment(run):
            run.note_shared()
            run.look()
            if run.through and not left[0].late:  # no run will have it on its way any more
                _leave_late(left)
                continue
            victim, phase = left[0].victim, run.phase
            if victims.kill(victim, run.main, self.world.machine, self.rng):
                left.popleft()
            else:  # not there any more, or between two links: the next run will have one
                run.look()
                victim, phase = Victim.MAIN, run.phase
                if not victims.kill(victim, run.main, self.world.machine, self.rng):
                    break
            struck.append((victim, phase))
            if self._ends(victim, run) or not run.watch(NOTICE):
                break
        return struck

    @staticmethod
    def _ends(victim: Victim, run: Run) -> bool:
        """Whether the run cannot go on: it gets the time to notice that."""
        return victim in FATAL or (victim is Victim.WORKER and not victims.workers(run.main))

    def _judge(self, run: Run, ran: Ran, struck: Sequence[tuple[Victim, Phase]]) -> None:
        allowed = {0}.union(*(STATUSES[victim] for victim, _ in struck))
        if ran.status not in allowed:
            after = ", ".join(f"{victim} in {phase}" for victim, phase in struck) or "no fault"
            told = f"{ran.stdout}\n{ran.stderr}\n{run.log}"
            raise DefectError(
                f"offsite {' '.join(self.command)}: status {ran.status} after {after}\n{told}"
            )
        for number, (victim, phase) in enumerate(struck, 1):
            ended = ran.status != 0 and number == len(struck)
            self.score.faults.append(Fault(victim, phase, ended))
        self._compare(run.log)
        verb = self.command[0].strip("-")
        done = ran.json[verb] if ran.status == 0 else {}
        if "--update" in self.command and done.get("stream_bytes"):
            raise DefectError(f"{self.command}: it was not whole, and nothing told so\n{run.log}")
        moved = int(done.get("sent_bytes", run.moved))  # a restore does not tell it
        self.score.moved += moved
        if verb == "restore":
            if done:
                self._bound(moved, int(done["stream_bytes"]) - self._received(run.log), REPEATED)
        elif not self.tokens:
            return
        elif done:
            self._bound(moved, int(done["stream_bytes"]), REPEATED)
        elif not run.committing:  # then all is stored, and there may be no journal any more
            self._bound(moved, self._stored(), REPEATED + IN_FLIGHT + ELSE)

    def _bound(self, moved: int, stored: int, more: int) -> None:
        """A run may read what is stored now and was not up to the seam, and so much ``more``."""
        self.score.beyond += max(moved - max(stored - self.seam, 0) - more, 0)

    def _received(self, log: str) -> int:
        """Bytes, at least, from behind which a restore went on: the last chunk of a link may be
        small."""
        every = RESUMING.findall(log)
        return max(int(every[-1][0]) - LINKS, 0) * _CHUNK if every else 0

    def _compare(self, log: str) -> None:
        """Whether this run found what earlier ones had stored, or received."""
        every = [*RESUMING.finditer(log)]
        if every:
            found = every[-1]  # the way that was taken, if zfs did not serve the first
            self.score.resumed += 1
            self.score.lost += max(self.known - int(found[1]) - self._may_fall_back(), 0)
            self.known = min(int(found[1]), self.lasting) if found[2] == "token" else int(found[1])
        elif "Processing chunk" in log:
            self.score.lost += max(self.known - self._may_fall_back(), 0)

    def _may_fall_back(self) -> int:
        """By how many chunks a receive may that was killed soon (ARCHITECTURE.md): to the OBJECT of
        the file that it is in, which stands before the data of all files of its batch, even to the
        very first, which no restore calls resuming. One more, for neither end is a chunk's."""
        version = [int(part) for part in self.world.machine.version.split(".")]
        falls = self.command[0] == "--restore" and version >= _NOTES_OBJECTS
        return self.batch + 1 if falls else 0

    def _read_journal(self) -> None:
        """Every receipt in the journal is of a chunk that all providers have."""
        if (receipts := self._receipts()) is None:
            return
        self.known = max(self.known, len(receipts))
        seam = receipts[-1].get("seam") if receipts else None
        self.seam = seam["end"] if seam else 0
        self.lasting = sum(receipt["offset"] < self.seam for receipt in receipts)

    def _stored(self) -> int:
        """Bytes of the stream, as the journal tells."""
        receipts = self._receipts()
        return int(receipts[-1]["offset"] + receipts[-1]["length"]) if receipts else 0

    def _receipts(self) -> list[dict[str, Any]] | None:
        """None if there is no journal."""
        found = None
        for path in (self.world.home / ".local/state/offsite/journals").glob("*.jsonl"):
            lines = path.read_bytes().splitlines(keepends=True)
            entries = [line for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
            found = [json.loads(line)["receipts"][0] for line in entries]
        return found


def _leave_late(left: deque[Strike]) -> None:
    late = [strike for strike in left if strike.late]
    left.clear()
    left.extend(late)
