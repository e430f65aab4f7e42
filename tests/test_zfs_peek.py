"""The first record of an increment's stream, read from a zfs that is ended then."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from offsite.errors import StoppedError, ZfsError
from offsite.tasks import Source
from offsite.zfs import peek
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError
from offsite.zfs.records import Feature
from offsite.zfs.stream import StreamError
from tests import repo
from tests.repo import wait_for
from tests.zfs_streams import FROMGUID, begin

SNAPSHOT = repo.snapshot()
BASE = Point(f"{repo.DATASET}#bm", FROMGUID, 10)
FLAGS = ("-L", "-c")
FOR_EVER = "cat {0}/begin; exec sleep 600"


def sending(folder: Path, then: str = FOR_EVER, header: bytes | None = None) -> Zfs:
    """A zfs that notes what it is asked for and its pid, and does that."""
    told = begin(Feature.LARGE_BLOCKS | Feature.ZSTD) if header is None else header
    (folder / "begin").write_bytes(told)
    script = f'echo "$*" >> {folder}/calls\necho $$ > {folder}/pid\n{then.format(folder)}\n'
    (folder / "zfs").write_text(script)
    return Zfs(("/bin/sh", str(folder / "zfs")))


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


def test_zfs_is_asked_once_and_ended(tmp_path: Path) -> None:
    zfs = sending(tmp_path)
    found = peek.begin(zfs, SNAPSHOT, BASE, FLAGS)
    assert found.features == Feature.LARGE_BLOCKS | Feature.ZSTD
    assert found.fromguid == FROMGUID
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()
    assert peek.begin(zfs, SNAPSHOT, BASE, FLAGS) == found
    assert calls(tmp_path) == [f"send -L -c -i {BASE.full_name} {SNAPSHOT.full_name}"]
    again = replace(SNAPSHOT, guid=78)  # made anew under its old name
    peek.begin(zfs, again, BASE, FLAGS)
    assert len(calls(tmp_path)) == 2


def test_a_source_asks_only_of_a_snapshot_that_is_there(tmp_path: Path) -> None:
    zfs = sending(tmp_path)
    source = Source.on(zfs, SNAPSHOT, "monday", (BASE,), made=False)
    assert source.features(BASE, FLAGS) == Feature.LARGE_BLOCKS | Feature.ZSTD
    none = Source.on(zfs, replace(SNAPSHOT, guid=0), "monday", (BASE,), made=True)
    assert none.features(BASE, FLAGS) is None
    assert len(calls(tmp_path)) == 1


@pytest.mark.parametrize(
    ("then", "kind", "why"),
    [
        ("echo 'cannot send: permission denied' >&2; exit 1", CommandError, "permission denied"),
        ("head -c 300 {0}/begin", StreamError, "at byte 300: it ended without"),
        ("head -c 312 /dev/zero", StreamError, "does not start with a BEGIN"),
    ],
    ids=["refused", "cut", "no stream"],
)
def test_what_is_no_stream(tmp_path: Path, then: str, kind: type[ZfsError], why: str) -> None:
    with pytest.raises(kind, match=why):
        peek.begin(sending(tmp_path, then), SNAPSHOT, BASE, FLAGS)


def test_it_can_be_stopped(tmp_path: Path) -> None:
    """A pool that is suspended gives nothing."""
    zfs = replace(sending(tmp_path, "exec sleep 600"), stop=threading.Event())
    assert zfs.stop is not None
    stop = zfs.stop

    def stop_it() -> None:
        wait_for((tmp_path / "pid").exists)
        stop.set()

    stopper = threading.Thread(target=stop_it)
    stopper.start()
    with pytest.raises(StoppedError):
        peek.begin(zfs, SNAPSHOT, BASE, FLAGS)
    stopper.join()
