"""Pure: backups that share a name, but not a past.

A dataset is destroyed and another one made under its name; or it is rolled back, and a snapshot
made anew. Names tell nothing then: guids do, and what stands on what.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence

from offsite import alike, chain
from offsite.catalog import Backup
from offsite.manifest import Head

_TIME = 15  # characters of an id: enough unless two begin in one second
_EARLIER = "of another dataset, which had this name before"
_AGAIN = "destroyed, renamed or rolled back before another @{} was made"


def points(backups: Sequence[Backup]) -> dict[str, str]:
    """What a restore takes behind the @ for each, by id: the snapshot's name, or, where several
    snapshots of a dataset had it, as much of the id as is unique.

    What cannot be read has its id alone.
    """
    headed = [(one.id, one.head) for one in backups if one.head is not None]
    snapshots = {(_names(head), head.snapshot.guid) for _, head in headed}
    for same in alike.told(backups):
        head = same.backup.manifest.head
        snapshots.add(((head.host, head.dataset.name, same.label), head.snapshot.guid))
    shared = {names for names, count in Counter(each[0] for each in snapshots).items() if count > 1}
    begun = Counter((head.dataset.name, backup_id[:_TIME]) for backup_id, head in headed)

    def point(backup_id: str, head: Head) -> str:
        if _names(head) not in shared:
            return head.snapshot.name
        short = backup_id[:_TIME]
        return short if begun[head.dataset.name, short] == 1 else backup_id

    return {one.id: one.id for one in backups} | {one: point(one, head) for one, head in headed}


def notes(backups: Sequence[Backup]) -> dict[str, str]:
    """By id: of the complete backups that are not of the newest history of their name, which they
    are of; of the others, whether a newer snapshot took its name.

    What nobody vouches for has no say in it.
    """
    complete = [one for one in backups if one.status == "complete"]
    past = _pasts(one.manifest.head for one in complete)
    of_name: dict[tuple[str, str], list[Backup]] = {}
    for one in complete:
        head = one.manifest.head
        of_name.setdefault((head.host, head.dataset.name), []).append(one)
    found: dict[str, str] = {}
    for those in map(chain.oldest_first, of_name.values()):
        current = past[_dataset(those[-1].manifest.head)]
        newest = {one.manifest.head.snapshot.name: one.manifest.head.snapshot for one in those}
        for one in those:
            head = one.manifest.head
            if past[_dataset(head)] != current:
                found[one.id] = _EARLIER
            elif newest[head.snapshot.name].guid != head.snapshot.guid:
                found[one.id] = _AGAIN.format(head.snapshot.name)
    return found


def _names(head: Head) -> tuple[str, str, str]:
    return head.host, head.dataset.name, head.snapshot.name


def _dataset(head: Head) -> Hashable:
    return "dataset", head.dataset.guid


def _pasts(heads: Iterable[Head]) -> dict[Hashable, Hashable]:
    """For every dataset and snapshot one of those that it has a past in common with, always the
    same: a dataset has one with its snapshots, and a snapshot with what stands on it, wherever that
    was restored."""
    above: dict[Hashable, Hashable] = {}

    def top(one: Hashable) -> Hashable:
        while above.setdefault(one, one) != one:
            above[one] = above[above[one]]
            one = above[one]
        return one

    for head in heads:
        dataset = top(_dataset(head))
        above[top(("snapshot", head.snapshot.guid))] = dataset
        if head.base is not None:
            above[top(("snapshot", head.base.snapshot_guid))] = dataset
    return {one: top(one) for one in [*above]}
