"""Which of many datasets have not changed since a snapshot: asked in a few commands."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from offsite.zfs import names
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError

_LONG = 600  # seconds


@dataclass(frozen=True)
class Since:
    """A snapshot of ``dataset``; ``name`` without its @."""

    dataset: str
    name: str
    guid: int


def unchanged(zfs: Zfs, label: str, since: Sequence[Since]) -> dict[str, int]:
    """Of these datasets those whose snapshot ``label`` holds the same as the older one, or is that:
    by dataset its guid. Raises ZfsError.

    ``written@OLD`` of a snapshot is 0 if no block was born between the two. Whatever is done to
    a dataset, one is: that of its objset, which is never a hole and never embedded in its pointer
    (OpenZFS: dmu_objset_write_done, DMU_OT_HAS_FILL in zio_write_compress).
    """
    by_name: dict[str, list[Since]] = {}
    for one in since:
        names.check_snapshot_name(f"{one.dataset}@{label}")
        by_name.setdefault(one.name, []).append(one)

    def size(one: Since) -> int:
        return 2 * len(one.dataset) + len(one.name) + len(label)

    found: dict[str, int] = {}
    for name, those in by_name.items():
        for part in names.in_parts(those, size):
            with contextlib.suppress(CommandError):  # who cannot tell says so where it matters
                found |= _unchanged(zfs, label, name, part)
    return found


def _unchanged(zfs: Zfs, label: str, old: str, part: Sequence[Since]) -> dict[str, int]:
    asked_for = [f"{one.dataset}@{name}" for one in part for name in (old, label)]
    written = f"written@{old}"
    asked = ("get", "-pHo", "name,property,value", f"guid,{written}")
    rows = [line.split("\t") for line in zfs.of_those_there(*asked, *asked_for, timeout=_LONG)]
    told = {(row[0], row[1]): row[2] for row in rows if len(row) == len(("name", "property", ""))}
    return {
        one.dataset: int(told[f"{one.dataset}@{label}", "guid"])
        for one in part
        if told.get((f"{one.dataset}@{old}", "guid")) == str(one.guid)
        and (old == label or told.get((f"{one.dataset}@{label}", written)) == "0")
    }
