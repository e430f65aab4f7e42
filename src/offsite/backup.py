"""offsite --backup: a snapshot of one dataset or of many, to one or many providers."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime

from offsite import (
    alike,
    budget,
    chain,
    connect,
    elsewhere,
    figures,
    forecast,
    idle,
    keys,
    lock,
    pipeline,
    recursion,
    saving,
    seal,
)
from offsite.budget import Budget
from offsite.catalog import Backup
from offsite.chain import Names
from offsite.config import Config, Provider
from offsite.elsewhere import NOWHERE, Elsewhere
from offsite.errors import LockedError, OffsiteError, UsageError
from offsite.idle import Idle
from offsite.manifest import SetFacts
from offsite.member import Member, Wish
from offsite.pipeline import Engine, SealJob
from offsite.progress import Progress
from offsite.recursion import Note
from offsite.remote import Remote
from offsite.repository import Author
from offsite.seal import Sealed
from offsite.series import Series
from offsite.storing import Result
from offsite.zfs import datasets
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset
from offsite.zfs.names import check_snapshot_name, parent_of

JOBS = 2


@dataclass(frozen=True)
class Request:
    """What the user asked for; ``snapshot`` without its @.

    ``recursive``: None is yes for a pool. ``jobs``: datasets at a time.
    """

    dataset: str
    snapshot: str | None
    providers: str | None
    dry_run: bool = False
    wish: Wish = field(default_factory=Wish)
    recursive: bool | None = None
    exclude: tuple[str, ...] = ()
    jobs: int = JOBS


@dataclass(frozen=True)
class Outcome:
    """``failed``: the datasets that are not backed up, and why; ``recursive``: it is of a set.

    ``unchanged``: those of which nothing was sent, and the ids of the backups that hold them.
    """

    results: tuple[Result, ...]
    failed: Mapping[str, str]
    recursive: bool
    unchanged: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _Run:
    """What all datasets of a run share."""

    config: Config
    request: Request
    providers: tuple[Provider, ...]
    zfs: Zfs
    root: Dataset
    author: Author
    progress: Progress
    stop: threading.Event

    @property
    def provider_names(self) -> list[str]:
        return [provider.name for provider in self.providers]

    def member(self, dataset: Dataset, names: Names) -> Member:
        return Member(
            self.config,
            self.request.wish,
            self.zfs,
            dataset,
            self.author,
            names,
            frozenset(provider.name for provider in self.config.providers),
            self.progress,
            self.stop,
        )


def run(config: Config, request: Request, progress: Progress, stop: threading.Event) -> Outcome:
    """Back up, or go on with the backup that was interrupted.

    Raises an OffsiteError whose message says what was kept. If some providers failed, the backup is
    complete on the others and ``Result.failed`` says so; of a set, some datasets may have failed.
    """
    providers = config.select("all" if request.providers is None else request.providers)
    zfs = connect.zfs_to("send", config, progress, stop)
    root = datasets.get_dataset(zfs, request.dataset)
    author = connect.author(config)
    if misfit := keys.stranger(config):
        progress.warning(f"{misfit}; offsite keys check tells what to do")
    this = _Run(config, request, providers, zfs, root, author, progress, stop)
    names = _names(config, root, request)
    if request.dry_run:
        forecast.check_pool_takes(zfs, root, names.snapshot)
    wanted, everything = [root], True
    if _is_recursive(request):
        wanted, everything = recursion.members(zfs, root.name, request.exclude, progress)
    if [one.name for one in wanted] == [root.name]:
        return _alone(this, this.member(root, names))
    if request.wish.base is not None:
        raise UsageError("--base names a snapshot of one dataset", hint="add --no-recursive")
    return _set(this, wanted, names, everything=everything)


def _is_recursive(request: Request) -> bool:
    if request.recursive is None:
        return parent_of(request.dataset) is None
    return request.recursive


def _alone(this: _Run, one: Member) -> Outcome:
    with _ready(this, [one.dataset]) as (engine, started, failed, _):
        backups, remotes = saving.read_catalog(this.config, started, failed, this.progress)
        one = replace(one, same=alike.guids(alike.told(backups)))
        with _elsewhere(this, [one.dataset], backups, remotes, failed) as others:
            one = replace(one, elsewhere=others)
            if engine is None:
                rehearsed = saving.rehearse(one, backups, remotes, failed)
                return Outcome(rehearsed, {}, recursive=False)
            results = saving.back_up(one, engine, backups, remotes, failed)
            return Outcome(results, {}, recursive=False)


def _set(this: _Run, wanted: list[Dataset], names: Names, *, everything: bool) -> Outcome:
    """All of them, some at a time; one that fails does not stop the others."""
    progress, zfs, root = this.progress, this.zfs, this.root
    note = recursion.note_of(root, this.provider_names)
    with _ready(this, wanted) as (engine, started, failed, locked):
        backups, remotes = saving.read_catalog(this.config, started, failed, progress)
        fresh = not names.given
        if fresh and not this.request.wish.restart:
            names, wanted = _moment(this, note, names, wanted)
        unfit = _unfit(this, wanted, names)
        fit = [one for one in wanted if one.name not in unfit]
        those = [
            replace(this.member(one, replace(names, given=True)), fresh=fresh)
            for one in fit
            if one.name not in locked
        ]
        if engine is None:
            with _elsewhere(this, fit, backups, remotes, failed) as others:
                those = [replace(one, elsewhere=others) for one in those]
                rehearsed = [saving.rehearse(one, backups, remotes, failed) for one in those]
            results = [one for some in rehearsed for one in some]
            return Outcome(tuple(results), _reasons(unfit), recursive=True)
        whole = everything and not unfit
        first, made = recursion.make_snapshots(zfs, root.name, fit, names, everything=whole)
        progress.info(
            f"Backing up {len(fit)} datasets of {root.name}:"
            f" {made} snapshots @{names.snapshot} made at one moment"
        )
        if fresh:
            note.write(names)
        facts = recursion.facts(root, first, fit)
        same = alike.guids(alike.told(backups))
        those = [replace(one, set=facts, same=same) for one in those]
        still = _idle(this, facts, those, backups, remotes)
        series = Series(_jobs(this, engine), backups, remotes, failed, progress, this.stop)
        with _elsewhere(this, fit, backups, remotes, failed) as others:
            done = series.run([replace(one, elsewhere=others) for one in those], still, engine)
        if fresh:
            note.remove()
    unchanged = {name: one.backup for name, one in done.still.unchanged.items()}
    if done.still.fresh and done.still.teller in done.errors:
        progress.warning(
            f"{figures.count(len(done.still.fresh), 'dataset')} did not change, but that could not"
            f" be recorded: @{names.snapshot} is not whole"
        )
        unchanged = {}
    lost = {**done.errors, **locked, **unfit}
    if not done.results:
        raise next(iter(lost.values()))
    return Outcome(tuple(done.results), _reasons(lost), recursive=True, unchanged=unchanged)


def _idle(
    this: _Run,
    facts: SetFacts,
    those: Sequence[Member],
    backups: Sequence[Backup],
    remotes: Sequence[Remote],
) -> Idle:
    """Who needs no backup, told."""
    found = idle.find(facts, those, backups, remotes)
    if found.unchanged:
        this.progress.info(
            "Unchanged since they were backed up, so nothing is sent of them:"
            f" {len(found.unchanged)} of {len(those)} datasets"
        )
    return found


def _unfit(this: _Run, wanted: Sequence[Dataset], names: Names) -> dict[str, UsageError]:
    """Those whose snapshot could not have its name, each told. Raises it if that is all of them."""
    unfit = recursion.too_long(wanted, names)
    if len(unfit) == len(wanted):
        raise next(iter(unfit.values()))
    for name, error in unfit.items():
        this.progress.warning(f"{name} is not backed up: {error}")
    return unfit


def _reasons(lost: Mapping[str, OffsiteError]) -> dict[str, str]:
    return {name: str(error) for name, error in lost.items()}


def _moment(
    this: _Run, note: Note, names: Names, wanted: list[Dataset]
) -> tuple[Names, list[Dataset]]:
    """That of the run that was cut off, and the datasets that were there; else as it is now."""
    begun = note.read()
    there = recursion.having(this.zfs, wanted, begun) if begun else []
    if begun is None or not there:
        return names, wanted
    this.progress.info(f"Going on with the interrupted backup of {this.root.name}@{begun.snapshot}")
    return begun, there


def _jobs(this: _Run, engine: Engine[SealJob, Sealed]) -> int:
    """Each work needs memory for two chunks at least, so that one is read while one is stored."""
    pair = _pair(this.config, this.author)
    return max(min(this.request.jobs, engine.budget.pairs(pair) // 2), 1)


@contextmanager
def _ready(
    this: _Run, wanted: Sequence[Dataset]
) -> Iterator[
    tuple[
        Engine[SealJob, Sealed] | None,
        list[Remote],
        dict[str, str],
        dict[str, LockedError],
    ]
]:
    """Locks, workers and providers: an engine (none for a rehearsal), the providers that can be
    reached, why the others cannot, and the datasets that another offsite is at."""
    config, progress = this.config, this.progress
    with ExitStack() as stack:
        engine, locked = None, dict[str, LockedError]()
        if not this.request.dry_run:
            locked = _lock(this, wanted, stack)
            facts = (_budget(this), this.author.chunks, config.compression)
            engine = stack.enter_context(pipeline.sealing(*facts, this.stop))
        remotes = connect.remotes(config, this.providers, this.stop, progress)
        started, failed = stack.enter_context(remotes)
        yield engine, started, failed, locked


def _elsewhere(
    this: _Run,
    wanted: Sequence[Dataset],
    backups: Sequence[Backup],
    remotes: Sequence[Remote],
    failed: Mapping[str, str],
) -> AbstractContextManager[Elsewhere]:
    """What became of what was begun, unless it is to be given up anyway."""
    if this.request.wish.restart:
        return nullcontext(NOWHERE)
    claim = not this.request.dry_run
    guids, here = {one.guid for one in wanted}, {one.name for one in remotes}
    return elsewhere.look(
        this.config, guids, backups, here=here, lost=failed, stop=this.stop, claim=claim
    )


def _lock(this: _Run, wanted: Sequence[Dataset], stack: ExitStack) -> dict[str, LockedError]:
    """Lock them all; what somebody else is at is left to him. Raises LockedError if all are."""
    locked: dict[str, LockedError] = {}
    where = this.config.zfs_ssh or ""
    lock.allow(len(wanted) * len(this.providers))
    for dataset in wanted:
        names, tell = this.provider_names, this.progress.info
        try:
            stack.enter_context(lock.hold("backup", dataset.name, names, where, tell))
        except LockedError as error:
            if dataset.name == this.root.name:
                raise
            locked[dataset.name] = error
            continue
    if len(locked) == len(wanted):
        raise next(iter(locked.values()))
    return locked


def _names(config: Config, dataset: Dataset, request: Request) -> Names:
    """The snapshot's name. Refuse what no restore could name."""
    now = datetime.now().astimezone()
    wanted = chain.snapshot_name(request.snapshot, config.snap_prefix, now)
    check_snapshot_name(f"{dataset.name}@{wanted}")
    if wanted in chain.RESERVED:
        raise UsageError(
            f"@{wanted} means something else at restore", hint="choose another name: --as @NAME"
        )
    return Names(wanted, given=request.snapshot is not None)


def _budget(this: _Run) -> Budget:
    """Refuse here, not after the first chunk, if a chunk does not fit the memory limit."""
    share = budget.share(this.config, len(this.providers))
    share.pairs(_pair(this.config, this.author))
    return share


def _pair(config: Config, author: Author) -> int:
    return config.chunk_size + seal.sealed_bound(config.chunk_size, author.chunks)
