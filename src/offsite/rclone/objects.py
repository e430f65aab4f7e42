"""What rclone tells of the objects that a provider has: its answers, typed.

The shapes are those of rclone's control plane (operations/list, operations/stat). Decoded into
structs, for of millions of objects a dict each would take a GB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Entry:
    """An object or folder directly in a folder; ``size`` in bytes (0 for a folder)."""

    name: str
    size: int
    is_dir: bool


class Item(msgspec.Struct, rename="pascal"):
    """One object or folder. ``hashes``, hexadecimal by kind, are told if they were asked for."""

    name: str
    size: int = 0
    is_dir: bool = False
    hashes: dict[str, str] | None = None

    def entry(self) -> Entry:
        return Entry(self.name, 0 if self.is_dir else self.size, self.is_dir)

    def hash(self, kind: str) -> str:
        """Empty if the provider told none of this kind."""
        return (self.hashes or {}).get(kind, "")


class _Listing(msgspec.Struct):
    items: list[Item] | None = msgspec.field(default=None, name="list")


class _Stat(msgspec.Struct):
    item: Item | None = None


_LISTING = msgspec.json.Decoder(_Listing)
_STAT = msgspec.json.Decoder(_Stat)


def listed(answer: bytes) -> list[Entry]:
    """Those with a name that a path may have."""
    return [item.entry() for item in _LISTING.decode(answer).items or [] if is_plain(item.name)]


def looked_at(answer: bytes) -> Item | None:
    """None if there is no such object."""
    return _STAT.decode(answer).item


def difference(item: Item | None, size: int, kind: str | None, digests: Mapping[str, str]) -> str:
    """How the stored object differs from what was sent; empty if it does not.

    A provider that tells hashes need not have one of every object: S3 has none of what came in
    parts (above rclone's --s3-upload-cutoff), or is encrypted with a key of the user's. Then the
    size is all there is to compare.
    """
    if item is None:
        return "it is not there"
    if item.size != size:
        return f"{item.size} bytes instead of {size}"
    stored = item.hash(kind) if kind else ""
    if kind and stored and stored != digests[kind]:
        return f"{kind} {stored} instead of {digests[kind]}"
    return ""


def is_plain(name: str) -> bool:
    """Whether it is one name of a path."""
    return name not in {"", ".", ".."} and "/" not in name and "\0" not in name
