"""How tests/vectors/refused was made, once, from the manifest of tests/vectors/repository.

    PYTHONPATH=src:. python tests/vectors/make_refused.py

Each file would stand in the place of that manifest; expected.json tells what a word of the refusal
is, or "." if any will do.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from offsite import age, seal, sshsig
from tests import repo

HERE = Path(__file__).parent
GOOD = HERE / "repository"
REFUSED = HERE / "refused"

Damage = Callable[[bytes], bytes]


def signing_key() -> Ed25519PrivateKey:
    key = serialization.load_ssh_private_key((GOOD / "keys/signing.key").read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key


def resealed(change: Damage) -> Damage:
    """Change what is inside the age file, and seal it again, as anybody can who knows recipients.

    The public parts of the keys are in the files' headers or known to the writer of a bucket.
    """

    def damage(sealed: bytes) -> bytes:
        path = GOOD / "keys/identity.txt"
        ours = age.parse_identities(path.read_text(), path)
        plain = change(seal.open_document(sealed, ours, limit=1 << 20))
        return seal.seal_document(plain, age.Recipients((ours.native[0].recipient,)))

    return damage


def signed_anew(change: Damage, namespace: str = "offsite-manifest") -> Damage:
    """Change the line and sign it with the right key: what only a faulty writer could make."""

    def damage(plain: bytes) -> bytes:
        line = change(plain.partition(b"\n")[0]) + b"\n"
        return line + sshsig.sign(line, signing_key(), namespace).encode()

    return resealed(damage)


MANIFESTS: dict[str, tuple[Damage, str]] = {
    "empty": (lambda _: b"", "."),
    "cut": (lambda sealed: sealed[:-1], "."),
    "longer": (lambda sealed: sealed + b"\0", "."),
    "a bit": (lambda sealed: sealed[:-9] + bytes([sealed[-9] ^ 1]) + sealed[-8:], "."),
    "no signature": (resealed(lambda plain: plain.partition(b"\n")[0] + b"\n"), "signature"),
    "no newline": (resealed(lambda plain: plain.replace(b"\n", b"", 1)), "signature"),
    "two signatures": (resealed(lambda plain: plain + plain.partition(b"\n")[2]), "signature"),
    "line changed": (resealed(lambda plain: plain.replace(b'"nas"', b'"nbs"')), "changed"),
    "a space more": (resealed(lambda plain: plain.replace(b"\n", b" \n", 1)), "changed"),
    "a line before": (resealed(lambda plain: b"\n" + plain), "signature"),
    "not ASCII": (resealed(lambda plain: plain + "ü".encode()), "ASCII"),
    "not UTF-8": (signed_anew(lambda line: line.replace(b"nas", b"n\xff")), "malformed"),
    "of an index": (signed_anew(lambda line: line, "offsite-index"), "not for offsite-manifest"),
    "of git": (signed_anew(lambda line: line, "git"), "not for offsite-manifest"),
    "version 2": (signed_anew(lambda line: line.replace(b'"format":1', b'"format":2')), "version"),
    "another id": (
        signed_anew(lambda line: line.replace(b"-0123456789abcdef", b"-0123456789abcdee")),
        "another backup",
    ),
    "another name": (
        signed_anew(lambda line: line.replace(b"tank/photos", b"../x/photos")),
        "malformed",
    ),
}


def main() -> None:
    REFUSED.mkdir()
    manifest = (GOOD / f"one/offsite/backups/{repo.ID}/manifest.age").read_bytes()
    for name, (damage, _) in MANIFESTS.items():
        (REFUSED / file_name(name)).write_bytes(damage(manifest))
    told = {file_name(name): told for name, (_, told) in MANIFESTS.items()}
    (REFUSED / "expected.json").write_text(json.dumps(told, indent=1) + "\n")


def file_name(what: str) -> str:
    return f"manifest-{what.replace(' ', '-')}.age"


if __name__ == "__main__":
    main()
