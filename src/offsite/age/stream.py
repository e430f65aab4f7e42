"""The payload of an age file: STREAM, ChaCha20-Poly1305 in blocks of 64 KiB.

Source: https://c2sp.org/age, "Payload".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offsite.age.header import derive
from offsite.errors import IntegrityError

BLOCK = 64 * 1024  # plain bytes
TAG = 16
NONCE = 16
_SEALED_BLOCK = BLOCK + TAG


def size(plain: int) -> int:
    """Bytes of the payload that holds ``plain`` bytes."""
    return NONCE + plain + TAG * max(1, -(-plain // BLOCK))


def encrypt(pieces: Iterable[bytes | memoryview], out: memoryview, file_key: bytes) -> int:
    """Write the payload to the beginning of ``out`` and return its length.

    Pieces may have any length, but are read without a copy where they can be: a piece must not
    change once it was handed over. Raises ValueError if ``out`` is too short.
    """
    nonce = os.urandom(NONCE)
    out[:NONCE] = nonce
    cipher = ChaCha20Poly1305(derive(file_key, nonce, b"payload"))
    at, counter = NONCE, 0
    held: bytes | memoryview = b""
    for number, block in enumerate(_blocks(pieces, BLOCK)):
        if number:  # only the block after it shows that a block is not the last
            end = at + _SEALED_BLOCK
            cipher.encrypt_into(_block_nonce(counter), held, None, out[at:end])
            at, counter = end, counter + 1
        held = block
    end = at + len(held) + TAG
    cipher.encrypt_into(_block_nonce(counter, last=True), held, None, out[at:end])
    return end


def decrypt(payload: Iterable[bytes | memoryview], file_key: bytes) -> Iterator[bytes]:
    """The plain blocks, each of them authenticated, in order; of a payload in pieces of any length.

    Pieces as for ``encrypt``. Raises IntegrityError on damage, truncation and trailing data.
    """
    begun, rest = begin(payload, NONCE + TAG)
    if len(begun) < NONCE + TAG:
        raise IntegrityError("age payload ends early")
    cipher = ChaCha20Poly1305(derive(file_key, bytes(begun[:NONCE]), b"payload"))

    def opened(counter: int, sealed: bytes | memoryview, *, last: bool) -> bytes:
        if counter and len(sealed) <= TAG:
            raise IntegrityError(f"age payload ends early, or in an empty block ({counter})")
        try:
            return cipher.decrypt(_block_nonce(counter, last=last), sealed, None)
        except InvalidTag as error:
            raise IntegrityError(f"age payload is damaged at block {counter} of 64 KiB") from error

    counter = 0
    held: bytes | memoryview = b""
    for counter, sealed in enumerate(_blocks(chain((begun[NONCE:],), rest), _SEALED_BLOCK)):
        if counter:  # only the block after it shows that a block is not the last
            yield opened(counter - 1, held, last=False)
        held = sealed
    yield opened(counter, held, last=True)


def begin(
    pieces: Iterable[bytes | memoryview], least: int
) -> tuple[memoryview, Iterator[bytes | memoryview]]:
    """The first ``least`` bytes and more, or all if they are fewer; and the pieces behind them."""
    rest = iter(pieces)
    begun = memoryview(next(rest, b""))
    while len(begun) < least and (piece := next(rest, None)) is not None:
        begun = memoryview(bytes(begun) + piece)
    return begun, rest


def _block_nonce(counter: int, *, last: bool = False) -> bytes:
    return counter.to_bytes(11, "big") + bytes([last])


def _blocks(pieces: Iterable[bytes | memoryview], size: int) -> Iterator[bytes | memoryview]:
    """The same bytes in blocks of ``size``; only the last is shorter, and none is empty."""
    begun = bytearray()
    for piece in pieces:
        view = memoryview(piece)
        if begun:
            missing = size - len(begun)
            begun += view[:missing]
            view = view[missing:]
            if len(begun) < size:
                continue
            yield bytes(begun)
            begun = bytearray()
        whole = len(view) - len(view) % size
        for at in range(0, whole, size):
            yield view[at : at + size]
        begun += view[whole:]
    if begun:
        yield bytes(begun)
