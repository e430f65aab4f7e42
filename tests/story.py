"""What an interrupted run leaves on providers, made without a stream: chunks of noise, receipts.

A *story* is one way a backup went on: chunks of two stories have one number, place and size, and
other bytes. Indexes and journals are written and read by the product's own code.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from offsite import history, repository
from offsite.history import History
from offsite.indexes import IndexWriter
from offsite.journal import Journal
from offsite.manifest import Index, Receipt, Seam
from offsite.mirror import Mirror
from offsite.progress import Progress, Silent
from offsite.remote import Remote
from tests import repo
from tests.interrupted import Provider
from tests.repo import Keys
from tests.storage.memory import MemoryRemote

KEYS = Keys()
HEAD = repo.head(repo.snapshot())
FEATURES = 5
LENGTH = 1000  # of a chunk in the stream, in bytes
SIZE = 50  # of a chunk as it is stored


def body(number: int, story: str = "") -> bytes:
    return repo.noise(SIZE, hash_of(f"{story} {number}"))


def hash_of(text: str) -> int:
    return int(hashlib.sha256(text.encode()).hexdigest(), 16)


def receipt(number: int, story: str = "") -> Receipt:
    stored = body(number, story)
    return Receipt(
        number=number,
        offset=number * LENGTH,
        length=LENGTH,
        size=SIZE,
        sha256=hashlib.sha256(stored).hexdigest(),
        plain_xxh128=f"{hash_of(f'plain {story} {number}') % 2**128:032x}",
        hashes={"md5": hashlib.md5(stored, usedforsecurity=False).hexdigest()},
    )


def receipts(count: int, other: int | None = None, story: str = "other") -> list[Receipt]:
    """Of the chunks 0, 1, …; from the number ``other`` on those of another story."""
    return [receipt(n, "" if other is None or n < other else story) for n in range(count)]


def seam(begin: int, end: int, head: str | None = "ab" * 16) -> Seam:
    return Seam(
        object=7,
        offset=begin,
        begin=begin,
        end=end,
        checksum="12" * 32,
        sha256="34" * 32,
        head_xxh128=head,
    )


def cut(one: Receipt, surplus: int = 100) -> Receipt:
    """The receipt of a chunk where a joint lies."""
    length = one.length - surplus
    return msgspec.structs.replace(one, length=length, surplus=surplus, plain_xxh128="cd" * 16)


def path(name: str | int) -> str:
    """Of an object, or of the chunk of this number."""
    return repository.object_path(
        repo.ID, repository.chunk_name(name) if isinstance(name, int) else name
    )


def put_chunks(remote: MemoryRemote, *numbers: int, story: str = "") -> None:
    for number in numbers:
        remote.objects[path(number)] = body(number, story)


@contextmanager
def mirror_of(*remotes: Remote, progress: Progress | None = None) -> Iterator[Mirror]:
    mirror = Mirror(remotes, in_flight=2, progress=progress or Silent())
    try:
        yield mirror
    finally:
        mirror.close()


@contextmanager
def writing(journal: Journal, *remotes: Remote, keys: Keys = KEYS) -> Iterator[IndexWriter]:
    with mirror_of(*remotes) as mirror:
        yield IndexWriter(mirror, keys.author, HEAD, journal, features=FEATURES)


def tell(
    journal: Journal, told: Sequence[Receipt], *remotes: MemoryRemote, story: str = "other"
) -> None:
    """Store chunks, receipts and indexes, as a run that was stopped does."""
    with writing(journal, *remotes) as writer:
        writer.begin()
        for one in told:
            for remote in remotes:
                mine = receipt(one.number).sha256 == one.sha256
                put_chunks(remote, one.number, story="" if mine else story)
            writer.add(one)
        writer.flush()


def index_in(remote: MemoryRemote, number: int, keys: Keys = KEYS) -> Index:
    sealed = remote.objects[path(repository.index_name(number))]
    return repository.open_document(sealed, Index, keys.keyring()).document


def put_index(remote: MemoryRemote, index: Index, keys: Keys = KEYS) -> None:
    name = repository.index_name(index.number)
    remote.objects[path(name)] = repository.seal_document(index, keys.author)


def read(
    *remotes: Remote, journal: Journal | None = None, progress: Progress | None = None
) -> History:
    """What the product knows of the backup; without a journal: on another machine."""
    nothing = Journal(repo.ID, Path("/nonexistent"))
    with mirror_of(*remotes, progress=progress) as mirror:
        return history.of_unfinished(repo.ID, mirror, KEYS.keyring(), journal or nothing)


def copied(remote: Provider, name: str) -> Provider:
    """Another provider with the same objects."""
    made = Provider(name, remote.hash_kind)
    made.objects = dict(remote.objects)
    return made
