"""The restore of a backup of the older tool, where no signed one answers.

Nobody signed it, and what it may hold is not known before it is read. So it is received into a new
dataset only, without -s: what ends before the stream does leaves nothing behind.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from offsite import (
    connect,
    fetching,
    fits,
    keys,
    landing,
    legacy,
    lock,
    receiving,
    shards,
    swap,
    tofile,
)
from offsite.config import Config
from offsite.errors import (
    IntegrityError,
    NoBackupError,
    StoppedError,
    UsageError,
    ZfsError,
)
from offsite.figures import printable
from offsite.fits import Need
from offsite.landing import Landing
from offsite.legacy import LegacyBackup, Shard
from offsite.progress import Plan, Progress
from offsite.recovery import Request, Result
from offsite.remote import Remote
from offsite.shards import Reader
from offsite.zfs import datasets, embedded, names
from offsite.zfs.command import Zfs
from offsite.zfs.records import Feature
from offsite.zfs.stream import Begin, Follower

_ANY = frozenset({None, "latest", "latest-full"})
_WARNING = "not signed: nobody can tell whether it is what was backed up, or whole"


@dataclass(frozen=True)
class _Job:
    """``order``: the shards of the backup, in the order of the stream."""

    request: Request
    backup: LegacyBackup
    order: tuple[Shard, ...]
    reader: Reader

    @property
    def target(self) -> str:
        return self.request.target or self.request.dataset


def restore(
    config: Config,
    request: Request,
    nothing: NoBackupError,
    progress: Progress,
    stop: threading.Event,
) -> Result:
    """Restore what the older tool left; raises ``nothing`` if that is nothing.

    Raises an OffsiteError; then zfs drops what it received.
    """
    began = time.monotonic()
    reader = Reader(keys.load_identities(config), stop, progress)
    providers = fetching.chosen(config, request.wanted)
    patience = fetching.patience(providers)
    with connect.remotes(config, providers, stop, progress, patience) as (remotes, _):
        backup = _find(remotes, request, nothing, progress)
        _check_plain(request, backup)
        job = _Job(request, backup, legacy.in_order(backup), reader)
        progress.warning(f"{backup.name} was made by the older tool and is {_WARNING}")
        done = _to_file(job) if request.file is not None else _to_zfs(job, config)
    return replace(done, seconds=0.0 if request.dry_run else time.monotonic() - began)


def _find(
    remotes: Sequence[Remote], request: Request, nothing: NoBackupError, progress: Progress
) -> LegacyBackup:
    """The backup of that very name; without one, the last by name if there is nothing else.

    Whose host and how old it is, nobody knows. Raises ``nothing``.
    """
    any_will_do = request.point in _ANY
    if request.at is not None or (request.host is not None and any_will_do):
        raise nothing
    found = legacy.read(remotes, progress, request.dataset)
    if not found:
        raise nothing
    points = ", ".join(f"@{one.snapshot}" for one in found)
    if any_will_do:
        _check_accepted(request, found[-1])
        others = f", the last by name of {points}; their times are not known" if found[1:] else ""
        progress.warning(f"{nothing}: @{found[-1].snapshot} of the older tool is taken{others}")
        return found[-1]
    for one in found:
        if one.snapshot == request.point:
            _check_accepted(request, one)
            return one
    raise NoBackupError(str(nothing), hint=f"the older tool left, unsigned: {points}") from nothing


def _check_accepted(request: Request, backup: LegacyBackup) -> None:
    """Whoever can delete the signed backups could leave such a one in their place."""
    if not request.unsigned:
        raise UsageError(
            f"there is only {backup.name} of the older tool, {_WARNING}",
            hint="if you take it all the same, add --unsigned",
        )


def _check_plain(request: Request, backup: LegacyBackup) -> None:
    asked = {
        "--update": request.update,
        "--replace": request.replace,
        "--restart": request.restart,
    }
    for option, given in asked.items():
        if given:
            raise UsageError(
                f"{option} is not for {backup.name}, a backup of the older tool",
                hint="it is not signed: restore it beside, as a new dataset: --as NAME",
            )


def _to_file(job: _Job) -> Result:
    path, stored = str(job.request.file), job.backup.stored_bytes
    made = tofile.paths(path, 1, stored)
    if job.request.dry_run:
        return _result(job, 0, files=(path,))
    follower = Follower()
    with closing(_stream(job, follower)) as pieces:
        tofile.put(made, [pieces])
    return _result(job, follower.position, files=(path,))


def _to_zfs(job: _Job, config: Config) -> Result:
    zfs, target = connect.zfs(config, job.reader.stop), job.target
    with lock.hold("restore", target, [""], config.zfs_ssh or "", job.reader.progress.info):
        _check_target(zfs, job)
        if job.request.dry_run:
            return _result(job, 0)
        try:
            size = _receive(zfs, job)
        except StoppedError as stopped:
            raise StoppedError(
                f"stopped before {target} was whole: zfs drops it; nothing else was touched",
                hint="the same command begins anew",
            ) from stopped
    return _result(job, size)


def _check_target(zfs: Zfs, job: _Job) -> None:
    """Raise UsageError unless a new dataset can be made there, that has room."""
    target = job.target
    fits.check_writable(zfs, target)
    found = landing.look(zfs, target)
    if found.exists or found.blank:
        raise UsageError(
            f"{target} exists; it was not touched",
            hint=f"an older backup becomes a new dataset: --as {target}"
            + ("/restored" if found.blank else "-restored"),
        )
    swap.check_none_begun(found)
    landing.check_new(zfs, target)
    names.check_snapshot_name(f"{target}@{job.backup.snapshot}")
    stored = sum(shard.size for shard in job.order)
    fits.check_room(found, Need(stored, stored))


def _receive(zfs: Zfs, job: _Job) -> int:
    """Bytes of the stream."""
    follower, snapshot = Follower(), f"{job.target}@{job.backup.snapshot}"
    with closing(_stream(job, follower)) as pieces:
        first = next(pieces)  # tells what the stream is of, before zfs is asked to do anything
        _check_pool(zfs, job, follower.begin)
        with receiving.receiver(zfs.receive(snapshot, flags=["-u"]), job.reader.stop) as sink:
            sink.write(first)
            for piece in pieces:
                sink.write(piece)
    begin = follower.begin
    if begin is None or datasets.get_snapshot(zfs, snapshot).guid != begin.toguid:
        raise ZfsError(f"{snapshot} was received, but it is not the snapshot in the stream")
    return follower.position


def _check_pool(zfs: Zfs, job: _Job, begin: Begin | None) -> None:
    """Raise UsageError if the target cannot take in such a stream. Embedded blocks are undone."""
    found = Landing(zfs, job.target)
    features = begin.features if begin is not None else Feature(0)
    fits.check_features(found, [features & ~Feature.EMBED_DATA], resumable=False)
    fits.check_key_for(found, raw=Feature.RAW in features)


def _stream(job: _Job, follower: Follower) -> Generator[memoryview, None, None]:
    progress = job.reader.progress
    progress.start(_plan(job))
    try:
        with closing(shards.stream(job.order, job.reader)) as pieces:
            yield from _receivable(_followed(pieces, follower, job), follower, job)
    finally:
        progress.finish()


def _followed(pieces: Iterable[memoryview], follower: Follower, job: _Job) -> Iterator[memoryview]:
    """The pieces, checked. zfs gets the end of the stream only when nothing is left to check."""
    held: list[memoryview] = []
    begin: Begin | None = None
    for piece in pieces:
        follower.feed(piece)
        held.append(piece)
        if begin is None and (begin := follower.begin) is not None:
            _check_begin(begin, job)
        if begin is not None and not follower.ended:
            yield from held
            held.clear()
    if not follower.ended:
        raise IntegrityError(
            f"{job.backup.name} is not whole: its last shard, {job.order[-1].name}, ends at byte"
            f" {follower.position}, and the stream goes on",
            hint="the older tool never finished it, or shards were deleted: choose another backup",
        )
    yield from held


def _receivable(
    pieces: Iterator[memoryview], follower: Follower, job: _Job
) -> Iterator[memoryview]:
    """The stream, or where it was sent with -e, one that every zfs receives, and as a whole."""
    whole = chain([next(pieces)], pieces)
    if follower.begin is None or Feature.EMBED_DATA not in follower.begin.features:
        return whole
    job.reader.progress.info("Its embedded blocks (zfs send -e) are made plain ones on the way")
    return embedded.undone(whole)


def _check_begin(begin: Begin, job: _Job) -> None:
    """Raise UsageError if it is not a full stream of the dataset that was asked for."""
    asked, backup = job.request.dataset, job.backup
    if begin.fromguid:
        raise UsageError(
            f"{backup.name} is an increment, and what it stands on is not known",
            hint="choose a full backup (offsite --list)",
        )
    source = printable(begin.toname.partition("@")[0])
    if asked not in {source, backup.dataset} and legacy.label(source) == backup.dataset:
        raise UsageError(
            f"{backup.name} is of {source}, not of {asked}",
            hint=f"if that is what you want: --restore {source}@{backup.snapshot} --as NAME",
        )
    if source != asked:
        job.reader.progress.info(f"The stream of {backup.name} says that it is of {source}")


def _plan(job: _Job) -> Plan:
    """How long the stream is, nobody knows; where its last shard begins is near enough."""
    return Plan(
        verb="restore",
        dataset=job.request.dataset if job.request.file else job.target,
        snapshot=job.backup.snapshot,
        stream_bytes=job.order[-1].offset or 0,
        chunks=len(job.order),
        providers=tuple({copy.remote.name: None for one in job.order for copy in one.copies}),
        file=tofile.named([Path(job.request.file)]) if job.request.file else None,
    )


def _result(job: _Job, stream_bytes: int, files: tuple[str, ...] = ()) -> Result:
    backup, request = job.backup, job.request
    planned: Counter[str] = Counter()
    for shard in job.order:
        planned[shard.copies[0].remote.name] += shard.size
    return Result(
        backup_id=backup.name,
        dataset=request.dataset,
        snapshot=backup.snapshot,
        target=job.target,
        stream_bytes=stream_bytes,
        stored_bytes=sum(shard.size for shard in job.order),
        chunks=len(job.order),
        seconds=0.0,
        providers=dict(planned if request.dry_run else job.reader.came),
        dry_run=request.dry_run,
        files=files,
        signed=False,
    )
