"""The machine dies at any point of the commit order; what is left is told as it is, and finished.

Chunks, indexes, manifest, on two providers, and the journal beside them: at each of these changes
the whole command is killed. Then --list must tell the truth, a restore must not be offered what is
not whole, and the same command must end with the same bytes everywhere.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from offsite import config, lock
from offsite.repository import MANIFEST
from tests.life import BACKUP, BOTH, MONDAY, NAMES, OPENING, SIZE, SUNDAY, Life, life, objects
from tests.storage.memory import MemoryRemote
from tests.thorough import some
from tests.whole import DATASET

pytest_plugins = ["tests.storage.fixtures"]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Life]:
    stores = [MemoryRemote(name) for name in BOTH]
    with life(tmp_path_factory.mktemp("life") / "home", stores, sunday=True) as made:
        yield made


@pytest.fixture
def here(lived: Life) -> Life:
    lived.world.leader, lived.world.down = "one", set()
    return lived


def nothing() -> None:
    """What happened before: nothing."""


def die_everywhere(
    here: Life,
    command: tuple[str, ...],
    *,
    before: Callable[[], object] = nothing,
    torn: float | None = None,
    again: bool = False,
) -> list[str]:
    """Run ``command``, then again and again, each time dead after one of its changes; these.

    In between: what is there is told, perhaps another run dies, too, and the backup is finished; of
    two deaths one takes the journal along.
    """
    here.begin()
    before()
    assert here.run(*command, torn=torn)
    here.check_whole()
    changes = here.world.changes
    for n, end in enumerate(some(range(len(changes)))):
        here.begin()
        before()
        if here.run(*command, end=end, torn=torn):
            break  # no life is quite like the other: what came before left more to this one
        here.check_told()
        if n % 2 == (here.world.leader == "two"):
            here.lose_journals()
        if again:
            here.run(*BACKUP, end=2 + 5 * end % 13)
            here.check_told()
        assert here.run(*BACKUP)
        here.check_whole()
    here.check_whole()
    return changes


# --- a new backup ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("leader", "torn", "again"),
    [
        pytest.param("one", None, True, marks=pytest.mark.soak),
        ("two", None, False),
        pytest.param("one", 0.0, False, marks=pytest.mark.soak),
    ],
)
def test_in_a_new_backup(here: Life, leader: str, torn: float | None, *, again: bool) -> None:
    """Also where a change that was not finished leaves an empty object, as local folders do."""
    here.world.leader = leader
    changes = die_everywhere(here, BACKUP, torn=torn, again=again)
    follower = "one" if leader == "two" else "two"
    manifests = [f"{leader}: {MANIFEST}", f"{follower}: {MANIFEST}"]
    assert changes[-3:] == [*manifests, "journal: remove"]
    assert len(changes) > 2 * len(NAMES)


@pytest.mark.parametrize("providers", ["one", "one,two"])
def test_a_document_cut_in_the_middle(here: Life, providers: str) -> None:
    """Nobody could tell from a damaged one, so that is what it is called; and the run goes on."""
    here.begin()
    command = (*BACKUP, "--provider", providers)
    assert here.run(*command)
    changes = here.world.changes
    for end in some([n for n, what in enumerate(changes) if MANIFEST in what or "index-" in what]):
        here.begin()
        here.run(*command, end=end, torn=0.5)
        (row,) = here.rows()
        told = {MANIFEST: "damaged", OPENING: "unfinished"}
        name = changes[end].removeprefix("one: ").removeprefix("two: ")
        expected = told.get(name, "unfinished")
        if changes[end] == f"two: {MANIFEST}":
            expected = "complete"
        assert row["status"] == expected
        here.check_offered(complete=expected == "complete")
        if name != OPENING:
            (backup_id,) = here.held()
        assert here.run(*BACKUP)
        here.check_whole()
        if name != OPENING:
            assert list(here.held()) == [backup_id]


# --- one that goes on -----------------------------------------------------------------------------


def test_in_a_backup_that_goes_on(here: Life) -> None:
    die_everywhere(here, BACKUP, before=lambda: here.run(*BACKUP, end=14))


def test_while_a_provider_catches_up(here: Life) -> None:
    """It has nothing of what another run began on the other one."""
    command = (*BACKUP, "--provider", "one")
    changes = die_everywhere(here, BACKUP, before=lambda: here.run(*command, end=10))
    assert "two: chunk-00000000.zfs.zst.age" in changes
    assert "one: chunk-00000000.zfs.zst.age" not in changes


def test_while_a_complete_backup_is_copied(here: Life) -> None:
    """The other provider has none of it, or all but the manifest."""
    changes = die_everywhere(here, BACKUP, before=lambda: here.run(*BACKUP, "--provider", "one"))
    assert sorted(changes) == sorted(f"two: {name}" for name in NAMES)
    assert changes[-1] == f"two: {MANIFEST}"


# --- one that is given up -------------------------------------------------------------------------


@pytest.mark.parametrize("leader", ["one", pytest.param("two", marks=pytest.mark.soak)])
def test_while_an_unfinished_backup_is_given_up(here: Life, leader: str) -> None:
    """Index 0 goes last: until then it is known whose chunks these are, and they can go on."""
    here.world.leader = leader
    changes = die_everywhere(here, (*BACKUP, "--restart"), before=lambda: here.run(*BACKUP, end=17))
    gone = [what for what in changes if what.endswith("deleted")]
    assert len(gone) > 10
    openings = [f"{name}: {OPENING} deleted" for name in BOTH]
    assert gone[-2:] == openings
    first = changes.index(openings[0])
    assert changes[first - 1 : first + 2] == ["journal: remove", *openings]
    for name in BOTH:
        mine = [what for what in gone if what.startswith(name)]
        assert mine[-1] == f"{name}: {OPENING} deleted"
        assert [OPENING in what for what in mine].count(True) == 1


# --- one provider at a time -----------------------------------------------------------------------


def complete_on_one(here: Life) -> None:
    """Interrupted on both, then finished on one of them alone."""
    here.world.leader = "one"
    here.run(*BACKUP, end=14)
    assert here.run(*BACKUP, "--provider", "one")
    here.world.leader = "two"


def test_while_one_provider_is_given_what_is_complete_on_another(here: Life) -> None:
    """Not sent again: one id, signed twice, would be two different backups."""
    command = (*BACKUP, "--provider", "two")
    changes = die_everywhere(here, command, before=lambda: complete_on_one(here))
    assert changes[-1] == f"two: {MANIFEST}"
    assert not any(what.startswith("journal") for what in changes)


def test_a_backup_that_may_be_complete_elsewhere_is_left_as_it_is(here: Life) -> None:
    here.begin()
    complete_on_one(here)
    (begun,) = here.held()
    here.world.down = {"one"}
    for command in (BACKUP, (*BACKUP, "--provider", "two")):
        before = {name: objects(store) for name, store in here.world.stores.items()}
        ran = here.home.offsite(*command)
        assert ran.status == (3 if command == BACKUP else 0)
        if command == BACKUP:
            assert f"{begun} is left as it is" in ran.stderr
            assert "it may be complete on one" in ran.stderr
        for name, store in here.world.stores.items():
            after = objects(store)
            assert {path: after[path] for path in before[name]} == before[name]
        here.check_offered(complete=True)
    here.world.down = set()
    rows = {row["id"]: row for row in here.rows()}
    assert rows.pop(begun)["providers"] == ["one"]
    (other,) = rows.values()
    assert (other["status"], other["providers"]) == ("complete", ["two"])
    assert here.run(*BACKUP)
    assert here.world.changes == []


def test_a_rehearsal_without_a_provider(here: Life) -> None:
    """It ends as the backup would."""
    here.begin()
    here.world.down = {"one"}
    command = (*BACKUP, "--dry-run")
    ran = here.home.offsite(*command, "--json")
    assert ran.status == 3
    (result,) = ran.json["backups"]
    assert (result["providers"], result["failed"]) == (["two"], {"one": "it cannot be reached"})
    assert "Not on one: it cannot be reached" in here.home.offsite(*command).stdout


@pytest.mark.parametrize("lost", [True, False])
def test_what_this_machine_alone_began_goes_on_though_a_provider_is_down(
    here: Life, *, lost: bool
) -> None:
    """Its journal tells that nobody has signed it."""
    here.begin()
    here.run(*BACKUP, end=14)
    (begun,) = here.held()
    if lost:
        here.lose_journals()
    here.world.down, here.world.leader = {"one"}, "two"
    assert here.home.offsite(*BACKUP).status == 3
    here.world.down = set()
    done = {row["id"] for row in here.rows() if row["complete"]}
    assert (done == {begun}) is not lost


def test_a_rehearsal_of_what_was_begun(here: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its own chunks, whatever their size is to be now."""
    here.begin()
    here.run(*BACKUP, end=8)
    (begun,) = here.held()
    monkeypatch.setattr(config, "_CHUNK_SIZES", (1, 64 << 20))
    monkeypatch.setenv("SHARD_SIZE", "64M")
    plan = here.home.offsite(*BACKUP, "--dry-run", "--json").json["backup"]
    assert plan["backup_id"] == begun
    assert 0 < plan["resumed_chunks"] < plan["chunks"]
    assert plan["chunks"] == -(-plan["stream_bytes"] // SIZE)


def test_another_run_goes_on_with_it(here: Life) -> None:
    """For another provider, so that their locks do not meet; a rehearsal is no such run."""
    here.begin()
    here.run(*BACKUP, end=14)
    (begun,) = here.held()
    here.world.leader = "two"
    with lock.hold("resume", begun, [""]):
        rehearsed = here.home.offsite(*BACKUP, "--provider", "two", "--dry-run", "--json")
        assert rehearsed.json["backup"]["backup_id"] == begun
        ran = here.home.offsite(*BACKUP, "--provider", "two")
    assert "a new one begins: another offsite goes on with it" in ran.stderr
    assert begun not in {row["id"] for row in here.rows() if row["complete"]}


def killed_and_holding(here: Life) -> list[str]:
    """The tags that a run leaves which gets SIGKILL."""
    here.begin()
    here.run(*BACKUP, end=14)
    tags = [f"offsite:{socket.gethostname()}:{name}" for name in BOTH]
    holds = here.home.folder / "holds"
    holds.write_text("".join(f"{MONDAY}\t{tag}\tnow\n" for tag in tags))
    return tags


def test_the_holds_of_a_run_that_was_killed(here: Life) -> None:
    """Whoever goes on for one provider lets go of its hold only, a later run for the other."""
    tags = killed_and_holding(here)
    assert here.run(*BACKUP, "--provider", "one")
    assert here.home.holds == tags[1:]
    here.world.leader = "two"
    assert here.run("--backup", SUNDAY)
    assert here.home.holds == []
    assert here.home.journals == []


def test_the_holds_of_what_is_given_up(here: Life) -> None:
    killed_and_holding(here)
    assert here.run("--backup", DATASET, "--restart")
    assert here.home.holds == []


def test_killed_between_two_manifests_and_the_first_is_down(here: Life) -> None:
    """Its journal is there, and tells that somebody may have signed it."""
    here.begin()
    assert here.run(*BACKUP)
    end = here.world.changes.index(f"two: {MANIFEST}")
    here.begin()
    here.run(*BACKUP, end=end)
    (begun,) = here.held()
    here.world.down, here.world.leader = {"one"}, "two"
    assert here.home.offsite(*BACKUP).status == 3
    here.world.down = set()
    rows = {row["id"]: row["providers"] for row in here.rows() if row["complete"]}
    assert rows.pop(begun) == ["one"]
    assert list(rows.values()) == [["two"]]
