"""What a restore asks of the dataset it makes or continues, and the little that it changes there.

A dataset is destroyed by nothing here but ``destroy_received``, which says when that is safe.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from offsite.zfs import abilities
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.failures import CommandError, Reason
from offsite.zfs.names import check_dataset_name, check_snapshot_name, in_parts, pool_of

# Its value is the id of the backup that is being restored. Nobody else sets it: where it is, all
# that a dataset has came from us.
MARK = "offsite:restoring"
_BACKUP_ID = re.compile(r"[0-9]{8}t[0-9]{6}-[0-9a-f]{16}")
_HIDDEN = "canmount=noauto"
_LONG = 600  # seconds: a rename unmounts, a destroy of much data waits for a transaction group


@dataclass(frozen=True)
class State:
    """``mark``: of an unfinished restore, set on this very dataset and not inherited.

    ``written``: bytes since the newest snapshot (all of them, if there is none); not 0 if zfs does
    not tell.
    """

    mark: str | None
    written: int
    mounted: bool


def state(zfs: Zfs, dataset: str) -> State:
    """Raises ZfsError."""
    check_dataset_name(dataset)
    facts = zfs.run("get", "-pHo", "property,value", "written,mounted", dataset)
    known = dict(line.split("\t", 1) for line in facts.splitlines() if "\t" in line)
    mark = zfs.run("get", "-s", "local", "-Ho", "value", MARK, dataset).strip()
    return State(
        mark if _BACKUP_ID.fullmatch(mark) else None,
        int(written) if (written := known.get("written", "-")).isdecimal() else 1,
        known.get("mounted") == "yes",
    )


def written_since(zfs: Zfs, dataset: str, snapshot: str) -> int:
    """Bytes that the dataset has since its own snapshot of this name, whichever were made since.

    Not 0 if zfs does not tell. Raises ZfsError.
    """
    check_snapshot_name(f"{dataset}@{snapshot}")
    told = zfs.run("get", "-pHo", "value", f"written@{snapshot}", dataset).strip()
    return int(told) if told.isdecimal() else 1


def encryption_root(zfs: Zfs, dataset: str) -> str | None:
    """The dataset whose key opens this one: itself, or one above. None if it is not encrypted.

    Raises ZfsError.
    """
    check_dataset_name(dataset)
    try:
        root = zfs.run("get", "-Ho", "value", "encryptionroot", dataset).strip()
    except CommandError as error:
        if error.reason is not Reason.TOO_OLD:
            raise
        return None
    return None if root in {"", "-"} else root


def key_is_missing(zfs: Zfs, dataset: str) -> bool:
    """Whether the dataset is there, encrypted, and its key is not loaded. Raises ZfsError."""
    check_dataset_name(dataset)
    try:
        return zfs.run("get", "-Ho", "value", "keystatus", dataset).strip() == "unavailable"
    except CommandError as error:
        if error.reason not in {Reason.TOO_OLD, Reason.MISSING}:
            raise
        return False


@dataclass(frozen=True)
class Mountpoint:
    """Where a filesystem is mounted by itself: a path, ``none`` or ``legacy``."""

    dataset: str
    path: str


def mountpoints(zfs: Zfs) -> list[Mountpoint]:
    """Of all filesystems with canmount=on. Raises ZfsError."""
    output = zfs.run("list", "-t", "filesystem", "-Ho", "name,canmount,mountpoint")
    rows = [line.split("\t", 2) for line in output.splitlines() if line.count("\t") > 1]
    return [Mountpoint(name, path) for name, canmount, path in rows if canmount == "on"]


def set_property(zfs: Zfs, dataset: str, name: str, value: str) -> None:
    """Raises ZfsError."""
    check_dataset_name(dataset)
    zfs.run("set", f"{name}={value}", dataset)


def knows_marks(zfs: Zfs) -> bool:
    """Whether ``zfs receive`` takes -o with a property. Raises ZfsError, ConfigError."""
    return abilities.of(zfs).properties


def mark_flags(backup_id: str, *, mounts: bool) -> list[str]:
    """For the ``zfs receive`` that makes the dataset: then there is no moment without the mark, and
    none in which a reboot would mount what ``mounts``, a filesystem."""
    hidden = ["-o", _HIDDEN] if mounts else []
    return ["-o", f"{MARK}={backup_id}", *hidden]


def mark(zfs: Zfs, dataset: str, backup_id: str) -> None:
    """Mark what was just received, where ``mark_flags`` cannot be used. Raises ZfsError."""
    set_property(zfs, dataset, MARK, backup_id)


def remove_mark(zfs: Zfs, dataset: str) -> None:
    """From now on the dataset is the user's. Raises ZfsError."""
    check_dataset_name(dataset)
    zfs.run("inherit", MARK, dataset)


def hide(zfs: Zfs, datasets: Sequence[str]) -> None:
    """Let nothing mount these filesystems, whatever is set on them or above them. ZfsError."""
    for part in in_parts(datasets, len):
        zfs.run("set", _HIDDEN, *part)


def show(zfs: Zfs, dataset: str) -> None:
    """What was hidden has zfs's default again, which mounts nothing now. Raises ZfsError.

    Nothing else takes canmount's own value away (zfs-inherit(8): -S, for non-inheritable
    properties, to the default); no stream of ours brings one.
    """
    check_dataset_name(dataset)
    zfs.run("inherit", "-S", "canmount", dataset)


def available(zfs: Zfs, dataset: str) -> int | None:
    """Bytes that could be written there, quotas counted; None if zfs does not tell. ZfsError."""
    check_dataset_name(dataset)
    value = zfs.run("get", "-pHo", "value", "available", dataset).strip()
    return int(value) if value.isdecimal() else None


def is_blank(zfs: Zfs, dataset: str) -> bool:
    """Whether a filesystem is as it was made: no snapshot, bookmark or dataset below, no file.

    zfs counts the objects of every user; the only one there is the root directory (zfs-userspace(8)
    tells ``objused``), once what was written is synced. False where zfs does not tell. ZfsError.
    """
    check_dataset_name(dataset)
    zpool = zfs.zpool
    if zpool is None:
        return False
    if zfs.run("list", "-r", "-t", "all", "-Ho", "name", dataset).splitlines() != [dataset]:
        return False
    try:
        zpool.run("sync", pool_of(dataset))
        counts = zfs.run("userspace", "-Hpo", "objused", dataset).split()
    except CommandError:
        return False
    return counts == ["1"]


def below(zfs: Zfs, dataset: str) -> list[str]:
    """The filesystems and volumes below this one. Raises ZfsError."""
    check_dataset_name(dataset)
    output = zfs.run("list", "-r", "-t", "filesystem,volume", "-Ho", "name", dataset)
    return [name for name in output.splitlines() if name != dataset]


def unfinished(zfs: Zfs, root: str) -> set[str]:
    """What at or below ``root`` a zfs receive, or a restore of ours, has not finished. ZfsError.

    zfs makes no snapshot of the former: ``snapshot -r`` leaves it out without a word.
    """
    check_dataset_name(root)
    columns = ("name", "property", "value", "source")
    asked = ("get", "-r", "-t", "filesystem,volume", "-Hpo", ",".join(columns))
    try:
        output = zfs.run(*asked, f"inconsistent,{MARK}", root, timeout=_LONG)
    except CommandError as error:
        if error.reason is not Reason.TOO_OLD:
            raise
        output = zfs.run(*asked, MARK, root, timeout=_LONG)
    rows = [line.split("\t") for line in output.splitlines()]
    return {
        row[0]
        for row in rows
        if row[1:3] == ["inconsistent", "1"]
        or (row[1::2] == [MARK, "local"] and _BACKUP_ID.fullmatch(row[2]))
    }


def make_empty(zfs: Zfs, dataset: str) -> None:
    """Make a filesystem to hold others, which is never mounted. Raises ZfsError."""
    check_dataset_name(dataset)
    zfs.run("create", "-o", "canmount=off", dataset)


def rename(zfs: Zfs, dataset: str, name: str) -> None:
    """Raises ZfsError, then nothing has changed: zfs does not rename what is in use."""
    check_dataset_name(dataset)
    check_dataset_name(name)
    zfs.run("rename", dataset, name, timeout=_LONG)


def destroy_received(zfs: Zfs, dataset: str, snapshots: Sequence[Snapshot]) -> None:
    """Destroy a dataset with exactly these snapshots, oldest first.

    Only for one that nobody has written to or mounted. Without -r and -R zfs itself refuses where
    there is anything else: another snapshot, a dataset below, a clone, a hold. Raises ZfsError.
    """
    check_dataset_name(dataset)
    first, last = snapshots[0], snapshots[-1]
    check_snapshot_name(first.full_name)
    # One command for all: they go together or not at all. None can have come between them.
    names = first.full_name if first == last else f"{first.full_name}%{last.name}"
    zfs.run("destroy", names, timeout=_LONG)
    zfs.run("destroy", dataset, timeout=_LONG)
