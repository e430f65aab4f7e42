"""A backup and its restore under fire, every file compared."""

from __future__ import annotations

import random
import re
from collections.abc import Collection, Mapping

from lab.faults import leftovers, report
from lab.faults.plan import Strike, draw
from lab.faults.report import Score
from lab.faults.series import ARENA, Series
from lab.faults.subjects import Subject
from lab.faults.victims import Victim
from lab.world import World

# Bytes a second to or from each provider: time to strike.
SLOW = {"--backup": "--bwlimit 600k", "--restore": "--bwlimit 2M"}
RESTORES = 3  # at most, of one backup
TOO_SMALL = re.compile(r"takes (?:more than|at least) (\d+)M")


def prepare(world: World, dataset: str) -> Mapping[str, str]:
    """Settings that make the data path narrow on any number of cores.

    How much memory that takes is asked of offsite itself, which refuses anything less.
    """
    least = 0
    asked = 256
    while asked != least:
        least = asked
        ran = world.offsite("--backup", dataset, status=2, MEMORY_LIMIT=f"{least}M")
        found = TOO_SMALL.search(ran.stderr)
        assert found is not None, ran
        asked = int(found[1])
    return {"MEMORY_LIMIT": f"{least + ARENA}M"}


def play(
    world: World,
    subject: Subject,
    dataset: str,
    narrow: Mapping[str, str],
    *,
    seed: int,
    interruptions: int,
    first: Collection[Victim] = (),
) -> list[Score]:
    """A series on a backup of ``dataset``, and on restores of it until there are so many
    ``interruptions``, if ``RESTORES`` are enough for that.

    ``first``: whom to kill before the others, once. ``narrow`` is from ``prepare``. Raises
    DefectError.
    """
    snapshots = [*subject.bases, f"s{seed}"]
    before = subject.facts(world, dataset)
    settings = {**narrow, **subject.settings(world, dataset)}
    backup = ("--backup", f"{dataset}@s{seed}", *subject.way)  # each seed sends everything
    saving = _series(world, f"{subject.name} backup", seed, backup, settings)
    saving.tokens = not subject.old
    _play(saving, interruptions * 2 // 3, first)
    saving.score.leftovers += leftovers.of_source(world, dataset, snapshots)
    scores = [saving.score]
    for number in range(RESTORES):
        missing = interruptions - report.interruptions(scores)
        if number and missing <= 0:
            break
        target = f"{dataset}-s{seed}-{number}"
        restore = ("--restore", f"{dataset}@s{seed}", "--as", target)
        name = f"{subject.name} restore {number + 1}"
        loading = _series(world, name, seed, restore, narrow)
        loading.batch = subject.batch
        struck = {fault.victim for fault in report.faults(scores)}
        spared = [victim for victim in first if victim not in struck]
        _play(loading, max(missing, 2), spared)
        loading.score.leftovers += leftovers.of_target(world, target, snapshots)
        loading.score.identical = subject.facts(world, target) == before
        scores.append(loading.score)
    saving.score.identical = all(score.identical for score in scores[1:])
    return scores


def _play(series: Series, enough: int, first: Collection[Victim]) -> None:
    done = series.play(_plan(series, enough, first), enough)
    series.score.stream = done.json[series.command[0].strip("-")]["stream_bytes"]
    series.score.leftovers += leftovers.of_world(series.world, series.shared)


def _series(
    world: World, name: str, seed: int, command: tuple[str, ...], settings: Mapping[str, str]
) -> Series:
    rng = random.Random(f"{seed} {name}")  # noqa: S311 - it shall be the same again
    slow = {"RCLONE_FLAGS": SLOW[command[0]]}
    return Series(world, command, settings, slow, rng, Score(name, seed))


def _plan(series: Series, interruptions: int, first: Collection[Victim]) -> list[Strike]:
    """Some are survived, so it has twice as many. Where zfs is on this machine there is no ssh."""
    distant = bool(series.world.machine.zfs_settings())
    victims = [victim for victim in Victim if distant or victim is not Victim.SSH]
    return draw(series.rng, series.command[0], victims, 2 * interruptions, first)
