"""Stored objects from the providers that have them to those that lack them, as they are."""

from __future__ import annotations

import hashlib
import itertools
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from offsite import repository
from offsite.digests import digests
from offsite.errors import ConfigError, IntegrityError, OffsiteError, StoppedError
from offsite.history import Copy, History
from offsite.manifest import IndexRef, Receipt
from offsite.mirror import Mirror
from offsite.ordered import crew_of, in_order, waking
from offsite.progress import Progress
from offsite.receipts import pack
from offsite.remote import Remote
from offsite.slots import Arena, Slots, Span, whole_pages
from offsite.sources import Sources

_AT_ONCE = 4  # chunks on their way


@dataclass(frozen=True)
class Lost:
    """A chunk that no provider has undamaged."""

    number: int
    why: IntegrityError


@dataclass(frozen=True)
class Relay:
    """Copies the objects of one backup within an arena, also from ``others``: whole copies of it on
    remotes that are not the mirror's."""

    backup_id: str
    mirror: Mirror
    arena: Arena
    progress: Progress
    others: tuple[Remote, ...] = ()

    def catch_up(
        self, history: History, receipts: Sequence[Receipt], halt: threading.Event
    ) -> Lost | None:
        """Give every live remote what it lacks of the chunks of ``receipts`` and of their indexes.

        The first chunk that cannot be had is returned; all get those before it. A remote that
        cannot be written to is dropped. Raises IntegrityError for an index that no provider has
        undamaged, ConfigError if there is no memory for a chunk, ProviderError, StoppedError.
        """
        copies = sorted(history.copies, key=lambda copy: -len(copy.chunks))
        sources = Sources([*self.others, *(copy.remote for copy in copies)], self.progress)
        lacking = pack(one for one in receipts if _lack(copies, one))
        for copy in copies:
            self._disown(copy)
        with waking(halt, sources.abort):
            lost = self._copy_chunks(sources, lacking, copies, halt)
            whole = len(receipts) if lost is None else lost.number
            references = _telling_of(history.references, whole)
            for copy in copies:
                for reference in references[copy.indexes :]:
                    self._copy_index(sources, reference, copy.remote.name)
        return lost

    def copy_manifest(self, holders: Sequence[Remote], sha256: str, names: Sequence[str]) -> None:
        """Finish the backup on the remotes of these names. Raises IntegrityError, ProviderError."""
        path = repository.object_path(self.backup_id, repository.MANIFEST)
        for holder in holders:
            sealed = memoryview(holder.get(path, limit=repository.DOCUMENT_LIMIT))
            if hashlib.sha256(sealed).hexdigest() == sha256:
                self.mirror.put(path, sealed, digests(self.mirror.hash_kinds, sealed), only=names)
                return
        raise IntegrityError(f"the manifest of backup {self.backup_id} changed meanwhile")

    def _disown(self, copy: Copy) -> None:
        """No index of another continuation may vouch for a chunk that is going to be ours."""
        if not copy.strays:
            return
        stray = repository.object_path(self.backup_id, repository.index_name(copy.indexes))
        try:
            copy.remote.delete(stray)
        except StoppedError:
            raise
        except OffsiteError as error:
            self.mirror.drop(copy.remote.name, error)
            self.mirror.check_live()

    def _copy_chunks(
        self,
        sources: Sources,
        lacking: Sequence[Receipt],
        copies: Sequence[Copy],
        halt: threading.Event,
    ) -> Lost | None:
        if not lacking:
            return None
        largest, names = 0, set[str]()
        for receipt in lacking:
            largest = max(largest, receipt.size)
            names.update(_lack(copies, receipt))
        self.progress.info(f"Copying {len(lacking)} chunks to {', '.join(sorted(names))}")
        count = min(_AT_ONCE, self.arena.size // whole_pages(largest))
        if not count:
            raise ConfigError(
                f"MEMORY_LIMIT leaves no room to copy chunks of {largest} bytes",
                hint="this backup was begun with a larger one: set MEMORY_LIMIT as it was then",
            )
        slots = Slots(self.arena, 0, count, largest)
        lost: list[Lost] = []

        def work(item: tuple[Receipt, list[str], Span]) -> None:
            receipt, names, slot = item
            try:
                self._copy_chunk(sources, receipt, names, slot)
            except IntegrityError as error:
                lost.append(Lost(receipt.number, error))
            finally:
                slots.give(slot)

        def items() -> Iterator[tuple[Receipt, list[str], Span]]:
            for receipt in lacking:
                slot = slots.take(halt)
                if lost:
                    return
                yield receipt, _lack(copies, receipt), slot

        with crew_of(slots.count) as crew:
            for _ in in_order(crew, work, items(), halt):
                pass
        return min(lost, key=lambda one: one.number, default=None)

    def _copy_chunk(
        self, sources: Sources, receipt: Receipt, names: Sequence[str], slot: Span
    ) -> None:
        if not self._live(names):
            return
        path = repository.object_path(self.backup_id, repository.chunk_name(receipt.number))
        body = self.arena.view(slot.head(receipt.size))
        sources.get(path, body, lambda: _check(body, receipt.sha256))
        self.mirror.put(path, body, digests(self.mirror.hash_kinds, body), only=names)

    def _copy_index(self, sources: Sources, reference: IndexRef, name: str) -> None:
        if not self._live([name]):
            return
        path = repository.object_path(self.backup_id, reference.name)
        body = memoryview(bytearray(reference.size))
        sources.get(path, body, lambda: _check(body, reference.sha256))
        self.mirror.put(path, body, digests(self.mirror.hash_kinds, body), only=[name])

    def _live(self, names: Collection[str]) -> bool:
        """Whether a remote of these names still wants what is read for it."""
        return any(remote.name in names for remote in self.mirror.live)


def _lack(copies: Sequence[Copy], receipt: Receipt) -> list[str]:
    """The providers that have not got the chunk."""
    return [copy.remote.name for copy in copies if receipt.number not in copy.chunks]


def _telling_of(references: Sequence[IndexRef], chunks: int) -> list[IndexRef]:
    """The indexes that tell of the first so many chunks, and of no other."""
    ends = itertools.accumulate(reference.chunks for reference in references)
    return [one for one, end in zip(references, ends, strict=True) if end <= chunks]


def _check(body: memoryview, sha256: str) -> None:
    if hashlib.sha256(body).hexdigest() != sha256:
        raise IntegrityError("it is not the object that was stored")
