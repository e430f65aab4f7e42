"""Whole age files, sealed and opened piece by piece.

Source: https://c2sp.org/age.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import chain

from offsite.age import header, program, stream, x25519
from offsite.age.header import FILE_KEY, Header
from offsite.age.keyring import Identities, Recipients
from offsite.errors import IntegrityError, KeysError, NoKeyError

_FOREIGN_STANZA = 4 * 1024  # bytes; the longest known kinds, rsa-16384 and post-quantum, take less


def bound(plain: int, recipients: Recipients) -> int:
    """Bytes that a file of ``plain`` bytes may take at most; exact for X25519 recipients."""
    return _header_bound(recipients) + stream.size(plain)


def encrypt_stream(
    pieces: Iterable[bytes | memoryview], out: memoryview, recipients: Recipients
) -> int:
    """Write the age file of the joined pieces to the beginning of ``out``; return its length.

    Pieces of 64 KiB are sealed without a copy. A piece must not change once it was handed over.
    Raises KeysError if the recipients do not work, ValueError if ``out`` is shorter than needed.
    """
    if recipients.public_keys is None:
        return _gather(program.encrypt(pieces, recipients.lines), out)
    file_key = os.urandom(FILE_KEY)
    try:
        stanzas = [x25519.wrap(file_key, public) for public in recipients.public_keys]
    except ValueError as error:
        raise KeysError("a recipient is not a usable X25519 key (low-order point)") from error
    head = header.build(stanzas, file_key)
    out[: len(head)] = head
    return len(head) + stream.encrypt(pieces, out[len(head) :], file_key)


def decrypt_stream(sealed: Iterable[bytes | memoryview], identities: Identities) -> Iterator[bytes]:
    """The plain bytes in pieces of at most 64 KiB, each authenticated before it is handed on.

    ``sealed`` is the file in pieces, as for ``encrypt_stream``. Raises NoKeyError if no identity
    opens the file, IntegrityError if it is not what was sealed; only the end of the iteration
    proves that nothing was cut off.
    """
    begun, rest = stream.begin(sealed, header.MAX_HEADER)
    head = header.parse(begun)
    file_key = _unwrap(head, identities)
    if file_key is not None:
        header.check_mac(head, file_key)
        yield from stream.decrypt(chain((begun[head.size :],), rest), file_key)
    elif identities.files:
        yield from program.decrypt(chain((begun,), rest), identities.files)
    else:
        raise NoKeyError("none of the identities at hand opens this object")


def encrypt(data: bytes, recipients: Recipients) -> bytes:
    """The age file of ``data``. For documents: all of it is in memory twice."""
    out = bytearray(bound(len(data), recipients))
    size = encrypt_stream((data,), memoryview(out), recipients)
    return bytes(out[:size])


def decrypt(sealed: bytes, identities: Identities, *, limit: int) -> bytes:
    """What ``encrypt`` sealed, if it is at most ``limit`` bytes.

    Raises NoKeyError, IntegrityError.
    """
    plain = bytearray()
    for piece in decrypt_stream((sealed,), identities):
        plain += piece
        if len(plain) > limit:
            raise IntegrityError(f"the object is longer than the allowed {limit} bytes")
    return bytes(plain)


def _header_bound(recipients: Recipients) -> int:
    if recipients.public_keys is None:
        return (len(recipients.lines) + 1) * _FOREIGN_STANZA
    nobody = bytes(FILE_KEY)
    stanza = header.Stanza((x25519.KIND, "A" * 43), bytes(FILE_KEY + stream.TAG))
    return len(header.build([stanza] * len(recipients.public_keys), nobody))


def _gather(pieces: Iterable[bytes], out: memoryview) -> int:
    size = 0
    for piece in pieces:
        if size + len(piece) > len(out):
            raise KeysError("age makes a longer file than its recipients account for")
        out[size : size + len(piece)] = piece
        size += len(piece)
    return size


def _unwrap(head: Header, identities: Identities) -> bytes | None:
    stanzas = [stanza for stanza in head.stanzas if stanza.arguments[0] == x25519.KIND]
    for identity in identities.native:
        for stanza in stanzas:
            file_key = x25519.unwrap(stanza, identity)
            if file_key is not None:
                return file_key
    return None
