"""The follower on real send streams (tests/vectors/streams), without a machine that has ZFS."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

from offsite.zfs.records import Kind
from offsite.zfs.stream import Follower, StreamError

FOLDER = Path(__file__).parent / "vectors" / "streams"
FACTS: dict[str, dict[str, Any]] = json.loads((FOLDER / "streams.json").read_text())


def stream(name: str) -> bytes:
    data = zstandard.ZstdDecompressor().decompress((FOLDER / f"{name}.zst").read_bytes())
    assert hashlib.sha256(data).hexdigest() == FACTS[name]["sha256"]
    return data


@pytest.mark.parametrize("piece", [1000, 1 << 20])
@pytest.mark.parametrize("name", FACTS)
def test_a_real_stream_is_read_as_zstream_reads_it(name: str, piece: int) -> None:
    data, facts = stream(name), FACTS[name]
    follower = Follower()
    for at in range(0, len(data), piece):
        follower.feed(memoryview(data)[at : at + piece])
    follower.finish()
    assert follower.position == facts["bytes"]
    assert sum(follower.counts) == facts["records"]
    named = {kind.name: follower.counts[kind] for kind in Kind if follower.counts[kind]}
    named.pop("OBJECT_RANGE", None)
    assert named == facts["counts"]
    assert follower.begin is not None
    assert follower.begin.toname == facts["toname"]
    assert f"{follower.begin.toguid:x}" == facts["toguid"]
    assert f"{follower.begin.fromguid:x}" == facts["fromguid"]
    assert f"{follower.begin.features:x}" == facts["features"]


@pytest.mark.parametrize("name", FACTS)
def test_a_real_stream_cut_anywhere_is_not_whole(name: str) -> None:
    data = stream(name)
    for length in range(0, len(data), 997):
        follower = Follower()
        follower.feed(memoryview(data)[:length])
        with pytest.raises(StreamError, match="without an END record"):
            follower.finish()
