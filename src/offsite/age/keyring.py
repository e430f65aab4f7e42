"""Whom a file is sealed to, and what opens it: the lines of recipients and identity files.

Source of the line formats: age(1) and https://c2sp.org/age. No error quotes a line: it may hold a
private key, wherever it was found.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from offsite.age import bech32, x25519
from offsite.age.x25519 import Identity
from offsite.errors import KeysError

_SECRET = re.compile(r"AGE-SECRET-KEY-|AGE-PLUGIN-|PRIVATE KEY", re.IGNORECASE)
_SSH = re.compile(r"ssh-(?:ed25519|rsa) [A-Za-z0-9+/]+={0,2}(?: [^\r\n]*)?")
_SEALED_BEGINNINGS = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")


@dataclass(frozen=True)
class Recipients:
    """Public lines, at least one. Raises KeysError for a line that is none."""

    lines: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.lines:
            raise KeysError("no recipient: nothing is sealed that nobody could open")
        for line in self.lines:
            _check_recipient(line, "a recipient")

    @cached_property
    def public_keys(self) -> tuple[bytes, ...] | None:
        """X25519 public keys, or None if a line needs the age program."""
        if not all(_is_x25519(line) for line in self.lines):
            return None
        return tuple(x25519.parse_recipient(line) for line in self.lines)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the set of keys: order and comments do not matter."""
        keys = sorted(" ".join(line.split()[:2]) for line in set(self.lines))
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()


@dataclass(frozen=True)
class Identities:
    """What may open a file: X25519 keys in memory, and files that only the age program reads."""

    native: tuple[Identity, ...] = field(default=())
    files: tuple[Path, ...] = field(default=())

    @classmethod
    def of(cls, *parts: Identities) -> Identities:
        """All of the parts together."""
        native = tuple(identity for part in parts for identity in part.native)
        return cls(native, tuple(path for part in parts for path in part.files))


def parse_recipients(text: str, where: str) -> Recipients:
    """The lines of a recipients file called ``where``. Raises KeysError."""
    lines = []
    for number, line in _lines(text):
        _check_recipient(line, f"{where}, line {number}:")
        lines.append(line)
    if not lines:
        raise KeysError(
            f"{where} holds no recipient", hint="put one age1… line per recipient there"
        )
    return Recipients(tuple(lines))


def parse_identities(text: str, path: Path) -> Identities:
    """The lines of the identity file at ``path``. Raises KeysError.

    What is not an X25519 identity makes the file one for the age program.
    """
    if text.lstrip().startswith("-----BEGIN ") and "PRIVATE KEY-----" in text:
        return Identities(files=(path,))
    native, foreign = [], False
    for number, line in _lines(text):
        upper = line.upper()
        if upper.startswith(("AGE-PLUGIN-", "AGE-SECRET-KEY-PQ-")):
            foreign = True
            continue
        try:
            native.append(x25519.parse_identity(line))
        except ValueError:
            raise KeysError(
                f"{path}, line {number}: not an age identity", hint="age-keygen makes one"
            ) from None  # the cause would hold the line
    if not native and not foreign:
        raise KeysError(f"{path} holds no age identity", hint="age-keygen makes one")
    return Identities(tuple(native), (path,) if foreign else ())


def is_passphrase_protected(data: bytes) -> bool:
    """Whether an identity file is itself an age file, to be opened first."""
    return data.lstrip().startswith(_SEALED_BEGINNINGS)


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) without the empty ones and the comments."""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            yield number, line


def _is_x25519(line: str) -> bool:
    return line.startswith("age1") and bech32.decode(line)[0] == "age"


def _check_recipient(line: str, where: str) -> None:
    if _SECRET.search(line):
        raise KeysError(
            f"{where} holds a private key where a public one belongs",
            hint="age-keygen -y FILE prints the public one (age1…)",
        )
    if not (_SSH.fullmatch(line) or _is_age_recipient(line)):  # age itself reads ssh keys
        raise KeysError(
            f"{where} is not an age recipient",
            hint="allowed: age1…, ssh-ed25519 AAAA…, ssh-rsa AAAA…",
        )


def _is_age_recipient(line: str) -> bool:
    try:
        if _is_x25519(line):
            x25519.parse_recipient(line)
    except ValueError:
        return False
    return line.startswith("age1")
