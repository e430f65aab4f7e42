"""How tests/vectors/repository was made, once: one small backup and all that is in it.

    PYTHONPATH=src:. python tests/vectors/make_repository.py

It is not made again, so that the reader of today is held to what was written then: sealing is
random, and a new copy would only prove that today's writer and reader agree. When the format gets
a version 2, a second folder comes beside this one and this one stays.

What it holds:
  one/            a provider: offsite/FORMAT and one backup of three chunks and three indexes
  keys/           TEST KEYS, public, of no worth: identity, catalog key, signing key, signers
  expected.json   the signed JSON line of every document, the signer, and the stream's SHA-256
"""

from __future__ import annotations

import hashlib
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from cryptography.hazmat.primitives import serialization

from offsite import indexes
from offsite.age import Identities
from offsite.manifest import Base, DatasetFacts, Head, SnapshotFacts
from offsite.seal import open_document
from tests import repo
from tests.storage.memory import MemoryRemote

FOLDER = Path(__file__).parent / "repository"
WARNING = "# TEST KEY of tests/vectors: published, protects nothing, never use it.\n"
PREVIOUS = "5e" * 32
STREAM = repo.stream(2**63 + 77, [repo.noise(4096), b"a line of text\n" * 256])


def main() -> None:
    """Write the folder anew."""
    keys = repo.Keys()
    remote = MemoryRemote("one", "md5")
    indexes.RECEIPTS = 2  # so that there is more than one index with receipts
    repo.save([remote], keys.author, STREAM, head(), previous=PREVIOUS)
    shutil.rmtree(FOLDER, ignore_errors=True)
    for path, body in remote.objects.items():
        write(FOLDER / "one" / path, body)
    write_keys(keys)
    expected = {
        "made": f"{datetime.now(UTC):%Y-%m-%d}",
        "signer": keys.public,
        "stream_bytes": len(STREAM),
        "stream_sha256": hashlib.sha256(STREAM).hexdigest(),
        "documents": {
            path.rpartition("/")[2]: json.loads(signed_line(body, keys))
            for path, body in sorted(remote.objects.items())
            if "/index-" in path or path.endswith("/manifest.age")
        },
    }
    text = json.dumps(expected, indent=1) + "\n"
    write(FOLDER / "expected.json", text.encode())


def head() -> Head:
    """All fields are set, no two alike."""
    about = repo.head(repo.snapshot("monday", 2**63 + 77, 4242))
    return msgspec.structs.replace(
        about,
        dataset=DatasetFacts("tank/photos of 2025", 2**64 - 1, "filesystem", "aes-256-gcm"),
        snapshot=SnapshotFacts("alias", "monday", 2**63 + 77, 4242, "2026-01-17T11:59:58Z"),
        base=Base(1234567890123456789, "sunday", "20260116t120000-fedcba9876543210"),
    )


def write_keys(keys: repo.Keys) -> None:
    """As ``offsite keys init`` writes them."""
    signing = keys.signing.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    for name, identity in (("identity.txt", keys.identity), ("catalog.key", keys.catalog)):
        text = f"{WARNING}# public key: {identity.recipient}\n{identity.secret_line()}\n"
        write(FOLDER / "keys" / name, text.encode())
    write(FOLDER / "keys/signing.key", WARNING.encode() + signing)
    write(FOLDER / "keys/allowed_signers", f"{WARNING}offsite {keys.public} nas\n".encode())


def signed_line(sealed: bytes, keys: repo.Keys) -> bytes:
    opened = open_document(sealed, Identities((keys.catalog,)), limit=1 << 20)
    return opened.partition(b"\n")[0]


def write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


if __name__ == "__main__":
    main()
