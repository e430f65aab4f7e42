"""One dataset's restore: a backup and what it stands on, from whichever providers have them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from offsite import (
    connect,
    discard,
    fetching,
    fits,
    landing,
    lineage,
    lock,
    pace,
    properties,
    receiving,
    swap,
    tofile,
)
from offsite.config import Config
from offsite.fits import Need
from offsite.landing import Landing, Step
from offsite.links import Link, Wanted
from offsite.manifest import Manifest
from offsite.pipeline import Engine, OpenJob
from offsite.progress import Plan, Progress
from offsite.properties import Setting, Which
from offsite.swap import Swap
from offsite.zfs.command import Zfs


@dataclass(frozen=True)
class Request:
    """What the user asked for; ``point`` without its @.

    ``trust`` holds fingerprints (``SHA256:…``) of signers the user accepts for this restore.
    ``update``: an existing target receives what it lacks; ``replace``: it is kept under another
    name. ``at``: no younger snapshot than that. ``file``: where the streams go instead of zfs.
    ``properties``: which of those recorded a new dataset gets. ``recursive``: None is yes for a
    pool, if there are backups of what was in it. ``unsigned``: what nobody signed will do.
    """

    dataset: str
    point: str | None
    target: str | None
    provider: str
    host: str | None
    trust: tuple[str, ...] = ()
    dry_run: bool = False
    restart: bool = False
    update: bool = False
    replace: bool = False
    at: datetime | None = None
    file: str | None = None
    properties: Which = "local"
    recursive: bool | None = None
    unsigned: bool = False

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.dataset, self.point, self.host, self.at, self.provider, self.trust)


@dataclass(frozen=True)
class Received:
    """One backup of the chain. ``providers``: bytes that come, or came, from each in this run."""

    backup_id: str
    snapshot: str
    full: bool
    stream_bytes: int
    stored_bytes: int
    providers: Mapping[str, int]


@dataclass(frozen=True)
class Result:
    """What was done (or, for ``dry_run``, would be). Sizes in bytes, over the whole ``chain``.

    That is, the full backup first, what was to be received; in an update, what was lacking.
    ``providers``: bytes that came from each. ``resumed_chunks`` were received before this run.
    ``kept``: what the dataset that was replaced is called now. ``files``: made instead of a
    dataset, one a link. ``properties``: the names of those that were set. ``locked``: it is
    encrypted, and its key is not loaded. ``estimated_seconds``: for fetching what is left.
    ``type``: filesystem or volume. ``signed``: by somebody who is trusted; a backup of the older
    tool is not, and its ``stream_bytes`` are known only once it was read (0 in a ``dry_run``).
    """

    backup_id: str
    dataset: str
    snapshot: str
    target: str
    stream_bytes: int
    stored_bytes: int
    chunks: int
    seconds: float
    providers: Mapping[str, int]
    dry_run: bool
    resumed_chunks: int = 0
    chain: tuple[Received, ...] = ()
    kept: str | None = None
    updated: bool = False
    files: tuple[str, ...] = ()
    properties: tuple[str, ...] = ()
    locked: bool = False
    estimated_seconds: float | None = None
    type: str = "filesystem"
    signed: bool = True


@dataclass(frozen=True)
class Job:
    """``chain`` shall be in ``found``, which is to be swapped ``later``; ``left`` is lacking."""

    request: Request
    found: Landing
    later: Swap | None
    chain: tuple[Link, ...]
    left: tuple[Step, ...]

    @property
    def updates(self) -> bool:
        """Whether the user's own dataset is to get more snapshots."""
        return self.found.exists and not self.found.ours

    @property
    def target(self) -> str:
        """What the dataset is called in the end."""
        return self.later.dataset if self.later else self.found.dataset

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The properties that it gets."""
        manifest = self.chain[-1].manifest
        which = "none" if self.updates else self.request.properties
        return properties.choose(manifest, which, home=self.target == manifest.head.dataset.name)

    @property
    def scope(self) -> tuple[Link, ...]:
        """What must be there in the end because of us."""
        return tuple(step.link for step in self.left) if self.updates else self.chain


def one(config: Config, request: Request, progress: Progress, stop: threading.Event) -> Result:
    zfs = connect.zfs_to("receive", config, progress, stop)
    target = request.target or request.dataset
    with lock.hold("restore", target, [""], config.zfs_ssh or "", progress.info):
        found, later = _look(zfs, target, request)
        began = time.monotonic()
        with fetching.reading(config, request.wanted, stop, progress) as (engine, chain):
            fits.check_root_takes(found, chain[-1].manifest.head)
            job = Job(request, found, later, chain, left(found, chain, request))
            fits.check_key(found, job.left)
            check_fits(found, fits.need(job.left), fresh(job.left), progress)
            if request.dry_run:
                names_of = tuple(one.name for one in job.settings)
                return replace(plan(job, stop), properties=names_of)
            came, done = _carry_out(job, engine, progress, stop)
    seconds = time.monotonic() - began
    return replace(result_of(job, came), properties=done, seconds=seconds)


def fresh(left: Sequence[Step]) -> list[Manifest]:
    """Of what was not begun yet."""
    return [step.link.manifest for step in left if step.token is None]


def check_fits(
    found: Landing, need: Need, manifests: Sequence[Manifest], progress: Progress
) -> None:
    """Raise UsageError if the pool lacks a feature that these need, or cannot have the room."""
    unchecked = fits.check_features(found, [one.head.send.features for one in manifests])
    if unchecked:
        progress.info(unchecked)
    tight = fits.check_room(found, need)
    if tight:
        progress.warning(tight)


def to_file(
    config: Config, request: Request, path: str, progress: Progress, stop: threading.Event
) -> Result:
    began = time.monotonic()
    found = Landing(connect.zfs(config, stop), path)  # zfs is not asked for anything
    with fetching.reading(config, request.wanted, stop, progress) as (engine, chain):
        job = Job(request, found, None, chain, tuple(Step(link) for link in chain))
        size = sum(link.manifest.stream_bytes for link in chain)
        files = tofile.paths(path, len(chain), size)
        if request.dry_run:
            return replace(plan(job, stop), files=tuple(map(str, files)))
        _announce(job, progress, tofile.named(files))
        try:
            came = tofile.write(chain, files, engine, stop, progress)
        finally:
            progress.finish()
    seconds = time.monotonic() - began
    return replace(result_of(job, came), files=tuple(map(str, files)), seconds=seconds)


def left(found: Landing, chain: Sequence[Link], request: Request) -> tuple[Step, ...]:
    """What is to be received, once a restart has thrown away what it may."""
    if request.restart and found.ours:
        found = Landing(found.zfs, found.dataset, blank=found.blank)
    elif request.restart and request.update:
        found = replace(found, token=None, unread=None)
    steps = tuple(landing.steps(found, chain, update=request.update))
    if steps and found.exists and not found.ours:
        fits.check_blocks(found, chain)
    return steps


def receive(
    job: Job, engine: Engine[OpenJob, None], progress: Progress, stop: threading.Event
) -> list[Mapping[str, int]]:
    """Receive and check; the bytes that came from each provider for what was left."""
    found = job.found
    if job.request.restart and (found.ours or found.partial):
        progress.info(f"Throwing away what an interrupted restore left in {found.dataset}")
        found = discard.start_over(found, {link.guid for link in job.chain})
    came: list[Mapping[str, int]] = []
    if job.left:
        _announce(job, progress)
        try:
            came = receiving.receive(found, job.left, engine, stop, progress)
        finally:
            progress.finish()
    landing.check(found, job.scope)
    return came


def plan(job: Job, stop: threading.Event) -> Result:
    """What would be done, and how long that would take."""
    return replace(preview(job), estimated_seconds=pace.estimate(job.left, stop))


def preview(job: Job) -> Result:
    """What would be done."""
    return result_of(job, [step.link.sources_of(step.receipts) for step in job.left])


def _look(zfs: Zfs, target: str, request: Request) -> tuple[Landing, Swap | None]:
    """Where the restore goes; what it must not touch is refused before the first byte moves."""
    fits.check_writable(zfs, target)
    found, later = landing.look(zfs, target), None
    if request.replace:
        found, later = swap.prepare(zfs, found, datetime.now().astimezone().date())
    else:
        swap.check_none_begun(found)
    if not (found.exists or found.blank):
        landing.check_new(zfs, found.dataset)
    elif found.exists and not (found.ours or request.update):
        raise landing.exists(target)
    return found, later


def _carry_out(
    job: Job, engine: Engine[OpenJob, None], progress: Progress, stop: threading.Event
) -> tuple[list[Mapping[str, int]], tuple[str, ...]]:
    """Receive, check, swap, set properties.

    Returns the bytes that came from each provider for what was left, and the properties' names.
    """
    came = receive(job, engine, progress, stop)
    found = job.found
    if job.later is not None:
        swap.carry_out(job.later, progress)
        found = replace(found, dataset=job.target)
    if job.updates:
        return came, ()
    done = properties.put(found.zfs, job.target, job.settings, job.chain[-1].manifest, progress)
    landing.finish(found)
    return came, done


def _announce(job: Job, progress: Progress, file: str | None = None) -> None:
    totals = result_of(job, [])
    if totals.resumed_chunks:
        progress.info(
            f"Resuming restore to {job.found.dataset}: {totals.resumed_chunks} of {totals.chunks}"
            " chunks are received"
        )
    progress.start(
        Plan(
            verb="restore",
            dataset=job.request.dataset if file else job.found.dataset,
            snapshot=job.chain[-1].name,
            stream_bytes=totals.stream_bytes,
            chunks=totals.chunks,
            providers=tuple({each.name: None for link in job.scope for each in link.remotes}),
            done_chunks=totals.resumed_chunks,
            done_bytes=totals.stream_bytes - sum(step.stream_bytes for step in job.left),
            done_stored=totals.stored_bytes - sum(step.stored_bytes for step in job.left),
            file=file,
        )
    )


def result_of(job: Job, came: Sequence[Mapping[str, int]]) -> Result:
    """``came``: bytes from each provider, for what was left."""
    wanted = job.chain[-1].manifest.head
    scope = job.scope
    from_each = dict(zip((step.link.id for step in job.left), came, strict=False))
    chunks = sum(link.manifest.chunks for link in scope)
    providers: Counter[str] = Counter({each.name: 0 for link in scope for each in link.remotes})
    for one in came:
        providers.update(one)
    return Result(
        backup_id=wanted.id,
        dataset=wanted.dataset.name,
        snapshot=wanted.snapshot.name,
        target=job.target,
        stream_bytes=sum(link.manifest.stream_bytes for link in scope),
        stored_bytes=sum(link.manifest.stored_bytes for link in scope),
        chunks=chunks,
        seconds=0.0,
        providers=dict(providers),
        dry_run=job.request.dry_run,
        resumed_chunks=chunks - sum(len(step.receipts) for step in job.left),
        chain=tuple(_received(link, from_each.get(link.id, {})) for link in scope),
        kept=job.later.kept if job.later else None,
        updated=job.updates,
        type=wanted.dataset.type,
        locked=lineage.is_raw(wanted) and not job.updates and job.request.file is None,
    )


def _received(link: Link, providers: Mapping[str, int]) -> Received:
    signed = link.manifest
    return Received(
        link.id, link.name, link.base is None, signed.stream_bytes, signed.stored_bytes, providers
    )
