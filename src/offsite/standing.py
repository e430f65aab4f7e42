"""How the providers stand with a dataset: what an earlier run began, and what is there already."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from offsite import repository
from offsite.catalog import Backup
from offsite.errors import OffsiteError, StoppedError, UsageError
from offsite.journal import Journal
from offsite.manifest import Head
from offsite.ordered import few_at_a_time
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.zfs.datasets import Dataset, Snapshot


@dataclass(frozen=True)
class Standing:
    """Backups of one dataset, oldest first: the ``complete`` ones, and ours that are not.

    ``everything``: the complete backups of any dataset, for a dataset that was received or renamed
    stands on what others left. ``recipients`` is who a run would seal to now. ``left_alone``: the
    unfinished ones that nobody here may go on with; their note says why.
    """

    dataset: Dataset
    everything: tuple[Backup, ...]
    complete: tuple[Backup, ...]
    unfinished: tuple[Backup, ...]
    recipients: str
    left_alone: tuple[Backup, ...] = ()

    @classmethod
    def of(cls, backups: Sequence[Backup], dataset: Dataset, recipients: str) -> Standing:
        mine = [one for one in backups if one.head and one.head.dataset.guid == dataset.guid]
        return cls(
            dataset,
            tuple(one for one in backups if one.status == "complete"),
            tuple(one for one in mine if one.status == "complete"),
            tuple(one for one in mine if can_go_on(one)),
            recipients,
            tuple(one for one in mine if one.status == "unfinished" and one.note),
        )

    @property
    def previous(self) -> str | None:
        """The hash of the newest manifest of the dataset: the chain of manifests.

        It lets a reader of the newest manifest notice that the one before it was taken away.
        """
        signed = self.complete[-1].signed if self.complete else None
        return signed.sha256 if signed else None

    def is_own(self, backup: Backup) -> bool:
        """Whether it is of this dataset, or of one that had its name."""
        facts = _head(backup).dataset
        return facts.guid == self.dataset.guid or facts.name == self.dataset.name

    def copies(self, snapshot: Snapshot, label: str) -> list[Backup]:
        """The complete backups of this snapshot under this name, the newest first.

        Providers with different histories hold it on different bases.
        """
        found = [one for one in self.complete if _is(one, snapshot, label)]
        return sorted(found, key=lambda one: one.id, reverse=True)

    def begun(self, snapshot: Snapshot, label: str, progress: Progress) -> list[Backup]:
        """The unfinished backups to go on with, the one that has most first.

        Those for other recipients are not, nor those left alone, and told if there are no others.
        """
        same = [one for one in self.unfinished if _is(one, snapshot, label)]
        found = [one for one in same if _head(one).recipients == self.recipients]
        found.sort(key=lambda one: (one.held, one.id), reverse=True)
        for one in () if found else same:
            progress.warning(
                f"the unfinished backup {one.id} was sealed for other keys or recipients:"
                " it is left as it is, and a new one begins"
            )
        if not found:
            _tell_left_alone(
                [one for one in self.left_alone if _is(one, snapshot, label)], progress
            )
        return found

    def interrupted(
        self, snapshots: Sequence[Snapshot], points: Collection[int], progress: Progress
    ) -> Backup | None:
        """The backup that a run without a snapshot's name goes on with: the newest one.

        It is newer than all complete ones, its snapshot is there, and what it stands on is among
        the ``points`` (guids of snapshots and bookmarks).
        """
        newest = max((_head(one).snapshot.createtxg for one in self.complete), default=0)
        open_ones = [o for o in self.unfinished if _head(o).snapshot.createtxg > newest]
        there = {snapshot.guid for snapshot in snapshots}
        lost = {one.id: _lost(one) for one in open_ones if _head(one).snapshot.guid not in there}
        for one in open_ones:
            base = _head(one).base
            if base is not None and base.snapshot_guid not in points:
                lost.setdefault(one.id, lost_base(one))
        left = [one for one in open_ones if one.id not in lost]
        last = max((_head(one).snapshot.createtxg for one in left), default=0)
        found = _last(one for one in left if _head(one).snapshot.createtxg == last)
        for why in lost.values():
            progress.warning(why + ("" if found else "; a new backup begins"))
        if found is None:
            newer = [o for o in self.left_alone if _head(o).snapshot.createtxg > newest]
            _tell_left_alone(newer, progress)
        return found

    def late(self) -> list[tuple[Backup, set[str]]]:
        """What is complete, oldest first, and who has a part of it and nothing newer.

        They were dropped on the way. What is for other recipients is left as it is.
        """
        newest: dict[str, int] = {}
        for one in self.complete:
            at = _head(one).snapshot.createtxg
            newest |= {name: max(at, newest.get(name, 0)) for name in one.providers}
        found = []
        for one in self.complete:
            at = _head(one).snapshot.createtxg
            names = {name for name in one.behind if newest.get(name, 0) < at}
            if names and _head(one).recipients == self.recipients:
                found.append((one, names))
        return found

    def refuse_lost(self, snapshot: Snapshot | None, label: str) -> None:
        """Raise UsageError if a backup was begun of a snapshot of this name that is gone."""
        for one in self.unfinished:
            head = _head(one)
            gone = snapshot is None or snapshot.guid != head.snapshot.guid
            if head.snapshot.name == label and gone:
                raise UsageError(
                    _lost(one), hint="begin anew, and give up these chunks: the same with --restart"
                )

    def named(self, label: str | None) -> tuple[Backup, ...]:
        """The unfinished backups under this name, or all of them."""
        return tuple(
            one for one in self.unfinished if label is None or _head(one).snapshot.name == label
        )

    def without(self, gone: Sequence[Backup]) -> Standing:
        """As if these had never begun."""
        return replace(self, unfinished=tuple(o for o in self.unfinished if o not in gone))


def give_up(backup: Backup, remotes: Sequence[Remote], progress: Progress) -> None:
    """Delete the objects of an unfinished backup; what cannot be deleted is told, and stays.

    Index 0 goes last: it tells whose the others are. The journal goes before it, for without it no
    run would ever ask for this journal.
    """
    progress.info(f"Giving up the unfinished backup {backup.id}")
    left = list(remotes)

    def delete(wanted: Callable[[str], bool]) -> None:
        for remote in tuple(left):
            try:
                names = filter(wanted, _last_first(repository.object_sizes(remote, backup.id)))
                paths = (repository.object_path(backup.id, name) for name in names)
                for _ in few_at_a_time(remote.delete, paths):
                    pass
            except StoppedError:
                raise
            except OffsiteError as error:
                left.remove(remote)
                progress.warning(f"{remote.name} keeps objects of {backup.id}: {error}")

    delete(lambda name: name != repository.index_name(0))
    Journal(backup.id).remove()
    delete(lambda _: True)


def can_go_on(one: Backup) -> bool:
    """A note says why nobody may: a stranger's, or cut before it began.

    Of a manifest that is damaged only this machine can know that it was killed while it wrote it.
    """
    if one.status == "unfinished":
        return not one.note
    return one.status == "damaged" and Journal(one.id).path.exists()


def _tell_left_alone(backups: Iterable[Backup], progress: Progress) -> None:
    for one in backups:
        progress.warning(
            f"the unfinished backup {one.id} is left as it is, and a new one begins: {one.note}"
        )


def _last_first(names: Iterable[str]) -> list[str]:
    """Against the order of writing."""
    return sorted(names, key=lambda name: (not name.startswith("index-"), name), reverse=True)


def _lost(one: Backup) -> str:
    return _gone(one, "snapshot", _head(one).snapshot.source_name)


def lost_base(one: Backup) -> str:
    """That what an increment stands on is gone from the source."""
    base = _head(one).base
    assert base is not None
    return _gone(one, "base", base.snapshot_name)


def _gone(one: Backup, what: str, name: str) -> str:
    return (
        f"the unfinished backup {one.id} cannot be finished: its {what}"
        f" {_head(one).dataset.name}@{name} is gone ({one.held} chunks of it are kept)"
    )


def _head(one: Backup) -> Head:
    assert one.head is not None
    return one.head


def _is(one: Backup, snapshot: Snapshot, label: str) -> bool:
    facts = _head(one).snapshot
    return (facts.guid, facts.name) == (snapshot.guid, label)


def _last(found: Iterable[Backup]) -> Backup | None:
    return max(found, key=lambda one: (one.held, one.id), default=None)
