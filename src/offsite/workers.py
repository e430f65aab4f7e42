"""Worker processes: the same work on several cores, without a GIL between them.

They are forked before the first thread starts and inherit what their task needs (slots, keys), so
nothing secret is ever pickled. A worker ends when its pipe closes, which the kernel does when the
main process dies, however it dies.
"""

from __future__ import annotations

import logging
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Generic, TypeVar, cast

from offsite.errors import OffsiteError, StoppedError

_POLL = 0.2  # seconds between looks at what may end the wait for a worker

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_FORK = multiprocessing.get_context("fork")


class Workers(Generic[Job, Answer]):
    """``count`` processes that each run ``task(job)``, one job at a time, until ``stop`` is set."""

    def __init__(
        self, count: int, task: Callable[[Job], Answer], stop: threading.Event | None = None
    ) -> None:
        self._stop = stop or threading.Event()
        pipes = [_FORK.Pipe() for _ in range(count)]
        self._idle: queue.SimpleQueue[int | None] = queue.SimpleQueue()
        self._ends = [ours for ours, _ in pipes]
        self._processes = [
            _FORK.Process(
                target=_serve,
                args=(theirs, [end for pair in pipes for end in pair if end is not theirs], task),
                daemon=True,
            )
            for _, theirs in pipes
        ]
        for number, process in enumerate(self._processes):
            process.start()
            self._idle.put(number)
        for _, theirs in pipes:
            theirs.close()
        self._alive = count
        self._lock = threading.Lock()

    def call(self, job: Job, halt: threading.Event) -> Answer:
        """Run ``task(job)`` in some worker; from any thread. Raises what the task raised.

        A worker that dies (out of memory, a kill) is given up and its job is done by another;
        OffsiteError when none is left. StoppedError once ``halt`` is set, but a job that has begun
        comes to its end: the memory that it works in may be another work's next. When all is to
        stop there is no next, and not even that is waited for; only ``close`` may follow.
        """
        while (number := self._await_idle(halt)) is not None:
            try:
                self._ends[number].send(job)
                answer, error = self._await_answer(number)
            except (EOFError, OSError):
                self._bury()
                continue
            self._idle.put(number)
            if error is not None:
                raise error
            return cast(Answer, answer)
        self._idle.put(None)
        raise OffsiteError(
            "every worker process was killed",
            hint="the machine may be out of memory: lower MEMORY_LIMIT or SHARD_SIZE",
        )

    def close(self) -> None:
        """End all workers; calls in flight raise."""
        for process in self._processes:
            process.kill()  # one that has just been forked may still have our handler of SIGTERM
        for process in self._processes:
            process.join()
        for end in self._ends:
            end.close()

    def _await_idle(self, halt: threading.Event) -> int | None:
        while not (halt.is_set() or self._stop.is_set()):
            try:
                return self._idle.get(timeout=_POLL)
            except queue.Empty:
                continue
        raise StoppedError("stopped")

    def _await_answer(self, number: int) -> tuple[Any, Exception | None]:
        end = self._ends[number]
        while not end.poll(_POLL):
            if self._stop.is_set():
                raise StoppedError("stopped")
        answer: tuple[Any, Exception | None] = end.recv()
        return answer

    def _bury(self) -> None:
        with self._lock:
            self._alive -= 1
            if self._alive == 0:
                self._idle.put(None)


def _serve(end: Connection, others: list[Connection], task: Callable[[Job], Answer]) -> None:
    # ^C reaches the whole group; the main process decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    logging.disable()  # only the main process may write where the log goes
    for other in others:
        other.close()
    while True:
        try:
            end.send(_attempt(task, end.recv()))
        except (EOFError, ConnectionError):  # the main process is gone, however it went
            return


def _attempt(task: Callable[[Job], Answer], job: Job) -> tuple[Answer | None, Exception | None]:
    try:
        return task(job), None
    except Exception as error:  # noqa: BLE001 - it is raised again in the main process
        return None, error
