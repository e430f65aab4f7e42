"""What must not be there any more when the last run has ended well."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from pathlib import Path

from lab.faults import victims
from lab.world import World

PROVIDERS = ("one", "two")
PATIENCE = 20  # seconds in which what was killed may vanish
SPARE = 2  # snapshots whose bookmarks stay (ARCHITECTURE: Chains); both providers have the same


def of_world(world: World, shared: Iterable[Path]) -> list[str]:
    """Processes, sockets, locks, journals, shared memory; unfinished or untidy backups."""
    left = [f"process {name}" for name in _processes(world)]
    state = world.home / ".local/state/offsite"
    for folder in (world.home / "run", state / "journals", state / "locks"):
        left += [str(path) for path in folder.glob("*")]
    left += [str(path) for path in shared if path.exists()]
    return left + _backups(world)


def of_source(world: World, dataset: str, snapshots: Iterable[str]) -> list[str]:
    """Holds; bookmarks of ours but those of the newest snapshots."""
    names = [f"{dataset}@{snapshot}" for snapshot in snapshots]
    told = world.machine.run("zfs", "holds", "-H", *names).stdout.splitlines()
    ours = f"{dataset}#offsite-"
    asked = ("zfs", "list", "-Hd", "1", "-t", "bookmark", "-o", "guid,name", "-s", "createtxg")
    listed = [line.split("\t") for line in world.machine.run(*asked, dataset).stdout.splitlines()]
    marks = [(guid, name) for guid, name in listed if name.startswith(ours)]
    newest = [*dict.fromkeys(guid for guid, _ in marks)][-SPARE:]
    surplus = [f"bookmark {name}" for guid, name in marks if guid not in newest]
    return [f"hold {line}" for line in told] + surplus


def of_target(world: World, target: str, snapshots: Iterable[str]) -> list[str]:
    """A resume token, the mark of an unfinished restore, and whatever is there but the dataset and
    its snapshots."""
    asked = ("zfs", "get", "-Ho", "property,value", "receive_resume_token,offsite:restoring")
    lines = world.machine.run(*asked, target).stdout.splitlines()
    told = [line for line in lines if not line.endswith("\t-")]
    listed = world.machine.run("zfs", "list", "-rHt", "all", "-o", "name", target).stdout.split()
    wanted = {target, *(f"{target}@{snapshot}" for snapshot in snapshots)}
    return told + [name for name in listed if name not in wanted]


def _processes(world: World) -> list[str]:
    deadline = time.monotonic() + PATIENCE
    while (found := _living(world)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def _living(world: World) -> list[str]:
    here = [" ".join(one.argv)[:200] for one in victims.of_home(world.home)]
    if here or not world.machine.zfs_settings():
        return here
    there = world.machine.run("ps", "-o", "args").stdout.splitlines()
    return [line for line in there if line.startswith("zfs ")]


def _backups(world: World) -> list[str]:
    rows = world.offsite("--list", "--json").json["backups"]
    ones, others = (_stored(world.home / name) for name in PROVIDERS)
    left = [f"backup {row['id']}: {row['status']}" for row in rows if not row["complete"]]
    left += [f"only on one provider: {row['id']}" for row in rows if len(row["providers"]) == 1]
    left += [f"differs between providers: {path}" for path in ones ^ others]
    for row in rows:
        chunks = {path for path, _ in ones if f"/{row['id']}/chunk-" in f"/{path}"}
        if len(chunks) != row["chunks"]:
            left.append(f"backup {row['id']}: {len(chunks)} chunks instead of {row['chunks']}")
    return left


def _stored(provider: Path) -> set[tuple[str, str]]:
    """Path and hash of every object."""
    return {
        (str(path.relative_to(provider)), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in provider.rglob("*")
        if path.is_file()
    }
