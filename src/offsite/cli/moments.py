"""--at: a day or a moment, as people write them."""

from __future__ import annotations

import re
from datetime import datetime, time

from offsite.errors import UsageError

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{8}")


def read_moment(typed: str) -> datetime:
    """The moment meant, in the local time zone if none is named; a day alone means its end.

    Raises UsageError.
    """
    try:
        moment = datetime.fromisoformat(typed)
        if _DAY.fullmatch(typed):
            moment = datetime.combine(moment.date(), time.max)
        return moment.astimezone() if moment.tzinfo is None else moment
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--at {typed!r} is no day or time",
            hint='e.g. --at 2026-01-17, --at "2026-01-17 12:00", --at 2026-01-17T12:00+01:00',
        ) from error
