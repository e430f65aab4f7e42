"""Increments on real OpenZFS: what they stand on, whatever the user did to the source."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from lab.world import LOCKED, PASSPHRASE, World, remotes, wait_for
from offsite.zfs.records import HEADER_SIZE, Feature
from offsite.zfs.walk import parse_begin
from tests.lab.test_resume import interrupt, log_of, sent


@pytest.fixture
def data(world: World, pool: str) -> str:
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", "-o", "recordsize=1M", "-o", "xattr=sa", name)
    world.fill(name, noise=3)
    return name


def change(world: World, dataset: str, number: int) -> None:
    """Something new, something changed, something gone."""
    world.machine.script(
        f"cd /{dataset}; echo {number} > new-{number}; echo {number} >> text/numbers;"
        f" rm -f many/{number}; dd if=/dev/urandom of=noise bs=64k count=1 seek={number}"
        " conv=notrunc 2>/dev/null; sync"
    )


def backup(world: World, name: str, *args: str) -> dict[str, Any]:
    """The only one that was made or found."""
    (done,) = world.offsite("--backup", name, "--json", *args).json["backups"]
    assert isinstance(done, dict)
    return done


def check_restored(world: World, dataset: str, point: str, facts: str) -> None:
    target = f"{dataset}-back"
    world.offsite("--restore", f"{dataset}@{point}", "--as", target)
    assert world.facts(target) == facts
    world.machine.run("zfs", "destroy", "-r", target)


def bookmarks(world: World, dataset: str) -> list[str]:
    listed = world.machine.run("zfs", "list", "-Ht", "bookmark", "-o", "name", "-d", "1", dataset)
    return [line.partition("#")[2] for line in listed.stdout.split()]


@pytest.mark.gate
def test_only_what_changed_is_sent(world: World, data: str) -> None:
    """With the flags of the full backup, though a new one would now be sent with -c."""
    first = backup(world, f"{data}@s1")
    world.machine.run("zfs", "set", "compression=zstd", data)
    change(world, data, 1)
    second = backup(world, f"{data}@s2")
    assert (first["type"], first["base"]) == ("full", None)
    assert (second["type"], second["base"]) == ("incremental", "s1")
    assert second["sent_bytes"] == second["stream_bytes"] < first["stream_bytes"] / 2
    assert second["providers"] == ["one", "two"]
    plain, as_stored = (
        len(sent(world, *flags, "-i", "@s1", f"{data}@s2")) for flags in (["-L"], ["-L", "-c"])
    )
    assert second["stream_bytes"] == plain > as_stored
    check_restored(world, data, "s2", world.facts(data))
    log = log_of(world)
    assert "A full backup to one, two: nothing is there yet to stand on" in log
    assert f"An increment to one, two from snapshot {data}@s1" in log


@pytest.mark.gate
def test_the_snapshot_is_destroyed_and_the_bookmark_serves(world: World, data: str) -> None:
    backup(world, f"{data}@s1")
    world.machine.run("zfs", "destroy", f"{data}@s1")
    change(world, data, 1)
    world.machine.run("zfs", "snapshot", f"{data}@of-another-tool")
    second = backup(world, f"{data}@s2")
    assert (second["type"], second["base"]) == ("incremental", "s1")
    world.machine.run("zfs", "destroy", f"{data}@s2")
    change(world, data, 2)
    third = backup(world, f"{data}@s3")
    assert (third["type"], third["base"]) == ("incremental", "s2")
    check_restored(world, data, "s3", world.facts(data))


def test_bookmarks_that_nobody_needs_are_tidied(world: World, data: str) -> None:
    world.machine.script(f"zfs snapshot {data}@mine; zfs bookmark {data}@mine {data}#mine")
    done = []
    for number in range(4):
        change(world, data, number)
        done.append(backup(world, f"{data}@s{number}")["backup_id"].partition("-")[2])
    assert sorted(bookmarks(world, data)) == sorted(
        ["mine", f"offsite-{done[2]}", f"offsite-{done[3]}"]
    )


def test_jobs_of_their_own_for_each_provider(world: World, data: str) -> None:
    """Each tidies up behind itself, and leaves what the other's next increment begins at."""
    made: dict[str, list[str]] = {"one": [], "two": []}
    for number, provider in enumerate(["two", "one", "one", "one", "two", "one", "two", "one"]):
        change(world, data, number)
        done = backup(world, f"{data}@s{number}", "--provider", provider)
        assert done["type"] == ("incremental" if made[provider] else "full")
        made[provider].append(f"offsite-{done['backup_id'].partition('-')[2]}:{provider}")
        world.machine.run("zfs", "destroy", f"{data}@s{number}")
    assert {*bookmarks(world, data)} == {name for names in made.values() for name in names[-2:]}
    check_restored(world, data, "s7", world.facts(data))


def test_an_increment_of_more_than_half_a_full_is_told(world: World, data: str) -> None:
    backup(world, f"{data}@s1")
    backup(world, f"{data}@s2")
    assert "more than half of the full backup" not in log_of(world)
    world.machine.script(f"dd if=/dev/urandom of=/{data}/more bs=1M count=20 2>/dev/null; sync")
    assert backup(world, f"{data}@s3")["type"] == "incremental"
    assert "more than half of the full backup @s1" in log_of(world)


def test_full_when_asked_for_and_by_policy(world: World, data: str) -> None:
    backup(world, f"{data}@s0")
    types = []
    for number in range(1, 4):
        change(world, data, number)
        world_says = world.offsite("--backup", f"{data}@s{number}", "--json", MAX_CHAIN="1").json[
            "backup"
        ]
        types.append(world_says["type"])
    assert types == ["incremental", "full", "incremental"]
    change(world, data, 4)
    assert backup(world, f"{data}@s4", "--full")["type"] == "full"
    change(world, data, 5)
    named = backup(world, f"{data}@s5", "--base", "@s2")
    assert (named["type"], named["base"]) == ("incremental", "s2")
    refused = world.offsite("--backup", f"{data}@s6", "--base", "@never", status=2)
    assert "no such older snapshot or bookmark" in refused.stderr


def test_a_base_that_is_named_by_its_bookmark(world: World, data: str) -> None:
    """Also the user's own: it is known by its guid."""
    backup(world, f"{data}@s0")
    world.machine.script(f"zfs bookmark {data}@s0 {data}#mark; zfs destroy {data}@s0")
    change(world, data, 1)
    backup(world, f"{data}@s1")
    change(world, data, 2)
    refused = world.offsite("--backup", f"{data}@s2", "--base", "#never", status=2)
    assert "--base #never: no such older snapshot or bookmark" in refused.stderr
    assert not world.exists(f"{data}@s2")
    done = backup(world, f"{data}@s2", "--base", "#mark")
    assert (done["type"], done["base"]) == ("incremental", "s0")
    assert f"from bookmark {data}#mark" in log_of(world)
    check_restored(world, data, "s2", world.facts(data))


# The clock as it was some days ago, for what is made then: nobody waits so long for a test.
DAYS_AGO = """
import datetime

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return super().now(tz) - datetime.timedelta(days={})

datetime.datetime = Clock
"""


def test_a_full_backup_every_some_days(world: World, data: str, tmp_path: Path) -> None:
    """As config.env says: counted from the chain's full one, not from its last increment."""
    (tmp_path / "sitecustomize.py").write_text(DAYS_AGO.format(8))
    path = f"{tmp_path}:{world.environment()['PYTHONPATH']}"
    providers = remotes(world.home)
    done = [world.offsite("--backup", f"{data}@s0", "--json", PYTHONPATH=path).json["backup"]]
    for number, days in enumerate(("9", "9", "7", "7", "0"), start=1):
        world.configure(**providers, FULL_EVERY=days)
        change(world, data, number)
        done.append(backup(world, f"{data}@s{number}"))
    assert [(one["type"], one["base"]) for one in done] == [
        ("full", None),
        ("incremental", "s0"),
        ("incremental", "s1"),
        ("full", None),
        ("incremental", "s3"),
        ("incremental", "s4"),
    ]
    assert "A full backup to one, two: the last full one is 8 days old (FULL_EVERY)" in log_of(
        world
    )
    check_restored(world, data, "s5", world.facts(data))


@pytest.mark.parametrize(("on_disk", "other"), [("zstd", "no"), ("lz4", "yes")])
def test_compressed_blocks_are_sent_as_they_are_or_not(
    on_disk: str, other: str, world: World, pool: str
) -> None:
    """By itself only what is compressed as well as we would; SEND_COMPRESSED has it otherwise."""
    name = f"{pool}/{on_disk}"
    world.machine.script(f"zfs create -o compression={on_disk} {name}; seq 400000 > /{name}/all")
    facts = world.facts(name)
    usual = world.offsite("--backup", f"{name}@usual", "--json").json["backup"]
    told = world.offsite(
        "--backup", f"{name}@told", "--full", "--json", SEND_COMPRESSED=other
    ).json["backup"]
    small, large = (usual, told) if on_disk == "zstd" else (told, usual)
    assert small["stream_bytes"] * 1.5 < large["stream_bytes"]
    check_restored(world, name, "told", facts)
    # A feature that a base was sent with may be gone from what stands on it.
    world.machine.script(f"zfs set compression=off {name}; seq 200000 > /{name}/more; sync")
    after = world.offsite("--backup", f"{name}@after", "--json").json["backup"]
    assert (after["type"], after["base"]) == ("incremental", "told")
    check_restored(world, name, "after", world.facts(name))


def test_providers_with_different_histories(world: World, data: str) -> None:
    """One send where the base is common, else one for each; and together again afterwards."""
    backup(world, f"{data}@s1")
    change(world, data, 1)
    backup(world, f"{data}@s2", "--provider", "one")
    change(world, data, 2)
    apart = world.offsite("--backup", f"{data}@s3", "--json").json["backups"]
    assert {(done["base"], *done["providers"]) for done in apart} == {("s2", "one"), ("s1", "two")}
    change(world, data, 3)
    together = backup(world, f"{data}@s4")
    assert (together["base"], together["providers"]) == ("s3", ["one", "two"])
    facts = world.facts(data)
    for provider in ("one", "two"):
        target = f"{data}-{provider}"
        world.offsite("--restore", f"{data}@s4", "--as", target, "--provider", provider)
        assert world.facts(target) == facts


def test_something_else_was_received_over_what_was_backed_up(world: World, pool: str) -> None:
    """The bookmark stays: an increment from there would lack what the receive went back to."""
    data, elsewhere = f"{pool}/notes", f"{pool}/elsewhere"
    world.machine.run("zfs", "create", data)
    world.machine.script(f"echo first > /{data}/file; echo one > /{data}/other; sync")
    backup(world, f"{data}@s0")
    world.machine.script(
        f"zfs send {data}@s0 | zfs receive {elsewhere}; echo two > /{elsewhere}/other; sync;"
        f" zfs snapshot {elsewhere}@x; echo second > /{data}/file; sync"
    )
    backup(world, f"{data}@s1")
    world.machine.script(
        f"zfs send -i @s0 {elsewhere}@x | zfs receive -F {data}; cat /{data}/file", check=True
    )
    assert len(bookmarks(world, data)) == 2
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s0")
    assert "no newer one can serve: something was received over" in log_of(world)
    check_restored(world, data, "s2", world.facts(data))
    world.machine.script(f"zfs destroy {data}@%; zfs send {elsewhere}@x | zfs receive -F {data}")
    done = backup(world, f"{data}@s3")
    assert done["type"] == "full"
    assert "A full backup to one, two: something was received over" in log_of(world)
    check_restored(world, data, "s3", world.facts(data))


def test_where_the_pool_s_past_cannot_be_read(world: World, data: str) -> None:
    """As for a user who may not ask zpool. What may have been received over a bookmark is a
    snapshot that is younger; where there is none, it serves."""
    unprivileged = world.program("plain", '#!/bin/sh\nexec zfs "$@"\n')

    def next_base(name: str) -> object:
        ran = world.offsite(
            "--backup", f"{data}@{name}", "--json", status=0, ZFS_COMMAND=unprivileged
        )
        return ran.json["backup"]["base"]

    for number in range(2):
        backup(world, f"{data}@s{number}")
        change(world, data, number)
    world.machine.run("zfs", "destroy", f"{data}@s1")
    assert next_base("s2") == "s1"
    world.machine.script(f"zfs destroy {data}@s2; zfs snapshot {data}@of-another-tool")
    change(world, data, 2)
    assert next_base("s3") == "s0"
    assert "zpool history -i" in log_of(world)
    check_restored(world, data, "s3", world.facts(data))


@pytest.mark.parametrize(
    ("story", "why"),
    [
        (
            "zfs rename {0} {0}-old && zfs create {0}",
            "A full backup to one, two: the source has no snapshot",
        ),
        ("zfs rollback -r {0}@s1", "An increment to one, two from snapshot {0}@s1"),
        ("zfs rollback -r {0}@s0", "A full backup to one, two: the source has no snapshot"),
    ],
    ids=["made anew", "rolled back", "rolled back too far"],
)
def test_what_users_do(world: World, data: str, story: str, why: str) -> None:
    world.machine.run("zfs", "snapshot", f"{data}@s0")
    change(world, data, 1)
    backup(world, f"{data}@s1")
    change(world, data, 2)
    world.machine.script(story.format(data))
    world.machine.script(f"echo more > /{data}/more; sync")
    before = log_of(world)
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == (
        ("full", None) if "full" in why else ("incremental", "s1")
    )
    assert why.format(data) in log_of(world).removeprefix(before)
    check_restored(world, data, "s2", world.facts(data))


def test_a_rollback_to_an_older_base_leaves_what_was_given_up_to_be_restored(
    world: World, data: str
) -> None:
    facts = {}
    for number, name in enumerate(("s1", "given-up")):
        change(world, data, number)
        backup(world, f"{data}@{name}")
        facts[name] = world.facts(data)
    world.machine.run("zfs", "rollback", "-r", f"{data}@s1")
    change(world, data, 2)
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    for name, before in (facts | {"s2": world.facts(data)}).items():
        check_restored(world, data, name, before)


PLAIN_COPY = "zfs send {0}@s1 | zfs receive {0}-copy; zfs destroy -r {0}; zfs rename {0}-copy {0}"


def check_full_for_large_blocks(world: World, data: str) -> None:
    """The next backup is a full one, told why, and the base of the one after it."""
    world.machine.script(f"zfs mount {data} 2>/dev/null || true; mkdir -p /{data}/text")
    change(world, data, 1)
    planned = world.offsite("--backup", f"{data}@s2", "--dry-run", "--json").json["backup"]
    assert planned["type"] == "incremental"  # the snapshot is not there yet
    done = backup(world, f"{data}@s2")
    check_restored(world, data, "s2", world.facts(data))
    assert done["type"] == "full"
    assert "@s1 was sent with large blocks and has none here any more" in log_of(world)
    change(world, data, 2)
    assert backup(world, f"{data}@s3")["base"] == "s2"
    check_restored(world, data, "s3", world.facts(data))


def test_a_plain_copy_came_back(world: World, data: str) -> None:
    """It has the same snapshot, its blocks cut up: zfs receive refuses an increment from there."""
    backup(world, f"{data}@s1")
    world.machine.script(PLAIN_COPY.format(data))
    check_full_for_large_blocks(world, data)


def test_a_restored_dataset_has_no_large_blocks_any_more(world: World, data: str) -> None:
    """Where zfs receive does not activate the feature, before 2.4.1."""
    world.machine.script(f"cd /{data}; rm -r noise text hardlink sparse hole; sync")
    backup(world, f"{data}@s1")
    world.machine.run("zfs", "destroy", "-r", data)
    world.offsite("--restore", data)
    if tuple(map(int, world.machine.version.split("."))) < (2, 4, 1):
        check_full_for_large_blocks(world, data)
        return
    world.machine.script(f"zfs mount {data}; mkdir -p /{data}/text")
    change(world, data, 1)
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    check_restored(world, data, "s2", world.facts(data))


def test_a_clone_by_itself(world: World, data: str) -> None:
    """What it has from its origin is not told apart: it is a dataset of its own, from the start."""
    clone = f"{data}-clone"
    backup(world, f"{data}@s1")
    world.machine.run("zfs", "clone", f"{data}@s1", clone)
    change(world, clone, 1)
    before = log_of(world)
    first = backup(world, f"{clone}@c1")
    assert (first["type"], first["base"]) == ("full", None)
    log = log_of(world).removeprefix(before)
    assert "A full backup to one, two: nothing is there yet to stand on" in log
    change(world, clone, 2)
    second = backup(world, f"{clone}@c2")
    assert (second["type"], second["base"]) == ("incremental", "c1")
    change(world, data, 3)
    assert backup(world, f"{data}@s2")["base"] == "s1"
    check_restored(world, clone, "c2", world.facts(clone))
    check_restored(world, data, "s2", world.facts(data))


def test_a_clone_was_promoted(world: World, pool: str) -> None:
    """It has the snapshots and bookmarks now, and the past that they tell of."""
    data, clone = f"{pool}/notes", f"{pool}/clone"
    world.machine.script(f"zfs create {data}; echo first > /{data}/file; sync")
    backup(world, f"{data}@s1")
    world.machine.script(
        f"zfs snapshot {data}@x; zfs clone {data}@x {clone}; zfs promote {clone};"
        f" zfs destroy {clone}@s1; echo more > /{data}/more; sync"
    )
    assert backup(world, f"{data}@s2")["type"] == "full"
    assert "no snapshot or bookmark left of what was backed up" in log_of(world)
    world.machine.script(f"echo second > /{clone}/file; sync")
    done = backup(world, f"{clone}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    assert f"from bookmark {clone}#offsite-" in log_of(world)
    check_restored(world, data, "s2", world.facts(data))
    check_restored(world, clone, "s2", world.facts(clone))


def test_a_dataset_that_was_renamed_goes_on(world: World, data: str) -> None:
    backup(world, f"{data}@s1")
    renamed = f"{data}-renamed"
    world.machine.run("zfs", "rename", data, renamed)
    change(world, renamed, 1)
    done = backup(world, f"{renamed}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    check_restored(world, renamed, "s2", world.facts(renamed))
    # From a bookmark, too: what the pool tells of its past is by name.
    again = f"{data}-again"
    world.machine.script(f"zfs destroy {renamed}@s2; zfs rename {renamed} {again}")
    change(world, again, 2)
    done = backup(world, f"{again}@s3")
    assert (done["type"], done["base"]) == ("incremental", "s2")
    assert f"from bookmark {again}#offsite-" in log_of(world)
    check_restored(world, again, "s3", world.facts(again))


def test_a_dataset_that_was_restored_goes_on(world: World, data: str) -> None:
    """It is another dataset, with the same snapshot."""
    backup(world, f"{data}@s1")
    world.machine.run("zfs", "destroy", "-r", data)
    world.offsite("--restore", data)
    world.machine.run("zfs", "mount", data)
    change(world, data, 1)
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    check_restored(world, data, "s2", world.facts(data))


def test_an_older_point_was_restored_and_goes_on(world: World, data: str) -> None:
    """Beside what came after it, which is still there to be restored."""
    facts = {}
    for number, name in enumerate(("s1", "given-up")):
        change(world, data, number)
        backup(world, f"{data}@{name}")
        facts[name] = world.facts(data)
    world.machine.run("zfs", "destroy", "-r", data)
    world.offsite("--restore", f"{data}@s1")
    world.machine.run("zfs", "mount", data)
    change(world, data, 2)
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    for name, before in (facts | {"s2": world.facts(data)}).items():
        check_restored(world, data, name, before)


def test_a_copy_without_its_other_features_goes_on(world: World, pool: str) -> None:
    """What zfs receive does not demand: compressed blocks, large dnodes, long names."""
    data = f"{pool}/photos"
    words = ["-o", "compression=zstd", "-o", "dnodesize=1k"]
    long = "n" * 200
    if world.get(pool, "longname", check=False) not in {"", "-"}:  # from OpenZFS 2.4 on
        words, long = [*words, "-o", "longname=on"], "n" * 900
    world.machine.run("zfs", "create", *words, data)
    world.fill(data, noise=2)
    world.machine.script(f"seq 99999 > /{data}/{long}")
    backup(world, f"{data}@s1")
    world.machine.script(f"rm /{data}/{long}")
    change(world, data, 1)
    backup(world, f"{data}@s2")
    world.machine.script(
        f"zfs send {data}@s2 | zfs receive -o compression=off -o dnodesize=legacy {data}-copy;"
        f" zfs destroy -r {data}; zfs rename {data}-copy {data}; zfs mount {data} || true"
    )
    change(world, data, 2)
    done = backup(world, f"{data}@s3")
    assert (done["type"], done["base"]) == ("incremental", "s2")
    path = str(world.home / "stream")
    files = world.offsite("--restore", data, "--to-file", path, "--json").json["restore"]["files"]
    had, has = (parse_begin(Path(one).read_bytes()[:HEADER_SIZE])[0].features for one in files[1:])
    assert had & ~has == Feature.ZSTD
    check_restored(world, data, "s3", world.facts(data))


def test_an_increment_is_interrupted_and_goes_on(world: World, data: str) -> None:
    """By token, from the bookmark of a snapshot that is gone."""
    backup(world, f"{data}@s1")
    world.machine.script(
        f"zfs destroy {data}@s1; dd if=/dev/urandom of=/{data}/more bs=1M count=8 2>/dev/null; sync"
    )
    interrupt(world, f"{data}@s2", signal.SIGKILL)
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    assert done["resumed_chunks"] > 0
    assert done["sent_bytes"] < done["stream_bytes"]
    assert "(token)" in log_of(world)
    check_restored(world, data, "s2", world.facts(data))


def test_encrypted_data_goes_raw_without_its_key(world: World, pool: str) -> None:
    data = f"{pool}/vault"
    world.machine.script(f"{LOCKED} {data}")
    world.fill(data, noise=1)
    backup(world, f"{data}@s1")
    change(world, data, 1)
    facts = world.facts(data)
    world.machine.script(f"zfs snapshot {data}@s2; zfs unmount {data}; zfs unload-key {data}")
    done = backup(world, f"{data}@s2")
    assert (done["type"], done["base"]) == ("incremental", "s1")
    target = f"{data}-back"
    world.offsite("--restore", f"{data}@s2", "--as", target)
    world.machine.script(f"echo {PASSPHRASE} | zfs load-key {target}")
    assert world.facts(target) == facts
    world.machine.script(f"echo {PASSPHRASE} | zfs load-key {data}; zfs mount {data}")
    change(world, data, 2)
    clear = world.offsite("--backup", f"{data}@s3", "--json", SEND_RAW="no").json["backup"]
    assert clear["type"] == "full"  # what was received raw takes nothing else
    assert "raw, or not" in log_of(world)
    change(world, data, 3)
    more = world.offsite("--backup", f"{data}@s4", "--json", SEND_RAW="no").json["backup"]
    assert (more["type"], more["base"]) == ("incremental", "s3")
    plain = f"{data}-plain"
    world.offsite("--restore", f"{data}@s4", "--as", plain)
    assert world.facts(plain) == world.facts(data)
    assert world.get(plain, "encryption") == "off"


def test_every_snapshot_in_between(world: World, data: str) -> None:
    """Each becomes a point of its own; the user's and those after the last backup."""
    backup(world, f"{data}@s0")
    facts = {}
    for number in range(1, 4):
        change(world, data, number)
        if number == 2:
            world.machine.script(f"dd if=/dev/urandom of=/{data}/much bs=1M count=8 2>/dev/null")
        world.machine.run("zfs", "snapshot", f"{data}@s{number}")
        facts[f"s{number}"] = world.facts(data)
    all_of_them = ("--backup", f"{data}@s3", "--intermediate")
    running = world.start(*all_of_them, RCLONE_FLAGS="--bwlimit 500k")
    wait_for(lambda: world.receipts() >= 3 or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    running.kill()
    running.communicate(timeout=60)
    done = world.offsite(*all_of_them, "--json").json["backups"]
    assert [(one["snapshot"], one["base"]) for one in done][-2:] == [("s2", "s1"), ("s3", "s2")]
    assert done[-2]["resumed_chunks"] >= 3
    rows = world.offsite("--list", "--json").json["backups"]
    assert [(row["snapshot"], row["complete"]) for row in rows] == [
        (f"s{number}", True) for number in range(4)
    ]
    for point in ("s1", "s2", "s3"):
        check_restored(world, data, point, facts[point])


def test_the_snapshots_in_between_are_not_of_the_set(world: World, data: str) -> None:
    """Who names one gets that one, not the set in whose run it was stored."""
    child, back = f"{data}/child", f"{data}-back"
    world.machine.script(f"zfs create {child}; echo early > /{child}/file; sync")
    world.machine.run("zfs", "snapshot", f"{child}@early")
    world.machine.script(f"echo late > /{child}/file; sync")
    done = world.offsite("--backup", f"{data}@s1", "-R", "--intermediate", "--json").json
    told = [(one["dataset"], one["snapshot"]) for one in done["backups"]]
    assert told == [(data, "s1"), (child, "early"), (child, "s1")]
    came = world.offsite("--restore", f"{data}@early", "-R", "--as", back, "--json").json
    assert [one["target"] for one in came["restores"]] == [f"{back}/child"]
    world.machine.run("zfs", "mount", f"{back}/child")
    assert world.machine.run("cat", f"/{back}/child/file").stdout == "early\n"
