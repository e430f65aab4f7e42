"""Signatures that stock ``ssh-keygen -Y verify`` checks: Ed25519 over SHA-512.

Source: PROTOCOL.sshsig of OpenSSH (signature and armor), RFC 8709 (Ed25519 in SSH), RFC 4251
(strings). Written against hostile input: whatever is not exactly this is an IntegrityError.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from offsite.errors import IntegrityError

KEY_TYPE = "ssh-ed25519"
_MAGIC = b"SSHSIG"
_VERSION = 1
_HASH = b"sha512"
_BEGIN = "-----BEGIN SSH SIGNATURE-----\n"
_END = "-----END SSH SIGNATURE-----\n"
_COLUMNS = 70  # as ssh-keygen writes it
_LONGEST = 4096  # characters of armor; ours take about 300
_PUBLIC_KEY = 32
_SIGNATURE = 64


def sign(data: bytes, key: Ed25519PrivateKey, namespace: str) -> str:
    """The armored signature, ending with a line feed."""
    name = namespace.encode("ascii")
    raw = key.sign(_signed(data, name, b""))
    blob = b"".join(
        (
            _MAGIC,
            struct.pack(">I", _VERSION),
            _string(_public_blob(key.public_key())),
            _string(name),
            _string(b""),
            _string(_HASH),
            _string(_string(KEY_TYPE.encode()) + _string(raw)),
        )
    )
    text = base64.b64encode(blob).decode("ascii")
    lines = [text[i : i + _COLUMNS] + "\n" for i in range(0, len(text), _COLUMNS)]
    return _BEGIN + "".join(lines) + _END


def verify(data: bytes, armored: str, namespace: str) -> str:
    """The signer's public key (``ssh-ed25519 AAAA…``), which the caller has yet to trust.

    Raises IntegrityError if the signature is malformed or wrong, or of another namespace.
    """
    fields = _Fields(_unarmor(armored))
    if fields.take(len(_MAGIC)) != _MAGIC or fields.take(4) != struct.pack(">I", _VERSION):
        raise IntegrityError("not an SSH signature of version 1")
    public_blob = fields.string()
    name, reserved, hash_name, signature = (fields.string() for _ in range(4))
    fields.end()
    if name != namespace.encode("ascii"):
        raise IntegrityError(f"the signature is not for {namespace}")
    if hash_name != _HASH:
        raise IntegrityError("the signature is not over SHA-512")
    public = _parse_blob(public_blob, _PUBLIC_KEY)
    raw = _parse_blob(signature, _SIGNATURE)
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(raw, _signed(data, name, reserved))
    except InvalidSignature as error:
        raise IntegrityError("the signature is wrong: signed bytes were changed") from error
    return _line(public_blob)


def public_line(key: Ed25519PrivateKey) -> str:
    """``ssh-ed25519 AAAA…``, without a comment."""
    return _line(_public_blob(key.public_key()))


def parse_public_line(text: str) -> tuple[str, str]:
    """(canonical public key line, comment) of a line like those in a .pub file.

    Raises ValueError unless it holds one Ed25519 key.
    """
    kind, _, rest = text.strip().partition(" ")
    encoded, _, comment = rest.strip().partition(" ")
    if kind != KEY_TYPE:
        raise ValueError("not an ssh-ed25519 key")
    try:
        blob = base64.b64decode(encoded, validate=True)
        Ed25519PublicKey.from_public_bytes(_parse_blob(blob, _PUBLIC_KEY))
    except (binascii.Error, IntegrityError) as error:
        raise ValueError("a malformed ssh-ed25519 key") from error
    return _line(blob), comment.strip()


def fingerprint(public_line: str) -> str:
    """``SHA256:…`` as ``ssh-keygen -l`` prints it. Raises ValueError."""
    line, _ = parse_public_line(public_line)
    digest = hashlib.sha256(base64.b64decode(line.split(" ")[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode("ascii").rstrip("=")


class _Fields:
    """The fields of an SSH message, read from the front; a field never exceeds what is there."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, size: int) -> bytes:
        field = self._data[self._at : self._at + size]
        if len(field) != size:
            raise IntegrityError("the SSH signature ends early")
        self._at += size
        return field

    def string(self) -> bytes:
        (size,) = struct.unpack(">I", self.take(4))
        return self.take(size)

    def end(self) -> None:
        if self._at != len(self._data):
            raise IntegrityError("the SSH signature has bytes behind its end")


def _unarmor(armored: str) -> bytes:
    if len(armored) > _LONGEST or not (armored.startswith(_BEGIN) and armored.endswith(_END)):
        raise IntegrityError("not an armored SSH signature")
    lines = armored[len(_BEGIN) : -len(_END)]
    try:
        return base64.b64decode(lines.replace("\n", ""), validate=True)
    except ValueError as error:  # also for characters that are not ASCII
        raise IntegrityError("the SSH signature is not base64") from error


def _signed(data: bytes, namespace: bytes, reserved: bytes) -> bytes:
    digest = hashlib.sha512(data).digest()
    return _MAGIC + b"".join(map(_string, (namespace, reserved, _HASH, digest)))


def _parse_blob(blob: bytes, size: int) -> bytes:
    """The ``size`` bytes of an Ed25519 public key or signature."""
    fields = _Fields(blob)
    if fields.string() != KEY_TYPE.encode():
        raise IntegrityError("the signature is not by an Ed25519 key")
    value = fields.string()
    fields.end()
    if len(value) != size:
        raise IntegrityError("the signature has a key or value of wrong length")
    return value


def _public_blob(key: Ed25519PublicKey) -> bytes:
    return _string(KEY_TYPE.encode()) + _string(key.public_bytes_raw())


def _line(public_blob: bytes) -> str:
    return f"{KEY_TYPE} {base64.b64encode(public_blob).decode('ascii')}"


def _string(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data
