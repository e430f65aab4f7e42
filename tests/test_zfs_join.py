"""A resumed send joined to what is stored: the same bytes as a send without interruption."""

import hashlib
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite.zfs.join import join
from offsite.zfs.records import HEADER_SIZE, Feature, Kind
from offsite.zfs.seams import Place as Spot
from offsite.zfs.seams import Seam
from offsite.zfs.stream import Begin, Follower, StreamError
from offsite.zfs.walk import NoSeamError
from tests.test_zfs_nvlist import XDR
from tests.test_zfs_vectors import FACTS, stream
from tests.thorough import examples
from tests.zfs_streams import (
    END,
    FROMGUID,
    TO_THE_END,
    TOGUID,
    Cut,
    Record,
    begin,
    features_of,
    is_sound,
    parts_of,
    place,
    resumed,
    seams,
    sizes,
    split,
    stream_records,
    summed,
    with_begin,
)


def seam_of(parts: list[bytes], at: int) -> Seam:
    where, begins = place(parts[at]), sum(map(len, parts[:at]))
    spot = Spot(where.object, where.offset, begins, begins + len(parts[at]))
    digest = hashlib.sha256(parts[at][:280] + parts[at][HEADER_SIZE:]).hexdigest()
    return Seam(spot, parts[at][280:312], digest)


def begin_of(head: bytes) -> Begin:
    follower = Follower()
    follower.feed(memoryview(head))
    assert follower.begin is not None
    return follower.begin


def spliced(
    parts: list[bytes], at: int, rest: bytes, sizes: list[int], view: int = 1 << 20
) -> bytes:
    """What is stored of ``parts`` up to the seam ``at``, and the rest joined to it."""
    joined = join(Cut(rest, sizes), seam_of(parts, at), begin_of(parts[0]))
    assert joined.begin.features & Feature.RESUMING
    found = bytearray().join(parts[: at + 1])
    memory = memoryview(bytearray(view))
    while count := joined.source.readinto(memory):
        found += memory[:count]
    return bytes(found)


@given(records=stream_records(), data=st.data(), sizes=sizes, view=st.integers(1, 1000))
@settings(max_examples=examples(50), deadline=None)
def test_a_join_gives_the_uninterrupted_stream(
    records: list[Record], data: st.DataObject, sizes: list[int], view: int
) -> None:
    parts = parts_of(records)
    at = data.draw(st.sampled_from(seams(parts)))
    rest = resumed(parts, at, earlier=data.draw(st.integers(0, 3)))
    assert spliced(parts, at, rest, sizes, view) == b"".join(parts)


@pytest.mark.parametrize("name", FACTS)
def test_a_real_stream_joined_at_any_of_its_records(name: str) -> None:
    parts = split(stream(name))
    for at in seams(parts):
        assert spliced(parts, at, resumed(parts, at, earlier=7), [65536]) == stream(name)


def test_a_stream_whose_lists_are_xdr() -> None:
    """Of an OpenZFS of after May 2026, and of one of before that it was moved from or to."""
    own = XDR.ljust(-(-len(XDR) // 8) * 8, b"\0")
    parts = split(stream("plain"))
    newer = split(summed([with_begin(parts[0], features_of(parts[0]), own), *parts[1:]]))
    for first, then in ((newer, newer), (parts, newer), (newer, parts)):
        for at in seams(first)[:20]:
            assert spliced(first, at, resumed(then, at), [10007]) == b"".join(first)


@given(records=stream_records(), data=st.data())
@settings(max_examples=examples(50), deadline=None)
def test_a_stream_cut_twice(records: list[Record], data: st.DataObject) -> None:
    parts = parts_of(records)
    first, second = sorted(data.draw(st.sampled_from(seams(parts))) for _ in range(2))
    again = split(spliced(parts, first, resumed(parts, first), [1000]))
    assert spliced(again, second, resumed(parts, second), [1000]) == b"".join(parts)


SMALL = parts_of(
    [
        Record(Kind.FREEOBJECTS, 1, length=6),
        Record(Kind.OBJECT, 7, payload=b"a bonus!"),
        Record(Kind.FREE, 7, 1 << 20, length=TO_THE_END),
        Record(Kind.WRITE, 7, 0, payload=b"four" * 100),
        Record(Kind.WRITE, 7, 1 << 17, payload=b"more" * 3),
        Record(Kind.OBJECT, 8),
        Record(Kind.WRITE_EMBEDDED, 8, 0, payload=b"embedded"),
        Record(Kind.OBJECT, 9),
        Record(Kind.WRITE, 9, 0, payload=b"last"),
    ]
)
SEAM = 5
REST = resumed(SMALL, SEAM)


def test_damage_after_the_seam_stays_visible_and_before_it_is_told() -> None:
    """Every single byte of the resumed stream but those that are of no consequence for it."""
    after = len(REST) - len(b"".join(SMALL[SEAM + 1 :]))
    harmless = {*range(24, 32), *range(36, 40), *range(56, 312)}  # time, flags, name, in BEGIN
    for position in range(len(REST)):
        damaged = bytearray(REST)
        damaged[position] ^= 0x10
        try:
            found = spliced(SMALL, SEAM, bytes(damaged), [1 << 20])
            sound = is_sound(found)
        except (StreamError, NoSeamError, ValueError, IndexError):
            continue
        assert not sound or position in harmless
        assert position >= after or position in harmless


def test_the_seam_itself_must_be_equal() -> None:
    other = bytearray(SMALL[SEAM])
    other[-1] ^= 1
    parts = [*SMALL[:SEAM], bytes(other), *SMALL[SEAM + 1 :]]
    with pytest.raises(NoSeamError, match="does not begin with the stored record of object 7 at"):
        spliced(SMALL, SEAM, resumed(parts, SEAM), [100])


def test_a_rest_that_begins_too_late_is_not_read_to_its_end() -> None:
    late = resumed(SMALL, 7)
    source = Cut(late, [1 << 20])
    with pytest.raises(NoSeamError):
        join(source, seam_of(SMALL, SEAM), begin_of(SMALL[0]))
    assert bytes(source.left) == b"".join(split(late)[3:])  # BEGIN, OBJECT and a WRITE were read


def test_objects_may_stand_before_data_of_others() -> None:
    """Some senders write the OBJECTs of a block of 32 before all their data."""
    objects = [Record(Kind.OBJECT, number, payload=b"8 bytes.") for number in range(32, 64)]
    writes = [Record(Kind.WRITE, number, 0, payload=b"data") for number in range(32, 64)]
    parts = split(summed([begin(), *map(bytes, [*objects, *writes]), END]))
    head = with_begin(parts[0], Feature.COMPRESSED | Feature.RESUMING, b"some nvlist.")
    for at in seams(parts):
        rest = summed([head, *parts[1:33], *parts[max(at, 33) :]])
        assert spliced(parts, at, rest, [1 << 20]) == b"".join(parts)


def test_a_seam_that_is_cut_is_not_filled_up() -> None:
    parts = parts_of([Record(Kind.OBJECT, 7), Record(Kind.WRITE, 7, 0, payload=bytes(1000))])
    rest = resumed(parts, 2)
    assert spliced(parts, 2, rest, [100]) == b"".join(parts)
    for missing in (1, 500, 1000):
        with pytest.raises(NoSeamError):
            spliced(parts, 2, rest[: -len(END) - missing], [100])


@pytest.mark.parametrize("length", [0, 100, HEADER_SIZE, 320, 700, 1200, 1279])
def test_a_rest_that_ends_before_the_seam(length: int) -> None:
    with pytest.raises(NoSeamError):
        spliced(SMALL, SEAM, REST[:length], [100])


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (replace(begin_of(SMALL[0]), toguid=TOGUID + 1), "of another snapshot"),
        (replace(begin_of(SMALL[0]), fromguid=FROMGUID + 1), "from another base"),
        (replace(begin_of(SMALL[0]), fromguid=0), "from another base"),
        (replace(begin_of(SMALL[0]), features=Feature(0)), "its features are"),
        (replace(begin_of(SMALL[0]), features=Feature.COMPRESSED | Feature.RAW), "its features"),
    ],
)
def test_the_rest_of_another_send(wrong: Begin, why: str) -> None:
    with pytest.raises(NoSeamError, match=why):
        join(Cut(REST, [100]), seam_of(SMALL, SEAM), wrong)


def test_a_whole_stream_is_no_rest() -> None:
    with pytest.raises(NoSeamError, match="it is no resumed stream"):
        spliced(SMALL, SEAM, b"".join(SMALL), [100])


def big_endian(head: bytes) -> bytes:
    changed = bytearray(head)
    for at, size in [(4, 4), (8, 8), (16, 8), (24, 8), (32, 4), (36, 4), (40, 8), (48, 8)]:
        changed[at : at + size] = changed[at : at + size][::-1]
    return bytes(changed)


@pytest.mark.parametrize(
    ("rest", "error", "why"),
    [
        (big_endian(begin(Feature.RESUMING)), StreamError, "big-endian"),
        (begin(Feature.RESUMING | Feature.DEDUP), NoSeamError, "DEDUP"),
        (begin(Feature.RESUMING | Feature.REDACTED), NoSeamError, "REDACTED"),
        (bytes(400), StreamError, "does not start with a BEGIN"),
    ],
)
def test_streams_that_cannot_be_joined(rest: bytes, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        join(Cut(rest, [100]), seam_of(SMALL, SEAM), begin_of(SMALL[0]))


def test_memory_is_bounded_by_one_record() -> None:
    block = bytes(128 << 10)
    writes = [Record(Kind.WRITE, 1, offset << 17, payload=block) for offset in range(40)]
    parts = split(summed([begin(), bytes(Record(Kind.OBJECT, 1)), *map(bytes, writes), END]))
    rest = resumed(parts, len(parts) - 2, earlier=99)
    assert len(rest) > 40 * len(block)
    source, seam, stored = Cut(rest, [1 << 20]), seam_of(parts, len(parts) - 2), begin_of(parts[0])
    tracemalloc.start()
    try:
        join(source, seam, stored)
        assert tracemalloc.get_traced_memory()[1] < 8 * len(block)
    finally:
        tracemalloc.stop()
