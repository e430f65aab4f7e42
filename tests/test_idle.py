"""Sets of which little changed: nothing is sent of the rest, and all of it comes back.

The fleet's zfs is a small program that knows snapshots and what is in them; all else is ours.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from offsite import config, connect, repository
from offsite.config import Config, Provider
from offsite.errors import ProviderError
from offsite.manifest import DatasetFacts, IndexRef
from offsite.remote import Entry, Remote
from offsite.zfs.datasets import Snapshot
from tests import repo, whole
from tests.storage.memory import MemoryRemote
from tests.whole import Home

USAGE = Path(__file__).parent / "usages" / "linux-2.3.2.txt"
# ``tree``: the datasets as zfs lists them; ``states``: what is in each now (a number); ``set``: the
# properties that are set; ``salts``: of the datasets' keys; ``made``: snapshots as zfs lists them,
# and the state that each has.
_ZFS = """\
#!/bin/sh
printf '%s\\n' "$*" >> '{folder}/calls'
cd '{folder}/pool' || exit 99
for name; do :; done
dataset=${{name%%@*}}
make() {{ # SNAPSHOT: of the datasets that stdin names
    number=$(wc -l < made)
    awk -F'\\t' -v snapshot="$1" -v number="$number" 'NR == FNR {{ state[$1] = $2; next }}
        {{ printf "%s@%s\\t%d\\t%d\\t1768651200\\t%s\\n", $1, snapshot, 70000 + ++count + number,
            9000 + number, state[$1] }}' states - >> made
}}
stream() {{ # the guid into BEGIN
    guid=$(grep "^$name	" made | cut -f 2)
    head -c 40 stream
    printf "\\\\$(printf %03o $((guid & 255)))\\\\$(printf %03o $((guid >> 8 & 255)))"
    printf "\\\\$(printf %03o $((guid >> 16)))"
    tail -c +44 stream
}}
case "$*" in
"") cat '{usage}' >&2; exit 2 ;;
"version"*) printf 'zfs-2.2.2\\nzfs-kmod-2.2.2\\n' ;;
"snapshot -r "*) cut -f 1 tree | make "${{name#*@}}" ;;
"snapshot "*) shift; printf '%s\\n' "$@" | cut -d @ -f 1 | make "${{name#*@}}" ;;
"send -t "*) echo "invalid option 't'" >&2; exit 2 ;;
"send -nP"*) printf 'size\\t5000\\n' ;;
"send "*) [ "$dataset" != "$(cat bad)" ] && stream ;;
"list -r "*) cat tree ;;
"list -t snapshot,bookmark "*) ;; # nothing to stand on: every backup is a full one
"list -t snapshot -d 1 "*) grep "^$name@" made | cut -f 1-4 ;;
"list -t snapshot "*)
    shift 5
    for each; do printf '%s\\n' "$each"; done | awk -F'\\t' '
        NR == FNR {{ made[$1] = $1 "\\t" $2 "\\t" $3 "\\t" $4; next }}
        $1 in made {{ print made[$1]; next }}
        {{ bad = 1; print "cannot open \\047" $1 "\\047: dataset does not exist" > "/dev/stderr" }}
        END {{ exit bad }}' made - ;;
"list "*) grep "^$name	" tree | cut -f 1-7 ;;
"get -pHo name,property,value guid,written@"*)
    old=${{4#guid,written@}}
    shift 4
    for each; do printf '%s\\n' "$each"; done | awk -F'\\t' -v old="$old" '
        NR == FNR {{ guid[$1] = $2; state[$1] = $5; next }}
        !($1 in guid) {{
            bad = 1; print "cannot open \\047" $1 "\\047: dataset does not exist" > "/dev/stderr"
            next }}
        {{ before = $1; sub("@.*", "@" old, before)
            written = before == $1 || !(before in guid) ? "-" : (state[$1] != state[before]) * 4096
            print $1 "\\tguid\\t" guid[$1]; print $1 "\\twritten@" old "\\t" written }}
        END {{ exit bad }}' made - ;;
"get -r "*" name,property,source "*) cat keys 2> /dev/null || cut -f 1,2,4 set ;;
"get -r -t filesystem,volume -s "*) cat set ;;
"get "*" -pHo name,value pbkdf2salt "*) [ -e salts ] || exit 2; cat salts ;;
"get -pHo name,value pbkdf2salt "*) grep "^$name	" salts ;;
"get -r "*) ;;
"receive "*) printf '%s\\t%s\\n' "$name" "$(cut -c 1-9 | wc -c)" >> received; cat > /dev/null ;;
"get -Ho value "* | "get -s "* | "get -pHo value "*) echo - ;;
"get -pHo property,source "*) grep "^$name	" set | cut -f 2,4 ;;
"get -pHo property,value,source all "*) grep "^$name	" set | cut -f 2-4 ;;
esac
exit $?
"""


class Counting(MemoryRemote):
    """``asked``: how often each kind of request was made."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked: Counter[str] = Counter()

    def put(self, *args: Any) -> None:
        self.asked["put"] += 1
        super().put(*args)

    def get(self, path: str, *, limit: int) -> bytes:
        self.asked["get"] += 1
        return super().get(path, limit=limit)

    def stat(self, path: str) -> Entry | None:
        self.asked["stat"] += 1
        return super().stat(path)

    def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:
        self.asked["list"] += 1
        return super().list(folder, dirs=dirs, expected=expected)


class Fleet:
    """The pool ``tank``; two providers."""

    def __init__(self, home: Home, names: Sequence[str]) -> None:
        self.home, self.names = home, ["tank", *(f"tank/{name}" for name in names)]
        self.folder = home.folder / "pool"
        self.folder.mkdir()
        self.stores = {name: Counting(name) for name in ("one", "two")}
        (home.folder / "zfs").write_text(_ZFS.format(folder=home.folder, usage=USAGE))
        home.configure(ONE_REMOTE="/one", TWO_REMOTE="/two")
        for name in ("bad", "made", "set"):
            (self.folder / name).touch()
        self.encrypt(())
        (self.folder / "stream").write_bytes(repo.stream(0, [repo.noise(2000)]))
        self.states = dict.fromkeys(self.names, 0)
        self.change()

    def encrypt(self, names: Collection[str]) -> None:
        rows = [
            f"{name}\t{number}\tfilesystem\tlz4\t0\t0\t{'on' if name in names else 'off'}\t-\n"
            for number, name in enumerate(self.names, 1)
        ]
        (self.folder / "tree").write_text("".join(rows))

    def has_salts(self, **salts: int) -> None:
        """From now on, by the last part of a dataset's name."""
        rows = [f"{name}\t{salts.get(name.rpartition('/')[2], 0)}\n" for name in self.names]
        (self.folder / "salts").write_text("".join(rows))

    def fail(self, name: str) -> None:
        """From now on nothing of this dataset can be sent."""
        (self.folder / "bad").write_text(name)

    def change(self, *names: str) -> None:
        for name in names:
            self.states[name] += 1
        lines = [f"{name}\t{state}\n" for name, state in self.states.items()]
        (self.folder / "states").write_text("".join(lines))

    def set(self, *rows: str) -> None:
        """From now on these properties are set: dataset, name, value, source."""
        (self.folder / "set").write_text("".join(f"{row}\n" for row in rows))

    def destroy(self, snapshot: str) -> None:
        path = self.folder / "made"
        left = [line for line in path.read_text().splitlines(True) if f"@{snapshot}\t" not in line]
        path.write_text("".join(left))

    def backup(self, snapshot: str, *more: str, status: int = 0) -> Any:
        for store in self.stores.values():
            store.asked.clear()
        ran = self.home.offsite("--backup", f"tank@{snapshot}", *more, "--json")
        assert ran.status == status, ran
        return ran.json

    def has_backed_up(self, snapshot: str) -> None:
        """All of it, a while ago: what a run reads of that is there, and nothing else."""
        author = connect.author(config.load(self.home.environment(self.home.folder)))
        lines = []
        for number, name in enumerate(self.names, 1):
            made = Snapshot(name, snapshot, 100 + number, 8000, 1768651200)
            lines.append(f"{made.full_name}\t{made.guid}\t8000\t1768651200\t0\n")
            head = repo.head(made, f"20260117t120000-{number:016x}")
            head = msgspec.structs.replace(
                head,
                dataset=DatasetFacts(name, number, "filesystem"),
                recipients=author.documents.fingerprint,
            )
            indexes = [IndexRef(repository.index_name(each), 1, "0" * 64, each) for each in (0, 1)]
            signed = msgspec.structs.replace(repo.manifest(head), indexes=indexes)
            sealed = repository.seal_document(signed, author)
            for store in self.stores.values():
                store.objects[repository.object_path(head.id, repository.MANIFEST)] = sealed
        (self.folder / "made").write_text("".join(lines))

    def plan(self, what: str, *more: str, status: int = 0) -> Any:
        """What a restore would do."""
        arguments = ("--restore", what, "--as", "tank/new", "--dry-run", "--json", *more)
        ran = self.home.offsite(*arguments)
        assert ran.status == status, ran
        return ran.json

    def comes_back(self, snapshot: str, *more: str) -> dict[str, str]:
        """By dataset the name of the snapshot that a restore of the set has."""
        done = self.plan(f"tank@{snapshot}", *more)
        return {one["dataset"]: one["snapshot"] for one in done["restores"]}


@contextmanager
def fleet_of(folder: Path, names: Sequence[str]) -> Iterator[Fleet]:
    with whole.home(folder) as home, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        made = Fleet(home, names)

        @contextmanager
        def remotes(
            _config: Config, providers: Sequence[Provider], *_: object
        ) -> Iterator[tuple[list[Remote], dict[str, str]]]:
            yield [made.stores[provider.name] for provider in providers], {}

        patch.setattr(connect, "remotes", remotes)
        yield made


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_of(tmp_path, ["a", "b", "c"]) as made:
        yield made


def sent(done: Any) -> list[str]:
    return [one["dataset"] for one in done["backups"]]


def test_only_what_changed_is_sent(fleet: Fleet) -> None:
    first = fleet.backup("s0")
    assert (sent(first), first["unchanged"]) == (fleet.names, {})
    ids = {one["dataset"]: one["backup_id"] for one in first["backups"]}
    fleet.change("tank/b")
    done = fleet.backup("s1")
    assert sent(done) == ["tank/b"]
    assert done["unchanged"] == {name: ids[name] for name in ("tank", "tank/a", "tank/c")}
    assert fleet.comes_back("s1") == dict.fromkeys(fleet.names, "s0") | {"tank/b": "s1"}
    assert fleet.plan("tank")["restores"] == fleet.plan("tank@s1")["restores"]
    for one in ("one", "two"):
        assert len(fleet.comes_back("s1", "--provider", one)) == 4


def test_nothing_changed(fleet: Fleet) -> None:
    """Something must tell that there was a set: the first of it, as an empty increment."""
    fleet.backup("s0")
    done = fleet.backup("s1")
    assert (sent(done), [*done["unchanged"]]) == (["tank"], ["tank/a", "tank/b", "tank/c"])
    fleet.change("tank/a")
    assert sent(fleet.backup("s2")) == ["tank/a"]
    assert fleet.comes_back("s2") == {
        "tank": "s1", "tank/a": "s2", "tank/b": "s0", "tank/c": "s0",
    }  # fmt: skip


def test_the_same_command_again(fleet: Fleet) -> None:
    """What the set tells already is not told twice, and nothing is sent."""
    fleet.backup("s0")
    fleet.change("tank/b")
    first = fleet.backup("s1")
    objects = {name: dict(one.objects) for name, one in fleet.stores.items()}
    again = fleet.backup("s1")
    assert (sent(again), again["unchanged"]) == (["tank/b"], first["unchanged"])
    assert {name: one.objects for name, one in fleet.stores.items()} == objects


def test_a_part_of_the_tree_and_a_single_one(fleet: Fleet) -> None:
    """Also where nothing below changed, so that the set has no backup of its own there."""
    fleet.backup("s0")
    fleet.change("tank/b")
    fleet.backup("s1")
    assert fleet.plan("tank/a@s1")["restore"]["snapshot"] == "s0"
    assert fleet.plan("tank/b@s1")["restore"]["snapshot"] == "s1"
    (one,) = fleet.plan("tank/a@s1", "-R")["restores"]
    assert one["snapshot"] == "s0"
    assert "no finished backup of tank/a@s2" in fleet.plan("tank/a@s2", status=2)["error"]


def test_the_snapshot_it_was_sent_from_is_gone(fleet: Fleet) -> None:
    """A later one that holds the same will do."""
    fleet.backup("s0")
    fleet.change("tank/b")
    fleet.backup("s1")
    fleet.destroy("s0")
    fleet.change("tank/b")
    assert sent(fleet.backup("s2")) == ["tank/b"]
    fleet.destroy("s1")
    fleet.destroy("s2")
    assert sent(fleet.backup("s3")) == fleet.names


def test_a_snapshot_of_its_name_is_another_one(fleet: Fleet) -> None:
    fleet.backup("s0")
    fleet.change(*fleet.names)
    fleet.destroy("s0")
    for name in fleet.names[:2]:
        with (fleet.folder / "made").open("a") as made:
            made.write(f"{name}@s0\t9\t9500\t1768651200\t1\n")
    assert sent(fleet.backup("s1")) == fleet.names


def test_a_property_that_changed(fleet: Fleet) -> None:
    row = "tank/a\torg:note\t{}\tlocal"
    fleet.set(row.format("x"), "tank/b\tcompression\tzstd\tinherited from tank")
    fleet.backup("s0")
    assert sent(fleet.backup("s1")) == ["tank"]
    fleet.set(row.format("y"), "tank/b\tcompression\tzstd\tinherited from tank")
    assert sent(fleet.backup("s2")) == ["tank/a"]
    fleet.set(row.format("y"))
    assert sent(fleet.backup("s3")) == ["tank/b"]
    (fleet.folder / "keys").write_text("tank/a\torg:other\tlocal\n")  # changed just now
    assert sent(fleet.backup("s4")) == fleet.names


def test_a_passphrase_that_changed(fleet: Fleet) -> None:
    """Of b, and of c, which inherits; that of a key of another format cannot be told."""
    fleet.encrypt(("tank/a", "tank/b", "tank/c"))
    fleet.has_salts(b=7, c=7)
    assert sent(fleet.backup("s0")) == fleet.names
    assert sent(fleet.backup("s1")) == ["tank/a"]
    fleet.has_salts(b=8, c=8)
    assert sent(fleet.backup("s2")) == ["tank/a", "tank/b", "tank/c"]
    assert sent(fleet.backup("s3")) == ["tank/a"]
    fleet.change("tank/b")
    assert sent(fleet.backup("s3b")) == ["tank/a", "tank/b"]
    fleet.has_salts()
    assert sent(fleet.backup("s4")) == ["tank/a", "tank/b", "tank/c"]
    (fleet.folder / "salts").unlink()
    assert sent(fleet.backup("s5")) == ["tank/a", "tank/b", "tank/c"]
    fleet.has_salts(b=8)  # it was not recorded
    assert sent(fleet.backup("s6")) == ["tank/a", "tank/b", "tank/c"]
    assert sent(fleet.backup("s7")) == ["tank/a", "tank/c"]


def test_what_was_told_to_be_the_same_and_sent_later(fleet: Fleet) -> None:
    """By the same command again, after a property was set: now that is what its name means."""
    fleet.backup("s0")
    fleet.change("tank/b")
    assert sent(fleet.backup("s1")) == ["tank/b"]
    fleet.set("tank/a\torg:note\tx\tlocal")
    assert {*sent(fleet.backup("s1"))} == {"tank/a", "tank/b"}
    assert fleet.plan("tank/a@s1")["restore"]["snapshot"] == "s1"
    assert fleet.comes_back("s1") == {
        "tank": "s0", "tank/a": "s1", "tank/b": "s1", "tank/c": "s0",
    }  # fmt: skip


def test_a_copy_of_what_is_told_to_be_the_same_was_sent(fleet: Fleet) -> None:
    """A replica's snapshot has its guid; and the snapshot itself may be sent under another name."""
    fleet.backup("s0")
    fleet.change("tank/b")
    fleet.backup("s1")
    rows = [line.split("\t") for line in (fleet.folder / "made").read_text().splitlines()]
    (guid,) = [row[1] for row in rows if row[0] == "tank/a@s1"]
    with (fleet.folder / "made").open("a") as made:
        made.write(f"tank/c@copy\t{guid}\t9999\t1768651200\t7\n")
    ran = fleet.home.offsite("--backup", "tank/c@copy", "--json")
    assert ran.status == 0, ran
    assert fleet.plan("tank/a@s1")["restore"]["snapshot"] == "s0"
    assert fleet.comes_back("s1") == dict.fromkeys(fleet.names, "s0") | {"tank/b": "s1"}


def test_encrypted_ones_that_go_in_the_clear(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    fleet.encrypt(("tank/a", "tank/b"))
    monkeypatch.setenv("SEND_RAW", "no")
    fleet.backup("s0")
    fleet.change("tank/b")
    assert sent(fleet.backup("s1")) == ["tank/b"]
    monkeypatch.setenv("SEND_RAW", "yes")
    assert {*sent(fleet.backup("s2"))} >= {"tank/a", "tank/b"}


@pytest.mark.parametrize("wish", ["--full", "--intermediate", "--restart"])
def test_what_is_asked_for_is_done(fleet: Fleet, wish: str) -> None:
    fleet.backup("s0")
    assert {*sent(fleet.backup("s1", wish))} == {*fleet.names}


def test_a_provider_that_lacks_some(fleet: Fleet) -> None:
    fleet.backup("s0")
    fleet.change("tank/b")
    fleet.backup("s1", "--provider", "two")
    assert sent(fleet.backup("s2")) == ["tank/b"]
    gone = fleet.plan("tank/a")["restore"]["backup_id"]
    for path in [path for path in fleet.stores["one"].objects if gone in path]:
        del fleet.stores["one"].objects[path]
    assert {*sent(fleet.backup("s3"))} == {"tank/a"}
    assert len(fleet.comes_back("s3", "--provider", "one")) == 4


def test_who_was_to_tell_failed(fleet: Fleet) -> None:
    """Another one does, though it has not changed."""
    fleet.backup("s0")
    fleet.fail("tank/b")
    fleet.change("tank/b")
    done = fleet.backup("s1", status=3)
    assert list(done["failed"]) == ["tank/b"]
    assert (sent(done), [*done["unchanged"]]) == (["tank"], ["tank/a", "tank/c"])
    fleet.fail("")
    done = fleet.backup("s1")
    assert (sent(done), [*done["unchanged"]]) == (["tank", "tank/b"], ["tank/a", "tank/c"])
    assert fleet.comes_back("s1") == {
        "tank": "s1", "tank/a": "s0", "tank/b": "s1", "tank/c": "s0",
    }  # fmt: skip


def test_nobody_is_left_to_tell(fleet: Fleet) -> None:
    fleet.backup("s0")
    (fleet.folder / "stream").rename(fleet.folder / "away")
    fleet.change("tank/b")
    fleet.backup("s1", status=1)
    (fleet.folder / "away").rename(fleet.folder / "stream")
    assert sent(fleet.backup("s1")) == fleet.names  # all were begun
    assert fleet.comes_back("s1") == dict.fromkeys(fleet.names, "s1")


def test_nothing_can_be_written(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others had not changed, but nothing says so: the set is not whole."""

    def full(*_: object) -> None:
        raise ProviderError("disk full")

    fleet.backup("s0")
    fleet.change("tank/b")
    with monkeypatch.context() as patch:
        patch.setattr(Counting, "put", full)
        fleet.backup("s1", status=1)
    logs = "".join(path.read_text() for path in fleet.home.folder.glob("*.log"))
    assert "3 datasets did not change, but that could not be recorded" in logs
    assert logs.count("is not backed up") == 1
    assert "s1" not in fleet.plan("tank")["restores"][1]["snapshot"]
    assert (sent(fleet.backup("s1")), len(fleet.comes_back("s1"))) == (["tank/b"], 4)


@pytest.mark.soak
def test_an_idle_fleet(tmp_path: Path, measured: Callable[[str], None]) -> None:
    """1,000 datasets with 100 snapshots each, 3 changed."""
    names = [f"d{number:04}" for number in range(999)]
    with fleet_of(tmp_path, names) as fleet:
        fleet.has_backed_up("s000")
        number = 0
        with (fleet.folder / "made").open("a") as made:
            for snapshot in range(1, 99):
                for name in fleet.names:
                    number += 1
                    line = f"{name}@auto-{snapshot}\t{200000 + number}\t{9500 + snapshot}"
                    made.write(f"{line}\t1768651200\t0\n")
        fleet.change("tank/d0007", "tank/d0500", "tank/d0998")
        fleet.backup("s100")  # what is there is read, once
        fleet.change("tank/d0007", "tank/d0501", "tank/d0998")
        began = time.monotonic()
        done = fleet.backup("s101")
        seconds = time.monotonic() - began
    commands = len((fleet.home.folder / "calls").read_text().splitlines())
    asked = fleet.stores["one"].asked
    measured(
        f"1,000 datasets, 3 of them changed: {seconds:.1f} s, {commands} zfs commands, of each"
        f" provider {dict(asked)}"
    )
    assert sent(done) == ["tank/d0007", "tank/d0501", "tank/d0998"]
    assert len(done["unchanged"]) == 997
    assert commands < 20 + 3 * 10  # for what changed it takes some each
    assert asked["list"] + asked["get"] + asked["stat"] < 12
    assert asked["put"] < 3 * 5
    assert seconds < 30
