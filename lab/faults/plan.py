"""Which process to kill when: drawn from a seed, so that a series can be played again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum

from lab.faults.run import POLL, Phase, Run
from lab.faults.victims import Victim

EARLY = 0.3  # share of the strikes on the command itself that come while it starts


LINE = 400_000  # bytes a second; about what a slow line carries
PATIENCE = 5  # times the delay


class Moment(StrEnum):
    """From when on a strike's delay counts."""

    START = "start"
    TRANSFER = "transfer"
    END = "end"
    COMMIT = "commit"


# Longest delays in seconds.
SPANS = {Moment.START: 3.0, Moment.TRANSFER: 1.2, Moment.END: 0.5, Moment.COMMIT: 0.8}
LATE = {"--backup": (Moment.END, Moment.COMMIT), "--restore": (Moment.END, Moment.END)}


@dataclass(frozen=True)
class Strike:
    """Kill ``victim``, ``delay`` seconds after the moment has come."""

    victim: Victim
    moment: Moment
    delay: float

    @property
    def late(self) -> bool:
        """Whether the stream is through by then."""
        return self.moment in {Moment.END, Moment.COMMIT}

    def await_moment(self, run: Run) -> bool:
        """Whether the run lives to see it."""
        while not _MOMENTS[self.moment](run):
            if not run.watch(0):
                return False
            run.watch(run.pause)
        if self.moment is Moment.TRANSFER:
            return self._await_bytes(run)
        return run.watch(self.delay)

    def _await_bytes(self, run: Run) -> bool:
        """As many as come in that time, not the time: a stream that is only compared is through in
        a moment, and on a loaded machine all take longer."""
        enough = run.moved + self.delay * LINE
        limit = time.monotonic() + PATIENCE * self.delay
        while run.phase is Phase.TRANSFER and run.moved < enough and time.monotonic() < limit:
            if not run.watch(POLL):
                return False
        return run.look()


_MOMENTS: dict[Moment, Callable[[Run], bool]] = {
    Moment.START: lambda run: run.loaded,
    Moment.TRANSFER: lambda run: run.phase is Phase.TRANSFER or run.through,
    Moment.END: lambda run: run.through,
    Moment.COMMIT: lambda run: run.committing,
}


def draw(
    rng: random.Random,
    verb: str,
    victims: list[Victim],
    count: int,
    first: Collection[Victim] = (),
) -> list[Strike]:
    """A strike on each of ``first``, then ``count`` early ones: of ``victims``, all about as often.

    Two more wait until the stream is through, and are for those who still work then.
    """
    early = [_early_or_in_transfer(rng, each) for each in (*first, *_cycle(rng, victims, count))]
    working = [Victim.MAIN, Victim.MAIN, Victim.INTERRUPT, Victim.WORKER, Victim.RCLONE]
    return early + [_strike(rng, rng.choice(working), moment) for moment in LATE[verb]]


def _cycle(rng: random.Random, victims: list[Victim], count: int) -> list[Victim]:
    drawn: list[Victim] = []
    while len(drawn) < count:
        drawn += rng.sample(victims, len(victims))
    return drawn[:count]


def _early_or_in_transfer(rng: random.Random, victim: Victim) -> Strike:
    starts = victim in {Victim.MAIN, Victim.INTERRUPT} and rng.random() < EARLY
    return _strike(rng, victim, Moment.START if starts else Moment.TRANSFER)


def _strike(rng: random.Random, victim: Victim, moment: Moment) -> Strike:
    return Strike(victim, moment, rng.uniform(0, SPANS[moment]))
