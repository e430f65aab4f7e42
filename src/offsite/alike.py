"""Pure: which snapshots hold the same as an older one, of which there is a backup.

A dataset that has not changed is not sent again with its set: another backup of the set tells
which older one holds the same (``unchanged`` in its manifest).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from offsite.catalog import Backup


@dataclass(frozen=True)
class Alike:
    """The dataset of ``backup`` was the same at the moment of ``by``: in its snapshot ``guid``."""

    by: Backup
    guid: int
    backup: Backup

    @property
    def label(self) -> str:
        """What the snapshots of that moment are called."""
        return self.by.manifest.head.snapshot.name


def told(backups: Iterable[Backup]) -> list[Alike]:
    """All that complete backups tell of complete backups."""
    complete = {one.id: one for one in backups if one.status == "complete"}
    return [
        Alike(by, each.snapshot_guid, complete[each.backup])
        for by in complete.values()
        for each in by.manifest.unchanged or ()
        if each.backup in complete
    ]


def guids(found: Sequence[Alike]) -> dict[int, frozenset[int]]:
    """By the guid of a snapshot that is backed up: those of younger ones that hold the same."""
    by_guid: dict[int, set[int]] = {}
    for one in found:
        by_guid.setdefault(one.backup.manifest.head.snapshot.guid, set()).add(one.guid)
    return {guid: frozenset(others) for guid, others in by_guid.items()}
