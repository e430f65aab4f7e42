"""Every kind of source comes back on every kind of target, or is refused before the first byte."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lab.world import LOCKED, PASSPHRASE, World

TINY = """
cd /{name}
for i in $(seq 700); do
    echo "tiny file $i" >"$i"
done
sync
"""
SOURCES = {
    "plain": "zfs create -o compression=lz4",
    "raw": f"{LOCKED} -o compression=lz4",
    "tiny": "zfs create -o compression=lz4",
    "1M": "zfs create -o recordsize=1M",
    "16M": "zfs create -o recordsize=16M",
    "volume": "zfs create -V 16M -o volblocksize=16k",
    "raw volume": f"{LOCKED} -V 16M -o volblocksize=16k",
}
LARGE = {"1M", "16M"}


@pytest.fixture
def lean(world: World, pool: str) -> Iterator[str]:
    """A pool whose blocks have at most 128 KiB."""
    name = f"{pool}lean"
    try:
        known = world.machine.run("zpool", "get", "-Ho", "property", "all", pool).stdout.split()
        features = ("feature@large_blocks", "feature@large_microzap")  # the other one needs it
        lacking = {feature: "disabled" for feature in features if feature in known}
        world.machine.make_pool(name, 128 << 20, **lacking)
        yield name
    finally:
        world.machine.destroy_pool(name)


def make(world: World, how: str, source: str) -> None:
    """A source, and something in it."""
    world.machine.script(f"{how} {source}")
    if "-V" in how:
        write = f"dd if=/dev/urandom of={world.device(source)} bs=64k count=50 seek=7 conv=fsync"
        world.machine.script(f"{write} 2>/dev/null")
    elif source.endswith("tiny"):
        world.machine.script(TINY.format(name=source))
    else:
        world.fill(source, noise=20)


@pytest.mark.parametrize("kind", SOURCES)
def test_anywhere(world: World, pool: str, lean: str, kind: str) -> None:
    source, vault = f"{pool}/{kind.replace(' ', '-')}", f"{pool}/vault"
    if kind == "16M" and world.machine.version.startswith("2.1"):
        pytest.skip("OpenZFS 2.1 makes no records of 16M without a module parameter")
    world.machine.script(f"{LOCKED} {vault}")
    make(world, SOURCES[kind], source)
    world.offsite("--backup", f"{source}@s")
    before = world.content(source)
    for target in (f"{pool}/back", f"{vault}/back", f"{lean}/back"):
        restore = ("--restore", source, "--as", target)
        if target.startswith(lean) and kind in LARGE:
            refused = world.offsite(*restore, status=2)
            assert f"{lean} has no feature large_blocks" in refused.stderr
            assert f"zpool set feature@large_blocks=enabled {lean}" in refused.stderr
            assert not world.exists(target)
            continue
        world.offsite(*restore)
        if "raw" in kind:
            world.machine.script(f"echo {PASSPHRASE} | zfs load-key {target}")
        assert world.content(target) == before
        assert world.get(target, "encryptionroot") == (
            target if "raw" in kind else vault if target.startswith(vault) else "-"
        )
