"""Pure: the backups that one must receive, the full one first, to get at an incremental one.

An incremental stands on a snapshot, not on a backup: any complete backup of that snapshot will do
that was made as it is itself, raw or not, with large blocks or not (a chain that mixes these is
received with holes in its files, or not at all). ``parent`` is only the one to try first. So the
links of one chain may come from different providers, and a manifest may lead in circles or nowhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from offsite import sshsig
from offsite.catalog import Backup
from offsite.errors import IntegrityError
from offsite.manifest import Head

LONGEST = 10_000  # links; more than a snapshot an hour for a year
_RAW, _LARGE = "w", "L"
_NO_LONGER = "is not there any more"
_WHY = {
    "unfinished": "is not finished",
    "damaged": "is damaged",
    "sealed": "opens with no key that is here",
    "unreadable": "cannot be read",
    "untrusted": "is signed by {by}",
}

_Kind = tuple[int, bool, bool]  # guid of the snapshot, raw, large blocks


def is_raw(head: Head) -> bool:
    """Whether the stream is one of ``zfs send -w``."""
    return _RAW in _letters(head)


def is_alike(one: Head, other: Head) -> bool:
    """Whether they may be links of one chain."""
    return _kind(one, 0) == _kind(other, 0)


def as_on_disk(head: Head) -> bool:
    """Whether the stream has its blocks as they were on disk, compressed and all."""
    return bool({_RAW, "c"} & _letters(head))


def _letters(head: Head) -> set[str]:
    return {letter for flag in head.send.flags for letter in flag.lstrip("-")}


def resolve(
    backups: Sequence[Backup], wanted: Backup, lost: Collection[str] = ()
) -> tuple[Backup, ...]:
    """The chain of ``wanted``: a full backup first, itself last; never one of the ids ``lost``.

    Raises IntegrityError that tells which link is missing, and why.
    """
    known = _by_snapshot(one for one in backups if one.id not in lost)
    path, tried, above = [wanted], {wanted.id}, {_guid(wanted)}
    ways = [_bases(wanted, known)]
    gap: Backup | None = None  # where the way that was to be preferred ended
    while path:
        if path[-1].manifest.head.base is None:
            return tuple(reversed(path))
        fresh = (one for one in ways[-1] if one.id not in tried and _guid(one) not in above)
        follower = next(fresh, None)
        if follower is not None and len(path) < LONGEST:
            tried.add(follower.id)
            above.add(_guid(follower))
            path.append(follower)
            ways.append(_bases(follower, known))
        else:
            gap = gap or path[-1]
            above.discard(_guid(path.pop()))
            ways.pop()
    assert gap is not None
    raise _missing(backups, wanted, gap, lost)


def alternatives(backups: Sequence[Backup], wanted: Backup) -> list[Backup]:
    """``wanted``, then the other complete backups of the same snapshot under the same name."""
    head = wanted.manifest.head

    def same(one: Backup) -> bool:
        other = one.manifest.head
        return (
            other.snapshot.guid == head.snapshot.guid
            and other.snapshot.name == head.snapshot.name
            and (other.dataset.name, other.host) == (head.dataset.name, head.host)
        )

    others = [one for one in backups if one.status == "complete" and one.id != wanted.id]
    return [wanted, *(one for one in reversed(others) if same(one))]


def names(chain: Sequence[Head]) -> list[str]:
    """What the snapshots are called where they are restored: as in the backup, each name once.

    Of two links with one name the earlier gets a part of its backup's id.
    """
    found: list[str] = []
    for head in reversed(chain):
        name, random = head.snapshot.name, head.id.partition("-")[2]
        for longer in (f"{name}-{random[:8]}", f"{name}-{random}"):
            if name in found:
                name = longer
        found.append(name)
    return found[::-1]


def _kind(head: Head, guid: int) -> _Kind:
    return guid, is_raw(head), _LARGE in _letters(head)


def _by_snapshot(backups: Iterable[Backup]) -> Mapping[_Kind, list[Backup]]:
    known: dict[_Kind, list[Backup]] = {}
    for one in backups:
        if one.status == "complete":
            head = one.manifest.head
            known.setdefault(_kind(head, head.snapshot.guid), []).append(one)
    return known


def _bases(of: Backup, known: Mapping[_Kind, list[Backup]]) -> Iterator[Backup]:
    """The backups it can stand on: the one it names, full ones, and so on from the newest."""
    head = of.manifest.head
    if head.base is None:
        return iter(())
    parent = head.base.parent

    def worth(one: Backup) -> tuple[bool, bool]:
        return one.id != parent, one.manifest.head.base is not None

    newest_first = reversed(known.get(_kind(head, head.base.snapshot_guid), []))
    return iter(sorted(newest_first, key=worth))


def _guid(one: Backup) -> int:
    return one.manifest.head.snapshot.guid


def _missing(
    backups: Sequence[Backup], wanted: Backup, gap: Backup, lost: Collection[str]
) -> IntegrityError:
    base = gap.manifest.head.base
    assert base is not None
    parent = next((one for one in backups if one.id == base.parent), None)
    why, hint = _NO_LONGER, None
    if base.parent in lost:
        why = "cannot be had whole"
    elif parent is not None:
        signed = parent.signed
        why = _WHY.get(parent.status, "does not fit").format(by=signed.by if signed else "")
        if parent.status == "untrusted" and signed and signed.standing == "unknown":
            hint = f"if you know that signer: --trust-signer {sshsig.fingerprint(signed.signer)}"
    return IntegrityError(
        f"{_name(wanted)} cannot be restored: {'it' if gap is wanted else _name(gap)} stands on"
        f" @{base.snapshot_name}, and backup {base.parent} of that {why}",
        hint=hint,
    )


def _name(backup: Backup) -> str:
    return f"@{backup.manifest.head.snapshot.name} (backup {backup.id})"
