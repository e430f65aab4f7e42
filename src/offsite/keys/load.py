"""The keys that the settings name, read and checked. No error shows anything private."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_ssh_private_key

from offsite import age, process
from offsite.age import Identities, Recipients
from offsite.config import Config
from offsite.errors import KeysError
from offsite.keys import files, signers
from offsite.keys.signers import Signer

_TERMINAL = "/dev/tty"
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
    data = files.read_private(path)
    protected = age.is_passphrase_protected(data)
    identities = age.parse_identities(
        _unlock(path) if protected else files.as_text(data, path), path
    )
    if identities.files and (protected or _is_locked_ssh_key(data)):
        raise KeysError(
            f"{path}: behind a passphrase, only X25519 identities (AGE-SECRET-KEY-1…) work here",
            hint="name a copy without passphrase in AGE_PRIVATE_KEY_FILE",
        )
    return identities


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


def load_signers(config: Config) -> tuple[Signer, ...]:
    """Whose signatures a restore trusts; may be nobody.

    From the allowed_signers file, and from the comments of the identity file. The latter is not
    asked its passphrase for that if the former knows anyone. Raises KeysError.
    """
    found: list[Signer] = []
    allowed = config.allowed_signers_file
    if files.exists(allowed):
        found += signers.parse_allowed(files.read_public(allowed), str(allowed))
    identity = config.identity_file
    if files.exists(identity):
        data = files.read_private(identity)
        if not age.is_passphrase_protected(data):
            found += signers.parse_comments(files.as_text(data, identity), str(identity))
        elif not found or _state(identity) in _unlocked:
            found += signers.parse_comments(_unlock(identity), str(identity))
    return tuple({signer.public: signer for signer in reversed(found)}.values())[::-1]


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
