"""Where an increment can begin: snapshots, and bookmarks, which outlive them (zfs-bookmark(8))."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from offsite.errors import UsageError
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError, Reason
from offsite.zfs.names import NAME_LIMIT, check_base_name, check_dataset_name

PREFIX = "offsite-"  # of the bookmarks that are ours


@dataclass(frozen=True)
class Point:
    """A snapshot ``dataset@name`` (which may be held) or bookmark ``dataset#name`` of a source."""

    full_name: str
    guid: int
    createtxg: int
    held: bool = False

    @property
    def is_bookmark(self) -> bool:
        return "#" in self.full_name

    @property
    def short_name(self) -> str:
        """With its @ or #."""
        at = max(self.full_name.find("@"), self.full_name.find("#"))
        return self.full_name[at:]


def list_points(zfs: Zfs, dataset: str) -> list[Point]:
    """Snapshots and bookmarks of one dataset, oldest first; of one moment the snapshot last.

    Where zfs knows no bookmarks, the snapshots alone. Raises ZfsError.
    """
    check_dataset_name(dataset)
    columns = ("-d", "1", "-pHo", "name,guid,createtxg,userrefs", dataset)
    try:
        output = zfs.run("list", "-t", "snapshot,bookmark", *columns)
    except CommandError as error:
        if error.reason is not Reason.TOO_OLD:
            raise
        output = zfs.run("list", "-t", "snapshot", *columns)
    rows = [line.split("\t") for line in output.split("\n") if line]
    points = [
        Point(name, int(guid), int(createtxg), held=holds not in {"0", "-"})
        for name, guid, createtxg, holds in rows
    ]
    return sorted(points, key=lambda point: (point.createtxg, not point.is_bookmark))


def make(zfs: Zfs, snapshot: str, name: str) -> None:
    """Bookmark a snapshot; one that exists is as good. Raises ZfsError, CommandError."""
    try:
        zfs.run("bookmark", snapshot, name)
    except CommandError as error:
        if error.reason is not Reason.EXISTS:
            raise


def drop(zfs: Zfs, bookmark: str) -> None:
    """Destroy a bookmark of ours, nothing else; one that is gone is as good.

    Raises UsageError, ZfsError.
    """
    check_base_name(bookmark)
    if f"#{PREFIX}" not in bookmark or "@" in bookmark:
        raise UsageError(f"{bookmark} is no bookmark of offsite's")
    try:
        zfs.run("destroy", bookmark)
    except CommandError as error:
        if error.reason is not Reason.MISSING:
            raise


def ours(dataset: str, short_id: str, providers: Collection[str] = ()) -> str:
    """The full name of our bookmark for the backup of this short id; of one that was made for these
    providers alone, as long as a name may be that long."""
    name = f"{dataset}#{PREFIX}{short_id}"
    told = "".join(f":{provider}" for provider in sorted(providers))
    return name + told if len(name + told) <= NAME_LIMIT else name


def made_for(bookmark: str) -> tuple[str, frozenset[str]]:
    """The same without the providers, and these; none if it is for whoever there is."""
    dataset, _, name = bookmark.partition("#")
    name, *providers = name.split(":")
    return f"{dataset}#{name}", frozenset(providers)
