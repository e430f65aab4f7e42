"""What a restore of a dataset and all below it means: one set, or the newest of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from msgspec import UnsetType

from offsite import alike, chain, figures
from offsite.alike import Alike
from offsite.catalog import Backup
from offsite.errors import UsageError
from offsite.manifest import Head, SetFacts


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
    several hosts have it; IntegrityError if all that there is is signed by nobody known here.
    """
    done = [one for one in backups if one.status == "complete"]
    mine = [one for one in backups if one.signed is not None and _below(one, root)]
    mine = [one for one in mine if host in {None, one.manifest.head.host}]
    there = [one for one in mine if one.status == "complete"]
    if mine and not there:
        raise chain.stranger(mine[-1])
    _refuse_hosts(there, root)
    if at is not None:
        there, done = (chain.not_after(those, root, at) for those in (there, done))
    known = _Known(root, done, there, alike.told(done))
    if point in chain.NEWEST:
        tree = _latest(known)
        passed = chain.passed_over(mine, tree.members) if at is None else ()
        return replace(tree, warnings=(*tree.warnings, *passed))
    if point == "latest-full":
        raise UsageError(
            f"@{point} is for one dataset", hint=f"add --no-recursive; or {root} alone: the newest"
        )
    named = [one for one in there if one.manifest.head.snapshot.name == point]
    told = [one for one in known.told if one.label == point]
    if not (named or known.of(told)):
        named = _of_id(there, str(point))
    sets = _sets(named, known.of(told), root)
    if not (named or sets):
        labels = sorted({one.manifest.head.snapshot.name for one in there})
        raise UsageError(
            f"no backup of {root} or of what is below it is called @{point}",
            hint=f"there are: {', '.join('@' + label for label in labels[-5:])}"
            if labels
            else "there are none at all: offsite --list",
        )
    if sets:
        return _of_set(sets[0], known)
    return Tree(root, _newest(named))


def _of_id(there: Sequence[Backup], start: str) -> list[Backup]:
    """The backup whose id begins so, if it is only one: it stands for its set."""
    found = [one for one in there if one.id.startswith(start)]
    return found if len(found) == 1 else []


@dataclass(frozen=True)
class _Known:
    """The complete backups, of which some are ``there``: at or below ``root``, and of the host."""

    root: str
    done: Sequence[Backup]
    there: Sequence[Backup]
    told: Sequence[Alike]

    def of(self, told: Sequence[Alike]) -> list[Alike]:
        """Those of them that are there."""
        ids = {one.id for one in self.there}
        return [one for one in told if one.backup.id in ids]


def _latest(known: _Known) -> Tree:
    sets = _sets(known.there, known.of(known.told), known.root)
    for facts in sets:
        if _lacks(facts, sets, known):
            continue
        tree = _of_set(facts, known)
        skipped = tuple(
            f"@{_label(facts, known)} is taken: the newer @{_label(one, known)} has"
            f" only {_count(one, known)} of {one.members} datasets"
            for one in sets[: sets.index(facts)]
        )
        newer = _newer(tree, sets[: sets.index(facts)], known)
        return Tree(known.root, tree.members, (*skipped, *newer, *tree.warnings))
    return _newest_of_each(known.there, known.root)


def _newer(tree: Tree, skipped: Sequence[SetFacts], known: _Known) -> tuple[str, ...]:
    """A warning, if parts were backed up by themselves since: whoever asks for the newest means
    these, too."""
    moment = max(one.manifest.head.snapshot.created for one in tree.members)
    alone = [one for one in known.there if not any(_is_of(one, facts) for facts in skipped)]
    newer = [one for one in _newest(alone) if one.manifest.head.snapshot.created > moment]
    if not newer:
        return ()
    head, more = newer[0].manifest.head, figures.count(len(newer) - 1, "more dataset")
    since = figures.local_time(moment, zone=True)
    warning = (
        f"of {head.dataset.name}{f' and {more}' if len(newer) > 1 else ''} there is a newer backup"
        f" (@{head.snapshot.name}) than of all of {known.root}, which is of {since}: restore that"
        " by itself"
    )
    return (warning,)


def _label(facts: SetFacts, known: _Known) -> str:
    own = next(one for one in known.done if _is_of(one, facts))
    return own.manifest.head.snapshot.name


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


def _sets(there: Sequence[Backup], told: Sequence[Alike], root: str) -> list[SetFacts]:
    """The sets of these and of what is ``told`` that are of ``root`` or of what is above it, the
    newest first.

    The order in a pool is that of its transaction groups; between a pool and its successor of the
    same name, which began anew, that of the clock.
    """
    newest: dict[int, str] = {}
    moments: dict[str, tuple[int, SetFacts]] = {}
    for one in (*there, *(each.by for each in told)):
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


def _of(facts: SetFacts, backups: Sequence[Backup], told: Sequence[Alike]) -> list[Backup]:
    """The set's backups, those that hold the same as it is told, and those of the same snapshots
    that were made on another occasion."""
    mine = [one for one in backups if _is_of(one, facts)]
    moments = {_moment(one) for one in mine}
    ids = {one.backup.id for one in told if _is_of(one.by, facts)}
    names = _names(mine)
    mine += [one for one in backups if one.id in ids and not names & _names([one])]
    names = _names(mine)
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


def _count(facts: SetFacts, known: _Known) -> int:
    return len(_names(_of(facts, known.done, known.told)))


def _lacks(facts: SetFacts, sets: Sequence[SetFacts], known: _Known) -> bool:
    """Whether something at or below the root failed in the set, as far as can be known: if only the
    set's root knows how many they were, what was there in the last whole one of ``sets`` before it
    tells; if none is, all backups that there are."""
    if _is_whole(facts, known):
        return False
    if known.root == facts.root:
        return True
    before = (one for one in sets[sets.index(facts) + 1 :] if _is_whole(one, known))
    whole, there = next(before, None), known.there
    expected = _names(_of(whole, there, known.told) if whole else there)
    return not _names(_of(facts, there, known.told)) >= expected


def _names(backups: Sequence[Backup]) -> set[str]:
    return {one.manifest.head.dataset.name for one in backups}


def _is_whole(facts: SetFacts, known: _Known) -> bool:
    return _count(facts, known) >= facts.members


def _is_of(one: Backup, facts: SetFacts) -> bool:
    mine = _set_of(one.manifest.head)
    return mine is not None and mine.id == facts.id


def _of_set(facts: SetFacts, known: _Known) -> Tree:
    mine = _newest(_of(facts, known.there, known.told))
    count = _count(facts, known)
    if count >= facts.members:
        return Tree(known.root, mine)
    warning = (
        f"of the {facts.members} datasets of {facts.root}@{_label(facts, known)} only {count} have"
        " a complete backup"
    )
    return Tree(known.root, mine, (warning,))


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
