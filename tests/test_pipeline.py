"""The data path through real worker processes: order, boundaries, and everything that may die."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import xxhash

from offsite import pipeline, repository
from offsite.budget import Budget
from offsite.errors import (
    ConfigError,
    IntegrityError,
    NoKeyError,
    OffsiteError,
    ProviderError,
    StoppedError,
)
from offsite.manifest import Manifest, Receipt
from offsite.mirror import Mirror
from offsite.pipeline import Download, Engine, Upload
from offsite.progress import Silent
from offsite.seal import sealed_bound
from offsite.sources import Sources
from offsite.zfs.stream import Follower
from tests import repo
from tests.repo import Keys, Recorder
from tests.storage.memory import MemoryRemote

KEYS = Keys()
SIZE = repo.CHUNK
BUDGET = repo.BUDGET


@dataclass
class Feed:
    """A source of bytes as a pipe gives them: in pieces, and nothing more once killed.

    ``at`` calls its function before the byte of that position is given; ``endless`` blocks at the
    end, like a zfs send that hangs, until it is killed, and calls ``hangs`` before that.
    """

    data: bytes
    piece: int = 1000
    endless: bool = False
    at: Mapping[int, Callable[[], None]] = field(default_factory=dict)
    hangs: Callable[[], None] = lambda: None
    given: int = 0
    killed: threading.Event = field(default_factory=threading.Event)

    def readinto(self, buffer: memoryview) -> int:
        for place, happens in self.at.items():
            if self.given <= place < self.given + self.piece:
                happens()
        if self.killed.is_set():
            return 0
        piece = self.data[self.given : self.given + min(self.piece, len(buffer))]
        if not piece and self.endless:
            self.hangs()
            assert self.killed.wait(5 * repo.LONG), "nobody woke the reader"
        buffer[: len(piece)] = piece
        self.given += len(piece)
        return len(piece)

    def kill(self) -> None:
        self.killed.set()


class Failing(MemoryRemote):
    """A provider that takes ``puts`` chunks, then fails; each put takes ``seconds``."""

    def __init__(self, name: str, puts: int, seconds: float = 0) -> None:
        super().__init__(name)
        self.seconds = seconds
        self._left = puts
        self._taking = threading.Lock()

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        time.sleep(self.seconds)
        with self._taking:
            if self._left == 0:
                raise ProviderError(f"cannot store {path} on {self.name}: disk full")
            self._left -= 1
        super().put(path, body, digests)


def data_of(size: int, piece: int = 40 * SIZE) -> bytes:
    """A valid stream of exactly ``size`` bytes, if that is enough for its records."""
    room = size - 312 * 3
    payloads = []
    while room > 0:
        take = min(piece, room - 312)
        payloads.append(repo.noise(take, seed=room))
        room -= take + 312
    data = repo.stream(77, payloads)
    assert len(data) == size
    return data


@contextmanager
def uploading(
    remotes: Sequence[MemoryRemote],
    *,
    chunk_size: int = SIZE,
    budget: Budget = BUDGET,
    progress: Silent | None = None,
) -> Iterator[Upload]:
    recipients = KEYS.author.chunks
    with pipeline.sealing(budget, recipients, 3) as engine:
        mirror = Mirror(remotes, in_flight=2, progress=progress or Silent())
        try:
            bound = sealed_bound(chunk_size, recipients)
            yield Upload(repo.ID, chunk_size, bound, engine, mirror)
        finally:
            mirror.close()
    repo.settle()


def stored(
    upload: Upload, feed: Feed, halt: threading.Event | None = None, *, follow: bool = True
) -> list[Receipt]:
    follower = Follower()
    source = closing(pipeline.store(feed, follower, upload, halt or threading.Event(), Silent()))
    with source as receipts:
        done = list(receipts)
    if follow:
        follower.finish()
    return done


def manifest_of(receipts: Sequence[Receipt], chunk_size: int = SIZE) -> Manifest:
    length = sum(receipt.length for receipt in receipts)
    head = msgspec.structs.replace(repo.head(repo.snapshot()), chunk_size=chunk_size)
    return Manifest(
        format=1,
        head=head,
        finished="2026-01-17T12:00:00Z",
        chunks=len(receipts),
        stream_bytes=length,
        stored_bytes=sum(receipt.size for receipt in receipts),
        indexes=[],
    )


@dataclass
class Read:
    """What came out of a fetch before it ended."""

    pieces: list[bytes] = field(default_factory=list)
    told: Recorder = field(default_factory=Recorder)


def read_back(
    remotes: Sequence[MemoryRemote],
    receipts: Sequence[Receipt],
    *,
    into: Read | None = None,
    chunk_size: int = SIZE,
    budget: Budget = BUDGET,
    each: Callable[[int], None] = lambda _: None,
    on_workers: Callable[[list[int]], None] = lambda _: None,
    halt: threading.Event | None = None,
    keys: Keys = KEYS,
) -> Read:
    """Fetch everything; ``each`` is called with the number of every piece that came."""
    read = into or Read()
    with pipeline.opening(budget, keys.keyring().identities) as engine:
        on_workers(pids(engine))
        sources = Sources(remotes, read.told)
        download = Download(manifest_of(receipts, chunk_size), receipts, sources, engine)
        with closing(pipeline.fetch(download, halt or threading.Event(), read.told)) as pieces:
            for number, piece in enumerate(pieces):
                read.pieces.append(bytes(piece))
                each(number)
    repo.settle()
    return read


def pids(engine: Engine[Any, Any]) -> list[int]:
    found = [process.pid for process in engine.workers._processes]
    assert None not in found
    return [pid for pid in found if pid is not None]


def kill(*workers: int) -> None:
    for pid in workers:
        os.kill(pid, signal.SIGKILL)


@contextmanager
def soon() -> Iterator[None]:
    """It ends in time, and no thread is left."""
    with repo.soon():
        yield
        repo.settle()


# --- both ways ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "size",
    [
        1248,
        SIZE - 1,
        SIZE,
        SIZE + 1,
        2 * SIZE - 1,
        2 * SIZE,
        2 * SIZE + 1,
        20 * SIZE,
        20 * SIZE + 7,
    ],
)
@pytest.mark.parametrize("piece", [997, SIZE, 3 * SIZE])
def test_what_is_stored_comes_back(size: int, piece: int) -> None:
    data, remote = data_of(size), MemoryRemote()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data, piece))
    assert [receipt.number for receipt in receipts] == list(range(-(-size // SIZE)))
    assert [receipt.offset for receipt in receipts] == list(range(0, size, SIZE))
    assert {receipt.length for receipt in receipts[:-1]} <= {SIZE}
    assert sum(receipt.length for receipt in receipts) == size
    for receipt in receipts:
        body = remote.objects[
            repository.object_path(repo.ID, f"chunk-{receipt.number:08d}.zfs.zst.age")
        ]
        assert (receipt.size, receipt.sha256) == (len(body), hashlib.sha256(body).hexdigest())
        plain = data[receipt.offset : receipt.offset + receipt.length]
        assert receipt.plain_xxh128 == xxhash.xxh3_128_hexdigest(plain)
    assert len(remote.objects) == len(receipts)
    read = read_back([remote], receipts)
    assert [len(piece) for piece in read.pieces] == [receipt.length for receipt in receipts]
    assert b"".join(read.pieces) == data


@pytest.mark.parametrize("chunk_size", [1, 1000, SIZE + 1, 3 * SIZE - 1])
def test_chunk_sizes_that_are_no_whole_pages(chunk_size: int) -> None:
    data, remote = data_of(3 * SIZE if chunk_size > 1 else 1300), MemoryRemote()
    with uploading([remote], chunk_size=chunk_size) as upload:
        receipts = stored(upload, Feed(data))
    assert {receipt.length for receipt in receipts[:-1]} == {chunk_size}
    assert 0 < receipts[-1].length <= chunk_size
    read = read_back([remote], receipts, chunk_size=chunk_size)
    assert b"".join(read.pieces) == data


def test_an_empty_source_makes_no_chunk() -> None:
    remote = MemoryRemote()
    with uploading([remote]) as upload:
        assert stored(upload, Feed(b""), follow=False) == []
    assert remote.objects == {}


def test_one_pair_of_slots_is_enough() -> None:
    budget = Budget(workers=1, arena=4 * SIZE, limit=1 << 30)
    data, remote = data_of(9 * SIZE), MemoryRemote()
    with uploading([remote], budget=budget) as upload:
        receipts = stored(upload, Feed(data))
    assert b"".join(read_back([remote], receipts, budget=budget).pieces) == data


def test_memory_for_not_even_one_chunk() -> None:
    budget = Budget(workers=1, arena=SIZE, limit=1 << 30)
    told = pytest.raises(ConfigError, match="MEMORY_LIMIT")
    with soon(), uploading([MemoryRemote()], budget=budget) as upload, told:
        stored(upload, Feed(data_of(SIZE)))


def test_hashes_a_provider_can_confirm_are_in_the_receipts() -> None:
    md5, none, sha1 = MemoryRemote("a", "md5"), MemoryRemote("b", None), MemoryRemote("c", "sha1")
    with uploading([md5, none, sha1]) as upload:
        receipts = stored(upload, Feed(data_of(3 * SIZE)))
    for receipt in receipts:
        assert sorted(receipt.hashes) == ["md5", "sha1"]
    assert md5.objects == none.objects == sha1.objects


def test_the_index_facts_are_the_follower_s() -> None:
    data = data_of(6 * SIZE, piece=SIZE)
    with uploading([MemoryRemote()]) as upload:
        receipts = stored(upload, Feed(data))
    plain = Follower()
    for receipt in receipts:
        chunk = memoryview(data)[receipt.offset : receipt.offset + receipt.length]
        plain.feed(chunk)
        mark = plain.mark(chunk)
        assert receipt.first_record == mark.first_record
        assert receipt.first_write == mark.first_write
        assert receipt.object_at == mark.object_at
        assert (receipt.seam is None) == (mark.seam is None)
        if receipt.seam and mark.seam:
            place = mark.seam.place
            assert (receipt.seam.begin, receipt.seam.end) == (place.begin, place.end)
            head = chunk[: max(place.end - receipt.offset, 0)]
            expected = xxhash.xxh3_128_hexdigest(head) if head else None
            assert receipt.seam.head_xxh128 == expected
            assert bytes.fromhex(receipt.seam.checksum) == mark.seam.checksum


class Jittery(MemoryRemote):
    """Answers in an order of its own: early chunks are the slowest."""

    def get_into(self, path: str, into: memoryview) -> int:
        time.sleep(0.002 * (7 - int(path[-17:-12]) % 7))
        return super().get_into(path, into)

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        time.sleep(0.002 * (7 - int(path[-17:-12]) % 7))
        super().put(path, body, digests)


def test_order_is_the_stream_s_whatever_is_ready_first() -> None:
    budget = Budget(workers=2, arena=40 * SIZE, limit=1 << 30)
    data, remote = data_of(40 * SIZE), Jittery()
    with uploading([remote], budget=budget) as upload:
        receipts = stored(upload, Feed(data, 3 * SIZE))
    assert [receipt.number for receipt in receipts] == list(range(40))
    assert b"".join(read_back([remote], receipts, budget=budget).pieces) == data


class HeldUp(MemoryRemote):
    """Its third chunk takes until it is let go."""

    def __init__(self) -> None:
        super().__init__("held up")
        self.free = threading.Event()

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        if path.endswith(repository.chunk_name(2)):
            assert self.free.wait(5 * repo.LONG)
        super().put(path, body, digests)


def test_little_is_stored_behind_a_chunk_that_is_stuck() -> None:
    """After a power loss only what has a receipt is found again, and receipts come in order."""
    budget = Budget(workers=2, arena=40 * SIZE, limit=1 << 30)
    data, remote = data_of(400 * SIZE), HeldUp()
    behind = 0

    def look() -> None:
        nonlocal behind
        deadline = time.monotonic() + repo.LONG
        while time.monotonic() < deadline:
            before, behind = behind, len(remote.objects)
            if behind == before and behind > 2:
                break
            time.sleep(0.3)
        remote.free.set()

    looking = threading.Thread(target=look)
    with uploading([remote], budget=budget) as upload:
        plain, sealed = upload.engine.cut(upload.chunk_size, upload.sealed_size)
        looking.start()
        receipts = stored(upload, Feed(data))
    looking.join()
    assert plain.count == sealed.count
    assert 2 < behind <= 2 + budget.workers + 1 + sealed.count
    assert b"".join(read_back([remote], receipts, budget=budget).pieces) == data


# --- providers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("puts", [0, 1, 7])
def test_a_provider_that_fails_is_dropped_and_the_other_finishes(puts: int) -> None:
    good, bad, told = MemoryRemote("good"), Failing("bad", puts), Recorder()
    data = data_of(20 * SIZE)
    with soon(), uploading([bad, good], progress=told) as upload:
        receipts = stored(upload, Feed(data))
        assert [remote.name for remote in upload.mirror.live] == ["good"]
    assert list(told.drops) == list(upload.mirror.failed) == ["bad"]
    assert "disk full" in told.drops["bad"]
    assert len(bad.objects) == puts
    assert b"".join(read_back([good], receipts).pieces) == data


@pytest.mark.parametrize("puts", [0, 5])
@pytest.mark.parametrize("endless", [False, True])
def test_all_providers_failing(puts: int, *, endless: bool) -> None:
    """Also while zfs send hangs: what happened is told, not waited with."""
    with soon(), uploading([Failing("a", puts), Failing("b", puts)]) as upload:
        feed = Feed(data_of(20 * SIZE), endless=endless)
        with pytest.raises(ProviderError, match="no provider is left to write to") as told:
            stored(upload, feed, follow=False)
    for name in ("a", "b"):
        assert re.search(rf"\b{name}: cannot store \S+ on {name}: disk full", str(told.value))
    assert told.value.hint is not None
    assert "run the same command again" in told.value.hint


class DamagedOnce(MemoryRemote):
    """Every object's first transfer arrives damaged, or fails."""

    def __init__(self, objects: dict[str, bytes], error: str | None) -> None:
        super().__init__("flaky")
        self.objects = objects
        self.error = error
        self.seen: set[str] = set()

    def get_into(self, path: str, into: memoryview) -> int:
        size = super().get_into(path, into)
        if path not in self.seen:
            self.seen.add(path)
            if self.error is not None:
                raise ProviderError(self.error)
            into[size // 2] ^= 1
        return size


@pytest.mark.parametrize("error", [None, "connection reset"])
def test_a_transfer_damaged_once_is_made_again(error: str | None) -> None:
    data, remote = data_of(9 * SIZE), MemoryRemote()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data))
    flaky = DamagedOnce(remote.objects, error)
    assert b"".join(read_back([flaky], receipts).pieces) == data
    assert len(flaky.seen) == 9


def test_a_transfer_damaged_each_time_ends_the_restore() -> None:
    data, remote = data_of(9 * SIZE), MemoryRemote()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data))
    path = repository.object_path(repo.ID, repository.chunk_name(5))
    remote.objects[path] = repo.damaged(remote.objects[path])
    read = Read()
    with soon(), pytest.raises(IntegrityError, match="chunk-00000005"):
        read_back([remote], receipts, into=read)
    whole = b"".join(read.pieces)
    assert whole == data[: len(whole)]
    assert len(whole) <= 5 * SIZE


def test_the_wrong_identity() -> None:
    remote = MemoryRemote()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data_of(9 * SIZE)))
    read = Read()
    with soon(), pytest.raises(NoKeyError):
        read_back([remote], receipts, into=read, keys=Keys())
    assert read.pieces == []


# --- workers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", [0, 7 * SIZE])
def test_a_killed_worker_s_chunk_is_done_by_another(place: int) -> None:
    data, remote = data_of(20 * SIZE), MemoryRemote()
    with soon(), uploading([remote]) as upload:
        first = pids(upload.engine)[0]
        receipts = stored(upload, Feed(data, at={place: lambda: kill(first)}))
    assert len(receipts) == 20
    workers: list[int] = []
    with soon():
        read = read_back(
            [remote],
            receipts,
            on_workers=workers.extend,
            each=lambda number: kill(workers[0]) if number == 3 else None,
        )
    assert b"".join(read.pieces) == data


@pytest.mark.parametrize("place", [0, 7 * SIZE])
@pytest.mark.parametrize("endless", [False, True])
def test_all_workers_killed(place: int, *, endless: bool) -> None:
    with soon(), uploading([MemoryRemote()]) as upload:
        workers = pids(upload.engine)
        feed = Feed(data_of(20 * SIZE), at={place: lambda: kill(*workers)}, endless=endless)
        with pytest.raises(OffsiteError, match="every worker process was killed") as told:
            stored(upload, feed, follow=False)
    assert told.value.hint is not None
    assert "MEMORY_LIMIT" in told.value.hint


def test_all_workers_killed_in_a_restore() -> None:
    data, remote = data_of(20 * SIZE), MemoryRemote()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data))
    read = Read()
    workers: list[int] = []

    def each(number: int) -> None:
        if number == 3:
            kill(*workers)

    with soon(), pytest.raises(OffsiteError, match="every worker process was killed"):
        read_back([remote], receipts, into=read, on_workers=workers.extend, each=each)
    whole = b"".join(read.pieces)
    assert whole == data[: len(whole)]


def test_workers_end_with_their_engine() -> None:
    with uploading([MemoryRemote()]) as upload:
        workers = pids(upload.engine)
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# --- stopping -------------------------------------------------------------------------------------


def test_halt_in_the_middle_of_a_backup() -> None:
    halt, remote = threading.Event(), Failing("slow", -1, seconds=0.01)
    with soon(), uploading([remote]) as upload:
        feed = Feed(data_of(400 * SIZE), at={40 * SIZE: halt.set})
        with pytest.raises(StoppedError):
            stored(upload, feed, halt, follow=False)
    assert feed.given < 100 * SIZE
    assert 30 < len(remote.objects) < 100


def test_halt_wakes_a_source_that_blocks_for_ever() -> None:
    halt = threading.Event()
    with soon(), uploading([MemoryRemote()]) as upload:
        timer = threading.Timer(0.3, halt.set)
        feed = Feed(data_of(5 * SIZE)[:-1], endless=True, hangs=timer.start)
        with pytest.raises(StoppedError):
            stored(upload, feed, halt, follow=False)
        timer.join()
    assert feed.killed.is_set()


class Stuck(MemoryRemote):
    """A provider whose requests hang after the first ``good`` ones, until it is closed."""

    def __init__(self, objects: dict[str, bytes], good: int) -> None:
        super().__init__("stuck")
        self.objects = objects
        self._requests = iter(range(10**6))
        self._good = good
        self._closed = threading.Event()

    def _hang(self) -> None:
        if next(self._requests) >= self._good:
            assert self._closed.wait(5 * repo.LONG), "nobody ended the request"
            raise StoppedError("stopped")

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        self._hang()
        super().put(path, body, digests)

    def get_into(self, path: str, into: memoryview) -> int:
        self._hang()
        return super().get_into(path, into)

    def close(self) -> None:
        self._closed.set()


@pytest.mark.parametrize("good", [0, 5])
def test_halt_ends_uploads_in_flight(good: int) -> None:
    halt = threading.Event()
    timer = threading.Timer(0.3, halt.set)
    with soon(), uploading([Stuck({}, good)]) as upload:
        timer.start()  # not before the workers are forked
        with pytest.raises(StoppedError):
            stored(upload, Feed(data_of(20 * SIZE)), halt, follow=False)
        timer.join()


@pytest.mark.parametrize("good", [0, 5])
def test_halt_ends_downloads_in_flight(good: int) -> None:
    remote, halt = MemoryRemote(), threading.Event()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data_of(20 * SIZE)))
    timer = threading.Timer(0.3, halt.set)
    stuck = Stuck(remote.objects, good)
    with soon(), pytest.raises(StoppedError):
        read_back([stuck], receipts, halt=halt, on_workers=lambda _: timer.start())
    timer.join()


def test_halt_before_the_first_byte() -> None:
    halt, remote = threading.Event(), MemoryRemote()
    halt.set()
    with soon(), uploading([remote]) as upload, pytest.raises(StoppedError):
        stored(upload, Feed(data_of(5 * SIZE)), halt)
    assert remote.objects == {}


def test_a_killed_source_is_not_taken_for_its_end() -> None:
    """It ends at a chunk's boundary, just as it was killed: no receipt says that this was all."""
    halt = threading.Event()

    def stop() -> None:
        halt.set()
        feed.kill()

    feed = Feed(data_of(5 * SIZE), piece=SIZE, at={2 * SIZE: stop})
    with soon(), uploading([MemoryRemote()]) as upload, pytest.raises(StoppedError):
        stored(upload, feed, halt, follow=False)


def test_halt_in_the_middle_of_a_restore() -> None:
    data, remote = data_of(40 * SIZE), MemoryRemote()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data))
    halt, read = threading.Event(), Read()
    with soon(), pytest.raises(StoppedError):
        read_back(
            [remote],
            receipts,
            into=read,
            halt=halt,
            each=lambda number: halt.set() if number == 9 else None,
        )
    whole = b"".join(read.pieces)
    assert whole == data[: len(whole)]
    assert 10 <= len(read.pieces) <= 14  # three more are in the slots


def test_a_reader_that_goes_away() -> None:
    """zfs receive failed: the restore leaves the loop, and nothing goes on behind its back."""
    remote = MemoryRemote()
    with uploading([remote]) as upload:
        receipts = stored(upload, Feed(data_of(20 * SIZE)))
    halt = threading.Event()

    def each(number: int) -> None:
        if number == 2:
            raise ZeroDivisionError

    with soon(), pytest.raises(ZeroDivisionError):
        read_back([remote], receipts, halt=halt, each=each)


def test_a_writer_that_goes_away() -> None:
    """The index could not be written: the backup leaves the loop."""
    feed = Feed(data_of(20 * SIZE), endless=True)
    with (
        soon(),
        uploading([MemoryRemote()]) as upload,
        closing(pipeline.store(feed, Follower(), upload, threading.Event(), Silent())) as receipts,
    ):
        assert next(receipts).number == 0


def test_a_stream_that_is_none_ends_the_run() -> None:
    told = pytest.raises(OffsiteError, match="not a ZFS send stream at byte 0")
    with soon(), uploading([MemoryRemote()]) as upload, told:
        stored(upload, Feed(b"x" * 10 * SIZE))
