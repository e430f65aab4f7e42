"""Names that do not tell which backup is meant, on real OpenZFS; and what does."""

from __future__ import annotations

from typing import Any

import pytest

from lab.world import World
from tests.lab.test_increments import backup, change, check_restored

EARLIER = "of another dataset, which had this name before"


@pytest.fixture
def data(world: World, pool: str) -> str:
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", name)
    world.fill(name, noise=2)
    return name


def listed(world: World, data: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = world.offsite("--list", data, "--json").json["backups"]
    return rows


def test_a_snapshot_was_made_anew_under_its_old_name(world: World, data: str) -> None:
    """After a complete backup of the first one: both are there, and told apart."""
    backup(world, f"{data}@s1")
    facts = [world.facts(data)]
    guids = [world.get(f"{data}@s1", "guid")]
    world.machine.run("zfs", "destroy", f"{data}@s1")
    change(world, data, 1)
    again = backup(world, f"{data}@s1")
    assert (again["type"], again["base"]) == ("incremental", "s1")
    facts.append(world.facts(data))
    guids.append(world.get(f"{data}@s1", "guid"))
    rows = listed(world, data)
    assert [row["guid"] for row in rows] == guids
    assert [row["point"] for row in rows] == [row["id"][:15] for row in rows]
    assert rows[0]["note"] == "destroyed, renamed or rolled back before another @s1 was made"
    assert rows[1]["note"] == ""
    refused = world.offsite("--restore", f"{data}@s1", "--as", f"{data}-back", status=2)
    assert "could be any of 2 backups" in refused.stderr
    for row, each in zip(rows, facts, strict=True):
        check_restored(world, data, row["point"], each)
    text = world.offsite("--list", data).stdout
    assert all(f"s1 (@{row['point']})" in text for row in rows)
    check_restored(world, data, "latest", facts[1])
    change(world, data, 2)
    assert backup(world, f"{data}@s2")["base"] == "s1"
    check_restored(world, data, "s2", world.facts(data))


def test_a_dataset_was_made_anew(world: World, pool: str, data: str) -> None:
    backup(world, f"{data}@s0")
    change(world, data, 1)
    backup(world, f"{data}@s1")
    old = world.facts(data)
    world.machine.script(f"zfs destroy -r {data}; zfs create {data}; echo new > /{data}/file")
    assert backup(world, f"{data}@s1")["type"] == "full"
    rows = listed(world, data)
    assert [row["note"] for row in rows] == [EARLIER, EARLIER, ""]
    assert rows[0]["dataset_guid"] == rows[1]["dataset_guid"] != rows[2]["dataset_guid"]
    assert rows[2]["dataset_guid"] == world.get(data, "guid")
    assert [row["point"] for row in rows] == ["s0", rows[1]["id"][:15], rows[2]["id"][:15]]
    text = world.offsite("--list", data).stdout
    assert f"{data}@s0, {data}@{rows[1]['point']}: {EARLIER}" in " ".join(text.split())
    check_restored(world, data, rows[1]["point"], old)
    check_restored(world, data, rows[2]["point"], world.facts(data))
    check_restored(world, data, "latest", world.facts(data))


def test_points_by_id_and_by_what_they_are(world: World, data: str) -> None:
    facts: dict[str, str] = {}
    done: list[dict[str, Any]] = []
    for name, *args in (["s0"], ["s1"], ["s2", "--full"], ["s3"]):
        change(world, data, len(done))
        done.append(backup(world, f"{data}@{name}", *args))
        facts[name] = world.facts(data)
    kinds = ["full", "incremental", "full", "incremental"]
    assert [one["type"] for one in done] == kinds
    for name, one in zip(facts, done, strict=True):
        check_restored(world, data, one["backup_id"][:15], facts[name])
    check_restored(world, data, done[1]["backup_id"], facts["s1"])
    check_restored(world, data, "latest-full", facts["s2"])
    check_restored(world, data, "latest", facts["s3"])
    for point, why in (("20", "could be any of 4 backups"), ("zz", "no finished backup of")):
        refused = world.offsite("--restore", f"{data}@{point}", "--as", f"{data}-x", status=2)
        assert why in refused.stderr
    assert not world.exists(f"{data}-x")
