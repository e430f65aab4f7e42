"""The fault matrix's look at what is left: it names one of each kind."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.faults import leftovers
from lab.host import Host
from lab.machine import Completed
from lab.world import Ran, World

CHUNK = "offsite/backups/b-1/chunk-00000000.age"


class Told(Host):
    """A machine that answers as it is told, by the first words of a command."""

    def __init__(self, answers: Mapping[str, str]) -> None:
        self.version, self._answers = "2.3.2", answers

    def run(self, *argv: str, **_: Any) -> Completed:
        line = " ".join(argv)
        (found,) = [text for words, text in self._answers.items() if line.startswith(words)]
        return Completed(found, "", 0)


def row(**other: object) -> dict[str, object]:
    usual = {"id": "b-1", "complete": True, "status": "complete", "chunks": 1}
    return {**usual, "providers": ["one", "two"], **other}


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Where all is well: one backup of one chunk, on both providers."""
    monkeypatch.setattr(leftovers, "PATIENCE", 0)
    for name in leftovers.PROVIDERS:
        (tmp_path / name / CHUNK).parent.mkdir(parents=True)
        (tmp_path / name / CHUNK).write_text("sealed")
    lists(monkeypatch, row())
    return World(tmp_path, Told({}))


def lists(monkeypatch: pytest.MonkeyPatch, *rows: dict[str, object]) -> None:
    told = Ran(0, json.dumps({"backups": rows}), "")
    monkeypatch.setattr(World, "offsite", lambda *_: told)


@pytest.mark.parametrize(
    "path",
    [
        "run/offsite/rclone.sock",
        ".local/state/offsite/journals/b-1.jsonl",
        ".local/state/offsite/locks/one.lock",
    ],
)
def test_files(world: World, path: str) -> None:
    assert leftovers.of_world(world, [world.home / "shm"]) == []
    (world.home / path).parent.mkdir(parents=True)
    (world.home / path).touch()
    (told,) = leftovers.of_world(world, [])
    assert str(world.home / path).startswith(told)


def test_shared_memory(world: World) -> None:
    (world.home / "shm").touch()
    assert leftovers.of_world(world, [world.home / "shm"]) == [f"{world.home}/shm"]


def test_a_process(world: World) -> None:
    environment = {**os.environ, "HOME": str(world.home)}
    with subprocess.Popen(["sleep", "60"], env=environment) as left:
        try:
            assert leftovers.of_world(world, []) == ["process sleep 60"]
        finally:
            left.kill()


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"complete": False, "status": "unfinished"}, "backup b-1: unfinished"),
        ({"providers": ["two"]}, "only on one provider: b-1"),
        ({"chunks": 2}, "backup b-1: 1 chunks instead of 2"),
    ],
)
def test_a_backup(
    world: World, monkeypatch: pytest.MonkeyPatch, other: dict[str, object], told: str
) -> None:
    lists(monkeypatch, row(**other))
    assert leftovers.of_world(world, []) == [told]


def test_an_object_of_one_provider(world: World) -> None:
    (world.home / "two/offsite/stray").touch()
    (told,) = leftovers.of_world(world, [])
    assert told.startswith("differs between providers: ('offsite/stray', ")


def test_holds_and_bookmarks_of_the_source(tmp_path: Path) -> None:
    marks = [(1, "offsite-a"), (2, "offsite-b"), (2, "offsite-c"), (3, "mine"), (4, "offsite-d")]
    listed = "".join(f"{guid}\ttank/a#{name}\n" for guid, name in marks)
    for holds, more in (("", []), ("tank/a@s\toffsite:b-1\n", ["hold tank/a@s\toffsite:b-1"])):
        answers = {"zfs holds -H tank/a@base tank/a@s": holds, "zfs list": listed}
        world = World(tmp_path, Told(answers))
        told = leftovers.of_source(world, "tank/a", ["base", "s"])
        assert told == [*more, "bookmark tank/a#offsite-a"]


def test_marks_and_more_of_the_target(tmp_path: Path) -> None:
    got = "receive_resume_token\t{}\noffsite:restoring\t{}\n"
    listed = "tank/b\ntank/b@s\n"
    for token, mark, names, left in (
        ("-", "-", "", []),
        ("1-a", "-", "", ["receive_resume_token\t1-a"]),
        ("-", "b-1", "", ["offsite:restoring\tb-1"]),
        ("-", "-", "tank/b/%recv\n", ["tank/b/%recv"]),
    ):
        answers = {"zfs get": got.format(token, mark), "zfs list -rHt all": listed + names}
        world = World(tmp_path, Told(answers))
        assert leftovers.of_target(world, "tank/b", ["s"]) == left
