"""Whom a restore trusts that has nothing but the identity: keys that it vouched for."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from offsite import age, chain, connect, keys, listing, repository, sshsig
from offsite.age import Identities
from offsite.catalog import Backup
from offsite.config import Config, load
from offsite.errors import IntegrityError, KeysError
from offsite.keys import Signer, Trust, vouchers
from offsite.keys.load import vouchers_file
from offsite.keys.vouchers import vouch
from offsite.manifest import Index
from offsite.repository import Author, Keyring
from tests import repo
from tests.repo import ID, Keys
from tests.storage.memory import MemoryRemote

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


def mine(*more: age.Identity) -> Trust:
    return Trust(vouching=(*more, KEYS.identity))


def test_the_identity_is_enough() -> None:
    assert believed(signed_by(KEYS.signing, MAC), mine())
    assert believed(signed_by(KEYS.signing, "0" * 64, MAC), mine(OTHER.identity))
    assert not believed(signed_by(KEYS.signing), mine())


def test_a_voucher_for_another_key_or_by_another_identity() -> None:
    """Whoever writes into the bucket can copy a voucher, and make one by an identity of his own."""
    assert not believed(signed_by(OTHER.signing, MAC), mine())
    his = vouch(OTHER.identity, OTHER.public).mac
    assert not believed(signed_by(OTHER.signing, MAC, his), mine())
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
    for use in (keys.check, connect.author):
        with pytest.raises(KeysError, match=r"signing\.key: this key is revoked \(in .*_signers\)"):
            use(config)
    revoked.write_text("ssh-rsa AAAA")
    with pytest.raises(KeysError, match="revoked_signers, line 1: not an ssh-ed25519 public key"):
        keys.load_trust(config)
    revoked.write_text(public)
    revoked.chmod(0o666)
    with pytest.raises(KeysError, match="changed by anyone"):
        keys.load_trust(config)
    revoked.unlink()
    revoked.symlink_to("not/mounted")  # nobody is revoked: that would be wrong
    with pytest.raises(KeysError, match="no such key file"):
        keys.load_trust(config)


def test_init_lets_the_identity_vouch(config: Config) -> None:
    keys.initialise(config)
    public = sshsig.public_line(keys.load_signing_key(config))
    author = connect.author(config)
    config.allowed_signers_file.unlink()
    trust = keys.load_trust(config)
    assert (trust.allowed, trust.vouching) == ((), keys.load_identities(config).native)
    assert author.vouchers == (vouch(trust.vouching[0], public).mac,)
    assert trust.of(public, author.vouchers) == "trusted"
    assert keys.load_trust(config).of(public) == "unknown"
    assert "1 of 1 recipients' identities vouch" in keys.check(config)[-1]


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
    with pytest.raises(KeysError, match="the identity is not here") as told:
        keys.vouch(config)
    assert "AGE_PRIVATE_KEY_FILE" in str(told.value.hint)


def test_a_recipient_whose_identity_does_not_vouch(config: Config) -> None:
    """One of two is in a safe, and alone would not be enough there."""
    keys.initialise(config)
    other = age.generate_identity()
    with config.recipients_file.open("a") as file:
        file.write(other.recipient + "\n")
    done = keys.initialise(config)[-1]
    assert done.note.startswith(f"none by the identity of {other.recipient[:24]}…: offsite keys")
    assert "1 of 2 recipients' identities vouch" in keys.check(config)[-1]
    assert f"keep {config.allowed_signers_file}" in keys.check(config)[-1]
    with config.identity_file.open("a") as file:
        file.write(other.secret_line() + "\n")
    assert (
        keys.initialise(config)[-1].note == "the identity's voucher for the signing key was added"
    )
    assert "2 of 2 recipients' identities vouch" in keys.check(config)[-1]


def test_a_wrong_voucher_is_no_voucher(config: Config) -> None:
    """Where the identity is here, it is looked at: what it says now counts."""
    keys.initialise(config)
    (good,) = connect.author(config).vouchers
    path = vouchers_file(config)
    path.write_text(path.read_text().replace(good, "0" * 64))
    assert "0 of 1 recipients' identities vouch" in keys.check(config)[-1]
    keys.vouch(config)
    assert connect.author(config).vouchers == ("0" * 64, good)
    assert "1 of 1 recipients' identities vouch" in keys.check(config)[-1]


def test_no_more_than_a_document_may_have(config: Config) -> None:
    keys.initialise(config)
    (good,) = connect.author(config).vouchers
    path = vouchers_file(config)
    line = path.read_text()
    path.write_text("".join(line.replace(good, f"{n:064x}") for n in range(70)) + line + line)
    found = connect.author(config).vouchers
    assert (len(found), found[-1]) == (vouchers.MOST, good)
    assert believed(signed_by(KEYS.signing, *found), Trust((Signer(KEYS.public, ""),)))


def test_a_line_that_is_none(config: Config) -> None:
    """Told before anything is stored."""
    keys.initialise(config)
    with vouchers_file(config).open("a") as file:
        file.write("age1x\n")
    with pytest.raises(KeysError, match=r"signing\.key\.vouchers, line 2: not a voucher") as told:
        connect.author(config)
    assert "remove that line" in str(told.value.hint)


# --- what is read ---------------------------------------------------------------------------------


def bucket(*authors: Author) -> MemoryRemote:
    """A backup by each, oldest first, an hour apart; and one more by the last, not finished."""
    remote = MemoryRemote("one")
    for hour, author in enumerate([*authors, authors[-1]]):
        head = repo.head(repo.snapshot(f"s{hour}", 100 + hour, 1000 + hour), id_of(hour))
        repo.save([remote], author, repo.stream(100 + hour, [repo.noise(5000)]), head)
    del remote.objects[repository.object_path(id_of(len(authors)), repository.MANIFEST)]
    return remote


def id_of(hour: int) -> str:
    return f"20260117t{hour:02d}0000-0123456789abcdef"


def read(remote: MemoryRemote, trust: Trust) -> list[Backup]:
    return [*repo.listed([remote], Keyring(Identities((KEYS.identity,)), trust)).backups]


@pytest.mark.parametrize("order", [1, -1])
def test_what_proves_a_key_counts_for_all_that_it_signed(order: int) -> None:
    """Before keys vouch, or after its file was lost; also for what is to be continued elsewhere."""
    authors = [signed_by(KEYS.signing), signed_by(KEYS.signing, MAC), signed_by(OTHER.signing, MAC)]
    *found, unfinished = read(bucket(*authors[::order]), mine())
    assert [one.status for one in found][::order] == ["complete", "complete", "untrusted"]
    assert (unfinished.note == "") == (order == -1)
    *found, unfinished = read(bucket(*authors[::order]), Trust())
    assert {one.status for one in found} == {"untrusted"}
    assert "which nothing here vouches for" in unfinished.note


def test_a_revoked_key_is_told_as_such() -> None:
    """Its fingerprint is in the recovery kit, too: nobody must be led to trust it."""
    trust = Trust(vouching=(KEYS.identity,), revoked=frozenset((KEYS.public,)))
    found = read(bucket(signed_by(KEYS.signing, MAC)), trust)
    assert [one.status for one in found] == ["untrusted", "unfinished"]
    assert found[1].note == f"signed by {sshsig.fingerprint(KEYS.public)}, which is revoked here"
    refusal = chain.stranger(found[0])
    assert str(refusal).endswith("which is revoked here")
    assert "--trust-signer" not in str(refusal.hint)
    (row, _) = listing._rows(found)
    assert row.note == found[1].note


def test_newer_ones_by_a_stranger_are_told() -> None:
    """What is vouched for is taken; the host may have a new key since, so not without a word."""
    newer = bucket(signed_by(KEYS.signing, MAC), signed_by(OTHER.signing))
    old, new, _ = read(newer, mine())
    new = later(new)
    (line,) = chain.passed_over([old, new], [old])
    assert line.startswith(f"a newer backup of {repo.DATASET}, @s1 ({id_of(1)}), is not taken")
    assert line.endswith("which nothing here vouches for")
    assert chain.passed_over([old, new], [later(old)]) == ()
    assert chain.passed_over([old, replace(new, status="complete")], [old]) == ()


def later(backup: Backup) -> Backup:
    """As if its snapshot were of another day."""
    manifest = backup.manifest
    snapshot = msgspec.structs.replace(manifest.head.snapshot, created="2030-01-01T00:00:00Z")
    head = msgspec.structs.replace(manifest.head, snapshot=snapshot)
    assert backup.signed is not None
    document = msgspec.structs.replace(manifest, head=head)
    return replace(backup, head=head, signed=replace(backup.signed, document=document))


@given(st.text(max_size=80))
def test_no_line_fails_otherwise(text: str) -> None:
    for line in (text, f"{KEYS.identity.recipient} {text}", f"{text} {MAC} {KEYS.public}"):
        with contextlib.suppress(KeysError):
            assert all(len(voucher.mac) == 64 for voucher in vouchers.parse(line, "FILE"))


@pytest.mark.parametrize("macs", [["0" * 63], ["g" * 64], ["0" * 64] * 65])
def test_a_document_with_nonsense_for_vouchers(macs: list[str]) -> None:
    with pytest.raises(IntegrityError):
        repository.seal_document(INDEX, signed_by(KEYS.signing, *macs))
