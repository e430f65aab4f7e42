"""What a provider, or who can write there, did to a backup of real files: it comes back whole, from
whoever has it undamaged, or it is refused; ``zfs receive`` gets nothing that was not backed up."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path

import pytest

from lab.world import PROVIDERS, World
from offsite.zfs import token

MIB = 1 << 20  # of each chunk, in the clear
MOST = 4096  # of the stored bytes, that a flipped bit is from a chunk's end


@pytest.fixture
def data(world: World, pool: str) -> str:
    """A filesystem with all sorts of files, backed up to both providers."""
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", "-o", "xattr=sa", name)
    world.fill(name, noise=6)
    world.offsite("--backup", f"{name}@monday")
    return name


@pytest.fixture
def disk(world: World, pool: str) -> str:
    """A volume with some data, backed up to both providers."""
    name = f"{pool}/disk"
    world.machine.run("zfs", "create", "-V", "32M", "-b", "8K", name)
    write = f"dd if=/dev/urandom of={world.device(name)} bs=1M count=7 seek=2 conv=fsync"
    world.machine.script(f"{write} 2>/dev/null")
    world.offsite("--backup", f"{name}@monday")
    return name


def chunks(world: World, provider: str) -> list[Path]:
    return sorted((world.home / provider).rglob("chunk-*"))


def manifest(world: World, provider: str) -> Path:
    (found,) = (world.home / provider).rglob("manifest.age")
    return found


@contextmanager
def harmed(paths: Sequence[Path], harm: Callable[[Path], object]) -> Iterator[None]:
    """For a while."""
    before = {path: path.read_bytes() for path in paths}
    try:
        for path in paths:
            harm(path)
        yield
    finally:
        for path, body in before.items():
            path.write_bytes(body)


def flip(path: Path) -> None:
    """One bit, late in the object."""
    body = bytearray(path.read_bytes())
    body[-min(MOST, len(body) // 2)] ^= 1
    path.write_bytes(body)


@pytest.mark.gate
@pytest.mark.parametrize("kind", ["filesystem", pytest.param("volume", marks=pytest.mark.soak)])
def test_what_one_provider_lost_and_the_other_damaged_comes_back(
    world: World, pool: str, kind: str, request: pytest.FixtureRequest
) -> None:
    data: str = request.getfixturevalue("data" if kind == "filesystem" else "disk")
    before = world.content(data)
    one, two = (chunks(world, name) for name in PROVIDERS)
    for path in (one[1], one[4]):
        path.unlink()
    flip(two[2])
    flip(two[-1])
    (row,) = world.offsite("--list", "--json").json["backups"]
    assert (row["dataset"], row["complete"], row["providers"]) == (data, True, [*PROVIDERS])
    ran = world.offsite("--restore", data, "--as", f"{data}-back", "--json")
    assert world.content(f"{data}-back") == before
    assert set(ran.json["restore"]["providers"]) == {*PROVIDERS}
    assert re.search(rf"two failed at .*{two[2].name} .*going on with one", ran.stderr)


@pytest.mark.gate
def test_what_is_refused_before_zfs_receives_anything(
    world: World, data: str, tmp_path: Path
) -> None:
    target = f"{data}-back"

    restore = ("--restore", data, "--as", target, "--verbose")  # the log has each command

    def refused(status: int) -> str:
        ran = world.offsite(*restore, status=status)
        assert "zfs receive" not in ran.log
        assert "zfs list" in ran.log
        assert not world.exists(target)
        assert "HINT: " in ran.stderr
        return ran.stderr

    with harmed([chunks(world, name)[3] for name in PROVIDERS], Path.unlink):
        told = refused(1)
        assert "chunk-00000003" in told
        assert all(name in told for name in PROVIDERS)
    with harmed([manifest(world, name) for name in PROVIDERS], flip):
        assert "damaged" in refused(2)

    # Somebody else who may write there and knows the recipients; he signs with a key of his own.
    forger = World(tmp_path / "forger", world.machine)
    shutil.copytree(world.home / ".config", forger.home / ".config")
    for ours_alone in (".config/offsite/signing.key", ".config/age/zfs-backup.txt"):
        (forger.home / ours_alone).unlink()
    forger.configure(ONE_REMOTE=str(tmp_path / "forged"))
    forger.offsite("keys", "init")
    forger.offsite("--backup", f"{data}@monday")
    (forged,) = (tmp_path / "forged").rglob("manifest.age")
    ours = [manifest(world, name) for name in PROVIDERS]
    with harmed(ours, lambda path: shutil.copy(forged, path)):
        refused(2)
        (row,) = world.offsite("--list", "--json").json["backups"]
        assert (row["complete"], row["status"]) == (False, "damaged")
        assert "another backup" in row["note"]
    assert "zfs receive" in world.offsite(*restore).log
    world.machine.run("zfs", "destroy", "-r", target)
    for name in PROVIDERS:  # his own backup, beside ours
        shutil.copytree(tmp_path / "forged", world.home / name, dirs_exist_ok=True)
        for path in [*(world.home / name).rglob("manifest.age")]:
            if path.read_bytes() != forged.read_bytes():
                shutil.rmtree(path.parent)
    assert re.search(r"signed by .*SHA256:", refused(1))


@contextmanager
def swapped(world: World) -> Iterator[set[int]]:
    """Two chunks of one size in each other's place everywhere: no list of sizes tells it."""
    stored = chunks(world, "one")
    pairs = [
        (first, second)
        for first, second in combinations(stored[2:], 2)
        if first.stat().st_size == second.stat().st_size
    ]
    assert pairs, [path.stat().st_size for path in stored]
    first, second = pairs[0]
    bodies = {first.name: second.read_bytes(), second.name: first.read_bytes()}
    everywhere = [path for name in PROVIDERS for path in chunks(world, name) if path.name in bodies]
    with harmed(everywhere, lambda path: path.write_bytes(bodies[path.name])):
        yield {int(name[6:14]) for name in bodies}


@pytest.mark.gate
def test_a_chunk_swapped_everywhere_never_reaches_zfs(world: World, data: str) -> None:
    """What came before is kept."""
    before = world.facts(data)
    restore = ("--restore", data, "--as", f"{data}-back")
    with swapped(world) as numbers:
        told = world.offsite(*restore, status=1).stderr
        number = wrong(told)  # which of the two is met first is chance
        assert number in numbers
        assert all(f"{name}: chunk {number} is not the one" in told for name in PROVIDERS)
        assert "HINT: restore another point" in told
        came = token.decode(world.get(f"{data}-back", "receive_resume_token")).bytes
        assert came <= number * MIB, "more than the chunks before it"
        left = world.machine.run("zfs", "list", "-Hrt", "snapshot", f"{data}-back")
        assert left.stdout == ""
    world.offsite(*restore)
    assert world.facts(f"{data}-back") == before


def test_a_chunk_swapped_everywhere_does_not_replace_what_is_there(world: World, data: str) -> None:
    before, guid = world.facts(data), world.get(data, "guid")
    world.machine.script(f"echo precious > /{data}/mine; sync")
    mine = world.facts(data)
    replace = ("--restore", data, "--replace", "--yes")
    with swapped(world) as numbers:
        assert wrong(world.offsite(*replace, status=1).stderr) in numbers
        assert (world.get(data, "guid"), world.facts(data)) == (guid, mine)
    done = world.offsite(*replace, "--json").json["restore"]
    assert world.facts(data) == before
    assert world.get(data, "guid") != guid
    assert (world.get(done["kept"], "guid"), world.facts(done["kept"])) == (guid, mine)


def wrong(told: str) -> int:
    """The number of the one chunk that no provider has as it was stored."""
    (number,) = {*re.findall(r"(?:one|two): chunk (\d+) is not the one", told)}
    return int(number)
