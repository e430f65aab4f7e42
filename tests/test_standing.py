"""Which backup a run goes on with, which it refuses to, and what giving one up deletes."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from offsite import choosing, config, leftovers, repository, standing
from offsite.catalog import Backup
from offsite.chain import Names
from offsite.errors import ProviderError, UsageError
from offsite.journal import Journal
from offsite.manifest import Base, Manifest
from offsite.member import Member, Wish
from offsite.repository import Signed, object_path
from offsite.standing import Standing
from offsite.tasks import Source
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from tests import repo
from tests.interrupted import DATASET, Provider, Told

OURS, THEIRS = "12" * 32, "34" * 32
MONDAY = repo.snapshot("monday", 101, 1000)
TUESDAY = repo.snapshot("tuesday", 102, 2000)
WEDNESDAY = repo.snapshot("wednesday", 103, 3000)


def made_of(
    snapshot: Snapshot,
    number: int,
    *,
    label: str | None = None,
    recipients: str = OURS,
    **more: int,
) -> Backup:
    """An unfinished backup; ``number`` makes its id."""
    backup_id = f"20260117t120000-{number:016x}"
    head = repo.head(snapshot, backup_id)
    facts = msgspec.structs.replace(head.snapshot, name=label or snapshot.name)
    dataset = msgspec.structs.replace(head.dataset, guid=more.get("guid", DATASET.guid))
    head = msgspec.structs.replace(head, snapshot=facts, dataset=dataset, recipients=recipients)
    return Backup(backup_id, "unfinished", ("one",), head, held=more.get("held", 5))


def on(one: Backup, base: Snapshot) -> Backup:
    """As an increment."""
    assert one.head is not None
    facts = Base(base.guid, base.name, "20260117t120000-000000000000000f")
    return replace(one, head=msgspec.structs.replace(one.head, base=facts))


SIGNER = repo.Keys().public


def complete(one: Backup) -> Backup:
    assert one.head is not None
    signed = Manifest(
        format=1, head=one.head, finished="2026-01-17T12:00:00Z", chunks=1, stream_bytes=1,
        stored_bytes=1, indexes=[],
    )  # fmt: skip
    told = Signed(signed, SIGNER, "trusted", sha256=one.id[-16:] * 4)
    return replace(one, status="complete", signed=told)


def known(*backups: Backup) -> Standing:
    """As the catalog lists them, by id."""
    return Standing.of(sorted(backups, key=lambda one: one.id), DATASET, OURS)


def begun(told: Told, *backups: Backup, label: str = "monday") -> Backup | None:
    return next(iter(known(*backups).begun(MONDAY, label, told)), None)


# --- a snapshot that is named ---------------------------------------------------------------------


def test_the_same_snapshot_under_the_same_name() -> None:
    one = made_of(MONDAY, 1)
    assert begun(Told(), one) == one
    assert begun(Told(), one, label="other") is None
    assert begun(Told(), made_of(MONDAY, 1, label="other")) is None
    assert begun(Told(), made_of(TUESDAY, 1, label="monday")) is None
    assert begun(Told(), made_of(MONDAY, 1, guid=6666)) is None
    assert begun(Told(), complete(one)) is None


def test_one_that_nobody_may_go_on_with() -> None:
    """A stranger's, or one that was cut before it began, as the catalog notes."""
    noted = replace(made_of(MONDAY, 1), note="signer not known here")
    damaged = replace(made_of(MONDAY, 2), status="damaged")
    told = Told()
    assert begun(told, noted, damaged, replace(noted, head=None)) is None
    (warning,) = told.warnings
    assert f"{noted.id} is left as it is, and a new one begins: signer not known here" in warning
    told = Told()
    assert begun(told, noted, made_of(MONDAY, 3)) is not None
    assert begun(told, noted, label="other") is None
    assert told.warnings == []


def test_of_several_the_one_that_has_most() -> None:
    few, most, late = (made_of(MONDAY, n, held=held) for n, held in enumerate((3, 9, 9)))
    assert begun(Told(), few, most) == most
    assert begun(Told(), few, most, late) == late


def test_sealed_for_others() -> None:
    told, other = Told(), made_of(MONDAY, 1, recipients=THEIRS, held=500)
    assert begun(told, other) is None
    (warning,) = told.warnings
    assert f"{other.id} was sealed for other keys or recipients" in warning
    assert "a new one begins" in warning


def test_ours_though_there_is_one_sealed_for_others() -> None:
    """Begun because of that very one: it must not begin anew each time."""
    told, ours = Told(), made_of(MONDAY, 2, held=1)
    assert begun(told, made_of(MONDAY, 1, recipients=THEIRS, held=500), ours) == ours
    assert told.warnings == []


def test_complete_already() -> None:
    one = complete(made_of(MONDAY, 1))
    assert known(one).copies(MONDAY, "monday") == [one]
    assert known(one).copies(MONDAY, "other") == []
    assert known(one).copies(TUESDAY, "monday") == []
    assert known(made_of(MONDAY, 1)).copies(MONDAY, "monday") == []
    assert known(one, made_of(MONDAY, 2)).copies(MONDAY, "monday") == [one]
    newer = complete(made_of(MONDAY, 3))
    assert known(one, newer).copies(MONDAY, "monday") == [newer, one]


def test_a_part_where_nothing_newer_is() -> None:
    def there(number: int, snapshot: Snapshot, on: list[str], behind: list[str]) -> Backup:
        one = complete(made_of(snapshot, number))
        return replace(one, providers=tuple(on), behind=tuple(behind))

    monday = there(1, MONDAY, ["one"], ["two", "three"])
    tuesday = there(2, TUESDAY, ["one", "three"], ["two"])
    assert known(monday).late() == [(monday, {"two", "three"})]
    assert known(monday, tuesday).late() == [(monday, {"two"}), (tuesday, {"two"})]
    others = there(3, WEDNESDAY, ["two", "three"], [])
    assert known(monday, tuesday, others).late() == []
    theirs = replace(complete(made_of(MONDAY, 1, recipients=THEIRS)), behind=("two",))
    assert known(theirs).late() == []


def test_the_manifest_before_is_the_newest() -> None:
    backups = [complete(made_of(MONDAY, n)) for n in (1, 2)]
    assert known(*backups, made_of(TUESDAY, 3)).previous == f"{2:016x}" * 4
    assert known(made_of(TUESDAY, 3)).previous is None


@pytest.mark.parametrize("there", [None, repo.snapshot("monday", 999, 4000)])
def test_its_snapshot_is_gone(there: Snapshot | None) -> None:
    """Destroyed, or destroyed and made anew: nobody can finish it."""
    lost = known(made_of(MONDAY, 1, held=7))
    with pytest.raises(UsageError, match=r"its snapshot tank/photos@monday is gone .7 chunks") as e:
        lost.refuse_lost(there, "monday")
    assert e.value.hint is not None
    assert "--restart" in e.value.hint
    lost.refuse_lost(there, "other")
    lost.refuse_lost(MONDAY, "monday")


# --- no snapshot is named -------------------------------------------------------------------------


def interrupted(told: Told, snapshots: Sequence[Snapshot], *backups: Backup) -> Backup | None:
    points = {snapshot.guid for snapshot in snapshots}
    return known(*backups).interrupted(snapshots, points, told)


def test_the_newest_interrupted_one() -> None:
    told, days = Told(), [MONDAY, TUESDAY, WEDNESDAY]
    old, new = made_of(MONDAY, 2, held=500), made_of(TUESDAY, 1, held=3)
    assert interrupted(told, days, old, new) == new
    assert interrupted(told, days, old) == old
    more = made_of(TUESDAY, 0, held=4)
    assert interrupted(told, days, old, new, more) == more
    assert interrupted(told, days) is None
    assert told.warnings == []


def test_not_one_that_is_older_than_a_complete_one() -> None:
    told, days = Told(), [MONDAY, TUESDAY, WEDNESDAY]
    done = complete(made_of(TUESDAY, 5))
    assert interrupted(told, days, made_of(MONDAY, 1), done) is None
    assert interrupted(told, days, made_of(TUESDAY, 1), done) is None
    new = made_of(WEDNESDAY, 1)
    assert interrupted(told, days, made_of(MONDAY, 2, held=99), new, done) == new
    assert interrupted(told, [TUESDAY], made_of(MONDAY, 1), done) is None
    assert told.warnings == []


def test_one_that_nobody_may_go_on_with_is_told() -> None:
    """Unless there is another one, or a newer one is complete."""
    noted = replace(made_of(TUESDAY, 1), note="signer not known here")
    days, told = [MONDAY, TUESDAY, WEDNESDAY], Told()
    assert interrupted(told, days, noted) is None
    (warning,) = told.warnings
    assert "a new one begins: signer not known here" in warning
    told, old = Told(), made_of(MONDAY, 2)
    assert interrupted(told, days, noted, old) == old
    assert interrupted(told, days, noted, complete(made_of(WEDNESDAY, 3))) is None
    assert told.warnings == []


def test_one_that_lost_its_snapshot_is_told() -> None:
    told = Told()
    assert interrupted(told, [MONDAY], made_of(TUESDAY, 1)) is None
    (warning,) = told.warnings
    assert "tank/photos@tuesday is gone" in warning
    assert warning.endswith("; a new backup begins")


def test_one_that_lost_its_snapshot_and_one_that_did_not() -> None:
    told, old = Told(), made_of(MONDAY, 1)
    assert interrupted(told, [MONDAY], made_of(TUESDAY, 2, held=99), old) == old
    (warning,) = told.warnings
    assert "tank/photos@tuesday is gone" in warning
    assert "begins" not in warning


# --- as a run chooses -----------------------------------------------------------------------------

_ZFS = """\
for name; do :; done
case "$*" in
"snapshot "*) echo "$name" >> '{made}' ;;
"list -t snapshot -d 1 "*) cat '{rows}' ;;
"list -t snapshot,bookmark "*) cat '{rows}' ;;
"list -t snapshot "*) grep "^$name	" '{rows}' || {{
    grep -q "^$name$" '{made}' && printf '%s\\t999\\t9000\\t1768651200\\n' "$name" || {{
        echo "cannot open '$name': dataset does not exist" >&2; exit 1; }}; }} ;;
esac
"""


def pool_of(folder: Path, *snapshots: Snapshot) -> Zfs:
    """A zfs that has these snapshots, and those that it is asked to make."""
    rows, made = folder / "rows", folder / "made"
    lines = [f"{s.full_name}\t{s.guid}\t{s.createtxg}\t{s.creation}\n" for s in snapshots]
    rows.write_text("".join(lines))
    made.write_text("")
    return Zfs(command=("/bin/sh", "-c", _ZFS.format(rows=rows, made=made), "zfs"))


def chosen(
    zfs: Zfs, told: Told, name: str | None, *backups: Backup
) -> tuple[Snapshot, Backup | None]:
    wanted = name or "auto-20260118"
    names = Names(wanted, given=name is not None)
    source = choosing.choose(zfs, known(*backups), names, told, lambda _: None)
    begun = known(*backups).begun(source.snapshot, source.label, told)
    return source.snapshot, next(iter(begun), None)


def test_a_run_without_a_name_goes_on_with_what_was_interrupted(tmp_path: Path) -> None:
    zfs, one = pool_of(tmp_path, MONDAY, TUESDAY), made_of(TUESDAY, 1)
    assert chosen(zfs, Told(), None, made_of(MONDAY, 2), one) == (TUESDAY, one)
    assert (tmp_path / "made").read_text() == ""


def test_a_run_without_a_name_and_nothing_to_go_on_with(tmp_path: Path) -> None:
    zfs, told = pool_of(tmp_path, MONDAY), Told()
    snapshot, found = chosen(zfs, told, None, complete(made_of(MONDAY, 1)), made_of(TUESDAY, 2))
    assert (snapshot.name, snapshot.guid, found) == ("auto-20260118", 999, None)
    assert "tank/photos@tuesday is gone" in told.warnings[0]


def test_a_run_without_a_name_for_other_recipients(tmp_path: Path) -> None:
    zfs, told = pool_of(tmp_path, MONDAY), Told()
    snapshot, found = chosen(zfs, told, None, made_of(MONDAY, 1, recipients=THEIRS))
    assert (snapshot.name, found) == ("auto-20260118", None)
    assert "for other keys or recipients" in told.warnings[0]


def test_a_run_without_a_name_and_a_base_that_is_gone(tmp_path: Path) -> None:
    """Every run of cron would fail; what was begun before that goes on, if it can."""
    zfs, told = pool_of(tmp_path, MONDAY, TUESDAY), Told()
    lost, old = on(made_of(TUESDAY, 1), WEDNESDAY), on(made_of(MONDAY, 2), TUESDAY)
    assert chosen(zfs, told, None, lost)[0].name == "auto-20260118"
    (warning,) = told.warnings
    assert warning.endswith(
        "its base tank/photos@wednesday is gone (5 chunks of it are kept); a new backup begins"
    )
    told = Told()
    assert chosen(zfs, told, None, lost, old) == (MONDAY, old)
    (warning,) = told.warnings
    assert warning.endswith("(5 chunks of it are kept)")


def test_a_run_with_a_name(tmp_path: Path) -> None:
    zfs, one = pool_of(tmp_path, MONDAY, TUESDAY), made_of(MONDAY, 1)
    assert chosen(zfs, Told(), "monday", one, made_of(TUESDAY, 2)) == (MONDAY, one)
    assert chosen(zfs, Told(), "tuesday", one) == (TUESDAY, None)
    with pytest.raises(UsageError, match="tank/photos@wednesday is gone"):
        chosen(zfs, Told(), "wednesday", made_of(WEDNESDAY, 1))
    assert (tmp_path / "made").read_text() == ""


# --- the snapshots in between ---------------------------------------------------------------------


def between(
    folder: Path, patch: pytest.MonkeyPatch, there: dict[str, Sequence[Snapshot]], wish: Wish
) -> list[tuple[str, list[str]]]:
    """What of three days goes where before the last one, if the providers have these."""
    author = repo.Keys().author
    ours = author.documents.fingerprint
    backups = [
        replace(complete(made_of(day, number, recipients=ours)), providers=tuple(names))
        for number, day in enumerate((MONDAY, TUESDAY, WEDNESDAY))
        if (names := [name for name, days in there.items() if day in days])
    ]
    patch.setattr(repository, "is_held", lambda *_: True)
    days = (MONDAY, TUESDAY, WEDNESDAY)
    member = Member(
        config=config.load({"HOME": "/nowhere", "ONE_REMOTE": "/one"}),
        wish=wish,
        zfs=pool_of(folder, *days),
        dataset=DATASET,
        author=author,
        names=Names("wednesday", given=True),
        everywhere=frozenset(there),
        progress=Told(),
        stop=threading.Event(),
    )
    points = tuple(Point(day.full_name, day.guid, day.createtxg) for day in days)
    source = Source(WEDNESDAY, "wednesday", points, given=True)
    remotes = [Provider(name) for name in there]
    found = choosing.between(member, Standing.of(backups, DATASET, ours), source, remotes)
    assert all(one.label == one.snapshot.name for one, _ in found)
    return [(one.label, [remote.name for remote in those]) for one, those in found]


@pytest.mark.parametrize(
    ("one", "two", "full", "found"),
    [
        ([], [], False, {"monday": ["one", "two"], "tuesday": ["one", "two"]}),
        ([MONDAY], [], False, {"monday": ["two"], "tuesday": ["one", "two"]}),
        ([MONDAY], [MONDAY, TUESDAY], False, {"tuesday": ["one"]}),
        ([MONDAY], [], True, {"monday": ["two"], "tuesday": ["one", "two"]}),
        ([MONDAY], [WEDNESDAY], False, {"tuesday": ["one"]}),
    ],
)
def test_each_provider_gets_what_is_newer_than_its_newest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one: Sequence[Snapshot],
    two: Sequence[Snapshot],
    *,
    full: bool,
    found: dict[str, list[str]],
) -> None:
    """Also where the newest is no base, for a full backup is due; and oldest first."""
    there = {"one": one, "two": two}
    assert between(tmp_path, monkeypatch, there, Wish(full=full)) == [*found.items()]


# --- giving up ------------------------------------------------------------------------------------


class Ordered(Provider):
    """Remembers what was deleted, in order."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.deleted: list[str] = []
        self.error: Exception | None = None  # type: ignore[assignment]

    def delete(self, path: str) -> None:
        if self.error:
            raise self.error
        self.deleted.append(path.rpartition("/")[2])
        super().delete(path)


def filled(name: str) -> Ordered:
    remote = Ordered(name)
    for number in (1, 2):
        one = made_of(MONDAY, number)
        for each in ("index-00000.age", "index-00001.age", repository.chunk_name(0)):
            remote.objects[object_path(one.id, each)] = b"x"
    remote.objects["offsite/FORMAT"] = b"x"
    return remote


@pytest.fixture
def journals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Journal]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    made = [Journal(made_of(MONDAY, number).id) for number in (1, 2)]
    for one in made:
        one.begin(None, [])
    return made


def test_giving_up_deletes_that_backup_s_objects_only(journals: list[Journal]) -> None:
    """Index 0 goes last: of what is left of a deletion it tells whose it is."""
    remotes, given_up = [filled("one"), filled("two")], made_of(MONDAY, 1)
    standing.give_up(given_up, remotes, told := Told())
    for remote in remotes:
        assert remote.deleted == [repository.chunk_name(0), "index-00001.age", "index-00000.age"]
        assert len(remote.objects) == 4
        assert not [path for path in remote.objects if given_up.id in path]
    assert [one.path.exists() for one in journals] == [False, True]
    assert told.infos == [f"Giving up the unfinished backup {given_up.id}"]
    assert told.warnings == []


def test_a_provider_that_does_not_delete_is_told(journals: list[Journal]) -> None:
    locked, other = filled("locked"), filled("other")
    locked.error = ProviderError("locked")
    standing.give_up(made_of(MONDAY, 1), [locked, other], told := Told())
    (warning,) = told.warnings
    assert warning == f"locked keeps objects of {made_of(MONDAY, 1).id}: locked"
    assert len(other.objects) == 4


def test_what_restart_gives_up(journals: list[Journal]) -> None:
    """What was named, or all that is unfinished; never what is complete."""
    monday, other = made_of(MONDAY, 1), made_of(TUESDAY, 2)
    all_of_them = known(monday, other, complete(made_of(WEDNESDAY, 3)))
    for name, gone in (("monday", [monday]), (None, [monday, other]), ("sunday", [])):
        remote, told = filled("one"), Told()
        left = leftovers.give_up(all_of_them, name, [remote], told)
        assert list(left.unfinished) == [one for one in (monday, other) if one not in gone]
        assert left.complete == all_of_them.complete
        ids = {path.split("/")[2] for path in remote.objects if "backups" in path}
        assert ids == {one.id for one in left.unfinished}
