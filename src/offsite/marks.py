"""What the next increment begins at, kept when the user destroys snapshots: bookmarks of ours."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from offsite.errors import OffsiteError, StoppedError
from offsite.manifest import Head
from offsite.progress import Progress
from offsite.zfs import bookmarks, datasets
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot

_SPARE = 2  # bases kept for every provider: the newest may turn out to be damaged there


@dataclass(frozen=True)
class Kept:
    """A complete backup and the providers that have it."""

    head: Head
    providers: tuple[str, ...]


def keep(
    zfs: Zfs,
    snapshot: Snapshot,
    kept: Kept,
    points: Sequence[Point],
    *,
    host: str,
    progress: Progress,
) -> None:
    """Bookmark the snapshot of a backup that is complete; if that cannot be done, hold it, and let
    go of those ``points`` (oldest first) that no increment to its providers would begin at.

    Also when we are to stop: the backup is there, and the next increment needs it."""
    zfs, name = zfs.uninterrupted, snapshot.full_name
    try:
        bookmarks.make(zfs, name, short_id(kept.head.id))
    except OffsiteError as error:
        progress.info(f"{name} cannot be bookmarked ({error}): it is held for the next backup")
        _hold(zfs, snapshot, kept.providers, points, host=host, progress=progress)


def _hold(
    zfs: Zfs,
    snapshot: Snapshot,
    providers: Sequence[str],
    points: Sequence[Point],
    *,
    host: str,
    progress: Progress,
) -> None:
    name = snapshot.full_name
    older = [point for point in points if point.held and point.guid != snapshot.guid]
    try:
        for provider in providers:
            tag = _tag(host, provider)
            datasets.hold(zfs, name, tag)
            held = [one.full_name for one in older if tag in datasets.holds(zfs, one.full_name)]
            for each in held[: 1 - _SPARE]:
                datasets.release(zfs, each, tag)
    except OffsiteError as error:
        progress.warning(f"The holds of {name} are not as they should be ({error})")


def tidy(
    zfs: Zfs,
    dataset: str,
    kept: Sequence[Kept],
    *,
    providers: Collection[str],
    host: str,
    progress: Progress,
) -> None:
    """Let go of what no increment to any of ``providers`` would begin at: bookmarks, holds.

    ``providers`` must be all there are: one that was not read may stand on any of them. Bookmarks
    of backups that are not in ``kept`` are somebody else's.
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
    needed = _needed(points, kept, providers)
    marked = {point.guid for point in points if point.full_name in ids}
    for point in points:
        try:
            if point.full_name in ids and point.guid not in needed:
                bookmarks.drop(zfs, point.full_name)
            elif point.held and point.guid in guids - (needed - marked):
                for provider in providers:
                    datasets.release(zfs, point.full_name, _tag(host, provider))
        except StoppedError:
            return
        except OffsiteError as error:  # it takes the permission to destroy, which few give away
            progress.info(f"{point.full_name} is not needed any more ({error})")


def _tag(host: str, provider: str) -> str:
    """Not to be mistaken for that of a backup that is being sent (subject.py)."""
    return f"offsite-base:{host}:{provider}"


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
