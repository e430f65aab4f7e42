"""``script/soak``: the fault matrix with one random seed after the other."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError
from lab.faults import matrix, report
from lab.faults.report import Score
from lab.faults.run import DefectError
from lab.faults.subjects import SUBJECTS, Subject
from lab.faults.victims import Victim
from lab.guest import boot
from lab.machine import Machine
from lab.recipe.release import RELEASES
from lab.world import World

VERSIONS = tuple(release.branch for release in RELEASES)
INTERRUPTIONS = 20  # of each round
ALL = 8  # series, in which everybody is struck
POOL = "offsitesoak"


class Options(argparse.Namespace):
    """The command line, typed."""

    minutes: float | None
    interruptions: int | None
    seed: int
    zfs: str


def main() -> int:
    """Go on; 1 if a series was not clean, or there were many and yet somebody was never struck."""
    options = _options()
    print(f"seed {options.seed}, OpenZFS {options.zfs}", flush=True)
    scores: list[Score] = []
    broken = 0
    try:
        for played in _series(options):
            broken += not played
            scores += played
            for score in played:
                print(report.line(score), *score.leftovers, sep="\n    left over: ", flush=True)
            if options.interruptions and report.interruptions(scores) >= options.interruptions:
                break
    except KeyboardInterrupt:
        pass
    print(f"\n{report.table(scores)}")
    dirty = sum(not score.clean for score in scores)
    print(f"{len(scores) - dirty} series clean, {dirty} not; {broken} rounds broken off")
    spared = set(Victim) - {fault.victim for fault in report.faults(scores)}
    if spared:
        print(f"never struck: {', '.join(sorted(spared))}")
    return 1 if dirty or broken or (spared and len(scores) >= ALL) else 0


def _options() -> Options:
    parser = argparse.ArgumentParser(prog="script/soak", description=__doc__)
    parser.add_argument("--minutes", type=float, help="end after so many (default: at ^C)")
    parser.add_argument("--interruptions", type=int, help="end after so many, of whole rounds")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--zfs", choices=VERSIONS, default=VERSIONS[0], help="OpenZFS version")
    return parser.parse_args(namespace=Options())


def _series(options: Options) -> Iterator[list[Score]]:
    """What each round scored, nothing if it broke off; a fresh guest for every four rounds."""
    rng = random.Random(options.seed)  # noqa: S311 - it shall be the same again
    began = time.monotonic()
    while True:
        with boot(options.zfs) as guest:
            for subject in SUBJECTS:
                if options.minutes and time.monotonic() - began > options.minutes * 60:
                    return
                yield _round(guest, subject, rng.randrange(10**6))


def _round(machine: Machine, subject: Subject, seed: int) -> list[Score]:
    home = Path(tempfile.mkdtemp(prefix="offsite-soak-"))
    try:
        machine.make_pool(POOL)
        scores = _play(World.new(home, machine), subject, seed)
    except (DefectError, LabError, AssertionError) as error:
        print(f"BROKEN OFF: {subject.name}, seed {seed}; see {home}\n{error}", flush=True)
        return []
    except BaseException:
        shutil.rmtree(home)
        raise
    finally:
        machine.destroy_pool(POOL)
    shutil.rmtree(home)
    return scores


def _play(world: World, subject: Subject, seed: int) -> list[Score]:
    dataset = f"{POOL}/{subject.name}"
    subject.make(world, dataset)
    narrow = matrix.prepare(world, dataset)
    return matrix.play(world, subject, dataset, narrow, seed=seed, interruptions=INTERRUPTIONS)


if __name__ == "__main__":
    sys.exit(main())
