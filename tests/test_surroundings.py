"""Whole commands where the machine around them is not as it should be: told, and nothing lost."""

from __future__ import annotations

import os
import pwd
import signal
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from lab.faults import victims
from offsite import cli, config, lock
from offsite.rclone import launch
from offsite.zfs import pipes
from tests import repo
from tests.programs import fake_system, needs
from tests.test_commands import (
    MONDAY,
    STREAM,
    WAITING,
    bound_by_modes,
    end,
    halfway,
    home_of_two,
    start,
    statuses,
)
from tests.thorough import few
from tests.whole import DATASET, TARGET, Home

# The snapshot that is chosen is destroyed by another one before its hold.
EXPORTED = """\
case "$*" in
"send -n"*) ;;
"send -L"*) echo "warning: cannot send: I/O error" >&2; exit 1 ;;
"list -Ho name -d 0 tank") echo "cannot open 'tank': dataset does not exist" >&2; exit 1 ;;
esac
exec /bin/sh {home}/zfs "$@"
"""
DESTROYED = """#!/bin/sh
[ "$1" != hold ] || rm {home}/snapshots/monday.*
case "$1" in
hold | get | send)
    if [ ! -e {home}/snapshots/monday.facts ]; then
        echo "cannot $1 '{snapshot}': dataset does not exist" >&2
        exit 1
    fi ;;
esac
exec /bin/sh {home}/zfs "$@"
"""
RESTORE = ("--restore", MONDAY, "--as", TARGET)
# The other machine is this one. In mid-send the connection is lost.
SSH = """#!/bin/sh
for last; do :; done
case $last in
*"send -nP"*) exec sh -c "$last" ;;
*"send -"*)
    sh -c "$last" | {{
        head -c 3000000
        until [ -e {home}/go ]; do sleep 0.05; done
    }}
    echo "client_loop: send disconnect: Broken pipe" >&2
    exit 255 ;;
esac
exec sh -c "$last"
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_of_two(tmp_path) as made:
        yield made


@pytest.mark.parametrize("target", ["nopool/new", "nopool/a/b"])
def test_a_pool_that_is_not_there(home: Home, target: str) -> None:
    ran = home.offsite("--restore", MONDAY, "--as", target)
    assert ran.status == 2
    assert ran.stderr == (
        f"ERROR: no pool nopool is imported here to restore {target} into\n"
        "HINT: create it, or choose another --as; imported pools: tank; see what could be:"
        " zpool import\n"
    )


def test_a_parent_that_is_not_there(home: Home) -> None:
    ran = home.offsite("--restore", MONDAY, "--as", "tank/none/new")
    assert ran.status == 2
    assert "ERROR: the parent tank/none of tank/none/new does not exist here\n" in ran.stderr
    assert "HINT: zfs create -p -o mountpoint=none tank/none, or" in ran.stderr


def test_a_snapshot_that_is_destroyed_before_its_hold(home: Home) -> None:
    program = home.folder / "destroyed"
    program.write_text(DESTROYED.format(home=home.folder, snapshot=MONDAY))
    told = end(start("--backup", MONDAY, ZFS_COMMAND=f"/bin/sh {program}"), status=1)
    assert [
        line for line in told.splitlines() if line.startswith(("WARNING", "ERROR", "HINT"))
    ] == [
        f"ERROR: {MONDAY} is gone: it was destroyed before it could be held",
        "HINT: look for what destroys snapshots, then run the same command again",
    ]
    assert home.calls("send") == []
    assert statuses(home) == []
    home.snapshot("next", STREAM, guid=77)
    end(start("--backup", MONDAY))
    assert statuses(home) == [("complete", ["one", "two"])]


def test_a_pool_that_is_exported_in_mid_send(home: Home) -> None:
    program = home.folder / "exported"
    program.write_text(EXPORTED.format(home=home.folder))
    told = end(start("--backup", MONDAY, ZFS_COMMAND=f"/bin/sh {program}"), status=1)
    assert "ERROR: the pool tank is not imported any more (zfs send" in told
    assert "HINT: import it; " in told


def test_the_connection_to_the_pool_breaks_in_mid_send(home: Home) -> None:
    path = fake_system(home.folder / "bin", ssh="") + f":{os.environ['PATH']}"
    (home.folder / "bin/ssh").write_text(SSH.format(home=home.folder))
    running = start("--backup", MONDAY, PATH=path, ZFS_SSH="nas")
    try:
        repo.wait_for(lambda: stored(home) == 4 or running.poll() is not None)  # two on each
        (home.folder / "go").touch()
        told = end(running, status=1)
    finally:
        running.kill()
    assert "ERROR: zfs send: the ssh connection to nas was lost (on nas)\n" in told
    assert "HINT: run the same command again once the network is back; what is stored is" in told
    assert statuses(home) == [("unfinished", ["one", "two"])]
    assert not list(home.folder.parent.rglob("manifest.age"))
    ran = home.offsite("--backup", MONDAY, "--json")
    assert ran.status == 0, ran
    assert ran.json["backup"]["resumed_chunks"] >= 2
    assert statuses(home) == [("complete", ["one", "two"])]
    assert home.offsite("--restore", MONDAY, "--as", TARGET).status == 0
    assert home.received == STREAM


def stored(home: Home) -> int:
    return len([*home.folder.parent.glob("*/offsite/backups/*/chunk-*.age")])


def shell(setting: str) -> tuple[str, ...]:
    """What runs a program after this line of a shell."""
    return ("sh", "-c", f'{setting}; exec "$@"', "sh")


def test_the_pool_s_machine_is_down(home: Home) -> None:
    """By the real ssh: nobody listens at that port of loopback."""
    needs("ssh")
    commands = (("--backup", MONDAY), ("--restore", MONDAY, "--as", TARGET))
    home.offsite("--backup", MONDAY)
    for arguments in commands:
        told = end(
            start(*arguments, ZFS_SSH="root@127.0.0.1", ZFS_SSH_OPTIONS="-F /dev/null -p 1"),
            status=1,
        )
        errors = [line for line in told.splitlines() if line.startswith("ERROR: ")]
        assert len(errors) == 1, told
        assert "root@127.0.0.1" in errors[0], told
        assert "Connection refused" in errors[0], told
        assert "HINT: " in told
    assert statuses(home) == [("complete", ["one", "two"])]


def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a container's, whom no one knows; HOME alone says where it is."""

    def nobody(_: int) -> object:
        raise KeyError

    monkeypatch.delenv("HOME")
    assert config.home_of({}) == Path(pwd.getpwuid(os.getuid()).pw_dir)
    monkeypatch.setattr(pwd, "getpwuid", nobody)
    assert cli.main(["--list"]) == 2
    told = capfd.readouterr().err
    assert told.startswith("ERROR: this user has no home folder\nHINT: set HOME to ")


def test_without_home_it_is_the_user_s(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of some cron: the keys, the log and rclone's settings are there."""
    monkeypatch.delenv("HOME")
    user = SimpleNamespace(pw_dir=str(home.folder))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: user)
    for arguments in (("--backup", MONDAY), ("--restore", MONDAY, "--as", TARGET)):
        ran = home.offsite(*arguments)
        assert (ran.status, ran.stderr) == (0, ""), ran
    assert home.received == STREAM
    assert len([*home.folder.glob("offsite-*.log")]) == 2
    assert statuses(home) == [("complete", ["one", "two"])]


def test_a_home_that_may_only_be_read(home: Home) -> None:
    """The locks and what a run must remember need a place; the log does not."""
    elsewhere = home.folder.parent / "state"
    home.folder.chmod(0o555)
    try:
        prefix = bound_by_modes(home.folder)
        arguments = ("--backup", f"{DATASET}@monday")
        calls = home.folder / "calls"
        calls.write_text("")
        state = str(home.folder / "new/state")
        told = end(start(*arguments, prefix=prefix, XDG_STATE_HOME=state), status=1)
        assert f"ERROR: cannot make the lock folder {home.folder}/new/state/offsite/locks" in told
        assert "HINT: set XDG_STATE_HOME to a folder that stays" in told
        assert "send" not in calls.read_text()
        told = end(start(*arguments, prefix=prefix, XDG_STATE_HOME=str(elsewhere)))
        assert "WARNING: no log file in" in told, told
        file = elsewhere / "monday.zfs"
        words = ("--restore", MONDAY, "--to-file", str(file))
        end(start(*words, prefix=prefix, XDG_STATE_HOME=str(elsewhere)))
        assert file.read_bytes() == STREAM
    finally:
        home.folder.chmod(0o755)
    assert statuses(home) == [("complete", ["one", "two"])]


SURROUNDINGS: list[tuple[str, dict[str, str]]] = [
    ("umask 000", {}),
    ("umask 077", {}),
    ("exec <&-", {}),
    (":", {"LC_ALL": "C"}),
    (":", {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}),
    (":", {"LC_ALL": "xx_YY.UTF-8", "TERM": "nonsense", "TZ": "nowhere"}),
]


@pytest.mark.parametrize(("setting", "environment"), few(SURROUNDINGS))
def test_a_backup_and_a_restore_there(
    home: Home, setting: str, environment: dict[str, str]
) -> None:
    (home.folder / "calls").write_text("")
    state = home.folder.parent / "fresh"
    for arguments in (("--backup", MONDAY), ("--restore", MONDAY, "--as", TARGET), ("--list",)):
        prefix = shell(setting)
        told = end(start(*arguments, prefix=prefix, XDG_STATE_HOME=str(state), **environment))
        assert "WARNING" not in told
    assert home.received == STREAM
    made = [
        state,
        *state.rglob("*"),
        *home.folder.glob("*.log"),
        *(home.folder.parent / "one").rglob("*"),
    ]
    assert len(made) > 10
    open_to_all = [path for path in made if path.lstat().st_mode & (stat.S_IWGRP | stat.S_IWOTH)]
    assert open_to_all == []


@pytest.mark.parametrize("providers", ["one", "all"])
@pytest.mark.parametrize(
    ("program", "why"),
    [
        (None, "rclone: program not found"),
        ("echo rclone v1.74.9", "is version 1.74, too old: 1.75 or newer is needed"),
        ("exit 3", "does not work (exit status 3)"),
    ],
)
def test_no_rclone_of_use(
    home: Home, monkeypatch: pytest.MonkeyPatch, providers: str, program: str | None, why: str
) -> None:
    folder = home.folder / "bin"
    folder.mkdir()
    monkeypatch.setattr(launch, "SCRIPTS", folder / "none")
    monkeypatch.setenv("PATH", f"{folder}:/usr/sbin:/usr/bin:/sbin:/bin")
    if program is not None:
        (folder / "rclone").write_text(f"#!/bin/sh\n{program}\n")
        (folder / "rclone").chmod(0o755)
    elif any(Path(place, "rclone").exists() for place in ("/usr/bin", "/usr/sbin")):
        pytest.skip("this machine has an rclone of its own in /usr/bin")
    ran = home.offsite("--backup", MONDAY, "--provider", providers)
    assert ran.status == 2, ran
    error, hint = ran.stderr.splitlines()[-2:]
    assert error.startswith("ERROR: ")
    assert why in error
    assert hint.startswith("HINT: install it with")
    assert home.calls("send") == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_backup_and_says_what_is_kept(home: Home, number: int) -> None:
    waiting = home.folder / "waiting"
    waiting.write_text(WAITING.format(home=home.folder))
    running = start("--backup", MONDAY, ZFS_COMMAND=f"/bin/sh {waiting}")
    try:
        repo.wait_for((home.folder / "begun").exists)
        running.send_signal(number)
        told = end(running, status=130)
    finally:
        running.kill()
    assert "the same command goes on" in told
    assert home.holds == []
    end(start("--backup", MONDAY))
    assert statuses(home) == [("complete", ["one", "two"])]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ("--backup", MONDAY),
            f"zfs send {MONDAY} has sent nothing for 0 s; it may have long to look for",
        ),
        (
            RESTORE,
            f"zfs receive {TARGET}@monday has taken nothing for 0 s; it may have much to free, or",
        ),
    ],
)
def test_a_zfs_that_waits_for_long_is_told_of(
    home: Home, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    """As if ten minutes had passed. A pool that is suspended looks no other way."""
    if arguments == RESTORE:
        home.offsite("--backup", MONDAY, "--provider", "one")
    monkeypatch.setenv("ZFS_COMMAND", halfway(home))
    monkeypatch.setattr(pipes, "_LONG", 0.2)

    def logged() -> bool:
        return any(told in path.read_text() for path in home.folder.glob("*.log"))

    def resume() -> None:
        try:
            repo.wait_for(logged)
        finally:
            (home.folder / "go").touch()

    user = threading.Thread(target=resume)
    user.start()
    ran = home.offsite(*arguments)
    user.join()
    assert ran.status == 0, ran
    assert f"WARNING: {told} " in ran.stderr
    assert "or the pool may be suspended: see zpool status -x\n" in ran.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_a_restore_and_says_what_is_kept(home: Home, number: int) -> None:
    end(start("--backup", MONDAY))
    running = start(*RESTORE, ZFS_COMMAND=halfway(home))
    try:
        repo.wait_for((home.folder / "begun").exists)
        running.send_signal(number)
        told = end(running, status=130)
    finally:
        running.kill()
    assert f"ERROR: stopped before {TARGET} was whole; nothing else was touched\n" in told
    assert "HINT: the same command goes on from there\n" in told
    end(start(*RESTORE))
    assert home.received == STREAM


def test_a_lock_left_by_a_killed_run_is_told_and_used(home: Home) -> None:
    waiting = home.folder / "waiting"
    waiting.write_text(WAITING.format(home=home.folder))
    running = start("--backup", MONDAY, ZFS_COMMAND=f"/bin/sh {waiting}")
    repo.wait_for((home.folder / "begun").exists)
    (home.folder / "go").touch()
    running.kill()
    running.communicate(timeout=60)
    left = list(lock.directory().glob("backup-*.lock"))
    assert left
    then = time.time() - 120 * 60 - 5
    for path in left:
        os.utime(path, (then, then))
    repo.wait_for(lambda: not victims.of_home(home.folder))
    told = end(start("--backup", MONDAY))
    line = "INFO: Removing old stale lock file (120 minutes old - likely from reboot)"
    log = max(home.folder.glob("offsite-backup-*.log"), key=lambda path: path.stat().st_mtime)
    assert line in told + log.read_text()
    assert statuses(home) == [("complete", ["one", "two"])]
