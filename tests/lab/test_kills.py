"""What of the fault matrix is in the gate; all of it is in test_faults.py."""

from __future__ import annotations

import pytest

from lab.faults.report import Score
from lab.faults.subjects import SUBJECTS
from lab.world import World
from tests.lab.test_faults import check, interrupt

ENOUGH = 8


@pytest.mark.gate
def test_some_kills_of_a_backup_and_its_restore(
    world: World, pool: str, scores: list[Score]
) -> None:
    """Of an increment, and of it and its base."""
    (grown,) = (subject for subject in SUBJECTS if subject.grown)
    mine = interrupt(world, pool, grown, ENOUGH)
    scores += mine
    check(world, mine, ENOUGH)
