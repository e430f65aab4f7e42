"""What a setting may hold: each function checks one kind of value and says what is allowed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from offsite.envfile import Setting
from offsite.errors import ConfigError

MIB = 1 << 20
LEVELS = {"fast": 1, "default": 2, "best": 19}
_UNITS = {"": 1, "K": 1 << 10, "M": MIB, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,15})\s*([KMGT]?)(?:I?B)?", re.IGNORECASE)
_SNAP_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")
_MOST_DAYS = 36500
_MOST_DIGITS = 5
_ANSWERS = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}


def bad(setting: Setting, what: str) -> ConfigError:
    return ConfigError(f"{setting.origin}: {setting.key}: {what}")


def check_plain(setting: Setting) -> None:
    if setting.problem is not None:
        raise bad(setting, setting.problem)
    if not setting.value.isprintable():
        raise bad(setting, "a line break or control character in the value; is a quote missing?")


def expand_home(value: str, home: Path) -> str:
    """``~/`` also works inside quotes, where a shell would leave it alone."""
    return f"{home}{value[1:]}" if value == "~" or value.startswith("~/") else value


def existing(setting: Setting, home: Path) -> Path:
    path = Path(expand_home(setting.value, home))
    if not path.is_file():
        raise bad(setting, f"{path}: no such file; rclone config file prints where yours is")
    return path


def words(setting: Setting) -> tuple[str, ...]:
    try:
        return tuple(shlex.split(setting.value))
    except ValueError as error:
        raise bad(setting, f"{str(error).lower()}; allowed: words as in a shell") from error


def options(setting: Setting, home: Path) -> tuple[str, ...]:
    return tuple(expand_home(word, home) for word in words(setting))


def ssh_host(setting: Setting) -> str:
    if setting.value.startswith("-") or any(char.isspace() for char in setting.value):
        raise bad(setting, "not a host; allowed: host, user@host, or a name from ~/.ssh/config")
    return setting.value


def snap_prefix(setting: Setting) -> str:
    if not _SNAP_PREFIX.fullmatch(setting.value):
        raise bad(setting, f"{setting.value!r}; allowed: letters, digits and _ . : - (not first)")
    return setting.value


def days(setting: Setting) -> int | None:
    """0 keeps everything."""
    if not setting.value.isdecimal() or not 0 <= int(setting.value[:9]) <= _MOST_DAYS:
        raise bad(setting, f"{setting.value!r} is not a number of days; allowed: 0 to {_MOST_DAYS}")
    return int(setting.value) or None


def count(setting: Setting) -> int | None:
    """0 sets no bound."""
    if not setting.value.isdecimal() or len(setting.value) > _MOST_DIGITS:
        raise bad(setting, f"{setting.value!r} is not a number; allowed: 0 to 99999")
    return int(setting.value) or None


def yes_or_no(setting: Setting) -> bool:
    found = _ANSWERS.get(setting.value.strip().lower())
    if found is None:
        raise bad(setting, f"{setting.value!r}; allowed: yes, no")
    return found


def level(setting: Setting) -> int:
    level = LEVELS.get(setting.value.lower())
    if level is None and re.fullmatch(r"0*([1-9]|1[0-9])", setting.value):
        level = int(setting.value)
    if level is None:
        raise bad(setting, f"{setting.value!r}; allowed: 1 to 19, {', '.join(LEVELS)}")
    return level


def size(setting: Setting, least: int, most: int, *, below: int = 0) -> int:
    """Bytes, ``least`` to ``most``; what is above is refused unless it is ``below`` that."""
    allowed = f"allowed: {_short(least)} to {_short(most)}, with K, M or G"
    match = _SIZE.fullmatch(setting.value.strip())
    if match is None:
        raise bad(setting, f"{setting.value!r} is not a size; {allowed}")
    size = int(match[1]) * _UNITS[match[2].upper()]
    if not least <= size <= most and not most < size < below:
        raise bad(setting, f"{setting.value} is out of range; {allowed}")
    return size


def _short(size: int) -> str:
    return f"{size // (1 << 30)}G" if size >= 1 << 30 else f"{size // MIB}M"
