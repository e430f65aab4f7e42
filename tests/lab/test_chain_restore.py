"""Restores of chains on real OpenZFS: every point, interruptions, --update, --replace, --at."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lab.world import World, wait_for
from tests.lab.test_resume import log_of

MARK = "offsite:restoring"
KEY = "/tmp/chain-key"  # on the machine
# rclone saves up to 4 MiB while it has nothing to do: at this rate none of that is there yet.
SLOW = {"RCLONE_FLAGS": "--bwlimit 300k"}


@pytest.fixture
def data(world: World, pool: str) -> str:
    """A filesystem that is backed up three times: @a full, @b and @c on top of it."""
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", "-o", "atime=off", name)
    world.fill(name, noise=3)
    make_chain(world, name)
    return name


def make_chain(world: World, data: str, names: Sequence[str] = ("a", "b", "c")) -> None:
    for number, name in enumerate(names):
        if number:
            change(world, data, name)
        made = world.offsite("--backup", f"{data}@{name}", "--json").json["backup"]
        assert made["snapshot"] == name
    kinds = [row["type"] for row in world.offsite("--list", "--json").json["backups"]]
    assert [kind.split()[0] for kind in kinds[-len(names) :]] == (
        ["full"] + ["incremental"] * (len(names) - 1)
    )


def change(world: World, data: str, name: str, noise: int = 3) -> None:
    world.machine.script(
        f"cd /{data}; echo {name} > changed; rm -rf text/binary; rm -f many/*{len(name)}\n"
        f"dd if=/dev/urandom of=noise-{name} bs=1M count={noise} 2>/dev/null; sync"
    )


def facts_at(world: World, data: str, snapshot: str) -> str:
    """What the files of a snapshot are, on a clone of it."""
    clone = f"{data.partition('/')[0]}/clone"
    world.machine.run("zfs", "clone", f"{data}@{snapshot}", clone)
    try:
        return world.facts(clone)
    finally:
        world.machine.run("zfs", "destroy", clone)


def restored(world: World, *args: str, status: int = 0, **environment: str) -> Any:
    ran = world.offsite("--restore", *args, "--json", status=status, **environment)
    return ran.json["restore"] if status == 0 else ran.json


def snapshots(world: World, name: str) -> list[str]:
    listed = ("zfs", "list", "-Ht", "snapshot", "-d", "1", "-o", "name", "-s", "createtxg", name)
    return [line.partition("@")[2] for line in world.machine.run(*listed).stdout.splitlines()]


def check_done(world: World, target: str) -> None:
    """Neither mark nor token is left."""
    assert (world.get(target, MARK), world.get(target, "receive_resume_token")) == ("-", "-")


# --- a chain --------------------------------------------------------------------------------------


@pytest.mark.gate
def test_every_point_of_a_chain(world: World, pool: str, data: str) -> None:
    for names in ("a", "ab", "abc"):
        target = f"{pool}/at-{names}"
        done = restored(world, f"{data}@{names[-1]}", "--as", target)
        assert [one["snapshot"] for one in done["chain"]] == list(names)
        assert [one["full"] for one in done["chain"]] == [True, False, False][: len(names)]
        assert snapshots(world, target) == list(names)
        assert world.facts(target) == facts_at(world, data, names[-1])
        check_done(world, target)
    refused = restored(world, data, "--as", f"{pool}/at-abc", status=2)
    assert "exists; it was not touched" in refused["error"]
    assert all(way in refused["hint"] for way in ("--as", "--update", "--replace"))


def test_a_dry_run_tells_the_plan(world: World, pool: str, data: str) -> None:
    rows = world.offsite("--list", "--json").json["backups"]
    ran = world.offsite("--restore", data, "--as", f"{pool}/new", "--dry-run")
    assert "@a  full" in ran.stdout
    assert "@c  incremental" in ran.stdout
    assert "/s measured now\n" in ran.stdout
    plan = restored(world, data, "--as", f"{pool}/new", "--dry-run")
    assert sum(plan["providers"].values()) == sum(row["stored_bytes"] for row in rows)
    assert [one["backup_id"] for one in plan["chain"]] == [row["id"] for row in rows]
    assert plan["estimated_seconds"] > 0
    slow = restored(world, data, "--as", f"{pool}/new", "--dry-run", RCLONE_FLAGS="--bwlimit 1M")
    assert slow["estimated_seconds"] > plan["estimated_seconds"]
    for point, row in (("latest-full", rows[0]), (rows[1]["id"][:-4], rows[1])):
        there = restored(world, f"{data}@{point}", "--as", f"{pool}/new", "--dry-run")
        assert there["backup_id"] == row["id"]
    assert not world.exists(f"{pool}/new")


def test_links_come_from_different_providers(world: World, pool: str, data: str) -> None:
    rows = world.offsite("--list", "--json").json["backups"]
    for row, provider in zip(rows, ("one", "two", "one"), strict=True):
        shutil.rmtree(world.home / provider / "offsite/backups" / row["id"])
    done = restored(world, data, "--as", f"{pool}/new")
    assert [max(one["providers"], key=one["providers"].get) for one in done["chain"]] == [
        "two", "one", "two",
    ]  # fmt: skip
    assert world.facts(f"{pool}/new") == world.facts(data)
    refused = restored(world, data, "--as", f"{pool}/only", "--provider", "one", status=1)
    assert "stands on @a" in refused["error"]


def test_a_lost_link_is_named_and_what_can_be_restored_instead(
    world: World, pool: str, data: str
) -> None:
    rows = world.offsite("--list", "--json").json["backups"]
    for provider in ("one", "two"):
        folder = world.home / provider / "offsite/backups" / rows[1]["id"]
        (folder / "chunk-00000000.zfs.zst.age").unlink()
    refused = restored(world, data, "--as", f"{pool}/new", status=1)
    assert "stands on @b" in refused["error"]
    assert rows[1]["id"] in refused["error"]
    assert f"{data}@a" in refused["hint"]
    assert not world.exists(f"{pool}/new")
    restored(world, f"{data}@a", "--as", f"{pool}/new")


@pytest.mark.parametrize("kind", ["encrypted", "volume"])
def test_chains_of_other_kinds(world: World, pool: str, kind: str) -> None:
    source, target = f"{pool}/{kind}", f"{pool}/back"
    make = {
        "encrypted": f"dd if=/dev/urandom of={KEY} bs=32 count=1 2>/dev/null\nzfs create"
        f" -o encryption=on -o keyformat=raw -o keylocation=file://{KEY} {source}",
        "volume": f"zfs create -V 16M {source}",
    }
    world.machine.script(make[kind])
    there = {}
    for number, name in enumerate("abc"):
        file = f"/{source}/{name}"
        if kind == "volume":
            file = f"{world.device(source)} seek={number}"
        write = f"dd if=/dev/urandom of={file} bs=1M count=2 conv=fsync 2>/dev/null"
        world.machine.script(f"{write}; sync")
        there[name] = world.content(source)
        world.offsite("--backup", f"{source}@{name}")
        if name == "b":  # its bookmark serves
            world.machine.run("zfs", "destroy", f"{source}@b")
    assert len({*there.values()}) == 3
    running = world.start("--restore", source, "--as", target, **SLOW)
    kill_when(world, running, lambda: world.exists(f"{target}@a"))
    assert world.get(target, MARK) != "-"
    done = restored(world, source, "--as", target)
    assert done["resumed_chunks"] >= 2
    assert snapshots(world, target) == ["a", "b", "c"]
    check_done(world, target)
    assert world.content(target, KEY) == there["c"]
    for name in "ab":
        point = f"{pool}/at-{name}"
        restored(world, f"{source}@{name}", "--as", point)
        if name == "b":  # what was looked at is in use, and may have been written to
            assert world.content(point, KEY) == there[name]
            continue
        done = restored(world, source, "--as", point, "--update")
        assert [one["snapshot"] for one in done["chain"]] == ["b", "c"]
        assert world.content(point, KEY) == there["c"]
        restored(world, f"{source}@a", "--as", f"{point}-too")
        assert world.content(f"{point}-too", KEY) == there["a"]
    guid = world.get(source, "guid")
    done = restored(world, f"{source}@b", "--replace", "--yes")
    assert (world.get(done["kept"], "guid"), world.content(done["kept"], KEY)) == (
        guid,
        there["c"],
    )
    assert world.content(source, KEY) == there["b"]
    if kind == "encrypted":
        assert world.get(source, "encryptionroot") == source


# --- interruptions --------------------------------------------------------------------------------


def kill_when(
    world: World, running: subprocess.Popen[str], happened: Any, kind: int = signal.SIGKILL
) -> None:
    wait_for(lambda: happened() or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    running.send_signal(kind)
    running.communicate(timeout=60)
    wait_for(lambda: "zfs receive" not in world.machine.run("ps", "-o", "args").stdout)


def received(world: World, number: int) -> Any:
    """Whether the log says that link ``number`` is on its way, and some of it has come."""
    before = log_of(world, "restore")
    began, chunks = before.count("Receiving @"), before.count("Processing chunk")

    def happened() -> bool:
        log = log_of(world, "restore")
        new = log.count("Receiving @") - began
        if new < number or log.count("Processing chunk") < chunks + 2 * number:
            return False
        time.sleep(1)
        return True

    return happened


def test_a_restore_goes_on_in_any_link(world: World, pool: str, data: str) -> None:
    target = f"{pool}/back"
    restore = (data, "--as", target)
    running = world.start("--restore", *restore, **SLOW)
    kill_when(world, running, received(world, 1))
    assert snapshots(world, target) == []
    mark = world.get(target, MARK)
    assert mark != "-"
    running = world.start("--restore", *restore, "--provider", "two", **SLOW)
    kill_when(world, running, received(world, 2), signal.SIGINT)
    assert "a" in snapshots(world, target)
    assert world.get(target, MARK) == mark
    done = restored(world, *restore)
    assert 0 < sum(done["providers"].values()) < done["stored_bytes"]
    assert done["resumed_chunks"] >= 3
    assert snapshots(world, target) == ["a", "b", "c"]
    assert world.facts(target) == world.facts(data)
    check_done(world, target)


def test_a_restore_goes_on_between_links_and_when_all_was_received(
    world: World, pool: str, data: str
) -> None:
    """As left by a machine that died in the moment after a receive."""
    target = f"{pool}/back"
    (row,) = [
        row for row in world.offsite("--list", "--json").json["backups"] if row["snapshot"] == "c"
    ]
    restored(world, f"{data}@b", "--as", target)
    world.machine.run("zfs", "set", f"{MARK}={row['id']}", target)
    done = restored(world, data, "--as", target)
    assert done["chain"][0]["providers"] == {}
    assert done["chain"][2]["providers"] != {}
    world.machine.run("zfs", "set", f"{MARK}={row['id']}", target)
    done = restored(world, data, "--as", target)
    assert (done["resumed_chunks"], sum(done["providers"].values())) == (done["chunks"], 0)
    check_done(world, target)
    restored(world, data, "--as", target, status=2)

    world.machine.run("zfs", "set", f"{MARK}={row['id']}", target)
    world.machine.script(f"zfs mount {target}; echo mine > /{target}/mine; sync")
    for more in ((), ("--restart",)):
        refused = restored(world, data, "--as", target, *more, status=2)
        assert "not touched" in refused["error"]
    assert world.machine.script(f"cat /{target}/mine").stdout == "mine\n"


def test_restart_throws_away_what_an_unfinished_restore_received(
    world: World, pool: str, data: str
) -> None:
    target = f"{pool}/back"
    running = world.start("--restore", data, "--as", target, **SLOW)
    kill_when(world, running, received(world, 2), signal.SIGINT)
    assert "a" in snapshots(world, target)
    world.machine.run("zfs", "create", f"{target}/child")
    refused = restored(world, data, "--as", target, "--restart", status=2)
    assert f"zfs destroy -r {target}" in refused["hint"]
    assert world.exists(f"{target}/child")
    world.machine.run("zfs", "destroy", f"{target}/child")
    done = restored(world, data, "--as", target, "--restart")
    assert done["resumed_chunks"] == 0
    assert world.facts(target) == world.facts(data)


# --- what is there already ------------------------------------------------------------------------


def test_update(world: World, pool: str, data: str) -> None:
    target = f"{pool}/back"
    restored(world, f"{data}@a", "--as", target)
    running = world.start("--restore", data, "--as", target, "--update", **SLOW)
    kill_when(world, running, received(world, 1), signal.SIGINT)
    assert "exists" in restored(world, data, "--as", target, status=2)["error"]
    done = restored(world, data, "--as", target, "--update")
    assert done["updated"]
    assert [one["snapshot"] for one in done["chain"]] in (["b", "c"], ["c"])
    assert snapshots(world, target) == ["a", "b", "c"]
    check_done(world, target)
    again = world.offsite("--restore", data, "--as", target, "--update")
    assert "has " + data + "@c already" in again.stdout
    assert world.facts(target) == world.facts(data)
    check_nothing_forced(world, pool)

    world.machine.script(f"zfs mount {target} 2>/dev/null || true; echo x > /{target}/x; sync")
    refused = restored(world, data, "--as", target, "--update", status=2)
    assert "were written to" in refused["error"]
    assert f"zfs rollback {target}@c" in refused["hint"]
    world.machine.run("zfs", "snapshot", f"{target}@mine")
    refused = restored(world, data, "--as", target, "--update", status=2)
    assert "@mine" in refused["error"]


def test_a_plain_copy_is_not_updated(world: World, pool: str) -> None:
    """Its blocks were cut up: zfs receives what was sent with -L over them, and may lose data."""
    data, copy = f"{pool}/large", f"{pool}/copy"
    world.machine.run("zfs", "create", "-o", "recordsize=1M", data)
    world.fill(data, noise=3)
    make_chain(world, data, ("a", "b"))
    world.machine.script(f"zfs send {data}@a | zfs receive -u {copy}")
    refused = restored(world, data, "--as", copy, "--update", status=2)
    assert f"{copy}@a came here without large blocks" in refused["error"]
    assert snapshots(world, copy) == ["a"]
    world.machine.script(f"zfs destroy -r {copy}; zfs send -L {data}@a | zfs receive -u {copy}")
    assert restored(world, data, "--as", copy, "--update")["updated"]
    assert world.facts(copy) == world.facts(data)


def test_keys_that_were_changed(world: World, pool: str) -> None:
    """Of the source: the newest opens the chain. Of the target: no raw increment must follow."""
    source, parent = f"{pool}/vault", f"{pool}/safe"
    target, fresh = f"{parent}/back", f"{pool}/fresh"
    make = "zfs create -o encryption=on -o keyformat=raw -o keylocation=file:///tmp/key"
    world.machine.script(
        "for n in 1 2 3; do dd if=/dev/urandom of=/tmp/key$n bs=32 count=1 2>/dev/null; done;"
        f" {make}1 {source}; {make}2 {parent}; echo one > /{source}/file; sync"
    )
    world.offsite("--backup", f"{source}@a")
    restored(world, source, "--as", target)
    world.machine.script(
        f"zfs load-key -L file:///tmp/key1 {target}; zfs change-key -i {target};"
        f" zfs change-key -o keylocation=file:///tmp/key3 {source}; echo two > /{source}/file; sync"
    )
    made = world.offsite("--backup", f"{source}@b", "--json").json["backup"]
    assert made["type"] == "incremental"
    refused = restored(world, source, "--as", target, "--update", status=2)
    assert f"is opened by the key of {parent}" in refused["error"]
    assert snapshots(world, target) == ["a"]
    own = ("-o", "keyformat=raw", "-o", "keylocation=file:///tmp/key2")
    world.machine.run("zfs", "change-key", *own, target)
    restored(world, source, "--as", target, "--update")
    restored(world, source, "--as", fresh)
    world.machine.script(f"zfs unload-key {target}")
    for name in (target, fresh):
        old = world.machine.run("zfs", "load-key", "-L", "file:///tmp/key1", name, check=False)
        assert "Incorrect key" in old.stderr
        world.machine.run("zfs", "load-key", "-L", "file:///tmp/key3", name)


def test_the_source_itself_is_updated_after_a_rollback(world: World, data: str) -> None:
    before = world.facts(data)
    world.machine.run("zfs", "unmount", data)
    world.machine.run("zfs", "rollback", "-r", f"{data}@a")
    done = restored(world, data, "--update")
    assert [one["snapshot"] for one in done["chain"]] == ["b", "c"]
    assert world.facts(data) == before


def check_nothing_forced(world: World, pool: str) -> None:
    """What zfs itself wrote down of its commands: no receive -F, no rollback."""
    lines = world.machine.run("zpool", "history", pool).stdout.splitlines()
    commands = [line.split(" ", 1)[1] for line in lines if " zfs " in line]
    assert sum(line.startswith("zfs receive ") for line in commands) >= len("abc")
    assert [one for one in commands if re.search(r"^zfs (receive .*-\w*F|rollback)", one)] == []


def test_replace(world: World, pool: str, data: str) -> None:
    before = world.facts(data)
    world.machine.script(f"echo precious > /{data}/mine; rm -r /{data}/text; sync")
    guid = world.get(data, "guid")
    done = restored(world, data, "--replace", "--yes")
    today = world.machine.run("date", "-u", "+%Y").stdout.strip()
    assert done["kept"].startswith(f"{data}-before-restore-{today}")
    assert world.get(done["kept"], "guid") == guid
    assert world.get(data, "guid") != guid
    assert world.machine.script(f"cat /{done['kept']}/mine").stdout == "precious\n"
    assert world.facts(data) == before
    check_done(world, data)
    assert not world.exists(f"{data}-restoring")
    again = restored(world, data, "--replace", "--yes")
    assert again["kept"] == done["kept"] + "-2"
    check_nothing_forced(world, pool)
    world.machine.run("zfs", "create", f"{data}/child")
    refused = restored(world, data, "--replace", "--yes", status=2)
    assert f"{data}/child" in refused["error"]
    world.machine.run("zfs", "destroy", f"{data}/child")


def test_replace_goes_on_after_any_interruption(world: World, data: str) -> None:
    guid = world.get(data, "guid")
    beside = f"{data}-restoring"
    running = world.start("--restore", data, "--replace", "--yes", **SLOW)
    kill_when(world, running, received(world, 2))
    assert world.exists(beside)
    assert world.get(data, "guid") == guid
    # As if it had died between the two renames.
    world.machine.run("zfs", "rename", data, f"{data}-before-restore-20260101")
    refused = restored(world, data, status=2)
    assert beside in refused["error"]
    assert "--replace" in refused["hint"]
    done = restored(world, data, "--replace", "--yes")
    assert done["resumed_chunks"] > 0
    assert snapshots(world, data) == ["a", "b", "c"]
    assert world.get(f"{data}-before-restore-20260101", "guid") == guid
    assert not world.exists(beside)
    check_done(world, data)


def test_a_dataset_in_use_is_not_replaced(world: World, data: str) -> None:
    command = world.machine.command("/bin/sh", "-c", f"cd /{data}; echo $$; exec sleep 100")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None
        pid = user.stdout.readline().decode().strip()
        try:
            refused = restored(world, data, "--replace", "--yes", status=1)
        finally:
            world.machine.run("kill", pid)
            user.wait()
    assert "busy" in refused["error"]
    assert snapshots(world, data) == ["a", "b", "c"]
    done = restored(world, data, "--replace", "--yes")
    assert sum(done["providers"].values()) == 0
    assert world.facts(data) == world.facts(done["kept"])


def test_no_room(world: World, pool: str, data: str) -> None:
    small = f"{pool}/small"
    world.machine.run("zfs", "create", "-o", "quota=4M", small)
    refused = restored(world, data, "--as", f"{small}/new", status=2)
    assert "not enough room" in refused["error"]
    assert not world.exists(f"{small}/new")


def test_a_moment(world: World, pool: str, data: str) -> None:
    created = int(world.get(f"{data}@b", "creation"))
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    done = restored(world, data, "--at", moment, "--as", f"{pool}/then")
    assert done["snapshot"] == "b"
    refused = restored(world, data, "--at", "1999-12-31", "--as", f"{pool}/ago", status=2)
    assert "the oldest is @a" in refused["hint"]


def test_names_that_links_share(world: World, pool: str) -> None:
    data = f"{pool}/daily"
    world.machine.run("zfs", "create", data)
    ids = []
    for number in range(3):
        world.machine.script(f"echo {number} > /{data}/file; sync")
        done = world.offsite("--backup", data, "--as", "@latest-state", "--json")
        ids.append(done.json["backup"]["backup_id"])
        world.machine.run("zfs", "destroy", f"{data}@latest-state")
    restored(world, data, "--as", f"{pool}/back")
    short = [backup_id.partition("-")[2][:8] for backup_id in ids]
    assert snapshots(world, f"{pool}/back") == [
        f"latest-state-{short[0]}", f"latest-state-{short[1]}", "latest-state",
    ]  # fmt: skip
    assert world.machine.script(f"zfs mount {pool}/back; cat /{pool}/back/file").stdout == "2\n"


def test_to_files_without_zfs(world: World, pool: str, data: str) -> None:
    path = world.home / "photos.zfs"
    nothing: dict[str, Any] = {"ZFS_SSH": "", "ZFS_COMMAND": "/nonexistent"}
    done = restored(world, data, "--to-file", str(path), **nothing)
    assert done["files"] == [f"{path}.00{number}" for number in (1, 2, 3)]
    for file in done["files"]:
        with Path(file).open("rb") as stream:
            receive = world.machine.command("zfs", "receive", "-u", f"{pool}/back")
            subprocess.run(receive, stdin=stream, check=True)
    assert snapshots(world, f"{pool}/back") == ["a", "b", "c"]
    assert world.facts(f"{pool}/back") == world.facts(data)
    words = ("-m", "offsite", "--restore", f"{data}@a", "--to-file", "-")
    environment = world.environment() | nothing
    piped = subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, check=True
    )
    assert piped.stdout == Path(done["files"][0]).read_bytes()
    assert f"{data}@a is written to" in piped.stderr.decode()
    world.offsite("--restore", data, "--to-file", "-", status=2, **nothing)
    world.offsite("--restore", data, "--to-file", str(path), status=2, **nothing)
