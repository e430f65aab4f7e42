"""What a backup would do: --dry-run."""

from __future__ import annotations

import sys

from offsite.bases import Base
from offsite.catalog import Backup
from offsite.config import Config
from offsite.storing import Result
from offsite.subject import send_flags
from offsite.tasks import Source, Task
from offsite.zfs import abilities, bookmarks, datasets, failures, names, pools
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset, Snapshot


def check_pool_takes(zfs: Zfs, root: Dataset, snapshot: str) -> None:
    """Raise ZfsError as the run would if this must be made and its pool takes none.

    A set is made at one moment: what holds for its root holds for all.
    """
    if datasets.find_snapshot(zfs, f"{root.name}@{snapshot}") is not None:
        return
    if pools.is_read_only(zfs, names.pool_of(root.name)):
        raise failures.explain("snapshot", 1, failures.SAYS_READ_ONLY, host=zfs.ssh)


def source(zfs: Zfs, dataset: Dataset, snapshot: str) -> Source:
    """The snapshot, which need not exist."""
    found = datasets.find_snapshot(zfs, f"{dataset.name}@{snapshot}")
    points = bookmarks.list_points(zfs, dataset.name)
    wanted = found or Snapshot(dataset.name, snapshot, 0, sys.maxsize, 0)
    return Source.on(zfs, wanted, snapshot, points, made=found is None)


def result_of(config: Config, zfs: Zfs, dataset: Dataset, source: Source, task: Task) -> Result:
    """What a task would do."""
    base, begun = task.choice.base, task.begun
    if task.complete is not None:
        return _of_complete(task.complete, dataset, source, task)
    head = begun.head if begun is not None else None
    size = (head.estimate if head else 0) or _size(config, zfs, dataset, source, base)
    chunk_size = head.chunk_size if head else config.chunk_size
    return Result(
        backup_id=begun.id if begun else "",
        dataset=dataset.name,
        snapshot=source.label,
        type="incremental" if _name_of(begun, base) else "full",
        stream_bytes=size,
        stored_bytes=0,
        chunks=-(-(size or 0) // chunk_size),
        seconds=0.0,
        providers=tuple(remote.name for remote in task.remotes),
        failed={},
        dry_run=True,
        resumed_chunks=task.begun.held if task.begun else 0,
        base=_name_of(begun, base),
    )


def _of_complete(complete: Backup, dataset: Dataset, source: Source, task: Task) -> Result:
    """It is copied to those that do not have it."""
    base, signed = _name_of(complete, None), complete.manifest
    return Result(
        backup_id=complete.id,
        dataset=dataset.name,
        snapshot=source.label,
        type="incremental" if base else "full",
        stream_bytes=signed.stream_bytes,
        stored_bytes=signed.stored_bytes,
        chunks=signed.chunks,
        seconds=0.0,
        providers=tuple(remote.name for remote in task.remotes),
        failed={},
        dry_run=True,
        resumed_chunks=signed.chunks,
        base=base,
        complete_on=complete.providers,
    )


def _size(
    config: Config, zfs: Zfs, dataset: Dataset, source: Source, base: Base | None
) -> int | None:
    """About how many bytes a send has, or would have if the snapshot were made now; None if nobody
    knows."""
    start = base.point.full_name if base else None
    if not source.snapshot.guid:
        return (
            datasets.written(zfs, dataset.name, base.point.short_name)
            if base
            else dataset.referenced
        )
    flags = base.flags if base else abilities.known_flags(zfs, send_flags(dataset, config))
    return datasets.estimate(zfs, source.snapshot.full_name, base=start, flags=flags)


def _name_of(begun: Backup | None, base: Base | None) -> str | None:
    """What the snapshot is called that an increment stands on."""
    if begun is not None:
        facts = begun.head.base if begun.head else None
        return facts.snapshot_name if facts else None
    return base.parent.manifest.head.snapshot.name if base else None
