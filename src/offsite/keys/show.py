"""The public parts of the keys, for the user's eyes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from offsite import age, sshsig
from offsite.config import Config
from offsite.keys import files, vouchers
from offsite.keys.load import (
    load_allowed,
    load_catalog,
    load_recipients,
    load_revoked,
    load_signing_key,
    load_vouchers,
    revoked_file,
    vouchers_file,
)
from offsite.keys.signers import Signer


@dataclass(frozen=True)
class Shown:
    """A key file and what of it is public, one line each; none if it is not here."""

    kind: str
    path: Path
    public: tuple[str, ...]


def show(config: Config) -> list[Shown]:
    """Recipients and fingerprints, never anything private, and without asking a passphrase.

    Raises KeysError for a file that is wrong.
    """
    catalog = load_catalog(config)
    return [
        Shown("age recipients", config.recipients_file, _recipients(config)),
        Shown("age identity", config.identity_file, _identity(config)),
        Shown(
            "catalog key",
            config.catalog_key_file,
            (catalog.native[0].recipient,) if catalog else (),
        ),
        Shown("signing key", config.signing_key_file, _signing(config)),
        Shown("allowed signers", config.allowed_signers_file, _lines(load_allowed(config))),
        Shown("revoked signers", revoked_file(config), _lines(load_revoked(config))),
        Shown(vouchers.KIND, vouchers_file(config), _vouching(config)),
    ]


def _recipients(config: Config) -> tuple[str, ...]:
    return load_recipients(config).lines if files.exists(config.recipients_file) else ()


def _identity(config: Config) -> tuple[str, ...]:
    path = config.identity_file
    if not files.exists(path):
        return ()
    data = files.read_private(path)
    if age.is_passphrase_protected(data):
        return ("protected by a passphrase",)
    identities = age.parse_identities(files.as_text(data, path), path)
    foreign = ("read by the age program",) if identities.files else ()
    return (*(identity.recipient for identity in identities.native), *foreign)


def _signing(config: Config) -> tuple[str, ...]:
    if not files.exists(config.signing_key_file):
        return ()
    public = sshsig.public_line(load_signing_key(config))
    return (public, sshsig.fingerprint(public))


def _lines(found: tuple[Signer, ...]) -> tuple[str, ...]:
    return tuple(f"{signer.fingerprint} {signer.label}" for signer in found)


def _vouching(config: Config) -> tuple[str, ...]:
    """The recipients of the identities that vouch for this host's signing key."""
    if not files.exists(config.signing_key_file):
        return ()
    public = sshsig.public_line(load_signing_key(config))
    return tuple(voucher.recipient for voucher in load_vouchers(config, public))
