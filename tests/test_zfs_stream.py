"""The follower against streams made here field by field, cut anywhere.

What it must tell of a chunk is computed a second time, plainly, from the list of records.
tests/lab/zfs/test_streams.py does the same with real streams.
"""

import contextlib
import hashlib
import struct
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite.zfs.records import HEADER_SIZE, MAGIC, Feature, Kind
from offsite.zfs.seams import Place, Seam
from offsite.zfs.stream import ChunkIndex, Follower, StreamError
from tests.thorough import examples

WRITES = {Kind.WRITE, Kind.WRITE_EMBEDDED}
SEAMS = {*WRITES, Kind.OBJECT}


@dataclass(frozen=True)
class Record:
    """One record as the table of design/openzfs.md, section B, lays it out."""

    kind: int
    object: int = 0
    offset: int = 0
    payload: int = 0
    compressed: bool = False

    @property
    def size(self) -> int:
        """Bytes that follow the header."""
        rounded = self.kind == Kind.WRITE_EMBEDDED or (
            self.kind == Kind.OBJECT and not self.compressed
        )
        return -(-self.payload // 8) * 8 if rounded else self.payload

    def header(self) -> bytes:
        out = bytearray(HEADER_SIZE)

        def put(at: int, form: str, value: int) -> None:
            struct.pack_into("<" + form, out, at, value)

        put(0, "I", self.kind)
        put(8, "Q", self.object)
        if self.kind in {Kind.WRITE, Kind.FREE, Kind.REDACT, Kind.WRITE_EMBEDDED}:
            put(24 if self.kind == Kind.WRITE else 16, "Q", self.offset)
        if self.kind == Kind.OBJECT:
            put(36, "I", self.payload) if self.compressed else put(28, "I", self.payload)
        elif self.kind == Kind.WRITE:
            put(32, "Q", 131072 if self.compressed else self.payload)
            put(50, "B", 15 if self.compressed else 0)
            put(96, "Q", self.payload if self.compressed else 0)
        elif self.kind == Kind.SPILL:
            put(16, "Q", 16384 if self.compressed else self.payload)
            put(40, "Q", self.payload if self.compressed else 0)
        elif self.kind == Kind.WRITE_EMBEDDED:
            put(48, "I", 131072)
            put(52, "I", self.payload)
        out[-32:] = hashlib.sha256(out).digest()  # no real checksum, but one to be told apart
        return bytes(out)


def begin(order: str = "<", *, version: int = 1, size: int = 0, kind: int = 2) -> bytes:
    name = b"tank/photos@monday"
    fields = (Kind.BEGIN, size, MAGIC, version, 1700000000, kind, 12, 77, 66, name)
    return struct.pack(order + "IIQQQIIQQ256s", *fields) + bytes(size)


def whole(records: Sequence[Record]) -> bytes:
    """BEGIN, the records with their payloads, END."""
    parts = [begin()]
    for record in (*records, Record(Kind.END)):
        parts += [record.header(), b"\x07" * record.size]
    return b"".join(parts)


def follow(data: bytes, cuts: Sequence[int] = (), marks: Sequence[int] = ()) -> list[ChunkIndex]:
    """Feed ``data`` cut at ``cuts`` and ``marks``; a chunk ends at each mark and at the end."""
    follower = Follower()
    found = []
    for start, end in pairwise(sorted({0, *cuts, *marks, len(data)})):
        follower.feed(memoryview(data)[start:end])
        assert follower.position == end
        if end in marks or end == len(data):
            last_mark = max((mark for mark in marks if mark < end), default=0)
            found.append(follower.mark(memoryview(data)[last_mark:end]))
    follower.finish()
    return found


@dataclass(frozen=True)
class Placed:
    """A record and its place in the stream that ``whole`` makes."""

    record: Record
    at: int
    end: int


def placed(records: Sequence[Record]) -> list[Placed]:
    at, result = 0, []
    for record in (Record(Kind.BEGIN), *records, Record(Kind.END)):
        result.append(Placed(record, at, at + HEADER_SIZE + record.size))
        at = result[-1].end
    return result


def last(found: Sequence[Placed], kind: Kind, until: int | None) -> int | None:
    """Where the last record of a kind begins, at or before ``until``."""
    if until is None:
        return None
    return next((e.at for e in reversed(found) if e.record.kind == kind and e.at <= until), None)


def expected(records: Sequence[Record], start: int, end: int) -> ChunkIndex:
    """The facts of the chunk [start, end), straight from their definition."""
    known = [each for each in placed(records) if each.at + HEADER_SIZE <= end]
    inside = [each for each in known if each.at >= start]
    first = next((each.at for each in placed(records) if start <= each.at < end), None)
    opened = next((each for each in inside if each.record.kind == Kind.OBJECT), None)
    write = next((each for each in inside if each.record.kind in WRITES), None)
    seams = [each for each in known if each.record.kind in SEAMS and each.end <= end]
    if write is None:
        object_at = last(known, Kind.OBJECT, first)
    else:
        same = [each for each in known if each.record.object == write.record.object]
        object_at = last(same, Kind.OBJECT, write.at)
    ranges = [last(known, Kind.OBJECT_RANGE, until) for until in (first, object_at)]
    seam = seams[-1] if seams else None
    return ChunkIndex(
        first_record=first,
        first_object=opened.record.object if opened else None,
        first_write=(write.record.object, write.record.offset) if write else None,
        object_at=object_at,
        range_at=min((at for at in ranges if at is not None), default=None),
        seam=seam_at(seam, known, whole(records)) if seam else None,
    )


def seam_at(seam: Placed, known: Sequence[Placed], data: bytes) -> Seam:
    """The seam's facts from the bytes of the whole stream."""
    data = data[seam.at : seam.end]
    same = [each for each in known if each.record.object == seam.record.object]
    object_at = last(same, Kind.OBJECT, seam.at)
    place = Place(
        seam.record.object,
        seam.record.offset,
        seam.at,
        seam.end,
        object_at,
        last(known, Kind.OBJECT_RANGE, object_at),
    )
    return Seam(place, data[280:312], hashlib.sha256(data[:280] + data[312:]).hexdigest())


FILES = [
    Record(Kind.FREEOBJECTS, 0, payload=0),
    Record(Kind.OBJECT_RANGE, 0),
    Record(Kind.OBJECT, 7, payload=168),
    Record(Kind.FREE, 7, offset=1 << 20),
    Record(Kind.WRITE, 7, 0, payload=4096),
    Record(Kind.WRITE, 7, 131072, payload=512, compressed=True),
    Record(Kind.OBJECT, 8, payload=171),
    Record(Kind.SPILL, 8, payload=1024),
    Record(Kind.WRITE_EMBEDDED, 8, 0, payload=53),
    Record(Kind.OBJECT, 9, payload=1028, compressed=True),
    Record(Kind.OBJECT_RANGE, 32),
    Record(Kind.OBJECT, 40, payload=0),
    Record(Kind.SPILL, 40, payload=512, compressed=True),
    Record(Kind.WRITE, 40, 1 << 40, payload=2048),
    Record(Kind.REDACT, 40, 5),
    Record(Kind.FREEOBJECTS, 41),
]


def test_what_a_stream_says_of_itself() -> None:
    follower = Follower()
    data = begin(version=1 | (1 << 24 | 1 << 22) << 2, size=1028, kind=3)
    follower.feed(memoryview(data))
    assert follower.begin is not None
    assert follower.begin.toname == "tank/photos@monday"
    assert (follower.begin.toguid, follower.begin.fromguid) == (77, 66)
    assert (follower.begin.type, follower.begin.flags) == ("volume", 12)
    assert follower.begin.features == Feature.RAW | Feature.COMPRESSED
    assert follower.begin.creation == 1700000000
    assert not follower.ended


def test_every_kind_of_record_is_followed_to_the_end() -> None:
    data = whole(FILES)
    assert follow(data) == [expected(FILES, 0, len(data))]
    follower = Follower()
    follower.feed(memoryview(data).cast("H"))  # any format that is contiguous
    assert follower.ended
    assert follower.counts == [1, 4, 2, 3, 1, 1, 0, 2, 1, 2, 1]


def test_the_index_of_a_chunk_in_the_middle() -> None:
    at = {each.record: each for each in placed(FILES)}
    start, end = at[FILES[4]].at + 1, at[FILES[8]].end + 5
    index = follow(whole(FILES), marks=[start, end])[1]
    assert index.first_record == at[FILES[5]].at
    assert index.first_object == 8
    assert index.first_write == (7, 131072)
    assert index.object_at == at[FILES[2]].at
    assert index.range_at == at[FILES[1]].at
    assert index.seam is not None
    written, opened = at[FILES[8]], at[FILES[6]].at
    assert index.seam.place == Place(8, 0, written.at, written.end, opened, at[FILES[1]].at)


def test_a_chunk_inside_one_payload_has_only_a_seam() -> None:
    records = [Record(Kind.OBJECT, 1, payload=8), Record(Kind.WRITE, 1, 0, payload=100000)]
    index = follow(whole(records), marks=[2000, 50000])[1]
    assert index.seam is not None
    assert index.seam.place == Place(1, 0, 312, 632, 312)
    assert index == ChunkIndex(None, None, None, None, None, index.seam)


def test_an_object_far_before_its_data_is_found() -> None:
    """Some senders emit the OBJECTs of a block of dnodes before their data."""
    objects = [Record(Kind.OBJECT, number) for number in range(1, 33)]
    writes = [Record(Kind.WRITE, number, 0, payload=512) for number in range(1, 33)]
    records = [Record(Kind.OBJECT_RANGE, 0), *objects, *writes]
    data = whole(records)
    cut = placed(records)[1 + 1 + 32 + 15].at
    index = follow(data, marks=[cut])[1]
    assert index.first_write == (16, 0)
    assert index.object_at == placed(records)[1 + 1 + 15].at
    assert index.range_at == HEADER_SIZE


@given(data=st.data())
def test_a_follower_goes_on_behind_a_seam(data: st.DataObject) -> None:
    stream = whole(FILES)
    positions = st.integers(2000, len(stream) - 1)
    cut, end = sorted(data.draw(st.lists(positions, min_size=2, max_size=2, unique=True)))
    marks = follow(stream, marks=[cut, end])
    seam = marks[0].seam
    assert seam is not None
    first = Follower()
    first.feed(memoryview(stream)[: seam.place.end])
    resumed = Follower(first.begin, seam)
    resumed.feed(memoryview(stream)[seam.place.end : end])
    again = resumed.mark(memoryview(stream)[seam.place.end : end])
    assert again.seam == follow(stream, marks=[seam.place.end, end])[1].seam
    resumed.feed(memoryview(stream)[end:])
    assert resumed.mark(memoryview(stream)[end:]) == marks[-1]
    resumed.finish()


records_strategy = st.lists(
    st.builds(
        Record,
        kind=st.sampled_from([kind for kind in Kind if kind not in {Kind.BEGIN, Kind.END}]),
        object=st.integers(0, 6),
        offset=st.sampled_from([0, 131072, 1 << 63]),
        payload=st.integers(0, 112),
        compressed=st.booleans(),
    ),
    max_size=25,
).map(lambda records: [plain(record) for record in records])


def plain(record: Record) -> Record:
    """Without what its kind does not have."""
    data = {Kind.OBJECT, Kind.WRITE, Kind.WRITE_EMBEDDED, Kind.SPILL}
    offset = record.offset if record.kind in WRITES | {Kind.FREE, Kind.REDACT} else 0
    if record.kind not in data:
        return Record(record.kind, record.object, offset)
    return Record(record.kind, record.object, offset, record.payload or 8, record.compressed)


@given(data=st.data(), records=records_strategy)
@settings(max_examples=examples(100))
def test_any_cut_into_pieces_and_chunks_tells_the_same_facts(
    data: st.DataObject, records: list[Record]
) -> None:
    stream = whole(records)
    near = [each.at + shift for each in placed(records) for shift in (0, 1, 20, 311, 312, 313)]
    position = st.integers(1, len(stream) - 1) | st.sampled_from(near).map(
        lambda at: min(max(at, 1), len(stream) - 1)
    )
    marks = data.draw(st.lists(position, max_size=6))
    cuts = data.draw(st.lists(position, max_size=20))
    chunks = list(pairwise(sorted({0, *marks, len(stream)})))
    assert follow(stream, cuts, marks) == [expected(records, *chunk) for chunk in chunks]


def test_an_object_that_comes_twice() -> None:
    """No sender does that; of what governs a seam nothing that comes after it tells."""
    records = [Record(Kind.OBJECT, 0, payload=8)] * 4
    end = placed(records)[2].at + HEADER_SIZE  # the next header was seen, its payload was not
    (index, *_) = follow(whole(records), [], [end])
    assert index == expected(records, 0, end)
    assert index.seam is not None
    assert index.seam.place.object_at == index.seam.place.begin


def test_one_byte_at_a_time() -> None:
    data = whole(FILES)
    assert follow(data, cuts=range(len(data))) == follow(data)


def damaged() -> Iterator[tuple[str, bytes, int, str]]:
    good = whole(FILES)
    first = HEADER_SIZE
    huge = {
        "OBJECT": Record(Kind.OBJECT, 1, payload=1 << 20),
        "raw OBJECT": Record(Kind.OBJECT, 1, payload=1 << 20, compressed=True),
        "WRITE": Record(Kind.WRITE, 1, payload=(16 << 20) + 8),
        "compressed WRITE": Record(Kind.WRITE, 1, payload=1 << 62, compressed=True),
        "SPILL": Record(Kind.SPILL, 1, payload=1 << 63),
        "compressed SPILL": Record(Kind.SPILL, 1, payload=1 << 63, compressed=True),
        "WRITE_EMBEDDED": Record(Kind.WRITE_EMBEDDED, 1, payload=113),
    }
    for name, record in huge.items():
        why = f"{name.rpartition(' ')[2]} record with a payload of"
        yield name, begin() + record.header(), first, why
    yield "unknown type", begin() + Record(11).header(), first, "record of unknown type 11"
    yield "second BEGIN", begin() + begin(), first, "a second BEGIN"
    yield "bytes after END", good + b"\0", len(good), "bytes follow the END record"
    yield "two streams", good + good, len(good), "bytes follow the END record"
    yield (
        "big-endian",
        begin(">"),
        0,
        "none that Offsite handles at byte 0: it is from",
    )
    yield "garbage", b"\x2a" * 400, 0, "does not start with a BEGIN"
    yield "other record first", Record(Kind.OBJECT, 1).header(), 0, "start with a BEGIN"
    yield "magic, not BEGIN", b"\x01" + begin()[1:], 0, "does not start with a BEGIN"
    yield "compound", begin(version=2), 0, "a compound stream"
    yield "header type", begin(version=3), 0, "does not start with a BEGIN"
    yield "no object set", begin(kind=9), 0, "its BEGIN record is damaged"
    yield "huge nvlist", begin()[:4] + b"\xff" * 4 + begin()[8:], 0, "BEGIN record is damaged"


@pytest.mark.parametrize(("data", "offset", "why"), [pytest.param(*d, id=n) for n, *d in damaged()])
@pytest.mark.parametrize("piece", [1, 100, 1 << 20])
def test_damage_is_told_with_its_offset(data: bytes, offset: int, why: str, piece: int) -> None:
    with pytest.raises(StreamError, match=why) as caught:
        follow(data, cuts=range(0, len(data), piece))
    assert caught.value.offset == offset
    assert f"at byte {offset}: " in str(caught.value)


@pytest.mark.parametrize("length", [0, 100, HEADER_SIZE, 2000, -312, -1])
def test_a_stream_that_ends_early_is_never_complete(length: int) -> None:
    data = whole(FILES)[:length]
    follower = Follower()
    follower.feed(memoryview(data))
    assert not follower.ended
    with pytest.raises(StreamError, match="without an END") as caught:
        follower.finish()
    assert caught.value.offset == len(data)


@given(st.binary(max_size=2000), st.integers(1, 500))
def test_random_bytes_after_a_good_begin_raise_nothing_else(tail: bytes, piece: int) -> None:
    data = begin() + tail
    with pytest.raises(StreamError):
        follow(data, cuts=range(0, len(data), piece))


@given(st.lists(st.tuples(st.integers(0, len(whole(FILES)) - 1), st.integers(0, 255)), max_size=8))
def test_a_damaged_stream_raises_nothing_else(changes: list[tuple[int, int]]) -> None:
    data = bytearray(whole(FILES))
    for position, value in changes:
        data[position] = value
    with contextlib.suppress(StreamError):
        follow(bytes(data))


def test_memory_does_not_grow_with_the_stream() -> None:
    block = b"".join(Record(Kind.OBJECT, number).header() for number in range(1, 20001))
    follower = Follower()
    follower.feed(memoryview(begin()))
    tracemalloc.start()
    try:
        for _ in range(5):
            follower.feed(memoryview(block))
        assert tracemalloc.get_traced_memory()[1] < 2 << 20
    finally:
        tracemalloc.stop()
    assert follower.counts[Kind.OBJECT] == 100000
