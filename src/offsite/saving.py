"""One dataset's part of a run: which snapshot of it, which backups of that, to which providers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial

from offsite import (
    cache,
    catalog,
    choosing,
    connect,
    forecast,
    leftovers,
    marks,
    storing,
    tasks,
)
from offsite.catalog import Backup
from offsite.config import Config
from offsite.errors import IntegrityError, ProviderError
from offsite.marks import Kept
from offsite.member import Member
from offsite.mirror import Mirror
from offsite.ordered import halting
from offsite.pipeline import Engine, SealJob
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.seal import Sealed
from offsite.standing import Standing
from offsite.storing import Result, Run
from offsite.subject import Subject
from offsite.tasks import Source, Task
from offsite.zfs.datasets import while_imported


@dataclass(frozen=True)
class _Performed:
    result: Result
    kept: Kept


def read_catalog(
    config: Config,
    remotes: Sequence[Remote],
    failed: dict[str, str],
    progress: Progress,
    known: Sequence[Backup] = (),
) -> tuple[Sequence[Backup], list[Remote]]:
    """All backups, and the providers that could be read; the others are added to ``failed``.

    What a provider has must be known: else a full backup might go where an increment would do.
    ``known``: what was read before in this run.
    """
    shelves = {one.name: cache.shelf(one) for one in config.providers}
    found = catalog.read(remotes, connect.catalog_keyring(config), known, shelves)
    for name, why in found.problems.items():
        failed[name] = f"its backups cannot be read: {why}"
        progress.dropped(name, failed[name])
    left = [remote for remote in remotes if remote.name not in found.problems]
    if not left:
        raise ProviderError("; ".join(f"{name}: {why}" for name, why in failed.items()))
    return found.backups, left


def rehearse(
    member: Member,
    backups: Sequence[Backup],
    remotes: Sequence[Remote],
    failed: Mapping[str, str],
) -> tuple[Result, ...]:
    """What ``back_up`` would do."""
    names = member.names
    source = forecast.source(member.zfs, member.dataset, names.snapshot)
    source = replace(source, given=member.named)
    todo = member.divide(member.standing(backups), source, remotes)
    facts = (member.config, member.zfs, member.dataset, source)
    first, *others = (forecast.result_of(*facts, task) for task in todo)
    return (replace(first, failed=failed), *others)


def back_up(
    member: Member,
    engine: Engine[SealJob, Sealed],
    backups: Sequence[Backup],
    remotes: Sequence[Remote],
    failed: Mapping[str, str],
) -> tuple[Result, ...]:
    """A result for every snapshot and every group of providers that stand alike.

    ``failed``: the providers that are left out, and why. Raises an OffsiteError whose message says
    what was kept.
    """
    with while_imported(member.zfs, member.dataset.name):
        return _back_up(member, engine, backups, remotes, failed)


def _back_up(
    member: Member,
    engine: Engine[SealJob, Sealed],
    backups: Sequence[Backup],
    remotes: Sequence[Remote],
    failed: Mapping[str, str],
) -> tuple[Result, ...]:
    progress = member.progress
    known = member.standing(backups)
    locked = [remote.name for remote in remotes] + list(failed)
    if member.wish.restart:
        known = leftovers.restart(member, known, remotes, locked)
    leftovers.tidy_up(member, known, locked)
    out, left = dict(failed), list(remotes)
    done: list[_Performed] = []

    def perform_before(source: Source, those: Sequence[Remote]) -> Standing:
        nonlocal left, backups
        those = [one for one in those if one in left]
        if not those:
            return member.standing(backups)
        try:
            done.extend(_perform_all(member, engine, known, source, those))
        except (ProviderError, IntegrityError) as error:
            out.update({remote.name: str(error) for remote in those})
            left = [remote for remote in left if remote.name not in out]
            if not left:
                raise
        backups, left = read_catalog(member.config, left, out, progress, backups)
        return member.standing(backups)

    for before, those in choosing.half_done(member, known, left):
        known = perform_before(before, those)
    may_be_made = partial(choosing.check_may_be_made, member)
    source = choosing.choose(member.zfs, known, member.names, progress, may_be_made)
    choosing.tell_if_taken(member, known, source)
    source = replace(source, given=member.named, made=source.made or member.fresh)
    if member.wish.intermediate:
        for before, those in choosing.between(member, known, source, left):
            known = perform_before(before, those)
    done += _perform_all(member, engine, known, source, left)
    kept = [Kept(one.manifest.head, one.providers) for one in known.everything]
    kept += [one.kept for one in done]
    marks.tidy(
        member.zfs,
        member.dataset.name,
        kept,
        [one.head for one in known.unfinished if one.head],
        reach=member.reach(left),
        progress=progress,
    )
    first, *others = (one.result for one in done)
    return (replace(first, failed={**out, **first.failed}), *others)


def _perform_all(
    member: Member,
    engine: Engine[SealJob, Sealed],
    known: Standing,
    source: Source,
    remotes: Sequence[Remote],
) -> list[_Performed]:
    """One task after the other; if all providers of one fail, that does not keep the others."""
    performed: list[_Performed] = []
    errors: list[ProviderError | IntegrityError] = []
    lost: dict[str, str] = {}
    for task in member.divide(known, source, remotes):
        try:
            performed.append(_perform(member, engine, known, source, task))
        except (ProviderError, IntegrityError) as error:
            if isinstance(error, IntegrityError):
                error.hint = error.hint or _way_out(task)
            errors.append(error)
            lost |= {remote.name: str(error) for remote in task.remotes}
    if not performed:
        raise errors[0]
    first = performed[0]
    told = replace(first.result, failed={**lost, **first.result.failed})
    return [replace(first, result=told), *performed[1:]]


def _way_out(task: Task) -> str | None:
    """What to do about damage in what is stored already."""
    if task.begun is not None:
        return "give up what is stored and begin anew: --restart"
    if task.complete is not None:
        return "this backup cannot be copied any more: make another one, of a new snapshot: --full"
    return None


def _perform(
    member: Member,
    engine: Engine[SealJob, Sealed],
    known: Standing,
    source: Source,
    task: Task,
) -> _Performed:
    began, progress = time.monotonic(), member.progress
    reach = member.reach(task.remotes)
    marker = marks.Marker(member.zfs, source.snapshot, source.points, reach, progress)
    with ExitStack() as stack:
        # What ends this work must not end the others: neither its failure nor the end of its
        # requests.
        halt = stack.enter_context(halting(member.stop))
        own = tuple(remote.share(halt, progress.retry) for remote in task.remotes)
        for remote in own:
            stack.callback(remote.close)
        mirror = Mirror(own, in_flight=member.in_flight, progress=progress)
        stack.callback(progress.finish)
        stack.callback(mirror.close)
        names = [remote.name for remote in task.remotes]
        facts = (member.config, member.author, engine, mirror, halt, progress)
        work = Run(*facts, mark=marker.before)
        if task.complete is not None:
            others = [one.share(halt, progress.retry) for one in member.elsewhere.remotes]
            for remote in others:
                stack.callback(remote.close)
            done = storing.spread(work, task.complete, others)
        else:
            if task.begun is None:
                progress.info(tasks.told(task))
            subject = _subject(member, source, task)
            done = storing.send(work, subject, task.begun, known.previous, names)
    kept = Kept(done.manifest.head, tuple(remote.name for remote in mirror.live))
    marker.after(kept)
    return _Performed(storing.result_of(done, mirror, time.monotonic() - began), kept)


def _subject(member: Member, source: Source, task: Task) -> Subject:
    guid = task.base_guid
    point = source.point(guid) if guid is not None else None
    base = task.choice.base if task.begun is None else None
    facts = (member.zfs, member.dataset, source.snapshot, source.label)
    # What else is stored in a set's run, snapshots in between or of an earlier set, is not of it.
    if source.label != member.names.snapshot:
        return Subject(*facts, point, base)
    return Subject(*facts, point, base, member.set, member.unchanged)
