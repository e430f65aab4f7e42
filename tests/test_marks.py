"""What keeps the next increment's base: bookmarks, else holds; and that only ours are let go of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from offsite import marks, meant
from offsite.errors import UsageError
from offsite.marks import Kept, Marker
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


# --- tidying up -----------------------------------------------------------------------------------


def tidied(
    pool: Pool, there: Sequence[Kept], begun: str = "", providers: Sequence[str] = ALL
) -> Told:
    heads = [stored(name).manifest.head for name in begun]
    facts = (pool.zfs, DATASET.name, there, heads)
    told = Told()
    marks.tidy(*facts, providers=providers, everywhere=ALL, host="nas", progress=told)
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


def test_what_a_run_to_one_provider_made_the_next_one_tidies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing that may be another one's, be it by a later run."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name in "bcd":
        meant.note(marks.short_id(stored(name).id), ["one"], is_new=True)
    meant.note(marks.short_id(stored("c").id), ["two"], is_new=False)
    pool = pool_of(tmp_path, *map(mark, "abcde"))
    tidied(pool, kept("abcde", "one"), providers=["one"])
    assert pool.changes == [f"destroy {DATASET.name}#{ours('b')}"]
    again = pool_of(tmp_path, *map(mark, "acde"))
    tidied(again, kept("abcde", "one"))
    assert again.changes[1:] == [f"destroy {DATASET.name}#{ours(name)}" for name in "ac"]


def test_whom_a_bookmark_was_made_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    pool = pool_of(tmp_path)
    facts = (pool.zfs, SNAPSHOTS["e"])
    short = marks.short_id(stored("e").id)

    def made_for(*providers: str, points: Sequence[Point] = ()) -> None:
        marker = Marker(*facts, points, host="nas", everywhere=ALL, progress=Told())
        marker.before(stored("e").id, providers)

    made_for(*ALL)
    assert meant.recall(short) is None
    made_for("two", points=[mark("e")])  # who knows for whom else it is
    assert meant.recall(short) is None
    made_for("two")
    assert meant.recall(short) == frozenset({"two"})
    made_for("one", points=[mark("e")])
    assert meant.recall(short) == frozenset(ALL)
    marks.give_up(pool.zfs, E, stored("e").id, providers=ALL, host="nas", progress=Told())
    assert meant.recall(short) is None


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
    for drop in (bookmarks.drop, bookmarks.drop_if_there):
        with pytest.raises(UsageError):
            drop(pool.zfs, DATASET.name + name)
    assert pool.changes == []
    bookmarks.drop(pool.zfs, f"{DATASET.name}#offsite-1")
    assert pool.changes == [f"destroy {DATASET.name}#offsite-1"]


# --- keeping the base -----------------------------------------------------------------------------


def marked(pool: Pool, told: Told, *points: Point) -> Marker:
    """Of the snapshot e, before its stream begins."""
    facts = (pool.zfs, SNAPSHOTS["e"], points)
    marker = Marker(*facts, host="nas", everywhere=ALL, progress=told)
    marker.before(stored("e").id, ALL)
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


def given_up(pool: Pool) -> Told:
    facts = (pool.zfs, E, stored("e").id)
    marks.give_up(*facts, providers=ALL, host="nas", progress=(told := Told()))
    return told


GONE = f"bookmark '{DATASET.name}#x' does not exist."


@pytest.mark.parametrize(
    ("says", "status"), [(None, 0), (GONE, 1), ("unrecognized command 'bookmark'", 2)]
)
def test_what_kept_the_base_of_a_backup_that_is_given_up(
    tmp_path: Path, says: str | None, status: int
) -> None:
    refused = "destroy" if says else "nothing"
    pool = pool_of(tmp_path, refused=refused, says=says or "", status=status)
    assert given_up(pool).infos == []
    assert pool.changes == [
        f"destroy {DATASET.name}#{ours('e')}",
        *[f"release {BASE}:{provider} {E}" for provider in ALL],
    ]


def test_a_bookmark_that_stays_is_told(tmp_path: Path) -> None:
    (line,) = given_up(pool_of(tmp_path, refused="destroy")).infos
    assert line.startswith("The bookmark of the backup that is given up stays (")
