"""Properties of restored datasets on real OpenZFS: what is set, and that nothing is mounted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.world import World
from tests.lab.test_chain_restore import MARK, restored
from tests.lab.test_resume import log_of

ODD = "one line\nand\ttwo, ünï \"'$HOME\\n;\tlocal\norg.test:not\tset\tlocal"
ELSEWHERE = "/tmp/props-elsewhere"


def source(world: World, name: str, property_: str) -> str:
    asked = ("zfs", "get", "-Hpo", "source", property_, name)
    return world.machine.run(*asked, check=False).stdout.strip()


def mounted(world: World) -> str:
    return world.machine.run("zfs", "mount").stdout


@pytest.fixture
def photos(world: World, pool: str) -> Iterator[str]:
    """A filesystem with properties of all sorts, backed up, in a pool that mounts nothing."""
    name = f"{pool}/photos"
    run = world.machine.run
    run("zfs", "set", "mountpoint=none", "compression=lz4", f"org.test:above={ODD}", pool)
    given = ("atime=off", "recordsize=1M", f"org.test:odd={ODD}", "org.test:empty=", "quota=64M",
             "sharenfs=off", f"mountpoint={ELSEWHERE}", ".dot:x=1", ":colon=2")  # fmt: skip
    words = [word for one in given for word in ("-o", one)]
    run("zfs", "create", *words, name)
    run("dd", "if=/dev/urandom", f"of={ELSEWHERE}/noise", "bs=1M", "count=2")
    world.offsite("--backup", f"{name}@a")
    yield name
    run("zfs", "unmount", ELSEWHERE, check=False)


def test_local_properties_beside_the_original(world: World, pool: str, photos: str) -> None:
    target, before = f"{pool}/back", mounted(world)
    plan = restored(world, photos, "--as", target, "--dry-run")
    told = world.offsite("--restore", photos, "--as", target, "--dry-run").stdout
    assert f"7 properties: {', '.join(plan['properties'])}" in told
    done = restored(world, photos, "--as", target)
    assert done["properties"] == plan["properties"]
    assert done["properties"] == [
        ".dot:x", ":colon", "atime", "org.test:empty", "org.test:odd", "recordsize", "quota",
    ]  # fmt: skip
    for name in done["properties"]:
        assert world.get(target, name) == world.get(photos, name)
        assert source(world, target, name) == "local"
    assert world.get(target, "org.test:odd") == ODD
    assert source(world, target, "org.test:above") == f"inherited from {pool}"
    assert source(world, target, "mountpoint") == f"inherited from {pool}"
    assert source(world, target, "canmount") == "default"
    assert (world.get(target, MARK), mounted(world)) == ("-", before)


def test_all_and_none(world: World, pool: str, photos: str) -> None:
    target, before = f"{pool}/all", mounted(world)
    world.machine.run("zfs", "inherit", "org.test:above", pool)
    ran = world.offsite("--restore", photos, "--as", target, "--properties", "all")
    assert "have the same mountpoint" in ran.stderr + log_of(world, "restore")
    assert world.get(target, "org.test:above") == ODD
    assert source(world, target, "compression") == "local"
    assert (world.get(target, "mountpoint"), world.get(target, "canmount")) == (
        ELSEWHERE, "noauto",
    )  # fmt: skip
    assert (world.get(photos, "canmount"), mounted(world)) == ("on", before)
    done = restored(world, photos, "--as", f"{pool}/none", "--properties", "none")
    assert done["properties"] == []
    assert source(world, f"{pool}/none", "atime") == "default"


def test_home_again_and_nothing_mounts(world: World, pool: str, photos: str) -> None:
    world.machine.run("zfs", "destroy", "-r", photos)
    before = mounted(world)
    done = restored(world, photos)
    assert {"mountpoint", "sharenfs"} < {*done["properties"]}
    assert (world.get(photos, "mountpoint"), world.get(photos, "canmount")) == (ELSEWHERE, "on")
    assert (world.get(photos, "mounted"), mounted(world)) == ("no", before)
    world.machine.run("zfs", "mount", photos)
    assert world.machine.run("ls", ELSEWHERE).stdout == "noise\n"


def test_a_replacement_leaves_the_mountpoint_to_what_was_there(world: World, photos: str) -> None:
    world.machine.run("touch", f"{ELSEWHERE}/mine")
    done = restored(world, photos, "--replace", "--yes")
    assert f"{photos} and {done['kept']} have the same mountpoint" in log_of(world, "restore")
    assert [world.get(photos, name) for name in ("mountpoint", "canmount", "mounted")] == [
        ELSEWHERE, "noauto", "no",
    ]  # fmt: skip
    assert world.get(done["kept"], "canmount") == "on"
    assert world.machine.run("ls", ELSEWHERE).stdout == "mine\nnoise\n"


def test_an_interrupted_restore_sets_them_and_an_update_does_not(
    world: World, pool: str, photos: str
) -> None:
    target = f"{pool}/back"
    (row,) = world.offsite("--list", "--json").json["backups"]
    restored(world, photos, "--as", target, "--properties", "none")
    world.machine.run("zfs", "set", f"{MARK}={row['id']}", target)
    assert "atime" in restored(world, photos, "--as", target)["properties"]
    assert world.get(target, "atime") == "off"
    world.machine.run("zfs", "inherit", "atime", target)
    world.offsite("--backup", f"{photos}@b")
    assert restored(world, photos, "--as", target, "--update")["properties"] == []
    assert world.get(target, "atime") == "on"


def test_what_cannot_be_set_is_one_warning_each(world: World, pool: str, photos: str) -> None:
    """Two such reservations are more than the pool has."""
    world.machine.run("zfs", "set", "reservation=250M", "quota=300M", photos)
    world.offsite("--backup", f"{photos}@b")
    ran = world.offsite("--restore", photos, "--as", f"{pool}/back", "--json")
    assert "reservation" not in ran.json["restore"]["properties"]
    warned = [line for line in log_of(world, "restore").splitlines() if "could not be set" in line]
    assert len(warned) == 1
    assert f"reservation=262144000 could not be set on {pool}/back" in warned[0]
    assert world.get(f"{pool}/back", "quota") == str(300 << 20)


def test_limits_that_the_data_met_only_in_the_end(world: World, pool: str) -> None:
    """The chain is received first: what it began with is more than what may be there now."""
    data, target = f"{pool}/data", f"{pool}/back"
    world.machine.script(
        f"zfs create {data}; zfs create {data}/below;"
        f" dd if=/dev/urandom of=/{data}/noise bs=1M count=12 2>/dev/null;"
        f" dd if=/dev/urandom of=/{data}/below/noise bs=1M count=12 2>/dev/null; sync"
    )
    world.offsite("--backup", f"{data}@a", "-R")
    world.machine.script(
        f"rm /{data}/noise /{data}/below/noise; echo new > /{data}/file; sync;"
        f" zfs snapshot -r {data}@b; zfs destroy -r {data}@a; zfs set refquota=4M quota=8M {data}"
    )
    world.offsite("--backup", f"{data}@b", "-R")
    done = world.offsite("--restore", data, "-R", "--as", target, "--json").json
    assert [len(one["chain"]) for one in done["restores"]] == [2, 2]
    limits = [(world.get(name, "refquota"), world.get(name, "quota")) for name in (data, target)]
    # Of the restored one the first snapshots are there, and more is used than it may have.
    assert limits == [(str(4 << 20), str(8 << 20)), (str(4 << 20), "0")]
    warned = [line for line in log_of(world, "restore").splitlines() if "could not be set" in line]
    assert len(warned) == 1
    assert f"quota={8 << 20} could not be set on {target}" in warned[0]


def test_a_value_that_is_no_text(world: World, pool: str, photos: str) -> None:
    world.machine.script(f"zfs set org.test:bytes=\"$(printf 'a\\377\\t\\nb')\" {photos}")
    world.offsite("--backup", f"{photos}@b")
    restored(world, photos, "--as", f"{pool}/back", "--verbose")
    told = [
        world.machine.script(f"zfs get -Hpo value org.test:bytes {name} | od -An -tx1").stdout
        for name in (photos, f"{pool}/back")
    ]
    assert told == [" 61 ff 09 0a 62 0a\n"] * 2


@pytest.mark.parametrize("thin", [False, True])
def test_a_volume(world: World, pool: str, *, thin: bool) -> None:
    volume, target = f"{pool}/vol", f"{pool}/back"
    facts = ("-b", "8K", "-o", "org.test:note=a b", "-o", "compression=off")
    world.machine.run("zfs", "create", "-V", "16M", *["-s"][:thin], *facts, volume)
    world.offsite("--backup", f"{volume}@a")
    done = restored(world, volume, "--as", target)
    thick = ["refreservation"][thin:]
    assert done["properties"] == ["compression", "org.test:note", *thick]
    assert (world.get(target, "refreservation") == "0") is thin
    for name in ("volsize", "volblocksize", "refreservation", "org.test:note", "compression"):
        assert world.get(target, name) == world.get(volume, name)


def test_an_encrypted_dataset_tells_of_its_key(world: World, pool: str) -> None:
    secret, target = f"{pool}/secret", f"{pool}/back"
    world.machine.script(
        "dd if=/dev/urandom of=/tmp/props-key bs=32 count=1 2>/dev/null\nzfs create"
        f" -o encryption=on -o keyformat=raw -o keylocation=file:///tmp/props-key {secret}"
    )
    world.machine.script(f"echo secret > /{secret}/file; sync")
    world.offsite("--backup", f"{secret}@a")
    ran = world.offsite("--restore", secret, "--as", target)
    assert f"Its key is not loaded: zfs load-key {target}\n" in ran.stdout
    assert world.get(target, "keylocation") == "file:///tmp/props-key"
    world.machine.run("zfs", "load-key", target)
    world.machine.run("zfs", "mount", target)
    assert world.machine.run("cat", f"/{target}/file").stdout == "secret\n"
