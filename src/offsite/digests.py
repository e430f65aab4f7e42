"""Digests of stored objects, by the names that rclone gives to them (``rclone hashsum``)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable

import xxhash

# The cheapest first: with it a provider proves that it stored what we sent, and one that lies can
# do so with any. Against strangers there is the signed SHA-256, which is always compared.
KINDS = ("xxh128", "sha256", "md5", "sha1")


def digest(kind: str, data: bytes | memoryview) -> str:
    """The digest of that kind, in hex."""
    if kind == "xxh128":
        return xxhash.xxh3_128_hexdigest(data)
    return hashlib.new(kind, data, usedforsecurity=False).hexdigest()


def digests(kinds: Iterable[str], data: bytes | memoryview) -> dict[str, str]:
    """The digests of these kinds, in hex, by kind."""
    return {kind: digest(kind, data) for kind in kinds}


def cheapest(kinds: Collection[str], among: Collection[str]) -> str | None:
    """The first of KINDS that is in both; None if there is none."""
    return next((kind for kind in KINDS if kind in kinds and kind in among), None)
