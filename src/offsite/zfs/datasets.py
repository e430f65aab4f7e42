"""What there is in the pools: datasets, snapshots, holds. Nothing here destroys,
but for the remains of an interrupted receive."""

from __future__ import annotations

import contextlib
import difflib
import functools
import re
import shlex
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from offsite.errors import OffsiteError, ZfsError
from offsite.zfs.command import Zfs, send_args
from offsite.zfs.failures import CommandError, Reason
from offsite.zfs.names import (
    check_dataset_name,
    check_snapshot_name,
    in_parts,
    parent_of,
    pool_of,
    split_snapshot,
)

_DATASET_COLUMNS = "name,guid,type,compression,used,referenced,encryption"
_SNAPSHOT_COLUMNS = "name,guid,createtxg,creation"
_NEAR_NAMES = 3
_RESUME = "receive_resume_token"


@dataclass(frozen=True)
class Dataset:
    """A filesystem or volume; properties as zfs tells them, ``used``, ``referenced`` in bytes."""

    name: str
    guid: int
    type: Literal["filesystem", "volume"]
    encryption: str
    compression: str
    used: int
    referenced: int


@dataclass(frozen=True)
class Snapshot:
    """``dataset@name``; ``creation`` in seconds since 1970."""

    dataset: str
    name: str
    guid: int
    createtxg: int
    creation: int

    @property
    def full_name(self) -> str:
        return f"{self.dataset}@{self.name}"


@dataclass(frozen=True)
class Version:
    """OpenZFS versions such as ``2.1.11``; ``unknown`` where zfs is too old to tell."""

    userland: str
    kernel: str


@functools.cache
def version(zfs: Zfs) -> Version:
    """Asked once. Raises ZfsError if zfs cannot be run, but not if it is too old to tell."""
    output = _run(zfs, "version", fine={Reason.TOO_OLD})
    kernel = re.search(r"^zfs-kmod-(\d+(?:\.\d+)*)", output, re.MULTILINE)
    userland = re.search(r"^zfs-(\d+(?:\.\d+)*)", output, re.MULTILINE)
    return Version(
        userland=userland[1] if userland else "unknown", kernel=kernel[1] if kernel else "unknown"
    )


def find_dataset(zfs: Zfs, name: str) -> Dataset | None:
    """The filesystem or volume ``name``, or None. Raises ZfsError, UsageError (impossible name)."""
    check_dataset_name(name)
    try:
        rows = _list(zfs, name)
    except CommandError as error:
        if error.reason is not Reason.MISSING:
            raise
        return None
    return next((_dataset(row) for row in rows), None)


def all_names(zfs: Zfs) -> list[str]:
    """Of the filesystems and volumes of all pools."""
    return zfs.run("list", "-t", "filesystem,volume", "-Ho", "name").splitlines()


def imported_pools(names: Collection[str]) -> str:
    """A hint, of the names of all datasets."""
    pools = ", ".join(sorted({pool_of(each) for each in names})) or "none"
    return f"imported pools: {pools}; see what could be: zpool import"


@contextlib.contextmanager
def while_imported(zfs: Zfs, dataset: str) -> Iterator[None]:
    """What fails in here because the pool was exported meanwhile, and so nothing of it is there any
    more, says so. Raises ZfsError."""
    try:
        yield
    except ZfsError as error:
        pool = pool_of(dataset)
        try:
            zfs.run("list", "-Ho", "name", "-d", "0", pool)
        except CommandError as gone:
            if gone.reason is Reason.MISSING:
                raise ZfsError(
                    f"the pool {pool} is not imported any more ({error})",
                    hint=f"import it; {error.hint or 'then run the same command again'}",
                ) from error
        except OffsiteError:
            pass
        raise


def list_below(zfs: Zfs, root: str, user_property: str) -> list[tuple[Dataset, str]]:
    """``root`` and the datasets below it, parents first, each with the value of a user property.

    The value is ``-`` where it is not set. Raises ZfsError.
    """
    check_dataset_name(root)
    rows = _list(zfs, root, "-r", more=f",{user_property}", timeout=600)
    return [(_dataset(row), row[-1]) for row in sorted(rows, key=_path)]


def _list(
    zfs: Zfs, name: str, *options: str, more: str = "", timeout: float = 60
) -> list[list[str]]:
    """The columns, and some ``more``. Before 0.8 there is no encryption, and a list that asks for
    it is refused."""
    args = ("list", *options, "-t", "filesystem,volume", "-pHo")
    try:
        return _split(zfs.run(*args, _DATASET_COLUMNS + more, name, timeout=timeout))
    except CommandError as error:
        if error.reason is not Reason.TOO_OLD:
            raise
    known = _DATASET_COLUMNS.removesuffix(",encryption")
    at = known.count(",") + 1
    rows = _split(zfs.run(*args, known + more, name, timeout=timeout))
    return [[*row[:at], "off", *row[at:]] for row in rows]


def _path(row: list[str]) -> list[str]:
    return row[0].split("/")


def _dataset(row: list[str]) -> Dataset:
    name, guid, kind, compression, used, referenced, encryption = row[:7]
    return Dataset(
        name,
        int(guid),
        "volume" if kind == "volume" else "filesystem",
        encryption,
        compression,
        int(used),
        int(referenced),
    )


def get_dataset(zfs: Zfs, name: str) -> Dataset:
    """Like find_dataset; raises ZfsError that names the nearest datasets if there is none."""
    found = find_dataset(zfs, name)
    if found is None:
        raise _missing_dataset(zfs, name)
    return found


def parent_exists(zfs: Zfs, name: str) -> bool:
    """True if a dataset ``name`` could be created where it is: its parent is a filesystem."""
    parent = parent_of(name)
    found = find_dataset(zfs, parent) if parent else None
    return found is not None and found.type == "filesystem"


def find_snapshot(zfs: Zfs, name: str) -> Snapshot | None:
    """The snapshot ``dataset@name``, or None. Raises ZfsError, UsageError (impossible name)."""
    check_snapshot_name(name)
    fine = {Reason.MISSING}
    output = _run(zfs, "list", "-t", "snapshot", "-pHo", _SNAPSHOT_COLUMNS, name, fine=fine)
    for row in _split(output):
        return _snapshot(row)
    return None


def find_snapshots(zfs: Zfs, names: Sequence[str]) -> dict[str, Snapshot]:
    """Those of the snapshots that are there, by full name, in a few commands. Raises ZfsError."""
    for name in names:
        check_snapshot_name(name)
    columns = ("-t", "snapshot", "-pHo", _SNAPSHOT_COLUMNS)
    found: dict[str, Snapshot] = {}
    for part in in_parts(names, len):
        lines = zfs.of_those_there("list", *columns, *part, timeout=600)
        those = (_snapshot(row) for row in _split("\n".join(lines)))
        found |= {one.full_name: one for one in those}
    return found


def get_snapshot(zfs: Zfs, name: str) -> Snapshot:
    """Like find_snapshot; raises ZfsError that names the nearest snapshots if there is none."""
    found = find_snapshot(zfs, name)
    if found is not None:
        return found
    dataset, short = split_snapshot(name)
    get_dataset(zfs, dataset)
    names = [snapshot.name for snapshot in list_snapshots(zfs, dataset)]
    near = difflib.get_close_matches(short, names, n=_NEAR_NAMES) or names[-_NEAR_NAMES:]
    raise ZfsError(
        f"snapshot {name} does not exist",
        hint=f"{dataset} has: {', '.join(shlex.quote('@' + each) for each in near)}"
        if near
        else f"{dataset} has no snapshots",
    )


def list_snapshots(zfs: Zfs, dataset: str) -> list[Snapshot]:
    """The snapshots of one dataset, oldest first. Raises ZfsError."""
    check_dataset_name(dataset)
    columns = ("-pHo", _SNAPSHOT_COLUMNS)
    output = zfs.run("list", "-t", "snapshot", "-d", "1", "-s", "createtxg", *columns, dataset)
    return [_snapshot(row) for row in _split(output)]


def create_snapshot(zfs: Zfs, name: str) -> Snapshot:
    """Make the snapshot ``dataset@name``; one that appeared meanwhile is as good."""
    check_snapshot_name(name)
    _run(zfs, "snapshot", name, fine={Reason.EXISTS, Reason.MISSING})
    return get_snapshot(zfs, name)  # which tells best what is missing


def create_snapshots(
    zfs: Zfs, names: Sequence[str], snapshot: str, *, recursive: bool = False
) -> None:
    """Snapshots of this name of many datasets (of one, and all below it), at one moment.

    All or none of them are made, for zfs takes them in one command. Raises ZfsError.
    """
    full = [f"{name}@{snapshot}" for name in names]
    for one in full:
        check_snapshot_name(one)
    try:
        zfs.run("snapshot", *(["-r"] if recursive else []), *full, timeout=600)
    except CommandError as error:
        if error.reason is not Reason.TOO_LONG:
            raise
        raise ZfsError(
            f"{len(full)} snapshots are too many for one command; none was made",
            hint=f"make them yourself, zfs snapshot -r …@{snapshot}, then back up with @{snapshot}",
        ) from error


def hold(zfs: Zfs, snapshot: str, tag: str) -> None:
    """Keep a snapshot from being destroyed; held already under this tag is fine. ZfsError."""
    check_snapshot_name(snapshot)
    _run(zfs, "hold", tag, snapshot, fine={Reason.TAG_EXISTS})


def release(zfs: Zfs, snapshot: str, tag: str) -> None:
    """Undo ``hold``. Nothing happens if the hold, or the snapshot, is gone. ZfsError."""
    check_snapshot_name(snapshot)
    _run(zfs, "release", tag, snapshot, fine={Reason.TAG_MISSING, Reason.MISSING})


def holds(zfs: Zfs, snapshot: str) -> list[str]:
    """The tags that hold a snapshot. Raises ZfsError."""
    check_snapshot_name(snapshot)
    return [row[1] for row in _split(zfs.run("holds", "-H", snapshot))]


def estimate(
    zfs: Zfs, snapshot: str, *, base: str | None = None, flags: Sequence[str] = ()
) -> int | None:
    """About how many bytes a send will have; None if nobody knows.

    Where zfs does not tell, a full one has what the snapshot refers to. Before OpenZFS 2.0 it tells
    no size of what begins at a bookmark. Source of the format: ``size<TAB>N`` ends the output of
    ``zfs send -nP``. Raises ZfsError.
    """
    args = send_args(snapshot, base=base, flags=("-nP", *flags))
    with contextlib.suppress(CommandError):
        sizes = [row[1] for row in _split(zfs.run(*args, timeout=600)) if row[0] == "size"]
        if sizes:
            return int(sizes[-1])
    return None if base else int(zfs.run("get", "-pHo", "value", "referenced", snapshot))


def written(zfs: Zfs, dataset: str, since: str) -> int | None:
    """Bytes written since ``since``, the short name of a snapshot (``@a``) or bookmark (``#b``).

    None where zfs cannot tell: bookmarks came to it late.
    """
    name = "written" + (since if since.startswith("#") else f"@{since[1:]}")
    with contextlib.suppress(CommandError, ValueError):
        return int(zfs.run("get", "-pHo", "value", name, dataset))
    return None


def resume_token(zfs: Zfs, dataset: str) -> str | None:
    """The token of a receive into ``dataset`` that was interrupted, None if there is none.

    Raises ZfsError, with Reason.TOO_OLD where zfs cannot resume.
    """
    check_dataset_name(dataset)
    value = zfs.run("get", "-Ho", "value", _RESUME, dataset).strip()
    return None if value in {"", "-"} else value


def can_resume(zfs: Zfs, dataset: str) -> bool:
    """Whether this zfs knows tokens, as a sender and as a receiver: both came in 0.7."""
    return bool(_run(zfs, "get", "-Ho", "value", _RESUME, dataset, fine={Reason.TOO_OLD}))


def drop_partial(zfs: Zfs, dataset: str) -> None:
    """Throw away what an interrupted receive left in ``dataset``, and nothing else. ZfsError."""
    check_dataset_name(dataset)
    zfs.run("receive", "-A", dataset, timeout=600)


def _run(zfs: Zfs, *args: str, fine: Collection[Reason]) -> str:
    """What zfs wrote; nothing if it failed for one of the reasons that are ``fine``."""
    try:
        return zfs.run(*args)
    except CommandError as error:
        if error.reason not in fine:
            raise
        return ""


def _split(output: str) -> list[list[str]]:
    """The fields of ``-H`` output."""
    return [line.split("\t") for line in output.split("\n") if line]


def _snapshot(row: list[str]) -> Snapshot:
    name, guid, createtxg, creation = row
    return Snapshot(*split_snapshot(name), int(guid), int(createtxg), int(creation))


def _missing_dataset(zfs: Zfs, name: str) -> ZfsError:
    names = all_names(zfs)
    pool = pool_of(name)
    if pool not in names:
        return ZfsError(
            f"dataset {name} does not exist: no pool {pool} is imported here",
            hint=imported_pools(names),
        )
    near = difflib.get_close_matches(name, names, n=_NEAR_NAMES)
    hint = f"did you mean {' or '.join(map(shlex.quote, near))}?" if near else "see: zfs list"
    return ZfsError(f"dataset {name} does not exist", hint=hint)
