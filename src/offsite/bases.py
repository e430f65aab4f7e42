"""What an increment stands on: chosen by guid among the source's snapshots and bookmarks.

Names are not to be trusted here: users rename, destroy and make anew. A base is usable only if the
provider holds every backup it stands on, down to a full one, whole.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from offsite import lineage
from offsite.catalog import Backup
from offsite.errors import IntegrityError, UsageError
from offsite.manifest import Head
from offsite.zfs.bookmarks import Point
from offsite.zfs.records import Feature

_NEAR = 5  # candidates named in a refusal
# Of a send stream: what zfs receive demands of an increment if it ever received it before
# (recv_check_large_blocks in OpenZFS module/zfs/dmu_recv.c). See ARCHITECTURE.md for the others.
_KEPT = Feature.LARGE_BLOCKS
# A nightly run does not begin on the second: without it, every 7 days would be every 8.
_SLACK = timedelta(hours=2)


@dataclass(frozen=True)
class Policy:
    """When a backup is to be a full one; ``named`` is the base that was asked for (@snap or #mark).

    ``recipients`` and ``raw`` must be those of the chain: who has the key to its newest link must
    have those of the others, and ZFS takes no raw increment on what was not received raw.
    ``lacks``: flags of zfs send that this zfs has not; an increment's are those of its chain.
    """

    recipients: str
    raw: bool
    full: bool = False
    named: str | None = None
    full_every: int | None = None  # days
    max_chain: int | None = None  # increments on one full
    lacks: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Base:
    """``chain`` holds the backups an increment from ``point`` stands on, the full one first."""

    point: Point
    chain: tuple[Backup, ...]

    @property
    def parent(self) -> Backup:
        return self.chain[-1]

    @property
    def flags(self) -> tuple[str, ...]:
        """Of zfs send, pinned for the chain: with and without -L it would lose data."""
        return tuple(self.parent.manifest.head.send.flags)


@dataclass(frozen=True)
class Choice:
    """For one provider: a base, or why there is none and a full backup is due.

    With a base, ``why`` tells of the newer one that could not serve, if there is any.
    """

    base: Base | None
    why: str = ""


@dataclass(frozen=True)
class Stock:
    """The ``complete`` backups of one provider.

    ``held`` tells whether it really has all objects of one; ``doubt``, why the snapshot to back up
    may not stand on a point of the source; ``features``, those of its stream from that point with
    these flags (None: there is no snapshot yet);
    ``has_own``, whether any backup is of the dataset, or of one that had its name.
    """

    complete: Sequence[Backup]
    held: Callable[[Backup], bool]
    doubt: Callable[[Point], str | None]
    features: Callable[[Point, tuple[str, ...]], Feature | None]
    has_own: bool

    def of(self, point: Point) -> list[Backup]:
        """The backups of a point, the newest first."""
        found = [one for one in self.complete if one.manifest.head.snapshot.guid == point.guid]
        return sorted(found, key=lambda one: one.id, reverse=True)


def choose(stock: Stock, points: Sequence[Point], before: int, policy: Policy) -> Choice:
    """The newest usable base that is older than the transaction group ``before``.

    ``points`` are the source's, oldest first. Raises UsageError if the base that was asked for
    cannot serve.
    """
    if policy.full:
        return Choice(None, "--full was asked for")
    older = [point for point in points if point.createtxg < before]
    if policy.named is not None:
        return _named(policy.named, stock, older, policy)
    why = ""  # of the newest one: that of an older one is another backup's
    for point in reversed(older):
        for backup in stock.of(point):
            found = _usable(point, backup, stock, policy)
            if isinstance(found, Base):
                due = overdue(found.chain, policy.full_every, policy.max_chain)
                return Choice(None, due) if due else Choice(found, why)
            why = why or found
    if not (why or stock.has_own):
        why = "nothing is there yet to stand on"
    return Choice(None, why or "the source has no snapshot or bookmark left of what was backed up")


def bears(head: Head, stock: Stock) -> bool:
    """Whether a provider with this stock has all that the backup of this ``head`` stands on."""
    if head.base is None:
        return True
    guid = head.base.snapshot_guid
    below = [one for one in stock.complete if one.manifest.head.snapshot.guid == guid]
    return any(lineage.is_alike(one.manifest.head, head) and _chain(one, stock) for one in below)


def _named(name: str, stock: Stock, older: Sequence[Point], policy: Policy) -> Choice:
    wanted = [point for point in older if point.short_name == name]
    for point in reversed(wanted):
        for backup in stock.of(point):
            found = _usable(point, backup, stock, policy)
            if isinstance(found, Base):
                return Choice(found)
            raise UsageError(f"--base {name} cannot serve: {found}", hint="leave --base out")
    guids = {one.manifest.head.snapshot.guid for one in stock.complete}
    usable = [point.short_name for point in older if point.guid in guids]
    raise no_such(name, usable, "no backup of it is complete there" if wanted else None)


def no_such(name: str, usable: Sequence[str], why: str | None = None) -> UsageError:
    """The refusal of a base that cannot be meant."""
    return UsageError(
        f"--base {name}: {why or 'no such older snapshot or bookmark'}",
        hint=f"these could serve: {', '.join(usable[-_NEAR:])}" if usable else "leave --base out",
    )


def _usable(point: Point, backup: Backup, stock: Stock, policy: Policy) -> Base | str:
    """The base, or why it is none."""
    head = backup.manifest.head
    if head.recipients != policy.recipients:
        return "the keys or recipients are other ones now"
    if lineage.is_raw(head) != policy.raw:
        return "encrypted data was sent the other way before (raw, or not)"
    if lacks := policy.lacks.intersection(head.send.flags):
        return f"it was sent with {', '.join(sorted(lacks))}, which this zfs send does not know"
    chain = _chain(backup, stock)
    if chain is None:
        return f"{head.dataset.name}@{head.snapshot.name} is not whole there any more"
    base = Base(point, chain)
    return stock.doubt(point) or _lost(base, stock) or base


def _lost(base: Base, stock: Stock) -> str | None:
    """Why zfs would not receive the increment: its stream lacks what is in its chain's."""
    had = functools.reduce(operator.or_, (one.manifest.head.send.features for one in base.chain))
    if not had & _KEPT:
        return None
    features = stock.features(base.point, base.flags)
    if features is None or features & _KEPT:
        return None
    head = base.parent.manifest.head
    return (
        f"{head.dataset.name}@{head.snapshot.name} was sent with large blocks and has none here any"
        " more: an increment could not be received"
    )


def _chain(backup: Backup, stock: Stock) -> tuple[Backup, ...] | None:
    lost: set[str] = set()
    while backup.id not in lost:
        try:
            chain = lineage.resolve(stock.complete, backup, lost)
        except IntegrityError:
            return None
        gone = {one.id for one in chain if not stock.held(one)}
        if not gone:
            return chain
        lost |= gone
    return None


def overdue(chain: Sequence[Backup], full_every: int | None, max_chain: int | None) -> str | None:
    """Why a full backup is wanted now; see Policy."""
    if max_chain is not None and len(chain) > max_chain:
        return f"{len(chain) - 1} increments stand on the last full one (MAX_CHAIN)"
    if full_every is None:
        return None
    # When it was sent, not when the snapshot was made: old ones may be sent in a row.
    began = datetime.fromisoformat(chain[0].manifest.head.started)
    age = datetime.now(UTC) + _SLACK - began
    if age < timedelta(days=full_every):
        return None
    return f"the last full one is {age.days} days old (FULL_EVERY)"
