"""The age v1 file format (C2SP, https://c2sp.org/age).

X25519 recipients and identities are handled in-process on OpenSSL's ChaCha20-Poly1305; every other
type (ssh, plugin, post-quantum) goes through the ``age`` program as a whole file.
"""

from offsite.age.file import bound, decrypt, decrypt_stream, encrypt, encrypt_stream
from offsite.age.keyring import (
    Identities,
    Recipients,
    is_passphrase_protected,
    parse_identities,
    parse_recipients,
)
from offsite.age.program import MISSING
from offsite.age.x25519 import Identity, generate_identity

__all__ = [
    "MISSING",
    "Identities",
    "Identity",
    "Recipients",
    "bound",
    "decrypt",
    "decrypt_stream",
    "encrypt",
    "encrypt_stream",
    "generate_identity",
    "is_passphrase_protected",
    "parse_identities",
    "parse_recipients",
]
