"""The backup of tests/vectors/repository, written once, is read for ever: format version 1.

If a test here fails, the format was changed: old backups would not be read any more, or stock tools
not find their way. Do not make the vectors anew; make the reader read them.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lab.world import recipe
from offsite import age, manifest, repository, seal, sshsig
from offsite.age import Identities
from offsite.errors import IntegrityError, NoKeyError
from offsite.keys import Trust
from offsite.keys.signers import parse_allowed
from offsite.manifest import Index, Manifest
from offsite.repository import Keyring
from tests import repo
from tests.programs import needs
from tests.storage.memory import MemoryRemote
from tests.vectors.make_refused import signed_anew, signing_key
from tests.vectors.make_repository import STREAM

FOLDER = Path(__file__).parent / "vectors/repository"
EXPECTED: dict[str, Any] = json.loads((FOLDER / "expected.json").read_text())
DOCUMENTS: dict[str, Any] = EXPECTED["documents"]
MANIFEST = DOCUMENTS["manifest.age"]
REFUSED_FOLDER = Path(__file__).parent / "vectors/refused"
REFUSED: dict[str, str] = json.loads((REFUSED_FOLDER / "expected.json").read_text())
CHUNKS = [f"chunk-{number:08d}.zfs.zst.age" for number in range(3)]


def path_of(name: str) -> str:
    return f"offsite/backups/{repo.ID}/{name}"


def identities(name: str) -> Identities:
    path = FOLDER / "keys" / name
    return age.parse_identities(path.read_text(), path)


def keyring(key: str = "identity.txt") -> Keyring:
    signers = parse_allowed((FOLDER / "keys/allowed_signers").read_text(), "allowed_signers")
    return Keyring(identities(key), Trust(tuple(signers)))


def attempt(remote: MemoryRemote, key: str = "identity.txt") -> repo.Attempt:
    """The vector is an increment, and what it stands on is not part of it."""
    name = MANIFEST["head"]["dataset"]["name"]
    return repo.attempt([remote], keyring(key), repo.ID, name, lone=True)


@pytest.fixture
def remote() -> MemoryRemote:
    """A copy of the provider, to be damaged at will."""
    root = FOLDER / "one"
    made = MemoryRemote("one")
    for path in root.rglob("*"):
        if path.is_file():
            made.objects[str(path.relative_to(root))] = path.read_bytes()
    return made


def test_the_objects_are_those_of_format_md(remote: MemoryRemote) -> None:
    indexes = [f"index-{number:05d}.age" for number in range(3)]
    names = [*CHUNKS, *indexes, "manifest.age"]
    assert sorted(remote.objects) == sorted(["offsite/FORMAT", *map(path_of, names)])
    assert repository.backup_ids(remote) == [repo.ID]
    for name in names:
        assert remote.objects[path_of(name)].startswith(b"age-encryption.org/v1\n-> X25519 ")


@pytest.mark.parametrize("key", ["identity.txt", "catalog.key"])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_field_of_every_document(remote: MemoryRemote, name: str, key: str) -> None:
    kind: type[Any] = Manifest if name == "manifest.age" else Index
    sealed = remote.objects[path_of(name)]
    signed = repository.open_document(sealed, kind, keyring(key))
    assert (signed.signer, signed.trusted) == (EXPECTED["signer"], True)
    assert signed.sha256 == hashlib.sha256(sealed).hexdigest()
    # All of it is understood, nothing is lost, and today's writer would sign the very same bytes.
    line = manifest.encode(signed.document)
    assert json.loads(line) == DOCUMENTS[name]
    plain = seal.open_document(sealed, identities(key), limit=1 << 20)
    assert plain.startswith(line)


def test_some_fields_by_name(remote: MemoryRemote) -> None:
    """As an application uses them: a field renamed on both sides would pass the test above."""
    found = repository.load_manifest(remote, repo.ID, keyring()).document
    head = found.head
    assert (head.id, head.host, head.chunk_size) == (repo.ID, "nas", 4096)
    assert (head.dataset.name, head.dataset.guid) == ("tank/photos of 2025", 2**64 - 1)
    assert (head.snapshot.name, head.snapshot.source_name) == ("alias", "monday")
    assert (head.snapshot.guid, head.snapshot.createtxg) == (2**63 + 77, 4242)
    assert head.base is not None
    assert head.base.parent == "20260116t120000-fedcba9876543210"
    assert (found.chunks, found.stream_bytes) == (3, EXPECTED["stream_bytes"])
    assert found.previous == "5e" * 32
    assert found.properties["compression"] == manifest.Property("zstd", "local")
    receipts = repo.receipts_of(remote, found, keyring())
    assert [receipt.length for receipt in receipts] == [4096, 4096, 1304]
    assert list(receipts[0].hashes) == ["md5"]
    assert repository.load_head(remote, repo.ID, keyring()).document.number == 0


def test_what_the_indexes_say_is_what_is_stored(remote: MemoryRemote) -> None:
    """The documents against the objects, without Offsite's code."""
    for reference in MANIFEST["indexes"]:
        sealed = remote.objects[path_of(reference["name"])]
        assert reference["size"] == len(sealed)
        assert reference["sha256"] == hashlib.sha256(sealed).hexdigest()
        assert reference["chunks"] == len(DOCUMENTS[reference["name"]]["receipts"])
    receipts = DOCUMENTS["index-00001.age"]["receipts"] + DOCUMENTS["index-00002.age"]["receipts"]
    for name, receipt in zip(CHUNKS, receipts, strict=True):
        sealed = remote.objects[path_of(name)]
        assert (receipt["size"], receipt["sha256"]) == (
            len(sealed),
            hashlib.sha256(sealed).hexdigest(),
        )
        assert receipt["hashes"] == {"md5": hashlib.md5(sealed).hexdigest()}  # noqa: S324
    assert MANIFEST["stored_bytes"] == sum(receipt["size"] for receipt in receipts)


def test_the_stream(remote: MemoryRemote) -> None:
    made = attempt(remote)
    assert made.error is None
    read = made.data
    assert len(read) == EXPECTED["stream_bytes"]
    assert hashlib.sha256(read).hexdigest() == EXPECTED["stream_sha256"]


def test_the_catalog_key_opens_no_chunk(remote: MemoryRemote) -> None:
    made = attempt(remote, "catalog.key")
    assert isinstance(made.error, NoKeyError)
    assert made.data == b""


def test_the_recipe_of_format_md_reads_it_with_stock_tools(tmp_path: Path) -> None:
    needs("rclone", "age", "zstd", "sha256sum", "ssh-keygen")
    zfs = tmp_path / "bin/zfs"
    zfs.parent.mkdir()
    zfs.write_text(f"#!/bin/sh\nexec cat > {tmp_path}/stream\n")
    zfs.chmod(0o755)
    environment = {
        "PATH": f"{zfs.parent}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "REMOTE": str(FOLDER / "one"),
        "ID": repo.ID,
        "IDENTITY": str(FOLDER / "keys/identity.txt"),
        "SIGNERS": str(FOLDER / "keys/allowed_signers"),
        "TARGET": "tank/new",
    }
    ran = subprocess.run(
        ["sh", "-c", recipe()],
        env=environment, cwd=tmp_path, capture_output=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    stream = (tmp_path / "stream").read_bytes()
    assert hashlib.sha256(stream).hexdigest() == EXPECTED["stream_sha256"]


# --- negative vectors -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED)
def test_a_manifest_that_is_not_the_one(remote: MemoryRemote, name: str) -> None:
    remote.objects[path_of("manifest.age")] = (REFUSED_FOLDER / name).read_bytes()
    with pytest.raises(IntegrityError, match=REFUSED[name]) as caught:
        repository.load_manifest(remote, repo.ID, keyring())
    assert "\n" not in str(caught.value)
    (row,) = repo.listed([remote], keyring()).backups
    # An empty one is what a run leaves that was killed before it wrote.
    assert (row.status, row.signed) == (
        "unfinished" if name == "manifest-empty.age" else "damaged",
        None,
    )


def test_the_same_manifest_signed_again_is_accepted(remote: MemoryRemote) -> None:
    """So the damage above was refused for what it is, not for how it was made."""
    assert sshsig.public_line(signing_key()) == EXPECTED["signer"]
    path = path_of("manifest.age")
    remote.objects[path] = signed_anew(lambda line: line)(remote.objects[path])
    assert repository.load_manifest(remote, repo.ID, keyring()).trusted


@pytest.mark.parametrize("name", [*CHUNKS, "index-00000.age", "index-00001.age", "index-00002.age"])
@pytest.mark.parametrize("how", ["gone", "cut", "a bit", "next"])
def test_an_object_that_is_not_the_one(remote: MemoryRemote, name: str, how: str) -> None:
    path = path_of(name)
    sealed = remote.objects.pop(path)
    if how == "cut":
        remote.objects[path] = sealed[:-1]
    elif how == "a bit":
        remote.objects[path] = repo.damaged(sealed)
    elif how == "next":
        remote.objects[path] = remote.objects[path_of("manifest.age")]
    made = attempt(remote)
    assert made.error is not None
    assert name in str(made.error)
    assert made.data == STREAM[: len(made.data)]


def test_the_recipe_that_is_published_is_the_documented_one() -> None:
    assert repository.FORMAT_TEXT.endswith(recipe())
