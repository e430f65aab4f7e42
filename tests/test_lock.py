"""Locks, held by real processes that end well, badly, or not at all."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offsite import lock
from offsite.errors import LockedError, OffsiteError

HOLDER = """
import sys, os, time
from offsite import lock
with lock.hold(sys.argv[1], sys.argv[2], sys.argv[3].split(",")):
    if "fork" in sys.argv:
        child = os.fork()
        if child == 0:
            print(os.getpid(), flush=True)  # once it has let go of what it inherited
            time.sleep(300)
            os._exit(0)
    else:
        print("held", flush=True)
    sys.stdin.read()
"""

RACER = """
import contextlib, os, sys
from offsite import lock
from offsite.errors import LockedError
won = 0
for _ in range(400):
    with contextlib.suppress(LockedError), lock.hold("backup", "tank/photos", ["bb", "scw"]):
        os.close(os.open(sys.argv[1], os.O_CREAT | os.O_EXCL))
        os.unlink(sys.argv[1])
        won += 1
print(won)
"""


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path / "offsite" / "locks"


@contextmanager
def holder(
    dataset: str, providers: str, operation: str = "backup", *more: str
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    argv = [sys.executable, "-c", HOLDER, operation, dataset, providers, *more]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


def test_the_second_is_refused_by_name_and_pid() -> None:
    with holder("tank/photos", "bb") as (process, _):
        with pytest.raises(LockedError) as refused, lock.hold("backup", "tank/photos", ["bb"]):
            pass
        assert str(refused.value) == (
            f"Another offsite backup is already running for dataset tank/photos (PID {process.pid})"
        )
        assert refused.value.exit_status == 4


@pytest.mark.parametrize(
    ("operation", "dataset", "provider", "where"),
    [
        ("backup", "tank/music", "bb", ""),
        ("backup", "tank/photos", "scw", ""),
        ("restore", "tank/photos", "bb", ""),
        ("backup", "tank/photos", "bb", "root@nas"),
        ("backup", "tank/photos-bb", "", ""),
    ],
)
def test_anything_else_runs_side_by_side(
    operation: str, dataset: str, provider: str, where: str
) -> None:
    messages: list[str] = []
    with (
        holder("tank/photos", "bb"),
        lock.hold(operation, dataset, [provider], where, messages.append),
    ):
        assert messages == []


def test_all_providers_or_none() -> None:
    with holder("tank/photos", "m"):
        with pytest.raises(LockedError), lock.hold("backup", "tank/photos", ["a", "m", "z"]):
            pass
        messages: list[str] = []
        with lock.hold("backup", "tank/photos", ["a", "z"], tell=messages.append):
            assert messages == []


def test_leaving_leaves_nothing(state: Path) -> None:
    with lock.hold("backup", "tank/photos", ["bb", "scw", "bb"]):
        assert len(files(state)) == 2
    assert files(state) == []
    with pytest.raises(ZeroDivisionError), lock.hold("backup", "tank/photos", ["bb"]):
        1 / 0  # noqa: B018
    assert files(state) == []


def test_a_killed_holder_is_reported_and_its_file_used_again(state: Path) -> None:
    with holder("tank/photos", "bb") as (process, _):
        process.send_signal(signal.SIGKILL)
        process.wait(60)
    (left,) = files(state)
    old = time.time() - 120 * 60 - 5
    os.utime(left, (old, old))
    messages: list[str] = []
    with lock.hold("backup", "tank/photos", ["bb"], tell=messages.append):
        assert messages == ["Removing old stale lock file (120 minutes old - likely from reboot)"]
        assert json.loads(left.read_text())["pid"] == os.getpid()
    assert files(state) == []


def test_a_forked_worker_does_not_keep_a_dead_parents_lock() -> None:
    with holder("tank/photos", "bb", "backup", "fork") as (process, child):
        process.kill()
        process.wait(60)
        try:
            os.kill(int(child), 0)  # the worker lives on
            messages: list[str] = []
            with lock.hold("backup", "tank/photos", ["bb"], tell=messages.append):
                assert len(messages) == 1
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_files_are_private_and_tell_who(state: Path) -> None:
    with lock.hold("restore", "tank/a b;c", ["bb"]):
        (file,) = files(state)
        assert file.stat().st_mode & 0o777 == 0o600
        assert state.stat().st_mode & 0o777 == 0o700
        facts = json.loads(file.read_text())
    assert facts.keys() == {"pid", "dataset", "provider", "started"}
    assert (facts["dataset"], facts["provider"]) == ("tank/a b;c", "bb")


def test_a_file_that_was_replaced_while_held_is_not_deleted(state: Path) -> None:
    with lock.hold("backup", "tank/photos", ["bb"]):
        (file,) = files(state)
        file.unlink()
        with lock.hold("backup", "tank/photos", ["bb"]):
            pass
        file.write_text("another's")
    assert file.read_text() == "another's"


def test_unlinked_between_open_and_flock(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A holder that leaves at the worst moment leaves us a nameless inode: it must not count."""
    really_open = lock._open
    opened: list[Path] = []

    def open_then_lose(path: Path) -> int:
        descriptor = really_open(path)
        if not opened:
            path.unlink()
        opened.append(path)
        return descriptor

    monkeypatch.setattr(lock, "_open", open_then_lose)
    with lock.hold("backup", "tank/photos", ["bb"]):
        assert len(opened) == 2
        assert files(state) == [opened[0]]


def test_never_two_at_once(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", RACER, str(tmp_path / "inside")]
    racers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [racer.communicate(timeout=300)[0] for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * 4
    assert sum(int(answer) for answer in answers) > 0


def test_a_full_disk_is_told_with_the_file(state: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        with (
            pytest.raises(OffsiteError, match=f"cannot write the lock file {state}/.*: ") as told,
            lock.hold("backup", "tank/photos", ["bb"]),
        ):
            pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert told.value.hint == f"make room in {state}"
    assert files(state) == []


def test_what_the_dead_left_is_swept(state: Path) -> None:
    with lock.hold("resume", "one", [""]), lock.hold("backup", "tank/photos", ["bb"]):
        held = files(state)
        for name in ("resume-two.lock", "backup-two.lock"):
            (state / name).write_text("of one that died")
        lock.sweep("resume")
        assert files(state) == sorted([*held, state / "backup-two.lock"])


def test_folder_of_someone_else_is_refused(state: Path) -> None:
    state.parent.mkdir()
    state.symlink_to("/tmp")
    with (
        pytest.raises(OffsiteError, match="not a folder of this user's"),
        lock.hold("backup", "tank/photos", ["bb"]),
    ):
        pass


def test_folder_owned_by_another_user_is_refused(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.mkdir(parents=True)
    monkeypatch.setattr(os, "geteuid", lambda: state.stat().st_uid + 1)
    with (
        pytest.raises(OffsiteError, match="not a folder of this user's"),
        lock.hold("backup", "tank/photos", ["bb"]),
    ):
        pass


def test_a_lock_file_that_is_a_link_is_not_followed(state: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    with lock.hold("backup", "tank/photos", ["bb"]):
        (file,) = files(state)
    file.symlink_to(victim)
    with (
        pytest.raises(OffsiteError, match="cannot open the lock file"),
        lock.hold("backup", "tank/photos", ["bb"]),
    ):
        pass
    assert victim.read_text() == "precious"
