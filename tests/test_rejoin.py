"""An interrupted restore goes on from any place: the right stream, of no chunk too many."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offsite import pipeline, repository
from offsite.errors import IntegrityError, ZfsError
from offsite.pipeline import Download
from offsite.progress import Silent
from offsite.rejoin import Rest, first_chunk
from offsite.sources import Sources
from offsite.zfs import drr, nvlist
from offsite.zfs.records import HEADER_SIZE, Feature, Kind
from offsite.zfs.token import Token
from offsite.zfs.walk import NoSeamError
from tests import interrupted, repo
from tests.interrupted import SNAPSHOT, Machine, Pool, Provider, files, stream_of
from tests.test_zfs_resuming import expected, start_of, tokens
from tests.thorough import cases, examples
from tests.zfs_streams import (
    WRITES,
    Record,
    features_of,
    place,
    resumed,
    split,
    stream_records,
    summed,
)

Place = tuple[int, int]
TO_THE_END = (1 << 64) - 1


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with interrupted.machine(tmp_path_factory.mktemp("machine")) as made:
        yield made


class Read(Provider):
    """Remembers which chunks were fetched."""

    def __init__(self) -> None:
        super().__init__("one")
        self.fetched: list[int] = []

    def get_into(self, path: str, into: memoryview) -> int:
        self.fetched.append(int(path[-20:-12]))
        return super().get_into(path, into)


@contextmanager
def downloading(machine: Machine, remote: Provider) -> Iterator[Download]:
    """The one backup there, ready to be restored."""
    (done,) = machine.standing([remote]).complete
    identities = machine.keyring.identities
    with pipeline.opening(repo.BUDGET, identities) as engine:
        receipts = repository.load_receipts(done.manifest, [remote], machine.keyring)
        yield Download(done.manifest, receipts, Sources([remote], Silent()), engine)
    repo.settle()


def rest_of(download: Download, where: Place) -> Rest:
    token = Token(*where, 0, SNAPSHOT.guid, SNAPSHOT.full_name)
    return Rest(download, token, first_chunk(download.receipts, token))


def streamed(rest: Rest) -> bytes:
    return b"".join(bytes(piece) for piece in rest.stream(threading.Event(), Silent()))


def check(parts: list[bytes], download: Download, remote: Read, where: Place) -> None:
    """It is what ``zfs send -t`` gives, checksums proved, from no other chunks than it must."""
    remote.fetched.clear()
    rest = rest_of(download, where)
    found = streamed(rest)
    assert found == expected(parts, where)
    (begin, payload), *records = drr.read([found])
    assert isinstance(begin, drr.Begin)
    assert Feature(begin.versioninfo >> 2) == features_of(parts[0]) | Feature.RESUMING
    pairs = nvlist.decode(payload)
    assert (pairs["resume_object"], pairs["resume_offset"]) == where
    assert isinstance(records[-1][0], drr.End)
    assert {*remote.fetched} <= needed(parts, download, where)
    assert rest.first in {0, *needed(parts, download, where)}


def needed(parts: list[bytes], download: Download, where: Place) -> set[int]:
    """BEGIN's chunks, those of what governs the place or the start, and all from about there on.

    About: a record whose header is cut by the end of a chunk is found behind the one before it.
    """
    at = [0, *itertools.accumulate(map(len, parts))]
    offsets = [receipt.offset for receipt in download.receipts]

    def chunk(position: int) -> int:
        return bisect.bisect_right(offsets, position) - 1

    def chunks(first: int, last: int) -> set[int]:
        """Of these parts and all between."""
        return {*range(chunk(at[first]), chunk(at[last + 1] - 1) + 1)}

    start = start_of(parts, where)
    kinds = WRITES if where[1] else {Kind.OBJECT}
    found = [n for n in range(1, start + 1) if place(parts[n]).kind in kinds]
    whole = [n for n in found if chunk(at[n]) == chunk(at[n] + HEADER_SIZE - 1)]
    begins = whole[-1] if whole else 0
    result = chunks(0, 0) | chunks(begins, len(parts) - 1)
    for kind, end in itertools.product((Kind.OBJECT, Kind.OBJECT_RANGE), (begins, start)):
        for n in [n for n in range(1, end) if parts[n][0] == kind][-2:]:
            data = next((m for m in range(n, len(parts)) if place(parts[m]).kind in WRITES), n)
            result |= chunks(n, data)
    return result


RAW = [
    Record(Kind.OBJECT_RANGE, 0, length=32),
    Record(Kind.FREEOBJECTS, 1, length=6),
    Record(Kind.OBJECT, 7, payload=b"a bonus!"),
    Record(Kind.FREE, 7, 1 << 30, length=TO_THE_END),
    Record(Kind.SPILL, 7, payload=b"unmodified!!", flags=4),
    *(Record(Kind.WRITE, 7, block << 17, repo.noise(300, block)) for block in (0, 2, 3, 5)),
    Record(Kind.OBJECT, 9, payload=b"no data!"),
    Record(Kind.OBJECT_RANGE, 32, length=32),
    Record(Kind.OBJECT, 40),
    Record(Kind.FREE, 40, 4 << 17, length=TO_THE_END),
    Record(Kind.SPILL, 40, payload=b"modified"),
    Record(Kind.WRITE_EMBEDDED, 40, 0, payload=b"embedded"),
    Record(Kind.WRITE_EMBEDDED, 40, 1 << 17, payload=b"embedded"),
    Record(Kind.WRITE, 40, 2 << 17, payload=repo.noise(2000, 9)),
    Record(Kind.WRITE, 40, 3 << 17, payload=repo.noise(40, 10)),
    Record(Kind.OBJECT, 41),
    Record(Kind.OBJECT_RANGE, 64, length=32),
    Record(Kind.OBJECT, 64),
    Record(Kind.WRITE, 64, 1 << 17, payload=repo.noise(40, 11)),
    Record(Kind.FREEOBJECTS, 65, length=7),
]
STREAMS = {"raw": stream_of(RAW), "plain": stream_of(files(3, 4, 100))}


@pytest.mark.parametrize(("name", "size"), cases(list(STREAMS), [150, 312, 401, 1000, 4000, 9000]))
def test_every_token(machine: Machine, tmp_path: Path, name: str, size: int) -> None:
    parts, remote = STREAMS[name], Read()
    machine.run(Pool(tmp_path / "pool", parts), remote, chunk_size=size)
    with downloading(machine, remote) as download:
        for where in tokens(parts):
            check(parts, download, remote, where)


@given(records=stream_records(), data=st.data())
@settings(
    max_examples=examples(8),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_token_of_any_stream(
    machine: Machine,
    tmp_path_factory: pytest.TempPathFactory,
    records: list[Record],
    data: st.DataObject,
) -> None:
    parts, remote = stream_of(records), Read()
    size = max(len(b"".join(parts)) // data.draw(st.integers(1, 20)), 80)
    machine.run(Pool(tmp_path_factory.mktemp("any") / "p", parts), remote, chunk_size=size)
    with downloading(machine, remote) as download:
        for where in tokens(parts):
            check(parts, download, remote, where)


@pytest.mark.parametrize("name", STREAMS)
def test_every_token_of_a_backup_that_was_interrupted(
    machine: Machine, tmp_path: Path, name: str
) -> None:
    """Some of its chunks have a surplus, which the search must not take for theirs."""
    parts, remote = STREAMS[name], Read()
    pool = Pool(tmp_path / "pool", parts)
    for most in (1300, 2900, 3300):
        pool.behave(most=most, status=1)
        with pytest.raises(ZfsError):
            machine.run(pool, remote, chunk_size=500)
    pool.behave()
    machine.run(pool, remote, chunk_size=500)
    with downloading(machine, remote) as download:
        assert sum(receipt.surplus > 0 for receipt in download.receipts) >= 2
        for where in tokens(parts):
            check(parts, download, remote, where)


def test_a_backup_that_went_on_with_other_records(machine: Machine, tmp_path: Path) -> None:
    """What zfs sends again need not be cut into the same records: the search finds them all."""
    parts, remote = STREAMS["plain"], Read()
    pool = Pool(tmp_path / "pool", parts)
    pool.behave(most=1500, status=1)
    with pytest.raises(ZfsError):
        machine.run(pool, remote, chunk_size=500)
    pool.behave()
    at = interrupted.seam_before(parts, 1500)
    record = place(parts[at])
    split_up = [
        bytes(Record(Kind.WRITE, record.object, record.offset + step, payload=repo.noise(32, step)))
        for step in (16384, 32768, 49152)
    ]
    assert place(parts[at + 1]).kind in WRITES
    other = split(summed([*parts[: at + 1], *split_up, *parts[at + 1 :]]))
    pool.rest(resumed(other, at))
    machine.run(pool, remote, chunk_size=500)
    assert machine.restored(remote) == b"".join(other)
    with downloading(machine, remote) as download:
        for where in tokens(other):
            check(other, download, remote, where)


@pytest.mark.parametrize(("name", "cut"), cases(list(STREAMS), [None, 3000, 6500, 9000]))
def test_objects_before_the_data_of_all_of_them(
    machine: Machine, tmp_path: Path, cut: int | None, name: str
) -> None:
    """As older senders write them: the objects of a batch first; also where the backup was cut off
    between these and their data, so that its receipts do not know where they are."""
    numbers = range(32, 44)
    records = [Record(Kind.OBJECT, number, payload=repo.noise(80, number)) for number in numbers]
    records += [
        Record(Kind.WRITE, number, at << 17, repo.noise(200, number + at))
        for number in numbers
        for at in (0, 1)
    ]
    if name == "raw":
        records.insert(0, Record(Kind.OBJECT_RANGE, 32, length=32))
    parts, remote = stream_of(records), Read()
    pool = Pool(tmp_path / "pool", parts)
    if cut:
        pool.behave(most=cut, status=1)
        with pytest.raises(ZfsError):
            machine.run(pool, remote, chunk_size=700)
        pool.behave()
    machine.run(pool, remote, chunk_size=700)
    governing = [Kind.OBJECT_RANGE, Kind.OBJECT] if name == "raw" else [Kind.OBJECT]
    with downloading(machine, remote) as download:
        unknown = [one for one in download.receipts if one.first_write and one.object_at is None]
        assert bool(unknown) == bool(cut)
        for where in tokens(parts):
            if where[1]:
                found = split(streamed(rest_of(download, where)))[1:]
                kinds = [place(part).kind for part in found[: len(governing) + 1]]
                assert kinds == [*governing, Kind.WRITE]
                assert place(found[len(governing) - 1]).object == where[0]
                assert found[len(governing)][:280] == parts[start_of(parts, where)][:280]


@pytest.mark.parametrize("where", [(7, 1 << 17), (8, 0), (99, 0), (40, 3), (7, 9 << 17)])
def test_a_place_that_is_not_there(machine: Machine, tmp_path: Path, where: Place) -> None:
    """Told before the first byte: what the target has stays as it is."""
    remote = Read()
    machine.run(Pool(tmp_path / "pool", STREAMS["raw"]), remote, chunk_size=500)
    with downloading(machine, remote) as download:
        rest = rest_of(download, where)
        with pytest.raises(NoSeamError, match=f"no such place: {where[0]}:{where[1]}") as told:
            next(rest.stream(threading.Event(), Silent()))
        assert "--restart" in str(told.value.hint)


@pytest.mark.parametrize("number", [0, 2, 6])
def test_a_damaged_chunk_is_told(machine: Machine, tmp_path: Path, number: int) -> None:
    """Of BEGIN, of what governs, of what follows: each is compared with its receipt."""
    remote = Read()
    machine.run(Pool(tmp_path / "pool", STREAMS["raw"]), remote, chunk_size=600)
    with downloading(machine, remote) as download:
        whole = streamed(rest_of(download, (7, 5 << 17)))
        assert number in remote.fetched
        path = repository.object_path(download.manifest.head.id, repository.chunk_name(number))
        remote.objects[path] = repo.damaged(remote.objects[path])
        found = b""
        pieces = rest_of(download, (7, 5 << 17)).stream(threading.Event(), Silent())
        with pytest.raises(IntegrityError, match=f"chunk {number} is not the one"):  # noqa: PT012
            for piece in pieces:
                found += bytes(piece)
        assert whole.startswith(found)
        assert found == b"" or number == 6
