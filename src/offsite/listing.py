"""offsite --list: what backups there are, where, and whether they are whole."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from offsite import catalog, connect, histories, legacy
from offsite.catalog import Backup
from offsite.config import Config
from offsite.errors import OffsiteError, StoppedError
from offsite.progress import Progress
from offsite.remote import Remote


@dataclass(frozen=True)
class Row:
    """One backup. Sizes in bytes, ``created`` (the snapshot's time) RFC 3339 in UTC.

    ``point``: what a restore takes behind the @, where the name alone will not do a part of the id.
    ``guid`` (the snapshot's) and ``dataset_guid`` are decimal, as zfs tells them; empty: not known.
    ``percent``: of the chunks that are stored, None where nobody knows how many there will be.
    ``status`` is catalog.Status or ``legacy`` (made by the older tool: unsigned, sizes from names).
    """

    id: str
    host: str
    dataset: str
    snapshot: str
    type: str
    created: str
    complete: bool
    percent: int | None
    stream_bytes: int
    stored_bytes: int
    chunks: int
    providers: tuple[str, ...]
    status: str
    note: str
    point: str = ""
    guid: str = ""
    dataset_guid: str = ""


@dataclass(frozen=True)
class Listing:
    """``problems``: why a provider could not be read."""

    rows: tuple[Row, ...]
    problems: Mapping[str, str]


def run(
    config: Config,
    *,
    dataset: str | None,
    providers: str | None,
    host: str | None,
    progress: Progress,
    stop: threading.Event,
) -> Listing:
    """List backups, oldest first, of one dataset or host if named. Raises an OffsiteError."""
    keyring = connect.catalog_keyring(config)
    chosen = config.select("all" if providers is None else providers)
    with connect.remotes(config, chosen, stop, progress) as (remotes, failed):
        found = catalog.read(remotes, keyring)
        readable = [one for one in remotes if one.name not in found.problems]
        older, unread = _legacy_rows(readable, progress, dataset)
    rows = [*older, *_rows(found.backups)]
    wanted = [row for row in rows if _is_of(row, dataset) and host in {None, row.host}]
    return Listing(tuple(wanted), {**failed, **found.problems, **unread})


def _is_of(row: Row, dataset: str | None) -> bool:
    """A backup whose documents cannot be read may be one of those asked for."""
    if dataset is None or row.dataset in {dataset, ""}:
        return True
    return row.status == "legacy" and row.dataset == legacy.label(dataset)


def _rows(backups: Sequence[Backup]) -> list[Row]:
    points, notes = histories.points(backups), histories.notes(backups)
    return [_row(one, points[one.id], notes.get(one.id, "")) for one in backups]


def _row(backup: Backup, point: str, past: str) -> Row:
    head = backup.head
    done = backup.signed.document if backup.signed is not None else None
    return Row(
        id=backup.id,
        host=head.host if head else "",
        dataset=head.dataset.name if head else "",
        snapshot=head.snapshot.name if head else "",
        type="incremental" if head and head.base else "full",
        created=head.snapshot.created if head else _created(backup.id),
        complete=backup.status == "complete",
        percent=100 if done else _percent(backup),
        stream_bytes=done.stream_bytes if done else head.estimate if head else 0,
        stored_bytes=done.stored_bytes if done else backup.held_bytes,
        chunks=done.chunks if done else backup.held,
        providers=backup.providers,
        status=backup.status,
        note="; ".join(filter(None, (_note(backup), past))),
        point=point,
        guid=str(head.snapshot.guid) if head else "",
        dataset_guid=str(head.dataset.guid) if head else "",
    )


def _percent(backup: Backup) -> int | None:
    """How much of an unfinished backup is stored, by its estimate; never 100."""
    if backup.head is None or backup.head.estimate == 0:
        return None
    return min(99, 100 * backup.held * backup.head.chunk_size // backup.head.estimate)


def _note(backup: Backup) -> str:
    if backup.status == "untrusted" and backup.signed is not None:
        return f"signed by {backup.signed.by}"
    return backup.note


def _created(backup_id: str) -> str:
    day, _, clock = backup_id[:15].partition("t")
    return f"{day[:4]}-{day[4:6]}-{day[6:]}T{clock[:2]}:{clock[2:4]}:{clock[4:6]}Z"


def _legacy_rows(
    remotes: Sequence[Remote], progress: Progress, dataset: str | None
) -> tuple[list[Row], dict[str, str]]:
    rows: list[Row] = []
    problems: dict[str, str] = {}
    for remote in remotes:
        try:
            found = legacy.read([remote], progress, dataset)
        except StoppedError:
            raise
        except OffsiteError as error:
            problems[remote.name] = str(error)
            continue
        rows += [_legacy_row(one, remote.name) for one in found]
    return rows, problems


def _legacy_row(one: legacy.LegacyBackup, provider: str) -> Row:
    ambiguous = "; each _ in the dataset's name may have been a /" if "_" in one.dataset else ""
    return Row(
        id=f"{one.dataset}@{one.snapshot}",
        host="",
        dataset=one.dataset,
        snapshot=one.snapshot,
        point=one.snapshot,
        type="full",
        created="",
        complete=False,
        percent=None,
        stream_bytes=0,
        stored_bytes=one.stored_bytes,
        chunks=len(one.shards),
        providers=(provider,),
        status="legacy",
        note=f"made by the older tool, unsigned{ambiguous}",
    )
