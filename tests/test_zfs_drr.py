"""Records and whole streams against a second, plain writer: fields by offset, sums word by word.

The offsets are those of design/openzfs.md, section B. tests/lab/zfs/test_drr.py compares what is
read from real streams with what zstream reads.
"""

import dataclasses
import io
import json
import random
import struct
import tracemalloc
from collections.abc import Callable
from itertools import accumulate, chain, repeat
from pathlib import Path
from typing import Any, get_args

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite.zfs import drr
from offsite.zfs.drr import Record
from offsite.zfs.fletcher import ZERO, State
from offsite.zfs.records import HEADER_SIZE, KIND, MAGIC, Kind, field_codes, read_header
from offsite.zfs.records import WHOLE as WHOLE_OF
from offsite.zfs.stream import StreamError
from tests.thorough import examples

FOLDER = Path(__file__).parent / "vectors" / "streams"
FACTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "streams.json").read_text())
CLASSES: dict[Kind, type[Record]] = {each.kind: each for each in get_args(Record)}
Stream = list[tuple[Record, bytes]]

# kind: field@offset, with the number of bytes of a field that is not u64; c: of four u64.
TABLE = """
BEGIN: payloadlen@4/4 magic@8 versioninfo@16 creation_time@24 type@32/4 flags@36/4 toguid@40
 fromguid@48 toname@56/256
OBJECT: object@8 type@16/4 bonustype@20/4 blksz@24/4 bonuslen@28/4 checksumtype@32/1 compress@33/1
 dn_slots@34/1 flags@35/1 raw_bonuslen@36/4 toguid@40 indblkshift@48/1 nlevels@49/1 nblkptr@50/1
 maxblkid@56
FREEOBJECTS: firstobj@8 numobjs@16 toguid@24
WRITE: object@8 type@16/4 offset@24 logical_size@32 toguid@40 checksumtype@48/1 flags@49/1
 compressiontype@50/1 key_cksum@56/c key_prop@88 compressed_size@96 salt@104/8 iv@112/12 mac@124/16
FREE: object@8 offset@16 length@24 toguid@32
END: checksum@8/c toguid@40
WRITE_BYREF: object@8 offset@16 length@24 toguid@32 refguid@40 refobject@48 refoffset@56
 checksumtype@64/1 flags@65/1 key_cksum@72/c key_prop@104
SPILL: object@8 length@16 toguid@24 flags@32/1 compressiontype@33/1 compressed_size@40 salt@48/8
 iv@56/12 mac@68/16 type@84/4
WRITE_EMBEDDED: object@8 offset@16 length@24 toguid@32 compression@40/1 etype@41/1 lsize@48/4
 psize@52/4
OBJECT_RANGE: firstobj@8 numslots@16 toguid@24 salt@32/8 iv@40/12 mac@52/16 flags@68/1
REDACT: object@8 offset@16 length@24 toguid@32
"""
PLACES: dict[Kind, dict[str, tuple[int, str]]] = {}
for line in TABLE.replace("\n ", " ").strip().splitlines():
    name, _, places = line.partition(": ")
    PLACES[Kind[name]] = {
        field: (int(at), size or "8")
        for field, _, place in (each.partition("@") for each in places.split())
        for at, _, size in [place.partition("/")]
    }


def plain_header(record: Record, order: str = "<") -> bytearray:
    header = bytearray(HEADER_SIZE)
    struct.pack_into(order + "I", header, 0, record.kind)
    for field, (at, size) in PLACES[record.kind].items():
        value = getattr(record, field)
        if size == "c":
            struct.pack_into(order + "4Q", header, at, *value)
        elif isinstance(value, bytes):
            header[at : at + len(value)] = value
        else:
            struct.pack_into(order + {"8": "Q", "4": "I", "1": "B"}[size], header, at, value)
    return header


def plain_sum(state: State, data: bytes | bytearray) -> State:
    a, b, c, d = state
    for word in struct.unpack(f"<{len(data) // 4}I", data):
        a += word
        b += a
        c += b
        d += c
    mask = (1 << 64) - 1
    return a & mask, b & mask, c & mask, d & mask


def plain_stream(records: Stream) -> bytes:
    out, state = b"", ZERO
    for record, payload in records:
        header = plain_header(record)
        if isinstance(record, drr.End):
            struct.pack_into("<4Q", header, 8, *state)
        if not isinstance(record, drr.Begin):
            summed = plain_sum(state, header[:280])
            struct.pack_into("<4Q", header, 280, *summed)
        state = plain_sum(state, header + payload)
        out += header + payload
    return out


def payload_of(record: Record, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(drr.payload_length(record))  # noqa: S311 - test data


def as_read(records: Stream) -> Stream:
    """The records as they are read again: with END's checksum."""
    data = plain_stream(records)
    checksum = struct.unpack_from("<4Q", data, len(data) - HEADER_SIZE + 8)
    end = records[-1][0]
    assert isinstance(end, drr.End)
    return [*records[:-1], (dataclasses.replace(end, checksum=checksum), b"")]


def number(code: str) -> st.SearchStrategy[Any]:
    if code == "256s":
        return st.binary(max_size=255).map(lambda name: name.rstrip(b"\0"))
    if code.endswith("s"):
        return st.binary(min_size=int(code[:-1]), max_size=int(code[:-1]))
    if code == "4Q":
        return st.tuples(*[number("Q")] * 4)
    return st.integers(0, (1 << 8 * struct.calcsize("=" + code)) - 1)


WORDS = st.integers(0, 16).map(lambda words: words * 4)
LENGTHS: dict[Kind, dict[str, st.SearchStrategy[Any]]] = {
    Kind.BEGIN: {
        "payloadlen": WORDS,
        "magic": st.just(MAGIC),
        "versioninfo": st.integers(0, (1 << 62) - 1).map(lambda features: features << 2 | 1),
        "type": st.sampled_from([2, 3]),
    },
    Kind.OBJECT: {"bonuslen": st.integers(0, 320), "raw_bonuslen": WORDS},
    Kind.WRITE: {"logical_size": WORDS, "compressed_size": WORDS},
    Kind.SPILL: {"length": WORDS, "compressed_size": WORDS},
    Kind.WRITE_EMBEDDED: {"psize": st.integers(0, 112)},
}


def records_of(kind: Kind) -> st.SearchStrategy[Record]:
    fields = {name: number(code) for name, code in field_codes(kind).items()}
    return st.builds(CLASSES[kind], **fields | LENGTHS.get(kind, {}))


MIDDLE = [kind for kind in Kind if kind not in {Kind.BEGIN, Kind.END}]
STREAMS: st.SearchStrategy[Stream] = st.builds(
    lambda begin, middle, end: [(each, payload_of(each)) for each in (begin, *middle, end)],
    records_of(Kind.BEGIN),
    st.lists(st.sampled_from(MIDDLE).flatmap(records_of), max_size=6),
    records_of(Kind.END),
)


def every_kind() -> Stream:
    guid = 0x123456789ABCDEF0
    records: list[Record] = [
        drr.Begin(payloadlen=20, creation_time=1700000000, toguid=guid, toname=b"tank/fs@1"),
        drr.ObjectRange(firstobj=0, numslots=32, toguid=guid, iv=b"initial vect", flags=1),
        drr.FreeObjects(firstobj=0, numobjs=1, toguid=guid),
        drr.Object(object=7, type=19, bonustype=44, blksz=512, bonuslen=13, toguid=guid),
        drr.Free(object=7, offset=512, length=drr.TO_THE_END, toguid=guid),
        drr.Write(object=7, type=19, logical_size=64, toguid=guid, key_cksum=(1, 2, 3, 1 << 63)),
        drr.Write(object=7, offset=512, logical_size=512, compressiontype=15, compressed_size=36),
        drr.WriteByref(object=7, offset=1024, length=512, refguid=5, key_prop=99),
        drr.Object(object=8, bonuslen=8, raw_bonuslen=12, nblkptr=3, maxblkid=1 << 40),
        drr.Spill(object=8, length=32, flags=4),
        drr.Spill(object=8, length=512, compressed_size=28, mac=b"authentication!!"),
        drr.WriteEmbedded(object=8, length=131072, lsize=131072, psize=29),
        drr.Redact(object=8, offset=1 << 20, length=131072, toguid=guid),
        drr.End(toguid=guid),
    ]
    return [(record, payload_of(record, seed)) for seed, record in enumerate(records)]


EVERY_KIND = every_kind()
WHOLE = b"".join(drr.write(EVERY_KIND))
STARTS = [0, *accumulate(HEADER_SIZE + len(payload) for _, payload in EVERY_KIND)]


def vector(name: str) -> bytes:
    return zstandard.ZstdDecompressor().decompress((FOLDER / f"{name}.zst").read_bytes())


def read(data: bytes) -> Stream:
    return list(drr.read([data]))


@pytest.mark.parametrize("kind", Kind)
def test_every_field_is_where_the_table_has_it(kind: Kind) -> None:
    names = [field.name for field in dataclasses.fields(CLASSES[kind])]
    assert names == list(PLACES[kind])
    assert list(field_codes(kind)) == list(PLACES[kind])


@pytest.mark.parametrize("kind", Kind)
@given(data=st.data())
@settings(max_examples=examples(30))
def test_a_record_is_parsed_and_packed(kind: Kind, data: st.DataObject) -> None:
    record = data.draw(records_of(kind))
    assert drr.pack(record) == plain_header(record)
    assert drr.parse(drr.pack(record)) == record
    assert drr.parse(memoryview(plain_header(record))) == record
    if not isinstance(record, drr.Begin):
        header = bytearray(drr.pack(record))
        assert read_header(header, 0)[3] == drr.payload_length(record)


LENGTH_OF: list[tuple[Record, int]] = [
    (drr.Begin(payloadlen=1028), 1028),
    (drr.Object(bonuslen=168), 168),
    (drr.Object(bonuslen=169), 176),
    (drr.Object(bonuslen=169, raw_bonuslen=192), 192),
    (drr.Write(logical_size=131072, compressed_size=512), 131072),
    (drr.Write(logical_size=131072, compressed_size=512, compressiontype=2), 512),
    (drr.Spill(length=1024), 1024),
    (drr.Spill(length=1024, compressed_size=512), 512),
    (drr.WriteEmbedded(psize=57, lsize=512), 64),
    *[(CLASSES[kind](), 0) for kind in Kind],
]


@pytest.mark.parametrize(("record", "length"), LENGTH_OF)
def test_the_length_of_a_payload(record: Record, length: int) -> None:
    assert drr.payload_length(record) == length


UNFIT: list[tuple[Record, str]] = [
    (drr.Begin(magic=1), "BEGIN record with magic 1"),
    (drr.Begin(payloadlen=(1 << 20) + 4), "BEGIN record with magic 2f5bacbac and a payload of"),
    (drr.Begin(toname=b"x" * 257), "a field does not fit"),
    (drr.Begin(toname=b"x\0"), "a field does not fit"),
    (drr.Object(object=-1), "OBJECT record: "),
    (drr.Object(flags=256), "OBJECT record: "),
    (drr.Object(raw_bonuslen=6), "OBJECT record with a payload of 6 bytes, no u32 words"),
    (drr.Object(raw_bonuslen=16388), "OBJECT record with a payload of 16388 bytes"),
    (drr.Write(logical_size=(16 << 20) + 4), "WRITE record with a payload of 16777220 bytes"),
    (drr.Write(salt=b"short"), "a field does not fit"),
    (drr.ObjectRange(mac=bytes(17)), "a field does not fit"),
    (drr.WriteEmbedded(psize=113), "WRITE_EMBEDDED record with a payload of 120 bytes"),
]


@pytest.mark.parametrize(("record", "why"), UNFIT)
def test_what_could_not_be_read_again_is_not_packed(record: Record, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        drr.pack(record)


@pytest.mark.parametrize("length", [0, 4, 311, 313])
def test_only_a_whole_header_is_parsed(length: int) -> None:
    header = drr.pack(drr.Begin()).ljust(length, b"\0")[:length]
    with pytest.raises(ValueError, match=f"a header of {length} bytes"):
        drr.parse(header)


@given(header=st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), kind=st.sampled_from(Kind))
def test_any_header_is_refused_or_packed_as_it_was(header: bytes, kind: Kind) -> None:
    header = KIND.pack(kind) + header[4 : WHOLE_OF[kind].size]
    header = header.ljust(280, b"\0").ljust(HEADER_SIZE, b"\1")
    try:
        record = drr.parse(header)
    except ValueError:
        return
    assert plain_header(record)[:280] == header[:280]


@pytest.mark.parametrize("kind", [11, 12, 255, 1 << 24, (1 << 32) - 1])
def test_an_unknown_kind_is_told_by_its_number(kind: int) -> None:
    header = KIND.pack(kind).ljust(HEADER_SIZE, b"\0")
    with pytest.raises(ValueError, match=f"record of unknown type {kind}$"):
        drr.parse(header)
    stream = plain_stream(EVERY_KIND[:2])
    with pytest.raises(StreamError, match=f"record of unknown type {kind}$") as caught:
        read(stream + header + bytes(1000))
    assert caught.value.offset == len(stream)


@given(STREAMS)
@settings(max_examples=examples(50))
def test_what_is_written_is_read(records: Stream) -> None:
    data = b"".join(drr.write(records))
    assert data == plain_stream(records)
    assert read(data) == as_read(records)
    assert b"".join(drr.write(read(data))) == data


def test_a_big_endian_stream_is_refused_by_name() -> None:
    with pytest.raises(StreamError, match="from a big-endian machine") as caught:
        read(bytes(plain_header(EVERY_KIND[0][0], ">")) + WHOLE[HEADER_SIZE:])
    assert caught.value.offset == 0
    assert "little-endian" in (caught.value.hint or "")


@pytest.mark.parametrize("name", FACTS)
def test_a_real_stream_is_read_and_written_as_it_was(name: str) -> None:
    data, facts = vector(name), FACTS[name]
    records = read(data)
    begin, end = records[0][0], records[-1][0]
    assert isinstance(begin, drr.Begin)
    assert isinstance(end, drr.End)
    assert len(records) == facts["records"]
    assert begin.toname == facts["toname"].encode()
    assert f"{begin.toguid:x}" == f"{end.toguid:x}" == facts["toguid"]
    assert f"{begin.fromguid:x}" == facts["fromguid"]
    assert b"".join(drr.write(records)) == data
    assert plain_stream(records) == data


def test_every_kind_is_read_from_any_source(tmp_path: Path) -> None:
    data = plain_stream(EVERY_KIND)
    (tmp_path / "stream").write_bytes(data)
    expected = as_read(EVERY_KIND)
    assert {record.kind for record, _ in expected} == set(Kind)
    assert list(drr.read(io.BytesIO(data))) == expected
    for buffering in (-1, 0):
        with (tmp_path / "stream").open("rb", buffering=buffering) as file:
            assert list(drr.read(file)) == expected
    for size in (1, 7, 311, 312, 313, 4096):
        cut = [data[at : at + size] for at in range(0, len(data), size)]
        assert list(drr.read(iter(cut))) == expected
        assert list(drr.read([b"", *(memoryview(each) for each in cut), b""])) == expected


def test_a_stream_cut_anywhere_is_refused() -> None:
    data = plain_stream(EVERY_KIND)
    near = {start + shift for start in STARTS for shift in (-1, 0, 1, 4, 8, 280, 311, 312)}
    for length in {*near, *range(0, len(data), 7)} & set(range(len(data))):
        with pytest.raises(StreamError, match="it ended without an END record") as caught:
            read(data[:length])
        assert caught.value.offset == length


@pytest.mark.parametrize("name", ["full", "raw"])
def test_a_real_stream_cut_anywhere_is_refused(name: str) -> None:
    data = vector(name)
    for length in range(0, len(data), 1999):
        with pytest.raises(StreamError, match="it ended without an END record"):
            read(data[:length])


CHANGES = st.lists(
    st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)),
    min_size=1,
    max_size=4,
    unique_by=lambda change: change[0],
)


@given(CHANGES)
@settings(max_examples=examples(100))
def test_any_damage_is_found(changes: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for position, change in changes:
        data[position] ^= change
    with pytest.raises(StreamError) as caught:
        read(bytes(data))
    assert caught.value.offset > min(position for position, _ in changes) - HEADER_SIZE


@given(st.binary(max_size=1000), st.integers(0, len(EVERY_KIND) - 1))
@settings(max_examples=examples(100))
def test_what_follows_a_good_start_raises_nothing_else(tail: bytes, count: int) -> None:
    with pytest.raises(StreamError):
        read(plain_stream(EVERY_KIND[:count]) + tail)


def forged(change: Callable[[bytearray], None], kind: Kind) -> bytes:
    """A stream with one header changed, whose sums are right all the same: made to deceive."""
    out, state = b"", ZERO
    for record, payload in EVERY_KIND:
        header = plain_header(record)
        if record.kind is kind:
            change(header)
        if isinstance(record, drr.End) and kind is not Kind.END:
            struct.pack_into("<4Q", header, 8, *state)
        if not isinstance(record, drr.Begin):
            struct.pack_into("<4Q", header, 280, *plain_sum(state, header[:280]))
        state = plain_sum(state, header + payload)
        out += header + payload
    return out


def put(at: int, code: str, value: int) -> Callable[[bytearray], None]:
    return lambda header: struct.pack_into("<" + code, header, at, value)


FORGED = [
    (Kind.WRITE, put(32, "Q", 1 << 62), "WRITE record with a payload of"),
    (Kind.WRITE, put(32, "Q", 62), "WRITE record with a payload of 62 bytes, no u32 words"),
    (Kind.SPILL, put(16, "Q", (1 << 64) - 1), "SPILL record with a payload of"),
    (Kind.OBJECT, put(36, "I", 1 << 31), "OBJECT record with a payload of"),
    (Kind.WRITE_EMBEDDED, put(52, "I", 1 << 31), "WRITE_EMBEDDED record with a payload of"),
    (Kind.BEGIN, put(4, "I", 1 << 31), "its BEGIN record is damaged"),
    (Kind.BEGIN, put(16, "Q", 2), "a compound stream"),
    (Kind.BEGIN, put(32, "I", 1), "its BEGIN record is damaged"),
    (Kind.BEGIN, put(8, "Q", 0), "it does not start with a BEGIN record"),
    (Kind.FREE, put(0, "I", 0), "a second BEGIN"),
    (Kind.FREE, put(0, "I", 77), "record of unknown type 77"),
    (Kind.FREE, put(0, "I", 5), "bytes follow the END record|the checksum of another stream"),
    (Kind.FREE, put(4, "I", 8), "FREE record with something after or between its fields"),
    (Kind.FREE, put(40, "B", 1), "FREE record with something after or between its fields"),
    (Kind.WRITE, put(20, "I", 1), "WRITE record with something after or between its fields"),
    (Kind.REDACT, put(279, "B", 1), "REDACT record with something after or between its fields"),
    (Kind.END, put(8, "Q", 1), "the END record has the checksum of another stream"),
]


@pytest.mark.parametrize(("kind", "change", "why"), FORGED)
def test_a_hostile_header_is_refused(
    kind: Kind, change: Callable[[bytearray], None], why: str
) -> None:
    assert forged(lambda _: None, kind)[:-HEADER_SIZE] == WHOLE[:-HEADER_SIZE]
    with pytest.raises(StreamError, match=why):
        read(forged(change, kind))


def test_no_more_is_held_than_a_block() -> None:
    """A sender may promise 16 MiB, and then send zeros for ever."""
    start = b"".join(drr.write(EVERY_KIND[:1] + EVERY_KIND[-1:]))[: STARTS[1]]
    promise = drr.pack(drr.Write(logical_size=16 << 20))[:280]
    promise += struct.pack("<4Q", *plain_sum(plain_sum(ZERO, start), promise))
    tracemalloc.start()
    try:
        with pytest.raises(StreamError, match="a second BEGIN"):
            list(drr.read(chain([start, promise], repeat(bytes(1 << 20)))))
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def start_of(kind: Kind) -> int:
    return next(
        at for at, (record, _) in zip(STARTS, EVERY_KIND, strict=False) if record.kind is kind
    )


@pytest.mark.parametrize(
    ("position", "told_at", "kind"),
    [
        (start_of(Kind.SPILL) + HEADER_SIZE, start_of(Kind.SPILL) + HEADER_SIZE + 32, "SPILL"),
        (start_of(Kind.FREE) + 9, start_of(Kind.FREE), "FREE"),
        (start_of(Kind.FREE) + 311, start_of(Kind.FREE), "FREE"),
        (len(WHOLE) - 1, len(WHOLE) - HEADER_SIZE, "END"),
    ],
)
def test_a_wrong_sum_is_told_where_it_shows(position: int, told_at: int, kind: str) -> None:
    data = bytearray(WHOLE)
    data[position] ^= 1
    with pytest.raises(StreamError, match=f"checksum mismatch: {kind} record or what is") as caught:
        read(bytes(data))
    assert caught.value.offset == told_at


def test_a_sum_left_out_is_refused() -> None:
    """OpenZFS receives such a stream: nothing but END's own sum would protect it."""
    data = bytearray(WHOLE)
    at = start_of(Kind.FREE) + 280
    data[at : at + 32] = bytes(32)
    with pytest.raises(StreamError, match="checksum mismatch: FREE record"):
        read(bytes(data))


@pytest.mark.parametrize("more", [b"\0", WHOLE])
def test_bytes_after_end_are_refused_before_end_is_given(more: bytes) -> None:
    found: Stream = []
    with pytest.raises(StreamError, match="bytes follow the END record") as caught:
        found.extend(drr.read([WHOLE, more]))
    assert caught.value.offset == len(WHOLE)
    assert found == EVERY_KIND[:-1]


WRONG: list[tuple[Stream, str]] = [
    ([], "without an END"),
    (EVERY_KIND[:-1], "without an END"),
    (EVERY_KIND[1:], "does not start with a BEGIN"),
    ([EVERY_KIND[0], *EVERY_KIND], "a second BEGIN"),
    ([*EVERY_KIND, EVERY_KIND[-1]], "bytes follow the END"),
    ([(drr.Begin(versioninfo=2), b"")], "a compound stream"),
    ([(drr.Begin(), b"1234")], "BEGIN record with 4 bytes instead of 0"),
    ([EVERY_KIND[0], (drr.Write(logical_size=8), bytes(4))], "WRITE record with 4 bytes instead"),
    ([EVERY_KIND[0], (drr.Free(), bytes(4))], "FREE record with 4 bytes instead of 0"),
]


@pytest.mark.parametrize(("records", "why"), WRONG)
def test_no_stream_is_written_that_could_not_be_read(records: Stream, why: str) -> None:
    with pytest.raises((StreamError, ValueError), match=why):
        list(drr.write(records))
