"""The end of a tree's restore: properties, and one dataset's trouble is not that of the others."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, cast

import pytest

from offsite import landing
from offsite.errors import OffsiteError
from offsite.fetching import Depot
from offsite.landing import Landing
from offsite.properties import Setting
from offsite.recovery import Request, Result
from offsite.restore import _Finish, _finish_all, _Work
from offsite.zfs.command import Zfs
from tests import repo
from tests.test_trees import ALL, set_of

HOME = (Setting("mountpoint", "/home"),)
MEMBERS = {one.manifest.head.dataset.name: one for one in set_of(1, ALL, 4)}


@pytest.fixture
def zfs(tmp_path: Path) -> Zfs:
    """Writes down what is set; refuses to shelter tank/b, and at times to list or to look."""
    script = tmp_path / "zfs"
    script.write_text(f"""\
case "$*" in
"set "*) echo "$2 $3" >> {tmp_path}/calls ;;
"list -t filesystem -Ho name,canmount,mountpoint") [ ! -e {tmp_path}/no-list ] || exit 1 ;;
esac
case "$*" in "set canmount=noauto tank/b") [ ! -e {tmp_path}/no-shelter ] || exit 1 ;; esac
""")
    return Zfs(command=("/bin/sh", str(script)))


def finish(
    zfs: Zfs, monkeypatch: pytest.MonkeyPatch, lost: dict[str, OffsiteError] | None = None
) -> tuple[_Work, list[str]]:
    """All but what is lost is received, and tank is mounted somewhere; the targets finished."""
    lost = lost or {}
    ended: list[str] = []
    monkeypatch.setattr(
        landing, "look", lambda zfs, name: Landing(zfs, name, exists=True, mark="x")
    )
    monkeypatch.setattr(landing, "finish", lambda found: ended.append(found.dataset))
    request = Request("tank", None, None, "auto", None)
    facts = (request, cast(Depot, None), zfs, "tank", MEMBERS, lost)
    work = _Work(*facts, repo.Recorder(), threading.Event())
    received: list[Any] = []
    for name, backup in MEMBERS.items():
        if name not in lost:
            settings = HOME if name in {"tank", "tank/b"} else ()
            done = Result(backup.id, name, "s", name, 1, 1, 1, 0.0, {}, dry_run=False)
            kept = _Finish(Landing(zfs, name), settings, backup.manifest, updated=False)
            received.append((name, done, kept))
    assert [one.target for one in _finish_all(work, received)] == ended
    return work, ended


def calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_one_whose_place_cannot_be_told_is_not_finished(
    zfs: Zfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no-list").touch()
    work, ended = finish(zfs, monkeypatch)
    assert ended == ["tank/a", "tank/a/x"]
    assert [*work.lost] == ["tank", "tank/b"]


def test_a_lost_one_that_a_next_run_goes_on_with_is_sheltered(
    zfs: Zfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, ended = finish(zfs, monkeypatch, {"tank/a": OffsiteError("its disk is full")})
    assert ended == ["tank", "tank/a/x", "tank/b"]
    hidden = [call for call in calls(tmp_path) if call.startswith("canmount=noauto")]
    assert {call.split()[1] for call in hidden} == set(ALL)
    assert calls(tmp_path)[4] == "mountpoint=/home tank"
    shown = [call.split()[1] for call in calls(tmp_path) if call.startswith("canmount=on")]
    assert shown == ended


def test_only_what_was_sheltered_comes_out(
    zfs: Zfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing gets a mountpoint, which might mount another."""
    (tmp_path / "no-shelter").touch()
    _, ended = finish(zfs, monkeypatch)
    assert ended == [*ALL]
    assert calls(tmp_path)[4:] == [f"canmount=on {name}" for name in ALL[:-1]]
