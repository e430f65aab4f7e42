"""Names, datasets, snapshots, holds and properties, as real OpenZFS tells them."""

import time
from collections.abc import Callable

import pytest

from lab import Machine
from offsite.errors import UsageError, ZfsError
from offsite.zfs import abilities, datasets, properties
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError, Reason
from offsite.zfs.names import check_dataset_name, check_snapshot_name
from offsite.zfs.properties import Property
from tests.lab.zfs.streams import CASES, StreamOf, receive, send

ASK = """
action=$1; shift
for name; do
    if zfs $action "$name" 2>&1; then echo good; else echo bad; fi
done | grep -xE 'good|bad'
"""


def allowed(check: Callable[[str], None], name: str) -> str:
    try:
        check(name)
    except UsageError:
        return "bad"
    return "good"


def test_our_rules_for_names_are_zfs_s_own(machine: Machine, pool: str) -> None:
    parts = ["a", "a b", " a", "a ", "-a", "a.b:c_d-e", "...", ".", "..", "", "a//b", "a/", "a%b"]
    parts += ["ü", "a;b", "a'b", 'a"b', "a$b", "a\nb", "a\tb", "a@b", "a#b", "a\\b", "*", "a" * 250]
    for action, check, mark in [
        ("create", check_dataset_name, "/"),
        ("snapshot", check_snapshot_name, "@"),
    ]:
        names = [f"{pool}{mark}{part}" for part in parts]
        theirs = machine.run("/bin/sh", "-c", ASK, "sh", action, *names).stdout.split()
        ours = [allowed(check, name) for name in names]
        assert list(zip(names, ours, strict=True)) == list(zip(names, theirs, strict=True))


@pytest.mark.parametrize("part", ["two  words", " -F", "-r", "a ", "x:y.z_"])
def test_odd_names_go_through_the_door(part: str, zfs: Zfs, machine: Machine, pool: str) -> None:
    name = f"{pool}/{part}"
    machine.run("zfs", "create", name)
    snapshot = datasets.create_snapshot(zfs, f"{name}@{part}")
    assert snapshot.full_name == f"{name}@{part}"
    datasets.hold(zfs, f"{name}@{part}", "tag 'x'; touch /tmp/pwned #")
    assert datasets.holds(zfs, f"{name}@{part}") == ["tag 'x'; touch /tmp/pwned #"]
    receive(zfs, f"{name}/copy {part}", send(zfs, f"{name}@{part}"))
    copy = datasets.find_snapshot(zfs, f"{name}/copy {part}@{part}")
    assert copy is not None
    assert copy.guid == snapshot.guid
    datasets.release(zfs, f"{name}@{part}", "tag 'x'; touch /tmp/pwned #")
    assert machine.run("test", "-e", "/tmp/pwned", check=False).status == 1


def test_datasets_are_found_or_explained(zfs: Zfs, filled: str) -> None:
    found = datasets.get_dataset(zfs, f"{filled}/secret")
    assert (found.name, found.type) == (f"{filled}/secret", "filesystem")
    assert found.encryption == "aes-256-gcm"
    assert found.used > 1000000
    assert datasets.get_dataset(zfs, f"{filled}/vol").type == "volume"
    assert datasets.find_dataset(zfs, f"{filled}/none") is None
    with pytest.raises(ZfsError, match=f"dataset {filled}/larg does not exist") as caught:
        datasets.get_dataset(zfs, f"{filled}/larg")
    assert f"did you mean {filled}/large" in str(caught.value.hint)
    with pytest.raises(ZfsError, match="nopool/x does not exist: no pool nopool is imported here"):
        datasets.get_dataset(zfs, "nopool/x")
    assert datasets.parent_exists(zfs, f"{filled}/new")
    assert datasets.parent_exists(zfs, f"{filled}/fs/new")
    assert not datasets.parent_exists(zfs, f"{filled}/no/new")
    assert not datasets.parent_exists(zfs, f"{filled}/vol/new")
    assert not datasets.parent_exists(zfs, "nopool")


def test_snapshots_are_found_or_explained(zfs: Zfs, filled: str) -> None:
    fs = f"{filled}/fs"
    first, second = datasets.list_snapshots(zfs, fs)
    assert (first.full_name, second.full_name) == (f"{fs}@1", f"{fs}@2")
    assert first.createtxg < second.createtxg
    assert first.creation <= second.creation <= time.time() + 86400
    assert datasets.get_snapshot(zfs, f"{fs}@1") == first
    assert datasets.create_snapshot(zfs, f"{fs}@1") == first
    assert datasets.find_snapshot(zfs, f"{fs}@none") is None
    assert datasets.list_snapshots(zfs, filled) == []
    with pytest.raises(ZfsError, match=f"snapshot {fs}@12 does not exist") as caught:
        datasets.get_snapshot(zfs, f"{fs}@12")
    assert caught.value.hint == f"{fs} has: @2, @1"
    with pytest.raises(ZfsError, match=f"dataset {filled}/none does not exist"):
        datasets.get_snapshot(zfs, f"{filled}/none@1")
    with pytest.raises(ZfsError, match=f"dataset {filled}/none does not exist"):
        datasets.create_snapshot(zfs, f"{filled}/none@1")
    with pytest.raises(CommandError) as missing:
        datasets.list_snapshots(zfs, f"{filled}/none")
    assert missing.value.reason is Reason.MISSING


def test_holds_keep_a_snapshot(zfs: Zfs, machine: Machine, pool: str) -> None:
    name = f"{pool}@kept"
    datasets.create_snapshot(zfs, name)
    datasets.hold(zfs, name, "offsite:1")
    datasets.hold(zfs, name, "offsite:1")
    datasets.hold(zfs, name, "offsite:2")
    assert sorted(datasets.holds(zfs, name)) == ["offsite:1", "offsite:2"]
    assert machine.run("zfs", "destroy", name, check=False).status == 1
    for tag in ("offsite:1", "offsite:2", "offsite:2"):
        datasets.release(zfs, name, tag)
    assert datasets.holds(zfs, name) == []
    machine.run("zfs", "destroy", name)
    datasets.release(zfs, name, "offsite:1")
    with pytest.raises(CommandError, match=f"{name} does not exist"):
        datasets.hold(zfs, name, "offsite:1")


def test_many_snapshots_at_one_moment(zfs: Zfs, machine: Machine, pool: str) -> None:
    """Over ssh 128 KiB take them all, or none."""
    long = f"{pool}/{'x' * 200}"
    machine.script(f"for i in $(seq 700); do zfs create -o mountpoint=none {long}$i; done")
    names = [f"{long}{number}" for number in range(1, 701)]
    if zfs.ssh:
        with pytest.raises(ZfsError, match="700 snapshots are too many for one command"):
            datasets.create_snapshots(zfs, names, "s")
        assert datasets.find_snapshots(zfs, [f"{name}@s" for name in names]) == {}
    datasets.create_snapshots(zfs, names[:560], "s")
    found = datasets.find_snapshots(zfs, [f"{name}@s" for name in names])
    assert len(found) == 560
    assert len({one.createtxg for one in found.values()}) == 1


def test_estimates_are_near(zfs: Zfs, filled: str, stream_of: StreamOf) -> None:
    for key, case in CASES.items():
        name = f"{filled}/{case.dataset}"
        base = f"{name}{case.base}" if case.base else None
        told = datasets.estimate(zfs, f"{name}@{2 if base else 1}", base=base, flags=case.flags)
        size = len(stream_of(key))
        assert told
        assert 0.5 * size < told + 300000 < 1.5 * size + 600000


def test_properties_are_the_effective_ones(zfs: Zfs, machine: Machine, pool: str) -> None:
    machine.run("zfs", "create", "-o", "recordsize=1M", f"{pool}/a")
    place = f'/{pool}/it\'s "quoted"; $(touch /tmp/pwned)'
    value = "two\nlines\tand\ttabs\nmore\n"
    machine.run("zfs", "set", f"mountpoint={place}", f"org.offsite:x={value}", f"{pool}/a")
    machine.run("zfs", "set", "compression=zstd", pool)
    plain = properties.effective(zfs, f"{pool}/a").keys()
    # As if it were two, or one of the next name.
    forged = "x\tlocal\norg.offsite:z\tforged\tlocal\norg.offsite:z\ttwice\tlocal"
    machine.run("zfs", "set", f"org.offsite:y={forged}", "org.offsite:z=real", f"{pool}/a")
    machine.script(f"zfs set org.offsite:bytes=\"$(printf 'a\\377\\tb')\" {pool}/a")
    found = properties.effective(zfs, f"{pool}/a")
    assert found.keys() == plain | {f"org.offsite:{name}" for name in ("y", "z", "bytes")}
    assert found["org.offsite:y"] == Property(forged, "local")
    assert found["org.offsite:z"] == Property("real", "local")
    assert found["org.offsite:bytes"] == Property("a\udcff\tb", "local")
    assert found["recordsize"] == Property("1048576", "local")
    assert found["compression"] == Property("zstd", f"inherited from {pool}")
    assert found["checksum"] == Property("on", "default")
    assert found["mountpoint"] == Property(place, "local")
    assert found["org.offsite:x"] == Property(value, "local")
    assert found["type"] == Property("filesystem", "-")
    assert machine.run("test", "-e", "/tmp/pwned", check=False).status == 1


def test_the_version(zfs: Zfs, machine: Machine) -> None:
    assert datasets.version(zfs) == datasets.Version(machine.version, machine.version)


def test_what_it_can_do_is_told(zfs: Zfs) -> None:
    """Everything that others may lack."""
    assert "\tsend [" in zfs.usage()
    assert abilities.of(zfs) == abilities.Abilities()


def test_an_exported_pool_is_told(zfs: Zfs, machine: Machine) -> None:
    machine.make_pool("away")
    try:
        machine.run("zpool", "export", "away")
        with pytest.raises(ZfsError, match="no pool away is imported here") as caught:
            datasets.get_dataset(zfs, "away")
        assert "zpool import" in str(caught.value.hint)
    finally:
        machine.run("zpool", "import", "-d", machine.pool_folder, "away")
        machine.destroy_pool("away")
