"""ZFS's own rules for names, told to the user before zfs is asked.

Source: OpenZFS module/zcommon/zfs_namecheck.c (entity_namecheck, pool_namecheck). A name that
passes starts with a letter, so no zfs option can be smuggled in through it.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from offsite.errors import UsageError

Item = TypeVar("Item")

_COMMAND = 100_000  # bytes; Linux takes 128 KiB for what ssh passes as one argument
NAME_LIMIT = 255  # ZFS_MAX_DATASET_NAME_LEN less its NUL; the snapshot's part counts
_ALLOWED = frozenset(string.ascii_letters + string.digits + "-_.: ")
_HINT = "ZFS names are made of letters, digits, - _ . : and spaces, e.g. tank/photos@monday"


def check_dataset_name(name: str) -> None:
    """Raise UsageError unless ``name`` can be a filesystem or volume (``pool/path``)."""
    _check_entity(name, "dataset", separators="")


def check_snapshot_name(name: str) -> None:
    """Raise UsageError unless ``name`` can be a snapshot (``pool/path@snapshot``)."""
    _check_entity(name, "snapshot", separators="@")


def check_base_name(name: str) -> None:
    """Raise UsageError unless ``name`` can be a snapshot or a bookmark (``pool/path#mark``)."""
    _check_entity(name, "base", separators="@#")


def in_parts(those: Sequence[Item], size: Callable[[Item], int]) -> Iterator[list[Item]]:
    """Such parts of them that the names of each, so many bytes an item, go into one command."""
    part: list[Item] = []
    left = _COMMAND
    for one in those:
        if part and size(one) > left:
            yield part
            part, left = [], _COMMAND
        part.append(one)
        left -= size(one)
    if part:
        yield part


def pool_of(name: str) -> str:
    """The pool in which a dataset, snapshot or bookmark lives."""
    return re.split("[/@#]", name, maxsplit=1)[0]


def parent_of(dataset: str) -> str | None:
    """The dataset above this one; None for a pool's root."""
    return dataset.rpartition("/")[0] or None


def split_snapshot(name: str) -> tuple[str, str]:
    """``tank/photos@monday`` as (``tank/photos``, ``monday``)."""
    dataset, _, snapshot = name.partition("@")
    return dataset, snapshot


def _check_entity(name: str, what: str, *, separators: str) -> None:
    if not name:
        raise UsageError(f"the {what} name is empty", hint=_HINT)
    if separators and not any(mark in name for mark in separators):
        wanted = " or ".join(separators)
        raise UsageError(f"{what} name {name!r} has no {wanted}", hint=_HINT)
    for position, character in enumerate(name, start=1):
        if character not in _ALLOWED and character not in "/" + separators:
            raise UsageError(
                f"{what} name {name!r}: character {character!r} (U+{ord(character):04X}) at "
                f"position {position} is not allowed",
                hint=_HINT,
            )
    if len(name) > NAME_LIMIT:
        raise UsageError(
            f"{what} name {name[:40]!r}… has {len(name)} characters", hint="ZFS allows 255"
        )
    _check_components(name, what, separators)


def _check_components(name: str, what: str, separators: str) -> None:
    path, *rest = re.split(f"[{separators}]", name) if separators else [name]
    components = [*path.split("/"), *rest]
    if len(rest) > 1 or any("/" in part for part in rest):
        raise UsageError(
            f"{what} name {name!r}: nothing may follow {name[len(path)]}{rest[0].split('/')[0]}",
            hint=_HINT,
        )
    for component in components:
        if component in {"", ".", ".."}:
            raise UsageError(f"{what} name {name!r} has an empty, '.' or '..' part", hint=_HINT)
    if not name[0].isalpha():
        raise UsageError(f"{what} name {name!r} does not start with a letter", hint=_HINT)
