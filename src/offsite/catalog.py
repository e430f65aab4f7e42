"""What the providers hold, read from all of them at once and merged into one list of backups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

from offsite import repository
from offsite.cache import Shelf
from offsite.errors import (
    IntegrityError,
    KeysError,
    NoKeyError,
    OffsiteError,
    ProviderError,
    StoppedError,
)
from offsite.manifest import Head, Manifest
from offsite.remote import Remote
from offsite.repository import Keyring, Signed

Status = Literal["complete", "unfinished", "untrusted", "damaged", "sealed", "unreadable"]

Item = TypeVar("Item")

_READERS = 8  # requests at a time to each provider
_PATIENCE = 3  # backups in a row that a provider does not give before it may be dead
_CLAIMS: tuple[Status, ...] = (
    "complete",
    "untrusted",
    "sealed",
    "damaged",
    "unreadable",
    "unfinished",
)


@dataclass(frozen=True)
class Backup:
    """One backup as the providers named hold it.

    complete    its manifest is signed by a trusted signer
    untrusted   its manifest is signed by somebody whom nothing here makes us believe
    sealed      no key here opens its documents
    damaged     its documents are not what Offsite writes (``note`` says why)
    unreadable  the provider has them, but does not give them (``note`` says why)
    unfinished  it has no manifest; ``held`` chunks of ``held_bytes`` bytes are stored

    ``behind``: the providers that have a part of it only, if it is complete on others.
    ``stranger``: who signed the beginning of an unfinished one, if he is not believed.
    """

    id: str
    status: Status
    providers: tuple[str, ...]
    head: Head | None = None
    signed: Signed[Manifest] | None = None
    held: int = 0
    held_bytes: int = 0
    note: str = ""
    behind: tuple[str, ...] = ()
    stranger: str = ""

    @property
    def manifest(self) -> Manifest:
        """The manifest of a complete or untrusted backup."""
        assert self.signed is not None
        return self.signed.document


@dataclass(frozen=True)
class Catalog:
    """All backups, oldest first; ``problems`` tells which provider could not be read, and why."""

    backups: tuple[Backup, ...]
    problems: dict[str, str]


def read(
    remotes: Sequence[Remote],
    keyring: Keyring,
    known: Iterable[Backup] = (),
    shelves: Mapping[str, Shelf] | None = None,
) -> Catalog:
    """Read every provider. One that fails is told in ``problems``, the others are listed.

    Of what is ``known`` to be complete on a provider, or was read before and is on its one of the
    ``shelves``, only the folder is looked for again.
    """
    complete = {one.id: one for one in known if one.status == "complete"}
    found: list[Backup] = []
    problems: dict[str, str] = {}
    lock = threading.Lock()

    def read_one(remote: Remote) -> None:
        try:
            shelf = shelves.get(remote.name) if shelves else None
            backups = _read_remote(remote, keyring, complete, shelf)
        except StoppedError:
            raise
        except OffsiteError as error:
            with lock:
                problems[remote.name] = str(error)
        else:
            with lock:
                found.extend(backups)

    _in_parallel(read_one, remotes, len(remotes))
    # A key that one document proves to be the user's may have signed others that do not.
    judged = [_judged(one, keyring) for one in found]
    return Catalog(merge(judged, [remote.name for remote in remotes]), problems)


def _judged(backup: Backup, keyring: Keyring) -> Backup:
    """As if all that is known of signers by now had been known when it was read."""
    signed = backup.signed
    if backup.stranger and keyring.trust.of(backup.stranger) == "trusted":
        return replace(backup, note="", stranger="")
    if backup.status != "untrusted" or signed is None:
        return backup
    if keyring.trust.of(signed.signer) != "trusted":
        return backup
    return replace(backup, status="complete", signed=replace(signed, standing="trusted"))


def _read_remote(
    remote: Remote, keyring: Keyring, complete: Mapping[str, Backup], shelf: Shelf | None
) -> list[Backup]:
    backups: list[Backup] = []
    pulse = _Pulse(remote)

    def read_one(backup_id: str) -> None:
        backup = complete.get(backup_id)
        if backup is not None and remote.name in backup.providers:
            backup = replace(backup, providers=(remote.name,))
        elif shelf is None or (backup := _kept(shelf, backup_id, remote.name, keyring)) is None:
            backup = read_backup(remote, backup_id, keyring, shelf)
            pulse.feel(backup)
        if backup is not None:
            backups.append(backup)

    ids = repository.backup_ids(remote)
    if shelf is not None:
        shelf.drop_all_but(frozenset(ids))
    _in_parallel(read_one, reversed(ids), _READERS)  # newest first: the oldest may be archived
    return backups


def _kept(shelf: Shelf, backup_id: str, name: str, keyring: Keyring) -> Backup | None:
    """A complete backup that this provider had when it was read before."""
    sealed = shelf.read(backup_id)
    if sealed is None:
        return None
    try:
        signed = repository.open_manifest(sealed, backup_id, keyring)
    except (IntegrityError, KeysError):  # spoilt here, or the keys are others now: look again
        return None
    found = Backup(backup_id, "complete", (name,), signed.document.head, signed)
    return found if signed.trusted else None


class _Pulse:
    """Tells the provider that does not give some objects from the one that died meanwhile."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._lock = threading.Lock()
        self._gave = False
        self._refused = 0

    def feel(self, backup: Backup | None) -> None:
        """Raises ProviderError if it gave none of several, or does not even list them now."""
        with self._lock:
            if backup is None or backup.status != "unreadable":
                self._gave, self._refused = True, 0
                return
            self._refused += 1
            if self._refused % _PATIENCE:
                return
        if not self._gave:
            raise ProviderError(backup.note)
        repository.backup_ids(self._remote)


def _in_parallel(work: Callable[[Item], None], items: Iterable[Item], threads: int) -> None:
    """Once one has failed no other is begun."""
    failed = threading.Event()

    def attempt(item: Item) -> None:
        if failed.is_set():
            return
        try:
            work(item)
        except BaseException:
            failed.set()
            raise

    with ThreadPoolExecutor(max(threads, 1)) as crew:
        for future in [crew.submit(attempt, item) for item in items]:
            future.result()


def read_backup(
    remote: Remote, backup_id: str, keyring: Keyring, shelf: Shelf | None = None
) -> Backup | None:
    """What one provider has under this id. Raises ProviderError, IntegrityError.

    The manifest of a complete one is kept on the ``shelf``.
    """
    backup = Backup(backup_id, "sealed", (remote.name,))
    try:
        stored = remote.stat(repository.object_path(backup_id, repository.MANIFEST))
        if stored is None or not stored.size:  # empty: a run was killed while it wrote it
            return _read_unfinished(remote, backup, keyring)
        repository.check_document_size(repository.MANIFEST, stored.size)
        sealed = repository.get_manifest(remote, backup_id)
        signed = repository.open_manifest(sealed, backup_id, keyring)
    except NoKeyError:
        return replace(backup, note="no key here opens it")
    except IntegrityError as error:
        head = _head_of(remote, backup_id, keyring)
        return replace(backup, status="damaged", head=head, note=str(error))
    except ProviderError as error:
        # One archived or forbidden object must not hide the others.
        return replace(backup, status="unreadable", note=str(error))
    status: Status = "complete" if signed.trusted else "untrusted"
    if shelf is not None and signed.trusted:
        shelf.keep(backup_id, sealed)
    return replace(backup, status=status, head=signed.document.head, signed=signed)


def _head_of(remote: Remote, backup_id: str, keyring: Keyring) -> Head | None:
    """What index 0 says that a backup is about, if it can be read and its signer is known here."""
    try:
        first = repository.load_head(remote, backup_id, keyring)
    except (IntegrityError, KeysError, ProviderError):
        return None
    return first.document.head if first.trusted else None


def _read_unfinished(remote: Remote, backup: Backup, keyring: Keyring) -> Backup | None:
    sizes = repository.object_sizes(remote, backup.id)
    if not sizes:
        return None  # a folder that outlived its objects: not all providers remove these
    chunks = [size for name, size in sizes.items() if repository.is_chunk(name)]
    backup = replace(backup, status="unfinished", held=len(chunks), held_bytes=sum(chunks))
    opening = repository.index_name(0)
    stillborn = replace(backup, note="stopped before it began")
    if opening not in sizes:
        return stillborn
    try:
        repository.check_document_size(opening, sizes[opening])
        first = repository.load_head(remote, backup.id, keyring)
    except IntegrityError:
        if chunks:
            raise
        return stillborn  # a run was killed while it wrote it
    if not first.trusted:
        note = f"signed by {first.by}"
        return replace(backup, note=note, head=first.document.head, stranger=first.signer)
    return replace(backup, head=first.document.head)


def merge(found: Sequence[Backup], names: Sequence[str]) -> tuple[Backup, ...]:
    """One entry an id: the copies with the best claim, from all providers that have these.

    Of equal claims the provider counts that is named first.
    """
    order = {name: place for place, name in enumerate(names)}
    by_id: dict[str, list[Backup]] = {}
    for backup in found:
        by_id.setdefault(backup.id, []).append(backup)
    return tuple(_best(by_id[backup_id], order) for backup_id in sorted(by_id))


def _best(copies: list[Backup], order: dict[str, int]) -> Backup:
    def worth(one: Backup) -> tuple[int, bool, int, int]:
        place = order[one.providers[0]]
        return _CLAIMS.index(one.status), one.head is None, -one.held, place

    copies.sort(key=worth)
    best = copies[0]
    # Copies are written byte for byte alike; one that differs is not a copy of this backup.
    same = [
        one.providers[0]
        for one in copies
        if one.status == best.status
        and (one.signed and one.signed.sha256) == (best.signed and best.signed.sha256)
    ]
    parts = (one.providers[0] for one in copies if one.status == "unfinished" and one.held)
    return replace(
        best,
        providers=tuple(sorted(same, key=order.__getitem__)),
        behind=tuple(parts) if best.status == "complete" else (),
    )
