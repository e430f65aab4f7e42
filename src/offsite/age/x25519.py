"""The X25519 recipient type: keys, and the stanza that wraps a file key for one of them.

Source: https://c2sp.org/age, "The X25519 recipient type".
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offsite.age import bech32
from offsite.age.header import FILE_KEY, Stanza, decode_base64, derive, encode_base64
from offsite.errors import IntegrityError

KIND = "X25519"
_RECIPIENT = "age"
_IDENTITY = "age-secret-key-"
_KEY = 32
_TAG = 16
_INFO = b"age-encryption.org/v1/X25519"
_NONCE = bytes(12)  # fixed: every wrap key is used once


@dataclass(frozen=True)
class Identity:
    """A private key. Its repr and its errors show the public part only."""

    secret: bytes

    @property
    def public(self) -> bytes:
        return X25519PrivateKey.from_private_bytes(self.secret).public_key().public_bytes_raw()

    @property
    def recipient(self) -> str:
        """The ``age1…`` line that others encrypt to."""
        return bech32.encode(_RECIPIENT, self.public)

    def secret_line(self) -> str:
        """The ``AGE-SECRET-KEY-1…`` line of an identity file. Secret."""
        return bech32.encode(_IDENTITY, self.secret).upper()

    def derived(self, purpose: bytes) -> bytes:
        """Another secret, of 32 bytes, that tells nothing of this one. Secret."""
        return derive(self.secret, b"", purpose)

    def __repr__(self) -> str:
        return f"Identity({self.recipient})"


def generate_identity() -> Identity:
    return Identity(os.urandom(_KEY))


def parse_identity(line: str) -> Identity:
    """An ``AGE-SECRET-KEY-1…`` line. Raises ValueError, which never quotes the line."""
    hrp, secret = bech32.decode(line)
    if hrp != _IDENTITY or line != line.upper() or len(secret) != _KEY:
        raise ValueError("not an X25519 identity")
    return Identity(secret)


def parse_recipient(line: str) -> bytes:
    """The public key of an ``age1…`` line. Raises ValueError, which never quotes the line."""
    hrp, public = bech32.decode(line)
    if hrp != _RECIPIENT or line != line.lower() or len(public) != _KEY:
        raise ValueError("not an X25519 recipient")
    return public


def wrap(file_key: bytes, recipient: bytes) -> Stanza:
    """The file key, sealed to a public key of 32 bytes.

    Raises ValueError if the public key is a low-order point, to which nothing can be sealed.
    """
    ephemeral = X25519PrivateKey.generate()
    share = ephemeral.public_key().public_bytes_raw()
    shared = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    wrap_key = derive(shared, share + recipient, _INFO)
    body = ChaCha20Poly1305(wrap_key).encrypt(_NONCE, file_key, None)
    return Stanza((KIND, encode_base64(share).decode("ascii")), body)


def unwrap(stanza: Stanza, identity: Identity) -> bytes | None:
    """The file key, or None if the X25519 stanza is for someone else.

    Raises IntegrityError if the stanza is not what the specification allows.
    """
    if len(stanza.arguments) != 2:  # noqa: PLR2004 - type and share
        raise IntegrityError("X25519 recipient with a wrong number of arguments")
    share = decode_base64(stanza.arguments[1].encode("ascii"), _KEY)
    if len(stanza.body) != FILE_KEY + _TAG:
        raise IntegrityError("X25519 recipient with a file key of wrong length")
    secret = X25519PrivateKey.from_private_bytes(identity.secret)
    try:
        shared = secret.exchange(X25519PublicKey.from_public_bytes(share))
    except ValueError as error:  # OpenSSL refuses the all-zero result, as the specification asks
        raise IntegrityError("X25519 recipient with a low-order share") from error
    wrap_key = derive(shared, share + secret.public_key().public_bytes_raw(), _INFO)
    try:
        return ChaCha20Poly1305(wrap_key).decrypt(_NONCE, stanza.body, None)
    except InvalidTag:
        return None
