"""One zstd frame, read by someone who does not trust it.

Source: RFC 8878, 3.1.1 (frame header, block headers).
"""

from __future__ import annotations

import zstandard

from offsite.errors import IntegrityError

MAX_WINDOW = 32 << 20  # bytes; all that seal.py uses, and a quarter of what stock zstd takes
_MAGIC = b"\x28\xb5\x2f\xfd"
_LONGEST_HEADER = 18
_BLOCK_HEADER = 3
_CHECKSUM = 4
_RLE, _RESERVED = 1, 3  # block types


def decompress_into(frame: memoryview, out: memoryview) -> int:
    """Decompress ``frame``, exactly one zstd frame, into ``out``; return the plain length.

    Nothing but ``out`` is ever filled, whatever the frame says. Raises IntegrityError if it does
    not tell its size, is longer than ``out``, is damaged, or is followed by anything.
    """
    size = _check(frame)
    if size > len(out):
        raise IntegrityError(f"the chunk is longer than the expected {len(out)} bytes")
    try:
        # All of the frame, and room for all that is in it: zstd then writes there directly, in less
        # than two thirds of the time that it takes to go through a window of its own.
        with zstandard.ZstdDecompressor().stream_reader(frame) as reader:
            filled = reader.readinto(out[:size])
            if filled < size or reader.readinto(bytearray(1)):
                raise IntegrityError("the chunk is not as long as its zstd frame says")
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the chunk is not a sound zstd frame: {error}") from error
    return size


def _check(frame: memoryview) -> int:
    """The plain length that the header tells, of a frame that ends where ``frame`` does."""
    begin = bytes(frame[:_LONGEST_HEADER])
    if not begin.startswith(_MAGIC):
        raise IntegrityError("the chunk is not a zstd frame")
    try:
        parameters = zstandard.get_frame_parameters(begin)
        header_size = zstandard.frame_header_size(begin)
    except zstandard.ZstdError as error:
        raise IntegrityError("the chunk has a malformed zstd frame header") from error
    if parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN:
        raise IntegrityError("the chunk's zstd frame does not tell its size")
    if parameters.window_size > MAX_WINDOW:
        raise IntegrityError("the chunk's zstd frame asks for too much memory")
    end = _end_of_blocks(frame, header_size) + (_CHECKSUM if parameters.has_checksum else 0)
    if end > len(frame):
        raise IntegrityError("the chunk ends within its zstd frame")
    if end < len(frame):
        raise IntegrityError("the chunk has bytes behind its zstd frame")
    return parameters.content_size


def _end_of_blocks(frame: memoryview, at: int) -> int:
    last = False
    while not last:
        if at + _BLOCK_HEADER > len(frame):
            raise IntegrityError("the chunk ends within its zstd frame")
        bits = int.from_bytes(frame[at : at + _BLOCK_HEADER], "little")
        last, kind, size = bool(bits & 1), bits >> 1 & 3, bits >> 3
        if kind == _RESERVED:
            raise IntegrityError("the chunk's zstd frame has a block of unknown type")
        at += _BLOCK_HEADER + (1 if kind == _RLE else size)
    return at
