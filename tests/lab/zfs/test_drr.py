"""Real streams of every kind: read field by field as zstream reads them, and written as they were.

One exception: zstream tells neither an OBJECT's checksum and compression nor the sum of a block; a
mistake there would show in what is written.
"""

import re
import subprocess
from collections.abc import Mapping
from typing import Any

import pytest

from lab import Machine
from offsite.zfs import drr
from offsite.zfs.drr import Record
from offsite.zfs.records import Feature, Kind, field_codes
from offsite.zfs.stream import StreamError
from tests.lab.zfs.streams import CASES, StreamOf

BEGIN_FIELD = re.compile(r"^\t(\w+) = (.*)$", re.MULTILINE)
PAIR = re.compile(r"([a-z_ ]+?) = (\S+)")
NAMES = {
    "block for object": "object",
    "checksum type": "checksumtype",
    "compression type": "compressiontype",
    "comp": "compression",
    "props": "key_prop",
}
HEX = {"toguid", "refguid", "key_prop"}
UNTOLD = {"toguid", "checksumtype", "compress", "key_cksum", "type"}
REDACTED = """
zfs create {0}/a
dd if=/dev/urandom of=/{0}/a/noise bs=64k count=16 2>/dev/null
zfs snapshot {0}/a@1
zfs clone {0}/a@1 {0}/public
dd if=/dev/zero of=/{0}/public/noise bs=64k count=6 seek=4 conv=notrunc 2>/dev/null
zfs snapshot {0}/public@1
zfs redact {0}/a@1 book {0}/public@1
"""
CUT = """
zfs create -o compression=zstd -o dnodesize=1k {0}/b
dd if=/dev/urandom of=/{0}/b/noise bs=64k count=16 2>/dev/null
seq 30000 > /{0}/b/numbers
zfs snapshot {0}/b@1
zfs send {0}/b@1 | head -c 700000 | zfs receive -s -u {0}/half || true
"""


def text(name: str, value: Any) -> str:
    """A field's value in zstream's words; a FREE's length is a signed number there."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, tuple):
        return "/".join(f"{each:x}" for each in value)
    if value == drr.TO_THE_END:
        return "-1"
    return f"{value:x}" if name in HEX else str(value)


def begin_text(begin: drr.Begin) -> dict[str, str]:
    """What zstream tells of BEGIN, a field a line; most of it in hexadecimal."""
    facts = {name: f"{getattr(begin, name):x}" for name in ("magic", "creation_time")}
    facts |= {name: f"{getattr(begin, name):x}" for name in ("toguid", "fromguid")}
    facts |= {"hdrtype": str(begin.versioninfo & 3), "features": f"{begin.versioninfo >> 2:x}"}
    facts |= {"type": str(begin.type), "flags": hex(begin.flags)}
    return facts | {"toname": begin.toname.decode(), "payloadlen": str(begin.payloadlen)}


def told_by_zstream(told: str) -> list[tuple[str, dict[str, str]]]:
    """The records after BEGIN: kinds and fields by our names."""
    found = []
    for line in told.splitlines():
        word, _, rest = line.partition(" ")
        if word in Kind.__members__ and " = " in rest:
            fields = {
                NAMES.get(name.strip(), name.strip()): value for name, value in PAIR.findall(rest)
            }
            found.append((word, fields))
    return found


def check(record: Record, payload: bytes, word: str, told: Mapping[str, str]) -> None:
    assert record.kind.name == word
    ours = {name: text(name, getattr(record, name)) for name in field_codes(record.kind)}
    ours |= {"payload_size": str(len(payload))} if "payload_size" in told else {}
    assert told.items() <= ours.items()
    assert ours.keys() - told.keys() <= UNTOLD


def compare(data: bytes, machine: Machine) -> set[Kind]:
    """Compare a stream, as we read it, with what zstream reads. Tell its kinds of records."""
    records = list(drr.read([data]))
    assert b"".join(drr.write(records)) == data
    told = machine.run("zstream", "dump", "-v", stdin=data).stdout
    assert "Incorrect checksum" not in told
    begin = records[0][0]
    assert isinstance(begin, drr.Begin)
    assert begin_text(begin) == dict(BEGIN_FIELD.findall(told)[:10])
    theirs = told_by_zstream(told)
    assert f"Total records = {len(theirs) + 1}\n" in told
    for (record, payload), (word, fields) in zip(records[1:], theirs, strict=True):
        check(record, payload, word, fields)
        assert record.toguid == begin.toguid
    return {record.kind for record, _ in records}


def output(machine: Machine, *argv: str) -> bytes:
    done = subprocess.run(machine.command(*argv), capture_output=True, check=True, timeout=120)
    return done.stdout


@pytest.mark.parametrize("name", CASES)
def test_streams_are_read_as_zstream_reads_them(
    name: str, stream_of: StreamOf, machine: Machine
) -> None:
    assert compare(stream_of(name), machine) >= {*CASES[name].has, Kind.BEGIN, Kind.END}


def test_a_redacted_stream(machine: Machine, pool: str) -> None:
    machine.script(REDACTED.format(pool))
    redacted = output(machine, "zfs", "send", "--redact", "book", f"{pool}/a@1")
    assert Kind.REDACT in compare(redacted, machine)
    with pytest.raises(StreamError, match="a compound stream"):
        list(drr.read([output(machine, "zfs", "send", "-R", f"{pool}/a@1")]))


def test_a_stream_that_resumes_and_one_that_was_cut(machine: Machine, pool: str) -> None:
    machine.script(CUT.format(pool))
    half = f"{pool}/half"
    token = machine.run("zfs", "get", "-Ho", "value", "receive_resume_token", half).stdout.strip()
    for argv, feature in [
        (("-Lec", f"{pool}/b@1"), Feature.ZSTD),
        (("-t", token), Feature.RESUMING),
    ]:
        data = output(machine, "zfs", "send", *argv)
        assert compare(data, machine) >= {Kind.OBJECT, Kind.WRITE}
        begin, _ = next(drr.read([data]))
        assert isinstance(begin, drr.Begin)
        assert begin.versioninfo >> 2 & feature
        assert begin.versioninfo >> 2 & Feature.LARGE_DNODE
    with pytest.raises(StreamError, match="it ended without an END record"):
        list(drr.read([output(machine, "zfs", "send", "--saved", half)]))
