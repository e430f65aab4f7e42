"""The main job against real storage servers, and what happens when they fail in the middle."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lab.world import World, wait_for
from tests.lab.disks import disk_of
from tests.storage import servers
from tests.storage.proxy import Proxy
from tests.storage.servers import Server, write_conf

SLOW = 400_000  # bytes a second

pytest_plugins = ["tests.storage.fixtures"]


@pytest.fixture
def data(world: World, pool: str) -> str:
    """A filesystem with all sorts of files."""
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", name)
    world.fill(name)
    return name


def use(world: World, folder: Path, *stores: Server, **settings: str) -> None:
    """Make each server a provider of its own name, in a place of its own."""
    conf = folder / "rclone.conf"
    write_conf(conf, *stores)
    place = uuid.uuid4().hex
    remotes = {f"{store.name.upper()}_REMOTE": f"{store.remote}/{place}" for store in stores}
    world.configure(RCLONE_CONFIG_PATH=str(conf), **remotes, **settings)


def test_s3_azure_and_sftp_at_once_and_back_from_each(
    world: World, data: str, tmp_path: Path, seaweed: Server, azurite: Server, sftp: Server
) -> None:
    before = world.facts(data)
    use(world, tmp_path, seaweed, azurite, sftp)
    done = world.offsite("--backup", f"{data}@clouds", "--json").json["backup"]
    names = [store.name for store in (seaweed, azurite, sftp)]
    assert sorted(done["providers"]) == sorted(names)
    (row,) = world.offsite("--list", "--json").json["backups"]
    assert sorted(row["providers"]) == sorted(names)
    for name in names:
        target = f"{data}-{name}"
        ran = world.offsite("--restore", data, "--as", target, "--provider", name, "--json")
        assert ran.json["restore"]["providers"] == {name: done["stored_bytes"]}
        assert world.facts(target) == before


def test_a_restore_survives_the_death_of_its_provider(
    world: World, data: str, tmp_path: Path, seaweed: Server
) -> None:
    before = world.facts(data)
    # A server that is asked to stop may answer all that it was asked before: cut its lines instead.
    with Proxy(seaweed.port) as line:
        endpoint = f"http://127.0.0.1:{line.port}"
        dying = replace(seaweed, settings={**seaweed.settings, "endpoint": endpoint})
        use(world, tmp_path, dying, LATER_REMOTE=str(world.home / "one"))
        world.offsite("--backup", f"{data}@s")
        line.rate, before_it = SLOW, line.given
        running = world.start("--restore", data, "--as", f"{data}-back", "--json")
        # More than a catalog, and less than all chunks.
        wait_for(lambda: line.given > before_it + (1 << 20) or running.poll() is not None)
    stdout, stderr = running.communicate(timeout=240)
    assert running.returncode == 0, stderr
    assert f"{dying.name} failed at" in stdout + stderr + logs(world)
    assert world.facts(f"{data}-back") == before


def logs(world: World) -> str:
    """All log files that restores in the background wrote."""
    return "".join(path.read_text() for path in world.home.glob("offsite-restore-*.log"))


def test_a_provider_that_dies_in_mid_backup_is_left_behind(
    world: World, data: str, tmp_path: Path
) -> None:
    dying = servers.start_seaweed(tmp_path / "seaweed")
    try:
        use(world, tmp_path, dying, LATER_REMOTE=str(world.home / "one"))
        running = world.start("--backup", f"{data}@s", RCLONE_FLAGS="--bwlimit 500k")
        wait_for(lambda: any((world.home / "one").rglob("chunk-*")))
    finally:
        dying.stop()
    stdout, stderr = running.communicate(timeout=280)
    assert running.returncode == 3, stderr
    assert dying.name in stdout + stderr
    (row,) = world.offsite("--list", "--provider", "later", "--json").json["backups"]
    assert row["complete"]
    world.offsite("--restore", data, "--as", f"{data}-back", "--provider", "later")


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A provider's folder with room for 2 MiB."""
    yield from disk_of(2, tmp_path / "tiny")


def test_a_full_provider_says_so_and_the_other_finishes(
    world: World, data: str, tiny_disk: Path
) -> None:
    world.configure(TINY_REMOTE=str(tiny_disk), ONE_REMOTE=str(world.home / "one"))
    ran = world.offsite("--backup", f"{data}@s", "--json", status=3)
    assert list(ran.json["backup"]["failed"]) == ["tiny"]
    assert "space" in ran.json["backup"]["failed"]["tiny"]
    assert ran.json["backup"]["providers"] == ["one"]
    assert not list(tiny_disk.rglob("manifest.age"))
    failed = world.offsite("--backup", f"{data}@t", "--provider", "tiny", status=1)
    assert "space" in failed.stderr
