"""Which datasets a recursive run backs up, which set it goes on with, and what it snapshots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from offsite import recursion
from offsite.chain import Names
from offsite.errors import UsageError, ZfsError
from offsite.manifest import SetFacts
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset, Snapshot
from tests.interrupted import Told

# A zfs with what is in ``rows`` (datasets) and ``made`` (snapshots).
_ZFS = """\
for name; do :; done
case "$*" in
"list -r "*) cat '{folder}/rows' ;;
"get -r "*) cat '{folder}/properties' ;;
"list -t snapshot "*)
    shift 5
    for each; do
        grep "^$each	" '{folder}/made' || {{
            echo "cannot open '$each': dataset does not exist" >&2; bad=1; }}
    done
    exit "${{bad:-0}}" ;;
"snapshot "*)
    echo "$*" >> '{folder}/calls'
    shift
    for each; do
        [ "$each" = -r ] || printf '%s\\t255\\t9000\\t1768651200\\n' "$each" >> '{folder}/made'
    done ;;
*) exit 99 ;;
esac
"""


def named(*names: str) -> list[Dataset]:
    """Datasets of these names; their guids count from 1."""
    return [
        Dataset(name, guid, "filesystem", "off", "lz4", 0, 0) for guid, name in enumerate(names, 1)
    ]


class Pool:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.zfs = Zfs(command=("/bin/sh", "-c", _ZFS.format(folder=folder), "zfs"))
        (folder / "calls").touch()
        (folder / "properties").touch()
        self.snapshots()

    def has(self, *names: str, **wanted: str) -> None:
        """These datasets, as zfs lists them; ``wanted``: the property by a name's last part."""
        lines = [
            f"{one.name}\t{one.guid}\tfilesystem\tlz4\t0\t0\toff"
            f"\t{wanted.get(one.name.rpartition('/')[2], '-')}\n"
            for one in named(*names)
        ]
        (self.folder / "rows").write_text("".join(lines))

    def snapshots(self, *those: Snapshot) -> None:
        lines = [f"{one.full_name}\t{one.guid}\t{one.createtxg}\t{one.creation}\n" for one in those]
        (self.folder / "made").write_text("".join(lines))

    @property
    def calls(self) -> list[str]:
        return (self.folder / "calls").read_text().splitlines()


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path)


# --- which datasets -------------------------------------------------------------------------------

TREE = ("tank", "tank/a", "tank/a/cache", "tank/a/cache/x", "tank/ab", "tank/b", "tank/b/cache")


def left(pool: Pool, *excluded: str, told: Told | None = None, root: str = "tank") -> list[str]:
    wanted, everything = recursion.members(pool.zfs, root, excluded, told or Told())
    rows = (pool.folder / "rows").read_text().splitlines()
    assert everything == (len(wanted) == len(rows))
    return [one.name for one in wanted]


def test_all_of_them(pool: Pool) -> None:
    pool.has(*TREE)
    told = Told()
    assert left(pool, told=told) == [*TREE]
    assert (told.infos, told.warnings) == ([], [])


@pytest.mark.parametrize(
    ("pattern", "gone"),
    [
        ("tank/b", {"tank/b", "tank/b/cache"}),
        ("b", {"tank/b", "tank/b/cache"}),
        ("a", {"tank/a", "tank/a/cache", "tank/a/cache/x"}),
        ("a/cache", {"tank/a/cache", "tank/a/cache/x"}),
        ("*/cache", {"tank/a/cache", "tank/a/cache/x", "tank/b/cache"}),
        ("tank/a*", {"tank/a", "tank/a/cache", "tank/a/cache/x", "tank/ab"}),
        ("?", {"tank/a", "tank/a/cache", "tank/a/cache/x", "tank/b", "tank/b/cache"}),
        ("[!b]", {"tank/a", "tank/a/cache", "tank/a/cache/x"}),
        ("*x", {"tank/a/cache/x"}),
    ],
)
def test_a_pattern(pool: Pool, pattern: str, gone: set[str]) -> None:
    """By the full name or by the path below the root, with all that is below."""
    pool.has(*TREE)
    told = Told()
    assert left(pool, pattern, told=told) == [name for name in TREE if name not in gone]
    count = f"{len(gone)} of {len(TREE)} datasets"
    assert told.infos == [f"Left out by --exclude or offsite:backup=off: {count}"]
    assert told.warnings == []


def test_a_pattern_that_matches_nothing_is_told(pool: Pool) -> None:
    pool.has(*TREE)
    told = Told()
    assert left(pool, "cache", "B", "b", "ank/a", told=told) == [*TREE[:5]]
    assert sorted(told.warnings) == [
        f"--exclude {pattern} matches nothing in tank" for pattern in ("B", "ank/a", "cache")
    ]


def test_each_of_two_patterns_for_one_dataset_is_used(pool: Pool) -> None:
    pool.has(*TREE)
    told = Told()
    assert left(pool, "b", "tank/b", "b/cache", told=told) == [*TREE[:5]]
    assert told.warnings == []


def test_below_a_root_that_is_no_pool(pool: Pool) -> None:
    """What is above the root matches nothing."""
    pool.has("tank/a", "tank/a/b", "tank/a/c")
    told = Told()
    assert left(pool, "b", "tank", "a", root="tank/a", told=told) == ["tank/a", "tank/a/c"]
    assert len(told.warnings) == 2


def test_the_property(pool: Pool) -> None:
    """Zfs tells inherited values as it does others: on under off counts."""
    names = ("tank", "tank/a", "tank/a/on", "tank/a/no", "tank/b", "tank/c", "tank/d", "tank/e")
    pool.has(*names, a="off", on="on", no="no", b="OFF", c="false", d="0", e="anything")
    assert left(pool) == ["tank", "tank/a/on", "tank/e"]
    assert left(pool, "a") == ["tank", "tank/e"]


@pytest.mark.parametrize("excluded", ["tank", "*", "t*"])
def test_nothing_is_left(pool: Pool, excluded: str) -> None:
    pool.has(*TREE)
    with pytest.raises(UsageError, match="nothing in tank is to be backed up"):
        left(pool, excluded)
    pool.has("tank", tank="off")
    with pytest.raises(UsageError, match="nothing in tank is to be backed up") as caught:
        left(pool)
    assert "offsite:backup=off" in (caught.value.hint or "")


def test_what_is_not_all_there_is_left_out(pool: Pool) -> None:
    """zfs makes no snapshot of it; or it does, and the restore that goes on finds a strange one."""
    pool.has(*TREE)
    backup_id = "20260117t120000-0123456789abcdef"
    rows = (
        ("tank", "inconsistent", "0", "-"),
        ("tank/a", "inconsistent", "1", "-"),
        ("tank/a/cache", "offsite:restoring", backup_id, "inherited from tank/a"),
        ("tank/ab", "offsite:restoring", "no id", "local"),
        ("tank/b", "inconsistent", "0", "-"),
        ("tank/b", "offsite:restoring", backup_id, "local"),
    )
    (pool.folder / "properties").write_text("".join("\t".join(row) + "\n" for row in rows))
    told = Told()
    assert left(pool, told=told) == [name for name in TREE if name not in {"tank/a", "tank/b"}]
    assert told.infos == [
        f"Left out: {name}, where a restore or zfs receive is unfinished"
        for name in ("tank/a", "tank/b")
    ]
    assert told.warnings == []
    assert left(pool, "b", told=Told())[-1] == "tank/ab"
    pool.has("tank/a")
    with pytest.raises(UsageError, match="nothing in tank/a is to be backed up") as caught:
        left(pool, root="tank/a")
    assert caught.value.hint == "finish the restore first, or give it up"


def test_parents_first(pool: Pool) -> None:
    """Zfs sorts otherwise; and so do names as text, where - comes before /."""
    pool.has("tank/a-b", "tank/a/b", "tank/a.b/c", "tank/a", "tank", "tank/a b", "tank/a.b")
    assert left(pool) == [
        *("tank", "tank/a", "tank/a/b", "tank/a b", "tank/a-b", "tank/a.b", "tank/a.b/c")
    ]


# --- a set that was cut off ----------------------------------------------------------------------

ROOT, A, B = THREE = named("tank", "tank/a", "tank/b")


def snapshot(of: Dataset, name: str, createtxg: int) -> Snapshot:
    return Snapshot(of.name, name, 1000 * of.guid + createtxg, createtxg, 1768651200)


def all_of(name: str, createtxg: int) -> list[Snapshot]:
    return [snapshot(one, name, createtxg) for one in THREE]


def test_a_run_that_was_cut_off_is_gone_on_with(tmp_path: Path) -> None:
    note = recursion.Note(tmp_path / "sets/note.json")
    assert note.read() is None
    note.remove()
    note.write(Names("s", given=False))
    assert note.read() == Names("s", given=True)
    note.write(Names("t", given=False))
    assert note.read() == Names("t", given=True)
    assert [path.name for path in note.path.parent.iterdir()] == ["note.json"]
    note.remove()
    assert note.read() is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"snapshots": "s"}',
        '{"snapshot": "a b;c$"}',
        '{"snapshot": "-/x"}',
        '{"snapshot": ""}',
    ],
)
def test_a_note_that_says_nothing(tmp_path: Path, text: str) -> None:
    note = recursion.Note(tmp_path / "note.json")
    note.path.write_text(text)
    assert note.read() is None


def test_a_note_is_of_one_root_and_its_providers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    one = recursion.note_of(ROOT, ["one", "two"])
    assert one == recursion.note_of(ROOT, ["two", "one"])
    assert one.path.is_relative_to(tmp_path / "offsite")
    others = [recursion.note_of(ROOT, ["one"]), recursion.note_of(A, ["one", "two"])]
    assert len({one.path, *(other.path for other in others)}) == 3


def test_who_was_there_at_that_moment(pool: Pool) -> None:
    """Not a dataset that was made later, nor one that was restored and has a snapshot so called."""
    names = Names("s", given=True)
    pool.snapshots(*all_of("s", 10))
    assert recursion.having(pool.zfs, THREE, names) == list(THREE)
    pool.snapshots(snapshot(ROOT, "s", 10), snapshot(A, "s", 10))
    assert recursion.having(pool.zfs, THREE, names) == [ROOT, A]
    pool.snapshots(snapshot(ROOT, "s", 10), snapshot(A, "s", 11), snapshot(B, "s", 10))
    assert recursion.having(pool.zfs, THREE, names) == [ROOT, B]
    pool.snapshots()
    assert recursion.having(pool.zfs, THREE, names) == []


# --- snapshots ------------------------------------------------------------------------------------

NEW, GIVEN = Names("s", given=False), Names("s", given=True)


def made(
    pool: Pool, names: Names, wanted: Sequence[Dataset] = THREE, *, everything: bool = True
) -> tuple[str, int]:
    first, count = recursion.make_snapshots(pool.zfs, "tank", wanted, names, everything=everything)
    return first.full_name, count


@pytest.mark.parametrize("names", [NEW, GIVEN])
def test_recursively_if_that_is_all(pool: Pool, names: Names) -> None:
    assert made(pool, names) == ("tank@s", 3)
    assert pool.calls == ["snapshot -r tank@s"]


@pytest.mark.parametrize("names", [NEW, GIVEN])
def test_one_by_one_if_something_is_left_out(pool: Pool, names: Names) -> None:
    assert made(pool, names, [ROOT, B], everything=False) == ("tank@s", 2)
    assert pool.calls == ["snapshot tank@s tank/b@s"]


def test_without_the_root(pool: Pool) -> None:
    assert made(pool, NEW, [A, B], everything=False) == ("tank/a@s", 2)
    assert pool.calls == ["snapshot tank/a@s tank/b@s"]


def test_a_name_made_up_for_this_run_is_no_one_s(pool: Pool) -> None:
    """What has it already is another run's: zfs refuses, and so do we."""
    pool.snapshots(snapshot(A, "s", 10))
    assert made(pool, NEW, [ROOT, A], everything=False) == ("tank@s", 2)
    assert pool.calls == ["snapshot tank@s tank/a@s"]


def test_those_that_are_missing(pool: Pool) -> None:
    pool.snapshots(snapshot(A, "s", 10))
    assert made(pool, GIVEN) == ("tank@s", 2)
    assert pool.calls == ["snapshot tank@s tank/b@s"]


def test_none_is_missing(pool: Pool) -> None:
    pool.snapshots(*all_of("s", 10))
    first, count = recursion.make_snapshots(pool.zfs, "tank", THREE, GIVEN, everything=True)
    assert (first, count) == (snapshot(ROOT, "s", 10), 0)
    assert pool.calls == []


def test_too_many_for_one_command(pool: Pool) -> None:
    """The system decides: no Linux takes more than 6 MiB, or 128 KiB in what ssh passes on."""
    many = named("tank", *(f"tank/{'x' * 200}{number}" for number in range(32_000)))
    with pytest.raises(ZfsError, match="32001 snapshots are too many for one command") as caught:
        made(pool, NEW, many, everything=False)
    assert "zfs snapshot -r" in (caught.value.hint or "")
    assert pool.calls == []
    assert made(pool, NEW, many) == ("tank@s", 32_001)
    assert pool.calls == ["snapshot -r tank@s"]


def test_as_many_as_one_command_takes(pool: Pool) -> None:
    many = named("tank", *(f"tank/{'x' * 200}{number}" for number in range(600)))
    assert made(pool, NEW, many, everything=False) == ("tank@s", 601)
    assert len(pool.calls) == 1


def test_facts() -> None:
    first = snapshot(ROOT, "s", 10)
    assert recursion.facts(ROOT, first, THREE) == SetFacts("00000000000003f2", "tank", 1, 3)
    assert recursion.facts(ROOT, replace(first, guid=2**64 - 1), [A, B]) == SetFacts(
        "ffffffffffffffff", "tank", 1, 2
    )
