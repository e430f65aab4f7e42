"""How much the tests try: everything in script/soak, which sets OFFSITE_THOROUGH; else a part."""

import os
from collections.abc import Sequence
from typing import TypeVar

Point = TypeVar("Point")
THOROUGH = bool(os.environ.get("OFFSITE_THOROUGH"))
STEP = 3


def examples(few: int) -> int:
    """How many hypothesis tries: many more of them if thorough."""
    return 10 * few if THOROUGH else few


def some(points: Sequence[Point]) -> list[Point]:
    """All of them if thorough; else each third, and the last three, where most is decided."""
    if THOROUGH:
        return list(points)
    return [*points[:-STEP:STEP], *points[-STEP:]]
