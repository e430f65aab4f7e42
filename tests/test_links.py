"""Chains as providers hold them: looked at before the first byte, and written to files."""

from __future__ import annotations

import re
import shutil
import stat
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from offsite import links, pipeline, repository, tofile
from offsite.errors import IntegrityError, OffsiteError, StoppedError, UsageError
from offsite.links import Link, Wanted
from offsite.manifest import Base, Head
from offsite.pipeline import Engine, OpenJob
from offsite.progress import Silent
from offsite.repository import chunk_name, object_path
from tests import repo
from tests.repo import Keys, Recorder
from tests.storage.memory import MemoryRemote

KEYS = Keys()
IDS = [f"2026011{day}t120000-{day:016x}" for day in range(4)]


def stream(day: int, *, full: bool = False) -> bytes:
    made = bytearray(repo.stream(100 + day, [repo.noise(6000, day)]))
    struct.pack_into("<Q", made, 48, 99 + day if day and not full else 0)  # drr_fromguid
    return bytes(made)


STREAMS = [stream(day) for day in range(3)]


def head(day: int, *, full: bool = False) -> Head:
    base = None if full or not day else Base(99 + day, f"s{day - 1}", IDS[day - 1])
    about = repo.head(repo.snapshot(f"s{day}", 100 + day, 1000 + day), IDS[day])
    return msgspec.structs.replace(about, base=base)


def stores(*held: Sequence[int]) -> list[MemoryRemote]:
    """Providers that hold the backups of these days; that of day 0 is a full one."""
    made = [MemoryRemote(f"p{number}", "sha256") for number in range(len(held))]
    for day in sorted({day for days in held for day in days}):
        holders = [store for store, days in zip(made, held, strict=True) if day in days]
        repo.save(holders, KEYS.author, STREAMS[day], head(day))
    return made


def find(
    remotes: Sequence[MemoryRemote], point: str | None = None, told: Recorder | None = None
) -> tuple[Link, ...]:
    known = links.read(remotes, KEYS.keyring(), Recorder())
    wanted = Wanted(repo.DATASET, point)
    found = links.find(wanted, known, remotes, KEYS.keyring(), told or Recorder())
    repo.settle()
    return found


def refusal(remotes: Sequence[MemoryRemote], point: str | None = None) -> OffsiteError:
    with pytest.raises(OffsiteError) as caught:
        find(remotes, point)
    return caught.value


def lose(remote: MemoryRemote, day: int, name: str = chunk_name(0)) -> None:
    del remote.objects[object_path(IDS[day], name)]


def sources(chain: Sequence[Link]) -> list[dict[str, int]]:
    return [link.sources_of(link.receipts) for link in chain]


def test_each_link_from_whoever_has_it() -> None:
    chain = find(stores([0, 2], [1, 2]))
    assert [link.id for link in chain] == IDS[:3]
    assert [link.name for link in chain] == ["s0", "s1", "s2"]
    assert [[*one] for one in sources(chain)] == [["p0"], ["p1"], ["p0", "p1"]]


def test_what_one_provider_lacks_is_planned_from_the_other() -> None:
    one, two = stores([0], [0])
    lose(one, 0)
    lose(two, 0, chunk_name(1))
    lose(one, 0, "index-00001.age")
    (link,) = find([one, two])
    assert [remote.name for remote in link.remotes] == ["p1", "p0"]  # the one that lacks less
    sizes = [receipt.size for receipt in link.receipts]
    assert sorted(link.sources_of(link.receipts).values()) == sorted([sizes[0], sum(sizes[1:])])


def test_every_link_is_looked_at() -> None:
    for day in range(3):
        one, two = stores([0, 1, 2], [0, 1, 2])
        lose(one, day)
        assert len(find([one, two])) == 3
        lose(two, day)
        error = refusal([one, two])
        assert isinstance(error, IntegrityError)
        assert re.search(f"gone or cut on .*: {chunk_name(0)}", str(error))
        assert IDS[day] in str(error)
        points = list(range(day))
        assert error.hint is not None
        assert (f"@s{points[-1]}" if points else "choose another backup") in error.hint


def test_a_link_that_is_lost_has_a_double() -> None:
    """Another provider's full backup of the same snapshot, with a history of its own."""
    one, two = stores([0, 1, 2], [2])
    double = msgspec.structs.replace(head(1, full=True), id=IDS[1][:-1] + "f")
    repo.save([two], KEYS.author, stream(1, full=True), double)
    assert [link.id for link in find([one, two])] == IDS[:3]
    lose(one, 1)
    assert [link.id for link in find([one, two])] == [double.id, IDS[2]]
    lose(one, 2)
    assert [link.id for link in find([one, two])] == [double.id, IDS[2]]


def test_a_backup_that_is_lost_has_a_double() -> None:
    one, two = stores([0, 1], [])
    double = msgspec.structs.replace(head(1, full=True), id="20260101t120000-000000000000000f")
    repo.save([two], KEYS.author, stream(1, full=True), double)
    lose(one, 1)
    assert [link.id for link in find([one, two], "s1")] == [double.id]


def test_a_stranger_s_link_is_told() -> None:
    (one,) = stores([1])
    stranger = replace(KEYS.author, signing_key=Keys().signing)
    repo.save([one], stranger, STREAMS[0], head(0))
    error = refusal([one])
    assert "--trust-signer SHA256:" in str(error.hint)
    assert "which nothing here vouches for" in str(error)


def test_a_stranger_s_newer_backup_is_told() -> None:
    (one,) = stores([0])
    snapshot = msgspec.structs.replace(head(1).snapshot, created="2027-01-01T00:00:00Z")
    newer = msgspec.structs.replace(head(1, full=True), snapshot=snapshot)
    repo.save([one], replace(KEYS.author, signing_key=Keys().signing), stream(1, full=True), newer)
    told = Recorder()
    assert [link.id for link in find([one], told=told)] == IDS[:1]
    assert [line.split(" is not taken")[0] for line in told.warnings] == [
        f"a newer backup of {repo.DATASET}, @s1 ({IDS[1]}),"
    ]
    find([one], "s0", told)
    assert len(told.warnings) == 1


def test_a_forged_link_is_none() -> None:
    """A trusted signer's manifest in another backup's place, or of another snapshot."""
    (one,) = stores([0, 1])
    two, three = stores([1], [2])
    moved = three.objects[object_path(IDS[2], repository.MANIFEST)]
    one.objects[object_path(IDS[0], repository.MANIFEST)] = moved
    error = refusal([one])
    assert f"backup {IDS[0]} of that is damaged" in str(error)
    assert "is not there any more" in str(refusal([two]))


# --- to files -------------------------------------------------------------------------------------


@contextmanager
def opening() -> Iterator[Engine[OpenJob, None]]:
    with pipeline.opening(repo.BUDGET, KEYS.keyring().identities) as engine:
        yield engine
    repo.settle()


def write(chain: Sequence[Link], path: Path, stop: threading.Event | None = None) -> list[Path]:
    with opening() as engine:
        made = tofile.paths(
            str(path), len(chain), sum(link.manifest.stream_bytes for link in chain)
        )
        tofile.write(chain, made, engine, stop or threading.Event(), Silent())
    return made


def test_one_stream_is_one_file(tmp_path: Path) -> None:
    (made,) = write(find(stores([0])), tmp_path / "photos.zfs")
    assert made == tmp_path / "photos.zfs"
    assert made.read_bytes() == STREAMS[0]
    assert stat.S_IMODE(made.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [made]


def test_a_chain_is_as_many_files(tmp_path: Path) -> None:
    made = write(find(stores([0, 1], [1, 2])), tmp_path / "photos.zfs")
    assert [path.name for path in made] == [f"photos.zfs.00{n}" for n in (1, 2, 3)]
    assert [path.read_bytes() for path in made] == STREAMS[:3]
    assert sorted(tmp_path.iterdir()) == made


@pytest.mark.parametrize("name", ["photos.zfs.002", "photos.zfs.001.partial"])
def test_no_file_is_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(UsageError, match=f"{name} exists; it was not touched"):
        write(find(stores([0, 1])), tmp_path / "photos.zfs")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_file_that_appears_meanwhile(tmp_path: Path) -> None:
    chain = find(stores([0, 1]))
    made = tofile.paths(str(tmp_path / "photos.zfs"), len(chain), 1)
    made[1].write_text("mine")
    with opening() as engine, pytest.raises(OffsiteError, match=r"\.002 was made by som") as told:
        tofile.write(chain, made, engine, threading.Event(), Silent())
    assert made[1].read_text() == "mine"
    kept = [path.with_name(f"{path.name}.partial") for path in made]
    assert [path.read_bytes() for path in kept] == STREAMS[:2]
    assert all(str(path) in str(told.value.hint) for path in kept)
    assert sorted(tmp_path.iterdir()) == sorted([made[1], *kept])


def test_all_files_or_none(tmp_path: Path) -> None:
    (one,) = stores([0, 1])
    chain = find([one])
    one.objects[object_path(IDS[1], chunk_name(0))] = b"damaged after it was looked at"
    with pytest.raises(IntegrityError):
        write(chain, tmp_path / "photos.zfs")
    stop = threading.Event()
    stop.set()
    both = r"to .*photos\.zfs\.001 to photos\.zfs\.002; what was is not kept"
    with pytest.raises(StoppedError, match=both) as told:
        write(chain, tmp_path / "photos.zfs", stop)
    assert told.value.hint == "the same command begins anew"
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(StoppedError, match="to standard output; what was is of no use"):
        write(find(stores([0])), Path("-"), stop)


def test_stopped_in_the_second_file(tmp_path: Path) -> None:
    made = [tmp_path / "a.001", tmp_path / "a.002"]

    def pieces() -> Iterator[memoryview]:
        yield memoryview(b"some")
        assert sorted(path.name for path in tmp_path.iterdir()) == [
            "a.001.partial", "a.002.partial",
        ]  # fmt: skip
        raise StoppedError("stopped")

    with pytest.raises(StoppedError, match="before all was written"):
        tofile.put(made, [[memoryview(b"all")], pieces()])
    assert list(tmp_path.iterdir()) == []


def test_where_no_file_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = find(stores([0, 1]))
    with pytest.raises(UsageError, match="a chain of 2 streams"):
        tofile.paths("-", len(chain), 1)
    with pytest.raises(UsageError, match="there is no folder"):
        tofile.paths(str(tmp_path / "none" / "x"), len(chain), 1)
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UsageError, match="not enough room"):
        tofile.paths(str(tmp_path / "x"), len(chain), 101)


def test_stdout(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    write(find(stores([0])), Path("-"))
    assert capfdbinary.readouterr().out == STREAMS[0]
