"""The textual header of an age file: version line, recipient stanzas, MAC.

Source: https://c2sp.org/age, "Header". Read strictly: what the specification does not allow is
refused, and so is a header longer than MAX_HEADER.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from offsite.errors import IntegrityError

MAX_HEADER = 128 * 1024  # bytes; a post-quantum stanza, the longest known kind, takes 1.6 KiB
FILE_KEY = 16  # bytes
_VERSION = b"age-encryption.org/v1"
_COLUMNS = 64
_MAC_MARK = b"---"
_MAC = 32


@dataclass(frozen=True)
class Stanza:
    """The file key, wrapped for one recipient; ``arguments[0]`` is the recipient type."""

    arguments: tuple[str, ...]
    body: bytes


@dataclass(frozen=True)
class Header:
    stanzas: tuple[Stanza, ...]
    mac: bytes
    covered: bytes  # what the MAC is computed over
    size: int  # bytes up to the payload


def parse(data: memoryview) -> Header:
    """The header that ``data`` begins with; its MAC is not checked yet. Raises IntegrityError."""
    head = bytes(data[:MAX_HEADER])
    line, at = _line(head, 0)
    if line != _VERSION:
        raise IntegrityError("not an age v1 file")
    stanzas = []
    line, end = _line(head, at)
    while not line.startswith(_MAC_MARK):
        stanza, at = _stanza(head, line, end)
        stanzas.append(stanza)
        line, end = _line(head, at)
    if not stanzas:
        raise IntegrityError("age header without a recipient")
    if len(stanzas) > 1 and any(stanza.arguments[0] == "scrypt" for stanza in stanzas):
        raise IntegrityError("age header mixes a passphrase with other recipients")
    mark, _, mac = line.partition(b" ")
    if mark != _MAC_MARK:
        raise IntegrityError("age header with a malformed MAC line")
    covered = head[: at + len(_MAC_MARK)]
    return Header(tuple(stanzas), decode_base64(mac, _MAC), covered, end)


def build(stanzas: Iterable[Stanza], file_key: bytes) -> bytes:
    """The bytes of a header, MAC included."""
    lines = [_VERSION + b"\n"]
    for stanza in stanzas:
        lines.append(b"-> " + " ".join(stanza.arguments).encode("ascii") + b"\n")
        body = encode_base64(stanza.body)
        # A body whose length is a multiple of 64 ends with an empty line.
        lines += [body[i : i + _COLUMNS] + b"\n" for i in range(0, len(body) + 1, _COLUMNS)]
    lines.append(_MAC_MARK)
    covered = b"".join(lines)
    return covered + b" " + encode_base64(_mac(file_key, covered)) + b"\n"


def check_mac(header: Header, file_key: bytes) -> None:
    """Raises IntegrityError if the header was not made by a holder of the file key."""
    if not hmac.compare_digest(_mac(file_key, header.covered), header.mac):
        raise IntegrityError("age header was changed (wrong MAC)")


def derive(key: bytes, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 to 32 bytes, the only key derivation of the format."""
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(key)


def encode_base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def decode_base64(text: bytes, size: int | None = None) -> bytes:
    """Canonical, unpadded base64, of ``size`` bytes if given. Raises IntegrityError."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error as error:
        raise IntegrityError("age header with malformed base64") from error
    if encode_base64(data) != text:
        raise IntegrityError("age header with non-canonical base64")
    if size is not None and len(data) != size:
        raise IntegrityError(f"age header with a field of {len(data)} bytes instead of {size}")
    return data


def _line(head: bytes, at: int) -> tuple[bytes, int]:
    """(line that begins at ``at`` without its line feed, where the next one begins)."""
    end = head.find(b"\n", at)
    if end < 0:
        raise IntegrityError(
            "age header is longer than allowed"
            if len(head) == MAX_HEADER
            else "age header ends early"
        )
    return head[at:end], end + 1


def _stanza(head: bytes, first: bytes, at: int) -> tuple[Stanza, int]:
    mark, *arguments = first.split(b" ")
    if mark != b"->" or not arguments:
        raise IntegrityError("age header with a malformed recipient line")
    if not all(argument and all(33 <= byte <= 126 for byte in argument) for argument in arguments):  # noqa: PLR2004 - VCHAR
        raise IntegrityError("age header with a malformed recipient argument")
    body = []
    while True:
        line, at = _line(head, at)
        body.append(line)
        if len(line) > _COLUMNS:
            raise IntegrityError("age header with an overlong line")
        if len(line) < _COLUMNS:
            break
    decoded = decode_base64(b"".join(body))
    return Stanza(tuple(argument.decode("ascii") for argument in arguments), decoded), at


def _mac(file_key: bytes, covered: bytes) -> bytes:
    return hmac.digest(derive(file_key, b"", b"header"), covered, "sha256")
