"""What OpenZFS 2.4 itself sent, and what it sent on after a cut: our two ways to resume, beside it.

Of tests/vectors/streams/openzfs-2.4.4*.tar.zst: every stream was cut where ``zfs receive -s`` was
killed; there are the token that it left, and the stream that ``zfs send -t`` made of that.
"""

import io
import json
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import zstandard

from offsite.zfs import drr, token
from offsite.zfs.records import Kind
from offsite.zfs.resuming import Resuming
from offsite.zfs.stream import Follower
from offsite.zfs.token import Token
from tests.test_zfs_join import begin_of, spliced
from tests.zfs_streams import WRITES, Place, pieces, place, split

STREAMS = Path(__file__).parent / "vectors/streams"
ARCHIVES = (STREAMS / "openzfs-2.4.4.tar.zst", STREAMS / "openzfs-2.4.4-increments.tar.zst")
WINDOW = 1 << 27  # of zstd --long=27
CUTS = {
    "filesystem": 4,
    "filesystem-no-flags": 2,
    "others-Lec": 1,
    "large-records": 4,
    "raw": 4,
    "volume-incremental": 2,
    "filesystem-incremental": 4,
    "incremental-from-bookmark": 2,
    "raw-incremental": 4,
}
EVERY_CUT = [(name, number) for name, count in CUTS.items() for number in range(count)]
PIECE = 1 << 16


@cache
def archive(path: Path) -> Mapping[str, bytes]:
    with path.open("rb") as file:
        opened = zstandard.ZstdDecompressor(max_window_size=WINDOW).stream_reader(file)
        with tarfile.open(fileobj=io.BytesIO(opened.read())) as tar:
            return {
                member.name: taken.read() for member in tar if (taken := tar.extractfile(member))
            }


@cache
def real() -> Mapping[str, bytes]:
    """What is in both archives."""
    return {name: data for path in ARCHIVES for name, data in archive(path).items()}


@cache
def facts(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(real()[f"{name}/facts.json"])
    return found


@dataclass(frozen=True)
class Cut:
    """The whole stream in parts, where a receive of it ended, and what ZFS sent from there on."""

    parts: list[bytes]
    text: str
    told: Mapping[str, int | str]
    rest: bytes

    @property
    def token(self) -> Token:
        return token.decode(self.text)


def cut(name: str, number: int) -> Cut:
    found = facts(name)["cuts"][number]
    pairs = [line.strip().split(" = ") for line in found["token says"] if " = " in line]
    told = {name: value if name == "toname" else int(value, 0) for name, value in pairs}
    files = real()
    return Cut(
        split(files[f"{name}/stream"]), found["token"], told, files[f"{name}/{found['rest']}"]
    )


def test_nothing_in_the_archive_is_left_out() -> None:
    folders = {path.partition("/")[0] for path in real()}
    assert {name: len(facts(name)["cuts"]) for name in folders} == CUTS


@pytest.mark.parametrize("name", CUTS)
def test_records_that_are_read_and_written_are_the_same(name: str) -> None:
    whole = real()[f"{name}/stream"]
    assert b"".join(drr.write(drr.read([whole]))) == whole


@pytest.mark.parametrize("name", CUTS)
def test_the_stream_is_read_as_zstream_reads_it(name: str) -> None:
    follower = Follower()
    for piece in pieces(real()[f"{name}/stream"], [10007]):
        follower.feed(piece)
    follower.finish()
    summary = {}
    for line in facts(name)["zstream dump"]:
        if line.startswith("\tTotal DRR_"):
            kind, _, count = line.split("DRR_")[1].partition(" records = ")
            summary[kind] = int(count.split()[0])
    counted = {kind.name: follower.counts[kind] for kind in Kind}
    assert {kind: counted[kind] for kind in summary} == summary
    assert follower.position == facts(name)["bytes"]
    assert follower.begin is not None
    assert str(follower.begin.toguid) == facts(name)["guid"]


@pytest.mark.parametrize(("name", "number"), EVERY_CUT)
def test_tokens_are_read_and_written_as_zfs_does(name: str, number: int) -> None:
    given = cut(name, number)
    found, told = given.token, given.told
    numbers = (found.object, found.offset, found.bytes, found.toguid)
    assert numbers == tuple(told[each] for each in ("object", "offset", "bytes", "toguid"))
    assert (found.toname, found.fromguid) == (told["toname"], told.get("fromguid", 0))
    flags = (found.large_blocks, found.embed, found.compress, found.raw)
    named = ("largeblockok", "embedok", "compressok", "rawok")
    assert flags == tuple(each in told for each in named)
    assert token.encode(found) == given.text
    plain = replace(found, large_blocks=False, embed=False, compress=False, raw=False)
    assert plain.with_features(begin_of(given.parts[0]).features) == found


@pytest.mark.parametrize(("name", "number"), EVERY_CUT)
def test_a_receive_is_given_what_zfs_would_send_it(name: str, number: int) -> None:
    """Byte by byte, made of the stored stream alone."""
    given = cut(name, number)
    resuming = Resuming(given.parts[0], given.token.object, given.token.offset)
    made = resuming.stream(pieces(b"".join(given.parts[1:]), [PIECE]))
    assert b"".join(map(bytes, made)) == given.rest


@pytest.mark.parametrize(("name", "number"), EVERY_CUT)
def test_what_zfs_sends_on_becomes_the_stream_that_was_cut(name: str, number: int) -> None:
    """At every record of the place where it begins, as if that were the last one stored."""
    given = cut(name, number)
    kinds = WRITES if given.token.offset else {Kind.OBJECT, *WRITES}
    wanted = {Place(kind, given.token.object, given.token.offset) for kind in kinds}
    seams = [at for at, part in enumerate(given.parts) if at and place(part) in wanted]
    assert seams
    for at in seams:
        assert spliced(given.parts, at, given.rest, [PIECE]) == b"".join(given.parts)
