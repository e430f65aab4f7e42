"""Whether a restore fits where it is to arrive: room, the pool's features, a pool's root."""

from __future__ import annotations

import functools
import operator
import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from offsite import figures, landing, lineage
from offsite.errors import UsageError
from offsite.landing import Landing, Step
from offsite.links import Link
from offsite.manifest import Head
from offsite.zfs import names, peek, pools, targets
from offsite.zfs.command import Zfs
from offsite.zfs.records import Feature

# Of a stream's bytes, those that are data: at least a sector of 512 behind a header of 312.
_SMALLEST = 512 / (512 + 312)


class RootError(UsageError):
    """A pool's root cannot be received into; what is below it can be."""


@dataclass(frozen=True)
class Need:
    """Bytes that a restore takes on the target: at ``most``, and at ``least``."""

    most: int = 0
    least: int = 0

    def __add__(self, other: Need) -> Need:
        return Need(self.most + other.most, self.least + other.least)


def check_root_takes(found: Landing, head: Head) -> None:
    """Raise RootError if it is a pool's root and zfs would not receive this backup into it.

    zfs receive -F puts nothing encrypted in the place of a filesystem, and nothing in the place of
    an encrypted one; and without -F it receives into no root.
    """
    is_root = names.parent_of(found.dataset) is None
    there = found.exists or found.blank
    if not (is_root and there) or found.ours or found.snapshots:
        return
    if found.key_of or lineage.is_raw(head):
        name = f"{head.dataset.name}@{head.snapshot.name}"
        raise RootError(
            "zfs receives nothing encrypted into a pool's root, and nothing into an encrypted one;"
            f" {found.dataset} was not touched",
            hint="restore it below, by itself: offsite --restore"
            f" {shlex.quote(name)} --no-recursive --as {found.dataset}/NAME",
        )


def need(left: Sequence[Step]) -> Need:
    """A stream that carries blocks as they were on disk takes about its own size, less its headers.
    Another one may be compressed by the target, but hardly better than it is stored."""
    total = Need()
    for step in left:
        length, stored = step.stream_bytes, step.stored_bytes
        as_on_disk = lineage.as_on_disk(step.link.manifest.head)
        total += Need(length, int(length * _SMALLEST) if as_on_disk else stored)
    return total


def check_room(found: Landing, need: Need) -> str | None:
    """A warning, if there might not be room; UsageError if there cannot be."""
    here = found.exists or found.blank
    parent = found.dataset if here else names.parent_of(found.dataset)
    free = targets.available(found.zfs, parent) if parent else None
    most, least = need.most, need.least
    if free is None or free >= most:
        return None
    needs = f"{figures.size(most)} are to be received, {parent} has room for {figures.size(free)}"
    if free >= min(least, most):
        return f"{needs}: it may become full, if the target does not compress"
    raise UsageError(f"not enough room: {needs}", hint="free some space, or choose another --as")


def check_blocks(found: Landing, chain: Sequence[Link]) -> None:
    """Raise UsageError if the user's own dataset came by plain ``zfs send``, and the backup's with
    large blocks (-L): zfs would receive the increment, and lose data (openzfs#6224, #17866).

    Raises ZfsError if that cannot be told.
    """
    newest = found.snapshots[-1]
    same = next(link.manifest.head for link in chain if link.guid == newest.guid)
    if not same.send.features & Feature.LARGE_BLOCKS:
        return
    has = peek.begin(found.zfs, newest, None, tuple(same.send.flags)).features
    if not has & Feature.LARGE_BLOCKS:
        raise UsageError(
            f"{newest.full_name} came here without large blocks (zfs send -L), and the backup has"
            " them: what zfs receives on top of it may be damaged; it was not touched",
            hint=f"{landing.beside(found.dataset)}; or put the backup in its place and keep it"
            " under another name: --replace",
        )


def check_key(found: Landing, left: Sequence[Step]) -> None:
    """Raise UsageError if a plain stream is to be encrypted there by a key that is not loaded.

    A raw one brings its own. Raises ZfsError if that cannot be told.
    """
    raw = all(lineage.is_raw(step.link.manifest.head) for step in left)
    check_key_for(found, raw=raw)


def check_key_for(found: Landing, *, raw: bool) -> None:
    """As ``check_key``, for one stream."""
    here = found.exists or found.blank
    holder = found.dataset if here else names.parent_of(found.dataset)
    if raw or holder is None or not targets.key_is_missing(found.zfs, holder):
        return
    root = targets.encryption_root(found.zfs, holder) or holder
    raise UsageError(
        f"{found.dataset} is to be encrypted by the key of {root}, which is not loaded",
        hint=f"zfs load-key {shlex.quote(root)}; or choose another --as",
    )


def check_writable(zfs: Zfs, dataset: str) -> None:
    """Raise UsageError if its pool takes nothing in."""
    pool = names.pool_of(dataset)
    if pools.is_read_only(zfs, pool):
        name = shlex.quote(pool)
        raise UsageError(
            f"{pool} is imported read-only: nothing can be restored there; it was not touched",
            hint=f"import it for writing: zpool export {name} && zpool import {name};"
            " or restore into another pool: --as POOL/NAME",
        )


def check_features(found: Landing, fresh: Collection[int], *, resumable: bool = True) -> str | None:
    """Raise UsageError if zfs receive (-s, if ``resumable``) would refuse streams of these features
    for what the pool is; a note if unknown.

    Not for what was begun: that was accepted already.
    """
    if not fresh:
        return None
    pool = names.pool_of(found.dataset)
    has = pools.features(found.zfs, pool)
    if has is None:
        return f"Whether {pool} has the features that the backup needs is not known here"
    lacking = pools.lacking(has, functools.reduce(operator.or_, fresh), resumable=resumable)
    if not lacking:
        return None
    noun = "feature" if len(lacking) == 1 else "features"
    enable = [f"zpool set feature@{name}=enabled {pool}" for name in lacking]
    if "unknown" in lacking.values():
        hint = "restore it on a newer OpenZFS"
    else:
        hint = f"{' && '.join(enable)}; or restore into another pool"
    raise UsageError(
        f"{pool} has no {noun} {', '.join(lacking)}, which this backup needs", hint=hint
    )
