"""Several works at once on one rclone, in one memory: each ends its own requests and nobody else's.

A request that blocks is an upload into a FIFO that nobody reads: rclone waits in open(2).
"""

from __future__ import annotations

import gc
import http.client
import itertools
import mmap
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from offsite import pipeline, seal
from offsite.budget import Budget
from offsite.config import Provider
from offsite.errors import ConfigError, ProviderError, StoppedError
from offsite.pipeline import SealJob
from offsite.rclone.http import Plane
from offsite.remote import RcloneRemote, Retry
from offsite.slots import Arena, Slots, Span
from tests import repo

FOREVER = 300.0  # seconds; what is ended takes half of one
ONCE = Retry(tries=1, timeout=FOREVER)


@contextmanager
def started(folder: Path, retry: Retry = ONCE) -> Iterator[RcloneRemote]:
    """A local folder, written to in place."""
    remote = RcloneRemote.start(
        Provider("prov", str(folder)),
        rclone_config=None,
        rclone_flags=("--inplace",),
        stop=threading.Event(),
        on_retry=lambda *_: None,
        retry=retry,
    )
    with closing(remote):
        yield remote


class Blocked:
    """A call that does not come back until something ends it."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.error: Exception | None = None
        self._call = call
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._call()
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.error = error

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def ended(self) -> Exception | None:
        """What ended it; it must have come soon."""
        self._thread.join(repo.LONG)
        assert not self.alive, "nobody ended it"
        return self.error


def blocked(remote: RcloneRemote, folder: Path, name: str) -> Blocked:
    """A large upload that hangs in the middle."""
    os.mkfifo(folder / name)
    call = Blocked(lambda: remote.put(name, bytes(3 << 20), {}))
    server = remote._connections.planes().data
    repo.wait_for(lambda: bool(server._busy))
    time.sleep(0.3)
    assert call.alive
    return call


def share(remote: RcloneRemote, halt: threading.Event | None = None) -> RcloneRemote:
    return remote.share(halt or threading.Event(), lambda *_: None)


def check_works(remote: RcloneRemote, name: str) -> None:
    remote.put(name, b"some bytes", {})
    assert remote.get(name, limit=100) == b"some bytes"
    assert name in [entry.name for entry in remote.list("")]


def calls_of(remote: RcloneRemote) -> list[Callable[[], object]]:
    return [
        lambda: remote.put("c", b"x", {}),
        lambda: remote.get("a", limit=100),
        lambda: remote.get_into("a", memoryview(bytearray(100))),
        lambda: remote.list(""),
        lambda: remote.stat("a"),
        lambda: remote.delete("a"),
    ]


def test_a_work_ends_its_own_requests(tmp_path: Path) -> None:
    with started(tmp_path) as remote:
        one, other = share(remote), share(remote)
        first, second = blocked(one, tmp_path, "fifo-1"), blocked(other, tmp_path, "fifo-2")
        check_works(one, "a")
        one.close()
        error = first.ended()
        assert isinstance(error, ProviderError)
        assert "cannot store fifo-1 on prov" in str(error)
        check_works(other, "b")
        check_works(remote, "c")
        assert second.alive
        other.close()
        assert isinstance(second.ended(), ProviderError)
        check_works(remote, "d")
        with closing(share(remote)) as new:
            check_works(new, "e")


def test_a_work_that_is_over_can_do_nothing_more(tmp_path: Path) -> None:
    with started(tmp_path) as remote:
        check_works(remote, "a")
        used, unused = share(remote), share(remote)
        check_works(used, "b")
        for one in (used, unused):
            one.close()
            one.close()
            for call in calls_of(one):
                with pytest.raises(ProviderError, match="are closed already"):
                    call()
            assert one.sample("a", 10) == 0
        check_works(remote, "a")
        assert not (tmp_path / "c").exists()


def test_a_work_that_is_stopped_before_it_has_its_connections(tmp_path: Path) -> None:
    """^C comes between the look at the event and the request: no provider has failed."""
    with started(tmp_path) as remote:
        halt = threading.Event()
        one = remote.share(halt, lambda *_: None)

        def stop() -> object:
            halt.set()
            one.close()
            return one._connections.planes()

        with pytest.raises(StoppedError):
            one._requests.insist("store", "x", stop)


def test_the_end_of_rclone_ends_all_works(tmp_path: Path) -> None:
    with started(tmp_path) as remote:
        one = share(remote)
        call = blocked(one, tmp_path, "fifo")
    assert isinstance(call.ended(), ProviderError)
    with pytest.raises(ProviderError, match="closed already"):
        one.get("a", limit=1)
    one.close()


def kill(remote: RcloneRemote) -> None:
    child = remote._server._child
    assert child is not None
    os.kill(child.pid, signal.SIGKILL)
    child.wait(repo.LONG)


def test_rclone_dies_and_all_works_go_on(tmp_path: Path) -> None:
    with started(tmp_path) as remote:
        one, other = share(remote), share(remote)
        for each in (remote, one, other):
            check_works(each, "a")
        kill(remote)
        for each in (one, other, remote):
            check_works(each, "b")
        gc.collect()  # a connection to the old one that was left open is told of now
        call = blocked(one, tmp_path, "fifo")
        one.close()
        assert isinstance(call.ended(), ProviderError)
        check_works(other, "c")
        kill(remote)
        check_works(other, "d")
        with pytest.raises(ProviderError, match="are closed already"):
            one.get("d", limit=100)
        other.close()


def test_rclone_dies_under_a_request(tmp_path: Path) -> None:
    """It is made again."""
    retry = Retry(tries=3, first_pause=0.05, longest_pause=0.1, timeout=FOREVER)
    with started(tmp_path, retry) as remote, closing(share(remote)) as one:
        call = blocked(one, tmp_path, "fifo")
        (tmp_path / "fifo").unlink()
        kill(remote)
        assert call.ended() is None
        assert (tmp_path / "fifo").stat().st_size == 3 << 20


# --- one connection -------------------------------------------------------------------------------


@contextmanager
def saying(folder: Path, answer: bytes) -> Iterator[Plane]:
    """A server that says this much to everybody, and no more."""
    path, taken = str(folder / "socket"), []
    with closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind(path)
        listener.listen(5)

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                taken.append(connection)
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        plane = Plane(path)
        try:
            yield plane
        finally:
            plane.close()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def read(plane: Plane) -> bytes:
    with plane.request("GET", "/x", timeout=FOREVER) as response:
        return response.read()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


@pytest.mark.parametrize("answer", [b"", HEAD, HEAD + b"01234"])
def test_abort_breaks_a_blocked_read(short_path: Path, answer: bytes) -> None:
    with saying(short_path, answer) as plane:
        calls = [Blocked(lambda: read(plane)) for _ in range(3)]
        repo.wait_for(lambda: len(plane._busy) == 3)
        time.sleep(0.3)
        plane.abort()
        for call in calls:
            assert isinstance(call.ended(), OSError | http.client.HTTPException)
        with pytest.raises(ConnectionAbortedError):
            read(plane)


def test_close_lets_a_request_come_to_its_end(short_path: Path) -> None:
    with saying(short_path, HEAD + b"01234") as plane:
        call = Blocked(lambda: read(plane))
        repo.wait_for(lambda: len(plane._busy) == 1)
        plane.close()
        time.sleep(0.3)
        assert call.alive
        plane.abort()
        assert call.ended() is not None


def test_abort_does_not_touch_another_plane(short_path: Path) -> None:
    with saying(short_path, HEAD + b"0123456789") as plane:
        assert read(plane) == b"0123456789"
        other = Plane(plane.path)
        with other.request("GET", "/x", timeout=FOREVER) as response:
            plane.abort()
            assert response.read() == b"0123456789"
        other.abort()


# --- memory ---------------------------------------------------------------------------------------

PAGE = mmap.PAGESIZE


def all_of(slots: Slots) -> list[Span]:
    halt = threading.Event()
    return [slots.take(halt) for _ in range(slots.count)]


def check_apart(spans: list[Span], size: int) -> None:
    """They are inside of so many bytes, and none is in another."""
    ends = sorted((span.start, span.start + span.length) for span in spans)
    assert ends[0][0] >= 0
    assert ends[-1][1] <= size
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))


@pytest.mark.parametrize("size", [8 * PAGE, 20 * PAGE + 5, 3 * PAGE])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_parts_of_an_arena(size: int, count: int) -> None:
    arena = Arena(size)
    parts = arena.parts(count)
    assert len(parts) == count
    spans = [Span(part.start, part.size) for part in parts]
    check_apart(spans, size)
    assert size - sum(span.length for span in spans) < count * PAGE + PAGE
    assert all(span.start % PAGE == span.length % PAGE == 0 < span.length for span in spans)
    slots = [span for part in parts for span in all_of(Slots(part, 0, part.size // PAGE, 100))]
    check_apart(slots, size)
    for number, span in enumerate(slots, 1):
        arena.view(span)[:] = bytes([number]) * span.length
    for number, span in enumerate(slots, 1):
        assert bytes(parts[-1].view(span)) == bytes([number]) * 100
    with pytest.raises(ValueError, match="do not fit"):
        Slots(parts[-1], 0, parts[-1].size // PAGE + 1, PAGE)
    assert (arena.start, arena.size) == (0, size)


def test_parts_of_a_part() -> None:
    inner = [each for part in Arena(16 * PAGE).parts(2) for each in part.parts(3)]
    spans = [Span(part.start, part.size) for part in inner]
    assert [span.length for span in spans] == [2 * PAGE] * 6
    check_apart(spans, 16 * PAGE)


def test_parts_of_an_engine() -> None:
    """Each cuts its own share, and the workers write where they are told."""
    budget = Budget(workers=2, arena=33 * PAGE + 7, limit=1 << 30)
    keys = repo.Keys()
    with pipeline.sealing(budget, keys.author.chunks, 3) as engine:
        parts = engine.parts(2)
        assert [part.budget.arena for part in parts] == [16 * PAGE] * 2
        cuts = [part.cut(2 * PAGE, 3 * PAGE - 9) for part in parts]
        assert [(plain.count, sealed.count) for plain, sealed in cuts] == [(3, 3)] * 2
        spans = [span for cut in cuts for slots in cut for span in all_of(slots)]
        check_apart(spans, 33 * PAGE + 7)
        with pytest.raises(ConfigError, match="too small for chunks of this size"):
            parts[1].cut(9 * PAGE, 8 * PAGE)
        assert engine.cut(9 * PAGE, 8 * PAGE)[0].count == 1
        bodies = [repo.noise(PAGE, number) for number in range(2)]
        jobs = []
        for part, (plain, sealed), body in zip(
            parts, [part.cut(2 * PAGE, 3 * PAGE) for part in parts], bodies, strict=True
        ):
            halt = threading.Event()
            slot = plain.take(halt).head(len(body))
            part.arena.view(slot)[:] = body
            jobs.append((part, SealJob(slot, sealed.take(halt), 0, ())))
        with ThreadPoolExecutor(2) as crew:
            facts = list(crew.map(lambda job: job[0].workers.call(job[1], threading.Event()), jobs))
        identities = keys.keyring().identities
        for (part, job), fact, body in zip(jobs, facts, bodies, strict=True):
            into = memoryview(bytearray(PAGE))
            stored = part.arena.view(job.sealed.head(fact.size))
            assert seal.open_chunk(stored, into, identities) == PAGE
            assert into == body
