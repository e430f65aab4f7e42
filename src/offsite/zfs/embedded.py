"""Streams of ``zfs send -e`` and of ``-w`` without encryption, with their embedded blocks undone.

A block of at most 112 bytes after compression is embedded in its pointer, and such a stream carries
it as WRITE_EMBEDDED. Nothing of that kind is received below an encrypted dataset, and a spill block
(a file's larger xattrs) sent so is lost by every ``zfs receive`` (openzfs#17548). So the blocks
are made plain WRITE and SPILL again, as a sender without ``-e`` would have sent them.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import zstandard

from offsite.errors import ZfsError
from offsite.zfs import drr
from offsite.zfs.drr import Begin, Object, Record, Spill, Write, WriteEmbedded
from offsite.zfs.records import BLOCK_LIMIT, Feature

_FEATURES_AT = 2  # bits of BEGIN's versioninfo below the features: DMU_SET_FEATUREFLAGS
_SMALL = 128 << 10  # SPA_OLD_MAXBLOCKSIZE: no record is longer without LARGE_BLOCKS
_SPILL_FROM = 1 << 63  # DMU_SPILL_BLKID is all ones: its offset is near 2^64
_NO_CHECKSUM = 2  # ZIO_CHECKSUM_OFF, as dmu_dump_write says of an embedded block
_BATCH = 1 << 20  # bytes: headers are not passed on one by one
_DATA = 0  # BP_EMBEDDED_TYPE_DATA
_SECTOR = 512  # SPA_MINBLOCKSIZE: of such is every block of a file

_LZJB_LENGTH_BITS, _LZJB_SHORTEST = 6, 3  # MATCH_BITS, MATCH_MIN in module/zfs/lzjb.c
_LZ4_SHORTEST, _LZ4_MORE, _LZ4_STILL_MORE = 4, 15, 255  # MINMATCH in module/zfs/lz4.c
_ZLE_LITERALS = 64  # the level of ZIO_COMPRESS_ZLE in module/zfs/zio_compress.c


def undone(pieces: Iterable[memoryview]) -> Iterator[memoryview]:
    """The same stream without WRITE_EMBEDDED records; every checksum is proved and made anew.

    ``pieces`` are cut anywhere. Memory: two records. Raises StreamError for what ``drr.read``
    refuses, ZfsError for a block that does not decompress.
    """
    batch = bytearray()
    for piece in drr.write(_records(drr.read(pieces))):
        batch += piece
        if len(batch) >= _BATCH:
            yield memoryview(batch)
            batch = bytearray()
    yield memoryview(batch)


def _records(records: Iterable[tuple[Record, bytes]]) -> Iterator[tuple[Record, bytes]]:
    longest, kinds = BLOCK_LIMIT, (0, 0)
    for record, payload in records:
        if isinstance(record, Begin):
            if not record.versioninfo & Feature.LARGE_BLOCKS << _FEATURES_AT:
                longest = _SMALL
            without = record.versioninfo & ~(Feature.EMBED_DATA << _FEATURES_AT)
            yield replace(record, versioninfo=without), payload
        elif isinstance(record, WriteEmbedded):
            yield from _plain(record, _block(record, payload), kinds, longest)
        else:
            if isinstance(record, Object):
                kinds = (record.object, record.type)
            yield record, payload


def _plain(
    record: WriteEmbedded, block: bytes, kinds: tuple[int, int], longest: int
) -> Iterator[tuple[Record, bytes]]:
    """``kinds``: (number, type) of the last OBJECT. ``longest``: bytes of a WRITE."""
    number, kind = kinds
    if number != record.object:
        raise _refused(record, "its object was not announced")
    if record.offset >= _SPILL_FROM:
        yield Spill(object=number, length=len(block), toguid=record.toguid), block
        return
    for at in range(0, len(block), longest):
        part = block[at : at + longest]
        write = Write(
            object=number,
            type=kind,
            offset=record.offset + at,
            logical_size=len(part),
            toguid=record.toguid,
            checksumtype=_NO_CHECKSUM,
        )
        yield write, part


def _block(record: WriteEmbedded, payload: bytes) -> bytes:
    """The block, decompressed. Raises ZfsError."""
    decompress = _DECOMPRESS.get(record.compression)
    if record.etype != _DATA or decompress is None:
        raise _refused(record, f"type {record.etype}, compression {record.compression}")
    if record.lsize > BLOCK_LIMIT or record.lsize % _SECTOR:
        raise _refused(record, f"{record.lsize} bytes")
    try:
        block = decompress(payload[: record.psize], record.lsize)
    except (IndexError, ValueError, zlib.error):
        raise _refused(record, "it does not decompress") from None
    if len(block) != record.lsize:
        raise _refused(record, f"it has {len(block)} bytes instead of {record.lsize}")
    return block


def _refused(record: WriteEmbedded, why: str) -> ZfsError:
    where = f"object {record.object} at {record.offset}"
    return ZfsError(f"the stream is damaged: the embedded block of {where}: {why}")


def _as_it_is(data: bytes, size: int) -> bytes:
    return data[:size]


def _gzip(data: bytes, size: int) -> bytes:
    return zlib.decompressobj().decompress(data, size + 1)


def _lz4(data: bytes, size: int) -> bytes:
    """Behind its length (u32, big-endian) an LZ4 block. Sources: module/zfs/lz4_zfs.c, and the LZ4
    Block Format Description."""
    data = data[4 : 4 + int.from_bytes(data[:4], "big")]
    out, at = bytearray(), 0
    while at < len(data):
        token = data[at]
        literals, at = _lz4_length(data, at + 1, token >> 4)
        out += data[at : at + literals]
        at += literals
        if at >= len(data):
            break  # the last sequence has no match
        distance = data[at] | data[at + 1] << 8
        length, at = _lz4_length(data, at + 2, token & 15)
        _repeat(out, distance, length + _LZ4_SHORTEST, size)
    return bytes(out)


def _lz4_length(data: bytes, at: int, length: int) -> tuple[int, int]:
    """A length, which may go on in further bytes, and where it ends."""
    more = length == _LZ4_MORE
    while more:
        length += data[at]
        more = data[at] == _LZ4_STILL_MORE
        at += 1
    return length, at


def _lzjb(data: bytes, size: int) -> bytes:
    """Eight items behind a byte of flags: two bytes of length and distance, or one literal.

    Source: lzjb_decompress in module/zfs/lzjb.c.
    """
    out, at = bytearray(), 0
    while len(out) < size:
        flags = data[at]
        at += 1
        for bit in range(8):
            if len(out) >= size:
                break
            if flags >> bit & 1:
                length = (data[at] >> 8 - _LZJB_LENGTH_BITS) + _LZJB_SHORTEST
                distance = (data[at] << 8 | data[at + 1]) & (1 << 16 - _LZJB_LENGTH_BITS) - 1
                _repeat(out, distance, min(length, size - len(out)), size)
                at += 2
            else:
                out.append(data[at])
                at += 1
    return bytes(out)


def _zle(data: bytes, size: int) -> bytes:
    """Runs of literals and of zeros. Source: zle_decompress in module/zfs/zle.c."""
    out, at = bytearray(), 0
    while at < len(data) and len(out) < size:
        count = data[at] + 1
        at += 1
        if count <= _ZLE_LITERALS:
            out += data[at : at + count]
            at += count
        else:
            out += bytes(count - _ZLE_LITERALS)
    return bytes(out)


def _zstd(data: bytes, size: int) -> bytes:
    """Behind zfs_zstdhdr_t (u32 length, big-endian; u32 version and level) a frame without magic.

    Source: include/sys/zstd/zstd.h, zfs_zstd_decompress_buf in module/zstd/zfs_zstd.c.
    """
    frame = data[8 : 8 + int.from_bytes(data[:4], "big")]
    # Read as a stream: to decompress at once allocates what the frame says, not what we allow.
    opener = zstandard.ZstdDecompressor(
        format=zstandard.FORMAT_ZSTD1_MAGICLESS, max_window_size=BLOCK_LIMIT
    )
    try:
        with opener.stream_reader(frame) as reader:
            return reader.read(size + 1)  # one that is longer is not what it says
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from None


def _repeat(out: bytearray, distance: int, length: int, size: int) -> None:
    """Append ``length`` bytes that begin ``distance`` back; they may overlap what they make."""
    if not 0 < distance <= len(out) or len(out) + length > size:
        raise ValueError("a match outside the block")
    pattern = out[-distance:]
    out += (pattern * (length // distance + 1))[:length]


# enum zio_compress in include/sys/zio.h
_DECOMPRESS: dict[int, Callable[[bytes, int], bytes]] = {
    2: _as_it_is,
    3: _lzjb,
    **dict.fromkeys(range(5, 14), _gzip),
    14: _zle,
    15: _lz4,
    16: _zstd,
}
