"""Work on many things at once with its results in order, and ways to wake who is blocked."""

from __future__ import annotations

import collections
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from offsite.errors import OffsiteError

_POLL = 0.2  # seconds between looks at the halt event
_FEW = 8  # requests at a time

Item = TypeVar("Item")
Done = TypeVar("Done")


def in_order(
    crew: ThreadPoolExecutor,
    work: Callable[[Item], Done],
    items: Iterable[Item],
    halt: threading.Event,
    ahead: int = sys.maxsize,
) -> Iterator[Done]:
    """``work`` on all items at once, results in the items' order, at most ``ahead`` begun.

    The first failure of any of them sets ``halt``, so that nobody waits for what will not come,
    and is what is raised.
    """
    failures: list[BaseException] = []

    def note(future: Future[Done]) -> None:
        if not future.cancelled() and (error := future.exception()) is not None:
            failures.append(error)
            halt.set()

    pending: collections.deque[Future[Done]] = collections.deque()
    try:
        for item in items:
            pending.append(crew.submit(work, item))
            pending[-1].add_done_callback(note)
            while pending and (pending[0].done() or len(pending) >= ahead):
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except OffsiteError as error:
        raise (failures[0] if failures else error) from None
    finally:
        if pending:
            halt.set()


def few_at_a_time(work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
    """``work`` on each item, results in their order: few at once, and few that wait to be taken.

    One after the other the round trips alone would take minutes. Raises what ``work`` raises.
    """
    with crew_of(_FEW) as crew:
        yield from in_order(crew, work, items, threading.Event(), ahead=2 * _FEW)


@contextmanager
def crew_of(threads: int) -> Iterator[ThreadPoolExecutor]:
    crew = ThreadPoolExecutor(threads, thread_name_prefix="chunk")
    try:
        yield crew
    finally:
        crew.shutdown(wait=True, cancel_futures=True)


@contextmanager
def halting(stop: threading.Event) -> Iterator[threading.Event]:
    """An event that ends one work: set when ``stop`` is, but not the other way round."""
    halt = threading.Event()
    if stop.is_set():  # at once: a short work would be over before anybody looks
        halt.set()
    with waking(stop, halt.set):
        yield halt


@contextmanager
def waking(halt: threading.Event, *wakers: Callable[[], None]) -> Iterator[None]:
    """Call ``wakers`` when ``halt`` is set: threads may be blocked in a pipe or a slow upload."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(_POLL):
            if halt.is_set():
                for wake in wakers:
                    wake()
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
