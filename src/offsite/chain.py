"""Pure choices: what a snapshot is called, and which backup a restore means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from offsite import alike, figures, sshsig
from offsite.catalog import Backup
from offsite.errors import IntegrityError, NoBackupError, UsageError
from offsite.manifest import Head

NEWEST = frozenset({None, "latest"})
RESERVED = frozenset({"latest", "latest-full"})  # what a restore means by these is no name
_NO_NAMES = RESERVED | {None}
_NEAR = 5  # candidates named in a refusal


@dataclass(frozen=True)
class Names:
    """A snapshot's name. ``given``: by the user or an interrupted run, not made up for this run."""

    snapshot: str
    given: bool


def snapshot_name(asked: str | None, prefix: str, now: datetime) -> str:
    """The name of the snapshot to back up; ``now`` is in the user's time zone.

    ``today`` is the day's own snapshot, any other name is literal. Without one the time names it.
    """
    name = asked or f"{prefix}-{now:%Y%m%d-%H%M%S}"
    return f"{prefix}-{now:%Y%m%d}" if name == "today" else name


def choose(
    backups: Sequence[Backup],
    dataset: str,
    point: str | None,
    host: str | None,
    at: datetime | None = None,
) -> Backup:
    """The backup that ``DATASET[@POINT]`` means: complete or untrusted, never unfinished.

    With ``at`` those of younger snapshots do not count.

    ``point`` is a snapshot name, ``latest`` (default), ``latest-full`` or a unique prefix of a
    backup id. A snapshot that a set tells to hold the same as an older one means that one. Raises
    NoBackupError with the candidates when there is none, UsageError when several hosts answer to
    the name.

    Whoever can write to a bucket can put a stranger's backup there that calls itself the newest: an
    untrusted one is chosen only if no complete one answers.
    """
    point = point or "latest"
    there = [one for one in backups if _named(one, dataset) and one.signed is not None]
    if host is not None:
        there = [one for one in there if one.head is not None and one.head.host == host]
    if not there:
        raise _nothing(backups, dataset, host)
    if at is not None:
        there = not_after(there, dataset, at)
    there = oldest_first(there)
    vouched = [one for one in there if one.status == "complete"]
    # Told to be unchanged, and sent later under this name: a property or a key had been changed.
    sent = [one.manifest.head.snapshot for one in vouched]
    later = {one.guid for one in sent if one.name == point}
    told = [one for one in alike.told(backups) if one.label == point]
    same = [one.backup for one in told if one.guid not in later]
    if vouched and (_answers(vouched, point, same) or not _answers(there, point, same)):
        there = vouched
    _refuse_strangers(there, dataset)
    return _at(there, dataset, point, same)


def unclear(backups: Sequence[Backup], dataset: str, point: str | None) -> list[Backup]:
    """Those that cannot be read and may be what ``DATASET[@POINT]`` means."""
    return [
        one
        for one in backups
        if one.status in {"damaged", "unreadable"}
        and (one.head is None or _named(one, dataset))
        and (one.head is None or point in {*_NO_NAMES, one.head.snapshot.name})
    ]


def stranger(backup: Backup) -> IntegrityError:
    """The refusal of an untrusted one."""
    assert backup.signed is not None
    name = sshsig.fingerprint(backup.signed.signer)
    hint = (
        "if it is the fingerprint in your recovery kit (offsite keys show, on the old host):"
        f" --trust-signer {name}"
    )
    if backup.signed.standing == "revoked":
        hint = "a revoked key may be in a thief's hands: see SECURITY.md"
    return IntegrityError(f"backup {backup.id} is signed by {backup.signed.by}", hint=hint)


def passed_over(backups: Sequence[Backup], taken: Sequence[Backup]) -> tuple[str, ...]:
    """A warning, if there are newer ones than those ``taken`` as the newest, that are not trusted:
    the host may sign with a key that is new."""
    heads = [one.manifest.head for one in taken]
    moments = {(head.dataset.name, head.host): head.snapshot.created for head in heads}

    def is_newer(head: Head) -> bool:
        moment = moments.get((head.dataset.name, head.host))
        return moment is not None and head.snapshot.created > moment

    strangers = [one.signed for one in backups if one.status == "untrusted" and one.signed]
    newer = [signed for signed in strangers if is_newer(signed.document.head)]
    if not newer:
        return ()
    last = max(newer, key=lambda one: (one.document.head.snapshot.created, one.document.head.id))
    head = last.document.head
    which = f"a newer backup of {head.dataset.name}, @{head.snapshot.name} ({head.id}),"
    return (f"{which} is not taken: it is signed by {last.by}",)


def points(backups: Sequence[Backup], dataset: str, host: str) -> list[Backup]:
    """The complete backups of one host's dataset, oldest first."""
    there = [one for one in backups if one.status == "complete" and _named(one, dataset)]
    return oldest_first([one for one in there if one.manifest.head.host == host])


def not_after(there: Sequence[Backup], dataset: str, at: datetime) -> list[Backup]:
    """Those of snapshots not younger than that. Raises UsageError if there are none."""

    def created(one: Backup) -> datetime:
        try:
            return datetime.fromisoformat(one.manifest.head.snapshot.created)
        except ValueError:  # a day that no calendar has
            return datetime.max.replace(tzinfo=UTC)

    found = [one for one in there if created(one) <= at]
    if not found:
        oldest = min(there, key=created).manifest.head.snapshot
        raise UsageError(
            f"no backup of {dataset} is as old as {at:%Y-%m-%d %H:%M %Z}",
            hint=f"the oldest is @{oldest.name} of {figures.local_time(oldest.created, zone=True)}",
        )
    return found


def _named(backup: Backup, dataset: str) -> bool:
    return backup.head is not None and backup.head.dataset.name == dataset


def _nothing(backups: Sequence[Backup], dataset: str, host: str | None) -> NoBackupError:
    where = f" of host {host}" if host else ""
    unfinished = [one for one in backups if _named(one, dataset)]
    if unfinished and host is None:
        return NoBackupError(
            f"no finished backup of {dataset}: {len(unfinished)} unfinished or damaged",
            hint=f"see: offsite --list {dataset}",
        )
    names = sorted({one.head.dataset.name for one in backups if one.head is not None})
    hosts = sorted({one.head.host for one in backups if one.head and _named(one, dataset)})
    if hosts:
        return NoBackupError(
            f"no backup of {dataset}{where}",
            hint=f"it was backed up by: {', '.join(hosts[:_NEAR])}",
        )
    sealed = sum(one.status == "sealed" for one in backups)
    if sealed and not names:
        return NoBackupError(
            f"{sealed} backups, but no key here opens them",
            hint="set AGE_PRIVATE_KEY_FILE to the identity they were made for",
        )
    lost = sum(one.status in {"damaged", "unreadable"} for one in backups)
    if lost:
        return NoBackupError(
            f"no backup of {dataset}{where} that can be read; {lost} cannot",
            hint="see why: offsite --list",
        )
    return NoBackupError(
        f"no backup of {dataset}{where}",
        hint=f"there are: {', '.join(names[:_NEAR])}"
        if names
        else "nothing signed is there: is it the right provider and path? See offsite --list",
    )


def _refuse_strangers(there: Sequence[Backup], dataset: str) -> None:
    hosts = sorted({one.manifest.head.host for one in there})
    if len(hosts) > 1:
        raise UsageError(
            f"{dataset} was backed up by several hosts: {', '.join(hosts)}",
            hint=f"say which: --host {hosts[0]}",
        )


def oldest_first(there: Sequence[Backup]) -> list[Backup]:
    """In the order of transaction groups, which the clock cannot disturb.

    They count within one pool only. Datasets are known by guid: of two that had the name, as after
    a pool was made anew, the one with the youngest snapshot is the newer.
    """
    youngest: dict[int, str] = {}
    for one in there:
        head = one.manifest.head
        guid, created = head.dataset.guid, head.snapshot.created
        youngest[guid] = max(youngest.get(guid, ""), created)

    def age(one: Backup) -> tuple[str, int, int]:
        head = one.manifest.head
        return youngest[head.dataset.guid], head.dataset.guid, head.snapshot.createtxg

    return sorted(there, key=age)


def _answers(there: Sequence[Backup], point: str, same: Sequence[Backup]) -> list[Backup]:
    """The backups that ``point`` may mean, or one of the ``same``; ``there`` is oldest first."""
    fulls = [one for one in there if one.manifest.head.base is None]
    if point == "latest":
        return [*there[-1:]]
    if point == "latest-full" and fulls:
        return fulls[-1:]
    # The name may have moved on to a snapshot of which nothing had to be sent.
    named = [one for one in there if one.manifest.head.snapshot.name == point or one in same]
    return named or [one for one in there if one.id.startswith(point)]


def _at(there: Sequence[Backup], dataset: str, point: str, same: Sequence[Backup]) -> Backup:
    """The backup at ``point``; ``there`` is oldest first, not empty."""
    found = _answers(there, point, same)
    if len({one.manifest.head.snapshot.guid for one in found}) == 1:
        return found[-1]
    if not found:
        points = [one.manifest.head.snapshot.name for one in there]
        raise NoBackupError(
            f"no finished backup of {dataset}@{point}",
            hint=f"there are: {', '.join('@' + name for name in points[-_NEAR:])}",
        )
    raise UsageError(
        f"{dataset}@{point} could be any of {len(found)} backups",
        hint="name one by its id: " + ", ".join(f"@{one.id}" for one in found[-_NEAR:]),
    )
