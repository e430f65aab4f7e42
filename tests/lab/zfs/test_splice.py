"""Interrupted sends and receives of real OpenZFS, continued."""

import hashlib
import subprocess
from itertools import pairwise

import pytest

from lab import Machine
from offsite.zfs import properties, token
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError
from offsite.zfs.join import join
from offsite.zfs.records import HEADER_SIZE, Kind
from offsite.zfs.resuming import Resuming
from offsite.zfs.seams import Place, Seam
from offsite.zfs.stream import Begin, Follower
from offsite.zfs.token import Token
from tests.lab.zfs.streams import CASES, NEWER, StreamOf, receive, send, walk
from tests.zfs_streams import Cut, pieces

SEAMS = (Kind.WRITE, Kind.WRITE_EMBEDDED, Kind.OBJECT)
BASES = {"increment": "full", "raw increment": "raw", "volume increment": "volume"}
NAMES = [*dict.fromkeys(BASES.values()), *BASES, *(["new features"] if NEWER else [])]
# Not received in parts: there the kernel of 2.3.2 panicked once (dsl_dataset.c, VERIFY0(zap_add)).
SENT = [*NAMES, *(["new features, increment"] if NEWER else [])]
SPLIT = "large blocks, split"  # into WRITEs of 128 KiB; zfs send -t begins at the block's start


def begin_of(data: bytes) -> Begin:
    follower = Follower()
    follower.feed(memoryview(data)[:HEADER_SIZE])
    assert follower.begin is not None
    return follower.begin


def seams(data: bytes) -> list[Place]:
    """All records that a send can be resumed at."""
    records = walk(data)
    ends = [at for *_, at in records[1:]] + [len(data) - HEADER_SIZE]
    return [
        Place(number, offset, at, end)
        for (kind, number, offset, at), end in zip(records, ends, strict=True)
        if kind in SEAMS
    ]


def seam_of(data: bytes, place: Place) -> Seam:
    record = data[place.begin : place.end]
    digest = hashlib.sha256(record[:280] + record[HEADER_SIZE:]).hexdigest()
    return Seam(place, record[280:HEADER_SIZE], digest)


def token_at(data: bytes, place: Place) -> Token:
    """As a receive that got no further would have it."""
    begin = begin_of(data)
    bare = Token(place.object, place.offset, 0, begin.toguid, begin.toname, begin.fromguid)
    return bare.with_features(begin.features)


def resumed(machine: Machine, wanted: Token) -> bytes:
    """What ``zfs send -t`` sends."""
    argv = machine.command("zfs", "send", "-t", token.encode(wanted))
    return subprocess.run(argv, capture_output=True, check=True, timeout=120).stdout


@pytest.mark.parametrize("name", [*SENT, SPLIT])
def test_a_send_cut_anywhere_is_continued_to_the_same_bytes(
    name: str, machine: Machine, stream_of: StreamOf
) -> None:
    data = stream_of(name)
    places = seams(data)
    view = memoryview(bytearray(100000))
    for place in {places[len(places) * tenth // 10] for tenth in (0, 3, 5, 8, 9)} | {places[-1]}:
        rest = resumed(machine, token_at(data, place))
        joined = join(Cut(rest, [65536]), seam_of(data, place), begin_of(data))
        found = bytearray(data[: place.end])
        while count := joined.source.readinto(view):
            found += view[:count]
        assert found == data, place
        if place.offset and name != SPLIT:  # a restore makes the very same, from what is stored
            assert continued(data, token_at(data, place)) == rest, place


def receive_part(zfs: Zfs, target: str, data: bytes) -> Token:
    """Let the stream end early; what the target then wants."""
    with pytest.raises(CommandError), zfs.receive(target, flags=("-s", "-u")) as stream:
        stream.write(data)
    return token.decode(properties.effective(zfs, target)["receive_resume_token"].value)


def continued(data: bytes, wanted: Token) -> bytes:
    """What to feed to the target, read from the places where a restore finds it."""
    records = walk(data)
    resuming = Resuming(data[: records[0][3]], wanted.object, wanted.offset)
    start = opened = ranged = first = records[0][3]
    for kind, number, offset, start in records:
        if (number, offset) == (wanted.object, wanted.offset) and kind in SEAMS:
            break
        opened = start if kind == Kind.OBJECT else opened
        ranged = start if kind == Kind.OBJECT_RANGE else ranged
    start = first if resuming.everything else start
    for at in (ranged, opened):
        resuming.govern(pieces(data[at : at + 65536], [10000]))
    return b"".join(bytes(piece) for piece in resuming.stream(pieces(data[start:], [65536])))


def contents(data: bytes) -> list[bytes]:
    """All records, without their checksums: those begin with the name of the dataset."""
    places = [*(at for *_, at in walk(data)), len(data) - HEADER_SIZE]
    return [data[at : at + 280] + data[at + HEADER_SIZE : end] for at, end in pairwise(places)]


@pytest.mark.parametrize("name", NAMES)
def test_a_receive_cut_three_times_is_continued(
    name: str, zfs: Zfs, machine: Machine, filled: str, stream_of: StreamOf
) -> None:
    case, data = CASES[name], stream_of(name)
    target, whole = f"{filled}/continued", f"{filled}/whole"
    try:
        for each in (target, whole) if name in BASES else ():
            receive(zfs, each, stream_of(BASES[name]))
        receive(zfs, whole, data)
        rest = data
        for part in (0.1, 0.4, 0.8):
            wanted = receive_part(zfs, target, rest[: int(len(rest) * part)])
            rest = continued(data, wanted)
        with zfs.receive(target, flags=("-s", "-u")) as stream:
            stream.write(rest)
        snapshot = f"@{2 if name in BASES else 1}"
        again = [send(zfs, each + snapshot, case.flags) for each in (target, whole)]
        assert contents(again[0]) == contents(again[1])
    finally:
        for each in (target, whole):
            machine.run("zfs", "destroy", "-r", each, check=False)


@pytest.mark.parametrize("name", ["full", "raw", "volume"])
def test_a_receive_that_has_got_no_data_yet(
    name: str, zfs: Zfs, machine: Machine, filled: str, stream_of: StreamOf
) -> None:
    data = stream_of(name)
    target = f"{filled}/early"
    try:
        wanted = receive_part(zfs, target, data[: walk(data)[0][3] + HEADER_SIZE + 100])
        assert (wanted.object, wanted.offset) == (1, 0)
        with zfs.receive(target, flags=("-s", "-u")) as stream:
            stream.write(continued(data, wanted))
        again = send(zfs, f"{target}@1", CASES[name].flags)
        assert contents(again) == contents(data)
    finally:
        machine.run("zfs", "destroy", "-r", target, check=False)
