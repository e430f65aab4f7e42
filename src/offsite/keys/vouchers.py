"""Vouchers: what tells the owner of an identity that a signing key is his own host's.

A new machine with nothing but the identity must not have to guess who may sign. So where identity
and signing key meet once, the former vouches for the latter: HMAC-SHA-256 over the public line of
the signing key, keyed by HKDF-SHA-256 of the identity's secret. Every document carries it
(FORMAT.md, section 4). It is worth nothing without the signing key, so it is no secret.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from offsite.age import Identity
from offsite.errors import KeysError

KIND = "vouchers for the signing key"
MOST = 64  # in a document
_INFO = b"offsite.voucher.v1"
_LINE = re.compile(r"(?P<recipient>age1[0-9a-z]+) (?P<mac>[0-9a-f]{64}) (?P<key>ssh-ed25519 \S+)")


@dataclass(frozen=True)
class Voucher:
    """``recipient``: the public part of the identity that vouches (``age1…``). ``mac``: 64 hex
    digits. ``key``: the signing key it is for (``ssh-ed25519 AAAA…``)."""

    recipient: str
    mac: str
    key: str

    def line(self) -> str:
        """As it stands in a vouchers file."""
        return f"{self.recipient} {self.mac} {self.key}\n"


def vouch(identity: Identity, key: str) -> Voucher:
    """For the signing key whose public line is ``key``."""
    return Voucher(identity.recipient, _mac(identity, key), key)


def is_vouched(key: str, macs: Iterable[str], identities: Iterable[Identity]) -> bool:
    """Whether one of the macs that a document carries is by one of the identities."""
    ours = [_mac(identity, key) for identity in identities]
    return any(hmac.compare_digest(mac, one) for mac in macs for one in ours)


def parse(text: str, where: str) -> Iterator[Voucher]:
    """The lines of a vouchers file called ``where``. Raises KeysError."""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise KeysError(
                f"{where}, line {number}: not a voucher",
                hint="remove that line, then offsite keys vouch, with the identity at hand",
            )
        yield Voucher(**match.groupdict())


def _mac(identity: Identity, key: str) -> str:
    return hmac.digest(identity.derived(_INFO), key.encode("ascii"), "sha256").hex()
