"""The follower on real send streams, against zstream and against a plain reader."""

import bisect
import hashlib
import re

import pytest

from lab import Machine
from offsite.zfs.records import HEADER_SIZE, Kind
from offsite.zfs.stream import ChunkIndex, Follower
from tests.lab.zfs.streams import CASES, StreamOf, walk

SEAMS = {Kind.WRITE, Kind.WRITE_EMBEDDED, Kind.OBJECT}
RECORD = re.compile(
    r"^(?P<kind>[A-Z_]+)(?: block for)? (?:object|firstobj) = (?P<object>\d+)"
    r"(?:.*? offset = (?P<offset>\d+))?",
    re.MULTILINE,
)


def chunks(data: bytes, size: int, piece: int) -> tuple[list[ChunkIndex], Follower]:
    follower = Follower()
    found = []
    for start in range(0, len(data), size):
        chunk = memoryview(data)[start : start + size]
        for at in range(0, len(chunk), piece):
            follower.feed(chunk[at : at + piece])
        found.append(follower.mark(chunk))
    follower.finish()
    return found, follower


@pytest.mark.parametrize("name", CASES)
def test_streams_are_followed_as_zstream_reads_them(
    name: str, stream_of: StreamOf, machine: Machine
) -> None:
    case, data = CASES[name], stream_of(name)
    _, follower = chunks(data, 1 << 20, 100000)
    told = machine.run("zstream", "dump", "-v", stdin=data).stdout
    theirs = [
        (Kind[each["kind"]], int(each["object"]), int(each["offset"] or 0))
        for each in RECORD.finditer(told)
    ]
    assert [record[:3] for record in walk(data)] == theirs
    assert sum(follower.counts) == len(theirs) + 2
    assert f"Total stream length = {follower.position} " in told
    assert follower.begin is not None
    assert f"toguid = {follower.begin.toguid:x}\n" in told
    assert f"fromguid = {follower.begin.fromguid:x}\n" in told
    assert f"toname = {follower.begin.toname}\n" in told
    assert f"\n\tfeatures = {follower.begin.features:x}\n" in told
    assert follower.begin.type == ("volume" if case.dataset == "vol" else "filesystem")
    assert follower.begin.features & case.features == case.features
    for kind in case.has:
        assert follower.counts[kind], f"the case was to have a {kind.name} record"


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1 << 20, 65536, 10007])
def test_a_reader_finds_every_block_and_what_governs_it(
    name: str, size: int, stream_of: StreamOf
) -> None:
    """By binary search over the chunks' first writes, then reading on from there."""
    data = stream_of(name)
    found, _ = chunks(data, size, size)
    assert found == chunks(data, size, 4099)[0]
    indexed = [(each.first_write, each) for each in found if each.first_write]
    keys = [key for key, _ in indexed]
    assert keys == sorted(set(keys))
    opened: dict[int, tuple[int, int]] = {}
    range_at = 0
    for kind, number, offset, at in walk(data):
        if kind == Kind.OBJECT_RANGE:
            range_at = at
        elif kind == Kind.OBJECT:
            opened[number] = (at, range_at or at)
        elif kind in {Kind.WRITE, Kind.WRITE_EMBEDDED} and (number, offset) >= keys[0]:
            _, chunk = indexed[bisect.bisect_right(keys, (number, offset)) - 1]
            places = (chunk.first_record, chunk.object_at, chunk.range_at)
            start = min(place for place in places if place is not None)
            assert start <= min(*opened[number], at)


@pytest.mark.parametrize("name", ["full", "raw", "volume"])
def test_a_seam_is_the_last_complete_record_that_a_resume_can_join(
    name: str, stream_of: StreamOf
) -> None:
    data = stream_of(name)
    records = walk(data)
    ends = [at for *_, at in records[1:]] + [len(data) - HEADER_SIZE]
    seams = [
        (*record[1:], end) for record, end in zip(records, ends, strict=True) if record[0] in SEAMS
    ]
    for number, chunk in enumerate(chunks(data, 50021, 50021)[0], start=1):
        past = bisect.bisect_right(seams, number * 50021, key=lambda seam: seam[3])
        assert (chunk.seam is None) == (past == 0)
        if chunk.seam is not None:
            place, (*_, begin, end) = chunk.seam.place, seams[past - 1]
            assert (place.object, place.offset, place.begin, place.end) == seams[past - 1]
            assert chunk.seam.checksum == data[begin + 280 : begin + 312]
            rest = data[begin : begin + 280] + data[begin + 312 : end]
            assert chunk.seam.sha256 == hashlib.sha256(rest).hexdigest()
