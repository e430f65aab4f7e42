"""Reading what several providers hold, and the rows that --list makes of it."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from offsite import catalog, legacy, listing, repository, sshsig
from offsite.cache import Shelf
from offsite.catalog import Backup, Catalog
from offsite.errors import ProviderError, StoppedError
from offsite.keys import Trust
from offsite.progress import Silent
from offsite.remote import Entry, Remote
from offsite.repository import Keyring, chunk_name, index_name, object_path
from tests import repo
from tests.repo import Keys
from tests.storage.memory import MemoryRemote

KEYS = Keys()
IDS = [f"202601{day}t120000-{day:016x}" for day in (10, 11, 12)]
STREAM = repo.stream(77, [repo.noise(3 * repo.CHUNK)])  # four chunks


class Broken(MemoryRemote):
    """A provider that answers nothing but an error."""

    def __init__(self, name: str, error: Exception) -> None:
        super().__init__(name)
        self.error = error

    def list(self, _folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:  # noqa: ARG002
        raise self.error


@pytest.fixture(scope="module")
def saved() -> dict[str, bytes]:
    remote = MemoryRemote()
    for backup_id in IDS:
        repo.save([remote], KEYS.author, STREAM, repo.head(repo.snapshot(), backup_id))
    return remote.objects


def holding(name: str, saved: dict[str, bytes], *numbers: int) -> MemoryRemote:
    """A provider with these of the three backups."""
    remote = MemoryRemote(name)
    remote.objects = {
        path: body for path, body in saved.items() if any(IDS[number] in path for number in numbers)
    }
    return remote


def read(*remotes: MemoryRemote) -> list[tuple[str, str, tuple[str, ...]]]:
    found = repo.listed(remotes, KEYS.keyring())
    return [(one.id, one.status, one.providers) for one in found.backups]


def test_an_empty_provider(saved: dict[str, bytes]) -> None:
    assert read(MemoryRemote()) == []
    assert read() == []


def test_who_has_a_part_of_what_is_complete_elsewhere() -> None:
    def copy(name: str, status: catalog.Status, held: int = 0) -> catalog.Backup:
        return catalog.Backup("20260117t120000-0123456789abcdef", status, (name,), held=held)

    copies = [copy("one", "unfinished", 3), copy("two", "complete"), copy("three", "unfinished")]
    (found,) = catalog.merge(copies, ["one", "two", "three"])
    assert (found.status, found.providers, found.behind) == ("complete", ("two",), ("one",))
    (found,) = catalog.merge(copies[:1], ["one"])
    assert found.behind == ()


def test_providers_are_merged_oldest_first_in_the_order_given(saved: dict[str, bytes]) -> None:
    one, two = holding("one", saved, 2, 0), holding("two", saved, 1, 2)
    assert read(one, two) == [
        (IDS[0], "complete", ("one",)),
        (IDS[1], "complete", ("two",)),
        (IDS[2], "complete", ("one", "two")),
    ]
    assert read(two, one)[2] == (IDS[2], "complete", ("two", "one"))


def test_a_provider_that_fails_is_told_and_the_others_are_listed(saved: dict[str, bytes]) -> None:
    broken = Broken("bad", ProviderError("cannot list offsite on bad: no route"))
    found = repo.listed([broken, holding("one", saved, 0)], KEYS.keyring())
    assert [one.id for one in found.backups] == [IDS[0]]
    assert found.problems == {"bad": "cannot list offsite on bad: no route"}


class Dying(MemoryRemote):
    """A provider that answers so many questions about manifests, then none; or one that ``lists``
    all the same."""

    def __init__(self, answers: int, *, lists: bool = False) -> None:
        super().__init__("dying")
        self.objects = {object_path(one, repository.MANIFEST): b"?" for one in MANY}
        self.left = answers
        self.asked = 0
        self.lists = lists

    def stat(self, path: str) -> Entry | None:
        self.asked += 1
        if self.asked > self.left:
            raise ProviderError(f"cannot look at {path} on dying: no route")
        return super().stat(path)

    def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:
        if self.asked > self.left and not self.lists:
            raise ProviderError("cannot list backups on dying: no route")
        return super().list(folder, dirs=dirs, expected=expected)


MANY = [f"20260110t120000-{number:016x}" for number in range(100)]


@pytest.mark.parametrize(
    ("remote", "why"),
    [
        (Dying(0, lists=True), f"cannot look at offsite/backups/{MANY[-1][:-2]}"),
        (Dying(50), "cannot list"),
    ],
)
def test_a_provider_that_dies_while_it_is_read(remote: Dying, why: str) -> None:
    """Its backups are not said to be lost, one by one, each after many tries."""
    found = repo.listed([remote], KEYS.keyring())
    assert found.backups == ()
    assert found.problems["dying"].startswith(why)
    assert remote.asked < remote.left + 20


def test_objects_that_are_not_given_do_not_hide_the_others() -> None:
    """They may be archived: the provider is alive."""
    found = repo.listed([Dying(40, lists=True)], KEYS.keyring())
    assert found.problems == {}
    status = [one.status for one in found.backups]
    assert (len(status), status.count("damaged")) == (100, 40)
    assert status[:50] == ["unreadable"] * 50  # the newest were asked for first


def test_stopping_is_not_a_problem_of_a_provider(saved: dict[str, bytes]) -> None:
    with pytest.raises(StoppedError):
        repo.listed([Broken("bad", StoppedError("stopped"))], KEYS.keyring())


def test_a_copy_that_differs_is_not_a_copy(saved: dict[str, bytes]) -> None:
    """The same backup sealed again has another hash: only one of the two is meant."""
    one, two = holding("one", saved, 0), holding("two", saved, 0)
    signed = repository.load_manifest(two, IDS[0], KEYS.keyring()).document
    repo.put_manifest(two, KEYS.author, signed)
    assert read(one, two) == [(IDS[0], "complete", ("one",))]
    assert read(two, one) == [(IDS[0], "complete", ("two",))]


def test_what_is_known_is_not_read_again(
    saved: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what is new, or new on a provider; what is gone is gone."""
    one, two = holding("one", saved, 0, 1), holding("two", saved, 0)
    known = repo.listed([one, two], KEYS.keyring())
    two.objects |= holding("more", saved, 1, 2).objects
    one.objects = holding("less", saved, 1).objects
    loaded: list[tuple[str, str]] = []
    real = repository.get_manifest

    def get(remote: Remote, backup_id: str) -> bytes:
        loaded.append((remote.name, backup_id))
        return real(remote, backup_id)

    monkeypatch.setattr(repository, "get_manifest", get)
    found = catalog.read([one, two], KEYS.keyring(), known.backups)
    assert sorted(loaded) == [("two", IDS[1]), ("two", IDS[2])]
    monkeypatch.undo()
    assert found == repo.listed([one, two], KEYS.keyring())


class Counting(MemoryRemote):
    """Counts requests."""

    requests = 0

    def get(self, path: str, *, limit: int) -> bytes:
        self.requests += 1
        return super().get(path, limit=limit)

    def stat(self, path: str) -> Entry | None:
        self.requests += 1
        return super().stat(path)

    def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:
        self.requests += 1
        return super().list(folder, dirs=dirs, expected=expected)


def shelved(remote: MemoryRemote, folder: Path, keyring: Keyring | None = None) -> Catalog:
    shelves = {remote.name: Shelf(folder)}
    return catalog.read([remote], keyring or KEYS.keyring(), (), shelves)


def test_what_was_read_by_an_earlier_run_takes_one_request(
    saved: dict[str, bytes], tmp_path: Path
) -> None:
    one = Counting("one")
    one.objects = holding("one", saved, 0, 1).objects
    known = shelved(one, tmp_path)
    one.requests = 0
    assert shelved(one, tmp_path) == known == repo.listed([one], KEYS.keyring())
    one.objects = holding("one", saved, 1, 2).objects
    one.requests = 0
    found = shelved(one, tmp_path)
    assert [backup.id for backup in found.backups] == IDS[1:]
    assert one.requests == 3  # the list, and the new one
    assert sorted(path.name for path in tmp_path.iterdir()) == IDS[1:]


def test_what_was_kept_is_not_believed(saved: dict[str, bytes], tmp_path: Path) -> None:
    """It is opened and verified as if the provider had given it."""
    one = holding("one", saved, 0, 1)
    known = shelved(one, tmp_path)
    (tmp_path / IDS[0]).write_bytes((tmp_path / IDS[1]).read_bytes())  # signed, but of another
    (tmp_path / IDS[1]).write_bytes(b"no manifest")
    assert shelved(one, tmp_path) == known
    stranger = Keyring(KEYS.keyring().identities, Trust())
    assert [backup.status for backup in shelved(one, tmp_path, stranger).backups] == [
        "untrusted", "untrusted",
    ]  # fmt: skip
    shelved(one, tmp_path / "new", stranger)
    assert not (tmp_path / "new").exists()


def test_a_shelf_that_cannot_be_written_keeps_nothing(
    saved: dict[str, bytes], tmp_path: Path
) -> None:
    one = holding("one", saved, 0)
    (tmp_path / "file").touch()
    assert shelved(one, tmp_path / "file" / "folder") == repo.listed([one], KEYS.keyring())


def test_what_an_increment_would_stand_on_is_looked_at_anew(saved: dict[str, bytes]) -> None:
    """However long it is known to be complete."""
    one = holding("one", saved, 0)
    signed = repository.load_manifest(one, IDS[0], KEYS.keyring())
    assert repository.is_held(one, signed)
    for name in (repository.MANIFEST, chunk_name(1)):
        gone = holding("one", saved, 0)
        drop(gone, 0, name)
        assert not repository.is_held(gone, signed)
    path = object_path(IDS[0], repository.MANIFEST)
    one.objects[path] = repo.damaged(one.objects[path])
    assert not repository.is_held(one, signed)


def drop(remote: MemoryRemote, number: int, *names: str) -> None:
    for name in names:
        del remote.objects[object_path(IDS[number], name)]


def test_the_best_claim_wins(saved: dict[str, bytes]) -> None:
    whole, unfinished = holding("whole", saved, 0), holding("unfinished", saved, 0)
    drop(unfinished, 0, repository.MANIFEST)
    damaged = holding("damaged", saved, 0)
    damaged.objects[object_path(IDS[0], repository.MANIFEST)] = b"x"
    assert read(damaged, unfinished, whole) == [(IDS[0], "complete", ("whole",))]
    assert read(damaged, unfinished) == [(IDS[0], "damaged", ("damaged",))]
    assert read(unfinished) == [(IDS[0], "unfinished", ("unfinished",))]


def test_the_fuller_of_two_unfinished_ones(saved: dict[str, bytes]) -> None:
    one, two = holding("one", saved, 0), holding("two", saved, 0)
    for remote in (one, two):
        drop(remote, 0, repository.MANIFEST)
    drop(one, 0, chunk_name(3), chunk_name(2))
    found = repo.listed([one, two], KEYS.keyring())
    assert [backup.held for backup in found.backups] == [4]


# --- unfinished -----------------------------------------------------------------------------------


def unfinished(saved: dict[str, bytes], *missing: str) -> Backup:
    remote = holding("one", saved, 0)
    drop(remote, 0, repository.MANIFEST, *missing)
    (found,) = repo.listed([remote], KEYS.keyring()).backups
    assert found.status == "unfinished"
    return found


def test_an_unfinished_backup(saved: dict[str, bytes]) -> None:
    found = unfinished(saved, chunk_name(3))
    sizes = [len(saved[object_path(IDS[0], chunk_name(number))]) for number in range(3)]
    assert (found.held, found.held_bytes, found.signed) == (3, sum(sizes), None)
    (row,) = listing._rows([found])
    # By the head's estimate of 20,000 bytes: what the indexes say is not read for a list.
    assert (row.percent, row.complete, row.status) == (61, False, "unfinished")
    assert (row.dataset, row.snapshot, row.host) == (repo.DATASET, "monday", "nas")
    assert (row.stream_bytes, row.chunks, row.stored_bytes) == (20_000, 3, sum(sizes))


def test_one_that_stopped_before_its_first_index(saved: dict[str, bytes]) -> None:
    found = unfinished(saved, index_name(0))
    assert (found.head, found.note) == (None, "stopped before it began")
    (row,) = listing._rows([found])
    assert (row.percent, row.created, row.dataset) == (None, "2026-01-10T12:00:00Z", "")


@pytest.mark.parametrize(
    ("held", "estimate", "percent"),
    [(0, 20_000, 0), (1, 20_000, 20), (4, 20_000, 81), (5, 20_000, 99), (999, 20_000, 99),
     (7, 0, None), (1, 1, 99), (1, 2**53, 0)],
)  # fmt: skip
def test_percent_is_never_100_before_the_end(held: int, estimate: int, percent: int | None) -> None:
    head = msgspec.structs.replace(repo.head(repo.snapshot()), estimate=estimate)
    assert listing._percent(Backup(repo.ID, "unfinished", (), head=head, held=held)) == percent


def test_rows_of_whole_and_foreign_backups(saved: dict[str, bytes]) -> None:
    remote = holding("one", saved, 0)
    (whole,) = repo.listed([remote], KEYS.keyring()).backups
    (row,) = listing._rows([whole])
    assert (row.percent, row.complete, row.status, row.note) == (100, True, "complete", "")
    assert (row.chunks, row.stream_bytes) == (4, len(STREAM))
    (foreign,) = repo.listed([remote], Keys(KEYS.identity).keyring()).backups
    (row,) = listing._rows([foreign])
    assert (row.complete, row.status) == (False, "untrusted")
    fingerprint = sshsig.fingerprint(KEYS.public)
    assert row.note == f"signed by {fingerprint}, which nothing here vouches for"
    (sealed,) = repo.listed([remote], Keys().keyring()).backups
    (row,) = listing._rows([sealed])
    assert (row.status, row.dataset, row.note) == ("sealed", "", "no key here opens it")


def test_claims_cover_every_status() -> None:
    assert set(catalog._CLAIMS) == set(catalog.Status.__args__)  # type: ignore[attr-defined]


# --- the older tool -------------------------------------------------------------------------------


def test_backups_of_the_older_tool() -> None:
    remote = MemoryRemote("one")
    names = [
        "tank_photos:auto-2024-s001-b0000000000.zfs.gz.age",
        "tank_photos:auto-2024-s002-b1073741824.zfs.gz.age",
        "tank_photos:auto-2024-s003-b00000000002147483648.zfs.gz.age",
        "tank_photos:older-s001.zfs.gz.age",
        "tank_my.data-x_y:a:b-s001-s1234-b0000000000.zfs.gz.age",
    ]
    foreign = [
        "tank_photos:auto-2024-s001-b000000000.zfs.gz.age",
        "tank_photos:auto-2024-s001-b00000000000.zfs.gz.age",
        "tank_photos:auto-2024-s01.zfs.gz.age",
        "tank_photos:auto-2024-s001.zfs.gz",
        "tank_photos-s001.zfs.gz.age",
        "tank/x:a-s001.zfs.gz.age",
        ":a-s001.zfs.gz.age",
        "-rf:a-s001.zfs.gz.age",
        "tank:a-s001.zfs.gz.age\n",
        "\ntank:a-s001.zfs.gz.age",
        "tank:\u0662-s\u0660\u0660\u0661.zfs.gz.age",
        "tank:a b-s001.zfs.gz.age",
        "holiday.jpg",
        "offsite/FORMAT",
    ]
    remote.objects = dict.fromkeys(names + foreign, b"12345")
    found = legacy.read([remote], Silent())
    assert [(one.dataset, one.snapshot, len(one.shards), one.stored_bytes) for one in found] == [
        ("tank_my.data-x_y", "a:b-s001", 1, 5),
        ("tank_photos", "auto-2024", 3, 15),
        ("tank_photos", "older", 1, 5),
    ]


def test_rows_of_the_older_tool() -> None:
    remote = MemoryRemote("one")
    remote.objects["tank_photos:older-s001.zfs.gz.age"] = b"12345"
    broken = Broken("bad", ProviderError("no route"))
    rows, problems = listing._legacy_rows([remote, broken], Silent(), None)
    (row,) = rows
    assert (row.id, row.status, row.complete) == ("tank_photos@older", "legacy", False)
    assert (row.chunks, row.stored_bytes, row.providers) == (1, 5, ("one",))
    assert problems == {"bad": "no route"}
