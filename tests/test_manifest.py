"""Documents: what is read back is what was written, and nothing else is ever read."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET

import offsite
from offsite import manifest
from offsite.errors import IntegrityError
from offsite.manifest import (
    Base,
    DatasetFacts,
    Head,
    Index,
    IndexRef,
    Manifest,
    Property,
    Receipt,
    SealedObject,
    Seam,
    SendFacts,
    SetFacts,
    SnapshotFacts,
)
from tests import repo
from tests.thorough import examples

SHA = "ab" * 32
XXH = "cd" * 16
HEAD = repo.head(repo.snapshot())
RECEIPTS = [
    Receipt(number=0, offset=0, length=4096, size=5000, sha256=SHA, plain_xxh128=XXH),
    Receipt(number=1, offset=4096, length=4096, size=5000, sha256=SHA, plain_xxh128=XXH),
    Receipt(number=2, offset=8192, length=100, size=300, sha256=SHA, plain_xxh128=XXH),
]
MANIFEST = Manifest(
    format=1,
    head=HEAD,
    finished="2026-01-17T12:00:09.5Z",
    chunks=3,
    stream_bytes=8292,
    stored_bytes=10300,
    indexes=[IndexRef("index-00000.age", 900, SHA, 0), IndexRef("index-00001.age", 1900, SHA, 3)],
)
SEAM = {"object": 1, "offset": 0, "begin": 0, "end": 1, "checksum": SHA, "sha256": SHA}
INDEX = Index(format=1, id=HEAD.id, number=1, features=0, previous=SHA, receipts=RECEIPTS)

# --- round trips ----------------------------------------------------------------------------------

LETTERS = "abcXYZ019"
NAME = LETTERS + "-_.: "
counts = st.integers(0, 2**53)
guids = st.integers(0, 2**64 - 1)
hashes = st.text("0123456789abcdef", min_size=64, max_size=64)
digests = st.text("0123456789abcdef", min_size=32, max_size=32)
texts = st.text(st.characters(exclude_categories=["C", "Zl", "Zp"]), min_size=1, max_size=256)
times = st.sampled_from(["2026-01-17T12:00:00Z", "0001-01-01T00:00:00.123456Z"])
ids = st.from_regex(r"\A[0-9]{8}t[0-9]{6}-[0-9a-f]{16}\Z")
components = st.text(NAME, min_size=1, max_size=20).filter(lambda name: name not in {".", ".."})
set_ids = st.from_regex(r"\A[0-9a-f]{16}\Z")
datasets = st.tuples(
    st.sampled_from(LETTERS), st.text(NAME, max_size=9), st.lists(components, max_size=4)
).map(lambda parts: "/".join([parts[0] + parts[1], *parts[2]]))
heads = st.builds(
    Head,
    id=ids,
    host=texts,
    tool=texts,
    started=times,
    dataset=st.builds(
        DatasetFacts, datasets, guids, st.sampled_from(["filesystem", "volume"]), texts
    ),
    snapshot=st.builds(SnapshotFacts, components, components, guids, counts, times),
    base=st.none() | st.builds(Base, guids, components, ids),
    send=st.builds(SendFacts, st.lists(texts, max_size=3), texts, guids),
    chunk_size=st.integers(1, 2**32),
    estimate=counts,
    recipients=hashes,
    set=st.just(UNSET) | st.builds(SetFacts, set_ids, datasets, guids, st.integers(1, 10**6)),
)
seams = st.builds(
    Seam,
    object=guids,
    offset=guids,
    begin=counts,
    end=counts,
    checksum=hashes,
    sha256=hashes,
    head_xxh128=st.none() | digests,
    object_at=st.none() | counts,
    range_at=st.none() | counts,
)
receipts = st.builds(
    Receipt,
    number=counts,
    offset=counts,
    length=st.integers(1, 2**32),
    size=st.integers(1, 2**33),
    sha256=hashes,
    plain_xxh128=digests,
    surplus=st.integers(0, 2**32),
    hashes=st.dictionaries(st.sampled_from(["md5", "sha1"]), hashes),
    first_record=st.none() | counts,
    first_object=st.none() | guids,
    first_write=st.none() | st.tuples(guids, guids),
    object_at=st.none() | counts,
    range_at=st.none() | counts,
    seam=st.none() | seams,
)
references = st.builds(IndexRef, st.just("index-00042.age"), counts, hashes, counts)
manifests = st.builds(
    Manifest,
    format=st.just(1),
    head=heads,
    finished=times,
    chunks=st.integers(1, 10**8),
    stream_bytes=counts,
    stored_bytes=counts,
    indexes=st.lists(references, min_size=2, max_size=4),
    objects=st.lists(
        st.builds(SealedObject, texts, st.just("files-00001.zst.age"), counts, hashes), max_size=2
    ),
    properties=st.dictionaries(
        texts, st.builds(Property, st.text(max_size=99), st.text(max_size=99)), max_size=3
    ),
    set=st.none() | texts,
    previous=st.none() | hashes,
)
indexes = st.builds(
    Index,
    format=st.just(1),
    id=ids,
    number=counts,
    head=st.none() | heads,
    receipts=st.lists(receipts, max_size=3),
)


@given(manifests)
@settings(deadline=None, max_examples=examples(30))
def test_a_manifest_comes_back(document: Manifest) -> None:
    line = manifest.encode(document)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert manifest.decode(line, Manifest) == document
    assert manifest.encode(manifest.decode(line, Manifest)) == line


@given(indexes)
@settings(deadline=None, max_examples=examples(30))
def test_an_index_comes_back(document: Index) -> None:
    line = manifest.encode(document)
    assert manifest.decode(line, Index) == document
    assert manifest.encode(manifest.decode(line, Index)) == line


def test_an_index_without_news_is_short() -> None:
    """There is a receipt for every chunk: fields that say nothing are left out."""
    assert b"null" not in manifest.encode(INDEX).replace(b'"head":null', b"")


# --- what is refused ------------------------------------------------------------------------------


def changed(document: Manifest | Index, path: str, value: object) -> bytes:
    """The document's JSON with the field at ``path`` (dots between) set to ``value``."""
    tree = json.loads(manifest.encode(document))
    place: Any = tree
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if step.isdecimal() else place[step]
    place[last] = value
    return json.dumps(tree).encode()


def refusal(line: bytes, kind: type[Any] = Manifest) -> IntegrityError:
    with pytest.raises(IntegrityError) as caught:
        manifest.decode(line, kind)
    told = str(caught.value)
    assert "\n" not in told
    assert len(told) < 300
    return caught.value


@pytest.mark.parametrize("place", ["", "head", "head.dataset", "head.send", "indexes.0"])
def test_fields_of_the_future_are_ignored(place: str) -> None:
    line = changed(MANIFEST, f"{place}.novel".lstrip("."), {"deep": [1, {"x": None}]})
    assert manifest.decode(line, Manifest) == MANIFEST


@pytest.mark.parametrize("version", [0, 2, 999])
@pytest.mark.parametrize("document", [MANIFEST, INDEX])
def test_another_version_is_refused_with_what_to_do(
    document: Manifest | Index, version: int
) -> None:
    # Even if nothing else of it makes sense to this reader.
    for line in (changed(document, "format", version), b'{"format":%d,"new":[]}' % version):
        error = refusal(line, type(document))
        assert str(error) == f"this backup has format version {version}; this offsite reads 1"
        assert error.hint == "restore it with a newer offsite"


HOSTILE_NAMES = [
    "", "../x", "/x", "..", "-o", " x", "a/../b", "a/..", "a/./b", "a/", "a//b", "a\n", "a\nb",
    "a\0b", "a\tb", "a\x1b[2J", "a;rm", "$(x)", "`x`", "a@b", "a#b", "a%b", "ü", "a\u2028b",
    "a" * 256,
]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_hostile_dataset_names(name: str) -> None:
    assert "head.dataset.name" in str(refusal(changed(MANIFEST, "head.dataset.name", name)))


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".", "../x", "a\n", "a\0", "a@b", "a\x1b[2J", "ü", "x" * 256]
)
@pytest.mark.parametrize("place", ["name", "source_name"])
def test_hostile_snapshot_names(place: str, name: str) -> None:
    place = f"head.snapshot.{place}"
    assert place in str(refusal(changed(MANIFEST, place, name)))


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../index-00000.age", "index-00000.age/..", "index-00000.age\n",
     "index-00000", "INDEX-00000.age", "index-000000000.age", "a-00000.a/b.age"],
)  # fmt: skip
def test_hostile_object_names(name: str) -> None:
    refusal(changed(MANIFEST, "indexes.0.name", name))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("head.id", "20260117t120000-0123456789abcdef\n"),
        ("head.id", "20260117t120000-0123456789abcde/"),
        ("head.id", "../../../x"),
        ("head.host", ""),
        ("head.host", "nas\n"),
        ("head.host", "nas\x1b[2J"),
        ("head.host", "nas\u2028"),
        ("head.host", "nas\u202e"),
        ("head.host", "\u009bnas"),
        ("head.host", "x" * 257),
        ("head.tool", "offsite\r"),
        ("head.started", "2026-01-17T12:00:00Z\n"),
        ("head.started", "2026-01-17 12:00:00"),
        ("head.started", "\u0662026-01-17T12:00:00Z"),
        ("head.dataset.type", "pool"),
        ("head.dataset.encryption", "on\0"),
        ("head.send.flags", ["-L\n"]),
        ("head.send.flags", "-L"),
        ("indexes.0.sha256", SHA.upper()),
        ("indexes.0.sha256", SHA + "\n"),
        ("previous", SHA[:-1]),
        ("kind", "index"),
        ("properties", {"a\nb": {"value": "", "source": ""}}),
        ("properties", {"a": {"value": "x" * 8193, "source": ""}}),
        ("head.recipients", "none"),
        ("indexes", []),
        ("indexes", {}),
        ("head", None),
    ],
)
def test_hostile_texts(path: str, value: object) -> None:
    refusal(changed(MANIFEST, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (path, value)
        for path in [
            "chunks", "stream_bytes", "stored_bytes", "head.chunk_size", "head.estimate",
            "head.dataset.guid", "head.snapshot.guid", "head.snapshot.createtxg",
            "head.send.features", "indexes.0.size", "indexes.0.chunks", "format",
        ]
        for value in [
            "18446744073709551616", "9" * 4000, "9" * 5000, "1.5", "1e400", "true", '"1"', "null",
            "[]", "NaN", "-1", "-18446744073709551617", "0x1",
        ]
    ]
    + [("chunks", "0"), ("chunks", "100000001"), ("head.chunk_size", "0"),
       ("head.chunk_size", "4294967297"), ("stored_bytes", "9007199254740993")],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_hostile_numbers(path: str, value: str) -> None:
    """``value`` as it stands in the JSON."""
    refusal(changed(MANIFEST, path, "@").replace(b'"@"', value.encode()))


@pytest.mark.parametrize(
    ("field", "value"),
    [("number", -1), ("length", 0), ("length", 2**32 + 1), ("size", 0), ("size", 2**33 + 1),
     ("offset", 2**53 + 1), ("sha256", "x" * 64), ("sha256", SHA + "\n"), ("plain_xxh128", ""),
     ("surplus", -1), ("surplus", 2**32 + 1), ("plain_xxh128", SHA),
     ("hashes", {"md5": "no hex"}), ("hashes", {"md5": "ab" * 100}), ("hashes", {"a\nb": SHA}),
     ("first_object", 2**64), ("first_object", 10**4000), ("first_object", -1),
     ("first_write", [1, 2**64]),
     ("first_write", [1]), ("seam", {**SEAM, "object": 2**64}),
     ("seam", {**SEAM, "checksum": "00"}), ("seam", {**SEAM, "head_xxh128": SHA})],
)  # fmt: skip
def test_hostile_receipts(field: str, value: object) -> None:
    refusal(changed(INDEX, f"receipts.0.{field}", value), Index)


def test_guids_have_all_of_64_bits() -> None:
    line = changed(MANIFEST, "head.dataset.guid", 2**64 - 1)
    assert manifest.decode(line, Manifest).head.dataset.guid == 2**64 - 1


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"null", b"[]", b"{}", b'"x"', b"{", b"\xff\xfe", b'{"format":1}',
        b'{"format":1,"x":"\\ud800"}', b'{"format":1,"\xff":1}', b'{"format":1}{}',
        b'{"format":1,"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        b'{"x":' + b'{"a":' * 200_000 + b"1" + b"}" * 200_001,
        manifest.encode(MANIFEST)[:-10], manifest.encode(MANIFEST) + b"x",
        manifest.encode(MANIFEST).replace(b"nas", b"n\xffs"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("kind", [Manifest, Index])
def test_what_is_no_document(line: bytes, kind: type[Any]) -> None:
    refusal(line, kind)


@given(st.data())
@settings(deadline=None, max_examples=examples(100))
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Any bytes in place of some of a manifest's: nothing but IntegrityError comes of it."""
    line = bytearray(manifest.encode(MANIFEST))
    at = data.draw(st.integers(0, len(line) - 1))
    line[at : at + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    with contextlib.suppress(IntegrityError):
        manifest.decode(bytes(line), Manifest)


# --- receipts -------------------------------------------------------------------------------------


def test_receipts_that_fit() -> None:
    manifest.check_receipts(MANIFEST, RECEIPTS)


def renumbered(receipts: list[Receipt]) -> list[Receipt]:
    """The same with numbers and offsets made good, as a forger would."""
    offset, made = 0, []
    for number, receipt in enumerate(receipts):
        made.append(msgspec.structs.replace(receipt, number=number, offset=offset))
        offset += receipt.length
    return made


def with_second(**changes: int) -> list[Receipt]:
    return [RECEIPTS[0], msgspec.structs.replace(RECEIPTS[1], **changes), RECEIPTS[2]]


@pytest.mark.parametrize(
    ("receipts", "told"),
    [
        ([], "do not add up"),
        (RECEIPTS[:2], "do not add up"),
        (RECEIPTS[1:], "chunk 0 .* out of order"),
        (RECEIPTS[:1] + RECEIPTS[2:], "chunk 1 .* out of order"),
        ([RECEIPTS[1], RECEIPTS[0], RECEIPTS[2]], "chunk 0 .* out of order"),
        ([RECEIPTS[0], RECEIPTS[0], RECEIPTS[2]], "chunk 1 .* out of order"),
        ([*RECEIPTS, RECEIPTS[2]], "chunk 3 .* out of order"),
        (renumbered([*RECEIPTS, RECEIPTS[2]]), "do not add up"),
        (renumbered(RECEIPTS[:2]), "do not add up"),
        (with_second(offset=4095), "chunk 1 .* out of order"),
        (with_second(offset=4097), "chunk 1 .* out of order"),
        (with_second(length=4095), "chunk 2 .* out of order"),
        (with_second(length=4097), "chunk 1 .* too long"),
        (with_second(size=5001), "do not add up"),
        (with_second(surplus=1), "chunk 1 .* too long"),
    ],
)
def test_receipts_that_do_not_fit(receipts: list[Receipt], told: str) -> None:
    with pytest.raises(IntegrityError, match=told):
        manifest.check_receipts(MANIFEST, receipts)


@pytest.mark.parametrize(
    "change", [{"chunks": 4}, {"stream_bytes": 8293}, {"stored_bytes": 10299}, {"chunks": 10**8}]
)
def test_totals_that_do_not_add_up(change: dict[str, int]) -> None:
    with pytest.raises(IntegrityError, match=r"totals .* do not add up"):
        manifest.check_receipts(msgspec.structs.replace(MANIFEST, **change), RECEIPTS)


# --- threads --------------------------------------------------------------------------------------

DECODE_IN_THREADS = """
import sys, threading
from offsite import manifest
sys.setswitchinterval(1e-6)
line = sys.stdin.buffer.read()
together = threading.Barrier(8)
def decode():
    together.wait()
    assert manifest.decode(line, manifest.Manifest).chunks == 3
threads = [threading.Thread(target=decode) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""


def run_python(script: str, stdin: bytes) -> subprocess.CompletedProcess[bytes]:
    path = str(Path(offsite.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", script],
        input=stdin, env={"PYTHONPATH": path}, capture_output=True, check=False, timeout=300,
    )  # fmt: skip


def test_the_first_documents_may_be_read_by_many_threads() -> None:
    """A fresh interpreter each time: with decoders built on first use every second one crashed."""
    line = manifest.encode(MANIFEST)
    ran = [run_python(DECODE_IN_THREADS, line) for _ in range(6)]
    assert [(done.returncode, done.stderr) for done in ran] == [(0, b"")] * 6
