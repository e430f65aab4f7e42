"""What keeps the next increment's base: bookmarks, else holds; and that only ours are let go of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from offsite import marks
from offsite.errors import UsageError
from offsite.marks import Kept, Marker, Reach
from offsite.zfs import bookmarks
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from tests.interrupted import DATASET, Told
from tests.test_bases import ALL, SNAPSHOTS, stored

_ZFS = """\
for name; do :; done
case "$1" in
list) cat '{folder}/points'; exit ;;
holds) grep "^$name	" '{folder}/holds'; exit 0 ;;
esac
printf '%s\\n' "$*" >> '{folder}/calls'
case "$1" in
{refused}) echo "{says}" >&2; exit {status} ;;
esac
"""
DENIED = "cannot do that: permission denied"
READ_ONLY = "cannot do that: pool is read-only"
BASE = "offsite-base:nas"
E = SNAPSHOTS["e"].full_name


@dataclass(frozen=True)
class Pool:
    """A zfs with these points, which writes down what it is to change."""

    folder: Path
    zfs: Zfs

    @property
    def changes(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []


def pool_of(
    folder: Path, *points: Point, holds: Sequence[str] = (),
    refused: str = "nothing", says: str = DENIED, status: int = 1,
) -> Pool:  # fmt: skip
    rows = [f"{p.full_name}\t{p.guid}\t{p.createtxg}\t{'1' if p.held else '-'}" for p in points]
    (folder / "points").write_text("\n".join(rows))
    (folder / "holds").write_text("".join(f"{one}\tnow\n" for one in holds))
    script = _ZFS.format(folder=folder, refused=refused, says=says, status=status)
    return Pool(folder, Zfs(("/bin/sh", "-c", script, "zfs")))


def snapshot(name: str, *, held: bool = False) -> Point:
    one = SNAPSHOTS[name]
    return Point(one.full_name, one.guid, one.createtxg, held)


def mark(name: str, called: str | None = None) -> Point:
    """The bookmark that its backup left, or one that is ``called`` so."""
    called = called or ours(name)
    return Point(f"{DATASET.name}#{called}", SNAPSHOTS[name].guid, SNAPSHOTS[name].createtxg)


def ours(name: str) -> str:
    return f"offsite-{stored(name).id[-16:]}"


def kept(names: str, *providers: str) -> list[Kept]:
    return [Kept(stored(name).manifest.head, providers or ALL) for name in names]


def reach(*providers: str) -> Reach:
    return Reach("nas", providers, frozenset(ALL))


# --- tidying up -----------------------------------------------------------------------------------


def tidied(
    pool: Pool, there: Sequence[Kept], begun: str = "", providers: Sequence[str] = ALL
) -> Told:
    heads = [stored(name).manifest.head for name in begun]
    facts = (pool.zfs, DATASET.name, there, heads)
    told = Told()
    marks.tidy(*facts, reach=reach(*providers), progress=told)
    return told


def test_only_bookmarks_of_our_backups_are_destroyed(tmp_path: Path) -> None:
    """Neither the user's nor another repository's, whatever they are called."""
    others = [mark("a", "mine"), mark("a", "offsite-ffffffffffffffff"), mark("d", "offsite-")]
    pool = pool_of(tmp_path, *others, *map(mark, "abcd"))
    assert tidied(pool, kept("abcd")).infos == []
    assert pool.changes == [f"destroy {DATASET.name}#{ours(name)}" for name in "ab"]


def test_what_a_provider_that_fell_behind_stands_on_stays(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, *map(mark, "abcd"))
    tidied(pool, [*kept("bcd", "one"), *kept("a", "two")])
    assert pool.changes == [f"destroy {DATASET.name}#{ours('b')}"]


def test_who_reads_some_providers_tidies_what_was_made_for_these(tmp_path: Path) -> None:
    """And nothing that another one may stand on; who reads all, whatever it was made for."""
    points = [mark("a"), mark("a", f"{ours('a')}:one"), mark("b", f"{ours('b')}:one:two")]
    points += [mark("c", f"{ours('c')}:gone"), mark("c", "offsite-ffffffffffffffff:one")]
    pool = pool_of(tmp_path, *points, *map(mark, "de"))
    tidied(pool, kept("abcde", "one"), providers=["one"])
    assert pool.changes == [f"destroy {points[1].full_name}"]
    tidied(pool, kept("abcde"))
    assert pool.changes[1:] == [f"destroy {one.full_name}" for one in points[:4]]


def test_a_bookmark_for_one_keeps_nobody_elses_hold_away(tmp_path: Path) -> None:
    held = snapshot("e", held=True)
    pool = pool_of(tmp_path, held, mark("e", f"{ours('e')}:one"))
    tidied(pool, kept("e"))
    assert pool.changes == []
    tidied(pool_of(tmp_path, held, mark("e")), kept("e"))
    assert pool.changes == [f"release {BASE}:{name} {E}" for name in ALL]


def test_the_name_tells_for_whom_it_was_made(tmp_path: Path) -> None:
    pool, plain = pool_of(tmp_path), f"{DATASET.name}#{ours('e')}"

    def made_for(*providers: str, there: Sequence[Point] = ()) -> None:
        some = Reach("nas", providers, frozenset(("one", "two", "three")))
        Marker(pool.zfs, SNAPSHOTS["e"], there, some, Told()).before(stored("e").id)

    made_for("three", "two", "one")
    made_for("two", "one")
    made_for("three", there=[mark("e", f"{ours('e')}:one:two")])
    made_for("three", there=[mark("e")])  # it keeps it for everybody
    made_for("one", there=[mark("e", f"{ours('e')}:one")])
    assert [line.split()[-1] for line in pool.changes] == [
        plain, f"{plain}:one:two", f"{plain}:three",
    ]  # fmt: skip


def test_where_the_name_would_be_too_long_it_is_for_all() -> None:
    at_most = "tank/" + "x" * (255 - len("tank/#offsite-0123456789abcdef:one"))
    for dataset, some in ((at_most, frozenset({"one"})), (f"{at_most}x", frozenset())):
        name = bookmarks.ours(dataset, "0123456789abcdef", ["one"])
        assert bookmarks.made_for(name) == (f"{dataset}#offsite-0123456789abcdef", some)


def test_holds_are_let_go_of_where_there_is_something_better(tmp_path: Path) -> None:
    """Newer ones, or a bookmark; never those of a snapshot that is backed up nowhere."""
    held = [snapshot(name, held=True) for name in "abcde"]
    pool = pool_of(tmp_path, *held, mark("d"))
    tidied(pool, kept("abcd"))
    assert pool.changes == [
        f"release {BASE}:{provider} {SNAPSHOTS[name].full_name}"
        for name in "abd"
        for provider in ALL
    ]


def test_an_unfinished_backup_keeps_its_bookmark_while_it_can_go_on(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, mark("a"), mark("b"), snapshot("b"))
    tidied(pool, [], begun="ab")
    assert pool.changes == [f"destroy {DATASET.name}#{ours('a')}"]


def test_what_may_not_be_destroyed_is_told(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, *map(mark, "abcd"), refused="destroy")
    told = tidied(pool, kept("abcd"))
    assert [line.partition(" (")[0] for line in told.infos] == [
        f"{DATASET.name}#{ours(name)} is not needed any more" for name in "ab"
    ]


def test_nothing_is_tidied_where_nothing_can_be_written(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, *map(mark, "abcd"), refused="destroy", says=READ_ONLY)
    assert tidied(pool, kept("abcd")).infos == []
    assert len(pool.changes) == 1


@pytest.mark.parametrize(
    "name",
    [
        "@a",
        "@offsite-1",
        "#mine",
        "#my-offsite-1",
        "",
        "/offsite-1",
        "#offsite-1@a",
        "@a#offsite-1",
    ],
)
def test_nothing_but_a_bookmark_of_ours_is_ever_destroyed(tmp_path: Path, name: str) -> None:
    pool = pool_of(tmp_path)
    with pytest.raises(UsageError):
        bookmarks.drop(pool.zfs, DATASET.name + name)
    assert pool.changes == []
    bookmarks.drop(pool.zfs, f"{DATASET.name}#offsite-1")
    assert pool.changes == [f"destroy {DATASET.name}#offsite-1"]


# --- keeping the base -----------------------------------------------------------------------------


def marked(pool: Pool, told: Told, *points: Point) -> Marker:
    """Of the snapshot e, before its stream begins."""
    marker = Marker(pool.zfs, SNAPSHOTS["e"], points, reach(*ALL), told)
    marker.before(stored("e").id)
    return marker


def test_a_bookmark_is_enough(tmp_path: Path) -> None:
    held = [snapshot(name, held=True) for name in "abc"]
    pool, told = pool_of(tmp_path, *held, holds=[f"{held[0].full_name}\t{BASE}:one"]), Told()
    marked(pool, told, *held).after(*kept("e"))
    assert pool.changes == [f"bookmark {E} {DATASET.name}#{ours('e')}"]
    assert (told.infos, told.warnings) == ([], [])


HELD = [f"hold {BASE}:{provider} {E}" for provider in ALL]


@pytest.mark.parametrize(
    ("says", "status", "why"),
    [("unrecognized command 'bookmark'", 2, "too old"), (DENIED, 1, "permission denied")],
)
def test_what_cannot_be_bookmarked_is_held_and_that_is_told(
    tmp_path: Path, says: str, status: int, why: str
) -> None:
    pool, told = pool_of(tmp_path, refused="bookmark", says=says, status=status), Told()
    marked(pool, told)
    assert pool.changes[1:] == HELD
    (line,) = told.infos
    assert line.startswith(f"{E} cannot be bookmarked (")
    assert why in line
    assert line.endswith("): it is held for the next backup")


def test_one_that_is_there_is_as_good(tmp_path: Path) -> None:
    """Made by another run since we looked."""
    there = "cannot create bookmark 'x': bookmark exists"
    pool, told = pool_of(tmp_path, refused="bookmark", says=there), Told()
    marked(pool, told).after(*kept("e"))
    assert (len(pool.changes), told.infos) == (1, [])


def test_older_holds_are_let_go_of_but_for_one(tmp_path: Path) -> None:
    """Each provider's own: the newest may turn out to be damaged there."""
    held = [snapshot(name, held=True) for name in "abcd"]
    a, b, c, d = (one.full_name for one in held)
    holds = [f"{name}\t{BASE}:one" for name in (a, b, c)]
    holds += [f"{name}\t{BASE}:two" for name in (a, d)] + [f"{a}\tmine", f"{b}\tmine"]
    pool = pool_of(tmp_path, holds=holds, refused="bookmark")
    marker = marked(pool, Told(), *held, snapshot("e", held=True))
    assert pool.changes[1:] == HELD
    marker.after(*kept("e"))
    assert pool.changes[3:] == [
        f"release {BASE}:{at}" for at in (f"one {a}", f"one {b}", f"two {a}")
    ]


def test_what_can_be_neither_bookmarked_nor_held_is_told(tmp_path: Path) -> None:
    pool, told = pool_of(tmp_path, refused="bookmark | hold"), Told()
    marked(pool, told)
    (warning,) = told.warnings
    assert warning.startswith(f"{E} cannot be held (")
    assert warning.endswith("): keep it for the next backup")


def test_a_pool_that_is_read_only_is_told_unless_it_has_the_bookmark(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, refused="*", says=READ_ONLY)
    told = Told()
    marked(pool, told).after(*kept("e"))
    assert "can be neither held nor bookmarked" in told.warnings[0]
    marked(pool, told, mark("e")).after(*kept("e"))
    assert (len(told.warnings), told.infos) == (1, [])
    assert {line.split()[0] for line in pool.changes} == {"bookmark"}


# --- giving up ------------------------------------------------------------------------------------


def given_up(pool: Pool, *providers: str) -> Told:
    told = Told()
    marks.give_up(pool.zfs, E, stored("e").id, reach(*providers), told)
    return told


def test_what_kept_the_base_of_a_backup_that_is_given_up(tmp_path: Path) -> None:
    points = [mark("e"), mark("e", f"{ours('e')}:one"), mark("d"), mark("e", "mine")]
    pool = pool_of(tmp_path, *points)
    assert given_up(pool, *ALL).infos == []
    assert pool.changes == [
        *[f"destroy {one.full_name}" for one in points[:2]],
        *[f"release {BASE}:{provider} {E}" for provider in ALL],
    ]


def test_it_may_be_complete_on_a_provider_where_it_is_not_given_up(tmp_path: Path) -> None:
    pool = pool_of(tmp_path, mark("e"), mark("e", f"{ours('e')}:two"))
    given_up(pool, "two")
    assert pool.changes == [f"destroy {DATASET.name}#{ours('e')}:two", f"release {BASE}:two {E}"]


def test_a_bookmark_that_stays_is_told(tmp_path: Path) -> None:
    (line,) = given_up(pool_of(tmp_path, mark("e"), refused="destroy"), *ALL).infos
    assert line.startswith("The bookmark of the backup that is given up stays (")


def test_a_bookmark_that_another_run_destroyed_is_as_good(tmp_path: Path) -> None:
    """And the holds are let go of all the same."""
    gone = f"bookmark '{DATASET.name}#{ours('e')}' does not exist."
    pool = pool_of(tmp_path, mark("e"), refused="destroy", says=gone)
    assert given_up(pool, "one", "two").infos == []
    assert pool.changes[1:] == [f"release {BASE}:{provider} {E}" for provider in ("one", "two")]
