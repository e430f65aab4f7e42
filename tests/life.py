"""A home, two providers and a day on which the machine keeps dying; and what must be true then."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from offsite import budget, config, connect, indexes, pipeline
from offsite.remote import RcloneRemote, Remote
from offsite.repository import MANIFEST, chunk_name, index_name, is_chunk
from tests import dying, repo, whole
from tests.dying import Killed, World
from tests.storage.memory import MemoryRemote
from tests.whole import DATASET, TARGET, Home

SIZE = 1000
CHUNKS = 5
MONDAY, SUNDAY = f"{DATASET}@monday", f"{DATASET}@sunday"
BACKUP = ("--backup", MONDAY)
STREAM = repo.stream(77, [repo.noise(CHUNKS * SIZE - 1500)])
BOTH = ["one", "two"]
OPENING = index_name(0)
NAMES = {
    MANIFEST,
    *map(chunk_name, range(CHUNKS)),
    *map(index_name, range(1 + -(-CHUNKS // 2))),
}
STILLBORN = "stopped before it began"
Objects = dict[str, bytes]
Held = Mapping[str, set[str]]


@dataclass(frozen=True)
class Life:
    """A home and the world it writes to. The backup of Sunday is complete, if there is one."""

    home: Home
    world: World
    sunday: Mapping[str, Objects]

    def begin(self) -> None:
        """Everything as it was before Monday."""
        for name in BOTH:
            set_objects(self.world.stores[name], self.sunday[name])
        self.lose_journals()
        self.world.live()

    def lose_journals(self) -> None:
        """It is another machine that goes on."""
        for path in self.home.journals:
            path.unlink()

    def run(self, *arguments: str, end: int | None = None, torn: float | None = None) -> bool:
        """Run a command, which may die; whether it came to its end, and well."""
        self.world.live(end, torn)
        try:
            ran = self.home.offsite(*arguments)
        except Killed:
            return False
        finally:
            died, self.world.dead, self.world.end = self.world.dead, False, None
        assert died or ran.status == 0, ran
        return not died

    def held(self) -> dict[str, Held]:
        """Names of whole objects by backup and provider, but for the backup of Sunday."""
        found: dict[str, dict[str, set[str]]] = {}
        for name in BOTH:
            for path, body in objects(self.world.stores[name]).items():
                match = re.fullmatch(r"offsite/backups/([^/]+)/([^/]+)", path)
                if match and path not in self.sunday[name]:
                    names = found.setdefault(match[1], {}).setdefault(name, set())
                    names |= {match[2]} if body or is_chunk(match[2]) else set()
        return {**found}

    def rows(self) -> list[dict[str, Any]]:
        """What --list tells, but for the backup of Sunday, which is always the same."""
        ran = self.home.offsite("--list", "--json")
        assert ran.status == 0, ran
        rows: list[dict[str, Any]] = ran.json["backups"]
        old = [row for row in rows if row["snapshot"] == "sunday"]
        assert [(row["status"], row["providers"]) for row in old] == [("complete", BOTH)] * len(old)
        assert len(old) == bool(self.sunday["one"])
        return [row for row in rows if row not in old]

    def check_told(self) -> None:
        """The list tells of what is there, no less and no more; a restore gets that or nothing."""
        held = self.held()
        rows = {row["id"]: row for row in self.rows()}
        assert rows.keys() == held.keys()
        for backup_id, row in rows.items():
            check_row(row, held[backup_id])
        self.check_offered(complete=any(row["complete"] for row in rows.values()))

    def check_offered(self, *, complete: bool) -> None:
        """A restore takes a whole backup or none."""
        ran = self.home.offsite("--restore", MONDAY, "--as", TARGET, "--dry-run")
        assert ran.status == (0 if complete else 2), ran
        if not complete:
            assert re.search("no finished backup|no backup of", ran.stderr), ran
        if not complete and self.sunday["one"]:
            ran = self.home.offsite("--restore", DATASET, "--as", TARGET, "--dry-run", "--json")
            assert ran.json["restore"]["snapshot"] == "sunday"

    def check_whole(self) -> None:
        """One backup, the same on both providers, with all of the stream; nothing else is left.

        But for a first index that was torn: whose it was nobody knows.
        """
        (row,) = [row for row in self.rows() if row["note"] != STILLBORN]
        assert (row["status"], row["percent"], row["providers"]) == ("complete", 100, BOTH)
        here = f"offsite/backups/{row['id']}/"
        one, two = (
            {path: body for path, body in objects(store).items() if path.startswith(here)}
            for store in self.world.stores.values()
        )
        assert one == two
        names = {path.removeprefix(here) for path in one}
        indexes = sorted(name for name in names if name.startswith("index-"))
        assert names - {*indexes} == {name for name in NAMES if not name.startswith("index-")}
        assert indexes == [*map(index_name, range(len(indexes)))]  # more, where a run went on
        assert self.home.journals == []
        assert self.home.offsite("--restore", MONDAY, "--as", TARGET).status == 0
        assert self.home.received == STREAM


def check_row(row: Mapping[str, Any], held: Held) -> None:
    """``held``: what the providers have of the backup."""
    begun = [names for names in held.values() if OPENING in names]
    assert (row["dataset"], row["snapshot"]) == ((DATASET, "monday") if begun else ("", "")), held
    signed = [name for name in BOTH if MANIFEST in held.get(name, ())]
    if signed:
        assert (row["status"], row["percent"], row["providers"]) == ("complete", 100, signed)
        assert all(held[name] == NAMES for name in signed), "a manifest before all else is there"
        return
    most = max((sum(map(is_chunk, names)) for names in begun), default=0)
    percent = min(99, 100 * most * SIZE // len(STREAM)) if begun else None
    assert (row["status"], row["complete"], row["percent"]) == ("unfinished", False, percent)
    assert (row["chunks"], row["providers"]) == (most, sorted(held))
    assert row["note"] == ("" if begun else STILLBORN)


def objects(store: Remote) -> Objects:
    if isinstance(store, MemoryRemote):
        return dict(store.objects)
    folder = folder_of(store)
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def set_objects(store: Remote, wanted: Objects) -> None:
    if isinstance(store, MemoryRemote):
        store.objects = dict(wanted)
        return
    for path in objects(store).keys() - wanted.keys():
        (folder_of(store) / path).unlink()


def folder_of(store: Remote) -> Path:
    assert isinstance(store, RcloneRemote)
    return Path(store._server._launch.remote)


@contextmanager
def life(folder: Path, stores: Sequence[Remote], *, sunday: bool) -> Iterator[Life]:
    """With a home in ``folder``, and small chunks and indexes."""
    world = World(stores)
    with (
        whole.home(folder) as home,
        dying.in_world(world),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(indexes, "RECEIPTS", 2)
        patch.setattr(budget, "share", lambda *_: repo.BUDGET)
        patch.setattr(config, "_CHUNK_SIZES", (SIZE, SIZE))
        home.configure(ONE_REMOTE="/one", TWO_REMOTE="/two", SHARD_SIZE=str(SIZE))
        home.snapshot("sunday", repo.stream(66, [repo.noise(300)]), guid=66, createtxg=900)
        home.snapshot("monday", STREAM, guid=77)
        with _workers(home, patch):
            if sunday:
                assert home.offsite("--backup", SUNDAY).status == 0
            yield Life(home, world, {name: objects(world.stores[name]) for name in BOTH})


@contextmanager
def _workers(home: Home, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same workers for all commands: forking some for each would take most of the time."""
    settings = config.load(home.environment(home.folder))
    with (
        pipeline.sealing(repo.BUDGET, connect.author(settings).chunks, 3) as sealing,
        pipeline.opening(repo.BUDGET, home.keyring.identities) as opening,
    ):
        patch.setattr(pipeline, "sealing", lambda *_: _lent(sealing))
        patch.setattr(pipeline, "opening", lambda *_: _lent(opening))
        yield


@contextmanager
def _lent(engine: Any) -> Iterator[Any]:
    yield engine
