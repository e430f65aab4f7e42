"""What the series came to: one row each, all in all, and by victim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from lab.faults.run import Phase
from lab.faults.victims import Victim

HEAD = (
    "series", "seed", "faults", "in transfer", "survived", "interrupted", "resumed", "lost",
    "identical", "left over", "stream", "re-sent", "beyond", "seconds",
)  # fmt: skip
NOTE = (
    "in transfer: struck while the stream flowed (the others: while starting, or at the end);"
    " survived: the run went on; resumed: runs that went on from what an earlier one had stored;"
    " lost: chunks stored but not found again; re-sent: what all runs together read from zfs send"
    " or wrote to zfs receive (the kernel's count, sampled until each kill), less the stream;"
    " beyond: what backups by token and restores moved of it above their bound (series.py)"
)


@dataclass(frozen=True)
class Fault:
    """A process that was killed, and whether the run ended of it."""

    victim: Victim
    phase: Phase
    interrupted: bool


@dataclass
class Score:
    """What became of one series. Sizes in bytes."""

    name: str
    seed: int
    faults: list[Fault] = field(default_factory=list)
    resumed: int = 0
    lost: int = 0
    identical: bool = False
    leftovers: list[str] = field(default_factory=list)
    stream: int = 0
    moved: int = 0
    beyond: int = 0
    seconds: float = 0

    @property
    def interrupted(self) -> int:
        """How many of the faults ended a run."""
        return sum(fault.interrupted for fault in self.faults)

    @property
    def clean(self) -> bool:
        """Nothing lost, nothing changed, nothing left, nothing sent again that need not be."""
        return self.identical and not (self.lost or self.beyond or self.leftovers)


def faults(scores: Sequence[Score]) -> list[Fault]:
    """Those of all series."""
    return [fault for score in scores for fault in score.faults]


def interruptions(scores: Sequence[Score]) -> int:
    """Those of all series."""
    return sum(score.interrupted for score in scores)


def in_transfer(scores: Sequence[Score]) -> int:
    """How many struck while the stream flowed."""
    return sum(fault.phase is Phase.TRANSFER for fault in faults(scores))


def table(scores: Sequence[Score]) -> str:
    """All of it, for people."""
    rows = [_row(score.name, str(score.seed), [score]) for score in scores]
    everything = faults(scores)
    by_victim = [
        f"{victim}: {len(mine)} ({sum(fault.interrupted for fault in mine)} interrupted)"
        for victim in Victim
        if (mine := [fault for fault in everything if fault.victim is victim])
    ]
    lines = _columns([HEAD, *rows, _row("all", "", scores)])
    seconds = sum(score.seconds for score in scores) / max(interruptions(scores), 1)
    victims = f"victims: {', '.join(by_victim)}; {seconds:.1f} s an interruption"
    return "\n".join([*lines, "", victims, NOTE])


def line(score: Score) -> str:
    """One series in a line."""
    row = _row(score.name, str(score.seed), [score])
    return ", ".join(f"{name} {text}" for name, text in zip(HEAD, row, strict=True))


def _row(name: str, seed: str, scores: Sequence[Score]) -> tuple[str, ...]:
    everything = faults(scores)
    interrupted = interruptions(scores)
    identical = sum(score.identical for score in scores)
    return (
        name,
        seed,
        str(len(everything)),
        str(in_transfer(scores)),
        str(len(everything) - interrupted),
        str(interrupted),
        str(sum(score.resumed for score in scores)),
        str(sum(score.lost for score in scores)),
        f"{identical} of {len(scores)}",
        str(sum(len(score.leftovers) for score in scores)),
        _mib(sum(score.stream for score in scores)),
        _mib(sum(max(score.moved - score.stream, 0) for score in scores)),
        _mib(sum(score.beyond for score in scores)),
        f"{sum(score.seconds for score in scores):.0f}",
    )


def _mib(count: int) -> str:
    return f"{count / (1 << 20):.1f} MiB"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(map(str.rjust, row, widths)).rstrip() for row in rows]
