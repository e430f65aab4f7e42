"""--at: a day or a moment, as people write them."""

from __future__ import annotations

import re
from datetime import datetime, time

from offsite.errors import UsageError

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}")


def read_moment(typed: str) -> datetime:
    """The moment meant, in the local time zone if none is named; a day alone means its end.

    Of an hour that comes twice, when the clocks are set back, the second one. Raises UsageError.
    """
    try:
        return max(_meanings(typed))
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--at {typed!r} is no day or time",
            hint='e.g. --at 2026-01-17, --at "2026-01-17 12:00", --at 2026-01-17T12:00+01:00',
        ) from error


def told(typed: str) -> str:
    """What ``read_moment`` made of it, with its zone; of an hour that comes twice, which one."""
    meanings = _meanings(typed)
    meant, other = max(meanings), min(meanings)
    text = f"{meant:%Y-%m-%d %H:%M %Z}"
    if f"{meant:%H:%M}" != f"{other:%H:%M}" or meant == other:  # or an hour that is left out
        return text
    first = other.isoformat("T", "minutes")
    return f"{text}, not {other:%Z}: that hour comes twice; {first} is the other"


def _meanings(typed: str) -> list[datetime]:
    moment = datetime.fromisoformat(typed)
    if _DAY.fullmatch(typed):
        moment = datetime.combine(moment.date(), time.max)
    if moment.tzinfo is not None:
        return [moment]
    return [moment.replace(fold=fold).astimezone() for fold in (0, 1)]
