"""Make the keys that are missing, and keep those that exist."""

from __future__ import annotations

import re
import socket
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from offsite import age, sshsig
from offsite.age import Identity
from offsite.config import Config
from offsite.errors import KeysError
from offsite.keys import files, signers, vouchers
from offsite.keys.load import (
    load_allowed,
    load_catalog,
    load_identities,
    load_recipients,
    load_signing_key,
    load_vouchers,
    native_identities,
    stranger,
    unvouched,
    vouchers_file,
)
from offsite.keys.signers import Signer

_SHOWN = 24  # characters of a recipient: enough to know it again


@dataclass(frozen=True)
class KeyFile:
    """What was found or made; ``note`` is one line for the user, often empty."""

    kind: str
    path: Path
    created: bool
    note: str = ""


def initialise(config: Config) -> list[KeyFile]:
    """Create every key file that is missing. Nothing that exists is changed, but for a line added
    to an allowed_signers file that does not know this host yet, or to the vouchers.

    Recipients without an identity are left so. May ask for the identity's passphrase, if the
    recipients have to be derived from it. Raises KeysError, also for existing files that are wrong.
    """
    signing = _signing_key(config)
    signer = Signer(sshsig.public_line(load_signing_key(config)), _host())
    done = [signing, _signing_public(config, signer), _identity(config)]
    done += [_recipients(config), _catalog(config), _allowed_signers(config, signer)]
    return [*done, _vouchers(config, signer.public)]


def vouch(config: Config) -> KeyFile:
    """Let the identity, which must be here, vouch for this host's signing key.

    May ask for the identity's passphrase. Raises KeysError.
    """
    key = sshsig.public_line(load_signing_key(config))
    if not files.exists(config.identity_file):
        raise KeysError(
            f"{config.identity_file}: the identity is not here",
            hint="name it in AGE_PRIVATE_KEY_FILE, for this once",
        )
    identities = load_identities(config).native
    if not identities:
        raise KeysError(
            f"{config.identity_file}: only X25519 identities (AGE-SECRET-KEY-1…) can vouch",
            hint=f"keep {config.allowed_signers_file} with every copy of it",
        )
    return _let_vouch(config, key, identities)


def _let_vouch(config: Config, key: str, identities: Collection[Identity]) -> KeyFile:
    path = vouchers_file(config)
    known = load_vouchers(config, key)
    made = [one for one in (vouchers.vouch(each, key) for each in identities) if one not in known]
    lines = "".join(voucher.line() for voucher in made)
    created = bool(made) and files.create(path, lines, private=False)
    if made and not created:
        files.append(path, lines)
    note = "" if created or not made else "the identity's voucher for the signing key was added"
    return KeyFile(vouchers.KIND, path, created, note)


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
    note = ""
    if not created and not files.read_public(path).startswith(signer.public):
        note = "of another signing key, and kept: move it away, and run this again"
    return KeyFile("signing key, public part", path, created, note)


def _identity(config: Config) -> KeyFile:
    path = config.identity_file
    if not files.exists(path):
        if files.exists(config.recipients_file):
            note = "not here: it is needed to restore, not to back up"
            return KeyFile("age identity", path, created=False, note=note)
        if files.create(path, _identity_text(age.generate_identity()), private=True):
            note = "keep a copy where a fire does not reach it: without it nothing can be restored"
            return KeyFile("age identity", path, created=True, note=note)
    misfit = stranger(config)
    note = (
        f"{misfit}. Move that away and run this again, or put back the identity that belongs to it"
    )
    return KeyFile("age identity", path, created=False, note=note if misfit else "")


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
    if signer.public not in {known.public for known in load_allowed(config)}:
        files.append(path, line)
        note = "this host's signing key was added"
    return KeyFile("allowed signers", path, created=False, note=note)


def _vouchers(config: Config, key: str) -> KeyFile:
    """Made where that takes no passphrase; a note says what is missing."""
    done = _let_vouch(config, key, native_identities(config, ask=False))
    lacking = unvouched(config, key)
    if not lacking:
        return done
    more = f" and {len(lacking) - 1} more" if lacking[1:] else ""
    note = (
        f"none by the identity of {lacking[0][:_SHOWN]}…{more}: offsite keys vouch, with that at"
        f" hand; or keep {config.allowed_signers_file} with every copy of it"
    )
    return replace(done, note="; ".join(filter(None, (done.note, note))))


def _identity_text(identity: Identity) -> str:
    """An identity file as age-keygen writes it."""
    now = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return f"# created: {now}\n# public key: {identity.recipient}\n{identity.secret_line()}\n"


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())
