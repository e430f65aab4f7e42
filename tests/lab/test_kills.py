"""What of the fault matrix is to be in the gate; test_faults.py has all of it.

Not yet: with the bounds that it has now it is to be struck a thousand times first, without fail.
"""

from __future__ import annotations

from lab.faults.report import Score
from lab.faults.subjects import SUBJECTS
from lab.world import World
from tests.lab.test_faults import check, interrupt

ENOUGH = 20


def test_twenty_kills_of_a_backup_and_its_restore(
    world: World, pool: str, scores: list[Score]
) -> None:
    """Of an increment, and of it and its base."""
    (grown,) = (subject for subject in SUBJECTS if subject.grown)
    mine = interrupt(world, pool, grown, ENOUGH)
    scores += mine
    check(world, mine, ENOUGH)
