"""The keys of a host: made, loaded, proven to work.

An age identity and its recipients, the catalog key that opens manifests and indexes on the host,
the key that signs them, and whose signatures a restore trusts. A host that only backs up needs
no identity: it may live in a safe.
"""

from offsite.keys.load import (
    catalog_recipient,
    identity_at_hand,
    load_catalog,
    load_identities,
    load_recipients,
    load_signing_key,
    load_trust,
    load_vouchers,
    refuse_revoked,
    stranger,
)
from offsite.keys.make import KeyFile, initialise, vouch
from offsite.keys.proof import check
from offsite.keys.show import show
from offsite.keys.signers import Signer
from offsite.keys.trust import Trust

__all__ = [
    "KeyFile",
    "Signer",
    "Trust",
    "catalog_recipient",
    "check",
    "identity_at_hand",
    "initialise",
    "load_catalog",
    "load_identities",
    "load_recipients",
    "load_signing_key",
    "load_trust",
    "load_vouchers",
    "refuse_revoked",
    "show",
    "stranger",
    "vouch",
]
