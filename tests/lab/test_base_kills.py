"""No kill loses what the next increment begins at, though the user destroys the snapshot."""

from __future__ import annotations

import random
import shlex
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lab.faults import victims
from lab.world import World, wait_for
from tests.lab.test_increments import backup, bookmarks, change
from tests.thorough import THOROUGH

KILLS = 200 if THOROUGH else 12
RUNS = 4 * KILLS  # one in four at least is to be struck
NEAR = 2.0  # seconds around the commit
KEPT = 2  # bases stay for a provider


def manifests(world: World) -> set[Path]:
    return {*(world.home / "one/offsite/backups").glob("*/manifest.age")}


def begun(world: World) -> set[Path]:
    return {*(world.home / "one/offsite/backups").glob("*")}


def kill_around_the_commit(world: World, name: str, rng: random.Random) -> tuple[bool, bool]:
    """After its first object, or its manifest, is there, and some time; whether that struck a run
    that had not ended, and whether the backup is whole."""
    before, there = manifests(world), begun(world)
    running = world.start("--backup", name, "--provider", "one")
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
    measured(f"{early} killed before the commit, {late} after it, of {number} runs")
    assert min(early, late) > 0
    facts = world.facts(data)
    world.offsite("--backup", f"{data}@together")  # an increment for one, a full for two
    for name in ("last", "end"):
        backup(world, f"{data}@{name}")  # reads all providers, and tidies up
    assert len(bookmarks(world, data)) <= KEPT
    world.offsite("--restore", f"{data}@end", "--as", f"{data}-back", "--provider", "one")
    assert world.facts(f"{data}-back") == facts
