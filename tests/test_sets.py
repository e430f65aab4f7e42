"""A pool backed up as one set and restored by the whole command: who fails, what that stops."""

from __future__ import annotations

import copy
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.world import Ran
from offsite import connect, lock
from offsite.config import Config, Provider
from offsite.errors import LockedError, ProviderError, StoppedError
from offsite.remote import Entry, Remote
from tests import repo, whole
from tests.programs import fake_system
from tests.storage.memory import MemoryRemote
from tests.thorough import cases
from tests.whole import Home

# For every dataset there is a line in ``tree``, and a stream; of snapshots those in ``made``.
_ZFS = """\
#!/bin/sh
printf '%s\\n' "$*" >> '{folder}/calls'
cd '{folder}/pool' || exit 99
for name; do :; done
dataset=${{name%%@*}}
make() {{ # DATASET SNAPSHOT
    guid=$(grep "^$1	" tree | cut -f 2)
    printf '%s@%s\\t%s\\t9000\\t1768651200\\n' "$1" "$2" $((guid + 100)) >> made
}}
case "$*" in
"version"*) printf 'zfs-2.2.2\\nzfs-kmod-2.2.2\\n' ;;
"snapshot -r "*) cut -f 1 tree | while read -r each; do make "$each" "${{name#*@}}"; done ;;
"snapshot "*) shift; for each; do make "${{each%%@*}}" "${{each#*@}}"; done ;;
"send -t "*) echo "invalid option 't'" >&2; exit 2 ;;
"send -nP"*) printf 'size\\t5000\\n' ;;
"send "*"tank@"*) [ ! -e vanishing ] || sed -i '/^tank.b@/d' made; exec cat tank ;;
"send "*) exec cat "$(echo "$dataset" | tr / _)" ;;
"list -r "*) cat tree ;;
"list -t snapshot,bookmark "*) ;; # nothing to stand on: every backup is a full one
"list -t snapshot -d 1 "*) grep "^$name@" made; true ;;
"list -t filesystem,volume -Ho name") cut -f 1 tree ;;
"list -t snapshot "*)
    shift 5
    for each; do
        grep "^$each	" made || {{
            echo "cannot open '$each': dataset does not exist" >&2; bad=1; }}
    done
    exit "${{bad:-0}}" ;;
"list "*) grep "^$name	" tree | cut -f 1-7 ;;
"create "*) printf '%s\\t0\\tfilesystem\\tlz4\\t0\\t0\\toff\\t-\\n' "$name" >> tree ;;
"receive "*"tank/new"*) # as if it were what tank/new was made of
    cat > "$(echo "$dataset" | tr / _)"
    source=$(echo "$dataset" | sed s,/new,,)
    made=$(grep "^$source@" made | cut -f 2-)
    [ "$source" != "$(cat other 2>/dev/null)" ] || made=9$made
    printf '%s\\t%s\\n' "$name" "$made" >> made
    printf '%s\\t0\\tfilesystem\\tlz4\\t0\\t0\\toff\\t-\\n' "$dataset" >> tree ;;
"get -pHo value available"*) [ ! -e room ] || cat room ;;
"get -Ho value "* | "get -s "* | "get -pHo value "*) echo - ;;
"get -pHo property,value written"*) printf 'written\\t0\\nmounted\\tno\\n' ;;
"get -pHo property,source "*) printf 'type\\t-\\n' ;;
"get "*) printf 'type\\tfilesystem\\t-\\n' ;;
esac
"""


class Failing(MemoryRemote):
    """Takes no ``kind`` of objects of some backups: ``fails`` at the first, second, … it sees."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.kind = ""
        self.fails: set[int] = set()
        self.seen: list[str] = []
        self.read: list[str] = []
        self.halt = threading.Event()

    def share(self, halt: object = None, *_: object) -> Failing:
        """As the real one, it does nothing more once its work is to end."""
        made = copy.copy(self)
        if isinstance(halt, threading.Event):
            made.halt = halt
        return made

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        parts = path.split("/")
        if len(parts) > 3:
            if parts[2] not in self.seen:
                self.seen.append(parts[2])
            if self.seen.index(parts[2]) in self.fails and parts[3].startswith(self.kind):
                self.fail(self.halt)
        if self.halt.is_set():
            raise StoppedError("stopped")
        super().put(path, body, digests)

    def get(self, path: str, *, limit: int) -> bytes:
        self.read.append(path)
        return super().get(path, limit=limit)

    def fail(self, _halt: threading.Event) -> None:
        raise ProviderError(f"{self.name} is full")


class Pool:
    """The pool ``tank`` with some datasets, and two providers."""

    def __init__(self, home: Home) -> None:
        self.home = home
        self.folder = home.folder / "pool"
        self.stores = {name: Failing(name) for name in ("one", "two")}
        self.folder.mkdir()
        (self.folder / "made").touch()
        (home.folder / "zfs").write_text(_ZFS.format(folder=home.folder))
        home.configure(ONE_REMOTE="/one", TWO_REMOTE="/two")

    def has(self, *names: str, since: int = 1) -> None:
        """From now on; with another ``since`` these are other snapshots."""
        rows = []
        for number, name in enumerate(names, since):
            rows.append(f"{name}\t{number}\tfilesystem\tlz4\t0\t0\toff\t-\n")
            stream = repo.stream(number + 100, [repo.noise(2000, number)])
            (self.folder / name.replace("/", "_")).write_bytes(stream)
        (self.folder / "tree").write_text("".join(rows))

    def fail(self, kind: str = "", **fails: Sequence[int]) -> None:
        """From now on the providers fail at the datasets of these numbers."""
        for name, store in self.stores.items():
            store.kind, store.fails, store.seen = kind, {*fails.get(name, ())}, []

    def backup(self, what: str, *more: str, status: int = 0) -> Ran:
        ran = self.home.offsite("--backup", what, *more, "--json")
        assert ran.status == status, ran
        return ran

    def restore(self, what: str, *more: str, status: int = 0) -> Ran:
        """As ``tank/new``."""
        arguments = ("--restore", what, "-R", "--as", "tank/new", "--json", *more)
        ran = self.home.offsite(*arguments)
        assert ran.status == status, ran
        return ran

    def received(self) -> dict[str, bytes]:
        """The streams that zfs has received, by what they were made of."""
        files = self.folder.glob("tank_new*")
        return {
            file.name.replace("_new", "").replace("_", "/"): file.read_bytes() for file in files
        }

    def spoil(self, dataset: str) -> None:
        """Damage the chunks of its backup everywhere."""
        for objects, path in self.chunks(dataset):
            objects[path] = bytes(len(objects[path]))

    def lose(self, dataset: str) -> None:
        """The chunks of its backup are nowhere any more."""
        for objects, path in self.chunks(dataset):
            del objects[path]

    def chunks(self, dataset: str) -> list[tuple[dict[str, bytes], str]]:
        """The objects of each provider, and the path of one that is a chunk of its backup."""
        start = f"offsite/backups/{self.rows()[dataset]['id']}/chunk-"
        stores = [store.objects for store in self.stores.values()]
        return [(objects, path) for objects in stores for path in objects if path.startswith(start)]

    def rows(self) -> dict[str, dict[str, Any]]:
        """What --list tells, by dataset."""
        rows = self.home.offsite("--list", "--json").json["backups"]
        assert len({row["dataset"] for row in rows}) == len(rows), rows
        return {row["dataset"]: row for row in rows}

    def places(self) -> dict[str, list[str]]:
        """Where the complete backups are."""
        return {name: row["providers"] for name, row in self.rows().items() if row["complete"]}


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[Pool]:
    with whole.home(tmp_path) as home, pytest.MonkeyPatch.context() as patch:
        made = Pool(home)
        made.has("tank", "tank/a", "tank/b")

        @contextmanager
        def remotes(
            _config: Config, providers: Sequence[Provider], *_: object
        ) -> Iterator[tuple[list[Remote], dict[str, str]]]:
            yield [made.stores[provider.name] for provider in providers], {}

        patch.setattr(connect, "remotes", remotes)
        yield made


BOTH = ["one", "two"]
ONE_BY_ONE = ("--jobs", "1")


def log_of(pool: Pool) -> str:
    return "".join(path.read_text() for path in sorted(pool.home.folder.glob("*.log")))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_pool_is_one_set(pool: Pool, jobs: str) -> None:
    done = pool.backup("tank", "--jobs", jobs).json
    assert [one["dataset"] for one in done["backups"]] == ["tank", "tank/a", "tank/b"]
    assert (done["backup"], done["failed"]) == (done["backups"][-1], {})
    (name,) = {one["snapshot"] for one in done["backups"]}
    assert pool.home.calls("snapshot") == [f"snapshot -r tank@{name}"]
    assert pool.places() == {"tank": BOTH, "tank/a": BOTH, "tank/b": BOTH}


@pytest.mark.parametrize("jobs", [2, 3])
def test_datasets_are_backed_up_side_by_side(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    """Each waits for the others before its first chunk is stored."""
    together = threading.Barrier(jobs, timeout=repo.LONG)
    monkeypatch.setattr(pool.stores["one"], "fail", lambda _halt: together.wait())
    pool.fail("chunk-", one=range(jobs))
    assert pool.backup("tank", "--jobs", str(jobs)).json["failed"] == {}


@pytest.mark.parametrize(
    ("jobs", "settings"),
    [("1", {}), ("3", {"MEMORY_LIMIT": "256M", "SHARD_SIZE": "16M"})],
    ids=["asked for", "the memory takes no more"],
)
def test_one_by_one(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, jobs: str, settings: dict[str, str]
) -> None:
    """None begins before the one before it is complete."""
    for key, value in settings.items():
        monkeypatch.setenv(key, value)
    complete = list[int]()
    store = pool.stores["one"]
    monkeypatch.setattr(store, "fail", lambda _halt: complete.append(manifests(store)))
    pool.fail("chunk-", one=range(3))
    assert pool.backup("tank", "--provider", "one", "--jobs", jobs).json["failed"] == {}
    assert complete == [0, 1, 2]


def test_just_the_root(pool: Pool) -> None:
    done = pool.backup("tank@s", "--no-recursive").json
    assert [one["dataset"] for one in done["backups"]] == ["tank"]
    assert pool.home.calls("snapshot") == ["snapshot tank@s"]
    assert pool.places() == {"tank": BOTH}


def test_a_snapshot_of_the_set_that_is_gone_when_its_turn_comes(pool: Pool) -> None:
    """Another one would be of another moment."""
    (pool.folder / "vanishing").touch()
    done = pool.backup("tank", *ONE_BY_ONE, status=3).json
    assert [one["dataset"] for one in done["backups"]] == ["tank", "tank/a"]
    assert "is gone: it was destroyed after it had been made" in done["failed"]["tank/b"]
    assert len(pool.home.calls("snapshot")) == 1


def test_a_provider_that_fails_at_one_dataset(pool: Pool) -> None:
    pool.fail(two=[1])
    done = pool.backup("tank@s", *ONE_BY_ONE, status=3).json
    assert done["failed"] == {}
    assert [one["failed"] for one in done["backups"]] == [{}, {"two": "two is full"}, {}]
    assert pool.places() == {"tank": BOTH, "tank/a": ["one"], "tank/b": BOTH}
    pool.fail()
    again = pool.backup("tank@s").json
    assert [one["failed"] for one in again["backups"]] == [{}, {}, {}]
    assert pool.places() == {"tank": BOTH, "tank/a": BOTH, "tank/b": BOTH}


@pytest.mark.parametrize(("number", "kind"), cases([0, 1, 2], ["index-", "chunk-", "manifest"]))
def test_a_dataset_at_which_all_providers_fail(pool: Pool, number: int, kind: str) -> None:
    """The others are backed up, those after it, too."""
    pool.fail(kind, one=[number], two=[number])
    done = pool.backup("tank", *ONE_BY_ONE, status=3).json
    names = ["tank", "tank/a", "tank/b"]
    lost = names.pop(number)
    assert [one["dataset"] for one in done["backups"]] == names
    assert done["failed"].keys() == {lost}
    assert "one is full" in done["failed"][lost]
    assert pool.places() == dict.fromkeys(names, BOTH)
    assert f"{lost} is not backed up: no provider is left" in log_of(pool)


def test_a_dataset_that_cannot_be_read(pool: Pool) -> None:
    stream = pool.folder / "tank_a"
    stream.rename(pool.folder / "away")
    done = pool.backup("tank", *ONE_BY_ONE, status=3).json
    assert [one["dataset"] for one in done["backups"]] == ["tank", "tank/b"]
    assert done["failed"].keys() == {"tank/a"}
    # The next run is of a new moment: what failed must not hold up the others.
    (pool.folder / "away").rename(stream)
    again = pool.backup("tank").json
    assert again["failed"] == {}
    assert len(pool.home.calls("snapshot")) == 1
    assert "Going on with" not in log_of(pool)


def test_nothing_can_be_stored(pool: Pool) -> None:
    pool.fail(one=range(9), two=range(9))
    told = pool.backup("tank", status=1).json
    assert "no provider is left to write to" in told["error"]
    assert pool.places() == {}


NAMES = ["tank", "tank/a", "tank/b", "tank/c", "tank/d", "tank/e"]


def test_a_provider_that_fails_in_three_datasets_in_a_row(pool: Pool) -> None:
    pool.has(*NAMES[:5])
    pool.fail(two=[0, 1, 2])
    done = pool.backup("tank", *ONE_BY_ONE, status=3).json
    full, given_up = {"two": "two is full"}, {"two": "it failed several times before"}
    assert [one["failed"] for one in done["backups"]] == [full, full, full, given_up, given_up]
    assert len(pool.stores["two"].seen) == 3
    assert pool.places() == {name: ["one"] for name in NAMES[:5]}


def test_a_provider_that_fails_now_and_then(pool: Pool) -> None:
    pool.has(*NAMES)
    pool.fail(two=[0, 1, 3, 4])
    pool.backup("tank", *ONE_BY_ONE, status=3)
    places = {name: BOTH if name in {"tank/b", "tank/e"} else ["one"] for name in NAMES}
    assert pool.places() == places


def test_all_providers_fail_in_three_datasets_in_a_row(pool: Pool) -> None:
    """After that nobody tries, but what is stored counts."""
    pool.has(*NAMES)
    pool.fail(one=[1, 2, 3], two=[1, 2, 3])
    done = pool.backup("tank", *ONE_BY_ONE, status=3).json
    assert done["failed"].keys() == {*NAMES[1:]}
    assert done["failed"]["tank/d"] == "no provider is left to write to"
    assert pool.places() == {"tank": BOTH}


def manifests(store: MemoryRemote) -> int:
    return sum("/manifest" in path for path in list(store.objects))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_stopped_in_the_middle(pool: Pool, monkeypatch: pytest.MonkeyPatch, jobs: str) -> None:
    """All of it ends, and the next run goes on with it."""
    pool.has(*NAMES)

    first = iter([True])

    def interrupt(halt: threading.Event) -> None:
        """Once the first two are complete; nobody is over before all are told."""
        if next(first, False):
            repo.wait_for(lambda: all(manifests(one) == 2 for one in pool.stores.values()))
            os.kill(os.getpid(), signal.SIGINT)
        assert halt.wait(repo.LONG)

    monkeypatch.setattr(pool.stores["one"], "fail", interrupt)
    pool.fail("chunk-", one=range(2, 6))
    told = pool.backup("tank", "--jobs", jobs, status=130).json
    assert told["error"].startswith("stopped; ")
    assert len(pool.places()) == 2
    assert "is not backed up: " not in log_of(pool)
    pool.fail()
    assert pool.backup("tank").json["failed"] == {}
    assert pool.home.calls("snapshot") == []
    assert pool.places() == dict.fromkeys(NAMES, BOTH)


def test_a_dataset_that_another_run_is_at(pool: Pool) -> None:
    with lock.hold("backup", "tank/a", ["two"]):
        done = pool.backup("tank", status=3).json
    assert done["failed"].keys() == {"tank/a"}
    assert "already running for dataset tank/a" in done["failed"]["tank/a"]
    assert pool.places() == {"tank": BOTH, "tank/b": BOTH}
    with lock.hold("backup", "tank", ["one"]):
        told = pool.backup("tank", status=LockedError.exit_status).json
    assert "already running for dataset tank " in told["error"]


def test_what_is_left_out(pool: Pool) -> None:
    done = pool.backup("tank@s", "--exclude", "a").json
    assert [one["dataset"] for one in done["backups"]] == ["tank", "tank/b"]
    assert pool.home.calls("snapshot") == ["snapshot tank@s tank/b@s"]
    assert "Left out by --exclude or offsite:backup=off: 1 of 3 datasets" in log_of(pool)


def test_a_name_that_is_too_long_for_one_of_them(pool: Pool) -> None:
    long = f"tank/{'b' * 245}"
    pool.has("tank", "tank/a", long)
    for more in (("--dry-run",), ()):
        done = pool.backup("tank@friday", *more, status=3).json
        assert [one["dataset"] for one in done["backups"]] == ["tank", "tank/a"]
        assert done["failed"].keys() == {long}
        assert "has 257 characters" in done["failed"][long]
    assert pool.home.calls("snapshot") == ["snapshot tank@friday tank/a@friday"]
    assert pool.places() == {"tank": BOTH, "tank/a": BOTH}
    assert pool.restore("tank").json["failed"] == {}


def test_a_plan_without_a_provider(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends as the backup would."""

    def unreachable(folder: str, **_: object) -> list[Entry]:
        raise ProviderError(f"cannot list {folder}")

    monkeypatch.setattr(pool.stores["two"], "list", unreachable)
    done = pool.backup("tank", "--dry-run", status=3).json
    why = "its backups cannot be read: cannot list offsite/backups"
    assert [one["failed"] for one in done["backups"]] == [{"two": why}] * 3
    assert [one["providers"] for one in done["backups"]] == [["one"]] * 3


def test_a_plan_changes_nothing(pool: Pool) -> None:
    done = pool.backup("tank", "--dry-run").json
    assert [one["dataset"] for one in done["backups"]] == ["tank", "tank/a", "tank/b"]
    assert pool.home.calls("snapshot") == []
    assert pool.places() == {}


def test_a_plan_knows_what_is_there(pool: Pool) -> None:
    """On one provider, on both."""
    pool.backup("tank@s", "--provider", "one")
    pool.backup("tank/a@s", "--no-recursive")
    plan = pool.backup("tank@s", "--dry-run").json
    known = [(one["complete_on"], one["stream_bytes"] > 0) for one in plan["backups"]]
    assert known == [(["one"], True), (["one", "two"], True), (["one"], True)]
    told = pool.home.offsite("--backup", "tank@s", "--dry-run").stdout
    rows = [line.split()[2:] for line in told.splitlines()[1:4]]
    copied, there = ["copied", "-", "two"], ["there", "already", "-", "one,", "two"]
    assert rows == [copied, there, copied]
    assert "1 dataset of them there already" in told


# --- back again -----------------------------------------------------------------------------------


def streams(*names: str) -> dict[str, bytes]:
    """What zfs sent for the datasets of these numbers."""
    return {
        name: repo.stream(number + 101, [repo.noise(2000, number + 1)])
        for number, name in enumerate(NAMES)
        if name in names
    }


def test_a_set_comes_back(pool: Pool) -> None:
    pool.backup("tank@s")
    plan = pool.restore("tank", "--dry-run").json
    assert [one["target"] for one in plan["restores"]] == ["tank/new", "tank/new/a", "tank/new/b"]
    assert [len(one["chain"]) for one in plan["restores"]] == [1, 1, 1]
    assert all(sum(one["providers"].values()) == one["stored_bytes"] for one in plan["restores"])
    assert plan["estimated_seconds"] > 0
    told = pool.home.offsite("--restore", "tank", "--as", "tank/new", "--dry-run").stdout
    table = {line.split()[0]: " ".join(line.split()[1:]) for line in told.splitlines()}
    assert table["DATASET"] == "FROM CHAIN STREAM TO FETCH"
    assert re.fullmatch(r"tank/a @s \S+ KiB \S+ KiB from \w+", table["tank/new/a"]), told
    assert "/s measured now" in told
    assert pool.received() == {}
    pool.restore("tank", "--at", "1999-12-31", status=2)
    done = pool.restore("tank", "--at", "2199-12-31").json
    assert [one["target"] for one in done["restores"]] == ["tank/new", "tank/new/a", "tank/new/b"]
    assert (done["failed"], done["notes"]) == ({}, [])
    assert pool.received() == streams("tank", "tank/a", "tank/b")
    flags = [line.split()[1:-1] for line in pool.home.calls("receive")]
    assert len(flags) == 3
    assert all("-u" in one and "-F" not in one for one in flags)


def test_a_tree_is_not_put_in_the_place_of_another(pool: Pool) -> None:
    pool.backup("tank@s")
    refused = pool.home.offsite("--restore", "tank", "--replace", "--yes")
    assert (refused.status, pool.received()) == (2, {})
    assert refused.stderr.splitlines()[0] == "ERROR: --replace is for one dataset"
    assert "--no-recursive" in refused.stderr


REFUSED = {
    "room": (("--as", "tank/new"), "not enough room: 9.52 KiB are to be received, tank has"),
    "name": (("--as", f"tank/{'n' * 250}"), "has 257 characters"),
    "parent": (("--as", "tank/there/new"), "the parent tank/there of tank/there/new does not"),
    "pool": ((), "no pool tank here; a dataset is restored into a pool"),
    "feature": (("--as", "tank/new"), "tank has no feature extensible_dataset, which this backup"),
}
_ZPOOL = """\
case "$*" in
*" readonly tank") echo off ;;
*" all tank") printf 'feature@lz4_compress\\tactive\\nfeature@extensible_dataset\\tdisabled\\n' ;;
esac
"""


@pytest.mark.parametrize("why", REFUSED)
def test_a_tree_is_refused_before_the_first_byte(pool: Pool, why: str) -> None:
    """The room would do for each of them by itself."""
    pool.backup("tank@s")
    if why == "room":
        (pool.folder / "room").write_text("4000\n")
    if why == "pool":
        (pool.folder / "tree").write_text("")
    if why == "feature":
        folder = pool.home.folder
        fake_system(folder / "bin", zfs=f'exec /bin/sh {folder}/zfs "$@"', zpool=_ZPOOL)
        pool.home.configure(ONE_REMOTE="/one", TWO_REMOTE="/two", ZFS_COMMAND=f"{folder}/bin/zfs")
    more, told = REFUSED[why]
    ran = pool.home.offsite("--restore", "tank", "-R", *more, "--json")
    assert ran.status == 2, ran
    assert told in ran.json["error"]
    assert pool.home.calls("receive") == pool.home.calls("create") == []
    read = [path.rpartition("/")[2] for store in pool.stores.values() for path in store.read]
    assert [name for name in read if name.startswith("chunk-")] == []


def test_what_is_of_no_set_is_taken_from_the_newest_of_each(pool: Pool) -> None:
    """With a warning: they are of different moments."""
    for name, more in (("tank/a@x", ()), ("tank/b@y", ()), ("tank@z", ("--no-recursive",))):
        pool.backup(name, *more)
    ran = pool.restore("tank")
    taken = [(one["target"], one["snapshot"]) for one in ran.json["restores"]]
    assert taken == [("tank/new", "z"), ("tank/new/a", "x"), ("tank/new/b", "y")]
    assert ran.stderr.count(
        "WARNING: no set of tank is whole: the newest backup of each dataset is taken, of"
        " 3 different moments\n"
    ) == 1  # fmt: skip
    assert pool.received() == streams("tank", "tank/a", "tank/b")
    assert any("/chunk-" in path for store in pool.stores.values() for path in store.read)


def test_an_older_set_is_taken_with_a_warning(pool: Pool) -> None:
    pool.backup("tank@s")
    pool.has(*NAMES[:3], since=11)
    pool.fail(one=[2], two=[2])
    pool.backup("tank@t", *ONE_BY_ONE, status=3)
    ran = pool.restore("tank")
    assert {one["snapshot"] for one in ran.json["restores"]} == {"s"}
    assert "@s is taken: the newer @t has only 2 of 3 datasets" in ran.stderr


def test_a_pool_is_no_file(pool: Pool, tmp_path: Path) -> None:
    """Its root's stream alone is hardly what was meant."""
    pool.backup("tank@s")
    file = tmp_path / "tank.zfs"
    words = ("--restore", "tank", "--to-file", str(file), "--json")
    refused = pool.home.offsite(*words)
    assert (refused.status, file.exists()) == (2, False)
    assert "backups of others below tank" in refused.json["error"]
    assert "--no-recursive" in refused.json["hint"]
    assert pool.home.offsite(*words, "--no-recursive").status == 0
    assert file.read_bytes() == streams("tank")["tank"]


@pytest.mark.parametrize("name", ["tank/a", "tank/b"])
def test_a_dataset_that_nobody_has_whole(pool: Pool, name: str) -> None:
    """The others come back, those after it, too."""
    pool.backup("tank@s")
    pool.spoil(name)
    done = pool.restore("tank", status=3).json
    target = name.replace("tank", "tank/new")
    assert done["failed"].keys() == {target}
    assert len(done["restores"]) == 2
    assert "is not the one that was stored" in done["failed"][target]
    got = pool.received()
    assert got.pop(name, b"") == b""
    assert got == streams(*{"tank", "tank/a", "tank/b"} - {name})
    assert f"{target} is not restored: " in log_of(pool)
    assert "left out from now on: this work" not in log_of(pool)


def test_one_of_them_is_another_snapshot_once_it_was_received(pool: Pool) -> None:
    """By its guid. The others come back; it stays marked as unfinished."""
    pool.backup("tank@s")
    (pool.folder / "other").write_text("tank/a")
    done = pool.restore("tank", status=3).json
    why = "tank/new/a@s was received, but it is not the snapshot backed up"
    assert [*done["failed"]] == ["tank/new/a"]
    assert done["failed"]["tank/new/a"].startswith(why)
    assert [one["target"] for one in done["restores"]] == ["tank/new", "tank/new/b"]
    finished = [line.split()[-1] for line in pool.home.calls("inherit")]
    assert finished == ["tank/new", "tank/new/b"]


def test_what_is_below_a_dataset_that_is_lost(pool: Pool) -> None:
    pool.has("tank", "tank/a", "tank/a/x", "tank/b")
    pool.backup("tank@s")
    pool.spoil("tank/a")
    ran = pool.restore("tank", status=3)
    assert ran.json["failed"].keys() == {"tank/new/a"}
    assert re.search(
        r"by itself: offsite --restore tank/a@2\S+ --no-recursive --as tank/new/a$",
        ran.json["failed"]["tank/new/a"],
    )
    targets = [one["target"] for one in ran.json["restores"]]
    assert targets == ["tank/new", "tank/new/a/x", "tank/new/b"]
    assert "An empty dataset stands for tank/new/a, which cannot be restored" in ran.stderr


def test_what_stands_for_a_lost_dataset_is_no_obstacle(pool: Pool) -> None:
    """To the same command, the next day; but what the user has there by that name is."""
    pool.has("tank", "tank/a", "tank/a/x", "tank/b")
    pool.backup("tank@s")
    pool.lose("tank/a")
    for _ in range(2):
        told = pool.restore("tank", status=3).json
        assert told["failed"].keys() == {"tank/new/a"}
        targets = [one["target"] for one in told["restores"]]
        assert targets == ["tank/new", "tank/new/a/x", "tank/new/b"]
    with (pool.folder / "made").open("a") as made:
        made.write("tank/new/a@mine\t4711\t9001\t1768651200\n")
    assert "tank/new/a exists; it was not" in pool.restore("tank", status=2).json["error"]


def test_nothing_comes_back(pool: Pool) -> None:
    pool.backup("tank@s")
    for name in NAMES[:3]:
        pool.spoil(name)
    told = pool.restore("tank", status=1).json
    assert "chunk 0 is not the one that was stored" in told["error"]
