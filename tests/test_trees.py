"""What a restore of a dataset and all below it means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from offsite import sshsig, trees
from offsite.catalog import Backup
from offsite.errors import IntegrityError, UsageError
from offsite.manifest import DatasetFacts, Property, SetFacts
from offsite.trees import Tree
from tests import repo
from tests.test_standing import complete

GUIDS = {"tank": 1, "tank/a": 2, "tank/a/x": 3, "tank/b": 4, "tank-old": 5}
THREE = ("tank", "tank/a", "tank/b")
ALL = ("tank", "tank/a", "tank/a/x", "tank/b")


def made(
    dataset: str,
    day: int,
    label: str,
    *,
    of: SetFacts | None = None,
    host: str = "nas",
    pool: int = 0,
    createtxg: int = 0,
) -> Backup:
    """A complete backup, by default of the 100th transaction group of that day."""
    guid = 1000 * pool + GUIDS[dataset]
    snapshot = replace(repo.snapshot(label, 100 * day + guid), dataset=dataset)
    backup_id = f"202601{day:02}t120000-{guid:016x}"
    head = repo.head(snapshot, backup_id, host=host)
    head = msgspec.structs.replace(
        head,
        dataset=DatasetFacts(dataset, guid, "filesystem"),
        snapshot=msgspec.structs.replace(
            head.snapshot,
            created=f"2026-01-{day:02}T12:00:00Z",
            createtxg=createtxg or 100 * day,
        ),
        set=of or msgspec.UNSET,
    )
    return complete(Backup(backup_id, "unfinished", ("one",), head))


def facts(day: int, members: int, root: str = "tank", pool: int = 0) -> SetFacts:
    return SetFacts(f"{1000 * pool + day:016x}", root, 1000 * pool + GUIDS[root], members)


def set_of(
    day: int,
    names: Sequence[str] = THREE,
    members: int = 3,
    *,
    root: str = "tank",
    label: str = "",
    host: str = "nas",
    pool: int = 0,
    createtxg: int = 0,
) -> list[Backup]:
    """The backups that there are of a set of so many members; its name tells the day."""
    shared, label = facts(day, members, root, pool), label or f"day-{day}"
    return [
        made(name, day, label, of=shared, host=host, pool=pool, createtxg=createtxg)
        for name in names
    ]


def choose(
    *backups: Backup,
    root: str = "tank",
    point: str | None = None,
    host: str | None = None,
    at: datetime | None = None,
) -> Tree:
    """However the catalog sorts them."""
    there = sorted(backups, key=lambda one: one.id)
    tree = trees.choose(there, root, point, host, at)
    assert trees.choose(there[::-1], root, point, host, at) == tree
    return tree


def told(tree: Tree) -> dict[str, str]:
    """The snapshots by dataset, in the tree's order."""
    return {one.manifest.head.dataset.name: one.manifest.head.snapshot.name for one in tree.members}


# --- no name is given -----------------------------------------------------------------------------


@pytest.mark.parametrize("point", [None, "latest"])
def test_the_newest_set(point: str | None) -> None:
    tree = choose(*set_of(1), *set_of(3), *set_of(2), point=point)
    assert (told(tree), "; ".join(tree.warnings)) == (dict.fromkeys(THREE, "day-3"), "")
    assert tree.root == "tank"


def test_the_newest_not_after_a_moment() -> None:
    """As if the younger ones were not there, when a set is looked at for being whole, too."""
    there = [*set_of(1), *set_of(2, THREE[:2]), *set_of(3), made("tank/a/x", 4, "alone")]

    def at(day: int, hour: int) -> Tree:
        return choose(*there, at=datetime(2026, 1, day, hour, tzinfo=UTC))

    assert told(at(3, 12)) == dict.fromkeys(THREE, "day-3")
    tree = at(3, 11)
    assert told(tree) == dict.fromkeys(THREE, "day-1")
    assert tree.warnings == ("@day-1 is taken: the newer @day-2 has only 2 of 3 datasets",)
    assert told(at(1, 13)) == dict.fromkeys(THREE, "day-1")
    with pytest.raises(UsageError, match="no backup of tank is as old as") as caught:
        at(1, 11)
    assert "the oldest is @day-1" in str(caught.value.hint)
    alone = datetime(2026, 1, 4, 12, tzinfo=UTC)
    assert told(choose(*there, root="tank/a/x", at=alone)) == {"tank/a/x": "alone"}


def test_the_newest_that_is_whole() -> None:
    """And that there is a newer one is told: whoever wants it names it."""
    tree = choose(*set_of(1), *set_of(2), *set_of(3, THREE[:2]))
    assert told(tree) == dict.fromkeys(THREE, "day-2")
    assert tree.warnings == ("@day-2 is taken: the newer @day-3 has only 2 of 3 datasets",)
    unfinished = [replace(one, status="unfinished", signed=None) for one in set_of(3, ["tank/b"])]
    tree = choose(*set_of(2), *set_of(3, THREE[:2]), *unfinished)
    assert told(tree) == dict.fromkeys(THREE, "day-2")
    strangers = [replace(one, status="untrusted") for one in set_of(3)]
    assert told(choose(*set_of(2), *set_of(3, THREE[:2]), strangers[2])) == told(tree)
    assert told(choose(*set_of(2), *strangers)) == told(tree)
    with pytest.raises(UsageError, match="is called @day-3"):
        choose(*set_of(2), *strangers, point="day-3")


def test_a_stranger_is_not_among_the_newest_of_each() -> None:
    stranger = replace(made("tank/b", 3, "x"), status="untrusted")
    assert told(choose(made("tank/b", 2, "y"), stranger)) == {"tank/b": "y"}
    assert told(choose(made("tank", 2, "y"), stranger)) == {"tank": "y"}


def test_a_dataset_that_was_backed_up_twice_does_not_make_a_set_whole() -> None:
    two = set_of(3, THREE[:2])
    again = replace(two[1], id=two[1].id.replace("t12", "t13"))
    assert told(choose(*set_of(2), *two, again)) == dict.fromkeys(THREE, "day-2")


def test_two_backups_of_the_same_snapshot() -> None:
    """The one that was made later."""
    first = made("tank", 1, "s")
    later = replace(first, id=first.id.replace("t12", "t13"))
    assert choose(later, first).members == (later,)


def test_a_set_is_newer_than_a_backup_by_itself() -> None:
    """What belongs together is of one moment."""
    assert told(choose(*set_of(1), made("tank/a", 2, "later"))) == dict.fromkeys(THREE, "day-1")


def test_by_transaction_groups_not_by_the_clock() -> None:
    wrong = set_of(9, createtxg=150)  # the clock was ahead that day
    tree = choose(*set_of(1), *wrong, *set_of(2))
    assert told(tree) == dict.fromkeys(THREE, "day-2")
    wrong_alone = made("tank", 9, "x", createtxg=150)
    assert told(choose(wrong_alone, made("tank", 2, "y"))) == {"tank": "y"}


def test_a_pool_that_was_made_anew() -> None:
    """Its transaction groups count from 1 again; datasets are known by guid."""
    new = set_of(3, pool=1, createtxg=7)
    assert told(choose(*set_of(1), *set_of(2), *new)) == dict.fromkeys(THREE, "day-3")
    assert told(choose(*set_of(2, THREE[:2]), *new[:2])) == dict.fromkeys(THREE[:2], "day-3")


def test_no_set_is_whole() -> None:
    tree = choose(*set_of(1, ["tank", "tank/b"]), *set_of(2, ["tank/a", "tank/b"]))
    assert told(tree) == {"tank": "day-1", "tank/a": "day-2", "tank/b": "day-2"}
    assert "; ".join(tree.warnings) == (
        "no set of tank is whole: the newest backup of each dataset is taken, of 2 different"
        " moments"
    )


def test_there_are_no_sets() -> None:
    one_by_one = [made(name, day, f"x-{day}") for day in (2, 1) for name in THREE]
    tree = choose(*one_by_one)
    assert (told(tree), "; ".join(tree.warnings)) == (dict.fromkeys(THREE, "x-2"), "")
    tree = choose(*one_by_one, made("tank/b", 3, "x-3"))
    assert told(tree) == {"tank": "x-2", "tank/a": "x-2", "tank/b": "x-3"}
    assert "of 2 different moments" in "; ".join(tree.warnings)


# --- a name is given ------------------------------------------------------------------------------


def test_the_set_of_that_name() -> None:
    tree = choose(*set_of(1), *set_of(2), point="day-1")
    assert (told(tree), "; ".join(tree.warnings)) == (dict.fromkeys(THREE, "day-1"), "")


def test_a_set_of_that_name_that_is_not_whole() -> None:
    tree = choose(*set_of(1), *set_of(2, THREE[:2]), point="day-2")
    assert told(tree) == dict.fromkeys(THREE[:2], "day-2")
    assert "; ".join(tree.warnings) == (
        "of the 3 datasets of tank@day-2 only 2 have a complete backup"
    )


def test_what_is_missing_was_backed_up_by_itself() -> None:
    alone = made("tank/b", 2, "day-2")
    tree = choose(*set_of(1), *set_of(2, THREE[:2]), alone, point="day-2")
    assert (told(tree), "; ".join(tree.warnings)) == (dict.fromkeys(THREE, "day-2"), "")
    assert tree.members[-1] == alone
    assert told(choose(*set_of(2, THREE[:2]), alone)) == dict.fromkeys(THREE, "day-2")
    later = made("tank/b", 3, "day-3")
    tree = choose(*set_of(2, THREE[:2], 2), later)
    assert told(tree) == dict.fromkeys(THREE[:2], "day-2")
    (warning,) = tree.warnings
    assert warning.startswith("of tank/b there is a newer backup (@day-3) than of all of tank, whi")
    tree = choose(*set_of(2, THREE[:2], 2), later, alone)
    assert told(tree) == dict.fromkeys(THREE, "day-2")


def test_the_sets_own_backup_rather_than_another_of_that_name() -> None:
    (of_set,) = set_of(2, ["tank/b"])
    other = made("tank/b", 3, "day-2")
    tree = choose(*set_of(2, THREE[:2]), of_set, other, point="day-2")
    assert tree.members[-1] == of_set


def test_the_newest_of_two_sets_of_that_name() -> None:
    tree = choose(*set_of(1, label="s"), *set_of(2, label="s"), point="s")
    assert {one.id[:8] for one in tree.members} == {"20260102"}


def test_a_name_without_a_set() -> None:
    one_by_one = [made(name, 1, "s") for name in ("tank/b", "tank")]
    tree = choose(*one_by_one, made("tank/a", 2, "t"), made("tank", 2, "s"), point="s")
    assert (told(tree), "; ".join(tree.warnings)) == ({"tank": "s", "tank/b": "s"}, "")
    assert tree.members[0].id.startswith("20260102")


def test_a_name_that_is_none() -> None:
    many = [made("tank", day, f"s{day}") for day in range(1, 8)]
    with pytest.raises(UsageError, match="no backup of tank or of what is below it is called @no"):
        choose(*many, point="no")
    with pytest.raises(UsageError) as caught:
        choose(*many, point="no")
    assert caught.value.hint == "there are: @s3, @s4, @s5, @s6, @s7"


# --- a part of it ---------------------------------------------------------------------------------


@pytest.mark.parametrize("point", [None, "day-2"])
def test_a_part_of_a_set(point: str | None) -> None:
    """Of the newest whole one; that it is a part is nothing to warn of."""
    both = [*set_of(1, ALL, 4), *set_of(2, ALL, 4), made("tank-old", 2, "day-2")]
    tree = choose(*both, root="tank/a", point=point)
    assert (told(tree), "; ".join(tree.warnings)) == (
        dict.fromkeys(["tank/a", "tank/a/x"], "day-2"),
        "",
    )
    tree = choose(*both, root="tank/b", point=point)
    assert (told(tree), "; ".join(tree.warnings)) == ({"tank/b": "day-2"}, "")


def test_an_id_names_the_set_that_it_is_of() -> None:
    both = [*set_of(1, ALL, 4), *set_of(2, ALL, 4)]
    assert told(choose(*both, point=both[1].id)) == dict.fromkeys(ALL, "day-1")
    with pytest.raises(UsageError, match="is called @20260101"):
        choose(*both, point="20260101")  # of four backups
    with pytest.raises(UsageError, match="@latest-full is for one dataset"):
        choose(*both, point="latest-full")


@pytest.mark.parametrize("lost", ["tank/a", "tank/a/x"])
def test_a_part_in_which_one_failed(lost: str) -> None:
    """The older set has all of it; for another part the newer one is as good as whole."""
    rest = [name for name in ALL if name != lost]
    both = [*set_of(1, ALL, 4), *set_of(2, rest, 4)]
    tree = choose(*both, root="tank/a")
    assert told(tree) == dict.fromkeys(["tank/a", "tank/a/x"], "day-1")
    assert tree.warnings == ("@day-1 is taken: the newer @day-2 has only 3 of 4 datasets",)
    assert told(choose(*both, root="tank/b")) == {"tank/b": "day-2"}


def test_what_was_destroyed_since_is_not_lacking() -> None:
    """The last whole set before tells what there was to be backed up."""
    newer = [*set_of(2, ["tank", "tank/a", "tank/b"], 3), *set_of(3, ["tank", "tank/a"], 3)]
    tree = choose(*set_of(1, ALL, 4), *newer, root="tank/a")
    assert (told(tree), len(tree.warnings)) == ({"tank/a": "day-3"}, 1)


def test_a_set_of_a_part_is_not_the_whole() -> None:
    """It is whole, and newer, but the rest would be missing: so much is told."""
    part = set_of(2, ["tank/a", "tank/a/x"], 2, root="tank/a")
    tree = choose(*set_of(1, ALL, 4), *part)
    assert told(tree) == dict.fromkeys(ALL, "day-1")
    (warning,) = tree.warnings
    assert warning.startswith("of tank/a and 1 more dataset there is a newer backup (@day-2) than")
    assert choose(*set_of(1, ALL, 4), *part, point="day-1").warnings == ()
    tree = choose(*set_of(1, ALL, 4), *part, root="tank/a")
    assert told(tree) == dict.fromkeys(["tank/a", "tank/a/x"], "day-2")
    tree = choose(made("tank", 1, "s"), made("tank/b", 1, "s"), *part)
    assert told(tree) == {"tank": "s", "tank/a": "day-2", "tank/a/x": "day-2", "tank/b": "s"}
    assert "of 2 different moments" in "; ".join(tree.warnings)


def test_a_name_that_two_sets_of_parts_share() -> None:
    a = set_of(1, ["tank/a", "tank/a/x"], 2, root="tank/a", label="s")
    b = set_of(2, ["tank/b"], 1, root="tank/b", label="s")
    assert told(choose(*a, *b, point="s")) == dict.fromkeys(ALL[1:], "s")


def test_only_what_is_below() -> None:
    others = [made("tank-old", 3, "s"), *set_of(1), *set_of(4, ["tank-old"], 1, root="tank-old")]
    assert told(choose(*others)) == dict.fromkeys(THREE, "day-1")
    assert told(choose(*others, root="tank-old")) == {"tank-old": "day-4"}
    one_by_one = [made("tank", 1, "s"), made("tank-old", 1, "s")]
    assert told(choose(*one_by_one)) == told(choose(*one_by_one, point="s")) == {"tank": "s"}
    (moved,) = set_of(5, ["tank-old"], 1)  # of a set of another name, as a rename leaves it
    assert told(choose(moved, made("tank-old", 6, "t"), root="tank-old")) == {"tank-old": "t"}
    with pytest.raises(UsageError, match="no backup of tank/b/x or of what is below it") as caught:
        choose(*others, root="tank/b/x")
    assert caught.value.hint == "see: offsite --list"


# --- several hosts --------------------------------------------------------------------------------


def test_two_hosts() -> None:
    both = [*set_of(1), *set_of(2, host="attic", pool=1)]
    for point in (None, "day-1"):
        with pytest.raises(UsageError, match="2 hosts have backups of tank") as caught:
            choose(*both, point=point)
        assert caught.value.hint == "name one: --host attic"
    assert told(choose(*both, host="nas")) == dict.fromkeys(THREE, "day-1")
    assert told(choose(*both, host="attic")) == dict.fromkeys(THREE, "day-2")
    with pytest.raises(UsageError, match="no backup of tank or of what is below it"):
        choose(*both, host="cellar")
    with pytest.raises(UsageError, match="is called @day-2"):
        choose(*both, host="nas", point="day-2")


def test_all_are_signed_by_a_stranger() -> None:
    """On a new machine that has no allowed_signers: who it is, and what to do."""
    signer = sshsig.public_line(Ed25519PrivateKey.generate())
    strangers = [
        replace(one, status="untrusted", signed=replace(one.signed, signer=signer))
        for one in set_of(1)
        if one.signed
    ]
    with pytest.raises(IntegrityError, match="which nothing here vouches for") as told:
        choose(*strangers)
    assert "--trust-signer SHA256:" in str(told.value.hint)
    tree = choose(*strangers, *set_of(0))
    assert {one.status for one in tree.members} == {"complete"}  # theirs do not count
    assert "is not taken: it is signed by SHA256:" in tree.warnings[-1]  # and are told
    assert choose(*strangers, *set_of(0), point="day-0").warnings == ()
    assert choose(*strangers, *set_of(2, ["tank/b"], 1)).warnings == ()


# --- what becomes of it ---------------------------------------------------------------------------


def test_target_names() -> None:
    tree = choose(*set_of(1, ALL, 4), root="tank/a")
    assert [tree.target(one, "new/home") for one in tree.members] == ["new/home", "new/home/x"]
    tree = choose(*set_of(1, ALL, 4))
    assert [tree.target(one, "tank") for one in tree.members] == [*ALL]
    assert tree.target(tree.members[2], "p") == "p/a/x"


def with_origin(one: Backup, origin: str | None) -> Backup:
    assert one.signed is not None
    properties = {"type": Property("filesystem", "-")}
    if origin is not None:
        properties["origin"] = Property(origin, "-")
    signed = msgspec.structs.replace(one.manifest, properties=properties)
    return replace(one, signed=replace(one.signed, document=signed))


def test_clones() -> None:
    origins = (None, "-", "", "tank/b@s")
    backups = [
        with_origin(one, origin) for one, origin in zip(set_of(1, ALL, 4), origins, strict=True)
    ]
    assert choose(*backups).clones == ["tank/b"]


def test_has_more() -> None:
    root, below, beside = (made(name, 1, "s") for name in ("tank", "tank/a", "tank-old"))
    assert trees.has_more([root, below], "tank")
    assert not trees.has_more([root, beside], "tank")
    assert not trees.has_more([root, below], "tank/a")
    assert not trees.has_more([root, replace(below, status="unfinished")], "tank")
    assert not trees.has_more([root, replace(below, status="untrusted")], "tank")
    assert not trees.has_more([], "tank")
