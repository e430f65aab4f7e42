"""What whoever can write to the bucket may try, and what comes of it: never a byte not backed up.

Each attack is made on a real backup and then restored through the product's own code, up to the
pipe to ``zfs receive``. What the attacker knows: everything stored, all recipients, the format.
"""

from __future__ import annotations

import hashlib
import re
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import pytest
import zstandard

from offsite import age, manifest, repository, seal, sshsig
from offsite.age import Identities, Recipients
from offsite.errors import IntegrityError, NoBackupError, NoKeyError, OffsiteError, UsageError
from offsite.manifest import Index, Manifest, Receipt
from offsite.repository import Author, Keyring, chunk_name, index_name, object_path
from tests import repo
from tests.repo import Attempt, Keys
from tests.storage.memory import MemoryRemote

MONDAY, TUESDAY = repo.ID, "20260118t120000-aaaaaaaaaaaaaaaa"
EVIL = "20260119t120000-eeeeeeeeeeeeeeee"
KEYS = Keys()
# The chunks in the middle hold noise alone, so they are of one size and can take each other's
# place without a list of sizes telling it.
STREAMS = {
    MONDAY: repo.stream(101, [repo.noise(6 * repo.CHUNK, 1), b"text " * 900]),
    TUESDAY: repo.stream(102, [repo.noise(6 * repo.CHUNK, 2), b"text " * 900]),
    EVIL: repo.stream(666, [repo.noise(6 * repo.CHUNK, 3)]),
}
HEADS = {
    MONDAY: repo.head(repo.snapshot("monday", 101, 1000), MONDAY),
    TUESDAY: repo.head(repo.snapshot("tuesday", 102, 2000), TUESDAY),
    EVIL: repo.head(repo.snapshot("evil", 666, 9000), EVIL),
}
TRUTH = STREAMS[MONDAY]
FORGER = Keys()
# He has our recipients, of course.
FORGED = Author(KEYS.author.chunks, KEYS.author.documents, FORGER.signing)
FINGERPRINT = sshsig.fingerprint(FORGER.public)


@pytest.fixture(scope="module")
def saved() -> dict[str, bytes]:
    remote = MemoryRemote()
    for backup_id in (MONDAY, TUESDAY):
        repo.save([remote], KEYS.author, STREAMS[backup_id], HEADS[backup_id])
    return remote.objects


@pytest.fixture
def bucket(saved: dict[str, bytes]) -> MemoryRemote:
    """A provider with the backups of Monday and Tuesday, in the hands of the attacker."""
    return holding("one", saved)


def holding(name: str, objects: dict[str, bytes]) -> MemoryRemote:
    remote = MemoryRemote(name)
    remote.objects = dict(objects)
    return remote


def chunk(number: int, backup_id: str = MONDAY) -> str:
    return object_path(backup_id, chunk_name(number))


def restored(*remotes: MemoryRemote, point: str | None = "monday", keys: Keys = KEYS) -> Attempt:
    return repo.attempt(remotes, keys.keyring(), point)


def check_refused(
    made: Attempt, told: str, error: type[OffsiteError] = IntegrityError, truth: bytes = TRUTH
) -> None:
    """One clear line, and only whole verified chunks, in order, before it."""
    assert type(made.error) is error, made.error
    assert re.search(told, str(made.error)), made.error
    assert str(made.error).isprintable()
    assert made.data == truth[: len(made.data)]
    assert len(made.data) < len(truth)
    assert len(made.data) % repo.CHUNK == 0


def check_restored(made: Attempt, truth: bytes = TRUTH) -> None:
    assert made.error is None
    assert made.data == truth


def test_without_an_attack(bucket: MemoryRemote) -> None:
    check_restored(restored(bucket))
    check_restored(restored(bucket, point=None), STREAMS[TUESDAY])
    check_restored(restored(bucket, point=TUESDAY[:12]), STREAMS[TUESDAY])


# --- chunks ---------------------------------------------------------------------------------------


def evil_chunk(plain: bytes, recipients: Recipients = KEYS.author.chunks) -> bytes:
    out = bytearray(seal.sealed_bound(len(plain), recipients))
    size = seal.seal_chunk(memoryview(plain), memoryview(out), recipients, level=3).size
    return bytes(out[:size])


def swap(objects: dict[str, bytes]) -> None:
    objects[chunk(2)], objects[chunk(3)] = objects[chunk(3)], objects[chunk(2)]


def rotate(objects: dict[str, bytes]) -> None:
    one, two, three = (objects[chunk(number)] for number in (1, 2, 3))
    objects |= {chunk(1): three, chunk(2): one, chunk(3): two}


def repeat(objects: dict[str, bytes]) -> None:
    objects[chunk(3)] = objects[chunk(2)]


def replace(objects: dict[str, bytes]) -> None:
    objects[chunk(2)] = evil_chunk(repo.noise(repo.CHUNK, 9))


def reseal(objects: dict[str, bytes]) -> None:
    """Even the right bytes, sealed by a stranger."""
    objects[chunk(2)] = evil_chunk(TRUTH[2 * repo.CHUNK : 3 * repo.CHUNK])


def splice(objects: dict[str, bytes]) -> None:
    objects[chunk(2)] = objects[chunk(2, TUESDAY)]


def flip(objects: dict[str, bytes]) -> None:
    objects[chunk(2)] = repo.damaged(objects[chunk(2)])


def zeros(objects: dict[str, bytes]) -> None:
    objects[chunk(2)] = bytes(len(objects[chunk(2)]))


SAME_SIZE = [swap, rotate, repeat, replace, reseal, splice, flip, zeros]


@pytest.mark.parametrize("attack", SAME_SIZE)
def test_another_chunk_of_the_right_size(
    bucket: MemoryRemote, attack: Callable[[dict[str, bytes]], None]
) -> None:
    sizes = {path: len(body) for path, body in bucket.objects.items()}
    attack(bucket.objects)
    assert {path: len(body) for path, body in bucket.objects.items()} == sizes
    check_refused(
        restored(bucket), r"chunk-0000000\d.* cannot be had: one: chunk \d is not the one"
    )


@pytest.mark.parametrize("body", [None, b"", b"x", "cut", "longer"])
def test_a_chunk_gone_or_of_another_size_is_told_before_anything_moves(
    bucket: MemoryRemote, body: bytes | str | None
) -> None:
    whole = bucket.objects.pop(chunk(2))
    other = {"cut": whole[:-1], "longer": whole + b"\0"}
    if body is not None:
        bucket.objects[chunk(2)] = body if isinstance(body, bytes) else other[body]
    made = restored(bucket)
    check_refused(made, "gone or cut on one: chunk-00000002.zfs.zst.age$")
    assert made.data == b""


class Liar(MemoryRemote):
    """Lists the true sizes, then hands out something else."""

    def __init__(self, objects: dict[str, bytes], lies: dict[str, bytes]) -> None:
        super().__init__("one")
        self.objects = dict(objects)
        self.lies = lies

    def get(self, path: str, *, limit: int) -> bytes:
        if path in self.lies:
            body = self.lies[path]
            assert len(body) <= limit  # the contract of a Remote; rclone's is tested elsewhere
            return body
        return super().get(path, limit=limit)


@pytest.mark.parametrize("kept", [0, 1, 2000, -1])
def test_a_provider_that_lies_about_sizes(saved: dict[str, bytes], kept: int) -> None:
    liar = Liar(saved, {chunk(2): saved[chunk(2)][:kept]})
    check_refused(restored(liar), r"has \d+ bytes instead of \d+")


def test_what_is_more_than_the_backup_is_ignored(bucket: MemoryRemote) -> None:
    extra = bucket.objects[chunk(2)]
    names = [
        "chunk-00000099.zfs.zst.age", "chunk-00000002.zfs.zst.age\n", "chunk-2.zfs.zst.age",
        "index-00002.age", "index-99999.age", "evil\nname", "-rf", "manifest.age.old", "m" * 900,
        "\x1b[2J",
    ]  # fmt: skip
    for name in names:
        bucket.objects[object_path(MONDAY, name)] = extra
    check_restored(restored(bucket))


# --- manifests ------------------------------------------------------------------------------------


def manifest_of(remote: MemoryRemote, backup_id: str = MONDAY) -> Manifest:
    return repository.load_manifest(remote, backup_id, KEYS.keyring()).document


def statuses(*remotes: MemoryRemote, keyring: Keyring | None = None) -> dict[str, str]:
    found = repo.listed(remotes, keyring or KEYS.keyring())
    assert found.problems == {}
    return {backup.id: backup.status for backup in found.backups}


def test_a_forged_backup_is_untrusted(bucket: MemoryRemote) -> None:
    repo.save([bucket], FORGED, STREAMS[EVIL], HEADS[EVIL])
    assert statuses(bucket) == {MONDAY: "complete", TUESDAY: "complete", EVIL: "untrusted"}
    made = restored(bucket, point="evil")
    check_refused(made, re.escape(f"signed by {FINGERPRINT}, which nothing here vouches for"))
    assert made.data == b""
    assert made.error is not None
    assert f"--trust-signer {FINGERPRINT}" in str(made.error.hint)


def test_a_forged_backup_does_not_stand_in_the_way(bucket: MemoryRemote) -> None:
    """It is the newest by its own account, yet what is vouched for is what is restored."""
    repo.save([bucket], FORGED, STREAMS[EVIL], HEADS[EVIL])
    check_restored(restored(bucket, point=None), STREAMS[TUESDAY])
    check_restored(restored(bucket, point="latest-full"), STREAMS[TUESDAY])


def test_a_forged_backup_of_the_same_name_or_another_host(bucket: MemoryRemote) -> None:
    twin = repo.head(repo.snapshot("monday", 666, 9000), EVIL, host="a-host-of-his")
    repo.save([bucket], FORGED, STREAMS[EVIL], twin)
    check_restored(restored(bucket))
    check_restored(restored(bucket, point=None), STREAMS[TUESDAY])


def test_the_user_may_vouch_for_a_stranger(bucket: MemoryRemote) -> None:
    repo.save([bucket], FORGED, STREAMS[EVIL], HEADS[EVIL])
    keyring = KEYS.keyring(FINGERPRINT)
    assert statuses(bucket, keyring=keyring)[EVIL] == "complete"
    check_restored(repo.attempt([bucket], keyring, "evil"), STREAMS[EVIL])
    other = KEYS.keyring(sshsig.fingerprint(Keys().public))
    assert statuses(bucket, keyring=other)[EVIL] == "untrusted"


def test_a_genuine_manifest_signed_by_the_forger(bucket: MemoryRemote) -> None:
    """He cannot know its content, but suppose he does."""
    repo.put_manifest(bucket, FORGED, manifest_of(bucket))
    assert statuses(bucket)[MONDAY] == "untrusted"
    check_refused(restored(bucket), "nothing here vouches for")


def test_a_forged_manifest_over_the_genuine_one_on_one_provider(saved: dict[str, bytes]) -> None:
    one, two = holding("one", saved), holding("two", saved)
    repo.put_manifest(one, FORGED, msgspec.structs.replace(manifest_of(two), stream_bytes=1))
    for order in ([one, two], [two, one]):
        (first, _) = repo.listed(order, KEYS.keyring()).backups
        assert (first.status, first.providers) == ("complete", ("two",))
        made = restored(*order)
        check_restored(made)
        assert made.bytes_from == {"two": manifest_of(two).stored_bytes}


def test_an_old_manifest_under_a_new_id(bucket: MemoryRemote) -> None:
    """The whole folder, bit for bit, with a newer name: still Monday's, and says so."""
    for path, body in list(bucket.objects.items()):
        bucket.objects[path.replace(MONDAY, EVIL)] = body
    assert statuses(bucket)[EVIL] == "damaged"
    check_restored(restored(bucket, point=None), STREAMS[TUESDAY])
    check_refused(restored(bucket, point=EVIL), "no finished backup", UsageError)


def test_the_manifest_of_another_backup(bucket: MemoryRemote) -> None:
    path = object_path(MONDAY, repository.MANIFEST)
    bucket.objects[path] = bucket.objects[object_path(TUESDAY, repository.MANIFEST)]
    assert statuses(bucket)[MONDAY] == "damaged"
    (first, _) = repo.listed([bucket], KEYS.keyring()).backups
    assert first.note == f"the manifest in {MONDAY} is that of another backup"
    check_refused(restored(bucket), "no finished backup of tank/photos@monday", UsageError)


def test_an_index_presented_as_manifest_and_the_other_way_round(bucket: MemoryRemote) -> None:
    index, signed = object_path(MONDAY, index_name(0)), object_path(MONDAY, repository.MANIFEST)
    genuine = bucket.objects[signed]
    bucket.objects[signed] = bucket.objects[index]
    (first, _) = repo.listed([bucket], KEYS.keyring()).backups
    assert (first.status, first.note) == ("damaged", "the signature is not for offsite-manifest")
    bucket.objects[index] = genuine
    del bucket.objects[signed]
    (first, _) = repo.listed([bucket], KEYS.keyring()).backups
    assert (first.status, first.note) == ("damaged", "the signature is not for offsite-index")


def test_indexes_swapped_between_backups(bucket: MemoryRemote) -> None:
    mine, other = (object_path(which, index_name(1)) for which in (MONDAY, TUESDAY))
    objects = bucket.objects
    assert len(objects[mine]) == len(objects[other])
    objects[mine], objects[other] = objects[other], objects[mine]
    made = restored(bucket)
    check_refused(
        made, r"index-00001\.age cannot be had: one: .* is not the one the manifest names"
    )
    assert made.data == b""


def test_a_forged_index(bucket: MemoryRemote) -> None:
    """He lists his own chunks; but the manifest names another index."""
    bucket.objects[chunk(2)] = evil_chunk(repo.noise(repo.CHUNK, 9))
    path = object_path(MONDAY, index_name(1))
    index = repository.open_document(bucket.objects[path], Index, KEYS.keyring()).document
    receipts = list(index.receipts)
    digest = hashlib.sha256(bucket.objects[chunk(2)]).hexdigest()
    receipts[2] = msgspec.structs.replace(receipts[2], sha256=digest)
    forged = msgspec.structs.replace(index, receipts=receipts)
    bucket.objects[path] = repository.seal_document(forged, FORGED)
    check_refused(restored(bucket), "is not the one the manifest names")


def test_an_unfinished_backup_of_his(bucket: MemoryRemote) -> None:
    repo.save([bucket], FORGED, STREAMS[EVIL], HEADS[EVIL])
    del bucket.objects[object_path(EVIL, repository.MANIFEST)]
    *_, last = repo.listed([bucket], KEYS.keyring()).backups
    assert (last.status, last.note) == (
        "unfinished",
        f"signed by {FINGERPRINT}, which nothing here vouches for",
    )
    check_restored(restored(bucket, point=None), STREAMS[TUESDAY])
    check_refused(restored(bucket, point="evil"), "no finished backup", NoBackupError)


def test_the_newest_backup_taken_away(bucket: MemoryRemote) -> None:
    """Not to be noticed from what is left (SECURITY.md); the one before comes back whole."""
    for path in [path for path in bucket.objects if TUESDAY in path]:
        del bucket.objects[path]
    check_restored(restored(bucket, point=None))


# --- garbage --------------------------------------------------------------------------------------


def sealed_to_us(plain: bytes) -> bytes:
    return seal.seal_document(plain, KEYS.author.documents)


def signed_by_forger(line: bytes) -> bytes:
    """Anything, as a document with a valid signature of the attacker's."""
    return sealed_to_us(line + sshsig.sign(line, FORGER.signing, "offsite-manifest").encode())


GARBAGE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "noise": lambda: repo.noise(5000),
    "zeros": lambda: bytes(5000),
    "age and no more": lambda: b"age-encryption.org/v1\n",
    "an endless header": lambda: b"age-encryption.org/v1\n-> X25519 " + b"A" * 2_000_000,
    "many stanzas": lambda: b"age-encryption.org/v1\n" + b"-> X25519 AAAA\nAAAA\n" * 100_000,
    "header not UTF-8": lambda: b"age-encryption.org/v1\n-> \xff\xfe \n--- \xff\n",
    "sealed noise": lambda: sealed_to_us(repo.noise(5000)),
    "sealed non-UTF-8": lambda: sealed_to_us(b"\xff\xfe\n\xff\xfe\n"),
    "sealed newlines": lambda: sealed_to_us(b"\n" * 5000),
    "signed noise": lambda: signed_by_forger(repo.noise(5000).replace(b"\n", b"") + b"\n"),
    "signed non-UTF-8": lambda: signed_by_forger(b'{"format":1,"kind":"\xff\xfe"}\n'),
    "signed depths": lambda: signed_by_forger(b'{"format":1,"x":' + b"[" * 300_000 + b"\n"),
    "signed digits": lambda: signed_by_forger(b'{"format":' + b"9" * 300_000 + b"}\n"),
    "signed list": lambda: signed_by_forger(b"[]\n"),
    "too large": lambda: b"age-encryption.org/v1\n" + bytes(repository.DOCUMENT_LIMIT),
}


@pytest.mark.parametrize("where", ["manifest.age", "index-00000.age"])
@pytest.mark.parametrize("what", GARBAGE)
def test_garbage_for_a_document(bucket: MemoryRemote, what: str, where: str) -> None:
    """It is one bad backup in the list, and all the others are as usable as before."""
    bucket.objects[object_path(EVIL, where)] = GARBAGE[what]()
    found = repo.listed([bucket], KEYS.keyring())
    assert found.problems == {}
    assert [one.status for one in found.backups[:2]] == ["complete", "complete"]
    # Cut short by a kill: an empty manifest, or an index 0 with no chunk to follow it.
    torn = what == "nothing" or where != "manifest.age"
    assert found.backups[2].status in ({"unfinished"} if torn else {"damaged", "sealed"})
    assert found.backups[2].note
    assert found.backups[2].note.isprintable()
    assert len(found.backups[2].note) < 300
    check_restored(restored(bucket, point=None), STREAMS[TUESDAY])


def test_hostile_folders_and_files(bucket: MemoryRemote) -> None:
    names = [
        "x", "20260119t120000-eeeeeeeeeeeeeeee\n", "20260119T120000-EEEEEEEEEEEEEEEE",
        "20260119t120000-eeeeeeeeeeeeeeee2", "\x1b[2J", "-rf", "y" * 1000, "ü",
        "\u0662\u0660260119t120000-eeeeeeeeeeeeeeee",
    ]  # fmt: skip
    for name in names:
        bucket.objects[f"{repository.BACKUPS}/{name}/{repository.MANIFEST}"] = b"x"
    bucket.objects[f"{repository.BACKUPS}/{EVIL}"] = b"a file where a folder should be"
    assert list(statuses(bucket)) == [MONDAY, TUESDAY]
    check_restored(restored(bucket))


def test_documents_over_the_limit_take_no_memory(bucket: MemoryRemote) -> None:
    """Sealed for us, so that only the limit keeps them from being opened."""
    huge = sealed_to_us(bytes(repository.DOCUMENT_LIMIT + 1))
    for number in range(9):
        backup_id = f"20260119t120000-{number:016x}"
        bucket.objects[object_path(backup_id, repository.MANIFEST)] = huge
    tracemalloc.start()
    found = repo.listed([bucket], KEYS.keyring())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < repository.DOCUMENT_LIMIT // 4
    assert [one.status for one in found.backups].count("damaged") == 9


# --- what only a faulty or stolen signing key could sign ------------------------------------------


def zstd_bomb(size: int) -> bytes:
    """A valid chunk that opens to ``size`` zeros."""
    return age.encrypt(zstandard.ZstdCompressor().compress(bytes(size)), KEYS.author.chunks)


def with_chunk(remote: MemoryRemote, body: bytes, *, length: int = repo.CHUNK) -> None:
    """Sign anew, with our key, that chunk 2 of Monday is ``body`` of ``length`` plain bytes."""
    signed = manifest_of(remote)
    receipts = list(repo.receipts_of(remote, signed, KEYS.keyring()))
    remote.objects[chunk(2)] = body
    receipts[2] = msgspec.structs.replace(
        receipts[2], size=len(body), sha256=hashlib.sha256(body).hexdigest(), length=length
    )
    repo.resign(remote, KEYS.author, signed, in_order(receipts))


def in_order(receipts: list[Receipt]) -> list[Receipt]:
    offset, made = 0, []
    for number, receipt in enumerate(receipts):
        made.append(msgspec.structs.replace(receipt, number=number, offset=offset))
        offset += receipt.length
    return made


def test_signing_anew_makes_a_good_backup(bucket: MemoryRemote) -> None:
    with_chunk(bucket, evil_chunk(TRUTH[2 * repo.CHUNK : 3 * repo.CHUNK]))
    check_restored(restored(bucket))


@pytest.mark.parametrize("size", [repo.CHUNK + 1, 1 << 20, 256 << 20])
def test_a_decompression_bomb_that_was_signed(bucket: MemoryRemote, size: int) -> None:
    with_chunk(bucket, zstd_bomb(size))
    check_refused(restored(bucket), "chunk-00000002.*longer than the expected")


@pytest.mark.parametrize("size", [0, 1, repo.CHUNK - 1])
def test_a_signed_chunk_that_is_too_short(bucket: MemoryRemote, size: int) -> None:
    with_chunk(bucket, zstd_bomb(size))
    check_refused(restored(bucket), f"chunk 2 opens to {size} bytes, not {repo.CHUNK}")


@pytest.mark.parametrize("length", [1, repo.CHUNK - 1])
def test_a_signed_length_that_is_too_short(bucket: MemoryRemote, length: int) -> None:
    body = bucket.objects[chunk(2)]
    with_chunk(bucket, body, length=length)
    check_refused(restored(bucket), f"chunk 2 opens to {repo.CHUNK} bytes, not {length}")


def test_a_signed_length_beyond_the_chunk_size(bucket: MemoryRemote) -> None:
    with_chunk(bucket, zstd_bomb(1 << 20), length=1 << 20)
    made = restored(bucket)
    check_refused(made, "chunk 2 of backup .* is too long")
    assert made.data == b""


def test_a_chunk_size_beyond_the_memory_limit(bucket: MemoryRemote) -> None:
    signed = manifest_of(bucket)
    large = msgspec.structs.replace(signed.head, chunk_size=2**32)
    repo.put_manifest(bucket, KEYS.author, msgspec.structs.replace(signed, head=large))
    made = restored(bucket)
    assert made.error is not None
    assert "MEMORY_LIMIT" in str(made.error)


@pytest.mark.parametrize("change", [{"chunks": 99}, {"stream_bytes": 1}, {"stored_bytes": 1}])
def test_signed_totals_that_do_not_add_up(bucket: MemoryRemote, change: dict[str, int]) -> None:
    wrong = msgspec.structs.replace(manifest_of(bucket), **change)
    repo.put_manifest(bucket, KEYS.author, wrong)
    made = restored(bucket)
    check_refused(made, "the totals of backup .* do not add up")
    assert made.data == b""


def test_chunks_signed_but_garbage_inside(bucket: MemoryRemote) -> None:
    for body in (repo.noise(500), age.encrypt(repo.noise(500), KEYS.author.chunks)):
        with_chunk(bucket, body)
        check_refused(restored(bucket), "chunk-00000002.* cannot be had")


# --- keys -----------------------------------------------------------------------------------------


def test_the_wrong_identity_sees_that_something_is_there(bucket: MemoryRemote) -> None:
    stranger = Keys(signing=KEYS.signing)
    found = repo.listed([bucket], stranger.keyring())
    assert [one.status for one in found.backups] == ["sealed", "sealed"]
    assert [one.head for one in found.backups] == [None, None]
    check_refused(
        restored(bucket, keys=stranger), "2 backups, but no key here opens them", NoBackupError
    )


def test_the_catalog_key_lists_but_does_not_restore(bucket: MemoryRemote) -> None:
    keyring = Keyring(Identities((KEYS.catalog,)), KEYS.trust())
    assert statuses(bucket, keyring=keyring) == {MONDAY: "complete", TUESDAY: "complete"}
    made = repo.attempt([bucket], keyring, "monday")
    check_refused(made, "no identity|opens", NoKeyError)
    assert made.data == b""


# --- two providers --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    bad: MemoryRemote
    good: MemoryRemote


@pytest.fixture
def pair(saved: dict[str, bytes]) -> Pair:
    return Pair(holding("bad", saved), holding("good", saved))


@pytest.mark.parametrize("attack", SAME_SIZE)
def test_a_tampered_chunk_comes_from_the_other_provider(
    pair: Pair, attack: Callable[[dict[str, bytes]], None]
) -> None:
    attack(pair.bad.objects)
    made = restored(pair.bad, pair.good)
    check_restored(made)
    (told,) = made.told.warnings
    assert re.fullmatch(
        r"bad failed at \S+/chunk-\d{8}\S+ \(chunk \d is not the one that was stored\);"
        r" going on with good",
        told,
    )
    assert made.bytes_from["good"] > 0


def test_the_last_of_three_providers_is_the_good_one(pair: Pair) -> None:
    worse = holding("worse", pair.bad.objects)
    flip(pair.bad.objects)
    zeros(worse.objects)
    check_restored(restored(pair.bad, worse, pair.good))


def test_each_provider_damaged_elsewhere(pair: Pair) -> None:
    """Neither has the whole backup; together they do."""
    pair.bad.objects[chunk(1)] = bytes(len(pair.bad.objects[chunk(1)]))
    del pair.bad.objects[chunk(3)]
    pair.good.objects[chunk(2)] = bytes(len(pair.good.objects[chunk(2)]))
    pair.good.objects[object_path(MONDAY, index_name(1))] = b"x"
    made = restored(pair.bad, pair.good)
    check_restored(made)
    assert all(given > 0 for given in made.bytes_from.values())
    assert [told for told in made.told.warnings if "lacks 1 objects" in told]


def test_the_same_chunk_damaged_everywhere(pair: Pair) -> None:
    flip(pair.bad.objects)
    zeros(pair.good.objects)
    made = restored(pair.bad, pair.good)
    check_refused(made, "cannot be had: bad: chunk 2 is not .*; good: chunk 2 is not")


def test_gone_here_and_damaged_there(pair: Pair) -> None:
    del pair.bad.objects[chunk(2)]
    zeros(pair.good.objects)
    check_refused(restored(pair.bad, pair.good), "chunk-00000002.* cannot be had: .*is not the one")


def test_nothing_is_left_running(bucket: MemoryRemote) -> None:
    flip(bucket.objects)
    restored(bucket)
    repo.settle()


def test_documents_know_no_third_kind() -> None:
    """A namespace for each kind, none shared: what the attacks above rely on."""
    assert {
        manifest.Manifest: "offsite-manifest",
        manifest.Index: "offsite-index",
    } == repository._NAMESPACES
