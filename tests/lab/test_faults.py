"""The fault matrix: every process of the data path is killed at many points; nothing is lost.

OFFSITE_FAULT_SEED plays other series; script/soak plays them without end.
"""

from __future__ import annotations

import os

import pytest

from lab.faults import matrix, report
from lab.faults.report import Score
from lab.faults.subjects import SUBJECTS, Subject
from lab.faults.victims import Victim
from lab.world import World, wait_for

SEED = int(os.environ.get("OFFSITE_FAULT_SEED", "1"))
INTERRUPTIONS = 25  # at least, of each subject: a hundred together
ROUNDS = 4  # at most; a series that was not aimed at quickly enough is short of some
LINGERING = """\
#!/bin/sh
# A zfs that takes its time to end after it has received everything.
zfs "$@" || exit
case $1 in receive) sleep 20 ;; esac
"""


@pytest.mark.parametrize("subject", SUBJECTS, ids=[subject.name for subject in SUBJECTS])
def test_nothing_is_lost_whoever_is_killed(
    world: World, pool: str, subject: Subject, scores: list[Score]
) -> None:
    mine = interrupt(world, pool, subject, INTERRUPTIONS)
    scores += mine

    check(world, mine, INTERRUPTIONS)
    assert report.in_transfer(mine) >= 0.6 * len(report.faults(mine))
    assert sum(score.resumed for score in mine) >= 0.4 * report.interruptions(mine)


def interrupt(world: World, pool: str, subject: Subject, enough: int) -> list[Score]:
    """Backups and restores of it, until so many of them were interrupted, and everybody was killed
    once: which process is still at work when its strike comes is the machine's matter, too."""
    dataset = f"{pool}/{subject.name}"
    subject.make(world, dataset)
    narrow = matrix.prepare(world, dataset)
    mine: list[Score] = []
    for number in range(ROUNDS):
        missing = enough - report.interruptions(mine)
        spared = sorted(_spared(world, mine))
        if missing <= 0 and not spared:
            break
        seed, more = SEED + number, max(missing, len(spared))
        mine += matrix.play(
            world, subject, dataset, narrow, seed=seed, interruptions=more, first=spared
        )
    return mine


def check(world: World, mine: list[Score], enough: int) -> None:
    """Nothing was lost, nothing left, nothing sent again that need not be; and every process of the
    data path was killed."""
    assert [score.leftovers for score in mine] == [[] for _ in mine]
    assert all(score.identical and not score.lost for score in mine)
    assert [score.beyond for score in mine] == [0] * len(mine)
    assert report.interruptions(mine) >= enough
    assert _spared(world, mine) == set()


def _spared(world: World, mine: list[Score]) -> set[Victim]:
    """The processes of the data path that nobody killed."""
    killed = {fault.victim for fault in report.faults(mine)}
    return {*Victim} - killed - (set() if world.machine.zfs_settings() else {Victim.SSH})


def test_a_restore_killed_when_all_was_received_is_not_done_again(world: World, pool: str) -> None:
    """Nobody saw zfs end; the next run finds all of it, and the mark of an unfinished restore."""
    data, target = f"{pool}/data", f"{pool}/back"
    world.machine.script(f"zfs create {data}; echo content > /{data}/file")
    world.offsite("--backup", f"{data}@s")
    lingering = world.home / "zfs"
    lingering.write_text(LINGERING)
    lingering.chmod(0o755)
    world.machine.push(lingering, f"/{pool}/zfs")
    restore = ("--restore", data, "--as", target)
    running = world.start(*restore, ZFS_COMMAND=f"/{pool}/zfs")
    wait_for(lambda: world.exists(f"{target}@s") or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    running.kill()
    running.communicate()

    done = world.offsite(*restore, "--json")
    assert done.json["restore"]["resumed_chunks"] == 1
    refused = world.offsite(*restore, status=2)
    assert "exists; it was not touched" in refused.stderr
    assert world.machine.script(f"zfs mount {target}; cat /{target}/file").stdout == "content\n"
