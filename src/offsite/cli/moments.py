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
        moment = _read(typed)
        return moment.replace(fold=1).astimezone() if moment.tzinfo is None else moment
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--at {typed!r} is no day or time",
            hint='e.g. --at 2026-01-17, --at "2026-01-17 12:00", --at 2026-01-17T12:00+01:00',
        ) from error


def told(typed: str) -> str:
    """What ``read_moment`` made of it, with its zone; of an hour that comes twice, which one."""
    moment, meant = _read(typed), read_moment(typed)
    text = f"{meant:%Y-%m-%d %H:%M %Z}"
    first = meant if moment.tzinfo else moment.replace(fold=0).astimezone()
    if first >= meant:
        return text
    other = first.isoformat("T", "minutes")
    return f"{text}, not {first:%Z}: that hour comes twice; {other} is the other"


def _read(typed: str) -> datetime:
    moment = datetime.fromisoformat(typed)
    return datetime.combine(moment.date(), time.max) if _DAY.fullmatch(typed) else moment
