"""What a restore of a dataset and all below it means: one set, or the newest of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from msgspec import UnsetType

from offsite import chain
from offsite.catalog import Backup
from offsite.errors import UsageError
from offsite.manifest import Head, SetFacts

LATEST = frozenset({None, "latest"})


@dataclass(frozen=True)
class Tree:
    """One backup a dataset, parents first; ``warnings``: what the user might not expect."""

    root: str
    members: tuple[Backup, ...]
    warnings: tuple[str, ...] = ()

    def target(self, backup: Backup, root: str) -> str:
        """What the dataset is called if the root becomes ``root``."""
        return root + backup.manifest.head.dataset.name[len(self.root) :]

    @property
    def clones(self) -> list[str]:
        """The datasets that were clones; their backups are whole, they come back independent."""
        return [
            one.manifest.head.dataset.name
            for one in self.members
            if (origin := one.manifest.properties.get("origin")) and origin.value not in {"", "-"}
        ]


def choose(
    backups: Sequence[Backup],
    root: str,
    point: str | None,
    host: str | None,
    at: datetime | None = None,
) -> Tree:
    """The set called ``point``, by default the newest that is whole; else the newest of each.

    With ``at`` as if there were no younger snapshots. Raises UsageError if there is nothing, or if
    several hosts have it.
    """
    done = [one for one in backups if one.status == "complete"]
    there = [one for one in done if _below(one, root)]
    there = [one for one in there if host in {None, one.manifest.head.host}]
    _refuse_hosts(there, root)
    if at is not None:
        there, done = (chain.not_after(those, root, at) for those in (there, done))
    if point in LATEST:
        return _latest(done, there, root)
    if point == "latest-full":
        raise UsageError(
            f"@{point} is for one dataset", hint=f"add --no-recursive; or {root} alone: the newest"
        )
    named = [one for one in there if one.manifest.head.snapshot.name == point]
    named = named or _of_id(there, str(point))
    if not named:
        labels = sorted({one.manifest.head.snapshot.name for one in there})
        raise UsageError(
            f"no backup of {root} or of what is below it is called @{point}",
            hint=f"there are: {', '.join('@' + label for label in labels[-5:])}"
            if labels
            else "there are none at all: offsite --list",
        )
    sets = _sets(named, root)
    if sets:
        return _of_set(sets[0], done, there, root)
    return Tree(root, _newest(named))


def _of_id(there: Sequence[Backup], start: str) -> list[Backup]:
    """The backup whose id begins so, if it is only one: it stands for its set."""
    found = [one for one in there if one.id.startswith(start)]
    return found if len(found) == 1 else []


def _latest(done: Sequence[Backup], there: Sequence[Backup], root: str) -> Tree:
    sets = _sets(there, root)
    for facts in sets:
        if _lacks(facts, sets, done, there, root):
            continue
        tree = _of_set(facts, done, there, root)
        newer = sets[: sets.index(facts)]
        label = _of(facts, done)[0].manifest.head.snapshot.name
        skipped = tuple(
            f"@{label} is taken: the newer @{_of(one, done)[0].manifest.head.snapshot.name} has"
            f" only {_count(one, done)} of {one.members} datasets"
            for one in newer
        )
        return Tree(root, tree.members, (*skipped, *tree.warnings))
    return _newest_of_each(there, root)


def has_more(backups: Sequence[Backup], root: str) -> bool:
    """Whether there is a complete backup of something below ``root``."""
    return any(
        one.status == "complete" and one.manifest.head.dataset.name.startswith(f"{root}/")
        for one in backups
    )


def _below(one: Backup, root: str) -> bool:
    return f"{one.manifest.head.dataset.name}/".startswith(f"{root}/")


def _refuse_hosts(there: Sequence[Backup], root: str) -> None:
    hosts = sorted({one.manifest.head.host for one in there})
    if not hosts:
        raise UsageError(f"no backup of {root} or of what is below it", hint="see: offsite --list")
    if len(hosts) > 1:
        raise UsageError(
            f"{len(hosts)} hosts have backups of {root}", hint=f"name one: --host {hosts[0]}"
        )


def _sets(there: Sequence[Backup], root: str) -> list[SetFacts]:
    """The sets among these that are of ``root`` or of what is above it, the newest first.

    The order in a pool is that of its transaction groups; between a pool and its successor of the
    same name, which began anew, that of the clock.
    """
    newest: dict[int, str] = {}
    moments: dict[str, tuple[int, SetFacts]] = {}
    for one in there:
        facts, snapshot = _set_of(one.manifest.head), one.manifest.head.snapshot
        if facts is not None and f"{root}/".startswith(f"{facts.root}/"):
            newest[facts.root_guid] = max(newest.get(facts.root_guid, ""), snapshot.created)
            known = moments.get(facts.id, (0, facts))[0]
            moments[facts.id] = (max(known, snapshot.createtxg), facts)

    def age(moment: tuple[int, SetFacts]) -> tuple[str, int, int]:
        txg, facts = moment
        return newest[facts.root_guid], facts.root_guid, txg

    return [facts for _, facts in sorted(moments.values(), key=age, reverse=True)]


def _set_of(head: Head) -> SetFacts | None:
    return None if isinstance(head.set, UnsetType) else head.set


def _of(facts: SetFacts, backups: Sequence[Backup]) -> list[Backup]:
    """The set's backups, and those of the same snapshots that were made on another occasion."""
    mine = [one for one in backups if _is_of(one, facts)]
    moments = {_moment(one) for one in mine}
    names = {one.manifest.head.dataset.name for one in mine}
    others = [
        one
        for one in backups
        if _moment(one) in moments
        and one.manifest.head.dataset.name not in names
        and f"{one.manifest.head.dataset.name}/".startswith(f"{facts.root}/")
    ]
    return [*mine, *others]


def _moment(one: Backup) -> tuple[str, str, int]:
    head = one.manifest.head
    return head.host, head.snapshot.name, head.snapshot.createtxg


def _count(facts: SetFacts, backups: Sequence[Backup]) -> int:
    return len(_names(_of(facts, backups)))


def _lacks(
    facts: SetFacts,
    sets: Sequence[SetFacts],
    done: Sequence[Backup],
    there: Sequence[Backup],
    root: str,
) -> bool:
    """Whether something at or below ``root`` failed in the set, as far as can be known: if only the
    set's root knows how many they were, what was there in the last whole one of ``sets`` before it
    tells; if none is, all backups that there are."""
    if _is_whole(facts, done):
        return False
    if root == facts.root:
        return True
    before = (one for one in sets[sets.index(facts) + 1 :] if _is_whole(one, done))
    whole = next(before, None)
    expected = _names(_of(whole, there) if whole else there)
    return not _names(_of(facts, there)) >= expected


def _names(backups: Sequence[Backup]) -> set[str]:
    return {one.manifest.head.dataset.name for one in backups}


def _is_whole(facts: SetFacts, done: Sequence[Backup]) -> bool:
    return _count(facts, done) >= facts.members


def _is_of(one: Backup, facts: SetFacts) -> bool:
    mine = _set_of(one.manifest.head)
    return mine is not None and mine.id == facts.id


def _of_set(facts: SetFacts, done: Sequence[Backup], there: Sequence[Backup], root: str) -> Tree:
    mine = _of(facts, there)
    label = mine[0].manifest.head.snapshot.name
    count = _count(facts, done)
    if count >= facts.members:
        return Tree(root, _newest(mine))
    warning = (
        f"of the {facts.members} datasets of {facts.root}@{label} only {count} have a complete"
        " backup"
    )
    return Tree(root, _newest(mine), (warning,))


def _newest_of_each(there: Sequence[Backup], root: str) -> Tree:
    members = _newest(there)
    moments = {one.manifest.head.snapshot.name for one in members}
    if len(moments) == 1:
        return Tree(root, members)
    warning = (
        f"no set of {root} is whole: the newest backup of each dataset is taken, of"
        f" {len(moments)} different moments"
    )
    return Tree(root, members, (warning,))


def _newest(there: Sequence[Backup]) -> tuple[Backup, ...]:
    """The newest backup of every dataset, parents first."""
    newest: dict[str, Backup] = {}
    for one in chain.oldest_first(sorted(there, key=lambda one: one.id)):
        newest[one.manifest.head.dataset.name] = one
    return tuple(newest[name] for name in sorted(newest, key=lambda name: name.split("/")))
