"""What became of unfinished backups on providers that a run leaves out.

A backup that is unfinished on the providers of a run may be complete on another one, which failed
or was not named: to send its rest again would make two backups of one id, signed both, with
different chunks. So it is copied from there; and left as it is where nobody can tell.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from threading import Event

from offsite import catalog, connect, lock, standing
from offsite.catalog import Backup
from offsite.config import Config
from offsite.errors import ConfigError, IntegrityError, LockedError, ProviderError
from offsite.journal import Journal
from offsite.progress import Silent
from offsite.remote import Remote, Retry

_RESUME = "resume"  # the operation that is locked
_RETRY = Retry(tries=3, longest_pause=10, timeout=60)  # nobody asked for these providers


@dataclass(frozen=True)
class Elsewhere:
    """``complete``: unfinished in this run, and whole on one of the ``remotes``, which are for
    reading. ``doubts``: by id, why nobody may go on with a backup."""

    remotes: tuple[Remote, ...] = ()
    complete: tuple[Backup, ...] = ()
    doubts: Mapping[str, str] = field(default_factory=dict)

    def corrected(self, backups: Sequence[Backup]) -> list[Backup]:
        """What this run's providers hold, with what is known of all."""
        whole = {one.id: one for one in self.complete}
        return [
            one
            if one.status == "complete"
            else replace(whole[one.id], behind=one.providers)
            if one.id in whole
            else self._doubted(one)
            for one in backups
        ]

    def _doubted(self, one: Backup) -> Backup:
        why = self.doubts.get(one.id)
        return replace(one, status="unfinished", note=why) if why else one


NOWHERE = Elsewhere()


@contextmanager
def look(
    config: Config,
    datasets: Collection[int],
    backups: Sequence[Backup],
    *,
    here: Collection[str],
    lost: Mapping[str, str],
    stop: Event,
    claim: bool = True,
) -> Iterator[Elsewhere]:
    """Look for the unfinished ones of ``backups`` of these datasets (guids); nobody else goes on
    with them until we leave, if we ``claim`` them.

    ``here``: the names of the run's providers; ``lost``: of those that cannot be read, and why.
    """
    begun = [
        one.id
        for one in backups
        if one.head and one.head.dataset.guid in datasets and standing.can_go_on(one)
    ]
    with ExitStack() as stack:
        if claim:
            lock.sweep(_RESUME)
        lock.allow(len(begun))  # before we look: who had it before us may have finished it
        busy = {one for one in begun if claim and not _lock(one, stack)}
        unread = dict(lost)
        others = [one for one in config.providers if one.name not in {*here, *lost}]
        remotes: list[Remote] = []
        if begun and others:
            try:
                started = connect.remotes(config, others, stop, Silent(), _RETRY)
                remotes, failed = stack.enter_context(started)
            except (ProviderError, ConfigError) as error:
                failed = {one.name: str(error) for one in others}
            unread |= failed
        complete, doubts = _found(config, begun, remotes, unread)
        doubts |= dict.fromkeys(busy, "another offsite goes on with it")
        yield Elsewhere(tuple(remotes), tuple(complete), doubts)


def _lock(backup_id: str, stack: ExitStack) -> bool:
    try:
        stack.enter_context(lock.hold(_RESUME, backup_id, [""]))
    except LockedError:
        return False
    return True


def _found(
    config: Config, begun: Sequence[str], remotes: Sequence[Remote], unread: Mapping[str, str]
) -> tuple[list[Backup], dict[str, str]]:
    """The complete ones; and the doubts about those that are not there."""
    complete: list[Backup] = []
    doubts: dict[str, str] = {}
    keyring = connect.catalog_keyring(config) if remotes else None
    for backup_id in begun:
        copies: list[Backup] = []
        unknown = dict(unread)
        for remote in remotes:
            assert keyring is not None
            try:
                copy = catalog.read_backup(remote, backup_id, keyring)
            except IntegrityError:  # it has no manifest, and its first index is damaged
                continue
            except ProviderError as error:
                unknown[remote.name] = str(error)
                continue
            if copy is not None and copy.status in {"sealed", "unreadable"}:
                unknown[remote.name] = copy.note
            elif copy is not None:
                copies.append(copy)
        merged = catalog.merge(copies, [remote.name for remote in remotes])
        whole = [one for one in merged if one.status == "complete"]
        complete += whole
        if unknown and not whole and not Journal(backup_id).is_unsigned:
            told = "; ".join(f"{name} ({why})" for name, why in unknown.items())
            doubts[backup_id] = f"it may be complete on {told}"
    return complete, doubts
