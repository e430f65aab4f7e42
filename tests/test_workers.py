"""Worker processes, and how soon whoever waits for them is let go."""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from contextlib import closing
from typing import Any

import pytest

from offsite import pipeline, seal
from offsite import workers as workers_module
from offsite.errors import StoppedError
from offsite.workers import Workers
from tests import repo
from tests.storage.memory import MemoryRemote
from tests.test_pipeline import SIZE, Feed, data_of, soon, stored, uploading

LONG = 300.0  # seconds of work; nobody may wait for it


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def later(*events: threading.Event) -> None:
    for event in events:
        threading.Timer(0.3, event.set).start()


def test_a_halt_begins_no_job_and_waits_for_the_one_that_has_begun() -> None:
    halt, (ours, theirs) = threading.Event(), os.pipe()
    answers: list[str] = []

    def work(name: str) -> str:
        os.read(ours, 1)
        return name

    with closing(Workers(1, work)) as workers:
        first = threading.Thread(target=lambda: answers.append(workers.call("first", halt)))
        first.start()
        repo.wait_for(workers._idle.empty)
        later(halt)
        with pytest.raises(StoppedError):
            workers.call("second", halt)
        assert answers == []
        os.write(theirs, b"go")
        first.join()
        with pytest.raises(StoppedError):
            workers.call("third", halt)
        # Another work's is still done.
        assert workers.call("another", threading.Event()) == "another"
    assert answers == ["first"]
    os.close(ours)
    os.close(theirs)


def test_workers_that_have_hardly_begun_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGTERM then still finds the handler of the whole command (cli/stopping.py)."""
    really = workers_module._serve

    def serve(*arguments: Any) -> None:
        time.sleep(1)
        really(*arguments)

    monkeypatch.setattr(workers_module, "_serve", serve)
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    workers = Workers(2, nap)
    ending = threading.Thread(target=workers.close)
    try:
        ending.start()
        ending.join(repo.LONG)
        assert not ending.is_alive(), "it waits for workers that do not end"
    finally:
        signal.signal(signal.SIGTERM, before)
        for each in workers._processes:
            each.kill()


def test_a_stop_waits_for_nobody() -> None:
    stop = threading.Event()
    with soon(), closing(Workers(2, nap, stop)) as workers:
        later(stop)
        with pytest.raises(StoppedError):
            workers.call(LONG, threading.Event())


def test_a_stop_ends_a_backup_whose_chunks_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """As they do with COMPRESSION=19."""
    stop, halt = threading.Event(), threading.Event()
    monkeypatch.setattr(seal, "seal_chunk", lambda *_, **__: nap(LONG))
    monkeypatch.setattr(pipeline, "sealing", functools.partial(pipeline.sealing, stop=stop))
    with soon(), uploading([MemoryRemote()]) as upload:
        later(stop, halt)
        with pytest.raises(StoppedError):
            stored(upload, Feed(data_of(40 * SIZE)), halt, follow=False)
