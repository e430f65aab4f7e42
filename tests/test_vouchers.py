"""Whom a restore trusts that has nothing but the identity: keys that it vouched for."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from offsite import age, connect, keys, repository, sshsig
from offsite.age import Identities
from offsite.config import Config, load
from offsite.errors import IntegrityError, KeysError
from offsite.keys import Signer, Trust, vouchers
from offsite.keys.load import vouchers_file
from offsite.keys.vouchers import vouch
from offsite.manifest import Index
from offsite.repository import Author, Keyring
from tests.repo import ID, Keys

KEYS = Keys()
OTHER = Keys()
MAC = vouch(KEYS.identity, KEYS.public).mac
INDEX = Index(format=1, id=ID, number=1)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "home").mkdir()
    return load({"HOME": str(tmp_path / "home"), "RCLONE_REMOTE": "remote:bucket"})


def believed(author: Author, trust: Trust) -> bool:
    keyring = Keyring(Identities((KEYS.identity,)), trust)
    sealed = repository.seal_document(INDEX, author)
    return repository.open_document(sealed, Index, keyring).trusted


def signed_by(signing: Ed25519PrivateKey, *macs: str) -> Author:
    return Author(KEYS.author.chunks, KEYS.author.documents, signing, macs)


def test_it_is_what_format_md_says() -> None:
    """HKDF (RFC 5869) written out: no salt, 32 bytes."""
    extracted = hmac.digest(bytes(32), KEYS.identity.secret, "sha256")
    key = hmac.digest(extracted, b"offsite.voucher.v1" + b"\x01", "sha256")
    assert hmac.new(key, KEYS.public.encode(), hashlib.sha256).hexdigest() == MAC


def test_the_identity_is_enough() -> None:
    mine = Trust(vouching=(KEYS.identity,))
    assert believed(signed_by(KEYS.signing, MAC), mine)
    assert believed(
        signed_by(KEYS.signing, "0" * 64, MAC), Trust(vouching=(OTHER.identity, *mine.vouching))
    )
    assert not believed(signed_by(KEYS.signing), mine)


def test_a_voucher_for_another_key_or_by_another_identity() -> None:
    """Whoever writes into the bucket can copy a voucher, and make one by an identity of his own."""
    mine = Trust(vouching=(KEYS.identity,))
    assert not believed(signed_by(OTHER.signing, MAC), mine)
    his = vouch(OTHER.identity, OTHER.public).mac
    assert not believed(signed_by(OTHER.signing, MAC, his), mine)
    assert not believed(signed_by(KEYS.signing, MAC), Trust())


def test_the_catalog_key_does_not_vouch(config: Config) -> None:
    """Whoever steals it, or the signing key, from the host must not make others believe in keys."""
    keys.initialise(config)
    catalog = keys.load_catalog(config)
    assert catalog is not None
    assert catalog.native[0] not in keys.load_trust(config).vouching
    config.identity_file.unlink()
    assert connect.catalog_keyring(config).trust.vouching == ()


def test_a_revoked_key() -> None:
    known = (Signer(KEYS.public, "nas"),)
    trust = Trust(known, (KEYS.identity,), frozenset((KEYS.public,)))
    assert not believed(signed_by(KEYS.signing, MAC), trust)
    named = Trust(revoked=trust.revoked, accepted=(sshsig.fingerprint(KEYS.public),))
    assert believed(signed_by(KEYS.signing), named)


def test_revoked_signers_is_read(config: Config) -> None:
    keys.initialise(config)
    public = sshsig.public_line(keys.load_signing_key(config))
    revoked = config.allowed_signers_file.with_name("revoked_signers")
    revoked.write_text(f"# stolen in May\n\n{OTHER.public}\n")
    keys.check(config)
    revoked.write_text(f"{OTHER.public}\n{public} nas\n")
    assert keys.load_trust(config).revoked == {OTHER.public, public}
    with pytest.raises(KeysError, match="not trusted here"):
        keys.check(config)
    revoked.write_text("ssh-rsa AAAA")
    with pytest.raises(KeysError, match="revoked_signers, line 1: not an ssh-ed25519 public key"):
        keys.load_trust(config)
    revoked.write_text(public)
    revoked.chmod(0o666)
    with pytest.raises(KeysError, match="changed by anyone"):
        keys.load_trust(config)


def test_init_lets_the_identity_vouch(config: Config) -> None:
    keys.initialise(config)
    public = sshsig.public_line(keys.load_signing_key(config))
    author = connect.author(config)
    config.allowed_signers_file.unlink()
    trust = keys.load_trust(config)
    assert (trust.allowed, trust.vouching) == ((), keys.load_identities(config).native)
    assert author.vouchers == (vouch(trust.vouching[0], public).mac,)
    assert trust.believes(public, author.vouchers)
    assert not trust.believes(public)
    assert len(keys.check(config)) == 4


def test_each_identity_and_each_signing_key_once(config: Config) -> None:
    """A second identity, and a signing key made anew: lines are added, none is taken away."""
    keys.initialise(config)
    with config.identity_file.open("a") as file:
        file.write(age.generate_identity().secret_line() + "\n")
    first, second = (one.recipient for one in keys.load_identities(config).native)
    assert "added" in keys.vouch(config).note
    assert not keys.vouch(config).note
    (config.signing_key_file).unlink()
    done = {item.kind: item for item in keys.initialise(config)}
    assert "of another signing key, and kept" in done["signing key, public part"].note
    lines = [line.split()[0] for line in vouchers_file(config).read_text().splitlines()]
    assert lines == [first, second, first, second]
    assert len(connect.author(config).vouchers) == 2


def test_vouching_needs_the_identity(config: Config) -> None:
    keys.initialise(config)
    config.identity_file.unlink()
    with pytest.raises(KeysError, match="no such key file"):
        keys.vouch(config)


@given(st.text(max_size=80))
def test_no_line_fails_otherwise(text: str) -> None:
    for line in (text, f"{KEYS.identity.recipient} {text}", f"{text} {MAC} {KEYS.public}"):
        with contextlib.suppress(KeysError):
            assert all(len(voucher.mac) == 64 for voucher in vouchers.parse(line, "FILE"))


@pytest.mark.parametrize("macs", [["0" * 63], ["g" * 64], ["0" * 64] * 65])
def test_a_document_with_nonsense_for_vouchers(macs: list[str]) -> None:
    with pytest.raises(IntegrityError):
        repository.seal_document(INDEX, signed_by(KEYS.signing, *macs))
