"""Streams of ``zfs send -e`` are made what ZFS itself sends without it, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import zstandard
from hypothesis import example, given
from hypothesis import strategies as st

from offsite.errors import ZfsError
from offsite.zfs import drr, embedded
from offsite.zfs.drr import Begin, End, Object, Record, Spill, Write, WriteEmbedded
from offsite.zfs.records import MAGIC, Feature
from tests.test_zfs_real_rests import archive, real
from tests.test_zfs_vectors import FOLDER, stream

COMPRESSIONS = {
    "lzjb": 3, "gzip": 10, "gzip-9": 13, "zle": 14, "lz4": 15, "zstd": 16, "zstd-19": 16,
    "zstd-fast-100": 16,
}  # fmt: skip
LZ4, ZSTD = 15, 16
SPILL_FROM = 1 << 63


def recorded(name: str) -> bytes:
    return archive(FOLDER / "embedded.tar.zst")[f"./{name}"]


def undone(sent: bytes, piece: int = 1 << 16) -> bytes:
    view = memoryview(sent)
    pieces = (view[at : at + piece] for at in range(0, len(view), piece))
    return b"".join(embedded.undone(pieces))


def blocks(sent: bytes) -> list[WriteEmbedded]:
    return [record for record, _ in drr.read([sent]) if isinstance(record, WriteEmbedded)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_it_is_what_zfs_sends_without_e(compression: str) -> None:
    sent = recorded(f"{compression}-Lec")
    assert COMPRESSIONS[compression] in {block.compression for block in blocks(sent)}
    assert undone(sent, 777) == recorded(f"{compression}-Lc")


def test_attributes_that_e_loses() -> None:
    """The spill block that zfs receive drops is one that it takes again."""
    sent = recorded("lz4-Lec")
    assert any(block.offset >= SPILL_FROM for block in blocks(sent))
    assert not any(isinstance(record, Spill) for record, _ in drr.read([sent]))
    spills = [record for record, _ in drr.read([undone(sent)]) if isinstance(record, Spill)]
    assert len(spills) == 1


def test_700_tiny_files_of_another_version() -> None:
    assert undone(real()["others-Lec/stream"]) == real()["filesystem/stream"]


def test_a_stream_of_2_1_without_large_blocks() -> None:
    """``plain`` has no compressed records: its WRITEs are what ours must hold."""
    sent, plain = stream("full"), stream("plain")
    expected = {(one.object, one.offset): data for one, data in writes(plain)}
    places = {(block.object, block.offset) for block in blocks(sent)}
    ours = {(one.object, one.offset): data for one, data in writes(undone(sent))}
    small = places & expected.keys()
    assert small
    assert {at: ours[at] for at in small} == {at: expected[at] for at in small}


def writes(sent: bytes) -> Iterator[tuple[Write, bytes]]:
    for record, data in drr.read([sent]):
        if isinstance(record, Write):
            yield record, data


def made(block: WriteEmbedded, payload: bytes, features: Feature) -> bytes:
    versioninfo = 1 | (features | Feature.EMBED_DATA) << 2
    records: list[tuple[Record, bytes]] = [
        (Begin(magic=MAGIC, versioninfo=versioninfo, type=2, toguid=7, toname=b"a@b"), b""),
        (Object(object=5, type=19, bonustype=44, blksz=512, toguid=7), b""),
        (block, payload.ljust(-(-block.psize // 8) * 8, b"\0")),
        (End(toguid=7), b""),
    ]
    return b"".join(drr.write(records))


def literals(data: bytes) -> bytes:
    """As ZFS's LZ4 has what cannot be compressed."""
    packed = bytes([len(data) << 4]) + data
    return len(packed).to_bytes(4, "big") + packed


def zeros(count: int) -> bytes:
    """The payload of a block of so many, as zstd makes it."""
    parameters = zstandard.ZstdCompressionParameters(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(bytes(count))
    return len(packed).to_bytes(4, "big") + bytes(4) + packed


@pytest.mark.parametrize(
    ("features", "sizes"),
    [(Feature.LARGE_BLOCKS, [300_032]), (Feature(0), [131072, 131072, 37888])],
)
def test_a_large_block_is_cut_where_the_stream_has_none(
    features: Feature, sizes: list[int]
) -> None:
    payload = zeros(300_032)
    block = WriteEmbedded(
        object=5, length=300_032, lsize=300_032, psize=len(payload), compression=ZSTD, toguid=7
    )
    found = list(writes(undone(made(block, payload, features))))
    assert [one.offset for one, _ in found] == [sum(sizes[:at]) for at in range(len(sizes))]
    assert [len(data) for _, data in found] == [one.logical_size for one, _ in found] == sizes
    assert {one.type for one, _ in found} == {19}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"compression": 4}, "compression 4"),
        ({"etype": 2}, "type 2"),
        ({"lsize": 512}, "513 bytes instead of 512"),
        ({"lsize": 1536}, "1024 bytes instead of 1536"),
        ({"lsize": 1025}, ": 1025 bytes"),  # no whole sectors
        ({"lsize": (16 << 20) + 1}, "16777217 bytes"),
        ({"object": 6}, "its object was not announced"),
    ],
)
def test_what_is_damaged_is_refused(change: dict[str, int], why: str) -> None:
    payload = zeros(1024)
    block = WriteEmbedded(
        object=5, length=1024, lsize=1024, psize=len(payload), compression=ZSTD, toguid=7
    )
    with pytest.raises(ZfsError, match=why):
        undone(made(replace(block, **change), payload, Feature.LARGE_BLOCKS))


@pytest.mark.parametrize("size", [0, 512])
def test_a_block_of_another_length_than_it_says_is_refused(size: int) -> None:
    payload = literals(b"0123456789ab")
    block = WriteEmbedded(object=5, lsize=size, psize=len(payload), compression=LZ4)
    with pytest.raises(ZfsError, match=f"12 bytes instead of {size}"):
        undone(made(block, payload, Feature(0)))


def test_a_frame_that_claims_a_terabyte_costs_nothing() -> None:
    """Nobody signed such a stream; single segment, content size of 8 bytes (RFC 8878, 3.1.1.1)."""
    frame = bytes([0b1110_0000]) + (1 << 40).to_bytes(8, "little") + b"\1\0\0"
    payload = len(frame).to_bytes(4, "big") + bytes(4) + frame
    block = WriteEmbedded(object=5, lsize=4096, psize=len(payload), compression=ZSTD)
    with pytest.raises(ZfsError, match="it does not decompress"):
        undone(made(block, payload, Feature(0)))


@given(st.binary(max_size=112), st.sampled_from([2, 3, 5, 14, 15, 16]), st.integers(0, 200_000))
@example(b"\0", 2, 1)
def test_any_payload_is_a_block_or_refused(payload: bytes, compression: int, size: int) -> None:
    block = WriteEmbedded(object=5, lsize=size, psize=len(payload), compression=compression)
    try:
        found = list(writes(undone(made(block, payload, Feature(0)))))
    except ZfsError as error:
        assert "embedded block of object 5" in str(error)  # noqa: PT017
    else:
        assert sum(len(data) for _, data in found) == size
        assert all(len(data) <= 128 << 10 for _, data in found)
