"""Whose signatures are believed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Literal

from offsite import sshsig
from offsite.age import Identity
from offsite.keys import vouchers
from offsite.keys.signers import Signer

Standing = Literal["trusted", "unknown", "revoked"]


@dataclass(frozen=True)
class Trust:
    """The signers whom the user ``allowed``, and those for whom one of the ``vouching`` identities
    vouches; not those whose public lines are ``revoked``. ``accepted`` holds fingerprints
    (``SHA256:…``) that the user takes this once, whatever else is said of them.

    A voucher speaks of a key, not of the document that carries it: whoever was ``proven`` by one
    document is believed in all that are looked at later.
    """

    allowed: tuple[Signer, ...] = ()
    vouching: tuple[Identity, ...] = ()
    revoked: frozenset[str] = frozenset()
    accepted: tuple[str, ...] = ()
    proven: set[str] = field(default_factory=set, compare=False, repr=False)

    def of(self, signer: str, macs: Collection[str] = ()) -> Standing:
        """What is known of ``signer`` (``ssh-ed25519 AAAA…``), whose document carries ``macs``."""
        if self.accepted and sshsig.fingerprint(signer) in self.accepted:
            return "trusted"
        if signer in self.revoked:
            return "revoked"
        if signer in self.proven or any(signer == one.public for one in self.allowed):
            return "trusted"
        if not vouchers.is_vouched(signer, macs, self.vouching):
            return "unknown"
        self.proven.add(signer)
        return "trusted"
