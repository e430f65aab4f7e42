"""Numbers as people read them."""

from __future__ import annotations

from datetime import datetime

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def size(count: float) -> str:
    """Bytes with three significant digits: ``0 B``, ``1.5 KiB``, ``480 MiB``."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:  # noqa: PLR2004 - 1000 has four digits
        count /= 1024
        unit += 1
    digits = 0 if unit == 0 else max(0, 3 - len(str(int(count)))) if count >= 1 else 2
    text = f"{count:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} {_UNITS[unit]}"


def duration(seconds: float) -> str:
    """``7 s``, ``3 min 20 s``, ``2 h 5 min``, ``3 d 4 h``."""
    whole = max(0, round(seconds))
    parts = [
        (whole // 86400, "d"),
        (whole % 86400 // 3600, "h"),
        (whole % 3600 // 60, "min"),
        (whole % 60, "s"),
    ]
    while len(parts) > 1 and parts[0][0] == 0:
        parts.pop(0)
    return " ".join(f"{count} {unit}" for count, unit in parts[:2] if count or len(parts) == 1)


def count(number: int, noun: str) -> str:
    """``1 chunk``, ``15 chunks``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ratio(plain: int, stored: int) -> str:
    """How much smaller it became: ``2.1 : 1``."""
    return f"{plain / stored:.1f} : 1" if stored else "-"


def local_time(stamp: str, *, zone: bool = False) -> str:
    """An RFC 3339 time in the local zone, named if asked for; what is no time stays as it is."""
    shape = "%Y-%m-%d %H:%M %Z" if zone else "%Y-%m-%d %H:%M"
    try:
        return datetime.fromisoformat(stamp).astimezone().strftime(shape)
    except (ValueError, OverflowError):
        return stamp


def printable(text: str) -> str:
    """Text of unknown origin, safe for a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
