"""Whose signatures are believed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from offsite import sshsig
from offsite.age import Identity
from offsite.keys import vouchers
from offsite.keys.signers import Signer


@dataclass(frozen=True)
class Trust:
    """The signers whom the user ``allowed``, and those for whom one of the ``vouching`` identities
    vouches; not those whose public lines are ``revoked``. ``accepted`` holds fingerprints
    (``SHA256:…``) that the user takes this once, whatever else is said of them.
    """

    allowed: tuple[Signer, ...] = ()
    vouching: tuple[Identity, ...] = ()
    revoked: frozenset[str] = frozenset()
    accepted: tuple[str, ...] = ()

    def believes(self, public: str, macs: Collection[str] = ()) -> bool:
        """The signer (``ssh-ed25519 AAAA…``) of a document that carries the vouchers ``macs``."""
        if sshsig.fingerprint(public) in self.accepted:
            return True
        if public in self.revoked:
            return False
        known = any(signer.public == public for signer in self.allowed)
        return known or vouchers.is_vouched(public, macs, self.vouching)
