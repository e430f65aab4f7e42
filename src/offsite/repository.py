"""Object names, sealed and signed documents, and what one provider holds.

The layout and the order of writing are FORMAT.md's: chunks, then indexes, then the manifest, which
alone makes a backup exist.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from typing import Generic

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from offsite import manifest as documents
from offsite import seal, sshsig
from offsite.age import Identities, Recipients
from offsite.errors import IntegrityError, ProviderError, StoppedError
from offsite.keys import Trust
from offsite.keys.trust import Standing
from offsite.manifest import Document, Index, IndexRef, Manifest, Receipt
from offsite.mirror import put_bytes
from offsite.ordered import few_at_a_time
from offsite.receipts import Packer, Receipts
from offsite.remote import Remote

ROOT = "offsite"
BACKUPS = f"{ROOT}/backups"
MANIFEST = "manifest.age"
# An index of 1,024 receipts is about 0.7 MB; a manifest with 100,000 indexes about 13 MB.
DOCUMENT_LIMIT = 64 << 20
_UNKNOWN = 10**6  # chunks that an unfinished backup may have

_ID = re.compile(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{16}")
_CHUNK = re.compile(r"chunk-[0-9]{8}\.zfs\.zst\.age")
_NAMESPACES = {Manifest: "offsite-manifest", Index: "offsite-index"}

# The same script as in FORMAT.md, section 5; a test compares them, another one runs it.
_RECIPE = resources.files("offsite").joinpath("recipe.sh").read_text("utf-8")
FORMAT_TEXT = f"""\
This folder holds backups made by Offsite, repository format {documents.FORMAT_VERSION}.

Each folder under backups/ is one ZFS snapshot: a zfs send stream cut into chunks, each compressed
with zstd and encrypted with age. To get it back with Offsite, and the age identity:

  offsite --list
  offsite --restore DATASET --as NEW/DATASET

Without Offsite, for a backup made in one piece, run this. Anybody who can write here can change
this text: read it before you run it, or take it from Offsite's own FORMAT.md.

{_RECIPE}"""


@dataclass(frozen=True)
class Author:
    """Whoever writes backups: chunks for the recipients, documents for the catalog key too.

    ``vouchers``: what identities vouch for the signing key with, 64 hex digits each.
    """

    chunks: Recipients
    documents: Recipients
    signing_key: Ed25519PrivateKey
    vouchers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keyring:
    """Whoever reads backups: keys that open documents, and whose signatures are believed."""

    identities: Identities
    trust: Trust


@dataclass(frozen=True)
class Signed(Generic[Document]):
    """A document whose signature is valid; whether its ``signer`` is believed is ``standing``."""

    document: Document
    signer: str
    standing: Standing
    sha256: str  # of the stored object

    @property
    def trusted(self) -> bool:
        return self.standing == "trusted"

    @property
    def by(self) -> str:
        """Of one that is not believed: who signed it, and why he is not."""
        why = "is revoked here" if self.standing == "revoked" else "nothing here vouches for"
        return f"{sshsig.fingerprint(self.signer)}, which {why}"


def new_id(now: datetime) -> str:
    """A backup id: sorts by time, says nothing but the time, never meets another."""
    return f"{now.astimezone(UTC):%Y%m%dt%H%M%S}-{secrets.token_hex(8)}"


def chunk_name(number: int) -> str:
    return f"chunk-{number:08d}.zfs.zst.age"


def index_name(number: int) -> str:
    return f"index-{number:05d}.age"


def object_path(backup_id: str, name: str) -> str:
    return f"{BACKUPS}/{backup_id}/{name}"


def seal_document(document: Manifest | Index, author: Author) -> bytes:
    """The stored object: age( line of JSON, SSHSIG over that line ).

    Raises IntegrityError rather than sign what no reader would accept.
    """
    if author.vouchers:
        document = msgspec.structs.replace(document, vouchers=list(author.vouchers))
    line = documents.encode(document)
    documents.check(line, document)
    signature = sshsig.sign(line, author.signing_key, _NAMESPACES[type(document)])
    return seal.seal_document(line + signature.encode(), author.documents)


def open_document(sealed: bytes, kind: type[Document], keyring: Keyring) -> Signed[Document]:
    """Decrypt, verify and parse. Raises IntegrityError; an unknown signer is not an error here."""
    plain = seal.open_document(sealed, keyring.identities, limit=DOCUMENT_LIMIT)
    line, newline, signature = plain.partition(b"\n")
    try:
        signer = sshsig.verify(line + newline, signature.decode("ascii"), _NAMESPACES[kind])
    except UnicodeDecodeError as error:
        raise IntegrityError("the signature is not ASCII") from error
    document = documents.decode(line, kind)
    standing = keyring.trust.of(signer, document.vouchers or ())
    return Signed(document, signer, standing, hashlib.sha256(sealed).hexdigest())


def publish_format(remote: Remote) -> None:
    """Leave the recovery recipe beside the backups, once; again if it was cut short."""
    text = FORMAT_TEXT.encode()
    stored = remote.stat(f"{ROOT}/FORMAT")
    if stored is None or stored.size < len(text):
        put_bytes(remote, f"{ROOT}/FORMAT", text)


def backup_ids(remote: Remote) -> list[str]:
    """Ids of all backups on the provider, finished or not, oldest first; other names are passed."""
    folders = (entry.name for entry in remote.list(BACKUPS, dirs=True) if entry.is_dir)
    return sorted(name for name in folders if _ID.fullmatch(name))


def object_sizes(remote: Remote, backup_id: str, chunks: int = _UNKNOWN) -> dict[str, int]:
    """Name to size in bytes of every object in the backup's folder; ``chunks``: about how many."""
    return {
        entry.name: entry.size
        for entry in remote.list(f"{BACKUPS}/{backup_id}", expected=chunks)
        if not entry.is_dir
    }


def check_document_size(name: str, size: int) -> None:
    """Raise IntegrityError for a stored object that no reader would take for a document.

    To be asked before it is read: then it is one bad object, not a provider that fails.
    """
    if size > DOCUMENT_LIMIT:
        raise IntegrityError(f"{name} has {size} bytes, more than any document")


def is_chunk(name: str) -> bool:
    return _CHUNK.fullmatch(name) is not None


def load_manifest(remote: Remote, backup_id: str, keyring: Keyring) -> Signed[Manifest]:
    """The manifest of a finished backup. Raises ProviderError, IntegrityError."""
    return open_manifest(get_manifest(remote, backup_id), backup_id, keyring)


def get_manifest(remote: Remote, backup_id: str) -> bytes:
    """The sealed object. Raises ProviderError."""
    return remote.get(object_path(backup_id, MANIFEST), limit=DOCUMENT_LIMIT)


def open_manifest(sealed: bytes, backup_id: str, keyring: Keyring) -> Signed[Manifest]:
    """Raises IntegrityError if it is not that of this backup."""
    signed = open_document(sealed, Manifest, keyring)
    if signed.document.head.id != backup_id:
        # An old manifest, validly signed, copied under a new name.
        raise IntegrityError(f"the manifest in {backup_id} is that of another backup")
    return signed


def load_head(remote: Remote, backup_id: str, keyring: Keyring) -> Signed[Index]:
    """Index 0 of a backup: what an unfinished one is about. Raises as load_manifest."""
    sealed = remote.get(object_path(backup_id, index_name(0)), limit=DOCUMENT_LIMIT)
    signed = open_document(sealed, Index, keyring)
    head = signed.document.head
    if signed.document.id != backup_id or head is None or head.id != backup_id:
        raise IntegrityError(f"the first index in {backup_id} is that of another backup")
    return signed


def open_receipts(sealed: bytes, reference: IndexRef, keyring: Keyring) -> list[Receipt]:
    """The receipts of one index object, pinned by the manifest's hash of it."""
    if hashlib.sha256(sealed).hexdigest() != reference.sha256:
        raise IntegrityError(f"{reference.name} is not the one the manifest names")
    return open_document(sealed, Index, keyring).document.receipts


def load_receipts(signed: Manifest, holders: Sequence[Remote], keyring: Keyring) -> Receipts:
    """All receipts, each index from the first provider that has the very one.

    Raises IntegrityError if one cannot be had, or if they do not add up.
    """

    def load(reference: IndexRef) -> list[Receipt]:
        return _load_index(signed.head.id, reference, holders, keyring)

    packer = Packer()
    for some in few_at_a_time(load, signed.indexes):  # not all of them unpacked
        packer.add(some)
    receipts = packer.done()
    documents.check_receipts(signed, receipts)
    return receipts


def _load_index(
    backup_id: str, reference: IndexRef, holders: Sequence[Remote], keyring: Keyring
) -> list[Receipt]:
    path = object_path(backup_id, reference.name)
    failures: list[str] = []
    for remote in holders:
        try:
            sealed = remote.get(path, limit=reference.size)
            return open_receipts(sealed, reference, keyring)
        except StoppedError:
            raise
        except (IntegrityError, ProviderError) as error:
            failures.append(f"{remote.name}: {error}")
    raise IntegrityError(f"{reference.name} cannot be had: {'; '.join(failures)}")


def missing_objects(
    manifest: Manifest, receipts: Sequence[Receipt], held: dict[str, int]
) -> list[str]:
    """Names of the objects that ``held`` (name to size) lacks or has in another size."""
    return [name for name, size in _expected(manifest, receipts) if held.get(name) != size]


def is_held(remote: Remote, signed: Signed[Manifest]) -> bool:
    """Whether the provider has this very manifest, which may be known from an earlier run, and all
    that it names. Raises ProviderError, IntegrityError."""
    backup_id = signed.document.head.id
    sizes = object_sizes(remote, backup_id, signed.document.chunks)
    if MANIFEST not in sizes or not _is_whole(signed.document, sizes):
        return False
    return hashlib.sha256(get_manifest(remote, backup_id)).hexdigest() == signed.sha256


def _is_whole(manifest: Manifest, held: dict[str, int]) -> bool:
    """Whether its objects are in ``held`` (name to size), as far as that can be told without
    reading the receipts: every name, the size of every index, and of all chunks together."""
    if any(held.get(one.name) != one.size for one in manifest.indexes):
        return False
    chunks = [held.get(chunk_name(number), -1) for number in range(manifest.chunks)]
    return min(chunks) >= 0 and sum(chunks) == manifest.stored_bytes


def _expected(manifest: Manifest, receipts: Sequence[Receipt]) -> Iterator[tuple[str, int]]:
    for reference in manifest.indexes:
        yield reference.name, reference.size
    for receipt in receipts:
        yield chunk_name(receipt.number), receipt.size
