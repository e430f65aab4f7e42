"""The properties of a restored dataset: which of those that the backup recorded, in what order.

They are set when all is received, for some would be in its way (quotas), and zfs receive -o fails
altogether for one that this zfs does not know.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from offsite import lineage
from offsite.errors import ZfsError
from offsite.figures import printable
from offsite.manifest import Manifest
from offsite.progress import Progress
from offsite.zfs import targets
from offsite.zfs.command import Zfs
from offsite.zfs.properties import Property

Which = Literal["none", "local", "all"]

# Set with canmount=noauto, which comes back at the end: a mountpoint mounts otherwise, where it was
# none or legacy before (seen on 2.1.11). Only zfs 2.2 and newer know `zfs set -u`.
_PLACES = ("mountpoint", "sharenfs", "sharesmb", "canmount")
# What may not fit comes last. zfs tells and takes these numbers, but calls no quota none.
_SIZES = ("refquota", "quota", "refreservation", "reservation")
_LIMITS = (*_SIZES, "filesystem_limit", "snapshot_limit")
# Made with the dataset or told by the stream; and counts, which zfs calls local, too.
_NEVER = frozenset({
    "casesensitivity", "encryption", "filesystem_count", "keyformat", "normalization",
    "pbkdf2iters", "snapshot_count", "utf8only", "version", "volblocksize", "volsize",
})  # fmt: skip
_NAME = re.compile(r"[a-z0-9_.:][a-z0-9_.:-]*")
_OURS = targets.MARK
_SHOWN = 60  # characters of a value in a warning


@dataclass(frozen=True)
class Setting:
    name: str
    value: str


def choose(manifest: Manifest, which: Which, *, home: bool) -> tuple[Setting, ...]:
    """The properties to set, in this order; ``home``: the dataset gets the name that it had.

    ``local``: what was set on the dataset itself, but where it is mounted and shared only at home.
    ``all``: that, too, and what it inherited.
    """
    sources = {"none": (), "local": ("local", "received"), "all": ("local", "received", "inherit")}
    chosen = {
        name: Setting(name, "none" if name in _SIZES and one.value == "0" else one.exact)
        for name, one in sorted(manifest.properties.items())
        if one.source.startswith(sources[which])
        and (which == "all" or home or name not in _PLACES)
        and _can_be_set(name, one.exact, manifest)
    }
    # zfs takes no mountpoint of what is zoned already, but in the zone (zfs_valid_proplist in
    # OpenZFS lib/libzfs/libzfs_dataset.c).
    last = [name for name in (*_PLACES, "zoned", *_LIMITS) if name in chosen]
    return tuple(chosen[name] for name in (*(one for one in chosen if one not in last), *last))


def are_still(manifest: Manifest, now: Mapping[str, Property]) -> bool:
    """Whether what was recorded as set is what is set ``now``."""
    recorded = {name: Property(one.exact, one.source) for name, one in manifest.properties.items()}
    return _set_by_users(recorded) == _set_by_users(now)


def _set_by_users(those: Mapping[str, Property]) -> dict[str, Property]:
    return {
        name: one
        for name, one in those.items()
        if one.is_set and name not in _NEVER and not name.startswith(_OURS)
    }


def _can_be_set(name: str, value: str, manifest: Manifest) -> bool:
    if name == "keylocation":
        return lineage.is_raw(manifest.head)
    return (
        _NAME.fullmatch(name) is not None
        and name not in _NEVER
        and not name.startswith(_OURS)
        and "\0" not in value  # no argument can hold it
    )


def put(
    zfs: Zfs, dataset: str, settings: Sequence[Setting], manifest: Manifest, progress: Progress
) -> tuple[str, ...]:
    """Set them on what was restored and is not mounted, and leave it so. Returns the names of those
    set.

    What cannot be set is a warning each.
    """
    if manifest.head.dataset.type != "filesystem":
        return put_most(zfs, dataset, settings, progress, sheltered=True)
    safe = shelter(zfs, [dataset], progress)
    done = put_most(zfs, dataset, settings, progress, sheltered=safe)
    return (*done, *unshelter(zfs, dataset, settings, progress)) if safe else done


def shelter(zfs: Zfs, filesystems: Sequence[str], progress: Progress) -> bool:
    """Let nothing mount these, whatever is set on them or above them. Whether that was done.

    They mostly are so, since zfs received them (``targets.mark_flags``).
    """
    try:
        targets.hide(zfs, filesystems)
    except ZfsError as error:
        progress.warning(f"canmount=noauto could not be set on {filesystems[0]}: {error}")
        return False
    return True


def put_most(
    zfs: Zfs, dataset: str, settings: Sequence[Setting], progress: Progress, *, sheltered: bool
) -> tuple[str, ...]:
    """``put`` without canmount; and without what might mount, unless all that it might is
    ``sheltered``."""
    unsafe = ("canmount",) if sheltered else _PLACES
    chosen = [one for one in settings if one.name not in unsafe]
    return tuple(one.name for one in chosen if _set(zfs, dataset, one, progress))


def unshelter(
    zfs: Zfs, dataset: str, settings: Sequence[Setting], progress: Progress
) -> tuple[str, ...]:
    """Last of all, canmount: that alone mounts nothing. Its name, if it is one of ``settings``."""
    wanted = next((one for one in settings if one.name == "canmount"), None)
    mounts = wanted is None or wanted.value == "on"
    other = _other_there(zfs, dataset, settings) if mounts else None
    if other is not None:
        progress.warning(
            f"{dataset} and {other} have the same mountpoint: {dataset} is left with"
            f" canmount=noauto, and {other} as it was"
        )
        return ()
    if wanted is not None:
        return ("canmount",) if _set(zfs, dataset, wanted, progress) else ()
    try:
        targets.show(zfs, dataset)
    except ZfsError as error:
        progress.warning(f"{dataset} is left with canmount=noauto: {error}")
    return ()


def _other_there(zfs: Zfs, dataset: str, settings: Sequence[Setting]) -> str | None:
    """Another filesystem that would be mounted by itself at the same place."""
    paths = [one.value for one in settings if one.name == "mountpoint" and one.value[:1] == "/"]
    there = targets.mountpoints(zfs) if paths else []
    others = (each.dataset for each in there if each.path in paths and each.dataset != dataset)
    return next(others, None)


def _set(zfs: Zfs, dataset: str, one: Setting, progress: Progress) -> bool:
    try:
        targets.set_property(zfs, dataset, one.name, one.value)
    except ZfsError as error:
        value = printable(one.value[:_SHOWN]) + ("…" if len(one.value) > _SHOWN else "")
        progress.warning(f"{one.name}={value} could not be set on {dataset}: {error}")
        return False
    return True
