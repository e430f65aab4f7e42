"""The command line: both spellings, any order, and what is refused."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite import cli
from offsite.cli import parser
from offsite.cli.options import Backup, Help, Keys, List, Options, Restore
from offsite.console import Output
from offsite.errors import UsageError


@pytest.fixture
def empty_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def backup_of(dataset: str = "tank/a", **changes: Any) -> Backup:
    return Backup(
        **{
            "dataset": dataset,
            "snapshot": None,
            "providers": None,
            "dry_run": False,
            "restart": False,
            "full": False,
            "base": None,
            "intermediate": False,
            "bare": False,
            **changes,
        }
    )


def restore_of(dataset: str = "tank/a", **changes: Any) -> Restore:
    return Restore(
        **{
            "dataset": dataset,
            "point": None,
            "target": None,
            "provider": "auto",
            "host": None,
            "trust": (),
            "dry_run": False,
            "restart": False,
            "bare": False,
            **changes,
        }
    )


FULL_BACKUP = Options(
    backup_of(snapshot="mon", providers="bb,scw", dry_run=True, anew=True),
    Output(verbose=True, json=True),
)
FULL_RESTORE = Options(
    restore_of(point="latest", target="b/c", provider="bb", host="nas", trust=("SHA256:x",)),
    Output(quiet=True),
)


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("--backup tank/a", Options(backup_of(), Output())),
        ("-b tank/a", Options(backup_of(), Output())),
        ("backup tank/a", Options(backup_of(), Output())),
        ("--backup=tank/a", Options(backup_of(), Output())),
        ("tank/a --backup", Options(backup_of(), Output())),
        ("tank/a", Options(backup_of(bare=True), Output())),
        ("tank/a@x", Options(restore_of(point="x", bare=True), Output())),
        (
            "--backup tank/a --as @mon --provider bb,scw --dry-run --verbose --json",
            FULL_BACKUP,
        ),
        ("-v --json --provider bb --provider scw -n --as=mon tank/a -b", FULL_BACKUP),
        (
            "--restore tank/a@latest --as b/c --provider bb --host nas --trust-signer SHA256:x -q",
            FULL_RESTORE,
        ),
        (
            "-q --trust-signer SHA256:x --host nas --as b/c restore --provider bb tank/a@latest",
            FULL_RESTORE,
        ),
        ("-r tank/a", Options(restore_of(), Output())),
        ("-r tank/a --replace --yes", Options(restore_of(replace=True, yes=True), Output())),
        ("-r tank/a --provider auto", Options(restore_of(provider="auto"), Output())),
        ("-b tank/a --provider all", Options(backup_of(providers="all"), Output())),
        ("--update -r tank/a", Options(restore_of(update=True), Output())),
        ("--to-file - -r tank/a", Options(restore_of(file="-"), Output())),
        ("--properties none restore tank/a", Options(restore_of(properties="none"), Output())),
        ("--list", Options(List(None, None, None), Output())),
        ("-l tank/a --json", Options(List("tank/a", None, None), Output(json=True))),
        ("list --host nas --provider all", Options(List(None, "all", "nas"), Output())),
        ("--json --list --provider bb", Options(List(None, "bb", None), Output(json=True))),
        ("keys init", Options(Keys("init"), Output())),
        ("keys vouch", Options(Keys("vouch"), Output())),
        ("-v keys check", Options(Keys("check"), Output(verbose=True))),
        # Pools may be called like verbs.
        ("--backup list", Options(backup_of("list"), Output())),
        ("backup backup", Options(backup_of("backup"), Output())),
        ("restore list@keys", Options(restore_of("list", point="keys"), Output())),
        ("backup tank/a --provider list", Options(backup_of(providers="list"), Output())),
        ("--provider backup tank/a", Options(backup_of(providers="backup", bare=True), Output())),
        ("-r backup", Options(restore_of("backup"), Output())),
        ("backup help", Options(backup_of("help"), Output())),
        ("--list prune", Options(List("prune", None, None), Output())),
        ("prune/a", Options(backup_of("prune/a", bare=True), Output())),
        ("backups2024", Options(backup_of("backups2024", bare=True), Output())),
    ],
)
def test_spellings(line: str, meant: Options) -> None:
    assert parser.parse(line.split()) == meant


FLAGS = (("--as", "@x"), ("--provider", "bb"), ("-n",), ("--json",), ("-v",), ("tank/a",))


@settings(deadline=None)
@given(st.permutations([*FLAGS, ("--backup",)]), st.sampled_from(["--backup", "-b"]))
def test_order_does_not_matter(pieces: list[tuple[str, ...]], verb: str) -> None:
    line = [verb if word == "--backup" else word for piece in pieces for word in piece]
    assert parser.parse(line) == parser.parse(
        ["backup", "tank/a", "--as", "@x", "--provider", "bb", "-n", "--json", "-v"]
    )


@settings(deadline=None)
@given(st.lists(st.sampled_from([*"bnqv@-=", "--", "-b", "--as", "list", "tank/a", "", "--x=y"])))
def test_any_line_is_understood_or_refused(line: list[str]) -> None:
    try:
        options = parser.parse(line)
    except UsageError as error:
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert isinstance(options.command, Backup | Restore | List | Keys | Help)


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("", "nothing to do", "offsite --backup DATASET, offsite --restore DATASET --as"),
        ("--backup", "backup: which dataset?", "offsite backup tank/photos"),
        ("restore", "restore: which dataset?", "offsite restore tank/photos"),
        ("--backup a --restore b", "--backup and --restore: one command does one thing", ""),
        ("--backup a -b b", "--backup and -b: one command", ""),
        ("--bakup tank/a", "unknown option --bakup", "did you mean --backup?"),
        ("-b tank/a --providr=bb", "unknown option --providr", "did you mean --provider?"),
        (
            "--list --dry-run",
            "unknown option --dry-run",
            "it belongs to offsite backup and restore; see offsite list --help",
        ),
        ("-b a --at 2026-01-17", "unknown option --at", "it belongs to offsite restore"),
        ("-b a --force", "unknown option --force", "--full begins anew"),
        ("-b a --retention=30", "unknown option --retention", "nothing is ever deleted"),
        ("-b a --to bb", "unknown option --to", "--provider NAME"),
        ("-r a --force", "unknown option --force", "--replace puts the backup in the place"),
        ("-r a --to b", "unknown option --to", "--as TARGET"),
        ("-r a --snapshot b", "unknown option --snapshot", "DATASET@SNAP names"),
        ("-r a --latest", "unknown option --latest", "DATASET@latest"),
        ("-r a --jobs 2", "unknown option --jobs", "one after the other"),
        ("status", "there is no command 'status': offsite list", "if status is a pool: offsite b"),
        ("verify", "there is no command 'verify': offsite keys check", "is a pool"),
        ("prune", "there is no command 'prune': nothing is ever deleted at a provider", "is a p"),
        ("help prune", "there is no command 'prune'", "backup, restore, list, keys"),
        ("--backup a b", "unexpected argument 'b'", "-R backs up all that is below it"),
        ("--restore a b", "unexpected argument 'b'", "the new dataset's name goes after --as"),
        ("--list a b", "unexpected argument 'b'", "one dataset, or none"),
        ("keys init b", "unexpected argument 'b'", "see offsite keys --help"),
        ("backup -r a", "backup and -r: one command does one thing", "too, is -R"),
        ("backup -r", "backup and -r: one command does one thing", "too, is -R"),
        ("-r backup a", "backup and -r: one command does one thing", "too, is -R"),
        ("-b -r a", "-b and -r: one command does one thing", "too, is -R"),
        ("list --backup", "list and --backup: one command does one thing", ""),
        ("--backup /tank/a", "'/tank/a' is a path, and no dataset", "zfs list shows the names"),
        ("--restore a --as /b", "'/b' is a path, and no dataset", ""),
        ("--restore a --as b*", "dataset name 'b*': character '*'", ""),
        ("--list ~/a", "'~/a' is a path, and no dataset", ""),
        ("--list tank/*", "dataset name 'tank/*': character '*' (U+002A)", "ZFS names"),
        ("--backup a#b", "dataset name 'a#b': character '#'", "ZFS names"),
        ("--restore a/", "dataset name 'a/' has an empty", ""),
        ("--list a@b", "'a@b' is a snapshot: a list is of a dataset", "offsite --list a"),
        ("-b a --base=", "--base '' is no snapshot or bookmark", "--base @monday"),
        ("-b a --exclude=", "--exclude names nothing", "'*/cache'"),
        ("-r a --zzz", "unknown option --zzz", "see offsite restore --help"),
        ("-b tank/a --prov bb", "unknown option --prov", "did you mean --provider?"),
        ("--verbos", "unknown option --verbos", "did you mean --verbose?"),
        ("bakup tank/a", "unknown command 'bakup'; did you mean backup?", "offsite backup bakup"),
        ("lst", "unknown command 'lst'; did you mean list?", "if lst is a pool"),
        ("--backup a@", "'a@' is neither DATASET nor DATASET@SNAPSHOT", "tank/photos@monday"),
        ("--backup @x", "'@x' is neither", ""),
        ("--restore a@b@c", "'a@b@c' is neither", ""),
        ("--backup a --as", "argument --as: expected one argument", "offsite backup --help"),
        (
            "--backup a@b --as @c",
            "a@b and --as @c both name the snapshot",
            "a --as @c makes a new one, a@b alone takes or makes that one",
        ),
        ("--backup a --as b/c", "--as 'b/c' is no snapshot name", "--as @monday"),
        ("--restore a --as b@c", "--as 'b@c' is no dataset name", "--as tank/restored"),
        ("-r a --trust-signer x", "--trust-signer 'x' is no fingerprint", "offsite keys show"),
        ("--restore a --update --replace", "--update and --replace exclude each other", ""),
        ("--restore a@b --at 2026-01-17", "@b and --at exclude each other", ""),
        ("--restore a --at yesterday", "--at 'yesterday' is no day or time", "2026-01-17"),
        ("--restore a --at 2026-13-01", "--at '2026-13-01' is no day", ""),
        ("--restore a --to-file x --as b", "--to-file and --as exclude each other", ""),
        ("--restore a --update --properties all", "--update and --properties exclude", ""),
        ("--restore a --to-file x --properties all", "--to-file and --properties exclude", ""),
        ("--restore a --properties some", "argument --properties: invalid choice: 'some'", ""),
        ("--restore a --to-file x --update", "--to-file and --update exclude each other", ""),
        ("keys", "keys: what?", "init, vouch, show or check"),
        ("keys inti", "unknown: keys inti", "init, vouch, show or check"),
        ("-b a -q -v", "--quiet and --verbose exclude each other", ""),
        ("-b a --full --base @x", "--full and --base exclude each other", ""),
        ("-b a --full --intermediate", "--full and --intermediate exclude each other", ""),
        ("-b a --base @x --intermediate", "--base and --intermediate exclude each other", ""),
        ("-b a/b --exclude c", "--exclude is for what is below a/b", "--recursive"),
    ],
)
def test_usage_errors(
    line: str, message: str, hint: str, empty_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(line.split()) == 2
    out, err = capfd.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert lines[0].startswith(f"ERROR: {message}")
    assert hint == "" or hint in lines[1]
    assert len(lines) <= 2
    assert list(empty_home.iterdir()) == []


@pytest.mark.parametrize("verb", ["", "backup", "--restore", "-l", "keys"])
def test_help_fits_a_screen(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main([*verb.split(), "--help"]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert len(out.splitlines()) <= 50
    assert max(len(line) for line in out.splitlines()) <= 80
    assert "offsite" in out


@pytest.mark.parametrize(
    ("line", "same"),
    [
        ("help", "--help"),
        ("help restore", "restore --help"),
        ("help --json", "--help"),
        ("version", "--version"),
        ("-h", "--help"),
    ],
)
def test_help_and_version_as_words(line: str, same: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == cli.main(same.split()) == 0
    out = capfd.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :] != ""


def test_every_option_is_in_the_help(capfd: pytest.CaptureFixture[str]) -> None:
    for verb, options in {
        "backup": ("--as", "--provider", "--dry-run"),
        "restore": ("--as", "--provider", "--host", "--trust-signer", "--dry-run", "status 3"),
        "list": ("--provider", "--host", "--json"),
        "keys": ("init", "show", "check", "-q", "--json"),
        "": ("--help", "--version", "--quiet", "--verbose", "--json", "130", "datasets failed"),
    }.items():
        cli.main([*verb.split(), "--help"])
        out = capfd.readouterr().out
        assert [option for option in options if option not in out] == []


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2026-01-17", "2026-01-17T23:59:59.999999+09:00"),
        ("2026-01-17 12:00", "2026-01-17T12:00:00+09:00"),
        ("2026-01-17T12:00:30", "2026-01-17T12:00:30+09:00"),
        ("2026-01-17T12:00Z", "2026-01-17T12:00:00+00:00"),
        ("2026-01-17T12:00+01:00", "2026-01-17T12:00:00+01:00"),
    ],
)
def test_moments(typed: str, meant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the user's time zone, unless one is named; a day means its end."""
    found = moment("Asia/Tokyo", typed, monkeypatch)
    assert found.at == datetime.fromisoformat(meant)


def moment(zone: str, typed: str, monkeypatch: pytest.MonkeyPatch) -> Restore:
    """What --at means there."""
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        found = parser.parse(["--restore", "a", "--at", typed]).command
    finally:
        monkeypatch.undo()
        time.tzset()
    assert isinstance(found, Restore)
    return found


TWICE = "that hour comes twice"


@pytest.mark.parametrize(
    ("typed", "meant", "told"),
    [
        ("2026-10-25 01:59", "2026-10-25T01:59+02:00", "2026-10-25 01:59 CEST"),
        (
            "2026-10-25 02:30",
            "2026-10-25T02:30+01:00",
            f"2026-10-25 02:30 CET, not CEST: {TWICE}; 2026-10-25T02:30+02:00 is the other",
        ),
        ("2026-10-25T02:30+02:00", "2026-10-25T02:30+02:00", "2026-10-25 02:30 UTC+02:00"),
        ("2026-10-25 03:00", "2026-10-25T03:00+01:00", "2026-10-25 03:00 CET"),
        ("2026-03-29 02:30", "2026-03-29T03:30+02:00", "2026-03-29 03:30 CEST"),
        ("2026-10-25", "2026-10-25T23:59:59.999999+01:00", "2026-10-25 23:59 CET"),
    ],
)
def test_the_zone_and_an_hour_that_comes_twice_are_told(
    typed: str, meant: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = moment("Europe/Berlin", typed, monkeypatch)
    assert (found.at, found.moment) == (datetime.fromisoformat(meant), told)


def test_stdout_is_taken_once(empty_home: Path) -> None:
    with pytest.raises(UsageError, match="--json and --to-file - both want stdout"):
        parser.parse(["--restore", "a", "--to-file", "-", "--json"])
    assert list(empty_home.iterdir()) == []


@pytest.mark.parametrize("verb", ["--backup", "--list"])
@pytest.mark.parametrize("names", [[""], [" "], ["bb", ""]])
def test_an_empty_variable_does_not_mean_all_providers(verb: str, names: list[str]) -> None:
    options = [f"--provider={name}" for name in names]
    with pytest.raises(UsageError, match="--provider names none"):
        parser.parse([verb, "tank/a", *options])
