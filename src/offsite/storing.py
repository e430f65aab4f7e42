"""One backup to the providers that stand alike: its chunks, indexes and, last, its manifest."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import msgspec

from offsite import (
    catalog,
    connect,
    figures,
    history,
    lineage,
    manifest,
    repository,
    sending,
    unreadable,
)
from offsite.bases import Base
from offsite.catalog import Backup
from offsite.config import Config
from offsite.errors import IntegrityError, OffsiteError, ProviderError, StoppedError
from offsite.history import History
from offsite.indexes import IndexWriter
from offsite.journal import Journal
from offsite.manifest import Head, Manifest, SendFacts, Unchanged
from offsite.mirror import Mirror
from offsite.pipeline import Engine, SealJob
from offsite.progress import Progress
from offsite.relay import Relay
from offsite.remote import Remote
from offsite.repository import Author, Keyring
from offsite.seal import Sealed
from offsite.sending import Sender
from offsite.subject import Subject, let_go, utc

_MANY = 200_000  # chunks; as many of 32 MiB have 6 TB


@dataclass(frozen=True)
class Result:
    """What was done (or, for ``dry_run``, would be). Sizes in bytes; ``failed`` says why.

    ``base`` is the snapshot that an increment stands on. ``sent_bytes`` came out of zfs send in
    this run; ``resumed_chunks`` were stored before it. In a ``dry_run`` ``stream_bytes`` is None if
    zfs does not tell, and the providers ``complete_on`` have all of it already.
    """

    backup_id: str
    dataset: str
    snapshot: str
    type: str
    stream_bytes: int | None
    stored_bytes: int
    chunks: int
    seconds: float
    providers: tuple[str, ...]
    failed: Mapping[str, str]
    dry_run: bool
    sent_bytes: int = 0
    resumed_chunks: int = 0
    base: str | None = None
    complete_on: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Run:
    """What one backup works with. ``mark`` gets its id when providers know of it, before its stream
    begins."""

    config: Config
    author: Author
    engine: Engine[SealJob, Sealed]
    mirror: Mirror
    stop: threading.Event
    progress: Progress
    mark: Callable[[str], object]


@dataclass(frozen=True)
class Done:
    """What is stored now, and what of it was sent and what was there."""

    manifest: Manifest
    sent_bytes: int
    resumed_chunks: int


def send(
    work: Run, subject: Subject, begun: Backup | None, previous: str | None, names: Sequence[str]
) -> Done:
    """Move the stream and commit: chunks, indexes, manifest, in this order."""
    with subject.held(connect.host(work.config), names, work.progress):
        head = begun.head if begun and begun.head else _begin(work, subject)
        indexes = IndexWriter(work.mirror, work.author, head, Journal(head.id))
        sender = Sender(
            subject.zfs,
            subject.snapshot,
            subject.begins_at,
            work.engine,
            indexes,
            work.stop,
            work.progress,
        )
        properties = subject.properties()
        # Of what is sent raw the wrapped key goes with the stream's BEGIN, and so with one run.
        salt = subject.salt() if begun is None and lineage.is_raw(head) else 0
        stored = begun.held if begun else 0
        failed_before, found = indexes.journal.failed, None
        try:
            found = _find(work, sender, begun)
            if found is not None:
                found = _level(work, head, found)
                stored = len(found.receipts)
            sent = _move(work, sender, found)
            indexes.flush()
            salt = salt if salt and salt == subject.salt() else 0
        except StoppedError as stopped:
            name = subject.snapshot.full_name
            there = figures.count(_kept(indexes, stored), "chunk")
            raise StoppedError(
                f"stopped; {there} stored, but {name} is not backed up",
                hint="the same command goes on from there; see: offsite --list "
                f"{head.dataset.name}",
            ) from stopped
        except OffsiteError as error:
            told = unreadable.explained(error, sender, found, failed_before)
            _keep(indexes, stored, told)
            if told is error:
                raise
            raise told from error
        signed = _commit(indexes, properties, previous, subject.unchanged, salt)
    # What began it may have been killed, and hold the snapshot for providers that are not of this
    # run: the journal reminds the next one of them.
    host = connect.host(work.config)
    if begun is None or let_go(subject.zfs, subject.snapshot.full_name, host, (), work.progress):
        indexes.journal.remove()
    return Done(signed, sent, stored)


def _begin(work: Run, subject: Subject) -> Head:
    estimate = subject.estimate(work.config)
    if subject.base is not None:
        _tell_if_large(estimate or 0, subject.base, work.progress)
    _tell_if_many(estimate or 0, work.config.chunk_size, work.progress)
    return subject.head(work.config, work.author, estimate or 0)


def _tell_if_large(estimate: int, base: Base, progress: Progress) -> None:
    full = base.chain[0].manifest
    if estimate > full.stream_bytes / 2:
        progress.info(
            f"This increment has about {figures.size(estimate)}, more than half of the full"
            f" backup @{full.head.snapshot.name} ({figures.size(full.stream_bytes)}): a new chain"
            " (--full) may be worth it"
        )


def _tell_if_many(estimate: int, chunk_size: int, progress: Progress) -> None:
    """Now, for it stays so: see README, "What it does not do yet"."""
    chunks = estimate // chunk_size
    if chunks > _MANY:
        progress.info(
            f"These will be about {chunks:,} chunks of {figures.size(chunk_size)}: with larger ones"
            " (SHARD_SIZE) a restore takes less memory"
        )


def _kept(indexes: IndexWriter, stored: int) -> int:
    """How many chunks there are; ``stored`` were when the run began."""
    return indexes.chunks if indexes.references else stored


def _keep(indexes: IndexWriter, stored: int, error: OffsiteError) -> None:
    """What a failed run still can do, and what its error should tell."""
    with suppress(OffsiteError):  # what the providers know spares another machine work
        indexes.flush()
    if not isinstance(error, IntegrityError) and _kept(indexes, stored):
        kept = "what is stored is kept: the same command goes on from there"
        error.hint = f"{error.hint}; {kept}" if error.hint else kept


def _find(work: Run, sender: Sender, begun: Backup | None) -> History | None:
    """What is stored of the backup that was begun."""
    head, mirror = sender.head, work.mirror
    for remote in mirror.live:
        _publish_format(remote, mirror)
    mirror.check_live()
    if begun is None:
        return None
    if head.host != connect.host(work.config):
        work.progress.warning(
            f"this backup was begun on {head.host}: let it run on one machine at a time"
        )
    keyring = connect.catalog_keyring(work.config)
    return history.of_unfinished(head.id, mirror, keyring, sender.indexes.journal)


def _level(work: Run, head: Head, stored: History) -> History:
    """Give all providers what is ``stored``, and return what of it all of them have then."""
    names = [remote.name for remote in work.mirror.live]
    work.progress.start(sending.plan(head, names, stored.receipts))
    relay = Relay(head.id, work.mirror, work.engine.arena, work.progress)
    work.mark(head.id)
    lost = relay.catch_up(stored, stored.receipts, work.stop)
    if lost is None:
        return stored
    work.progress.warning(f"{lost.why}; it is sent again, with what follows it")
    return replace(stored, receipts=stored.receipts[: lost.number])


def _move(work: Run, sender: Sender, stored: History | None) -> int:
    """Send what is not ``stored``; the bytes that came out of zfs."""
    if stored is not None:
        return sender.send_rest(stored)
    head = sender.head
    work.progress.start(sending.plan(head, [remote.name for remote in work.mirror.live], []))
    sender.indexes.begin()
    work.mark(head.id)
    return sender.send()


def spread(work: Run, already: Backup, others: Sequence[Remote] = ()) -> Done:
    """The backup is complete somewhere: the other providers get what they lack of it.

    ``others`` are for reading only. A provider with a manifest of its own keeps what it has: two
    runs that did not know of each other may have finished what a third one began.
    """
    signed, mirror = already.manifest, work.mirror
    name = f"{signed.head.dataset.name}@{signed.head.snapshot.name}"
    keyring = connect.catalog_keyring(work.config)
    own = _with_their_own(work, already, keyring)
    mirror.check_live()
    lacking = [one for one in mirror.live if one.name not in {*already.providers, *own}]
    if not lacking:
        work.progress.info(f"{name} is backed up already")
        return Done(signed, 0, signed.chunks)
    holders = [one for one in (*mirror.live, *others) if one.name in already.providers]
    receipts = repository.load_receipts(signed, holders, keyring)
    stored = history.of_complete(signed, receipts, mirror, keyring)
    stored = replace(stored, copies=[one for one in stored.copies if one.remote.name not in own])
    work.progress.info(f"{name} is complete on {', '.join(already.providers)}")
    known = msgspec.structs.replace(signed.head, estimate=signed.stream_bytes)
    work.progress.start(sending.plan(known, [one.name for one in lacking], receipts))
    for remote in lacking:
        _publish_format(remote, mirror)
    relay = Relay(signed.head.id, mirror, work.engine.arena, work.progress, tuple(others))
    lost = relay.catch_up(stored, receipts, work.stop)
    if lost is not None:
        raise lost.why
    assert already.signed is not None
    work.mark(already.id)
    relay.copy_manifest(holders, already.signed.sha256, [remote.name for remote in lacking])
    return Done(signed, 0, signed.chunks)


def _with_their_own(work: Run, already: Backup, keyring: Keyring) -> set[str]:
    """The providers with another complete backup of this id; those that do not tell are dropped."""
    assert already.signed is not None
    own: set[str] = set()
    for remote in work.mirror.live:
        if remote.name in already.providers:
            continue
        try:
            found = catalog.read_backup(remote, already.id, keyring)
        except IntegrityError:  # it has no manifest, and its first index is damaged
            continue
        except ProviderError as error:
            work.mirror.drop(remote.name, error)
            continue
        if found is not None and found.signed and found.signed.sha256 == already.signed.sha256:
            continue  # it lacks something else
        if found is not None and found.status in {"sealed", "unreadable"}:
            why = f"it has another manifest of backup {already.id} ({found.note})"
            work.mirror.drop(remote.name, ProviderError(why))
        elif found is not None and found.status == "complete":
            own.add(remote.name)
            work.progress.info(
                f"{remote.name} has another backup {already.id}, complete: it stays as it is"
            )
    return own


def _publish_format(remote: Remote, mirror: Mirror) -> None:
    try:
        repository.publish_format(remote)
    except StoppedError:
        raise
    except OffsiteError as error:
        mirror.drop(remote.name, error)


def _commit(
    indexes: IndexWriter,
    properties: dict[str, manifest.Property],
    previous: str | None,
    unchanged: Sequence[Unchanged] = (),
    salt: int = 0,
) -> Manifest:
    """Sign the manifest and write it last: from here on the backup exists."""
    head = indexes.head
    send = SendFacts(head.send.flags, head.send.zfs, indexes.features or 0)
    signed = Manifest(
        format=manifest.FORMAT_VERSION,
        head=msgspec.structs.replace(head, send=send),
        finished=utc(datetime.now(UTC)),
        chunks=indexes.chunks,
        stream_bytes=indexes.stream_bytes,
        stored_bytes=indexes.stored_bytes,
        indexes=indexes.references,
        properties=properties,
        set=head.set.id if head.set else None,
        unchanged=list(unchanged) or msgspec.UNSET,
        previous=previous,
        pbkdf2salt=salt or msgspec.UNSET,
    )
    path = repository.object_path(head.id, repository.MANIFEST)
    sealed = repository.seal_document(signed, indexes.author)
    indexes.journal.sign()
    indexes.mirror.put_document(path, sealed)
    return signed


def result_of(done: Done, mirror: Mirror, seconds: float) -> Result:
    signed = done.manifest
    return Result(
        backup_id=signed.head.id,
        dataset=signed.head.dataset.name,
        snapshot=signed.head.snapshot.name,
        type="full" if signed.head.base is None else "incremental",
        stream_bytes=signed.stream_bytes,
        stored_bytes=signed.stored_bytes,
        chunks=signed.chunks,
        seconds=seconds,
        providers=tuple(remote.name for remote in mirror.live),
        failed={name: str(why) for name, why in mirror.failed.items()},
        dry_run=False,
        sent_bytes=done.sent_bytes,
        resumed_chunks=done.resumed_chunks,
        base=signed.head.base.snapshot_name if signed.head.base else None,
    )
