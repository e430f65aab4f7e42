"""Checksums behind a join, mended: against sums made from scratch, and with damage on the way."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite.zfs.mend import MendedSource, Mender, mended
from offsite.zfs.records import HEADER_SIZE, Kind
from offsite.zfs.stream import StreamError
from tests.test_zfs_vectors import FACTS, stream
from tests.thorough import examples
from tests.zfs_streams import (
    END,
    Cut,
    Record,
    State,
    begin,
    fletcher,
    is_sound,
    parts_of,
    pieces,
    sizes,
    split,
    stream_records,
    summed,
)

ZERO: State = (0, 0, 0, 0)
SMALL = parts_of(
    [
        Record(Kind.OBJECT, 7, payload=b"a bonus!"),
        Record(Kind.WRITE, 7, 0, payload=b"four" * 100),
        Record(Kind.FREE, 7, 1 << 20, length=5),
        Record(Kind.WRITE, 7, 1 << 17, payload=b"more" * 3),
    ]
)


def with_sources(rest: bytes, mender: Mender, sizes: list[int], views: list[int]) -> bytes:
    """Read through a MendedSource into views of these sizes; they are one memory, used again."""
    source = MendedSource(Cut(rest, sizes), mender)
    memory = memoryview(bytearray(max(views)))
    found, turn = bytearray(), 0
    while count := source.readinto(memory[: views[turn % len(views)]]):
        found += memory[:count]
        turn += 1
    return bytes(found)


def with_pieces(rest: bytes, mender: Mender, sizes: list[int], _: list[int]) -> bytes:
    return b"".join(bytes(piece) for piece in mended(pieces(rest, sizes), mender))


Way = Callable[[bytes, Mender, list[int], list[int]], bytes]
WAYS: list[Way] = [with_sources, with_pieces]


def joint(parts: list[bytes], at: int) -> tuple[Mender, bytes]:
    """Who lets ``parts[at:]`` follow another BEGIN, and what they must look like there."""
    other = begin(features=1 << 24, payload=b"whatever it may be......")
    mender = Mender(fletcher(ZERO, other), fletcher(ZERO, b"".join(parts[:at])))
    return mender, summed([other, *parts[at:]])[len(other) :]


@pytest.mark.parametrize("way", WAYS)
@given(records=stream_records(), data=st.data(), sizes=sizes, views=sizes)
@settings(max_examples=examples(50), deadline=None)
def test_any_rest_continues_any_stream(
    way: Way, records: list[Record], data: st.DataObject, sizes: list[int], views: list[int]
) -> None:
    parts = parts_of(records)
    at = data.draw(st.integers(1, len(parts) - 1))
    mender, expected = joint(parts, at)
    assert way(b"".join(parts[at:]), mender, sizes, views) == expected
    mender.finish()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [1, 2, 100, 311, 312, 313, 1 << 20])
def test_every_cut(way: Way, size: int) -> None:
    for at in range(1, len(SMALL)):
        for view in (1, 2, 200, 311, 312, 313, 1 << 20):
            mender, expected = joint(SMALL, at)
            assert way(b"".join(SMALL[at:]), mender, [size], [view]) == expected


@pytest.mark.parametrize("name", FACTS)
def test_a_real_stream_is_left_as_it_is_behind_itself(name: str) -> None:
    parts = split(stream(name))
    rest = b"".join(parts[1:])
    state = fletcher(ZERO, parts[0])
    assert with_sources(rest, Mender(state, state), [100000], [30000]) == rest
    assert is_sound(stream(name))


@pytest.mark.parametrize("way", WAYS)
def test_damage_stays_visible(way: Way) -> None:
    """Every single byte of the rest: in headers, in checksums, in payloads."""
    rest = b"".join(SMALL[1:])
    _, expected = joint(SMALL, 1)
    head = summed([begin(features=1 << 24, payload=b"whatever it may be......"), END])[: -len(END)]
    assert is_sound(head + expected)
    for position in range(len(rest)):
        damaged = bytearray(rest)
        damaged[position] ^= 0x10
        mender, _ = joint(SMALL, 1)
        try:
            found = way(bytes(damaged), mender, [1 << 20], [1 << 20])
            sound = mender.ended and is_sound(head + found)
        except (StreamError, ValueError, IndexError):
            continue
        assert not sound


def test_nothing_may_follow_the_end() -> None:
    for tail in (b"\0", END, bytes(1000)):
        for way in WAYS:
            for size in (1, 312, 1 << 20):
                mender, _ = joint(SMALL, 1)
                with pytest.raises(StreamError, match="bytes follow the END") as caught:
                    way(b"".join(SMALL[1:]) + tail, mender, [size], [size])
                assert caught.value.offset == len(b"".join(SMALL[1:]))


@pytest.mark.parametrize("missing", [1, 312, 313, 500, 2000])
def test_a_rest_that_ends_early(missing: int) -> None:
    """Pieces of a stored stream must be whole; a send that died is told of by its exit status."""
    rest = b"".join(SMALL[1:])[:-missing]
    for size in (1, 100, 1 << 20):
        mender, expected = joint(SMALL, 1)
        with pytest.raises(StreamError, match="without an END"):
            with_pieces(rest, mender, [size], [])
        mender, expected = joint(SMALL, 1)
        found = with_sources(rest, mender, [size], [size])
        assert expected.startswith(found)
        assert len(rest) - len(found) < HEADER_SIZE
        with pytest.raises(StreamError, match="without an END"):
            mender.finish()


@pytest.mark.parametrize(
    ("part", "why"),
    [
        (bytes(Record(Kind.WRITE, 1, payload=b"12345")), "a payload of 5 bytes"),
        (b"\x0b" + bytes(311), "unknown type 11"),
        (b"\0\0\0\x03" + bytes(308), "unknown type 50331648"),
        (begin(), "a second BEGIN"),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_what_no_sender_makes(way: Way, part: bytes, why: str) -> None:
    mender, _ = joint(SMALL, 1)
    with pytest.raises(StreamError, match=why) as caught:
        way(SMALL[1] + part, mender, [100], [100])
    assert caught.value.offset == len(SMALL[1])


def test_a_blocked_reader_can_be_woken() -> None:
    inner = Cut(b"", [1])
    MendedSource(inner, Mender(ZERO, ZERO)).kill()
    assert inner.killed


def test_payload_goes_straight_into_the_view() -> None:
    class Watched(Cut):
        def readinto(self, into: memoryview) -> int:
            asked.append(len(into))
            return super().readinto(into)

    asked: list[int] = []
    parts = split(summed([begin(), bytes(Record(Kind.WRITE, 1, payload=bytes(1 << 20))), END]))
    mender, _ = joint(parts, 1)
    source = MendedSource(Watched(b"".join(parts[1:]), [1 << 20]), mender)
    view = memoryview(bytearray(1 << 20))
    while source.readinto(view):
        pass
    assert asked == [1 << 20, 1 << 20, 1 << 20]
