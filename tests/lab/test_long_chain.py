"""A chain of thirty increments over random changes, restored at every point of it.

Some points are made as a user makes them, one a day, the others by one run with --intermediate.
OFFSITE_CHAIN sets another length, OFFSITE_CHAIN_SEED plays another story.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, assume, given, seed, settings
from hypothesis import strategies as st

from lab.world import World

LINKS = int(os.environ.get("OFFSITE_CHAIN", "30"))
SEED = os.environ.get("OFFSITE_CHAIN_SEED")
THIRD = LINKS // 3  # as much as one test has the time to restore
SINGLY = 2  # links at the begin, and at the end, that are commands of their own
FILES = [f"f{number}" for number in range(12)]
FILE = st.sampled_from(FILES)
SIZE = st.sampled_from([1, 511, 4096, 77_000, 130_000, 400_000])
# What a hand in the shell does to a file; {0} and {1} are files, {2} a size in bytes.
OPERATIONS = (
    "head -c {2} /dev/urandom > {0}",
    "seq {2} | head -c {2} >> {0}",
    "dd if=/dev/urandom of={0} bs=1 count=1000 seek={2} conv=notrunc",
    "truncate -s {2} {0}",
    "mv -f {0} {1}",
    "rm {0}",
    "rm -f {1}; ln {0} {1}",
    "rm -f {1}; ln -s {0} {1}",
    "touch {0}; chmod 640 {0}; chown {2}:7 {0}",
    "touch {0}; setfattr -n user.note -v {2} {0}",
    "mkdir -p dir; cp {0} dir/{1}",
    "rm -r dir",
    "mkdir -p {0}.many; for i in $(seq 40); do echo {2} > {0}.many/$i; done",
    "rm -r {0}.many",
    "mv {0}.many {1}.many",
)
OPERATION = st.builds(str.format, st.sampled_from(OPERATIONS), FILE, FILE, SIZE)
# The last one of each day always does something: no two days are alike.
LAST = st.builds(
    "rm -f {0}; head -c {1} /dev/urandom > {0}".format, FILE, SIZE.filter(lambda size: size > 1)
)
DAY = st.tuples(st.lists(OPERATION, min_size=2, max_size=8), LAST).map(
    lambda day: [*day[0], day[1]]
)
# An operation may fail (there is no such file, a link leads to itself): the day goes on.
ONE = "( {} ) 2>/dev/null || echo failed"
# Of every snapshot: what is in its files, a line "--", and what else there is to know of them.
FACTS = """
for number in $(seq 0 {1}); do
    cd "/{0}/.zfs/snapshot/d$number"
    echo "== d$number"
    find . -type f -exec sha256sum {{}} +
    echo --
    find . -exec stat -c '%N %f %s %u %g %y %h' {{}} +
    find . -exec getfattr -hdm - {{}} + 2>/dev/null
done
"""


def random_days(test: Callable[..., None]) -> Callable[..., None]:
    """Give the test what happens on each day, the same in every run unless there is a seed."""
    days = st.lists(DAY, min_size=LINKS + 1, max_size=LINKS + 1)
    told = settings(
        max_examples=1,
        derandomize=SEED is None,
        phases=[Phase.generate],
        deadline=None,
        suppress_health_check=[*HealthCheck],
    )(given(days=days)(test))
    return seed(int(SEED))(told) if SEED is not None else told


@pytest.mark.parametrize(
    ("first", "last"),
    [(0, THIRD), (THIRD, 2 * THIRD), (2 * THIRD, LINKS), (LINKS, LINKS)],
)
@random_days
def test_a_long_chain(
    world: World, pool: str, first: int, last: int, days: list[list[str]]
) -> None:
    """Every point of a part of it: the first in one go, with what it stands on and nothing
    younger; then a command for each, which brings just that one. The last one of all in one go."""
    data, target = f"{pool}/work", f"{pool}/back"
    facts = make_chain(world, data, days)
    for point in range(first, last + 1):
        where = ("--as", target, *(["--update"] if point > first else []))
        done = world.offsite("--restore", f"{data}@d{point}", *where, "--json").json["restore"]
        came = [point] if point > first else range(point + 1)
        assert [one["snapshot"] for one in done["chain"]] == [f"d{number}" for number in came]
        assert not world.exists(f"{target}@d{point + 1}")
    world.machine.run("zfs", "mount", target)
    assert facts_of(world, target, last) == facts[: last + 1]


def make_chain(world: World, data: str, days: list[list[str]]) -> list[tuple[str, str]]:
    """A dataset on which all this happened, its snapshots d0, d1, … backed up; their facts."""
    # The first that Hypothesis draws is always its simplest: every day the same, one operation.
    assume(len({operation for day in days for operation in day}) > 2 * LINKS)
    world.machine.script(f"zfs create -o snapdir=visible -o recordsize=32K {data}")
    failed = 0
    for number, operations in enumerate(days):
        if number == LINKS // 2:  # the chain keeps its flags (test_increments)
            world.machine.run("zfs", "set", "compression=zstd", "recordsize=1M", data)
        steps = [f"cd /{data}", *map(ONE.format, operations), f"zfs snapshot {data}@d{number}"]
        failed += world.machine.script("\n".join(steps)).stdout.count("failed")
    assert failed < sum(map(len, days)) / 2
    runs = [*range(SINGLY + 1), LINKS - SINGLY, *range(LINKS - SINGLY + 1, LINKS + 1)]
    told = []
    for number in runs:
        command = ("--backup", f"{data}@d{number}", "--intermediate", "--provider", "one", "--json")
        told += world.offsite(*command).json["backups"]
    assert [(one["snapshot"], one["base"]) for one in told] == [
        (f"d{number}", f"d{number - 1}" if number else None) for number in range(len(days))
    ]
    facts = facts_of(world, data, LINKS)
    assert len({contents for contents, _ in facts}) == len(days)
    return facts


def facts_of(world: World, dataset: str, last: int) -> list[tuple[str, str]]:
    """Of the snapshots d0, d1, … as they are mounted below .zfs: contents, and the rest."""
    told = world.machine.script(FACTS.format(dataset, last), timeout=240).stdout
    found = []
    for one in told.split("== ")[1:]:
        contents, _, rest = one.partition("\n--\n")
        hashes = sorted(contents.splitlines()[1:])  # behind the snapshot's name
        found.append(("\n".join(hashes), "\n".join(sorted(rest.splitlines()))))
    return found
