"""MEMORY_LIMIT holds for a set too, however many datasets are worked on at a time."""

from __future__ import annotations

import pytest

from lab.world import World, remotes
from tests.test_slow_provider import peak_of

MIB = 1 << 20
DATASETS = 4
NOISE = 70  # MiB in each
LIMITS = [640, 1024]  # MiB
LEAST = 2 * 64  # MiB: a chunk of two datasets, plain and sealed; else nothing was measured


@pytest.mark.parametrize("limit", LIMITS)
def test_a_set_stays_within_the_limit(world: World, pool: str, limit: int) -> None:
    """Two providers, chunks of the size that is default, all datasets at once."""
    world.configure(**remotes(world.home), MEMORY_LIMIT=f"{limit}M", SHARD_SIZE="32M")
    names = [f"{pool}/data/{number}" for number in range(DATASETS)]
    for name in names:
        world.machine.run("zfs", "create", "-p", name)
        world.machine.script(f"head -c {NOISE * MIB} /dev/urandom > /{name}/noise; sync")
    before = [world.facts(name) for name in names]
    backup = ("--backup", f"{pool}/data", "-R", "--jobs", str(DATASETS))
    assert LEAST < peak(world, *backup) <= limit
    world.machine.run("zfs", "destroy", "-r", f"{pool}/data")
    assert LEAST < peak(world, "--restore", f"{pool}/data", "-R") <= limit
    assert [world.facts(name) for name in names] == before


def peak(world: World, *arguments: str) -> float:
    """The highest memory of all processes of a command, in MiB."""
    running = world.start(*arguments)
    try:
        highest = peak_of(running)
        _, told = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 0, told
    return highest / MIB
