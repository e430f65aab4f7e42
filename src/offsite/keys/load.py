"""The keys that the settings name, read and checked. No error shows anything private."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from offsite import age, process
from offsite.age import Identities, Identity, Recipients
from offsite.config import Config
from offsite.errors import KeysError
from offsite.keys import files, signers, vouchers
from offsite.keys.signers import Signer
from offsite.keys.trust import Trust
from offsite.keys.vouchers import Voucher

_TERMINAL = "/dev/tty"
_NO_IDENTITY = (
    "put the identity that you kept there, or name it in AGE_PRIVATE_KEY_FILE (one that is made now"
    " opens no backup that there is)"
)
# Identity files a passphrase has opened, by path and state; they exist in this process only.
_unlocked: dict[tuple[Path, int, int], str] = {}


def load_recipients(config: Config) -> Recipients:
    """Whom chunks are sealed to. Raises KeysError; there is no backup without a recipient."""
    path = config.recipients_file
    return age.parse_recipients(files.read_public(path), str(path))


def load_identities(config: Config) -> Identities:
    """What opens backups. Asks on the terminal, once, if a passphrase protects the file.

    Raises KeysError, also if there is no identity here.
    """
    path = config.identity_file
    data = files.read_private(path, missing=_NO_IDENTITY)
    protected = age.is_passphrase_protected(data)
    identities = age.parse_identities(_text_of(path, data), path)
    if identities.files and (protected or _is_locked_ssh_key(data)):
        raise KeysError(
            f"{path}: behind a passphrase, only X25519 identities (AGE-SECRET-KEY-1…) work here",
            hint="name a copy without passphrase in AGE_PRIVATE_KEY_FILE",
        )
    return identities


def native_identities(config: Config, *, ask: bool) -> tuple[Identity, ...]:
    """The X25519 identities that are here: behind a passphrase only if it was asked, or ``ask``.

    Raises KeysError.
    """
    found = _identities_here(config, ask=ask)
    return found.native if found else ()


def stranger(config: Config) -> str | None:
    """One line if backups that are made here cannot be opened by the identity that is here.

    None also where that cannot be told: behind a passphrase, an ssh key. Raises KeysError.
    """
    found = _identities_here(config, ask=False)
    if found is None or found.files or not files.exists(config.recipients_file):
        return None
    if {one.recipient for one in found.native} & set(load_recipients(config).lines):
        return None
    return (
        f"{config.identity_file} opens nothing that is backed up from here: its public part is not"
        f" in {config.recipients_file}"
    )


def identity_at_hand(config: Config) -> bool:
    """Whether there is an identity that opens without asking for a passphrase. Raises KeysError."""
    path = config.identity_file
    return path.exists() and not age.is_passphrase_protected(files.read_private(path))


def load_catalog(config: Config) -> Identities | None:
    """The key that opens manifests and indexes on this host, if it has one. Raises KeysError."""
    path = config.catalog_key_file
    if not files.exists(path):
        return None
    catalog = age.parse_identities(files.as_text(files.read_private(path), path), path)
    if catalog.files or len(catalog.native) != 1:
        raise KeysError(f"{path} must hold one X25519 identity (AGE-SECRET-KEY-1…)")
    return catalog


def catalog_recipient(config: Config) -> str:
    """The ``age1…`` line of the catalog key. Raises KeysError if there is none."""
    catalog = load_catalog(config)
    if catalog is None:
        raise KeysError(f"{config.catalog_key_file}: no catalog key", hint="offsite keys init")
    return catalog.native[0].recipient


def load_signing_key(config: Config) -> Ed25519PrivateKey:
    """The key that signs this host's manifests and indexes. Raises KeysError."""
    path = config.signing_key_file
    data = files.read_private(path)
    if _is_locked_ssh_key(data):
        raise KeysError(
            f"{path} is protected by a passphrase: backups could not sign unattended",
            hint=f"ssh-keygen -p -f {path} removes it, or offsite keys init makes another",
        )
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, UnsupportedAlgorithm):
        raise KeysError(f"{path} is not an OpenSSH private key") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeysError(f"{path} is not an Ed25519 key", hint="ssh-keygen -t ed25519 makes one")
    return key


def load_trust(config: Config, accepted: tuple[str, ...] = ()) -> Trust:
    """Whose signatures a restore trusts; may be nobody's.

    Those of the allowed_signers file, and those that the identity vouched for. The latter is not
    asked its passphrase for that if the former knows anyone. Raises KeysError.
    """
    allowed = load_allowed(config)
    revoked = frozenset(signer.public for signer in load_revoked(config))
    return Trust(allowed, native_identities(config, ask=not allowed), revoked, accepted)


def load_allowed(config: Config) -> tuple[Signer, ...]:
    """The signers in the allowed_signers file, if there is one. Raises KeysError."""
    path = config.allowed_signers_file
    if not files.exists(path):
        return ()
    found = signers.parse_allowed(files.read_public(path), str(path))
    return tuple({signer.public: signer for signer in found}.values())


def load_revoked(config: Config) -> tuple[Signer, ...]:
    """Those in the file of revoked signers, if there is one. Raises KeysError."""
    path = revoked_file(config)
    if not files.exists(path) and not path.is_symlink():  # one that leads nowhere is an error
        return ()
    return tuple(signers.parse_revoked(files.read_public(path), str(path)))


def refuse_revoked(config: Config, key: str) -> None:
    """Raise KeysError if this host's signing key, whose public line is ``key``, is revoked."""
    if key in {signer.public for signer in load_revoked(config)}:
        raise KeysError(
            f"{config.signing_key_file}: this key is revoked (in {revoked_file(config)})",
            hint="make another one: move it and its .pub away, then offsite keys init",
        )


def load_vouchers(config: Config, key: str) -> tuple[Voucher, ...]:
    """Those kept here for the signing key whose public line is ``key``. Raises KeysError."""
    path = vouchers_file(config)
    if not files.exists(path):
        return ()
    found = vouchers.parse(files.read_public(path), str(path))
    return tuple(dict.fromkeys(one for one in found if one.key == key))[-vouchers.MOST :]


def unvouched(config: Config, key: str) -> list[str]:
    """The recipients whose identities are not known to vouch for the signing key.

    Those of the identities that are here are proven. Raises KeysError.
    """
    kept = set(load_vouchers(config, key))
    for identity in native_identities(config, ask=False):
        own = vouchers.vouch(identity, key)
        kept = {one for one in kept if one.recipient != own.recipient or one == own}
    vouching = {one.recipient for one in kept}
    return [line for line in load_recipients(config).lines if line not in vouching]


def vouchers_file(config: Config) -> Path:
    """Beside the signing key that they are for."""
    return config.signing_key_file.with_name(config.signing_key_file.name + ".vouchers")


def revoked_file(config: Config) -> Path:
    """Beside the signers that are allowed."""
    return config.allowed_signers_file.with_name("revoked_signers")


def _identities_here(config: Config, *, ask: bool) -> Identities | None:
    """None if there are none, or they are behind a passphrase that is not to be asked for."""
    path = config.identity_file
    if not files.exists(path):
        return None
    data = files.read_private(path)
    if age.is_passphrase_protected(data) and not ask and _state(path) not in _unlocked:
        return None
    return age.parse_identities(_text_of(path, data), path)


def _text_of(path: Path, identity: bytes) -> str:
    return _unlock(path) if age.is_passphrase_protected(identity) else files.as_text(identity, path)


def _unlock(path: Path) -> str:
    state = _state(path)
    if state not in _unlocked:
        _unlocked[state] = _ask(path)
    return _unlocked[state]


def _ask(path: Path) -> str:
    if not _may_ask():
        raise KeysError(
            f"{path} is protected by a passphrase, and there is no terminal to ask for it",
            hint="run this in a terminal, in the foreground, with its output there; or name a copy"
            " without passphrase in AGE_PRIVATE_KEY_FILE",
        )
    # age itself asks, on the terminal; the passphrase never passes through us.
    argv = ["age", "--decrypt", str(path.absolute())]
    done = process.run(argv, timeout=None, missing=age.MISSING, terminal=True)
    if done.status:
        reason = done.stderr.strip().partition("\n")[0] or f"exit status {done.status}"
        raise KeysError(f"{path}: the passphrase did not open it ({reason})")
    return files.as_text(done.raw, path)


def _may_ask() -> bool:
    """Only of somebody who looks: a run whose output goes elsewhere would wait for ever."""
    if not sys.stdout.isatty():
        return False
    try:
        terminal = os.open(_TERMINAL, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return process.is_foreground(terminal)
    finally:
        os.close(terminal)


def _state(path: Path) -> tuple[Path, int, int]:
    status = path.stat()
    return path.absolute(), status.st_ino, status.st_mtime_ns


def _is_locked_ssh_key(data: bytes) -> bool:
    load = load_ssh_private_key if b"BEGIN OPENSSH" in data else load_pem_private_key
    try:
        load(data, password=None)
    except TypeError:  # how cryptography asks for the missing password
        return True
    except (ValueError, UnsupportedAlgorithm):
        return False  # for others to judge
    return False
