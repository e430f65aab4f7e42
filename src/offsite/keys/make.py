"""Make the keys that are missing, and keep those that exist."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from offsite import age, sshsig
from offsite.age import Identity
from offsite.config import Config
from offsite.errors import KeysError
from offsite.keys import files, signers
from offsite.keys.load import (
    load_catalog,
    load_identities,
    load_recipients,
    load_signing_key,
)
from offsite.keys.signers import Signer


@dataclass(frozen=True)
class KeyFile:
    """What ``initialise`` found or did; ``note`` is one line for the user, often empty."""

    kind: str
    path: Path
    created: bool
    note: str = ""


def initialise(config: Config) -> list[KeyFile]:
    """Create every key file that is missing. Nothing that exists is changed, but for one line added
    to an allowed_signers file that does not know this host yet.

    Recipients without an identity are left so. May ask for the identity's passphrase, if the
    recipients have to be derived from it. Raises KeysError, also for existing files that are wrong.
    """
    signing = _signing_key(config)
    signer = Signer(sshsig.public_line(load_signing_key(config)), _host())
    done = [signing, _signing_public(config, signer), _identity(config, signer)]
    done += [_recipients(config), _catalog(config), _allowed_signers(config, signer)]
    return done


def _signing_key(config: Config) -> KeyFile:
    path = config.signing_key_file
    created = False
    if not files.exists(path):
        pem = Ed25519PrivateKey.generate().private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )
        created = files.create(path, pem.decode("ascii"), private=True)
    return KeyFile("signing key", path, created)


def _signing_public(config: Config, signer: Signer) -> KeyFile:
    path = config.signing_key_file.with_name(config.signing_key_file.name + ".pub")
    created = files.create(path, f"{signer.public} {signer.label}\n", private=False)
    return KeyFile("signing key, public part", path, created)


def _identity(config: Config, signer: Signer) -> KeyFile:
    path = config.identity_file
    if not files.exists(path):
        if files.exists(config.recipients_file):
            note = "not here: it is needed to restore, not to back up"
            return KeyFile("age identity", path, created=False, note=note)
        text = _identity_text(age.generate_identity()) + signers.comment_line(signer)
        if files.create(path, text, private=True):
            note = "keep a copy where a fire does not reach it: without it nothing can be restored"
            return KeyFile("age identity", path, created=True, note=note)
    data = files.read_private(path)
    known: set[str] = set()
    if not age.is_passphrase_protected(data):
        known = {s.public for s in signers.parse_comments(files.as_text(data, path), str(path))}
    allowed = config.allowed_signers_file
    note = f"does not name this host's signing key: keep {allowed} with every copy of it"
    if signer.public in known:
        note = ""
    return KeyFile("age identity", path, created=False, note=note)


def _recipients(config: Config) -> KeyFile:
    path = config.recipients_file
    if files.exists(path):
        load_recipients(config)
        return KeyFile("age recipients", path, created=False)
    identities = load_identities(config)
    if identities.files:
        raise KeysError(
            f"{path}: no recipients, and {config.identity_file} does not tell them",
            hint="write them there yourself, one a line: age1… or the ssh key's .pub",
        )
    text = "".join(f"{identity.recipient}\n" for identity in identities.native)
    return KeyFile("age recipients", path, files.create(path, text, private=False))


def _catalog(config: Config) -> KeyFile:
    path = config.catalog_key_file
    created = load_catalog(config) is None and files.create(
        path, _identity_text(age.generate_identity()), private=True
    )
    return KeyFile("catalog key", path, created)


def _allowed_signers(config: Config, signer: Signer) -> KeyFile:
    path = config.allowed_signers_file
    line = signers.allowed_line(signer)
    if files.create(path, line, private=False):
        return KeyFile("allowed signers", path, created=True)
    note = ""
    known = {known.public for known in signers.parse_allowed(files.read_public(path), str(path))}
    if signer.public not in known:
        files.append(path, line)
        note = "this host's signing key was added"
    return KeyFile("allowed signers", path, created=False, note=note)


def _identity_text(identity: Identity) -> str:
    """An identity file as age-keygen writes it."""
    now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"# created: {now}\n# public key: {identity.recipient}\n{identity.secret_line()}\n"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
