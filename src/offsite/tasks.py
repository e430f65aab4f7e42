"""The backups that one run makes of a snapshot: one for all providers that stand alike."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from offsite import bases, lineage, repository, standing
from offsite.bases import Choice, Policy, Stock
from offsite.catalog import Backup
from offsite.errors import IntegrityError, ProviderError, UsageError
from offsite.manifest import Head
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.standing import Standing
from offsite.zfs import peek, swaps
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.records import Feature


@dataclass(frozen=True)
class Task:
    """What these providers lack: a new backup on ``choice``, the rest of the one that was
    ``begun``, or a copy of ``complete`` (nothing at all for those that have it)."""

    remotes: tuple[Remote, ...]
    choice: Choice = field(default_factory=lambda: Choice(None))
    begun: Backup | None = None
    complete: Backup | None = None

    @property
    def base_guid(self) -> int | None:
        """Of the snapshot that the backup stands on."""
        if self.complete is not None:
            return _base_guid(self.complete)
        if self.begun is not None:
            return _base_guid(self.begun)
        return self.choice.base.point.guid if self.choice.base else None


def _unknown(*_: object) -> None:
    """Nobody tells."""


@dataclass(frozen=True)
class Source:
    """The snapshot to back up, the name to store it under, and what else the source has.

    ``given``: it is the one that the user named. ``made`` just now, so that it was not received.
    ``is_past``: see zfs/swaps.py; ``features``: bases.Stock; ``same``: alike.guids.
    """

    snapshot: Snapshot
    label: str
    points: tuple[Point, ...]
    given: bool = False
    made: bool = False
    is_past: Callable[[Point, int], bool | None] = _unknown
    features: Callable[[Point, tuple[str, ...]], Feature | None] = _unknown
    same: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @classmethod
    def on(
        cls,
        zfs: Zfs,
        snapshot: Snapshot,
        label: str,
        points: Sequence[Point],
        *,
        made: bool,
    ) -> Source:
        """With what this zfs tells of its past and of its streams."""

        def features(point: Point, flags: tuple[str, ...]) -> Feature | None:
            return peek.begin(zfs, snapshot, point, flags).features if snapshot.guid else None

        is_past = partial(swaps.is_past, zfs)
        return cls(snapshot, label, tuple(points), made=made, is_past=is_past, features=features)

    def point(self, guid: int) -> Point | None:
        """The snapshot, rather than the bookmark, with this guid."""
        return next((point for point in reversed(self.points) if point.guid == guid), None)

    def doubt(self, point: Point) -> str | None:
        """Why the snapshot may not stand on ``point``, though its dataset has it; None if it does.

        A snapshot is always in the past of those after it. A bookmark outlives a receive that went
        back before it (``zfs receive -F``), and an increment from there would lack what is older.
        """
        if not point.is_bookmark or self._has_snapshot(point) or self._has_same(point):
            return None
        past = self.is_past(point, self.snapshot.createtxg)
        if past is False:
            return f"something was received over what {point.full_name} tells of (zfs receive -F)"
        later = [one for one in self.points if self._may_be_received(one, point)]
        if past or not later:
            return None
        return (
            f"{later[0].full_name} may have been received over what {point.full_name} tells of:"
            " zpool history -i would tell, but cannot be read, or does not go back so far"
            " (keep a snapshot until the next one is backed up)"
        )

    def _has_snapshot(self, mark: Point) -> bool:
        same = (mark.guid, mark.createtxg)
        return any((one.guid, one.createtxg) == same for one in self.points if not one.is_bookmark)

    def _has_same(self, mark: Point) -> bool:
        """Whether there is a later snapshot that was made when the marked one was in its past."""
        others = self.same.get(mark.guid, frozenset())
        before = self.snapshot.createtxg
        return any(
            one.guid in others and one.createtxg <= before and not one.is_bookmark
            for one in self.points
        )

    def _may_be_received(self, one: Point, mark: Point) -> bool:
        if one.is_bookmark or (self.made and one.guid == self.snapshot.guid):
            return False
        return mark.createtxg < one.createtxg <= self.snapshot.createtxg


def divide(
    known: Standing,
    source: Source,
    remotes: Sequence[Remote],
    policy: Policy,
    progress: Progress,
) -> list[Task]:
    """A task for each group of providers; those that have it already are told in one of them.

    Raises UsageError if the base that was asked for cannot serve, or is gone.
    """
    shelves = [_shelf(known, source, one, policy, progress) for one in remotes]
    left = list(remotes)
    tasks: list[Task] = []

    def take(names: Collection[str], task: Task) -> None:
        group = tuple(one for one in left if one.name in names)
        if group:
            left[:] = [one for one in left if one not in group]
            tasks.append(replace(task, remotes=group))

    complete = _unless_full(policy, known.copies(source.snapshot, source.label))
    copies = [
        one for one in (_whole(each, shelves, progress) for each in complete) if one.providers
    ]
    having = {name for one in copies for name in one.providers}
    for backup in copies:
        others = [one.name for one in shelves if one.wants(backup) and one.name not in having]
        take({*backup.providers, *others}, Task((), complete=backup))
    for backup in _unless_full(policy, known.begun(source.snapshot, source.label, progress)):
        names = {one.name for one in shelves if one.finishes(backup)}
        useless = [one.name for one in left if one.name in {*backup.providers} - names]
        _tell_useless(backup, useless, progress)
        if any(one.name in names for one in left) and _is_finishable(backup, source, progress):
            take(names, Task((), begun=backup))
    choices = {one.name: one.choice for one in shelves}
    while left:
        choice = choices[left[0].name]
        take({one.name for one in left if _alike(choices[one.name], choice)}, Task((), choice))
    return tasks


def _whole(backup: Backup, shelves: Sequence[_Shelf], progress: Progress) -> Backup:
    """Only where all of it is still there: the others are given what they lost."""
    lacking = {
        shelf.name
        for shelf in shelves
        if shelf.name in backup.providers and not shelf.stock.held(backup)
    }
    for name in sorted(lacking):
        progress.warning(f"{name} does not have all of the complete backup {backup.id} any more")
    left = tuple(name for name in backup.providers if name not in lacking)
    return replace(backup, providers=left)


def _unless_full(policy: Policy, backups: Sequence[Backup]) -> list[Backup]:
    """No increments where --full was asked for."""
    return [one for one in backups if not (policy.full and _base_guid(one) is not None)]


@dataclass(frozen=True)
class _Shelf:
    """One provider: what it has, and what a new backup to it would stand on."""

    name: str
    stock: Stock
    choice: Choice
    policy: Policy

    def wants(self, backup: Backup) -> bool:
        """Whether a new backup would be as this one: on the same base, for the same keys."""
        head = _head(backup)
        same = (head.recipients, lineage.is_raw(head)) == (self.policy.recipients, self.policy.raw)
        return same and _guid(self.choice) == _base_guid(backup) and self._bears(head)

    def finishes(self, backup: Backup) -> bool:
        """Whether the rest of this one belongs here, if it can be restored from here then."""
        mine = self.name in backup.providers
        return self._bears(_head(backup)) if mine else self.wants(backup)

    def _bears(self, head: Head) -> bool:
        return bases.bears(head, self.stock)


def _shelf(
    known: Standing, source: Source, remote: Remote, policy: Policy, progress: Progress
) -> _Shelf:
    there = [one for one in known.everything if remote.name in one.providers]
    seen: dict[str, bool] = {}

    def held(backup: Backup) -> bool:
        if backup.id not in seen:
            seen[backup.id] = _is_held(remote, backup, progress)
        return seen[backup.id]

    has_own = any(known.is_own(one) for one in there)
    stock = Stock(there, held, source.doubt, source.features, has_own)
    choice = bases.choose(stock, source.points, source.snapshot.createtxg, policy)
    return _Shelf(remote.name, stock, choice, policy)


def _is_held(remote: Remote, backup: Backup, progress: Progress) -> bool:
    assert backup.signed is not None
    try:
        return repository.is_held(remote, backup.signed)
    except (ProviderError, IntegrityError) as error:
        progress.warning(f"{remote.name}: backup {backup.id} cannot be listed: {error}")
        return False


def _tell_useless(backup: Backup, names: Sequence[str], progress: Progress) -> None:
    for name in names:
        progress.warning(
            f"the unfinished backup {backup.id} is left as it is on {name}, and another one begins:"
            " what it stands on is not whole there any more"
        )


def _is_finishable(backup: Backup, source: Source, progress: Progress) -> bool:
    """Whether the source still has what an unfinished increment stands on.

    If not, it is told where the user named no snapshot, and refused (UsageError) where he did.
    """
    guid = _base_guid(backup)
    if guid is None or source.point(guid) is not None:
        return True
    why = standing.lost_base(backup)
    if source.given:
        raise UsageError(why, hint="begin anew, and give up these chunks: the same with --restart")
    progress.warning(f"{why}; a new backup begins")
    return False


def _head(backup: Backup) -> Head:
    assert backup.head is not None
    return backup.head


def _base_guid(backup: Backup) -> int | None:
    base = backup.head.base if backup.head else None
    return base.snapshot_guid if base else None


def _guid(choice: Choice) -> int | None:
    return choice.base.point.guid if choice.base else None


def _alike(one: Choice, other: Choice) -> bool:
    """Whether one send serves both."""
    flags = [each.base.flags if each.base else () for each in (one, other)]
    return _guid(one) == _guid(other) and flags[0] == flags[1]


def told(task: Task) -> str:
    """Which base a new backup stands on, or why none."""
    base = task.choice.base
    names = ", ".join(remote.name for remote in task.remotes)
    if base is None:
        return f"A full backup to {names}: {task.choice.why}"
    kind = "bookmark" if base.point.is_bookmark else "snapshot"
    full = base.chain[0].manifest.head.snapshot
    return (
        f"An increment to {names} from {kind} {base.point.full_name}"
        f" (number {len(base.chain)} on the full backup @{full.name})"
    ) + (f"; no newer one can serve: {task.choice.why}" if task.choice.why else "")
