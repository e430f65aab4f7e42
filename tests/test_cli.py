"""Errors, exit statuses and streams; keys and a list for real."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import offsite as package
from offsite import age, backup, cli, errors, listing
from offsite.config import Config
from offsite.member import Wish
from offsite.progress import Progress
from tests.commandline import RESULT, Verb, live_in, stub

PROGRAM = [sys.executable, "-m", "offsite"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one provider, a local folder."""
    return live_in(tmp_path, monkeypatch)


def offsite(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*PROGRAM, *arguments], capture_output=True, text=True, timeout=300, check=False, **more
    )


def raising(error: BaseException) -> Verb:
    def run(*_: object, **__: object) -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.OffsiteError, 1),
        (errors.UsageError, 2),
        (errors.ConfigError, 2),
        (errors.KeysError, 2),
        (errors.ZfsError, 1),
        (errors.ProviderError, 1),
        (errors.IntegrityError, 1),
        (errors.LockedError, 4),
        (errors.StoppedError, 130),
    ],
)
def test_errors_have_their_status(
    error: type[errors.OffsiteError],
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    home: Path,
) -> None:
    stub(monkeypatch, backup, raising(error("what\nwas kept", hint="do this")))
    assert cli.main(["-b", "tank/a"]) == status
    out, err = capfd.readouterr()
    assert err == "ERROR: what was kept\nHINT: do this\n"
    (log,) = home.glob("offsite-backup-tank_a-*.log")
    assert out == f"Log file: {log}\n"
    assert [line[20:] for line in log.read_text().splitlines()] == [
        "ERROR: what was kept",
        "HINT: do this",
    ]


def test_the_message_of_a_lock(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    message = "Another offsite backup is already running for dataset tank/photos (PID 12345)"
    stub(monkeypatch, backup, raising(errors.LockedError(message)))
    assert cli.main(["-b", "tank/photos", "-q"]) == 4
    assert capfd.readouterr() == ("", f"ERROR: {message}\n")


def test_a_bug_is_one_line_and_a_traceback_only_if_asked(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, backup, raising(ValueError("oops")))
    assert cli.main(["-b", "tank/a", "-q"]) == 70
    err = capfd.readouterr().err
    assert err.startswith("ERROR: internal error: ValueError: oops\nHINT: this is a bug")
    assert "Traceback" not in err
    assert cli.main(["-b", "tank/a", "-n", "-v"]) == 70
    err = capfd.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.rstrip().endswith("ValueError: oops")


def test_a_failing_system_call_is_no_bug(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, backup, raising(PermissionError(13, "Permission denied", "/x/y")))
    assert cli.main(["-b", "tank/a", "-q"]) == 1
    assert capfd.readouterr().err == "ERROR: /x/y: Permission denied\n"


def test_interrupted_where_nobody_listens(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, listing, raising(KeyboardInterrupt()))
    assert cli.main(["--list"]) == 130
    assert capfd.readouterr().err == "ERROR: interrupted\n"


def test_errors_as_json(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    stub(monkeypatch, backup, raising(errors.LockedError("busy", hint="wait")))
    assert cli.main(["-b", "tank/a", "--json"]) == 4
    assert json.loads(capfd.readouterr().out) == {
        "error": "busy",
        "hint": "wait",
        "exit_status": 4,
    }
    assert cli.main(["--json", "--bakup"]) == 2
    assert json.loads(capfd.readouterr().out)["error"] == "unknown option --bakup"


def test_what_a_backup_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[backup.Request] = []

    def run(
        config: Config, request: backup.Request, progress: Progress, stop: threading.Event
    ) -> backup.Outcome:
        assert config.providers[0].name == "default"
        asked.append(request)
        return backup.Outcome((RESULT,), {}, recursive=False)

    stub(monkeypatch, backup, run)
    assert cli.main(["-b", "tank/a@s", "--provider", "bb", "-n"]) == 0
    assert cli.main(["-q", "tank/a"]) == 0
    some = ["-R", "--exclude", "*/tmp", "--exclude", "x", "-j", "7", "--full"]
    assert cli.main(["-q", "-b", "tank", *some]) == 0
    assert cli.main(["-q", "-b", "tank", "--no-recursive", "--base", "@a"]) == 0
    assert asked == [
        backup.Request("tank/a", "s", "bb", dry_run=True),
        backup.Request("tank/a", None, None, dry_run=False),
        backup.Request("tank", None, None, False, Wish(full=True), True, ("*/tmp", "x"), jobs=7),
        backup.Request("tank", None, None, False, Wish(base="@a"), recursive=False),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--jobs", "0"], "--jobs '0' is no number of datasets"),
        (["--jobs", "many"], "--jobs 'many' is no number of datasets"),
        (["--no-recursive", "--exclude", "x"], "--exclude and --no-recursive exclude each other"),
    ],
)
def test_what_is_no_recursion(
    arguments: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["-b", "tank", *arguments]) == 2
    assert capfd.readouterr().err.splitlines()[0] == f"ERROR: {said}"


def test_a_set_of_which_one_dataset_failed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A table, what is amiss, and status 3."""
    other = replace(RESULT, dataset="tank/a/b", failed={"bb": "quota"})
    lost = {"tank/a/c": "the pool is suspended"}
    done = backup.Outcome((replace(RESULT, snapshot="older"), RESULT, other), lost, recursive=True)
    stub(monkeypatch, backup, lambda *_: done)
    assert cli.main(["-b", "tank/a", "-R"]) == 3
    lines = capfd.readouterr().out.splitlines()
    assert lines[1].split()[:2] == ["DATASET", "TYPE"]
    assert [line.split()[0] for line in lines[2:5]] == ["tank/a", "tank/a", "tank/a/b"]
    assert lines[5].startswith("2 of 3 datasets are backed up as @auto-20251123 on")
    assert lines[-2:] == [
        "tank/a/b is not on bb: quota",
        "tank/a/c is not backed up: the pool is suspended",
    ]
    assert cli.main(["-b", "tank/a", "-R", "--json"]) == 3
    told = json.loads(capfd.readouterr().out)
    assert [one["dataset"] for one in told["backups"]] == ["tank/a", "tank/a", "tank/a/b"]
    assert told["failed"] == {"tank/a/c": "the pool is suspended"}


def test_keys_and_a_list_for_real(home: Path) -> None:
    made = offsite("keys", "init")
    assert (made.returncode, made.stderr) == (0, "")
    assert f"made   age identity: {home}/.config/age/zfs-backup.txt" in made.stdout
    again = offsite("keys", "init", "--json")
    assert {key["created"] for key in json.loads(again.stdout)["keys"]} == {False}
    shown = offsite("keys", "show")
    assert shown.stdout.count("SHA256:") == 2
    assert "AGE-SECRET-KEY" not in shown.stdout
    checked = offsite("keys", "check")
    assert (checked.returncode, checked.stderr) == (0, "")
    found = offsite("--list")
    assert found.stdout == "No backups yet on default. Make one: offsite --backup POOL/DATASET\n"
    assert (found.returncode, found.stderr) == (0, "")
    assert offsite("--list", "--json").stdout == '{\n  "backups": []\n}\n'


def test_keys_for_programs(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As many facts as for people, and nothing private."""

    def told(*arguments: str, status: int = 0) -> Any:
        assert cli.main([*arguments, "--json"]) == status
        out = capfd.readouterr().out
        assert "AGE-SECRET-KEY" not in out
        assert "PRIVATE" not in out
        return json.loads(out)

    def shown() -> dict[str, Any]:
        return {key["kind"]: key for key in told("keys", "show")["keys"]}

    before = shown()
    assert {*before} == {
        *("age recipients", "age identity", "catalog key", "signing key", "allowed signers"),
        *("revoked signers", "vouchers for the signing key"),
    }
    assert {tuple(key["public"]) for key in before.values()} == {()}
    told("keys", "init")
    keys = shown()
    identity = home / ".config/age/zfs-backup.txt"
    assert keys["age identity"]["path"] == str(identity)
    assert keys["age identity"]["public"] == keys["age recipients"]["public"]
    assert keys["age identity"]["public"][0] in identity.read_text()
    assert keys["signing key"]["public"][1].startswith("SHA256:")
    assert keys["vouchers for the signing key"]["public"] == keys["age identity"]["public"]
    assert told("keys", "vouch")["keys"][0]["created"] is False

    proven = told("keys", "check")["proven"]
    assert len(proven) == 5
    assert proven[0] == f"{identity.with_suffix('.pub')}: 1 recipient"
    identity.with_suffix(".pub").write_text(f"{age.generate_identity().recipient}\n")
    failed = told("keys", "check", status=2)
    assert "does not open what is sealed to the recipients" in failed["error"]
    assert f"must be in {identity.with_suffix('.pub')}: move that away" in failed["hint"]


def test_the_version() -> None:
    done = offsite("--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"offsite {package.__version__}\n"


def test_no_provider_at_all(home: Path) -> None:
    Path(os.environ["OFFSITE_CONFIG"]).write_text("")
    done = offsite("--list")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == "ERROR: no storage provider is configured"
    assert "config.env" in done.stderr.splitlines()[1]


def test_a_bad_setting_is_told_before_anything_else(home: Path) -> None:
    Path(os.environ["OFFSITE_CONFIG"]).write_text("A_KEY=1\nSHARD_SIZE=x\n")
    done = offsite("-b", "tank/a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"ERROR: {home}/config.env:2: SHARD_SIZE: 'x' is not a size; "
        "allowed: 1M to 256M, with K, M or G\n"
    )
    assert list(home.glob("*.log")) == []


def test_a_warning_about_the_settings(home: Path) -> None:
    with Path(os.environ["OFFSITE_CONFIG"]).open("a") as settings:
        settings.write("SHARDSIZE=1M\n")
    done = offsite("keys", "init", "-q")
    assert done.stderr == (
        f"WARNING: {home}/config.env:2: SHARDSIZE: unknown key, ignored; did you mean SHARD_SIZE?\n"
    )


def test_a_reader_that_went_away() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*PROGRAM, "--help"], stdout=writing, stderr=subprocess.PIPE, timeout=300, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, b"")


def test_output_on_a_full_disk() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*PROGRAM, "--version"], stdout=full, stderr=subprocess.PIPE, timeout=300, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith(b"ERROR: No space left on device")
    assert b"Traceback" not in done.stderr


def test_closed_streams(home: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", '"$@" >&- 2>&- <&-', "sh", *PROGRAM, "keys", "init"], timeout=300, check=False
    )
    assert done.returncode == 0
    assert (home / ".config/offsite/signing.key").exists()
