"""No kill loses what the next increment begins at, though the user destroys the snapshot."""

from __future__ import annotations

import random
import shlex
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from lab.faults import leftovers, victims
from lab.world import PROVIDERS, World, wait_for
from tests.lab.test_increments import backup, bookmarks, change
from tests.thorough import THOROUGH

KILLS = 200 if THOROUGH else 12
RUNS = 4 * KILLS  # one in four at least is to be struck
NEAR = 2.0  # seconds around the commit


def manifests(world: World) -> set[Path]:
    return {*(world.home / "one/offsite/backups").glob("*/manifest.age")}


def begun(world: World) -> set[Path]:
    return {*(world.home / "one/offsite/backups").glob("*")}


def spans(world: World) -> list[float]:
    """Seconds from the first object of each whole backup to its manifest, the commit."""
    return [
        path.stat().st_mtime - min(each.stat().st_mtime for each in path.parent.iterdir())
        for path in manifests(world)
    ]


def kill_around_the_commit(
    world: World, name: str, rng: random.Random, providers: str = "one"
) -> tuple[bool, bool]:
    """After its first object, or its manifest, is there, and some time; whether that struck a run
    that had not ended, and whether the backup is whole."""
    before, there = manifests(world), begun(world)
    running = world.start("--backup", name, "--provider", providers)
    try:
        if rng.random() < 0.5:
            wait_for(lambda: manifests(world) - before)
            time.sleep(rng.uniform(0, NEAR / 8))  # then it has mostly ended
        else:
            wait_for(lambda: begun(world) - there)
            time.sleep(rng.uniform(0, NEAR / 10))
    finally:
        running.kill()
        running.communicate(timeout=60)
    wait_for(lambda: not victims.of_home(world.home))
    return running.returncode == -signal.SIGKILL, bool(manifests(world) - before)


def destroy(world: World, snapshot: str) -> None:
    """As one who wants it gone: holds do not stop him."""
    quoted = shlex.quote(snapshot)
    world.machine.script(
        f'zfs holds -H {quoted} | while read -r _ tag _; do zfs release "$tag" {quoted}; done;'
        f" zfs destroy {quoted}"
    )


def test_killed_around_the_commit_and_the_snapshot_destroyed(
    world: World, pool: str, measured: Callable[[str], None]
) -> None:
    """What was killed too early stays unfinished, and the next increment begins before it."""
    rng = random.Random(1)  # noqa: S311 - it shall be the same again
    data, one = f"{pool}/data", ("--provider", "one")
    world.machine.script(f"zfs create {data}; cd /{data}; mkdir text many; seq 99999 > noise")
    base = backup(world, f"{data}@s0", *one)["snapshot"]
    destroy(world, f"{data}@s0")
    number = early = late = 0
    while early + late < KILLS:
        number += 1
        assert number <= RUNS, f"{early + late} struck"
        change(world, data, 2 * number)
        killed = f"{data}@killed{number}"
        struck, whole = kill_around_the_commit(world, killed, rng)
        early += struck and not whole
        late += struck and whole
        destroy(world, killed)
        change(world, data, 2 * number + 1)
        done = backup(world, f"{data}@s{number}", *one)
        assert done["type"] == "incremental"
        assert done["base"] == (f"killed{number}" if whole else base)
        base = done["snapshot"]
        destroy(world, f"{data}@{base}")
        assert len(bookmarks(world, data)) <= 2  # the newest two whole backups'
    took = spans(world)
    measured(
        f"{early} killed before the commit, {late} after it, of {number} runs; the commit comes"
        f" {statistics.median(took):.1f} s, {max(took):.1f} at most, after the first object"
    )
    assert min(early, late) > 0
    facts = world.facts(data)
    world.offsite("--backup", f"{data}@together")  # an increment for one, a full for two
    check_tidied(world, data)
    world.offsite("--restore", f"{data}@end", "--as", f"{data}-back", "--provider", "one")
    assert world.facts(f"{data}-back") == facts


def check_tidied(world: World, data: str) -> None:
    """Runs that read all providers leave the bookmarks of the newest two, and nothing else."""
    done = [backup(world, f"{data}@{name}") for name in ("last", "end")]
    assert {*bookmarks(world, data)} == {f"offsite-{one['backup_id'][-16:]}" for one in done}
    assert leftovers.of_source(world, data, ["last", "end"]) == []


def test_killed_around_the_commits_of_two_providers(world: World, pool: str) -> None:
    """Whatever each of them has then: what it gets next is an increment."""
    rng = random.Random(2)  # noqa: S311 - it shall be the same again
    data = f"{pool}/data"
    world.machine.script(f"zfs create {data}; cd /{data}; mkdir text many; seq 99999 > noise")
    backup(world, f"{data}@s0")
    destroy(world, f"{data}@s0")
    number = killed = 0
    while killed < KILLS // 4:
        number += 1
        assert number <= RUNS, f"{killed} struck"
        change(world, data, 2 * number)
        struck, _ = kill_around_the_commit(world, f"{data}@killed{number}", rng, "all")
        killed += struck
        destroy(world, f"{data}@killed{number}")
        change(world, data, 2 * number + 1)
        done = world.offsite("--backup", f"{data}@s{number}", "--json").json["backups"]
        assert {one["type"] for one in done} == {"incremental"}
        assert sorted(name for one in done for name in one["providers"]) == [*PROVIDERS]
        destroy(world, f"{data}@s{number}")
    check_tidied(world, data)
    facts = world.facts(data)
    for name in PROVIDERS:
        target = f"{data}-{name}"
        world.offsite("--restore", f"{data}@end", "--as", target, "--provider", name)
        assert world.facts(target) == facts
