"""Whose signatures a restore trusts by name: the lines of allowed_signers and revoked_signers.

Source: ssh-keygen(1), "ALLOWED SIGNERS", and -r of -Y verify. Only what
``ssh-keygen -Y verify -I offsite`` would accept counts,
and what we do not understand of it is refused, never ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from offsite import sshsig
from offsite.errors import KeysError

NAMESPACES = ("offsite-manifest", "offsite-index")
_PRINCIPAL = "offsite"
_WORD = re.compile(r'(?:[^\s"]|"[^"]*")+')
_NAMESPACES_OPTION = re.compile(r'namespaces="([^"]*)"', re.IGNORECASE)


@dataclass(frozen=True)
class Signer:
    """A trusted key (``ssh-ed25519 AAAA…``) and the host it was made on."""

    public: str
    label: str

    @property
    def fingerprint(self) -> str:
        return sshsig.fingerprint(self.public)


def allowed_line(signer: Signer) -> str:
    """The line of an allowed_signers file."""
    namespaces = ",".join(NAMESPACES)
    return f'{_PRINCIPAL} namespaces="{namespaces}" {signer.public} {signer.label}\n'


def parse_allowed(text: str, where: str) -> Iterator[Signer]:
    """The signers that a file called ``where`` trusts for us; lines for others are passed over.

    Raises KeysError.
    """
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        principals = _WORD.match(line)
        if principals is None or _PRINCIPAL not in principals[0].strip('"').split(","):
            continue
        rest = line[principals.end() :].strip()
        if not rest.startswith(sshsig.KEY_TYPE):
            options = _WORD.match(rest)
            words = options[0] if options else ""
            if not _are_for_us(words, f"{where}, line {number}"):
                continue
            rest = rest[len(words) :]
        yield _signer(rest, f"{where}, line {number}")


def parse_revoked(text: str, where: str) -> Iterator[Signer]:
    """The public keys, one a line, that are not trusted any more. Raises KeysError."""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if line and not line.startswith("#"):
            yield _signer(line, f"{where}, line {number}")


def _are_for_us(options: str, where: str) -> bool:
    match = _NAMESPACES_OPTION.fullmatch(options)
    if match is None:
        raise KeysError(f'{where}: only ssh-ed25519 keys, with at most namespaces="…", work here')
    return NAMESPACES[0] in match[1].split(",")


def _signer(text: str, where: str) -> Signer:
    try:
        public, label = sshsig.parse_public_line(text)
    except ValueError:
        raise KeysError(f"{where}: not an ssh-ed25519 public key") from None  # may hold anything
    return Signer(public, label)
