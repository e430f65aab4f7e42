"""Which snapshots a run backs up: what earlier runs left half done, then what is named or made."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from offsite import bases
from offsite.catalog import Backup
from offsite.chain import Names
from offsite.errors import ZfsError
from offsite.member import Member
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.standing import Standing
from offsite.tasks import Source, Task
from offsite.zfs import bookmarks, datasets
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot

_CLOCK_SLACK = 300  # seconds that two machines' clocks may differ


def choose(
    zfs: Zfs,
    known: Standing,
    names: Names,
    progress: Progress,
    check_may_be_made: Callable[[str], None],
) -> Source:
    """What to back up: what was begun, if nothing is named, else the snapshot of that name.

    One that is not there is made, after ``check_may_be_made``.
    """
    if not names.given and (begun := _begun(zfs, known, progress)) is not None:
        return begun
    wanted = f"{known.dataset.name}@{names.snapshot}"
    there = datasets.find_snapshot(zfs, wanted)
    if names.given:
        known.refuse_lost(there, names.snapshot)
    if there is None:
        check_may_be_made(wanted)
    snapshot = there or datasets.create_snapshot(zfs, wanted)
    progress.info(f"{'Using' if there else 'Created'} snapshot {snapshot.full_name}")
    if snapshot.creation > time.time() + _CLOCK_SLACK:
        progress.warning(f"{snapshot.full_name} is of the future: is this machine's clock right?")
    return _source(zfs, snapshot, names.snapshot, made=there is None)


def tell_if_taken(member: Member, known: Standing, source: Source) -> None:
    """A warning where --as names what was there before and is backed up: cron would find every day
    that all is well, and nothing would be backed up."""
    first = member.set is None or member.set.root == member.dataset.name
    if member.wish.anew and first and known.copies(source.snapshot, source.label):
        member.progress.warning(
            f"{source.snapshot.full_name} was there before, and is backed up: --as makes nothing"
            " new under a name that is taken"
        )


def check_may_be_made(member: Member, snapshot: str) -> None:
    """Raise ZfsError if it was made with the others of its set, perhaps days ago, and is gone; and
    UsageError if no such base can be meant: no snapshot is left behind for a typing error."""
    if member.set is not None:
        raise ZfsError(
            f"{snapshot} is gone: it was destroyed after it had been made with the set's others",
            hint="back up the whole again, as a set of one moment",
        )
    base = member.wish.base
    if base is not None:
        there = bookmarks.list_points(member.zfs, member.dataset.name)
        if base not in {one.short_name for one in there}:
            raise bases.no_such(base, ())


def _begun(zfs: Zfs, known: Standing, progress: Progress) -> Source | None:
    """The newest backup that was interrupted, if it can go on."""
    if not known.unfinished and not known.left_alone:
        return None
    snapshots = datasets.list_snapshots(zfs, known.dataset.name)
    points = {one.guid for one in bookmarks.list_points(zfs, known.dataset.name)}
    found = known.interrupted(snapshots, points, progress)
    if found is None or found.head is None:
        return None
    facts = found.head.snapshot
    snapshot = next(one for one in snapshots if one.guid == facts.guid)
    if not known.begun(snapshot, facts.name, progress):
        return None
    return _source(zfs, snapshot, facts.name)


def half_done(
    member: Member, known: Standing, remotes: Sequence[Remote]
) -> list[tuple[Source, Sequence[Remote]]]:
    """What earlier runs left half done, and where, unless the user named what he wants: days of
    work may be in it."""
    if member.named:
        return []
    found: list[tuple[Source, Sequence[Remote]]] = []
    if not (member.wish.full or member.wish.base):
        for late, names in known.late():
            found += _catching_up(member, known, late, names, remotes)
    begun = _begun(member.zfs, known, member.progress) if member.fresh else None
    if begun is not None and begun.label != member.names.snapshot:  # it failed in an earlier set
        found.append((begun, remotes))
    return found


def _catching_up(
    member: Member, known: Standing, late: Backup, names: set[str], remotes: Sequence[Remote]
) -> list[tuple[Source, Sequence[Remote]]]:
    """The snapshot of a complete backup of which these providers have a part, and who copies it.

    Nothing if the snapshot is gone, or something else is due there.
    """
    assert late.head is not None
    facts = late.head.snapshot
    snapshots = datasets.list_snapshots(member.zfs, known.dataset.name)
    for there in snapshots:
        if there.guid == facts.guid:
            source = _source(member.zfs, there, facts.name)
            concerned = [one for one in remotes if one.name in {*late.providers, *names}]
            return [
                (source, task.remotes)
                for task in member.divide(known, source, concerned)
                if task.complete == late and names & {one.name for one in task.remotes}
            ]
    return []


def between(
    member: Member, known: Standing, source: Source, remotes: Sequence[Remote]
) -> list[tuple[Source, list[Remote]]]:
    """The snapshots before ``source``, oldest first, and the providers that stand before them."""
    newest: dict[str, int] = {}
    for task in member.divide(known, source, remotes):
        if task.begun is None and task.complete is None:
            newest |= {one.name: _stands_at(known, source, one, task) for one in task.remotes}
    found = []
    for one in datasets.list_snapshots(member.zfs, member.dataset.name):
        those = [
            remote
            for remote in remotes
            if newest.get(remote.name, sys.maxsize) < one.createtxg < source.snapshot.createtxg
        ]
        if those:
            found.append((replace(source, snapshot=one, label=one.name), those))
    return found


def _stands_at(known: Standing, source: Source, remote: Remote, task: Task) -> int:
    """The transaction group of the newest older snapshot that the provider has, or 0: what was
    before that is not asked for, also if a full backup is due."""
    if task.choice.base is not None:
        return task.choice.base.point.createtxg
    there = {
        one.manifest.head.snapshot.guid for one in known.complete if remote.name in one.providers
    }
    points = [one for one in source.points if one.createtxg < source.snapshot.createtxg]
    return max((one.createtxg for one in points if one.guid in there), default=0)


def _source(zfs: Zfs, snapshot: Snapshot, label: str, *, made: bool = False) -> Source:
    points = bookmarks.list_points(zfs, snapshot.dataset)
    return Source.on(zfs, snapshot, label, points, made=made)
