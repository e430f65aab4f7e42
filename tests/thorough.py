"""How much the tests try: everything in script/soak, which sets OFFSITE_THOROUGH; else a part."""

import itertools
import os
from collections.abc import Sequence
from typing import Any, TypeVar

Point = TypeVar("Point")
THOROUGH = bool(os.environ.get("OFFSITE_THOROUGH"))
STEP = 8
LAST = 3


def examples(few: int) -> int:
    """How many hypothesis tries: many more of them if thorough."""
    return 10 * few if THOROUGH else few


def cases(*axes: Sequence[Any]) -> list[tuple[Any, ...]]:
    """Every combination if thorough; else each value once, beside others."""
    if THOROUGH:
        return list(itertools.product(*axes))
    longest = max(map(len, axes))
    return [tuple(axis[n % len(axis)] for axis in axes) for n in range(longest)]


def few(points: Sequence[Point]) -> list[Point]:
    """All of them if thorough; else every second one."""
    return list(points if THOROUGH else points[::2])


def some(points: Sequence[Point]) -> list[Point]:
    """All of them if thorough; else one in eight, and the last three, where most is decided."""
    if THOROUGH:
        return list(points)
    return [*points[:-LAST:STEP], *points[-LAST:]]
