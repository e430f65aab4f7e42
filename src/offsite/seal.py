"""Bytes to stored objects and back: zstd, then age, then SHA-256.

Runs in worker processes, on buffers that are used again and again. A chunk is one zstd frame that
tells its size, in a plain age file: ``age -d | zstd -d`` reads it.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator
from dataclasses import dataclass

import xxhash
import zstandard

from offsite import age, frame
from offsite.age import Identities, Recipients
from offsite.digests import digest, digests

LEVELS = range(1, 20)
# Repeats at any distance within the window are found by long distance matching. On a system's own
# files, level 2 with it stores 10 % less than level 3 without, in two thirds of the time; on data
# without such repeats, 2 % more. A window of 64 MiB gains nothing more, one of 16 loses it all.
# Looking at one position in 512 stores 0.3 % more than one in 128 and takes 15 % less time in all.
_WINDOW_LOG = 25
_LONG_DISTANCE = {"ldm_hash_log": 16, "ldm_hash_rate_log": 9, "ldm_min_match": 64}
_STRIDE = 256 * 1024  # bytes of input at a time: what fits the cache
_PIECE = 64 * 1024  # of zstd's output: a block of age's STREAM, sealed without another copy

# Raw blocks: zstd 1.5 gives up on matching at its lowest level and copies, at 4 GB/s where level 3
# takes 0.6 (gzip files) to 1.9 GB/s (noise) to save less than 1 %.
_COPY_LEVEL = -131072
_SAMPLE = 16 * 1024  # bytes
_SAMPLES = 32
_WORTHWHILE = 0.98  # of a chunk's samples at level 1: a smaller saving is not worth the time


@dataclass(frozen=True)
class Sealed:
    """A stored object: its bytes, and hex digests of it and of what is in it.

    ``head_xxh128`` is of the first bytes of the plain chunk, as many as were asked for. ``hashes``
    has the further digests of the stored object that were asked for, by name.
    """

    size: int
    sha256: str
    plain_xxh128: str
    head_xxh128: str
    hashes: dict[str, str]


class _Tally:
    """XXH3 of the plain bytes, and of their first ``head``: a copy of its state on the way."""

    def __init__(self, head: int) -> None:
        self._digest = xxhash.xxh3_128()
        self._head = head
        self.head = self._digest.hexdigest()

    def update(self, data: memoryview) -> None:
        """Take the next piece."""
        if self._head > 0:
            self._digest.update(data[: self._head])
            self.head = self._digest.hexdigest()
            data, self._head = data[self._head :], self._head - len(data)
        self._digest.update(data)

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


def sealed_bound(plain: int, recipients: Recipients) -> int:
    """Bytes that a chunk of ``plain`` bytes may take at most."""
    # ZSTD_compressBound: n + n/256, and 64 bytes for small chunks; a frame header has 18.
    return age.bound(plain + (plain >> 8) + 64 + 18, recipients)


def working_memory(plain: int, level: int) -> int:
    """Bytes that zstd takes, besides the buffers, to compress a chunk of ``plain`` bytes."""
    window = min(1 << _WINDOW_LOG, plain)
    return _parameters(level).estimated_compression_context_size() + window


def seal_chunk(
    plain: memoryview,
    out: memoryview,
    recipients: Recipients,
    *,
    level: int,
    head: int = 0,
    hashes: Collection[str] = (),
) -> Sealed:
    """Write the stored form of a chunk to ``out``, which has ``sealed_bound`` bytes.

    ``level`` is zstd's, 1 to 19; a chunk that does not compress is stored as it is. ``head``: see
    Sealed, in bytes. ``hashes``: of digests.KINDS. Raises KeysError if the recipients do not work.
    """
    if level not in LEVELS:
        raise ValueError(f"zstd level {level} is not within {LEVELS}")
    tally = _Tally(head)
    pieces = _compress(plain, level if _compresses(plain) else _COPY_LEVEL, tally)
    size = age.encrypt_stream(pieces, out, recipients)
    stored = out[:size]
    return Sealed(
        size=size,
        sha256=digest("sha256", stored),
        plain_xxh128=tally.hexdigest(),
        head_xxh128=tally.head,
        hashes=digests(hashes, stored),
    )


def open_chunk(sealed: memoryview, out: memoryview, identities: Identities) -> int:
    """Write the plain bytes of a stored chunk to ``out`` and return their length.

    ``sealed`` is overwritten: what age opens moves to its front. Raises NoKeyError if no identity
    opens it, IntegrityError if it is damaged, or would take more than ``out`` (a decompression bomb
    fills ``out`` at most).
    """
    size = 0
    for piece in age.decrypt_stream((sealed,), identities):
        # Never over what is still to be read: what is sealed is longer than what was in it.
        sealed[size : size + len(piece)] = piece
        size += len(piece)
    return frame.decompress_into(sealed[:size], out)


def seal_document(data: bytes, recipients: Recipients) -> bytes:
    """The stored form of a manifest, index or other small object: age alone, no compression."""
    return age.encrypt(data, recipients)


def open_document(sealed: bytes, identities: Identities, *, limit: int) -> bytes:
    """What ``seal_document`` sealed, if it is at most ``limit`` bytes.

    Raises NoKeyError if no identity opens it, IntegrityError if it is damaged or longer.
    """
    return age.decrypt(sealed, identities, limit=limit)


def plain_digest(plain: memoryview) -> str:
    """What ``Sealed.plain_xxh128`` is for these bytes."""
    return digest("xxh128", plain)


def _compress(plain: memoryview, level: int, tally: _Tally) -> Iterator[bytes]:
    """Compressed pieces; ``tally`` takes the plain bytes while they are in the CPU's cache."""
    chunker = _compressor(level).chunker(size=len(plain), chunk_size=_PIECE)
    for at in range(0, len(plain), _STRIDE):
        tally.update(plain[at : at + _STRIDE])
        yield from chunker.compress(plain[at : at + _STRIDE])
    yield from chunker.finish()  # type: ignore[no-untyped-call]


def _compresses(plain: memoryview) -> bool:
    """Whether samples from all over the chunk shrink enough to make compression worth its time."""
    if len(plain) <= _SAMPLES * _SAMPLE:
        return True
    stride = len(plain) // _SAMPLES
    probe = _compressor(1)
    shrunk = sum(
        len(probe.compress(plain[at : at + _SAMPLE])) for at in range(0, _SAMPLES * stride, stride)
    )
    return shrunk < _WORTHWHILE * _SAMPLES * _SAMPLE


@functools.lru_cache
def _compressor(level: int) -> zstandard.ZstdCompressor:
    return zstandard.ZstdCompressor(compression_params=_parameters(level))


def _parameters(level: int) -> zstandard.ZstdCompressionParameters:
    # No checksum in the frame: age authenticates, and the signed receipts hash, every byte.
    settings: dict[str, int] = {"write_content_size": True, "write_checksum": False}
    if level in LEVELS:
        settings |= {"window_log": _WINDOW_LOG, "enable_ldm": True, **_LONG_DISTANCE}
    return zstandard.ZstdCompressionParameters.from_level(level, **settings)
