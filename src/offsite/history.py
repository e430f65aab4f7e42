"""What is stored of an unfinished backup, and where: read from the providers and the journal."""

from __future__ import annotations

import hashlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from offsite import repository
from offsite.digests import cheapest
from offsite.errors import IntegrityError, KeysError, ProviderError
from offsite.journal import Journal
from offsite.manifest import Index, IndexRef, Manifest, Receipt
from offsite.mirror import Mirror
from offsite.ordered import few_at_a_time
from offsite.receipts import Packer, Receipts, pack
from offsite.remote import Remote
from offsite.repository import Keyring

_NEVER = sys.maxsize


@dataclass(frozen=True)
class Copy:
    """One provider's share: its ``chunks`` by number, and how many of the ``references`` it has.

    ``strays``: behind those it has an index that tells something else.
    """

    remote: Remote
    chunks: frozenset[int]
    indexes: int
    strays: bool


@dataclass(frozen=True)
class History:
    """The chunks of a backup that some provider has, from the first on without a gap.

    ``receipts`` are theirs, ``references`` the indexes that hold the first of them (index 0, which
    holds none, is always there). ``features`` are the stream's, None before its first chunk.
    """

    references: list[IndexRef]
    receipts: Sequence[Receipt]
    features: int | None
    copies: list[Copy]

    @property
    def seam_receipt(self) -> int | None:
        """The number of the receipt in which the last seam ends."""
        seam = self.receipts[-1].seam if self.receipts else None
        if seam is None:
            return None
        ends = (r.number for r in reversed(self.receipts) if r.offset < seam.end)
        return next(ends, None)

    def up_to_seam(self) -> Receipts:
        """The receipts up to the last seam's end; the chunk where that lies keeps a surplus."""
        number = self.seam_receipt
        assert number is not None
        last = self.receipts[number]
        assert last.seam is not None
        length = last.seam.end - last.offset
        cut = msgspec.structs.replace(
            last,
            length=length,
            surplus=last.surplus + last.length - length,
            plain_xxh128=last.seam.head_xxh128 or last.plain_xxh128,
        )
        return pack(itertools.chain(self.receipts[:number], [cut]))


@dataclass(frozen=True)
class _Told:
    """What one provider's own indexes tell, and the sizes of its objects."""

    backup_id: str
    remote: Remote
    sizes: dict[str, int]
    references: list[IndexRef]
    receipts: Sequence[Receipt]
    features: int | None


def of_unfinished(backup_id: str, mirror: Mirror, keyring: Keyring, journal: Journal) -> History:
    """What the mirror's remotes have of a backup without a manifest; it drops those that fail.

    The provider that tells most is believed, and the journal if it goes on where that ends. Raises
    IntegrityError if no provider has the backup's first index.
    """
    told = _told_by_all(backup_id, mirror, keyring)
    leader = max(told, key=lambda one: (len(one.receipts), len(one.references)))
    if not leader.references:
        raise IntegrityError(f"backup {backup_id} has no index that could be continued")
    receipts, features = _with_journal(leader, journal.read())
    return _history(leader.references, receipts, features, told, mirror)


def of_complete(
    signed: Manifest, receipts: Sequence[Receipt], mirror: Mirror, keyring: Keyring
) -> History:
    """What the mirror's remotes have of a backup with a manifest; it drops those that fail."""
    told = _told_by_all(signed.head.id, mirror, keyring)
    return _history(signed.indexes, receipts, signed.head.send.features, told, mirror)


def _told_by_all(backup_id: str, mirror: Mirror, keyring: Keyring) -> list[_Told]:
    told: list[_Told] = []
    for remote in mirror.live:
        try:
            told.append(_told(remote, backup_id, keyring))
        except ProviderError as error:
            mirror.drop(remote.name, error)
    mirror.check_live()
    return told


def _told(remote: Remote, backup_id: str, keyring: Keyring) -> _Told:
    sizes = repository.object_sizes(remote, backup_id)
    references: list[IndexRef] = []
    packer, last = Packer(), list[Receipt]()
    features: int | None = None
    for name, sealed in _indexes(remote, backup_id, sizes):
        index = _follows(sealed, backup_id, references, last, keyring)
        if index is None:
            break
        digest = hashlib.sha256(sealed).hexdigest()
        references.append(IndexRef(name, len(sealed), digest, len(index.receipts)))
        packer.add(index.receipts)
        last = index.receipts[-1:] or last
        features = index.features if features is None else features
    receipts = packer.done()
    return _Told(backup_id, remote, sizes, references, receipts, features)


def _indexes(remote: Remote, backup_id: str, sizes: dict[str, int]) -> Iterator[tuple[str, bytes]]:
    """All index objects in order, up to the first that is missing, some of them read ahead.

    One that is too large to be read is as good as none.
    """
    names: list[str] = []
    while sizes.get(name := repository.index_name(len(names)), _NEVER) <= repository.DOCUMENT_LIMIT:
        names.append(name)

    def read(name: str) -> bytes:
        path = repository.object_path(backup_id, name)
        return remote.get(path, limit=repository.DOCUMENT_LIMIT)

    yield from zip(names, few_at_a_time(read, names), strict=True)


def _follows(
    sealed: bytes,
    backup_id: str,
    references: Sequence[IndexRef],
    last: Sequence[Receipt],
    keyring: Keyring,
) -> Index | None:
    """The index in ``sealed`` if it goes on where the ones before it end, else None.

    ``last``: the last receipt before it, if there is one.
    """
    try:
        signed = repository.open_document(sealed, Index, keyring)
    except (IntegrityError, KeysError):  # garbage, or sealed by a stranger to himself
        return None
    index = signed.document
    previous = references[-1].sha256 if references else None
    place = (backup_id, len(references), previous)
    if not signed.trusted or (index.id, index.number, index.previous) != place:
        return None
    return index if _contiguous([*last, *index.receipts], from_start=not last) else None


def _contiguous(receipts: Sequence[Receipt], *, from_start: bool) -> bool:
    if from_start and receipts and (receipts[0].number, receipts[0].offset) != (0, 0):
        return False
    pairs = itertools.pairwise(receipts)
    return all(
        (new.number, new.offset) == (old.number + 1, old.offset + old.length) for old, new in pairs
    )


def _with_journal(leader: _Told, entries: Iterable[Index]) -> tuple[Sequence[Receipt], int | None]:
    """The leader's receipts, and those of the journal behind them if both tell one story.

    The journal's own last word counts where they overlap: a backup that was continued has a receipt
    cut short in the journal that an index on the provider may still tell in full.
    """
    packer, features = Packer(), None
    for entry in entries:
        packer.add(entry.receipts)
        features = entry.features if features is None else features
    journal, told = packer.done(), leader.receipts
    same = _common(journal, told)
    if len(journal) <= same or same < min(len(journal), len(told)):
        return told, leader.features
    if not _contiguous(journal, from_start=True):
        return told, leader.features
    return journal, features if leader.features is None else leader.features


def _common(one: Sequence[Receipt], other: Sequence[Receipt]) -> int:
    """How many receipts from the first on are of the same objects."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if (mine.sha256, mine.offset) != (theirs.sha256, theirs.offset):
            break
        count += 1
    return count


def _history(
    references: Sequence[IndexRef],
    receipts: Sequence[Receipt],
    features: int | None,
    told: Sequence[_Told],
    mirror: Mirror,
) -> History:
    copies: list[Copy] = []
    for one in told:
        try:
            copies.append(_copy(one, references, receipts))
        except ProviderError as error:
            mirror.drop(one.remote.name, error)
    mirror.check_live()
    stored = 0
    while stored < len(receipts) and any(stored in copy.chunks for copy in copies):
        stored += 1
    return History(list(references), receipts[:stored], features, copies)


def _copy(told: _Told, references: Sequence[IndexRef], receipts: Sequence[Receipt]) -> Copy:
    """Behind what its own indexes vouch for, a provider's own hash must, or the chunk itself.

    Chunks behind a receipt that contradicts ours are of another continuation.
    """
    vouched = _common(told.receipts, receipts)
    contradicts = vouched < min(len(told.receipts), len(receipts))
    chunks = set[int]()
    for receipt in receipts:
        name = repository.chunk_name(receipt.number)
        if told.sizes.get(name) != receipt.size:
            continue
        if receipt.number >= vouched and (
            contradicts or not _confirmed(told.backup_id, told.remote, receipt)
        ):
            continue
        chunks.add(receipt.number)
    same = 0
    for ours, theirs in zip(references, told.references, strict=False):
        if ours != theirs:
            break
        same += 1
    return Copy(told.remote, frozenset(chunks), same, strays=len(told.references) > same)


def _confirmed(backup_id: str, remote: Remote, receipt: Receipt) -> bool:
    """Not by the size: another continuation's chunk often has the same."""
    path = repository.object_path(backup_id, repository.chunk_name(receipt.number))
    digests = {"sha256": receipt.sha256, **receipt.hashes}
    if cheapest(remote.hash_kinds, digests):
        return remote.holds(path, receipt.size, digests)
    body = remote.get(path, limit=receipt.size)
    return hashlib.sha256(body).hexdigest() == receipt.sha256
