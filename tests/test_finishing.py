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
    """Writes down what is set; at times refuses to shelter tank/b, or to list."""
    script = tmp_path / "zfs"
    script.write_text(f"""\
case "$*" in
"set "* | "inherit "*) echo "$*" >> {tmp_path}/calls ;;
"list -t filesystem -Ho name,canmount,mountpoint") [ ! -e {tmp_path}/no-list ] || exit 1 ;;
esac
case "$*" in "set canmount=noauto "*tank/b) [ ! -e {tmp_path}/no-shelter ] || exit 1 ;; esac
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
            kept = _Finish(Landing(zfs, name), settings, updated=False)
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
    hidden, *others = calls(tmp_path)
    assert hidden == "set canmount=noauto tank tank/a/x tank/b tank/a"
    assert others == [
        "set mountpoint=/home tank",
        "set mountpoint=/home tank/b",
        *(f"inherit -S canmount {name}" for name in ended),
    ]


def test_nothing_gets_a_mountpoint_if_one_is_not_sheltered(
    zfs: Zfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For it might mount that one."""
    (tmp_path / "no-shelter").touch()
    work, ended = finish(zfs, monkeypatch)
    assert ended == [*ALL]
    assert len(calls(tmp_path)) == 1
    assert "canmount=noauto could not be set" in cast(repo.Recorder, work.progress).warnings[0]


def test_the_last_run_goes_on_with_what_an_earlier_one_sheltered(
    zfs: Zfs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though nothing that it sets itself has a place: it would never be mounted again."""
    done = {name: OffsiteError("done before") for name in ("tank", "tank/b")}
    finish(zfs, monkeypatch, done)
    assert calls(tmp_path)[-2:] == ["inherit -S canmount tank/a", "inherit -S canmount tank/a/x"]
