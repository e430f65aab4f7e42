"""One backup, two versions of OpenZFS: begun on one, finished or restored on the other.

script/soak builds the other one, and names it in OFFSITE_LAB_OTHER.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from lab import Machine, boot
from lab.recipe.build import product
from lab.world import LOCKED, PASSPHRASE, World, wait_for
from offsite.zfs import token
from offsite.zfs.token import Token
from tests.lab import test_anywhere as anywhere
from tests.lab.test_anywhere import SOURCES
from tests.lab.test_resume import finish, log_of

OTHER = os.environ.get("OFFSITE_LAB_OTHER", "2.4")
SMALL = 128 << 20  # bytes: the pool's file moves from one machine to the other


@pytest.fixture(scope="module")
def both(machine: Machine) -> Iterator[tuple[Machine, Machine]]:
    """Return the machine and a second one, of another OpenZFS, the older version first."""
    if machine.version.startswith(OTHER):
        pytest.skip(f"both machines would have OpenZFS {OTHER}")
    if not product(OTHER).folder.is_dir():
        pytest.skip(f"OpenZFS {OTHER} is not built: python -m lab build --zfs {OTHER}")
    with boot(OTHER) as guest:
        older, newer = sorted((machine, guest), key=number)
        yield older, newer


def number(machine: Machine) -> tuple[int, ...]:
    return tuple(int(part) for part in machine.version.split("-")[0].split("."))


@pytest.fixture
def older(both: tuple[Machine, Machine]) -> Machine:
    return both[0]


@pytest.fixture
def newer(both: tuple[Machine, Machine]) -> Machine:
    return both[1]


@pytest.fixture
def name(older: Machine, newer: Machine) -> Iterator[str]:
    """Return the name that pools may have on both machines."""
    pool = f"moving{os.getpid()}"
    try:
        yield pool
    finally:
        older.destroy_pool(pool)
        newer.destroy_pool(pool)


def at(world: World, machine: Machine) -> World:
    """The same user, whose pools are on this machine now."""
    there = World(world.home, machine)
    there.configure(ONE_REMOTE=str(world.home / "one"), TWO_REMOTE=str(world.home / "two"))
    return there


def move(pool: str, here: Machine, there: Machine) -> None:
    """Export the pool, copy its file, import it: as a disk that is put into another machine."""
    path = f"{here.pool_folder}/{pool}.pool"
    # A killed send may keep it busy for a moment.
    wait_for(lambda: here.run("zpool", "export", pool, check=False).status == 0)
    packed = subprocess.run(
        here.command("gzip", "-1", "-c", path), capture_output=True, check=True, timeout=240
    ).stdout
    here.run("rm", path)
    there.run("/bin/sh", "-c", f"gunzip -c > {there.pool_folder}/{pool}.pool", stdin=packed)
    there.run("zpool", "import", "-o", "cachefile=none", "-d", there.pool_folder, pool)


def cut(world: World, *args: str) -> None:
    """Kill a backup when some chunks are stored."""
    before = world.receipts()
    running = world.start(*args, RCLONE_FLAGS="--bwlimit 500k")
    wait_for(lambda: world.receipts() >= before + 3 or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)


def test_begun_on_the_old_gone_on_with_on_the_new_finished_on_the_old(
    world: World, older: Machine, newer: Machine, name: str
) -> None:
    data = f"{name}/photos"
    older.make_pool(name, SMALL)
    older.run("zfs", "create", data)
    here = at(world, older)
    here.fill(data, noise=9)
    before = here.facts(data)
    cut(here, "--backup", f"{data}@s")
    move(name, older, newer)
    cut(at(world, newer), "--backup", f"{data}@s")
    move(name, newer, older)
    here = at(world, older)
    done = finish(here, f"{data}@s")
    assert log_of(world).count("chunks are stored (token)") == 2
    assert "re-send" not in log_of(world)
    assert done["sent_bytes"] < 0.7 * done["stream_bytes"]
    assert done["resumed_chunks"] >= 4
    here.offsite("--restore", data, "--as", f"{name}/back")
    assert here.facts(f"{name}/back") == before


def make_all(there: World, pool: str, version: tuple[int, ...]) -> dict[str, str]:
    """All kinds of sources that there are on this version, backed up: what is in each."""
    before = dict[str, str]()
    for kind, how in {**SOURCES, "zstd": "zfs create -o recordsize=1M -o compression=zstd"}.items():
        if kind == "16M" and version < (2, 2):
            continue  # it takes a module parameter there
        source = f"{pool}/{kind.replace(' ', '-')}"
        anywhere.make(there, how, source)
        before[source] = there.content(source)
        finish(there, f"{source}@s")
    return before


def check_all_come_back(here: World, pool: str, before: dict[str, str]) -> None:
    """Under their names, and below an encrypted dataset."""
    vault = f"{pool}/vault"
    here.machine.script(f"{LOCKED} {vault}")
    for source, content in before.items():
        for target in (source, f"{vault}/back"):
            here.offsite("--restore", source, "--as", target)
            if "/raw" in source:
                here.machine.script(f"echo {PASSPHRASE} | zfs load-key {target}")
            assert here.content(target) == content
        here.machine.run("zfs", "destroy", "-r", f"{vault}/back")


def test_made_on_the_new_restored_on_the_old(
    world: World, older: Machine, newer: Machine, name: str
) -> None:
    """A pool with all the features of the new one; what the old one lacks it is not sent."""
    long = f"{name}/long"
    newer.make_pool(name)
    there = at(world, newer)
    before = make_all(there, name, number(newer))
    lacks = number(older) < (2, 3) <= number(newer)
    if lacks:
        newer.run("zfs", "create", "-o", "longname=on", long)
        newer.run("touch", f"/{long}/{'n' * 300}")
        finish(there, f"{long}@s")
    older.make_pool(name)
    here = at(world, older)
    check_all_come_back(here, name, before)
    if lacks:
        refused = here.offsite("--restore", long, status=2)
        assert f"{name} has no feature longname, which this backup needs" in refused.stderr
        assert not here.exists(long)


def test_made_on_the_old_restored_on_the_new(
    world: World, older: Machine, newer: Machine, name: str
) -> None:
    older.make_pool(name)
    before = make_all(at(world, older), name, number(older))
    newer.make_pool(name)
    check_all_come_back(at(world, newer), name, before)


def test_a_restore_that_is_cut_on_the_new_goes_on_there(
    world: World, older: Machine, newer: Machine, name: str
) -> None:
    """Newer receivers leave tokens that name an OBJECT, too (zfs/resuming.py)."""
    data, target = f"{name}/photos", f"{name}/back"
    older.make_pool(name, SMALL)
    older.run("zfs", "create", data)
    here = at(world, older)
    for each in range(10):  # thousands of files: their OBJECTs come first in the stream
        folder = f"/{data}/many{each}"
        older.script(f"mkdir {folder}; cd {folder}; for i in $(seq 300); do : > $i; done")
    here.fill(data, noise=6)
    before = here.facts(data)
    done = finish(here, f"{data}@s")
    newer.make_pool(name, SMALL)
    there = at(world, newer)
    tokens: list[Token] = []
    for seconds in (1.0, 2.5, 4.0, 2.0, 3.0):  # a slow machine may have taken nothing in yet
        cut_restore(there, seconds, "--restore", data, "--as", target)
        left = there.get(target, "receive_resume_token")
        tokens += [token.decode(left)] if left.startswith("1-") else []
        if len(tokens) > 1 and any(names_an_object(one) for one in tokens):
            break
    assert any(names_an_object(one) for one in tokens), tokens
    ran = there.offsite("--restore", data, "--as", target, "--json").json["restore"]
    assert there.facts(target) == before
    assert sum(ran["providers"].values()) <= done["stored_bytes"] + (2 << 20)


def names_an_object(wanted: Token) -> bool:
    return wanted.object > 1 and not wanted.offset


def cut_restore(world: World, seconds: float, *args: str) -> None:
    """Kill a restore some seconds after its first chunk."""
    before = newest(world)
    running = world.start(*args, RCLONE_FLAGS="--bwlimit 300k")
    wait_for(lambda: newest(world) != before and "Processing" in newest(world))
    time.sleep(seconds)
    assert running.poll() is None, running.communicate()
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    wait_for(lambda: "zfs receive" not in world.machine.run("ps", "-o", "args").stdout)


def newest(world: World) -> str:
    paths = sorted(world.home.glob("offsite-restore-*.log"), key=lambda path: path.stat().st_mtime)
    return paths[-1].read_text() if paths else ""
