"""Shell-style settings files, parsed and never run.

python-dotenv's grammar finds the assignments, comments and quotes; values are then expanded as
a POSIX shell would (Shell Command Language §2.2 Quoting, §2.6.2 Parameter Expansion):
nothing inside single quotes; ``$NAME``, ``${NAME}``, ``${NAME:-text}`` and backslashes elsewhere;
a leading ``~`` where nothing is quoted.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from offsite.errors import ConfigError

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_ASSIGNMENT = re.compile(
    rf"\s*(?:export[^\S\r\n]+)?(?P<key>{_NAME})[^\S\r\n]*=[^\S\r\n]*(?P<rest>.*)", re.DOTALL
)
_SINGLE_QUOTED = re.compile(r"'((?:\\.|[^'\\])*)'", re.DOTALL)
_DOUBLE_QUOTED = re.compile(r'"((?:\\.|[^"\\])*)"', re.DOTALL)
_EXPANSION = re.compile(
    rf"\\(?P<escaped>.)|(?P<command>\$\(|`)|\$\{{(?P<braced>[^}}]*)\}}|\$(?P<name>{_NAME})",
    re.DOTALL,
)
_BRACED = re.compile(rf"(?P<name>{_NAME})(?::-(?P<default>[^$`]*))?")
_ESCAPED_IN_DOUBLE_QUOTES = '$`"\\'
_NEVER_RUN = "a command in it is never run; write the value itself"
_QUOTES = "put quotes around the whole value, and close them"


@dataclass(frozen=True)
class Setting:
    """One assignment. ``origin`` is ``file:line`` or ``environment``; ``problem`` says why the
    value cannot be told without a shell (the value is then empty)."""

    key: str
    value: str = field(repr=False)
    origin: str
    problem: str | None = None


@dataclass(frozen=True)
class EnvFile:
    """The assignments of a file in order, and ``file:line: …`` for every line that is none."""

    settings: tuple[Setting, ...]
    warnings: tuple[str, ...]


class _UnexpandableError(Exception):
    """The value needs a shell."""


def read(path: Path, variables: Mapping[str, str]) -> EnvFile:
    """Parse a file; values may use ``variables`` and the keys set further up in it.

    Raises ConfigError if the file cannot be read or a quote is not closed.
    """
    scope = dict(variables)
    settings: list[Setting] = []
    warnings: list[str] = []
    for line, binding in _bindings(path):
        origin = f"{path}:{line}"
        match = _ASSIGNMENT.match(binding.original.string)
        if match is None:
            if not _is_bare_export(binding):
                warnings.append(f'{origin}: ignored, as it is not of the form KEY="value"')
            continue
        key = match["key"]
        if binding.value is None:
            raise ConfigError(f"{origin}: {key}: {_QUOTES}")
        try:
            scope[key] = _value(match["rest"], binding.value, scope)
            settings.append(Setting(key, scope[key], origin))
        except _UnexpandableError as error:
            settings.append(Setting(key, "", origin, problem=str(error)))
    return EnvFile(tuple(settings), tuple(warnings))


def _bindings(path: Path) -> Iterator[tuple[int, Binding]]:
    """Everything in the file but comments and blank lines, with its line number."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror}",
            hint="the variable OFFSITE_CONFIG names the settings file",
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    for binding in parse_stream(io.StringIO(text)):
        raw = binding.original.string
        if binding.key is None and not binding.error:
            continue
        blank = len(raw) - len(raw.lstrip())
        yield binding.original.line + raw[:blank].count("\n"), binding


def _is_bare_export(binding: Binding) -> bool:
    return binding.original.string.lstrip().startswith("export ") and not binding.error


def _value(rest: str, parsed: str, scope: Mapping[str, str]) -> str:
    if match := _SINGLE_QUOTED.match(rest):
        return match[1].replace("\\'", "'")
    if match := _DOUBLE_QUOTED.match(rest):
        return _expand(match[1], scope, quoted=True)
    if re.search(r"""(?<!\\)['"]""", parsed):
        raise _UnexpandableError(_QUOTES)
    if parsed == "~" or parsed.startswith("~/"):
        return scope.get("HOME", "~") + _expand(parsed[1:], scope, quoted=False)
    return _expand(parsed, scope, quoted=False)


def _expand(text: str, scope: Mapping[str, str], *, quoted: bool) -> str:
    def replace(match: re.Match[str]) -> str:
        if (escaped := match["escaped"]) is not None:
            if quoted and escaped not in _ESCAPED_IN_DOUBLE_QUOTES:
                return "" if escaped == "\n" else match[0]
            return escaped
        if match["command"]:
            raise _UnexpandableError(_NEVER_RUN)
        if match["braced"] is None:
            return scope.get(match["name"], "")
        braced = _BRACED.fullmatch(match["braced"])
        if braced is None:
            raise _UnexpandableError(f"{match[0]} is not understood; use ${{NAME}}")
        return scope.get(braced["name"], "") or braced["default"] or ""

    return _EXPANSION.sub(replace, text)
