"""The links of a chain on their way into ``zfs receive``, one after the other."""

from __future__ import annotations

import functools
import shlex
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass

from offsite import figures, landing, pipeline
from offsite.errors import StoppedError, UsageError, ZfsError
from offsite.landing import Landing, Step
from offsite.ordered import halting, waking
from offsite.pipeline import Download, Engine, OpenJob
from offsite.progress import Progress
from offsite.rejoin import Rest
from offsite.remote import Remote
from offsite.sources import ANOTHER_POINT, Sources
from offsite.zfs import datasets, names, targets
from offsite.zfs.failures import CommandError, Reason
from offsite.zfs.pipes import ReceiveStream
from offsite.zfs.records import HEADER_SIZE

# Seconds between two looks at a target that another zfs receive still writes to.
_PAUSES = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)

Stream = Callable[[threading.Event, Progress], Generator[memoryview, None, None]]


def receive(
    found: Landing,
    left: Sequence[Step],
    engine: Engine[OpenJob, None],
    stop: threading.Event,
    progress: Progress,
) -> list[Mapping[str, int]]:
    """Receive what is left. Returns the bytes that came from each provider, for every step.

    Raises StoppedError, ZfsError, IntegrityError, ProviderError; then the same command goes on.
    """
    pool = names.pool_of(found.dataset)
    resumable = bool(left) and datasets.can_resume(found.zfs, pool)
    came: list[Mapping[str, int]] = []
    for number, step in enumerate(left):
        progress.info(_told(step, len(left) - number))
        way = _Way(
            found,
            engine,
            new=left[-1].link.id if number == 0 and not found.snapshots else None,
            into_root=number == 0,
            resumable=resumable,
            stop=stop,
            progress=progress,
        )
        came.append(_receive(step, way, _PAUSES if number == 0 else ()))
        target = _target(step, found)
        if datasets.get_snapshot(found.zfs, target).guid != step.link.guid:
            raise ZfsError(
                f"{target} was received, but it is not the snapshot backed up",
                hint=_way_back(found),
            )
        if way.new is not None and not targets.knows_marks(found.zfs):
            _mark(way, way.new)
    return came


@dataclass(frozen=True)
class _Way:
    """How a link comes. ``new``: the mark of the dataset that the first link makes."""

    found: Landing
    engine: Engine[OpenJob, None]
    new: str | None
    into_root: bool
    resumable: bool
    stop: threading.Event
    progress: Progress

    @property
    def over_root(self) -> bool:
        """Whether it comes into a pool's root that has no snapshots yet."""
        found = self.found
        return self.into_root and names.parent_of(found.dataset) is None and not found.snapshots

    def stopped(self) -> StoppedError:
        return StoppedError(
            f"stopped before {self.found.dataset} was whole; nothing else was touched",
            hint="the same command goes on from there"
            if self.resumable
            else "run the same command to restore it",
        )


def _mark(way: _Way, backup_id: str) -> None:
    """Only now: this zfs does not mark what it receives. Until then there was no snapshot."""
    try:
        targets.mark(way.found.zfs, way.found.dataset, backup_id)
    except ZfsError as error:
        way.progress.info(f"{way.found.dataset} cannot be marked as unfinished ({error})")


def _receive(step: Step, way: _Way, pauses: Iterable[float]) -> Mapping[str, int]:
    """Receive the link; the bytes that came from each provider."""
    came: Counter[str] = Counter({remote.name: 0 for remote in step.link.remotes})
    left = iter(pauses)
    while True:
        # A failure ends the attempt's requests and nothing else.
        with halting(way.stop) as halt, _shared(step.link.remotes, halt, way.progress) as own:
            sources = Sources(own, way.progress, hint=ANOTHER_POINT)
            try:
                _attempt(step, way, sources, halt)
                refused = None
            except CommandError as error:
                refused = error
            came.update(sources.bytes_from)
        again = _stands_now(step, way, refused, left) if refused else None
        if again is None:
            return dict(came)
        step = again


@contextmanager
def _shared(
    remotes: Sequence[Remote], halt: threading.Event, progress: Progress
) -> Iterator[list[Remote]]:
    with ExitStack() as stack:
        own = [remote.share(halt, progress.retry) for remote in remotes]
        for remote in own:
            stack.callback(remote.close)
        yield own


def _attempt(step: Step, way: _Way, sources: Sources, halt: threading.Event) -> None:
    found, link = way.found, step.link
    flags = ["-s", "-u"] if way.resumable else ["-u"]
    if way.new is not None and targets.knows_marks(found.zfs):
        mounts = link.manifest.head.dataset.type == "filesystem"
        flags += targets.mark_flags(way.new, mounts=mounts)
    over_root = way.over_root
    if over_root:
        _check_root(found)
        flags += ["-F"]
    stream = _stream(step, Download(link.manifest, link.receipts, sources, way.engine))
    try:
        with (
            receiver(found.zfs.receive(_target(step, found), flags=flags), halt) as sink,
            closing(stream(halt, way.progress)) as pieces,
        ):
            last = _end_held_back(pieces, found) if over_root else pieces
            _hand_over(last, sink, way.stop)
    except StoppedError as stopped:
        raise way.stopped() from stopped


def _hand_over(pieces: Iterable[memoryview], sink: ReceiveStream, stop: threading.Event) -> None:
    """Raises StoppedError only if it was the user who stopped."""
    for piece in pieces:
        try:
            sink.write(piece)
        except StoppedError:
            if not stop.is_set():  # a chunk failed, which ended zfs too: that is what is told now
                deque(pieces, maxlen=0)
            raise


def _stands_now(step: Step, way: _Way, error: CommandError, pauses: Iterator[float]) -> Step | None:
    """The step once more, from where the target stands now; None if nothing is lacking.

    The zfs receive of a run that was killed may still work, at the far end of an ssh: it takes in
    what it was handed, writes it, and only then tells how far it came (dmu_recv_cleanup_ds in
    module/zfs/dmu_recv.c). Until then zfs calls the target busy, and a token that was read before
    is refused. Raises ``error`` if that does not explain it.
    """
    if error.reason not in {Reason.BUSY, Reason.EXISTS, Reason.MISFIT}:
        raise error
    now = landing.look(way.found.zfs, way.found.dataset)
    if step.link.guid in {snapshot.guid for snapshot in now.snapshots}:
        return None
    if now.token is None or not (way.found.exists or now.ours):
        raise error
    landing.check_same(now, now.token, [step.link])
    if now.token == step.token:
        if error.reason is not Reason.BUSY:
            raise error
        _wait(way, error, next(pauses, None))
    return Step(step.link, now.token)


def _wait(way: _Way, error: CommandError, pause: float | None) -> None:
    if pause is None:
        raise ZfsError(
            f"another zfs receive still writes to {way.found.dataset}",
            hint="look for it: ps ax | grep 'zfs receive'; once it has ended, run the same command"
            " again",
        ) from error
    way.progress.info(
        f"An interrupted zfs receive still works on {way.found.dataset}; looking again in"
        f" {figures.duration(pause)}"
    )
    if way.stop.wait(pause):
        raise way.stopped() from error


def _way_back(found: Landing) -> str:
    """A hint. What is the user's is not to be destroyed, but what came last may be undone."""
    if found.ours or not found.exists:
        return landing.give_up(found)
    return f"to undo it: zfs rollback -r {shlex.quote(found.snapshots[-1].full_name)}"


def _target(step: Step, found: Landing) -> str:
    return f"{found.dataset}@{step.link.name}"


def _check_root(found: Landing) -> None:
    """zfs receives into a pool's root only with -F: looked at once more, nothing may be in it.

    -F would also destroy the snapshots that it got since (dmu_recv_end_check in OpenZFS
    module/zfs/dmu_recv.c). Raises UsageError.
    """
    now = landing.look(found.zfs, found.dataset)
    landing.check_root(now)
    if now.snapshots:
        name = now.snapshots[0].full_name
        raise UsageError(
            f"{name} was made meanwhile, and zfs would destroy it; it was not touched",
            hint=f"if it is not needed: zfs destroy {shlex.quote(name)}; then the same command",
        )


def _end_held_back(pieces: Iterable[memoryview], found: Landing) -> Iterator[memoryview]:
    """Before zfs gets the END record, and puts what it received in the place of what is there, the
    root is looked at once more: it was mounted all the while, which may be days."""
    end = b""
    for piece in pieces:
        if len(piece) < HEADER_SIZE:
            end += piece
            yield memoryview(end)[:-HEADER_SIZE]
            end = end[-HEADER_SIZE:]
        else:
            yield memoryview(end)
            yield piece[:-HEADER_SIZE]
            end = bytes(piece[-HEADER_SIZE:])
    _check_root(found)
    yield memoryview(end)


def _stream(step: Step, download: Download) -> Stream:
    if step.token is not None:
        return Rest(download, step.token, step.first).stream
    return functools.partial(pipeline.fetch, download)


@contextmanager
def receiver(
    receiving: AbstractContextManager[ReceiveStream], stop: threading.Event
) -> Iterator[ReceiveStream]:
    """A zfs receive that ``stop`` ends; after its last byte, too: it may work or hang for long."""
    sinks: list[ReceiveStream] = []

    def wake() -> None:
        for sink in sinks:
            sink.kill()

    with waking(stop, wake), receiving as sink:
        sinks.append(sink)
        yield sink


def _told(step: Step, left: int) -> str:
    kind = "incremental" if step.link.base else "full"
    size = figures.size(step.stream_bytes)
    more = f"; then {figures.count(left - 1, 'more backup')}" if left > 1 else ""
    return f"Receiving @{step.link.name} ({kind}, {size}){more}"
