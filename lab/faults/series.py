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
    Victim.INTERRUPT: {130, -signal.SIGINT},
    Victim.WORKER: {1},  # the last one
    Victim.RCLONE: set[int](),
    Victim.SSH: {1},
    Victim.ZFS: {1},
}
FATAL = {Victim.MAIN, Victim.INTERRUPT, Victim.SSH, Victim.ZFS}
_NOTES_OBJECTS = [2, 2, 8]  # zfs receive does, from here on: see zfs/resuming.py
RESUMING = re.compile(
    r"Resuming (?:backup|restore) .*: (\d+) of ~?\d+ chunks are (?:stored|received)(?: \((.*)\))?"
)


@dataclass
class Series:
    """``command`` in ``world`` with ``settings``, and ``slow`` ones while the stream is struck.

    ``known`` chunks are what the next run must find. Only the ``lasting`` ones of them, up to the
    last seam, stay when it goes on by a token: what is behind is sent again (ARCHITECTURE.md).
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

    def play(self, plan: Sequence[Strike], enough: int) -> Ran:
        """Strike as planned, then let one run go to its end; how that ended.

        After ``enough`` interruptions only the late strikes are left of the plan. A series is
        shorter if a run ends before it is struck. Raises DefectError.
        """
        began, left = time.monotonic(), deque(plan)
        for _ in range(len(plan) + SPARE):
            if self.score.interrupted >= enough:
                left = deque(strike for strike in left if strike.late)
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
        self._judge(run, ran, struck)
        return ran

    def _strike(self, run: Run, left: deque[Strike]) -> list[tuple[Victim, Phase]]:
        """Whom we killed, until one of them ends the run."""
        struck: list[tuple[Victim, Phase]] = []
        while left and left[0].await_moment(run):
            victim, phase = left[0].victim, run.phase
            run.note_shared()
            if victims.kill(victim, run.main, self.world.machine, self.rng):
                left.popleft()
            else:  # not there any more, or between two links: the next run will have one
                victim = Victim.MAIN
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
        self.score.moved += self._moved(run, ran)

    def _moved(self, run: Run, ran: Ran) -> int:
        told = ran.json.get("backup", {}).get("sent_bytes") if ran.status == 0 else None
        return run.moved if told is None else int(told)

    def _compare(self, log: str) -> None:
        """Whether this run found what earlier ones had stored, or received."""
        every = [*RESUMING.finditer(log)]
        if every:
            found = every[-1]  # the way that was taken, if zfs did not serve the first
            self.score.resumed += 1
            if not self._falls_back():
                self.score.lost += max(self.known - int(found[1]), 0)
            self.known = min(int(found[1]), self.lasting) if found[2] == "token" else int(found[1])
        elif "Processing chunk" in log:
            self.score.lost += self.known

    def _falls_back(self) -> bool:
        """Whether a receive goes on where its file begins, if it was killed soon (ARCHITECTURE)."""
        version = [int(part) for part in self.world.machine.version.split(".")]
        return self.command[0] == "--restore" and version >= _NOTES_OBJECTS

    def _read_journal(self) -> None:
        """Every receipt in the journal is of a chunk that all providers have."""
        folder = self.world.home / ".local/state/offsite/journals"
        for path in folder.glob("*.jsonl"):
            lines = path.read_bytes().splitlines(keepends=True)
            entries = [line for line in lines if line.startswith(b"{") and line.endswith(b"\n")]
            receipts = [json.loads(line)["receipts"][0] for line in entries]
            self.known = max(self.known, len(receipts))
            seam = receipts[-1].get("seam") if receipts else None
            end = seam["end"] if seam else 0
            self.lasting = sum(receipt["offset"] < end for receipt in receipts)
