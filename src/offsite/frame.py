"""One zstd frame, read from pieces by someone who does not trust them.

Source: RFC 8878, 3.1.1 (frame header, block headers).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import IO, cast

import zstandard

from offsite.errors import IntegrityError

MAX_WINDOW = 32 << 20  # bytes; all that seal.py uses, and a quarter of what stock zstd takes
_MAGIC = b"\x28\xb5\x2f\xfd"
_LONGEST_HEADER = 18
_BLOCK_HEADER = 3
_CHECKSUM = 4
_RLE, _RESERVED = 1, 3  # block types


def decompress_into(pieces: Iterable[bytes], out: memoryview) -> int:
    """Decompress the joined pieces, exactly one frame, into ``out``; return the plain length.

    Nothing but ``out`` is ever filled, whatever the pieces say. Raises IntegrityError if the frame
    does not tell its size, is longer than ``out``, is damaged, or is followed by anything.
    """
    frame = _Frame(iter(pieces))
    if frame.content_size > len(out):
        raise IntegrityError(f"the chunk is longer than the expected {len(out)} bytes")
    decompressor = zstandard.ZstdDecompressor()
    try:
        with decompressor.stream_reader(cast("IO[bytes]", frame)) as reader:
            size = _fill(reader, out[: frame.content_size])
            if size < frame.content_size or reader.readinto(bytearray(1)):
                raise IntegrityError("the chunk is not as long as its zstd frame says")
    except zstandard.ZstdError as error:
        raise IntegrityError(f"the chunk is not a sound zstd frame: {error}") from error
    frame.drain()
    return size


def _fill(reader: zstandard.ZstdDecompressionReader, out: memoryview) -> int:
    size = 0
    while size < len(out):
        step = reader.readinto(out[size:])
        if not step:
            break
        size += step
    return size


class _Frame:
    """Hands pieces on, and follows the block headers in them to where the frame must end."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._first = b""
        while len(self._first) < _LONGEST_HEADER and (piece := next(pieces, b"")):
            self._first += piece
        if not self._first.startswith(_MAGIC):
            raise IntegrityError("the chunk is not a zstd frame")
        try:
            parameters = zstandard.get_frame_parameters(self._first)
            header_size = zstandard.frame_header_size(self._first)
        except zstandard.ZstdError as error:
            raise IntegrityError("the chunk has a malformed zstd frame header") from error
        if parameters.content_size == zstandard.CONTENTSIZE_UNKNOWN:
            raise IntegrityError("the chunk's zstd frame does not tell its size")
        if parameters.window_size > MAX_WINDOW:
            raise IntegrityError("the chunk's zstd frame asks for too much memory")
        self.content_size = parameters.content_size
        self._has_checksum = parameters.has_checksum
        self._skip = header_size  # bytes up to the next block header
        self._block_header = b""
        self._last = False

    def read(self, _size: int = -1) -> bytes:
        """The next piece, empty at the end."""
        piece, self._first = self._first or next(self._pieces, b""), b""
        self._follow(piece)
        return piece

    def drain(self) -> None:
        """Read what is left, which may be the end of the frame, and no more."""
        while self.read():
            pass
        if not self._last or self._skip:
            raise IntegrityError("the chunk ends within its zstd frame")

    def _follow(self, piece: bytes) -> None:
        at = 0
        while at < len(piece):
            step = min(self._skip, len(piece) - at)
            self._skip -= step
            at += step
            if self._skip or at == len(piece):
                return
            if self._last:
                raise IntegrityError("the chunk has bytes behind its zstd frame")
            missing = _BLOCK_HEADER - len(self._block_header)
            self._block_header += piece[at : at + missing]
            at += missing
            if len(self._block_header) == _BLOCK_HEADER:
                self._enter_block()

    def _enter_block(self) -> None:
        bits = int.from_bytes(self._block_header, "little")
        self._block_header = b""
        self._last = bool(bits & 1)
        kind, size = bits >> 1 & 3, bits >> 3
        if kind == _RESERVED:
            raise IntegrityError("the chunk's zstd frame has a block of unknown type")
        self._skip = 1 if kind == _RLE else size
        if self._last and self._has_checksum:
            self._skip += _CHECKSUM
