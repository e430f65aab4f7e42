"""The documents of a repository: what a backup is, and what we know of its chunks.

Documents are JSON, read against strict schemas: unknown fields are kept out of the way, an unknown
format version, a wrong type, a name or a number out of bounds is refused. Sizes and offsets are in
bytes, times are RFC 3339 in UTC. FORMAT.md describes every field.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from offsite.errors import IntegrityError

FORMAT_VERSION = 1

# Patterns end in \Z: $ would let a line break pass.
Version = Annotated[int, Meta(ge=0, le=2**31)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
# Up to 64 bits in ZFS; msgspec has no bound beyond 63, so _check_guids has it.
Guid = Annotated[int, Meta(ge=0)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
Xxh128 = Annotated[str, Meta(pattern=r"^[0-9a-f]{32}\Z")]
Hex = Annotated[str, Meta(pattern=r"^[0-9a-f]{8,128}\Z")]
HashKind = Annotated[str, Meta(pattern=r"^[a-z0-9]{1,16}\Z")]
# Shown to the user, so nothing that steers a terminal: controls, line breaks, text direction.
Text = Annotated[
    str,
    Meta(pattern=r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]+\Z", max_length=256),
]
Time = Annotated[
    str,
    Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?Z\Z"),
]
BackupId = Annotated[str, Meta(pattern=r"^[0-9]{8}t[0-9]{6}-[0-9a-f]{16}\Z")]
# A second hedge behind zfs.names: nothing that a manifest calls a dataset can be an option, a
# path with "..", or hold control characters.
_PART = r"(?!\.{1,2}(/|\Z))[A-Za-z0-9_.: -]+"
DatasetName = Annotated[
    str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_.: -]*(/{_PART})*\Z", max_length=255)
]
SnapshotName = Annotated[str, Meta(pattern=rf"^{_PART}\Z", max_length=255)]
Vouchers = Annotated[list[Sha256], Meta(min_length=1, max_length=64)]
ObjectName = Annotated[str, Meta(pattern=r"^[a-z]{1,32}-[0-9]{5,8}(\.[a-z0-9]+)*\.age\Z")]


def _check_guids(*numbers: int | None) -> None:
    """For __post_init__: msgspec makes the ValueError one of its own, with the field's path."""
    if any(number is not None and number >= 2**64 for number in numbers):
        raise ValueError("a number of more than 64 bits")


class DatasetFacts(Struct, frozen=True):
    name: DatasetName
    guid: Guid
    type: Literal["filesystem", "volume"]
    encryption: Text = "off"

    def __post_init__(self) -> None:
        _check_guids(self.guid)


class SnapshotFacts(Struct, frozen=True):
    """``name`` is what the user calls it (``--as``), ``source_name`` what it is on the pool."""

    name: SnapshotName
    source_name: SnapshotName
    guid: Guid
    createtxg: Count
    created: Time

    def __post_init__(self) -> None:
        _check_guids(self.guid)


class Base(Struct, frozen=True):
    """What an incremental stands on."""

    snapshot_guid: Guid
    snapshot_name: SnapshotName
    parent: BackupId

    def __post_init__(self) -> None:
        _check_guids(self.snapshot_guid)


class SendFacts(Struct, frozen=True):
    """How the stream was made: ``flags`` of zfs send, ``features`` of its BEGIN record."""

    flags: list[Text]
    zfs: Text
    features: Guid = 0

    def __post_init__(self) -> None:
        _check_guids(self.features)


class SetFacts(Struct, frozen=True):
    """Backups of one recursive run have the same ``id``: ``root`` and ``members - 1`` below it."""

    id: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    root: DatasetName
    root_guid: Guid
    members: Annotated[int, Meta(ge=1, le=10**6)]

    def __post_init__(self) -> None:
        _check_guids(self.root_guid)


class Property(Struct, frozen=True):
    """``base64`` is there only for a value that is no UTF-8: its bytes. ``value`` then shows it."""

    value: Annotated[str, Meta(max_length=8192)]
    source: Annotated[str, Meta(max_length=512)]
    base64: Annotated[str, Meta(max_length=12288)] | UnsetType = UNSET

    def __post_init__(self) -> None:
        _ = self.exact

    @classmethod
    def of(cls, exact: str, source: str) -> Property:
        """``exact``: with bytes that are no UTF-8 as surrogateescape has them."""
        given = exact.encode(errors="surrogateescape")
        shown = given.decode(errors="replace")
        return cls(shown, source, UNSET if shown == exact else b64encode(given).decode())

    @property
    def exact(self) -> str:
        """What ``of`` was given."""
        if isinstance(self.base64, UnsetType):
            return self.value
        return b64decode(self.base64, validate=True).decode(errors="surrogateescape")


class Head(Struct, frozen=True, kw_only=True):
    """What a backup is going to be: known before its first byte moves.

    ``recipients``: SHA-256 of their sorted lines; who continues the backup must have the same.
    ``set`` is written only for a backup that is one of a set.
    """

    id: BackupId
    host: Text
    tool: Text
    started: Time
    dataset: DatasetFacts
    snapshot: SnapshotFacts
    base: Base | None = None
    send: SendFacts
    chunk_size: Annotated[int, Meta(ge=1, le=2**32)]
    estimate: Count
    recipients: Sha256
    set: SetFacts | UnsetType = UNSET


class Seam(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The last complete WRITE, WRITE_EMBEDDED or OBJECT that ends in or before a chunk.

    ``begin`` and ``end`` are its place in the stream, ``object_at`` and ``range_at`` the positions
    of the records that govern it. ``checksum``: the 32 bytes that its header stores (hex);
    ``sha256``: of the rest of it. ``head_xxh128``: of the chunk's bytes up to ``end``, if that lies
    in the chunk. A resumed send begins at (object, offset).
    """

    object: Guid
    offset: Guid
    begin: Count
    end: Count
    checksum: Sha256
    sha256: Sha256
    head_xxh128: Xxh128 | None = None
    object_at: Count | None = None
    range_at: Count | None = None

    def __post_init__(self) -> None:
        _check_guids(self.object, self.offset)


class Receipt(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What we know of one stored chunk, and where a reader finds its way into the stream there.

    ``length`` bytes of the stream are in it, and then ``surplus`` bytes that are none: what was
    stored behind the seam where an interrupted backup was continued.
    """

    number: Count
    offset: Count
    length: Annotated[int, Meta(ge=1, le=2**32)]
    size: Annotated[int, Meta(ge=1, le=2**33)]
    sha256: Sha256
    plain_xxh128: Xxh128
    surplus: Annotated[int, Meta(ge=0, le=2**32)] = 0
    hashes: dict[HashKind, Hex] = {}
    first_record: Count | None = None
    first_object: Guid | None = None
    first_write: tuple[Guid, Guid] | None = None
    object_at: Count | None = None
    range_at: Count | None = None
    seam: Seam | None = None

    def __post_init__(self) -> None:
        _check_guids(self.first_object, *(self.first_write or ()))


class Index(Struct, frozen=True, kw_only=True):
    """Receipts of a run of chunks. Index 0 has the head and no receipts: it opens the backup.

    ``features`` are those of the stream, known once it began (BEGIN's version shifted right by 2).
    ``previous`` is the SHA-256 of the stored index before: a continued backup may leave indexes
    behind that are no longer part of it. ``vouchers``: of identities for the key that signed it.
    """

    format: Version
    kind: Literal["index"] = "index"
    id: BackupId
    number: Count
    head: Head | None = None
    features: Count | None = None
    previous: Sha256 | None = None
    receipts: list[Receipt] = []
    vouchers: Vouchers | UnsetType = UNSET


class IndexRef(Struct, frozen=True):
    name: ObjectName
    size: Count
    sha256: Sha256
    chunks: Count


class Unchanged(Struct, frozen=True):
    """Another dataset of the set: its snapshot of this moment holds what the ``backup`` holds."""

    snapshot_guid: Guid
    backup: BackupId

    def __post_init__(self) -> None:
        _check_guids(self.snapshot_guid)


class SealedObject(Struct, frozen=True):
    """A further object of the backup; readers ignore roles they do not know."""

    role: Text
    name: ObjectName
    size: Count
    sha256: Sha256


class Manifest(Struct, frozen=True, kw_only=True):
    """The signed statement that a backup exists, and all one must know to restore it.

    ``unchanged`` is written only by one of each set, if there is anything to tell. ``pbkdf2salt``:
    of the passphrase that opens what was sent raw, if one does and it was the same all the while.
    ``vouchers``: of identities for the key that signed it, as in an index.
    """

    format: Version
    kind: Literal["manifest"] = "manifest"
    head: Head
    finished: Time
    chunks: Annotated[int, Meta(ge=1, le=10**8)]
    stream_bytes: Count
    stored_bytes: Count
    indexes: Annotated[list[IndexRef], Meta(min_length=2)]
    objects: list[SealedObject] = []
    properties: dict[Text, Property] = {}
    set: Text | None = None
    unchanged: list[Unchanged] | UnsetType = UNSET
    previous: Sha256 | None = None
    pbkdf2salt: Guid | UnsetType = UNSET
    vouchers: Vouchers | UnsetType = UNSET

    def __post_init__(self) -> None:
        _check_guids(None if self.pbkdf2salt is UNSET else self.pbkdf2salt)


class _Version(Struct):
    format: Version


Document = TypeVar("Document", Manifest, Index)
_ENCODER = msgspec.json.Encoder(order="deterministic")
# Built here, before there are threads: two threads that build one type's decoder at the same time
# crash the interpreter (msgspec 0.22; tests/test_manifest.py provokes it).
_VERSION = msgspec.json.Decoder(_Version)
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Manifest, Index)
}


def encode(document: Manifest | Index) -> bytes:
    """One line of JSON, newline included: the bytes that are signed."""
    return _ENCODER.encode(document) + b"\n"


def decode(line: bytes, kind: type[Document]) -> Document:
    """The document in ``line``. Raises IntegrityError if it is not exactly such a document."""
    try:
        version = _VERSION.decode(line).format
        if version != FORMAT_VERSION:
            raise IntegrityError(
                f"this backup has format version {version}; this offsite reads {FORMAT_VERSION}",
                hint="restore it with a newer offsite",
            )
        document: Document = _DECODERS[kind].decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise IntegrityError(f"the {kind.__name__.lower()} is malformed: {error}") from error
    return document


def check(line: bytes, document: Manifest | Index) -> None:
    """Raise IntegrityError unless a reader would get ``document`` back from ``line``."""
    read: Manifest | Index
    read = decode(line, Manifest) if isinstance(document, Manifest) else decode(line, Index)
    if read != document:
        raise IntegrityError(f"a {document.kind} does not survive its own encoding")


def check_receipts(manifest: Manifest, receipts: Sequence[Receipt]) -> None:
    """Raise IntegrityError unless the receipts are the manifest's chunks: all, once, in order."""
    offset = stored = 0
    for number, receipt in enumerate(receipts):
        if (receipt.number, receipt.offset) != (number, offset):
            raise IntegrityError(f"chunk {number} of backup {manifest.head.id} is out of order")
        if receipt.length + receipt.surplus > manifest.head.chunk_size:
            raise IntegrityError(f"chunk {number} of backup {manifest.head.id} is too long")
        offset += receipt.length
        stored += receipt.size
    totals = (len(receipts), offset, stored)
    if totals != (manifest.chunks, manifest.stream_bytes, manifest.stored_bytes):
        raise IntegrityError(f"the totals of backup {manifest.head.id} do not add up")
