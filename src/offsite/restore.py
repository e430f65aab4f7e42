"""offsite --restore: a dataset, or one and all below it."""

from __future__ import annotations

import shlex
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from offsite import (
    connect,
    discard,
    fetching,
    fits,
    landing,
    lock,
    pace,
    properties,
    recovery,
    trees,
    unsigned,
)
from offsite.catalog import Backup
from offsite.config import Config
from offsite.errors import IntegrityError, NoBackupError, OffsiteError, ProviderError, UsageError
from offsite.fetching import Depot
from offsite.fits import Need, RootError
from offsite.landing import Landing, Step
from offsite.links import Link, Wanted
from offsite.manifest import Manifest
from offsite.ordered import halting
from offsite.progress import Progress
from offsite.properties import Setting
from offsite.recovery import Job, Received, Request, Result
from offsite.trees import Tree
from offsite.zfs import names, targets
from offsite.zfs.command import Zfs

__all__ = ["Outcome", "Received", "Request", "Result", "run"]


@dataclass(frozen=True)
class Outcome:
    """``failed``: the datasets that are not restored, and why; ``notes``: good to know.

    ``recursive``: it is of a dataset and all below it; of such a dry run, ``estimated_seconds`` for
    fetching what is left.
    """

    results: tuple[Result, ...]
    failed: Mapping[str, str]
    recursive: bool
    notes: tuple[str, ...] = ()
    estimated_seconds: float | None = None


def run(config: Config, request: Request, progress: Progress, stop: threading.Event) -> Outcome:
    """Restore, or go on with a restore that was interrupted.

    Nothing that exists is touched: an existing target is refused, unless it is an unfinished
    restore, or the user asked for its update or replacement. A backup of the older tool is taken
    only where no signed one answers. Raises an OffsiteError.
    """
    names.check_dataset_name(request.dataset)
    try:
        return _signed(config, request, progress, stop)
    except NoBackupError as nothing:
        older = unsigned.restore(config, request, nothing, progress, stop)
        return Outcome((older,), {}, recursive=False)


def _signed(config: Config, request: Request, progress: Progress, stop: threading.Event) -> Outcome:
    is_pool = names.parent_of(request.dataset) is None
    if request.recursive or (request.recursive is None and is_pool):
        with fetching.opened(config, request.wanted, stop, progress) as depot:
            if request.recursive or trees.has_more(depot.known.backups, request.dataset):
                return _restore_tree(config, request, depot, progress, stop)
    if request.file is not None:
        done = recovery.to_file(config, request, request.file, progress, stop)
        return Outcome((done,), {}, recursive=False)
    return Outcome((recovery.one(config, request, progress, stop),), {}, recursive=False)


@dataclass(frozen=True)
class _Finish:
    """What is left to do with a dataset of a tree once all of it is there.

    ``updated``: it was the user's already, and keeps its properties.
    """

    found: Landing
    settings: tuple[Setting, ...]
    updated: bool


@dataclass(frozen=True)
class _Work:
    """The restore of a tree: each of ``places`` is to get one backup; ``root`` is the first of them
    or stands for it. ``lost``: the places that get none, and why. ``shares``: of a dry run, what
    each provider would give."""

    request: Request
    depot: Depot
    zfs: Zfs
    root: str
    places: Mapping[str, Backup]
    lost: dict[str, OffsiteError]
    progress: Progress
    stop: threading.Event
    shares: dict[str, pace.Share] = field(default_factory=dict)


def _restore_tree(
    config: Config, request: Request, depot: Depot, progress: Progress, stop: threading.Event
) -> Outcome:
    """Parents before children; one that fails stops only what is below it.

    Properties come last: a quota, a mountpoint must not be in the way of the rest.
    """
    _check_single(request)
    chosen = (request.dataset, request.point, request.host, request.at)
    tree = trees.choose(depot.known.backups, *chosen)
    root = request.target or request.dataset
    places = {tree.target(one, root): one for one in tree.members}
    zfs = connect.zfs_to("receive", config, progress, stop)
    work = _Work(request, depot, zfs, root, places, {}, progress, stop)
    with lock.hold("restore", root, [""], config.zfs_ssh or "", progress.info):
        for warning in tree.warnings:
            progress.warning(warning)
        _look_at_all(work)
        if request.restart and not request.dry_run:
            _start_over(work)
            # A pool's root that has snapshots stays: it goes on with these.
            work = replace(work, request=replace(request, restart=False))
        received = [
            one
            for target in places
            if target not in work.lost and (one := _attempt(work, target)) is not None
        ]
        results = _finish_all(work, received)
    if not results:
        raise next(iter(work.lost.values()))
    failed = {target: _told(why) + _by_itself(work, target) for target, why in work.lost.items()}
    remotes = {remote.name: remote for remote in depot.remotes}
    seconds = pace.of(work.shares, remotes, stop) if request.dry_run else None
    return Outcome(
        tuple(results), failed, recursive=True, notes=_notes(tree), estimated_seconds=seconds
    )


def _told(error: OffsiteError) -> str:
    return f"{error}; {error.hint}" if error.hint else str(error)


def _by_itself(work: _Work, target: str) -> str:
    """What to type if the others are in use by the time that its trouble is over."""
    if isinstance(work.lost[target], RootError):
        return ""
    name = f"{work.places[target].manifest.head.dataset.name}@{work.places[target].id}"
    line = f"offsite --restore {shlex.quote(name)} --no-recursive --as {shlex.quote(target)}"
    return f"; by itself: {line}"


def _check_single(request: Request) -> None:
    """Refuse what only makes sense for one dataset."""
    if request.file is not None:
        raise UsageError(
            "--to-file writes the streams of one dataset, and there are backups of others below"
            f" {request.dataset}",
            hint="add --no-recursive to write its own alone; then go on with each of the others",
        )
    if request.replace:
        raise UsageError(
            "--replace is for one dataset",
            hint="add --no-recursive; or restore the whole under another name: --as NAME",
        )


def _look_at_all(work: _Work) -> None:
    """Refuse before the first byte moves; what cannot be had is lost, and told."""
    fits.check_writable(work.zfs, work.root)
    found = {target: landing.look(work.zfs, target) for target in work.places}
    for target, backup in work.places.items():
        try:
            fits.check_root_takes(found[target], backup.manifest.head)
        except RootError as error:
            work.lost[target] = error
            work.progress.warning(f"{target} cannot be restored: {_told(error)}")
    root = found.get(work.root) or landing.look(work.zfs, work.root)
    if not (root.exists or root.blank):
        landing.check_new(work.zfs, work.root)
    need, fresh = Need(), list[Manifest]()
    for target, backup in work.places.items():
        if target in work.lost:
            continue
        try:
            with work.depot.chain(_wanted(work, backup), work.stop, work.progress) as chain:
                _check_free(work, found[target], backup)
                left = _left_of(found[target], backup, chain, work.request)
                # Below one that is restored first, only zfs can tell, when its turn comes.
                if found[target].exists or names.parent_of(target) not in work.places:
                    fits.check_key(found[target], left)
                need += fits.need(left)
                fresh += recovery.fresh(left)
        except (IntegrityError, ProviderError) as error:
            if found[target].snapshots:  # not what stands for it since an earlier run
                _check_free(work, found[target], backup)
            work.lost[target] = error
            work.progress.warning(f"{target} cannot be restored: {error}")
    recovery.check_fits(root, need, fresh, work.progress)
    done = (_is_done(found[target], backup) for target, backup in work.places.items())
    in_use = any(each.mounted for each in found.values()) and not work.request.update
    if in_use and all(done):  # who asks for what is there already wants something else
        raise _exists(work, work.root)


def _start_over(work: _Work) -> None:
    """Throw away what an unfinished restore left, children before parents: zfs destroys nothing
    that has something below. Raises UsageError, before anything is gone, where there is more."""
    begun = _begun(work)
    ours = [found.dataset for found, _ in begun if found.ours]
    for found, known in reversed(begun):
        is_root = names.parent_of(found.dataset) is None
        if found.mark and found.snapshots and not is_root:
            discard.check_disposable(found, known, going=ours)
    for found, known in reversed(begun):
        work.progress.info(f"Throwing away what an interrupted restore left in {found.dataset}")
        if names.parent_of(found.dataset) is None and found.snapshots:
            discard.drop_partial(found)
        else:
            discard.start_over(found, known)


def _begun(work: _Work) -> list[tuple[Landing, set[int]]]:
    """The targets with something of an unfinished restore, parents first; and the guids of the
    snapshots that this may be."""
    begun = []
    for target, backup in work.places.items():
        found = landing.look(work.zfs, target)
        begun_here = found.ours or (found.partial and work.request.update)
        if target in work.lost or not begun_here:
            continue
        with work.depot.chain(_wanted(work, backup), work.stop, work.progress) as chain:
            begun.append((found, {link.guid for link in chain}))
    return begun


def _attempt(work: _Work, target: str) -> tuple[str, Result, _Finish | None] | None:
    try:
        _make_parent(work, target)
        with halting(work.stop) as halt:
            return (target, *_member(work, target, halt))
    except OffsiteError as error:
        if work.stop.is_set():
            raise
        work.lost[target] = error
        work.progress.warning(f"{target} is not restored: {error}")
        return None


def _member(work: _Work, target: str, halt: threading.Event) -> tuple[Result, _Finish | None]:
    """One dataset of a tree, received and checked."""
    began, backup = time.monotonic(), work.places[target]
    found = landing.look(work.zfs, target)  # hours may have passed
    _check_free(work, found, backup)
    with work.depot.chain(_wanted(work, backup), halt, work.progress) as chain:
        left = _left_of(found, backup, chain, work.request)
        job = Job(work.request, found, None, chain, left)
        if work.request.dry_run:
            pace.add(work.shares, left)
            names_of = tuple(one.name for one in job.settings)
            return replace(recovery.preview(job), properties=names_of), None
        came = recovery.receive(job, work.depot.engine, work.progress, halt)
        result = replace(recovery.result_of(job, came), seconds=time.monotonic() - began)
        return result, _Finish(found, job.settings, job.updates)


def _finish_all(
    work: _Work, received: Sequence[tuple[str, Result, _Finish | None]]
) -> list[Result]:
    """Set the properties of all, and mount none: what is set on one may mount those below it that
    inherit it, so nothing may be mounted until everything is set."""
    left = {target: one for target, _, one in received if one is not None}
    done: dict[str, tuple[str, ...]] = {}
    exposed = _exposed(work, left)
    safe = not exposed or properties.shelter(work.zfs, exposed, work.progress)
    for target, one in left.items():
        done[target] = properties.put_most(
            work.zfs, target, one.settings, work.progress, sheltered=safe
        )
    for target, one in left.items():
        with _losing(work, target):
            if safe and target in exposed:
                done[target] += properties.unshelter(work.zfs, target, one.settings, work.progress)
            landing.finish(one.found)
    return [
        replace(result, properties=done[target]) if target in done else result
        for target, result, _ in received
        if target not in work.lost
    ]


def _exposed(work: _Work, left: Mapping[str, _Finish]) -> list[str]:
    """The filesystems that a property of any of them might mount; those that a next run is to go on
    with too, which would find them written to."""
    whole = [target for target, one in left.items() if not one.updated]
    begun = [target for target in work.lost if landing.look(work.zfs, target).ours]
    return [
        target
        for target in (*whole, *begun)
        if work.places[target].manifest.head.dataset.type == "filesystem"
    ]


@contextmanager
def _losing(work: _Work, target: str) -> Iterator[None]:
    """What goes wrong now is this dataset's affair."""
    try:
        yield
    except OffsiteError as error:
        if work.stop.is_set():
            raise
        work.lost[target] = error
        work.progress.warning(f"{target} is received, but not finished: {error}")


def _check_free(work: _Work, found: Landing, backup: Backup) -> None:
    if found.exists and not (found.ours or work.request.update or _is_done(found, backup)):
        raise _exists(work, found.dataset)


def _exists(work: _Work, target: str) -> UsageError:
    return UsageError(
        f"{target} exists; it was not touched",
        hint=f"{landing.beside(work.root)}; or, where it is unchanged"
        " since a snapshot that is backed up: --update",
    )


def _is_done(found: Landing, backup: Backup) -> bool:
    return landing.holds_just(found, backup.manifest.head.snapshot.guid)


def _wanted(work: _Work, backup: Backup) -> Wanted:
    name = backup.manifest.head.dataset.name
    return replace(work.request.wanted, dataset=name, point=backup.id)


def _left_of(
    found: Landing, backup: Backup, chain: Sequence[Link], request: Request
) -> tuple[Step, ...]:
    """What is lacking; what is the user's is brought up to date, as was checked before."""
    if _is_done(found, backup):
        return ()
    return recovery.left(found, chain, replace(request, update=True))


def _make_parent(work: _Work, target: str) -> None:
    """Where what is above a dataset was left out of the backup, or its own backup is damaged
    everywhere, an empty one stands for it."""
    parent = names.parent_of(target)
    if parent is None or target == work.root:
        return
    why = work.lost.get(parent)
    # A pool's root is there, whatever it is.
    if isinstance(why, RootError) or (parent in work.places and why is None):
        return
    if not isinstance(why, IntegrityError | None):
        raise OffsiteError(f"its parent {parent} is not restored")
    if work.request.dry_run:
        return
    there = landing.look(work.zfs, parent)
    if why is not None and there.mark and not there.snapshots:  # it will never be whole
        there = discard.drop_partial(there)
    if there.partial and not there.snapshots:
        raise OffsiteError(f"its parent {parent} is not restored")
    if there.exists or there.blank:
        return
    _make_parent(work, parent)
    targets.make_empty(work.zfs, parent)
    if why is not None:
        work.progress.warning(f"An empty dataset stands for {parent}, which cannot be restored")


def _notes(tree: Tree) -> tuple[str, ...]:
    return tuple(f"{name} was a clone and is a dataset of its own now" for name in tree.clones)
