"""The datasets of a set that have not changed since a backup of them: nothing is sent of these.

One manifest of the set tells which older backups hold them (FORMAT.md, ``unchanged``). All of them
together cost a few zfs commands (and one for each value of several lines that is set), and no
request to any provider.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from offsite import alike, bases, lineage, properties
from offsite.alike import Alike
from offsite.catalog import Backup
from offsite.config import Config
from offsite.errors import IntegrityError
from offsite.journal import Journal
from offsite.manifest import Manifest, SetFacts, Unchanged
from offsite.member import Member
from offsite.remote import Remote
from offsite.standing import Standing
from offsite.subject import sends_raw
from offsite.zfs import changes
from offsite.zfs import properties as zfs_properties
from offsite.zfs.changes import Since


@dataclass(frozen=True)
class Idle:
    """``unchanged``: by dataset. ``fresh`` are those that no manifest of the set tells of yet: that
    of the ``teller`` is to, the first member that is to be stored."""

    unchanged: Mapping[str, Unchanged]
    fresh: tuple[Unchanged, ...]
    teller: str | None

    def telling(self, one: Member) -> Member:
        """The member that is to be stored, with what its manifest is to tell."""
        return replace(one, unchanged=self.fresh) if one.dataset.name == self.teller else one

    def told_by(self, name: str) -> Idle:
        """The same, but that this unchanged one is stored, and tells of the others."""
        mine = self.unchanged[name]
        fresh = tuple(one for one in self.fresh if one != mine)
        unchanged = {other: one for other, one in self.unchanged.items() if other != name}
        return Idle(unchanged, fresh, name)


def find(
    facts: SetFacts, members: Sequence[Member], backups: Sequence[Backup], remotes: Sequence[Remote]
) -> Idle:
    """Which of the members, whose snapshots are made, need no backup of their own. ZfsError."""
    if not members:
        return Idle({}, (), None)
    by_guid: dict[int, list[Backup]] = {}
    for one in backups:
        if one.head is not None:
            by_guid.setdefault(one.head.dataset.guid, []).append(one)
    told = alike.told(backups)
    stand = {
        one.dataset.name: newest
        for one in members
        if (newest := _newest(one, by_guid.get(one.dataset.guid, ()), remotes)) is not None
    }
    zfs, label = members[0].zfs, members[0].names.snapshot
    last = {one.backup.id: one for one in sorted(told, key=lambda one: _txg(one.by))}
    since = [_since(name, backup, last.get(backup.id)) for name, backup in stand.items()]
    same = changes.unchanged(zfs, label, since)
    now = zfs_properties.set_below(zfs, facts.root) if same else {}
    if now is None:
        members[0].progress.info(
            "What is set on the datasets was changed while it was asked: all of them are sent"
        )
        same, now = {}, {}
    raw = any(lineage.is_raw(stand[name].manifest.head) for name in same)
    salts = zfs_properties.salts(zfs, facts.root, below=True) if raw else {}
    unchanged = {
        name: Unchanged(guid, stand[name].id)
        for name, guid in same.items()
        if properties.are_still(stand[name].manifest, now.get(name, {}))
        and _opens_as_before(stand[name].manifest, salts.get(name, 0))
    }
    recorded = {one.guid for one in told if _is_of(one.by, facts)}
    fresh = tuple(one for one in unchanged.values() if one.snapshot_guid not in recorded)
    stored = {one.head.dataset.guid for one in backups if _is_of(one, facts) and one.head}
    teller = _teller(members, unchanged, stored) if fresh else None
    still = Idle(unchanged, fresh, teller)
    return still.told_by(teller) if teller in unchanged else still


def _newest(member: Member, mine: Sequence[Backup], remotes: Sequence[Remote]) -> Backup | None:
    """The newest backup, if a new one could only be an empty increment on it, and nothing else is
    to be done for this dataset."""
    wish, config, ours = member.wish, member.config, member.author.documents.fingerprint
    if wish.full or wish.restart or wish.intermediate:
        return None
    known = Standing.of(mine, member.dataset, ours)
    if known.unfinished or known.late() or not known.complete:
        return None
    if any(Journal(one.id).path.exists() for one in known.complete):
        return None
    newest = max(known.complete, key=lambda one: (_txg(one), one.id))
    head, names = newest.manifest.head, {remote.name for remote in remotes}
    usable = (
        head.dataset.name == member.dataset.name
        and head.snapshot.name != member.names.snapshot
        and head.recipients == ours
        and lineage.is_raw(head) == sends_raw(member.dataset, config)
        and names <= {*newest.providers}
        and all(_stands(newest, known.complete, name, config) for name in names)
    )
    return newest if usable else None


def _opens_as_before(manifest: Manifest, salt: int) -> bool:
    """A changed key is no change of the data, but goes with them where they go raw. Of a passphrase
    zfs tells that it is another one; of other keys it does not."""
    return not lineage.is_raw(manifest.head) or manifest.pbkdf2salt == salt != 0


def _stands(newest: Backup, complete: Iterable[Backup], name: str, config: Config) -> bool:
    """Whether its chain is there, and no full backup is due."""
    try:
        chain = lineage.resolve([one for one in complete if name in one.providers], newest)
    except IntegrityError:
        return False
    return bases.overdue(chain, config.full_every, config.max_chain) is None


def _since(name: str, backup: Backup, last: Alike | None) -> Since:
    """The newest snapshot that holds what this backup holds: pruning takes the oldest first."""
    if last is not None:
        return Since(name, last.by.manifest.head.snapshot.source_name, last.guid)
    facts = backup.manifest.head.snapshot
    return Since(name, facts.source_name, facts.guid)


def _teller(members: Sequence[Member], unchanged: Mapping[str, Unchanged], stored: set[int]) -> str:
    """The first that has no backup in this set yet: by rights one that changed."""
    waiting = [one.dataset for one in members if one.dataset.guid not in stored]
    changed = [one.name for one in waiting if one.name not in unchanged]
    return (changed or [one.name for one in waiting])[0]


def _is_of(one: Backup, facts: SetFacts) -> bool:
    return (
        one.status == "complete"
        and isinstance(one.manifest.head.set, SetFacts)
        and one.manifest.head.set.id == facts.id
    )


def _txg(one: Backup) -> int:
    return one.manifest.head.snapshot.createtxg
