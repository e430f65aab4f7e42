"""What the next increment begins at, kept when the user destroys snapshots: bookmarks of ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from offsite.errors import OffsiteError, StoppedError
from offsite.manifest import Head
from offsite.progress import Progress
from offsite.zfs import bookmarks, datasets
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.failures import is_read_only

_SPARE = 2  # bases kept for every provider: the newest may turn out to be damaged there


@dataclass(frozen=True)
class Kept:
    """A complete backup and the providers that have it."""

    head: Head
    providers: tuple[str, ...]


@dataclass(frozen=True)
class Reach:
    """The providers that bookmarks and holds of this host are about, of all that there are."""

    host: str
    providers: tuple[str, ...]
    everywhere: frozenset[str]

    def tags(self) -> list[str]:
        """Of holds, one for each of the providers.

        Not to be mistaken for that of a backup that is being sent (subject.py).
        """
        return [f"offsite-base:{self.host}:{provider}" for provider in self.providers]

    def owns(self, point: Point, ours: Collection[str]) -> bool:
        """Whether it is one of ``ours``, our bookmarks, and made for nobody but these providers.

        These are all that the run reads; any other may stand on what was not made for these alone.
        """
        name, some = bookmarks.made_for(point.full_name)
        alone = self.everywhere <= {*self.providers} or (bool(some) and some <= {*self.providers})
        return point.is_bookmark and name in ours and alone


class Marker:
    """Keeps one snapshot as what the next increment begins at: by a bookmark, else by holds.

    ``points`` are the source's, oldest first.
    """

    def __init__(
        self,
        zfs: Zfs,
        snapshot: Snapshot,
        points: Sequence[Point],
        reach: Reach,
        progress: Progress,
    ) -> None:
        self._zfs, self._snapshot, self._reach = zfs, snapshot, reach
        self._points = {one.full_name for one in points}
        self._older = [one for one in points if one.held and one.guid != snapshot.guid]
        self._progress = progress
        self._marked = any(one.is_bookmark and one.guid == snapshot.guid for one in points)
        self._bookmarked: bool | None = None
        self._read_only = False

    def before(self, backup_id: str) -> None:
        """Before the stream begins: no kill after it, however early, loses the base then.

        What cannot be bookmarked (ZFS or a pool that knows none, no permission) is held. Raises
        StoppedError.
        """
        self._mark(self._zfs, backup_id, self._reach)

    def after(self, kept: Kept) -> None:
        """The backup is complete. Of older snapshots that are held, those are let go of that no
        increment to its providers would begin at.

        Also when we are to stop: the backup is there, and the next increment needs it.
        """
        zfs, reach = self._zfs.uninterrupted, replace(self._reach, providers=kept.providers)
        if self._bookmarked is None:
            self._mark(zfs, kept.head.id, reach)
        if not (self._bookmarked or self._read_only):
            self._let_go(zfs, reach)

    def _mark(self, zfs: Zfs, backup_id: str, reach: Reach) -> None:
        name, mark = self._snapshot.full_name, (self._snapshot.dataset, short_id(backup_id))
        some = () if {*reach.providers} == reach.everywhere else reach.providers
        try:
            if self._points.isdisjoint({bookmarks.ours(*mark), bookmarks.ours(*mark, some)}):
                bookmarks.make(zfs, name, bookmarks.ours(*mark, some))
        except StoppedError:
            raise
        except OffsiteError as error:
            self._bookmarked = False
            self._read_only = is_read_only(error)
            if self._read_only:
                self._tell_read_only()
                return
            self._progress.info(
                f"{name} cannot be bookmarked ({error}): it is held for the next backup"
            )
            self._hold(zfs, reach)
        else:
            self._bookmarked = True

    def _tell_read_only(self) -> None:
        name = self._snapshot.full_name
        if not self._marked:
            self._progress.warning(
                f"the pool is imported read-only: {name} can be neither held nor bookmarked;"
                " keep it for the next backup"
            )

    def _hold(self, zfs: Zfs, reach: Reach) -> None:
        name = self._snapshot.full_name
        try:
            for tag in reach.tags():
                datasets.hold(zfs, name, tag)
        except StoppedError:
            raise
        except OffsiteError as error:
            self._progress.warning(f"{name} cannot be held ({error}): keep it for the next backup")

    def _let_go(self, zfs: Zfs, reach: Reach) -> None:
        try:
            for tag in reach.tags():
                names = [one.full_name for one in self._older]
                held = [name for name in names if tag in datasets.holds(zfs, name)]
                for name in held[: 1 - _SPARE]:
                    datasets.release(zfs, name, tag)
        except OffsiteError as error:
            name = self._snapshot.full_name
            self._progress.warning(f"Snapshots older than {name} stay held ({error})")


def give_up(zfs: Zfs, snapshot: str, backup_id: str, reach: Reach, progress: Progress) -> None:
    """An unfinished backup is given up: nothing at these providers will ever begin at its bookmark,
    or holds."""
    dataset = snapshot.partition("@")[0]
    ours = {bookmarks.ours(dataset, short_id(backup_id))}
    try:
        for point in bookmarks.list_points(zfs, dataset):
            if reach.owns(point, ours):
                bookmarks.drop(zfs, point.full_name)
        for tag in reach.tags():
            datasets.release(zfs, snapshot, tag)
    except StoppedError:
        raise
    except OffsiteError as error:
        progress.info(f"The bookmark of the backup that is given up stays ({error})")


def tidy(
    zfs: Zfs,
    dataset: str,
    kept: Sequence[Kept],
    begun: Sequence[Head],
    *,
    reach: Reach,
    progress: Progress,
) -> None:
    """Let go of what no increment to the providers would begin at: bookmarks, holds.

    ``begun`` are unfinished backups: where the snapshot is gone, they can be no base any more. All
    other bookmarks are somebody else's.
    """
    try:
        points = bookmarks.list_points(zfs, dataset)
    except StoppedError:
        return  # the next run tidies up
    except OffsiteError as error:
        progress.info(f"The bookmarks of {dataset} cannot be listed ({error})")
        return
    ids = {bookmarks.ours(dataset, short_id(one.head.id)) for one in kept}
    guids = {one.head.snapshot.guid for one in kept}
    snapshots = {point.guid for point in points if not point.is_bookmark}
    lost = [head for head in begun if head.snapshot.guid not in snapshots]
    ids |= {bookmarks.ours(dataset, short_id(head.id)) for head in lost}
    needed = _needed(points, kept, reach.providers)
    marked = {point.guid for point in points if point.full_name in ids}
    for point in points:
        try:
            if point.guid not in needed and reach.owns(point, ids):
                bookmarks.drop(zfs, point.full_name)
            elif point.held and point.guid in guids - (needed - marked):
                for tag in reach.tags():
                    datasets.release(zfs, point.full_name, tag)
        except StoppedError:
            return
        except OffsiteError as error:
            if is_read_only(error):
                return
            # It takes the permission to destroy, which few give away.
            progress.info(f"{point.full_name} is not needed any more ({error})")


def short_id(backup_id: str) -> str:
    """The random part of a backup's id."""
    return backup_id.partition("-")[2]


def _needed(
    points: Sequence[Point], kept: Sequence[Kept], providers: Collection[str]
) -> frozenset[int]:
    by_provider: Mapping[str, set[int]] = {
        name: {one.head.snapshot.guid for one in kept if name in one.providers}
        for name in providers
    }
    needed: set[int] = set()
    for guids in by_provider.values():
        newest = [point.guid for point in points if point.guid in guids]
        needed |= {*[*dict.fromkeys(reversed(newest))][:_SPARE]}
    return frozenset(needed)
