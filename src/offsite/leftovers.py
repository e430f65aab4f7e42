"""What earlier runs left: given up, or let go of."""

from __future__ import annotations

from collections.abc import Sequence

from offsite import connect, marks, standing
from offsite.catalog import Backup
from offsite.journal import Journal
from offsite.member import Member
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.standing import Standing
from offsite.subject import let_go


def restart(
    member: Member, known: Standing, remotes: Sequence[Remote], locked: Sequence[str]
) -> Standing:
    """Give up what --restart means, and what a run that was killed holds of it."""
    label = member.names.snapshot if member.named else None
    reach = member.reach(remotes)  # on others it may be complete
    for one in known.named(label):  # as long as its first index tells whose it is
        marks.give_up(member.zfs, _snapshot(member, one), one.id, reach, member.progress)
    left = give_up(known, label, remotes, member.progress)
    for one in known.named(label):
        _let_go(member, one, locked)
    return left


def give_up(
    known: Standing, label: str | None, remotes: Sequence[Remote], progress: Progress
) -> Standing:
    """Delete what was begun under this name, or all of it; see --restart."""
    gone = known.named(label)
    for one in gone:
        standing.give_up(one, remotes, progress)
    return known.without(gone)


def tidy_up(member: Member, known: Standing, names: Sequence[str]) -> None:
    """A run that was killed after it had signed left its journal, and perhaps its holds."""
    for one in known.complete:
        journal = Journal(one.id)
        if journal.path.exists() and _let_go(member, one, names):
            journal.remove()


def _let_go(member: Member, backup: Backup, names: Sequence[str]) -> bool:
    host = connect.host(member.config)
    return let_go(member.zfs, _snapshot(member, backup), host, names, member.progress)


def _snapshot(member: Member, backup: Backup) -> str:
    assert backup.head is not None
    return f"{member.dataset.name}@{backup.head.snapshot.source_name}"
