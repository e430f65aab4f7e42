"""Sets of which little changed, on real OpenZFS: what is not sent again comes back all the same."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lab.world import QUICK_KEY, World

KEY = "/tmp/idle-key"  # on the machine
FLEET = int(os.environ.get("OFFSITE_FLEET", "60"))  # datasets; 1,000 take an hour
EACH = 20 if FLEET < 1000 else 100  # snapshots


def backup(world: World, root: str, snapshot: str) -> Any:
    done = world.offsite("--backup", f"{root}@{snapshot}", "-R", "--json").json
    assert done["failed"] == {}
    return done


def sent(done: Any, root: str) -> list[str]:
    """The names below ``root`` of what was sent."""
    return [one["dataset"].removeprefix(root) for one in done["backups"]]


def files(world: World, root: str, *names: str) -> str:
    """Mounts them, too."""
    mounts = "".join(f"zfs mount {root}{name} 2>/dev/null || true\n" for name in names)
    return world.machine.script(mounts + f"cd /{root}; find . -type f | sort | xargs cat").stdout


def test_what_changed_and_what_did_not(world: World, pool: str) -> None:
    """Whatever is done to a dataset, it is sent; what nothing was done to is not."""
    root, run = f"{pool}/work", world.machine.run
    run("zfs", "create", root)
    names = ["/attr", "/data", "/gone", "/idle", "/linked", "/new", "/over", "/quota", "/tag"]
    for name in names:
        world.machine.script(f"zfs create {root}{name}; echo {name} > /{root}{name}/file")
    world.machine.script(f"zfs create -V 8M {root}/vol; zfs create -V 8M {root}/vol2; sync")
    run("zfs", "set", "org:lines=of\nall\tof them", root)
    backup(world, root, "s0")
    assert sent(backup(world, root, "s1"), root) == [""]  # somebody has to tell of the others
    world.machine.script(
        f"cd /{root}\nchmod 600 attr/file\necho more >> data/file\nrm gone/file\n"
        "ln linked/file linked/link\n: > new/empty\nprintf O | dd of=over/file conv=notrunc\n"
        f"zfs set userquota@7=10M {root}/quota\nzfs set org:note=a {root}/tag\n"
        f"printf z | dd of=/dev/zvol/{root}/vol bs=1 conv=notrunc\nsync"
    )
    done = backup(world, root, "s2")
    changed = {"/attr", "/data", "/gone", "/linked", "/new", "/over", "/quota", "/tag"}
    assert {*sent(done, root)} == {*changed, "/vol"}
    assert {*done["unchanged"]} == {root, f"{root}/idle", f"{root}/vol2"}
    target = f"{pool}/back"
    restored = world.offsite("--restore", f"{root}@s2", "-R", "--as", target, "--json").json
    assert (restored["failed"], len(restored["restores"])) == ({}, 12)
    assert files(world, target, "", *names) == files(world, root, "", *names)
    assert world.get(f"{target}/tag", "org:note") == "a"
    one = world.offsite("--restore", f"{root}/idle@s2", "--as", f"{pool}/one", "--json").json
    assert one["restore"]["snapshot"] == "s0"
    logs = "".join(path.read_text() for path in world.home.glob("offsite-restore-*.log"))
    assert f"{root}/idle had not changed at @s2 since @s0: that is taken" in logs


def test_of_encrypted_ones_what_opens_them_counts(world: World, pool: str) -> None:
    """It goes with the data. A key of another format than a passphrase may always have changed."""
    root, back = f"{pool}/work", f"{pool}/back"
    names = ["/by-key", "/secret", "/secret/below"]
    world.machine.script(
        f"head -c 32 /dev/urandom > {KEY}\nzfs create {root}\n"
        f"echo passphrase | zfs create -o encryption=on {QUICK_KEY} {root}/secret\n"
        f"zfs create -o encryption=on -o keyformat=raw -o keylocation=file://{KEY} {root}/by-key\n"
        f"zfs create {root}/secret/below\n"
        f"cd /{root}; for i in by-key secret secret/below; do echo $i > $i/file; done; sync"
    )
    before = files(world, root, *names)
    backup(world, root, "s0")
    assert sent(backup(world, root, "s1"), root) == ["/by-key"]
    below = f"{root}/secret/below"
    own = f"echo its-own-one | zfs change-key -o keyformat=passphrase {below}"
    for name, how in (("s2", own), ("s3", f"zfs change-key -i {below}")):
        world.machine.script(how)
        assert sent(backup(world, root, name), root) == ["/by-key", "/secret/below"]
    world.machine.script(
        f"echo another-one | zfs change-key {root}/secret\n"
        f"zfs unmount {below}; zfs unmount {root}/secret; zfs unload-key {root}/secret"
    )
    assert sent(backup(world, root, "s4"), root) == names
    assert sent(backup(world, root, "s5"), root) == ["/by-key"]
    world.offsite("--restore", f"{root}@s5", "-R", "--as", back)
    for name, key in zip(names, (f"cat {KEY}", *["echo another-one"] * 2), strict=True):
        world.machine.script(f"{key} | zfs load-key -L prompt {back}{name}; zfs mount {back}{name}")
    assert files(world, back, *names) == before


def test_an_increment_on_what_is_told_to_be_the_same(world: World, pool: str) -> None:
    """Its snapshot is gone, only the bookmark is left, and the pool's log tells nothing."""
    root, run = f"{pool}/work", world.machine.run
    world.machine.script(f"zfs create {root}; zfs create {root}/a; zfs create {root}/b")
    world.machine.script(f"echo 0 > /{root}/a/file; sync")
    backup(world, root, "s0")
    world.machine.script(f"echo 1 > /{root}/b/file; sync")
    assert sent(backup(world, root, "s1"), root) == ["/b"]
    run("zfs", "destroy", "-r", f"{root}@s0")
    world.machine.script(f"echo 2 > /{root}/b/file; sync")
    assert sent(backup(world, root, "s2"), root) == ["/b"]
    world.machine.script(f"echo 3 > /{root}/a/file; sync")
    unlogged = world.program("unlogged", '#!/bin/sh\nexec zfs "$@"\n')  # nobody knows its zpool
    done = world.offsite(
        "--backup", f"{root}@s3", "-R", "--json", status=0, ZFS_COMMAND=unlogged
    ).json
    assert [(one["dataset"], one["base"]) for one in done["backups"]] == [(f"{root}/a", "s0")]
    target = f"{pool}/back"
    world.offsite("--restore", f"{root}@s3", "-R", "--as", target)
    assert files(world, target, "", "/a", "/b") == "3\n2\n"


def test_what_was_taken_back_is_not_the_same(world: World, pool: str) -> None:
    root, run = f"{pool}/work", world.machine.run
    world.machine.script(f"zfs create {root}; zfs create {root}/a; echo 0 > /{root}/a/file; sync")
    run("zfs", "snapshot", f"{root}/a@old")
    world.machine.script(f"echo 1 > /{root}/a/file; sync")
    backup(world, root, "s0")
    assert sent(backup(world, root, "s1"), root) == [""]
    run("zfs", "rollback", "-r", f"{root}/a@old")
    assert "/a" in sent(backup(world, root, "s2"), root)
    target = f"{pool}/back"
    world.offsite("--restore", f"{root}@s2", "-R", "--as", target)
    assert files(world, target, "", "/a") == "0\n"
    # As if it were what was backed up: a snapshot of that name, of other contents.
    run("zfs", "rename", f"{root}/a@s2", f"{root}/a@away")
    world.machine.script(f"echo 2 > /{root}/a/file; sync; zfs snapshot {root}/a@s2")
    assert "/a" in sent(backup(world, root, "s3"), root)


def test_a_fleet(world: World, pool: str, measured: Callable[[str], None]) -> None:
    world = replace(world, patience=max(world.patience, 4 * FLEET))
    root = f"{pool}/fleet"
    world.machine.script(
        f"zfs create -o mountpoint=/{root} {root}\n"
        f"for i in $(seq 10 {FLEET + 9}); do zfs create {root}/d$i; done\n"
        f"for i in $(seq {EACH}); do zfs snapshot -r {root}@auto-$i; done",
        timeout=world.patience,
    )
    began = time.monotonic()
    backup(world, root, "s0")
    first = time.monotonic() - began
    backup(world, root, "s1")
    world.machine.script(f"for i in 10 30 50; do echo x > /{root}/d$i/file; done; sync")
    counted = f"/tmp/counted-{os.getpid()}"
    world.machine.script(f"mkdir {counted}")
    for name in ("zfs", "zpool"):
        script = f'#!/bin/sh\necho "{name} $*" >> {counted}/calls\nexec {name} "$@"\n'
        write = f"cat > {counted}/{name}; chmod 755 {counted}/{name}"
        world.machine.run("/bin/sh", "-c", write, stdin=script.encode())
    began = time.monotonic()
    told = world.offsite("--backup", f"{root}@s2", "-R", "--json", ZFS_COMMAND=f"{counted}/zfs")
    seconds, done = time.monotonic() - began, told.json
    calls = world.machine.run("cat", f"{counted}/calls").stdout.splitlines()
    measured(
        f"{FLEET} datasets of {EACH} snapshots: {first:.1f} s, 3 of them changed: {seconds:.1f} s,"
        f" {len(calls)} zfs and zpool commands"
    )
    world.machine.run("rm", "-r", counted)
    assert len(calls) < 20 + 3 * 12  # however many there are; for what changed it takes some each
    assert sent(done, root) == ["/d10", "/d30", "/d50"]
    assert seconds < first / 2
