"""Proof that the keys of a host fit each other."""

from __future__ import annotations

from pathlib import Path

from offsite import age, sshsig
from offsite.age import Identities, Recipients
from offsite.config import Config
from offsite.errors import KeysError, NoKeyError
from offsite.keys import files, signers
from offsite.keys.load import (
    catalog_recipient,
    load_catalog,
    load_identities,
    load_recipients,
    load_signing_key,
    load_trust,
    load_vouchers,
    refuse_revoked,
    unvouched,
    vouchers_file,
)

_PROOF = b"offsite keys check"


def check(config: Config) -> list[str]:
    """Prove that the keys fit each other; one line a proof. Raises KeysError at the first misfit.

    May ask for the identity's passphrase.
    """
    recipients = load_recipients(config)
    count = len(recipients.lines)
    proven = [f"{config.recipients_file}: {count} recipient{'s' if count > 1 else ''}"]
    catalog = load_catalog(config)
    documents = Recipients((*recipients.lines, catalog_recipient(config)))
    assert catalog is not None
    _prove_opens(config, documents, catalog, config.catalog_key_file)
    proven.append(f"{config.catalog_key_file}: opens what is sealed to it")
    if files.exists(config.identity_file):
        _prove_opens(config, recipients, load_identities(config), config.identity_file)
        proven.append(f"{config.identity_file}: opens what is sealed to the recipients")
    else:
        proven.append(f"{config.identity_file}: not here; needed to restore, not to back up")
    public = _signer(config)
    proven.append(
        f"{config.signing_key_file}: signs, and is trusted ({sshsig.fingerprint(public)})"
    )
    return [*proven, _vouched(config, public)]


def _prove_opens(
    config: Config, recipients: Recipients, identities: Identities, path: Path
) -> None:
    try:
        opened = age.decrypt(age.encrypt(_PROOF, recipients), identities, limit=len(_PROOF))
    except NoKeyError as error:
        raise KeysError(
            f"{path} does not open what is sealed to the recipients",
            hint=f"its public part (age-keygen -y {path}) must be in {config.recipients_file}: move"
            " that away, and offsite keys init makes it anew from the identity",
        ) from error
    if opened != _PROOF:
        raise KeysError(f"{path} opened something else than was sealed")


def _signer(config: Config) -> str:
    """The public line of the signing key, which is proven to sign and to be trusted."""
    key = load_signing_key(config)
    for namespace in signers.NAMESPACES:
        public = sshsig.verify(_PROOF, sshsig.sign(_PROOF, key, namespace), namespace)
    refuse_revoked(config, public)
    macs = [voucher.mac for voucher in load_vouchers(config, public)]
    if load_trust(config).of(public, macs) != "trusted":
        raise KeysError(
            f"{config.signing_key_file}: its signatures are not trusted here, nor by a restore",
            hint=f"offsite keys init adds it to {config.allowed_signers_file}",
        )
    return public


def _vouched(config: Config, key: str) -> str:
    recipients, lacking = load_recipients(config).lines, unvouched(config, key)
    told = f"{vouchers_file(config)}: {len(recipients) - len(lacking)} of {len(recipients)}"
    if not lacking:
        return f"{told} recipients' identities vouch for the signing key: a restore needs no more"
    return (
        f"{told} recipients' identities vouch for the signing key: keep"
        f" {config.allowed_signers_file} with the others"
    )
