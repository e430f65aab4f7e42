"""The data path, both ways: streams through slots, workers and remotes, in order, bounded.

``store`` turns a send stream into stored chunks and their receipts; ``fetch`` turns receipts back
into the stream's bytes. Both are generators that a verb drives in a plain loop.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import Generic, Protocol

from offsite import manifest, repository, seal
from offsite.age import Identities, Recipients
from offsite.budget import Budget
from offsite.errors import IntegrityError, StoppedError
from offsite.manifest import Manifest, Receipt
from offsite.mirror import Mirror
from offsite.ordered import crew_of, in_order, waking
from offsite.progress import ChunkDone, Progress
from offsite.seal import Sealed
from offsite.slots import Arena, Slots, Span, whole_pages
from offsite.sources import Sources
from offsite.workers import Answer, Job, Workers
from offsite.zfs.seams import Seam
from offsite.zfs.stream import ChunkIndex, Follower

# At a time: the first must come soon, for what zfs has received need not be fetched again after an
# interruption, and a few requests fill any line.
DOWNLOADS = 4


@dataclass(frozen=True)
class SealJob:
    plain: Span
    sealed: Span
    head: int
    hashes: tuple[str, ...]


@dataclass(frozen=True)
class OpenJob:
    sealed: Span
    plain: Span
    receipt: Receipt


@dataclass(frozen=True)
class Engine(Generic[Job, Answer]):
    """Worker processes and the memory they share with us; made before any thread starts."""

    budget: Budget
    arena: Arena
    workers: Workers[Job, Answer]

    def parts(self, count: int) -> list[Engine[Job, Answer]]:
        """The same workers, and a share of the memory for each of ``count`` works at once."""
        return [
            replace(self, arena=arena, budget=replace(self.budget, arena=arena.size))
            for arena in self.arena.parts(count)
        ]

    def cut(self, plain: int, sealed: int, most: int | None = None) -> tuple[Slots, Slots]:
        """As many pairs of slots of these sizes (bytes) as fit; but ``most`` for plain ones.

        Raises ConfigError if no pair fits.
        """
        pairs = self.budget.pairs(whole_pages(plain) + whole_pages(sealed))
        first = min(pairs, most or pairs)
        behind = first * whole_pages(plain)
        return Slots(self.arena, 0, first, plain), Slots(self.arena, behind, pairs, sealed)


@contextmanager
def sealing(
    budget: Budget, recipients: Recipients, level: int, stop: threading.Event | None = None
) -> Iterator[Engine[SealJob, Sealed]]:
    """An engine that compresses at zstd ``level`` and encrypts to ``recipients``.

    Once ``stop`` is set no work can be done with it any more.
    """
    arena = Arena(budget.arena)

    def task(job: SealJob) -> Sealed:
        plain, sealed = arena.view(job.plain), arena.view(job.sealed)
        return seal.seal_chunk(
            plain, sealed, recipients, level=level, head=job.head, hashes=job.hashes
        )

    with closing(Workers(budget.workers, task, stop)) as workers:
        yield Engine(budget, arena, workers)


@contextmanager
def opening(
    budget: Budget, identities: Identities, stop: threading.Event | None = None
) -> Iterator[Engine[OpenJob, None]]:
    """An engine that verifies, decrypts and decompresses; ``stop`` as in ``sealing``."""
    arena = Arena(budget.arena)

    def task(job: OpenJob) -> None:
        _open(arena.view(job.sealed), arena.view(job.plain), job.receipt, identities)

    with closing(Workers(budget.workers, task, stop)) as workers:
        yield Engine(budget, arena, workers)


def _open(sealed: memoryview, plain: memoryview, receipt: Receipt, identities: Identities) -> None:
    # The signed hash first: nothing a stranger wrote gets as far as the decryption.
    if hashlib.sha256(sealed).hexdigest() != receipt.sha256:
        raise IntegrityError(f"chunk {receipt.number} is not the one that was stored")
    length = seal.open_chunk(sealed, plain, identities)
    expected = receipt.length + receipt.surplus
    if length != expected:
        raise IntegrityError(f"chunk {receipt.number} opens to {length} bytes, not {expected}")


class Source(Protocol):
    """A stream of bytes whose blocked reader can be woken."""

    def readinto(self, buffer: memoryview, /) -> int: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class _Chunk:
    number: int
    offset: int
    length: int
    slot: Span
    index: ChunkIndex

    @property
    def head(self) -> int:
        """Bytes of the chunk up to its seam; 0 if that is in an earlier chunk."""
        seam = self.index.seam
        return max(seam.place.end - self.offset, 0) if seam else 0


@dataclass(frozen=True)
class Upload:
    """Where ``store`` puts the chunks of which backup, and how it seals them.

    The stream begins with what ``known`` tells of, or behind it (``behind``). In the first case a
    chunk that has not changed is not stored again; ``differs`` is called with the number of the
    first that has.
    """

    backup_id: str
    chunk_size: int
    sealed_size: int
    engine: Engine[SealJob, Sealed]
    mirror: Mirror
    known: Sequence[Receipt] = ()
    behind: bool = False
    differs: Callable[[int], None] | None = None


def store(
    source: Source, follower: Follower, upload: Upload, halt: threading.Event, progress: Progress
) -> Generator[Receipt, None, None]:
    """Cut, seal and store the stream; yield the receipts in order, each once it is stored.

    Ends when ``source`` does. ``halt`` is the caller's way to stop (StoppedError); it is also set
    here when something fails, and the first failure is raised. What was stored stays stored.
    """
    engine, mirror = upload.engine, upload.mirror
    # Each worker has one, and one is filled. More would only be read too early, and to touch a page
    # for the first time and to give it back costs as much as the cipher.
    most = engine.budget.workers + 1
    plain_slots, sealed_slots = engine.cut(upload.chunk_size, upload.sealed_size, most)

    def seal_and_put(chunk: _Chunk) -> Receipt:
        sealed = sealed_slots.take(halt)
        try:
            kinds = tuple(sorted(mirror.hash_kinds - {"sha256"}))
            plain = chunk.slot.head(chunk.length)
            facts = engine.workers.call(SealJob(plain, sealed, chunk.head, kinds), halt)
            plain_slots.give(chunk.slot)
            path = repository.object_path(upload.backup_id, repository.chunk_name(chunk.number))
            body = engine.arena.view(sealed.head(facts.size))
            mirror.put(path, body, {**facts.hashes, "sha256": facts.sha256})
        finally:
            sealed_slots.give(sealed)
        progress.chunk(ChunkDone(chunk.number, chunk.length, facts.size))
        return _receipt(chunk, facts)

    chunks = _read_chunks(source, follower, upload, plain_slots, halt)
    in_flight = plain_slots.count + sealed_slots.count
    with waking(halt, source.kill, mirror.abort), crew_of(in_flight) as crew:
        # Behind a chunk that takes its time nothing counts as stored: not much may pile up there.
        yield from in_order(crew, seal_and_put, chunks, halt, ahead=in_flight)


def _read_chunks(
    source: Source, follower: Follower, upload: Upload, slots: Slots, halt: threading.Event
) -> Iterator[_Chunk]:
    arena, known = upload.engine.arena, upload.known
    number = offset = 0
    if upload.behind and known:
        number, offset = len(known), known[-1].offset + known[-1].length
        known = ()
    length, size = 1, 1
    while length == size:  # a short chunk is the last
        slot = slots.take(halt)
        size, length = slot.length, 0
        if number < len(known):
            length = _fill(source, arena.view(slot.head(known[number].length)), follower)
            if _is_known(arena.view(slot.head(length)), known[number]):
                follower.mark(arena.view(slot.head(length)))
                slots.give(slot)
                number, offset, size = number + 1, offset + length, length
                continue
            if halt.is_set():
                raise StoppedError("stopped")
            if length < known[number].length and not follower.ended:
                return  # the source died: what it would have sent may well be what is stored
            if upload.differs is not None:
                upload.differs(number)
            known = ()
        length += _fill(source, arena.view(slot)[length:], follower)
        if halt.is_set():  # the source was killed: what came is not the end of the stream
            raise StoppedError("stopped")
        if length:
            index = follower.mark(arena.view(slot.head(length)))
            yield _Chunk(number, offset, length, slot, index)
        number, offset = number + 1, offset + length


def _is_known(plain: memoryview, receipt: Receipt) -> bool:
    same = len(plain) == receipt.length
    return same and seal.plain_digest(plain) == receipt.plain_xxh128


def _fill(source: Source, view: memoryview, follower: Follower) -> int:
    filled = 0
    while filled < len(view):
        count = source.readinto(view[filled:])
        if count == 0:
            break
        follower.feed(view[filled : filled + count])
        filled += count
    return filled


def _receipt(chunk: _Chunk, facts: Sealed) -> Receipt:
    index = chunk.index
    return Receipt(
        number=chunk.number,
        offset=chunk.offset,
        length=chunk.length,
        size=facts.size,
        sha256=facts.sha256,
        plain_xxh128=facts.plain_xxh128,
        hashes=facts.hashes,
        first_record=index.first_record,
        first_object=index.first_object,
        first_write=index.first_write,
        object_at=index.object_at,
        range_at=index.range_at,
        seam=_seam(index.seam, facts.head_xxh128 if chunk.head else None) if index.seam else None,
    )


def _seam(seam: Seam, head_xxh128: str | None) -> manifest.Seam:
    place = seam.place
    return manifest.Seam(
        object=place.object,
        offset=place.offset,
        begin=place.begin,
        end=place.end,
        checksum=seam.checksum.hex(),
        sha256=seam.sha256,
        head_xxh128=head_xxh128,
        object_at=place.object_at,
        range_at=place.range_at,
    )


@dataclass(frozen=True)
class _Pair:
    receipt: Receipt
    sealed: Span
    plain: Span


@dataclass(frozen=True)
class Download:
    """What ``fetch`` reads, from where, and with what."""

    manifest: Manifest
    receipts: Sequence[Receipt]
    sources: Sources
    engine: Engine[OpenJob, None]


def fetch(
    download: Download, halt: threading.Event, progress: Progress
) -> Generator[memoryview, None, None]:
    """The stream's bytes, chunk by chunk in order; each view is valid until the next is asked for.

    Every chunk is compared with its signed hash before it is decrypted, and comes from another
    provider if one fails. ``halt`` as in ``store``.
    """
    engine, head = download.engine, download.manifest.head
    largest = max(receipt.size for receipt in download.receipts)
    # Those on their way, and one for each worker that waits for its turn. No more: see ``store``.
    most = DOWNLOADS + engine.budget.workers
    plain_slots, sealed_slots = engine.cut(head.chunk_size, largest, most)

    def get_and_open(pair: _Pair) -> _Pair:
        receipt = pair.receipt
        path = repository.object_path(head.id, repository.chunk_name(receipt.number))
        sealed = pair.sealed.head(receipt.size)
        job = OpenJob(sealed, pair.plain, receipt)

        def check() -> None:
            engine.workers.call(job, halt)

        download.sources.get(path, engine.arena.view(sealed), check)
        progress.chunk(ChunkDone(receipt.number, receipt.length, receipt.size))
        return pair

    def pairs() -> Iterator[_Pair]:
        for receipt in download.receipts:
            yield _Pair(receipt, sealed_slots.take(halt), plain_slots.take(halt))

    # Slots are taken in the order of the stream, so the chunk that the stream waits for always has
    # its pair, and there are never more chunks ahead than pairs: no deadlock.
    threads = min(plain_slots.count, DOWNLOADS)
    with waking(halt, download.sources.abort), crew_of(threads) as crew:
        for pair in in_order(crew, get_and_open, pairs(), halt, ahead=plain_slots.count):
            yield engine.arena.view(pair.plain.head(pair.receipt.length))
            plain_slots.give(pair.plain)
            sealed_slots.give(pair.sealed)
