"""Tokens of real OpenZFS are read and written as it does, and it resumes from ours."""

import subprocess
from dataclasses import replace

import pytest

from lab import Machine
from offsite.zfs import datasets, nvlist, properties, token
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError
from offsite.zfs.records import HEADER_SIZE, Kind
from offsite.zfs.stream import Begin, Follower
from offsite.zfs.token import Token
from tests.lab.zfs.streams import CASES, StreamOf, receive, walk

STREAMS = ("full", "increment", "raw")
SEAMS = {Kind.WRITE, Kind.WRITE_EMBEDDED, Kind.OBJECT}


def begin_of(data: bytes) -> Begin:
    follower = Follower()
    follower.feed(memoryview(data)[:HEADER_SIZE])
    assert follower.begin is not None
    return follower.begin


def payload_of(data: bytes) -> bytes:
    """What follows the BEGIN record."""
    return data[HEADER_SIZE : HEADER_SIZE + int.from_bytes(data[4:8], "little")]


def token_for(data: bytes, number: int, offset: int) -> Token:
    begin = begin_of(data)
    bare = Token(number, offset, 0, begin.toguid, begin.toname, begin.fromguid)
    return bare.with_features(begin.features)


@pytest.mark.parametrize("name", STREAMS)
def test_the_token_of_a_receive_that_was_cut(
    name: str, zfs: Zfs, filled: str, stream_of: StreamOf
) -> None:
    data, target = stream_of(name), f"{filled}/cut-{name}"
    cut = len(data) // 2
    if CASES[name].base:
        receive(zfs, target, stream_of("full"))
    with pytest.raises(CommandError), zfs.receive(target, flags=("-s", "-u")) as stream:
        stream.write(data[:cut])
    text = properties.effective(zfs, target)["receive_resume_token"].value
    found = token.decode(text)
    assert token.encode(found) == text
    source = f"{filled}/{CASES[name].dataset}"
    base = datasets.get_snapshot(zfs, f"{source}@1").guid if CASES[name].base else 0
    snapshot = datasets.get_snapshot(zfs, f"{source}@{2 if base else 1}")
    assert (found.toguid, found.fromguid) == (snapshot.guid, base)
    assert found.toname == snapshot.full_name
    assert 0 < found.bytes <= cut
    flags = (found.large_blocks, found.embed, found.compress, found.raw)
    assert flags == ((False, False, True, True) if name == "raw" else (False, True, True, False))
    received = {each[1:3] for each in walk(data) if each[0] in SEAMS and each[3] < cut}
    assert (found.object, found.offset) in received
    assert replace(token_for(data, found.object, found.offset), bytes=found.bytes) == found


@pytest.mark.parametrize("name", STREAMS)
def test_zfs_resumes_from_a_token_of_ours(
    name: str, machine: Machine, filled: str, stream_of: StreamOf
) -> None:
    data = stream_of(name)
    writes = [each for each in walk(data) if each[0] == Kind.WRITE]
    _, number, offset, _ = writes[len(writes) // 2]
    ours = token_for(data, number, offset)
    send = machine.command("zfs", "send", "-t", token.encode(ours))
    resumed = subprocess.run(send, capture_output=True, check=True, timeout=120).stdout
    assert begin_of(resumed).toguid == begin_of(data).toguid
    rest = [each[:3] for each in walk(resumed) if each[0] == Kind.WRITE]
    assert rest[0] == (Kind.WRITE, number, offset)
    assert len(rest) == len(writes) - len(writes) // 2
    pairs = {"resume_object": number, "resume_offset": offset}
    assert payload_of(resumed) == nvlist.insert(payload_of(data), pairs)
