"""The fault matrix's own judgement: a chunk that was stored and not found again is lost; and how
many strikes a series has."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lab.faults import plan, report, victims
from lab.faults import series as rules
from lab.faults.plan import Strike
from lab.faults.report import Fault, Score
from lab.faults.run import DefectError, Phase, Run
from lab.faults.series import Series
from lab.faults.victims import Victim
from lab.host import Host
from lab.world import Ran, World
from tests import repo

BATCH = 5  # MiB, in chunks of 1 MiB
BY_TOKEN = "Resuming backup of tank/a@s: 8 of ~20 chunks are stored (token)"
REFUSED = "zfs cannot go on from there (cannot resume send)"
COMPARED = "Resuming backup of tank/a@s: 8 of ~20 chunks are stored (re-send and compare)"


def nowhere(home: Path, verb: str = "--backup", version: str = "2.1.11") -> Series:
    rng = random.Random(1)  # noqa: S311 - it shall be the same again
    host = Host.__new__(Host)
    host.version = version
    score = Score("files backup", 1)
    return Series(World(home, host), (verb, "tank/a@s"), {}, {}, rng, score, batch=BATCH)


@pytest.mark.parametrize(
    ("log", "known", "lost", "then"),
    [
        (BY_TOKEN, 8, 0, 5),  # what lies behind the last seam is sent again
        (BY_TOKEN, 9, 1, 5),
        (COMPARED, 8, 0, 8),
        (f"{BY_TOKEN}\n{REFUSED}\n{COMPARED}", 8, 0, 8),
        ("Processing chunk 0", 3, 3, 3),
        ("nothing was begun", 3, 0, 3),
    ],
)
def test_what_a_run_must_find(log: str, known: int, lost: int, then: int, tmp_path: Path) -> None:
    series = nowhere(tmp_path)
    score = series.score
    series.known, series.lasting = known, 5
    series._compare(log)
    assert (score.lost, series.known) == (lost, then)
    assert score.resumed == ("Resuming" in log)


@pytest.mark.parametrize(
    ("version", "verb", "lost"),
    [
        ("2.1.11", "--restore", 4),
        ("2.2.8", "--restore", 0),
        ("2.10.1", "--restore", 0),
        ("2.4.4", "--backup", 4),
    ],
)
def test_what_newer_receives_fall_back_by(
    version: str, verb: str, lost: int, tmp_path: Path
) -> None:
    series = nowhere(tmp_path, verb, version)
    series.known = 12
    series._compare("Resuming restore to tank/b: 8 of 20 chunks are received")
    assert (series.score.lost, series.known) == (lost, 8)
    series._compare("Processing chunk 0")  # the very first is not called resuming
    assert series.score.lost == lost + (8 if lost else 8 - BATCH - 1)


@pytest.mark.parametrize(("found", "lost"), [(4, 0), (3, 1), (0, 4)])
def test_no_file_is_so_long_that_a_receive_falls_back_further(
    found: int, lost: int, tmp_path: Path
) -> None:
    series = nowhere(tmp_path, "--restore", "2.3.2")
    series.known = BATCH + 1 + 4
    told = f"Resuming restore to tank/b: {found} of 30 chunks are received"
    series._compare(told if found else "Processing chunk 0")
    assert series.score.lost == lost


MIB = 1 << 20
KILLED = rules.IN_FLIGHT + rules.REPEATED + rules.ELSE


@pytest.mark.parametrize(
    ("done", "moved", "beyond"),
    [
        (False, 4 * MIB + KILLED, 0),  # 4 are stored behind the seam
        (False, 4 * MIB + KILLED + 7, 7),
        (True, 10 * MIB + rules.REPEATED, 0),  # 10 were missing behind it
        (True, 10 * MIB + rules.REPEATED + 7, 7),
        (True, 20 * MIB, 7 * MIB),  # all of it, from nothing
    ],
)
def test_what_a_backup_may_read_again(
    *, done: bool, moved: int, beyond: int, tmp_path: Path
) -> None:
    for tokens in (True, False):
        series = nowhere(tmp_path)
        series.tokens = tokens
        journal(tmp_path, 10 * MIB, 10 * MIB)
        series._read_journal()
        journal(tmp_path, 14 * MIB, 13 * MIB)
        told = {"sent_bytes": moved, "stream_bytes": 20 * MIB}
        ran = Ran(0, json.dumps({"backup": told}), "") if done else Ran(1, "", "")
        run = SimpleNamespace(log="", moved=moved, committing=done)
        series._judge(cast(Run, run), ran, [(Victim.ZFS, Phase.TRANSFER)])
        assert series.score.beyond == (beyond if tokens else 0)
        series.score.identical = True
        assert series.score.clean == (not series.score.beyond)


@pytest.mark.parametrize(
    ("log", "moved", "beyond"),
    [
        ("", 20 * MIB + rules.REPEATED, 0),
        ("Resuming restore to tank/b: 12 of 20 chunks are received", 10 * MIB + rules.REPEATED, 0),
        ("Resuming restore to tank/b: 12 of 20 chunks are received", 20 * MIB, 7 * MIB),
    ],
)
def test_what_a_restore_may_receive_again(
    log: str, moved: int, beyond: int, tmp_path: Path
) -> None:
    series = nowhere(tmp_path, "--restore")
    ran = Ran(0, json.dumps({"restore": {"stream_bytes": 20 * MIB}}), "")
    run = SimpleNamespace(log=log, moved=moved, committing=False)
    series._judge(cast(Run, run), ran, [(Victim.ZFS, Phase.TRANSFER)])
    assert series.score.beyond == beyond


@pytest.mark.parametrize(
    ("verb", "phase", "told", "done"),
    [
        ("--restore", Phase.AFTER, "ERROR: tank/b exists; it was not touched", True),
        ("--restore", Phase.TRANSFER, "ERROR: tank/b exists; it was not touched", True),
        ("--restore", Phase.AFTER, "ERROR: not enough room", False),
        ("--backup", Phase.AFTER, "ERROR: tank/b exists; it was not touched", False),
    ],
)
def test_a_restore_that_was_killed_when_it_was_done(
    tmp_path: Path, verb: str, phase: Phase, told: str, *, done: bool
) -> None:
    """The next run finds a dataset that is there; with --update it says that all of it is."""
    series = nowhere(tmp_path, verb)
    assert not series._was_done(Ran(2, "", told))
    series.score.faults.append(Fault(Victim.MAIN, phase, interrupted=True))
    assert series._was_done(Ran(2, "", told)) == done
    series.command = (*series.command, "--update")
    assert not series._was_done(Ran(2, "", told))


@pytest.mark.parametrize(("left", "command"), [(7, ("--update",)), (7, ()), (0, ("--update",))])
def test_a_restore_that_was_not_whole_and_told_so_by_nothing(
    tmp_path: Path, left: int, command: tuple[str, ...]
) -> None:
    """Then --update has something to receive."""
    series = nowhere(tmp_path, "--restore")
    series.command = (*series.command, *command)
    ran = Ran(0, json.dumps({"restore": {"stream_bytes": left}}), "")
    run = cast(Run, SimpleNamespace(log="", moved=0))
    if left and command:
        with pytest.raises(DefectError, match="it was not whole, and nothing told so"):
            series._judge(run, ran, [])
    else:
        series._judge(run, ran, [])


def journal(home: Path, stored: int, seam: int) -> None:
    """One receipt of so many bytes, in which the last seam ends there."""
    folder = home / ".local/state/offsite/journals"
    folder.mkdir(parents=True, exist_ok=True)
    receipt = {"offset": stored - MIB, "length": MIB, "seam": {"end": seam}}
    (folder / "a.jsonl").write_text(json.dumps({"receipts": [receipt]}) + "\n")


def test_enough_interruptions_and_then_only_the_late_strikes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = nowhere(tmp_path)
    played: list[Strike] = []

    def attempt(_: Series, left: deque[Strike]) -> Ran:
        """Workers are survived."""
        while left:
            strike = left.popleft()
            played.append(strike)
            ended = strike.victim is not Victim.WORKER
            series.score.faults.append(Fault(strike.victim, Phase.TRANSFER, ended))
            if ended:
                return Ran(1, "", "")
        return Ran(0, "", "")

    monkeypatch.setattr(Series, "_attempt", attempt)
    series.play(plan.draw(series.rng, "--backup", [*Victim], 24), 12)
    early = [strike for strike in played if not strike.late]
    assert sum(strike.victim is not Victim.WORKER for strike in early) == 12
    assert {strike.victim for strike in early} == {*Victim}
    assert [strike.late for strike in played] == [False] * len(early) + [True] * 2


def test_what_was_to_strike_the_stream_is_left_out_once_that_is_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No other run would have a stream, nor the victim: instead of it only the main process."""
    series = nowhere(tmp_path)
    left = deque(plan.draw(series.rng, "--backup", [*Victim], 24))
    late = [strike for strike in left if strike.late]
    killed: list[Victim] = []

    def kill(victim: Victim, *_: object) -> bool:
        killed.append(victim)
        return victim in {Victim.MAIN, Victim.INTERRUPT}

    def note() -> None:
        pass

    monkeypatch.setattr(victims, "kill", kill)
    monkeypatch.setattr(Strike, "await_moment", lambda *_: True)
    run = SimpleNamespace(
        through=False, phase=Phase.TRANSFER, main=1, look=note, note_shared=note, watch=bool
    )
    before = len(left)
    assert len(series._strike(cast(Run, run), left)) == 1
    assert len(left) >= before - 1
    run.through, run.phase = True, Phase.AFTER
    killed.clear()
    series._strike(cast(Run, run), left)
    assert killed[0] is late[0].victim
    assert [strike for strike in left if not strike.late] == []


def test_what_the_table_comes_to() -> None:
    """One row each, all in all, and by victim."""
    faults = [
        Fault(Victim.MAIN, Phase.TRANSFER, interrupted=True),
        Fault(Victim.RCLONE, Phase.BEFORE, interrupted=False),
        Fault(Victim.MAIN, Phase.AFTER, interrupted=True),
    ]
    fine = Score("disk backup", 7, faults[:2], 1, identical=True, stream=4 * MIB, moved=5 * MIB)
    bad = Score("disk restore 1", 7, faults[2:], 2, lost=3, leftovers=["a hold"], stream=MIB)
    fine.seconds, bad.seconds, bad.beyond = 20, 10, 2 * MIB
    assert (fine.clean, bad.clean) == (True, False)
    lines = report.table([fine, bad]).splitlines()
    rows = [re.split(r"  +", line.strip()) for line in lines]
    mib = "{:.1f} MiB".format
    assert rows[1:4] == [
        [
            "disk backup",
            "7",
            "2",
            "1",
            "1",
            "1",
            "1",
            "0",
            "1 of 1",
            "0",
            mib(4),
            mib(1),
            mib(0),
            "20",
        ],
        [
            "disk restore 1",
            "7",
            "1",
            "0",
            "0",
            "1",
            "2",
            "3",
            "0 of 1",
            "1",
            mib(1),
            mib(0),
            mib(2),
            "10",
        ],
        ["all", "3", "1", "1", "2", "3", "3", "1 of 2", "1", mib(5), mib(1), mib(2), "30"],
    ]
    told = "victims: main: 2 (2 interrupted), rclone: 1 (0 interrupted); 15.0 s an interruption"
    assert told in lines


def test_a_family_dies_at_once() -> None:
    """The parent and its children."""
    script = "sleep 60 & sleep 60 & wait"
    with subprocess.Popen(["sh", "-c", script]) as main:
        repo.wait_for(lambda: [one.argv[0] for one in victims.children(main.pid)] == ["sleep"] * 2)
        children = victims.children(main.pid)
        assert victims.kill(Victim.FAMILY, main.pid, Host.__new__(Host), random.Random(1))  # noqa: S311
        assert main.wait(60) == -signal.SIGKILL
        repo.wait_for(lambda: not any(victims.look_up(each.pid) == each for each in children))
        assert not victims.kill(Victim.FAMILY, main.pid, Host.__new__(Host), random.Random(1))  # noqa: S311


def test_those_who_were_spared_are_struck_first() -> None:
    spared = [Victim.RCLONE, Victim.WORKER]
    for seed in range(5):
        strikes = plan.draw(random.Random(seed), "--backup", [*Victim], 4, spared)  # noqa: S311
        assert [strike.victim for strike in strikes[:2]] == spared
        assert len([strike for strike in strikes if not strike.late]) == 6
