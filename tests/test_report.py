"""What is said about results: summaries, the list, JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offsite import backup, cli, console, listing, process, restore, storing
from offsite.cli import asking, listed, report
from offsite.config import Config
from offsite.errors import OffsiteError, UsageError
from tests.commandline import RESULT, Verb, live_in, stub


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With one provider, a local folder."""
    return live_in(tmp_path, monkeypatch)


def test_summary_of_a_backup(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    stub(monkeypatch, backup, lambda *_: backup.Outcome((RESULT,), {}, recursive=False))
    assert cli.main(["tank/a"]) == 0
    out, err = capfd.readouterr()
    (log,) = home.glob("*.log")
    summary = [
        "tank/a@auto-20251123 is backed up on bb and scaleway.",
        "  480 MiB in 15 chunks, stored as 228 MiB (2.1 : 1), in 12 s (40 MiB/s)",
        "  backup 20251123t044100-abc, full",
    ]
    assert out.splitlines() == [f"Log file: {log}", *summary]
    assert err == "INFO: Backing up tank/a: a dataset alone means --backup\n"
    text = log.read_text()
    assert err in text
    assert "\n".join(summary) in text


def test_partial_success(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    partial = storing.Result(
        **{**vars(RESULT), "providers": ("bb",), "failed": {"scaleway": "quota\x1b exceeded"}}
    )
    stub(monkeypatch, backup, lambda *_: backup.Outcome((partial,), {}, recursive=False))
    assert cli.main(["-b", "tank/a"]) == 3
    out = capfd.readouterr().out
    assert "is backed up on bb." in out
    assert out.endswith("\nNot on scaleway: quota? exceeded\n")
    assert cli.main(["-b", "tank/a", "--json"]) == 3
    found = json.loads(capfd.readouterr().out)
    assert found["backup"]["failed"] == {"scaleway": "quota\x1b exceeded"}
    assert found["backup"]["stored_bytes"] == 228 << 20


def test_dry_run_writes_no_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    rehearsed = storing.Result(**{**vars(RESULT), "dry_run": True})
    stub(monkeypatch, backup, lambda *_: backup.Outcome((rehearsed,), {}, recursive=False))
    assert cli.main(["-b", "tank/a", "--dry-run"]) == 0
    assert capfd.readouterr().out == (
        "Would back up tank/a@auto-20251123 (full) to bb and scaleway:\n"
        "  about 480 MiB in ~15 chunks before compression. Nothing was changed.\n"
    )
    assert list(home.glob("*.log")) == []


@pytest.mark.parametrize(
    ("known", "told"),
    [
        (
            {"stream_bytes": None, "chunks": 0},
            [
                "Would back up tank/a@auto-20251123 (full) to bb and scaleway:",
                "  zfs does not tell how much. Nothing was changed.",
            ],
        ),
        (
            {"stream_bytes": 0, "chunks": 0},
            [
                "Would back up tank/a@auto-20251123 (full) to bb and scaleway:",
                "  about 0 B in ~0 chunks before compression. Nothing was changed.",
            ],
        ),
        (
            {"resumed_chunks": 8, "stream_bytes": None},
            [
                "Would back up tank/a@auto-20251123 (full) to bb and scaleway:",
                "  zfs does not tell how much. Stored already: 8 chunks. Nothing was changed.",
            ],
        ),
        (
            {"complete_on": ("gone",)},
            [
                "Would copy tank/a@auto-20251123 (full) from gone to bb and scaleway:",
                "  at most 15 chunks, 228 MiB to each; zfs sends nothing. Nothing was changed.",
            ],
        ),
        (
            {"complete_on": ("bb", "gone")},
            [
                "Would copy tank/a@auto-20251123 (full) from bb and gone to scaleway:",
                "  at most 15 chunks, 228 MiB; zfs sends nothing. Nothing was changed.",
            ],
        ),
        (
            {"complete_on": ("scaleway", "bb")},
            ["tank/a@auto-20251123 (full) is on scaleway and bb already. Nothing was changed."],
        ),
    ],
)
def test_a_dry_run_knows_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], known: Any, told: list[str]
) -> None:
    rehearsed = storing.Result(**{**vars(RESULT), "dry_run": True, **known})
    stub(monkeypatch, backup, lambda *_: backup.Outcome((rehearsed,), {}, recursive=False))
    assert cli.main(["-b", "tank/a", "--dry-run"]) == 0
    assert capfd.readouterr().out.splitlines() == told


def test_summary_of_a_restore(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    asked: list[restore.Request] = []
    result = restore.Result(
        backup_id="x",
        dataset="tank/a",
        snapshot="s",
        target="tank/b",
        stream_bytes=64 << 20,
        stored_bytes=32 << 20,
        chunks=2,
        seconds=2.0,
        providers={"bb": 30 << 20, "scw": 2 << 20, "west": 0},
        dry_run=False,
    )

    def run(_: Config, request: restore.Request, *__: object) -> restore.Outcome:
        asked.append(request)
        return restore.Outcome((result,), {}, recursive=False)

    stub(monkeypatch, restore, run)
    line = "-r tank/a@s --as tank/b --provider bb --host h --trust-signer SHA256:a"
    assert cli.main(line.split()) == 0
    assert asked == [restore.Request("tank/a", "s", "tank/b", "bb", "h", ("SHA256:a",))]
    assert capfd.readouterr().out.splitlines()[1:] == [
        "tank/a@s is restored to tank/b.",
        "  64 MiB in 2 chunks, stored as 32 MiB (2.0 : 1), in 2 s (32 MiB/s)",
        "  30 MiB from bb, 2 MiB from scw; signature and hashes verified",
        "  Not mounted yet: zfs mount tank/b",
    ]


CHAIN = (
    restore.Received("id-a", "a", True, 60 << 20, 30 << 20, {"bb": 20 << 20, "scw": 10 << 20}),
    restore.Received("id-b", "b", False, 4 << 20, 2 << 20, {"bb": 0, "scw": 2 << 20}),
)
RESTORED = restore.Result(
    backup_id="id-b",
    dataset="tank/a",
    snapshot="b",
    target="tank/x",
    stream_bytes=64 << 20,
    stored_bytes=32 << 20,
    chunks=3,
    seconds=2.0,
    providers={"bb": 20 << 20, "scw": 12 << 20},
    dry_run=False,
    chain=CHAIN,
)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        (
            {
                "dry_run": True,
                "kept": "tank/x-before",
                "estimated_seconds": 10800.0,
                "properties": ("atime", "org:note"),
            },
            [
                "Would restore tank/a@b to tank/x from bb and scw:",
                "  64 MiB in 3 chunks, 32 MiB to fetch. Nothing was changed.",
                "  about 3 h at the 3.03 KiB/s measured now",
                "  @a  full, 20 MiB from bb, 10 MiB from scw",
                "  @b  incremental, 2 MiB from scw",
                "  2 properties: atime, org:note",
                "  What is there now would be kept as tank/x-before",
            ],
        ),
        (
            {"dry_run": True, "chain": (), "updated": True},
            ["tank/x has tank/a@b already. Nothing was changed."],
        ),
        ({"chain": (), "updated": True}, ["tank/x has tank/a@b already; nothing was changed."]),
        (
            {"chain": CHAIN[1:], "updated": True, "seconds": 0.0},
            [
                "tank/x is updated to tank/a@b.",
                "  64 MiB in 3 chunks, stored as 32 MiB (2.0 : 1), in 0 s",
                "  20 MiB from bb, 12 MiB from scw; signature and hashes verified",
            ],
        ),
        (
            {"kept": "tank/x-before", "resumed_chunks": 1, "properties": ("a",), "locked": True},
            [
                "tank/a@b is restored to tank/x.",
                "  64 MiB in 3 chunks, stored as 32 MiB (2.0 : 1), in 2 s",
                "  a chain of 2 backups",
                "  1 chunk received before",
                "  20 MiB from bb, 12 MiB from scw; signature and hashes verified",
                "  1 property set",
                "  What was there before: tank/x-before",
                "  Its key is not loaded: zfs load-key tank/x",
                "  Not mounted yet: zfs mount tank/x",
            ],
        ),
        (
            {"target": "tank/x y", "locked": True, "chain": CHAIN[:1]},
            [
                "tank/a@b is restored to tank/x y.",
                "  64 MiB in 3 chunks, stored as 32 MiB (2.0 : 1), in 2 s (32 MiB/s)",
                "  20 MiB from bb, 12 MiB from scw; signature and hashes verified",
                "  Its key is not loaded: zfs load-key 'tank/x y'",
                "  Not mounted yet: zfs mount 'tank/x y'",
            ],
        ),
        (
            {"type": "volume", "chain": CHAIN[:1]},
            [
                "tank/a@b is restored to tank/x.",
                "  64 MiB in 3 chunks, stored as 32 MiB (2.0 : 1), in 2 s (32 MiB/s)",
                "  20 MiB from bb, 12 MiB from scw; signature and hashes verified",
            ],
        ),
        (
            {"files": ("a b.001", "a b.002")},
            [
                "tank/a@b is written to a b.001 and a b.002.",
                "  64 MiB in 3 chunks, stored as 32 MiB (2.0 : 1), in 2 s (32 MiB/s)",
                "  signature and hashes verified",
                "  Receive: zfs receive -u TARGET < 'a b.001' && zfs receive -u TARGET < 'a b.002'",
            ],
        ),
    ],
)
def test_what_a_restore_tells(changes: dict[str, Any], lines: list[str]) -> None:
    result = replace(RESTORED, **changes)
    assert report.restore_summary(result).plain.splitlines() == lines


def at_terminal(monkeypatch: pytest.MonkeyPatch, typed: str = "n") -> io.StringIO:
    """What is shown to somebody who types this."""
    terminal, shown = io.StringIO(f"{typed}\n"), io.StringIO()
    monkeypatch.setattr(sys, "stdout", output := io.StringIO())
    for one in (terminal, shown, output):
        monkeypatch.setattr(one, "isatty", lambda: True)
        monkeypatch.setattr(one, "fileno", lambda: 0)
    monkeypatch.setattr(sys, "stdin", terminal)
    monkeypatch.setattr(sys, "stderr", shown)
    return shown


@pytest.mark.parametrize(
    ("typed", "goes_on"), [("y", True), ("YES ", True), ("", False), ("n", False), ("yo", False)]
)
def test_only_yes_is_yes(monkeypatch: pytest.MonkeyPatch, typed: str, goes_on: object) -> None:
    shown = at_terminal(monkeypatch, typed)
    monkeypatch.setattr(process, "is_foreground", lambda _: True)
    with contextlib.nullcontext() if goes_on else pytest.raises(OffsiteError, match="not replaced"):
        asking.about_replacing("tank/x")
    assert "tank/x-before-restore-DATE. Go on? [y/N] " in shown.getvalue()


def refused_unasked() -> None:
    with pytest.raises(UsageError, match="nobody is at a terminal to be asked") as caught:
        asking.about_replacing("tank/x")
    assert "--replace --yes" in str(caught.value.hint)


def test_in_the_background_it_takes_the_flag(capfd: pytest.CaptureFixture[str]) -> None:
    refused_unasked()
    assert capfd.readouterr() == ("", "")


def test_a_background_job_of_a_terminal_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = at_terminal(monkeypatch)
    monkeypatch.setattr(process, "is_foreground", lambda _: False)
    refused_unasked()
    assert shown.getvalue() == ""


def test_who_sends_the_output_elsewhere_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = at_terminal(monkeypatch)
    monkeypatch.setattr(process, "is_foreground", lambda _: True)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False)
    refused_unasked()
    assert shown.getvalue() == ""


def test_the_command_asks_before_anything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[restore.Request] = []

    def run(_config: object, request: restore.Request, *_: object) -> restore.Outcome:
        ran.append(request)
        raise OffsiteError("enough")

    stub(monkeypatch, restore, run)
    assert cli.main(["--restore", "tank/x", "--replace"]) == 2
    assert ran == []
    for flag in ("--yes", "--dry-run"):
        assert cli.main(["--restore", "tank/x", "--replace", flag]) == 1
    assert [one.replace for one in ran] == [True, True]


ROW = listing.Row(
    id="20251123t044100-abc",
    host="nas",
    dataset="tank/a",
    snapshot="auto-20251123",
    type="full",
    created="2025-11-23T04:41:00Z",
    complete=True,
    percent=100,
    stream_bytes=480 << 20,
    stored_bytes=228 << 20,
    chunks=15,
    providers=("bb", "scw"),
    status="complete",
    note="",
    point="auto-20251123",
)
# What scripts rely on.
AS_JSON = {
    "id": "20251123t044100-abc",
    "host": "nas",
    "dataset": "tank/a",
    "snapshot": "auto-20251123",
    "type": "full",
    "created": "2025-11-23T04:41:00Z",
    "complete": True,
    "percent": 100,
    "stream_bytes": 480 << 20,
    "stored_bytes": 228 << 20,
    "chunks": 15,
    "providers": ["bb", "scw"],
    "status": "complete",
    "note": "",
    "point": "auto-20251123",
    "guid": "",
    "dataset_guid": "",
}
UNFINISHED = listing.Row(
    **{**vars(ROW), "complete": False, "percent": 42, "status": "unfinished", "note": "stopped"}
)
HOSTILE = listing.Row(
    **{**vars(ROW), "host": "web", "dataset": "x\x1b[2J", "created": "", "status": "untrusted"}
)


def telling(*rows: listing.Row, **problems: str) -> Verb:
    return lambda *_, **__: listing.Listing(rows, problems)


def test_list(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    stub(monkeypatch, listing, telling(ROW, UNFINISHED))
    assert cli.main(["--list"]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "DATASET SNAPSHOT TYPE CREATED STREAM STORED CHUNKS STATUS PROVIDERS",
        "tank/a auto-20251123 full 2025-11-23 04:41 480 MiB 228 MiB 15 complete bb, scw",
        "tank/a auto-20251123 full 2025-11-23 04:41 480 MiB 228 MiB 15 unfinished 42 % bb, scw",
        "tank/a@auto-20251123: stopped",
    ]


def test_two_histories_under_one_name(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only where the name will not do the table tells what will."""
    note = "of another dataset, which had this name before"
    twin = replace(ROW, point="20251123t044100", note=note)
    rows = (replace(ROW, snapshot="other", point="other", note=note), twin)
    stub(monkeypatch, listing, telling(*rows))
    assert cli.main(["--list"]) == 0
    lines = [" ".join(line.split()) for line in capfd.readouterr().out.splitlines()]
    assert [line.partition(" full")[0] for line in lines[1:3]] == [
        "tank/a other",
        "tank/a auto-20251123 (@20251123t044100)",
    ]
    assert lines[3:] == [f"tank/a@other, tank/a@20251123t044100: {note}"]
    assert cli.main(["--list", "--json"]) == 0
    found = json.loads(capfd.readouterr().out)["backups"]
    assert [row["point"] for row in found] == ["other", "20251123t044100"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            110,
            ["tank/a auto-20251123 nas full 2025-11-23 04:41 480 MiB 228 MiB 15 complete bb, scw"],
        ),
        (
            80,
            [
                "tank/a@auto-20251123",
                "full made 2025-11-23 04:41 on nas, 480 MiB as 228 MiB in 15 chunks,",
                "complete, stored on bb and scw",
            ],
        ),
        (
            40,
            [
                "tank/a@auto-20251123",
                "full made 2025-11-23 04:41 on nas,",
                "480 MiB as 228 MiB in 15 chunks,",
                "complete, stored on bb and scw",
            ],
        ),
    ],
)
def test_no_word_of_the_list_is_broken(
    width: int, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("TERM", "linux")
    monkeypatch.setenv("NO_COLOR", "1")
    found = listing.Listing((ROW, HOSTILE), {})
    shown = console.render(listed.text(found, dataset=None, providers=["bb"]), Terminal())
    told = [" ".join(re.sub(r"\x1b\[[0-9;]*m", "", line).split()) for line in shown.splitlines()]
    assert [line for line in told if line in lines] == lines, told


def test_list_of_several_hosts(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, listing, telling(ROW, HOSTILE))
    assert cli.main(["-l"]) == 0
    out = capfd.readouterr().out
    assert "HOST" in out
    assert "\x1b" not in out
    assert "x?[2J" in out


def test_list_as_json(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    stub(monkeypatch, listing, telling(ROW))
    assert cli.main(["--list", "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out) == {"backups": [AS_JSON]}
    assert err == ""


def test_list_with_problems(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], home: Path
) -> None:
    with Path(os.environ["OFFSITE_CONFIG"]).open("a") as settings:
        settings.write("SCW_REMOTE=/elsewhere\n")
    stub(monkeypatch, listing, telling(ROW, scw="no route"))
    assert cli.main(["--list", "--json"]) == 3
    out, err = capfd.readouterr()
    assert json.loads(out)["problems"] == {"scw": "no route"}
    assert err == "ERROR: scw cannot be read: no route\n"
    stub(monkeypatch, listing, telling(scw="no route", default="gone"))
    assert cli.main(["--list"]) == 1
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines()[-1] == "ERROR: no provider can be read"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("-l", "No backups yet on default. Make one: offsite --backup POOL/DATASET\n"),
        ("-l tank/a", "No backups of tank/a on default. Make one: offsite --backup tank/a\n"),
    ],
)
def test_empty_list(
    line: str, text: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    stub(monkeypatch, listing, telling())
    assert cli.main(line.split()) == 0
    assert capfd.readouterr().out == text


TREE = restore.Outcome(
    (
        replace(RESTORED, target="tank/x", providers={"bb": 20 << 20, "scw": 12 << 20}),
        replace(RESTORED, dataset="tank/a/v", target="tank/x/v w", providers={"bb": 4 << 20}),
    ),
    {},
    recursive=True,
)
ROWS = [
    "DATASET FROM BACKUPS STREAM",
    "tank/x tank/a@b 2 64 MiB",
    "tank/x/v w tank/a/v@b 2 64 MiB",
]
PLANNED = [
    "DATASET FROM CHAIN STREAM TO FETCH",
    "tank/x tank/a @a, @b 64 MiB 20 MiB from bb, 12 MiB from scw",
    "tank/x/v w tank/a/v @a, @b 64 MiB 4 MiB from bb",
]


def test_a_long_chain_of_a_tree_is_told_by_its_ends() -> None:
    chain = tuple(replace(CHAIN[0], snapshot=f"s{number}") for number in range(30))
    planned = tuple(replace(one, dry_run=True, chain=chain) for one in TREE.results)
    told = console.plain(report.restores_summary(replace(TREE, results=planned)))
    assert told.count(" @s0, 28 more, @s29 ") == 2


@pytest.mark.parametrize(
    ("outcome", "lines"),
    [
        (
            TREE,
            [
                "2 of 2 datasets are restored.",
                "24 MiB from bb, 12 MiB from scw; signatures and hashes verified",
                "Not mounted yet: zfs mount -a",
            ],
        ),
        (
            replace(
                TREE,
                results=tuple(replace(one, locked=True) for one in TREE.results[::-1]),
                failed={"tank/x/lost": "nobody has it whole"},
                notes=("tank/a/v was a clone",),
            ),
            [
                "2 of 3 datasets are restored.",
                "24 MiB from bb, 12 MiB from scw; signatures and hashes verified",
                "tank/a/v was a clone",
                "Encrypted: zfs load-key 'tank/x/v w' and 1 more",
                "tank/x/lost is not restored: nobody has it whole",
                "Not mounted yet: zfs mount -a",
            ],
        ),
        (
            replace(
                TREE,
                results=tuple(replace(one, dry_run=True, locked=True) for one in TREE.results),
                estimated_seconds=7200,
            ),
            [
                "2 of 2 datasets would be restored.",
                "24 MiB from bb, 12 MiB from scw; to fetch. Nothing was changed.",
                "about 2 h at the 5.12 KiB/s measured now",
            ],
        ),
    ],
)
def test_what_a_restore_of_a_tree_tells(outcome: restore.Outcome, lines: list[str]) -> None:
    told = console.plain(report.restores_summary(outcome)).splitlines()
    rows = PLANNED if outcome.results[0].dry_run else ROWS
    assert sorted(" ".join(line.split()) for line in told[:3]) == sorted(rows)
    assert [" ".join(line.split()) for line in told[3:]] == lines
