"""From what the user wants to the backups that must be received for it, each ready to be fetched.

All of them pass every check that needs no chunk before the first byte moves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from offsite import catalog, chain, lineage, repository
from offsite.catalog import Backup, Catalog
from offsite.errors import (
    IntegrityError,
    NoBackupError,
    OffsiteError,
    ProviderError,
    StoppedError,
    UsageError,
)
from offsite.manifest import Base, Manifest, Receipt
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.repository import Keyring

_ATTEMPTS = 5  # at finding something else that can be restored


@dataclass(frozen=True)
class Wanted:
    """What the user asks for; ``point`` without its @, ``at``: nothing younger than that.

    ``trust`` holds fingerprints (``SHA256:…``) of signers the user accepts, this once.
    """

    dataset: str
    point: str | None = None
    host: str | None = None
    at: datetime | None = None
    provider: str = "auto"
    trust: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """A backup whose objects are all there, in their sizes.

    ``remotes``: who has it, the whole ones first; ``lacking``: the objects that each has not.
    ``name`` is what its snapshot shall be called.
    """

    manifest: Manifest
    receipts: Sequence[Receipt]
    remotes: tuple[Remote, ...]
    lacking: Mapping[str, Collection[str]]
    name: str

    @property
    def id(self) -> str:
        return self.manifest.head.id

    @property
    def guid(self) -> int:
        """Of its snapshot."""
        return self.manifest.head.snapshot.guid

    @property
    def base(self) -> Base | None:
        return self.manifest.head.base

    def sources_of(self, receipts: Sequence[Receipt]) -> dict[str, int]:
        """Bytes to fetch from each remote for these chunks, if none of them fails."""
        found = dict.fromkeys((remote.name for remote in self.remotes), 0)
        for receipt in receipts:
            found[self.holder(receipt).name] += receipt.size
        return found

    def holder(self, receipt: Receipt) -> Remote:
        """Who is asked first for this chunk."""
        name = repository.chunk_name(receipt.number)
        return next(each for each in self.remotes if name not in self.lacking[each.name])


def read(remotes: Sequence[Remote], keyring: Keyring, progress: Progress) -> Catalog:
    """All backups. Raises ProviderError if no provider can be read."""
    known = catalog.read(remotes, keyring)
    for name, why in known.problems.items():
        progress.warning(f"{name} cannot be read and is left out: {why}")
    if len(known.problems) == len(remotes):
        raise ProviderError("no provider can be read: " + "; ".join(known.problems.values()))
    return known


def find(
    wanted: Wanted,
    known: Catalog,
    remotes: Sequence[Remote],
    keyring: Keyring,
    progress: Progress,
) -> tuple[Link, ...]:
    """The chain of the backup that is wanted: a full one first, the wanted one last.

    Raises NoBackupError if none answers, UsageError if one might that cannot be read;
    IntegrityError or ProviderError that name what is missing of it, and what can be restored
    instead.
    """
    try:
        chosen = chain.choose(known.backups, wanted.dataset, wanted.point, wanted.host, wanted.at)
    except NoBackupError as nothing:
        # There may be one all the same: nothing that nobody signed may take its place.
        if known.problems:
            hint = (
                f"{', '.join(known.problems)} could not be read: try again later; or name another"
            )
            raise UsageError(str(nothing), hint=f"{hint} provider: --provider NAME") from nothing
        if chain.unclear(known.backups, wanted.dataset, wanted.point):
            raise UsageError(str(nothing), hint=nothing.hint) from nothing
        raise
    if chosen.status != "complete":
        raise chain.stranger(chosen)
    if wanted.at is None and wanted.point in chain.NEWEST:
        for line in chain.passed_over(known.backups, [chosen]):
            progress.warning(line)
    name, point = chosen.manifest.head.snapshot.name, wanted.point
    if point not in {None, *chain.RESERVED, name} and not chosen.id.startswith(str(point)):
        progress.info(f"{wanted.dataset} had not changed at @{point} since @{name}: that is taken")
    search = _Search(known, remotes, keyring, progress, {}, {})
    links = search.chain_of(chosen)
    named = lineage.names([link.manifest.head for link in links])
    return tuple(replace(link, name=name) for link, name in zip(links, named, strict=True))


@dataclass(frozen=True)
class _Search:
    """``ready`` and ``lost``: what became of the backups that were looked at, by id."""

    known: Catalog
    remotes: Sequence[Remote]
    keyring: Keyring
    progress: Progress
    ready: dict[str, Link]
    lost: dict[str, OffsiteError]

    def chain_of(self, chosen: Backup) -> tuple[Link, ...]:
        """Around links that are lost, if there are others of their snapshots."""
        first: OffsiteError | None = None
        for backup in lineage.alternatives(self.known.backups, chosen):
            try:
                return self._chain_of(backup)
            except StoppedError:
                raise
            except (IntegrityError, ProviderError) as error:
                first = first or error
        assert first is not None
        raise type(first)(str(first), hint=self._hint(chosen, first)) from first

    def _chain_of(self, backup: Backup) -> tuple[Link, ...]:
        while True:
            path = self._resolve(backup)
            links: list[Link] = []
            for one in reversed(path):
                if not self._look_at(one):
                    break
                links.append(self.ready[one.id])
            else:
                return tuple(reversed(links))

    def _resolve(self, backup: Backup) -> tuple[Backup, ...]:
        """The chain, without those that are known to be lost."""
        if backup.id in self.lost:
            raise self.lost[backup.id]
        try:
            return lineage.resolve(self.known.backups, backup, self.lost)
        except IntegrityError as error:
            # The reason that a link is lost tells more than that it is.
            reasons = "; ".join(str(each) for each in self.lost.values())
            told = f"{error}: {reasons}" if reasons else str(error)
            raise IntegrityError(told, hint=error.hint) from error

    def _look_at(self, backup: Backup) -> bool:
        if backup.id in self.ready:
            return True
        try:
            self.ready[backup.id] = _preflight(backup, self.remotes, self.keyring, self.progress)
        except StoppedError:
            raise
        except (IntegrityError, ProviderError) as error:
            self.lost[backup.id] = error
            return False
        return True

    def _hint(self, chosen: Backup, error: OffsiteError) -> str | None:
        """What can be restored instead."""
        if error.hint and "--trust-signer" in error.hint:
            return error.hint
        head = chosen.manifest.head
        points = chain.points(self.known.backups, head.dataset.name, head.host)
        others = [one for one in points if one.manifest.head.snapshot.guid != head.snapshot.guid]
        for one in others[: -_ATTEMPTS - 1 : -1]:
            try:
                self._chain_of(one)
            except (IntegrityError, ProviderError):
                continue
            return (
                f"the newest that can be restored is {head.dataset.name}"
                f"@{one.manifest.head.snapshot.name}, by the name {head.dataset.name}@{one.id}"
            )
        if self.known.problems:
            return f"{', '.join(self.known.problems)} could not be read: try again later"
        return error.hint or "choose another backup (offsite --list) or another provider"


def _and_more(count: int) -> str:
    return f" and {count} other objects" if count else ""


def _preflight(
    backup: Backup, remotes: Sequence[Remote], keyring: Keyring, progress: Progress
) -> Link:
    """Every object of the backup is there, in its size, on the remotes that will be used.

    A remote that lacks some still helps with the rest, after the whole ones.
    """
    holders = [remote for remote in remotes if remote.name in backup.providers]
    receipts = repository.load_receipts(backup.manifest, holders, keyring)
    lacking: dict[str, set[str]] = {}
    for remote in holders:
        try:
            held = repository.object_sizes(remote, backup.id, backup.manifest.chunks)
        except StoppedError:
            raise
        except OffsiteError as error:
            progress.warning(f"{remote.name} cannot be listed and is left out: {error}")
        else:
            lacking[remote.name] = set(repository.missing_objects(backup.manifest, receipts, held))
    if not lacking:
        raise ProviderError(
            f"no provider could list the objects of backup {backup.id}",
            hint="the backup may well be whole: try again later, or another --provider",
        )
    nowhere = set.intersection(*lacking.values())
    if nowhere:
        raise IntegrityError(
            f"backup {backup.id} cannot be restored: gone or cut on {' and '.join(lacking)}:"
            f" {min(nowhere)}{_and_more(len(nowhere) - 1)}",
            hint="choose another backup (offsite --list) or another provider",
        )
    for name, gone in lacking.items():
        if gone:
            progress.warning(f"{name} lacks {len(gone)} objects of this backup")
    usable = [remote for remote in holders if remote.name in lacking]
    usable.sort(key=lambda remote: len(lacking[remote.name]))
    name = backup.manifest.head.snapshot.name
    return Link(backup.manifest, receipts, tuple(usable), lacking, name)
