"""The fault matrix's own judgement: a chunk that was stored and not found again is lost; and how
many strikes a series has."""

from __future__ import annotations

import random
from collections import deque
from pathlib import Path

import pytest

from lab.faults import plan
from lab.faults.plan import Strike
from lab.faults.report import Fault, Score
from lab.faults.run import Phase
from lab.faults.series import Series
from lab.faults.victims import Victim
from lab.host import Host
from lab.world import Ran, World

BY_TOKEN = "Resuming backup of tank/a@s: 8 of ~20 chunks are stored (token)"
REFUSED = "zfs cannot go on from there (cannot resume send)"
COMPARED = "Resuming backup of tank/a@s: 8 of ~20 chunks are stored (re-send and compare)"


def nowhere(home: Path, verb: str = "--backup", version: str = "2.1.11") -> Series:
    rng = random.Random(1)  # noqa: S311 - it shall be the same again
    host = Host.__new__(Host)
    host.version = version
    return Series(World(home, host), (verb, "tank/a@s"), {}, {}, rng, Score("files backup", 1))


@pytest.mark.parametrize(
    ("log", "known", "lost", "then"),
    [
        (BY_TOKEN, 8, 0, 5),  # what lies behind the last seam is sent again
        (BY_TOKEN, 9, 1, 5),
        (COMPARED, 8, 0, 8),
        (f"{BY_TOKEN}\n{REFUSED}\n{COMPARED}", 8, 0, 8),
        ("Processing chunk 0", 3, 3, 3),
        ("nothing was begun", 3, 0, 3),
    ],
)
def test_what_a_run_must_find(log: str, known: int, lost: int, then: int, tmp_path: Path) -> None:
    series = nowhere(tmp_path)
    score = series.score
    series.known, series.lasting = known, 5
    series._compare(log)
    assert (score.lost, series.known) == (lost, then)
    assert score.resumed == ("Resuming" in log)


@pytest.mark.parametrize(
    ("version", "verb", "lost"),
    [
        ("2.1.11", "--restore", 4),
        ("2.2.8", "--restore", 0),
        ("2.10.1", "--restore", 0),
        ("2.4.4", "--backup", 4),
    ],
)
def test_what_newer_receives_fall_back_by(
    version: str, verb: str, lost: int, tmp_path: Path
) -> None:
    series = nowhere(tmp_path, verb, version)
    series.known = 12
    series._compare("Resuming restore to tank/b: 8 of 20 chunks are received")
    assert (series.score.lost, series.known) == (lost, 8)
    series._compare("Processing chunk 0")  # from nothing: that is no falling back
    assert series.score.lost == lost + 8


def test_enough_interruptions_and_then_only_the_late_strikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = nowhere(tmp_path)
    played: list[Strike] = []

    def attempt(_: Series, left: deque[Strike]) -> Ran:
        """Workers are survived."""
        while left:
            strike = left.popleft()
            played.append(strike)
            ended = strike.victim is not Victim.WORKER
            series.score.faults.append(Fault(strike.victim, Phase.TRANSFER, ended))
            if ended:
                return Ran(1, "", "")
        return Ran(0, "", "")

    monkeypatch.setattr(Series, "_attempt", attempt)
    series.play(plan.draw(series.rng, "--backup", [*Victim], 24), 12)
    early = [strike for strike in played if not strike.late]
    assert sum(strike.victim is not Victim.WORKER for strike in early) == 12
    assert {strike.victim for strike in early} == {*Victim}
    assert [strike.late for strike in played] == [False] * len(early) + [True] * 2
