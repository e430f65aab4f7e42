"""Small real backups in memory: keys, streams, and the product's own code to store and read them.

Nothing here stands in for Offsite. A backup is made by ``sending.Sender`` with worker processes and
a program that writes the stream, and is read by ``links.find`` and ``pipeline.fetch``.
"""

from __future__ import annotations

import hashlib
import random
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from offsite import age, catalog, chain, links, pipeline, repository, sshsig, storing
from offsite.age import Identities, Recipients
from offsite.budget import Budget
from offsite.catalog import Catalog
from offsite.errors import OffsiteError
from offsite.indexes import IndexWriter
from offsite.journal import Journal
from offsite.keys import Signer, Trust
from offsite.links import Wanted
from offsite.manifest import (
    DatasetFacts,
    Head,
    Index,
    IndexRef,
    Manifest,
    Property,
    Receipt,
    SendFacts,
    SnapshotFacts,
)
from offsite.mirror import Mirror
from offsite.pipeline import Download
from offsite.progress import Silent
from offsite.remote import Remote
from offsite.repository import Author, Keyring
from offsite.sending import Sender
from offsite.sources import Sources
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.records import HEADER_SIZE, MAGIC, Kind

CHUNK = 4096
BUDGET = Budget(workers=2, arena=64 << 10, limit=1 << 30)  # three pairs of slots of such chunks
ID = "20260117t120000-0123456789abcdef"
DATASET = "tank/photos"
_PYTESTS_THREADS = frozenset(threading.enumerate())  # pytest-rerunfailures has one
LONG = 60.0  # seconds for what takes less than one, on a machine that is busy with other things


@dataclass(frozen=True)
class Keys:
    """The keys of one host."""

    identity: age.Identity = field(default_factory=age.generate_identity)
    catalog: age.Identity = field(default_factory=age.generate_identity)
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def public(self) -> str:
        return sshsig.public_line(self.signing)

    @property
    def author(self) -> Author:
        ours = self.identity.recipient
        return Author(Recipients((ours,)), Recipients((ours, self.catalog.recipient)), self.signing)

    def keyring(self, *accepted: str) -> Keyring:
        return Keyring(Identities((self.identity,)), self.trust(*accepted))

    def trust(self, *accepted: str) -> Trust:
        return Trust((Signer(self.public, "nas"),), accepted=accepted)


@dataclass
class Recorder(Silent):
    """A Progress that remembers what the user would be told."""

    warnings: list[str] = field(default_factory=list)
    drops: dict[str, str] = field(default_factory=dict)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def dropped(self, provider: str, why: str) -> None:
        self.drops[provider] = why


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not compress, the same in every run."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - data, not keys


def damaged(body: bytes) -> bytes:
    """The same with another last byte; whatever stands there, it is another one."""
    return body[:-1] + bytes([body[-1] ^ 1])


def record(kind: Kind, number: int = 0, offset: int = 0, payload: bytes = b"") -> bytes:
    """An OBJECT, WRITE or END record of a little-endian stream (zfs/records.py has the layout)."""
    header = bytearray(HEADER_SIZE)
    struct.pack_into("<I4xQ", header, 0, kind, number)
    if kind == Kind.WRITE:
        struct.pack_into("<QQ", header, 24, offset, len(payload))
    return bytes(header) + payload


def stream(guid: int, payloads: Iterable[bytes]) -> bytes:
    """A full send stream of the snapshot ``guid``: one file with these blocks."""
    begin = (Kind.BEGIN, 0, MAGIC, 1, 1768651200, 2, 0, guid, 0, b"tank/photos@monday")
    parts = [struct.pack("<IIQQQIIQQ256s", *begin), record(Kind.OBJECT, 8)]
    offset = 0
    for payload in payloads:
        parts.append(record(Kind.WRITE, 8, offset, payload))
        offset += len(payload)
    return b"".join([*parts, record(Kind.END)])


def snapshot(name: str = "monday", guid: int = 77, createtxg: int = 1000) -> Snapshot:
    return Snapshot(DATASET, name, guid, createtxg, 1768651200)


def manifest(of: Head, **more: Any) -> Manifest:
    """One that tells of one chunk, for what asks only for the head or for ``more``."""
    return Manifest(
        format=1,
        head=of,
        finished="2026-01-17T12:00:00Z",
        chunks=1,
        stream_bytes=1,
        stored_bytes=1,
        indexes=[],
        **more,
    )


def head(of: Snapshot, backup_id: str = ID, *, host: str = "nas") -> Head:
    return Head(
        id=backup_id,
        host=host,
        tool="offsite test",
        started="2026-01-17T12:00:00Z",
        dataset=DatasetFacts(of.dataset, 5555, "filesystem"),
        snapshot=SnapshotFacts(of.name, of.name, of.guid, of.createtxg, "2026-01-17T12:00:00Z"),
        send=SendFacts(["-L"], "zfs-2.2.2"),
        chunk_size=CHUNK,
        estimate=20_000,
        recipients="12" * 32,
    )


PROPERTIES = {
    "compression": Property("zstd", "local"),
    "recordsize": Property("131072", "default"),
}


def save(
    remotes: Sequence[Remote],
    author: Author,
    data: bytes,
    about: Head,
    *,
    previous: str | None = None,
) -> None:
    """Back up ``data``, the send stream of the snapshot that ``about`` tells of."""
    facts = about.snapshot
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "stream")
        path.write_bytes(data)
        zfs = Zfs(command=("/bin/sh", "-c", 'exec cat "$0"', str(path)))
        sent = snapshot(facts.source_name, facts.guid, facts.createtxg)
        with pipeline.sealing(BUDGET, author.chunks, 3) as engine:
            mirror = Mirror(remotes, in_flight=2, progress=Silent())
            writer = IndexWriter(mirror, author, about, Journal(about.id, Path(folder)))
            halt = threading.Event()
            try:
                for remote in remotes:
                    storing._publish_format(remote, mirror)
                writer.begin()
                Sender(zfs, sent, None, engine, writer, halt, Silent()).send()
                writer.flush()
                storing._commit(writer, PROPERTIES, previous)
            finally:
                mirror.close()
    settle()


@dataclass
class Attempt:
    """What came of a restore: the bytes that would have reached zfs, and the error."""

    data: bytes = b""
    error: OffsiteError | None = None
    told: Recorder = field(default_factory=Recorder)
    bytes_from: dict[str, int] = field(default_factory=dict)


def attempt(
    remotes: Sequence[Remote],
    keyring: Keyring,
    point: str | None = None,
    dataset: str = DATASET,
    *,
    lone: bool = False,
) -> Attempt:
    """Restore as far as it goes, with everything but zfs receive; ``lone``: whatever it is on."""
    made = Attempt()
    try:
        with pipeline.opening(BUDGET, keyring.identities) as engine:
            if lone:
                known = catalog.read(remotes, keyring).backups
                chosen = chain.choose(known, dataset, point, None)
                found = links._preflight(chosen, remotes, keyring, made.told)
            else:
                stored = links.read(remotes, keyring, made.told)
                (found,) = links.find(Wanted(dataset, point), stored, remotes, keyring, made.told)
            sources = Sources(found.remotes, made.told)
            made.bytes_from = sources.bytes_from
            download = Download(found.manifest, found.receipts, sources, engine)
            with closing(pipeline.fetch(download, threading.Event(), made.told)) as pieces:
                for piece in pieces:
                    made.data += piece
    except OffsiteError as error:
        made.error = error
    settle()
    return made


def listed(remotes: Sequence[Remote], keyring: Keyring) -> Catalog:
    found = catalog.read(remotes, keyring)
    settle()
    return found


def receipts_of(remote: Remote, manifest: Manifest, keyring: Keyring) -> Sequence[Receipt]:
    return repository.load_receipts(manifest, [remote], keyring)


def resign(remote: Remote, author: Author, manifest: Manifest, receipts: list[Receipt]) -> None:
    """Write the manifest anew, with one index of these receipts and totals that add up."""
    index = Index(format=1, id=manifest.head.id, number=1, receipts=receipts)
    sealed = repository.seal_document(index, author)
    name = repository.index_name(1)
    remote.put(repository.object_path(manifest.head.id, name), sealed, {})
    digest = hashlib.sha256(sealed).hexdigest()
    length = sum(receipt.length for receipt in receipts)
    put_manifest(
        remote,
        author,
        msgspec.structs.replace(
            manifest,
            chunks=len(receipts),
            stream_bytes=length,
            stored_bytes=sum(receipt.size for receipt in receipts),
            indexes=[manifest.indexes[0], IndexRef(name, len(sealed), digest, len(receipts))],
        ),
    )


def put_manifest(
    remote: Remote, author: Author, manifest: Manifest, backup_id: str | None = None
) -> None:
    """Seal and store a manifest, in its own backup's folder or another's."""
    path = repository.object_path(backup_id or manifest.head.id, repository.MANIFEST)
    remote.put(path, repository.seal_document(manifest, author), {})


def settle(seconds: float = LONG) -> None:
    """Wait until no thread is left: none may be forgotten.

    Those that drain the stderr of a session's storage servers (process.Child) stay.
    """
    wait_for(lambda: not [one for one in own_threads() if "_read_stderr" not in one.name], seconds)


def own_threads() -> list[threading.Thread]:
    """All but the main thread and pytest's."""
    return [one for one in threading.enumerate() if one not in _PYTESTS_THREADS]


@contextmanager
def soon(seconds: float = LONG) -> Iterator[None]:
    """It ends, and far from never."""
    began = time.monotonic()
    yield
    assert time.monotonic() - began < seconds


def wait_for(happened: Callable[[], bool], seconds: float = LONG) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, f"not within {seconds} s: {threading.enumerate()}"
        time.sleep(0.005)
