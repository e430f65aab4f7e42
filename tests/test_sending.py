"""Backups interrupted anywhere, by anything: what is stored in the end is the whole stream."""

from __future__ import annotations

import os
import re
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from offsite import history, indexes, journal
from offsite.errors import OffsiteError, ProviderError, StoppedError, ZfsError
from offsite.history import History
from offsite.zfs import token
from offsite.zfs.records import Feature, Kind
from offsite.zfs.stream import StreamError
from tests import interrupted, repo
from tests.interrupted import (
    REFUSED,
    SERVED,
    TOO_OLD,
    Machine,
    Pool,
    Provider,
    check_true,
    files,
    seam_before,
    stream_of,
)
from tests.thorough import cases, examples
from tests.zfs_streams import (
    Record,
    place,
    resumed,
    seams,
    split,
    stream_records,
    summed,
    with_begin,
)

FILES = stream_of(files())
WHOLE = b"".join(FILES)


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with interrupted.machine(tmp_path_factory.mktemp("machine")) as made:
        yield made


@pytest.fixture(autouse=True)
def few_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes come so often that a small stream has some."""
    monkeypatch.setattr(indexes, "RECEIPTS", 3)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool", FILES)


def cut_at(
    machine: Machine, pool: Pool, remote: Provider, most: int, chunk_size: int = 1000
) -> None:
    """A run whose zfs dies after ``most`` bytes of what it was asked for."""
    pool.behave(most=most, status=1)
    with pytest.raises(ZfsError):
        machine.run(pool, remote, chunk_size=chunk_size)
    pool.behave()
    remote.fail_after(None)


# --- by token -------------------------------------------------------------------------------------


def test_the_pool_is_read_from_the_seam_on_and_no_chunk_is_stored_twice(
    machine: Machine, pool: Pool
) -> None:
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    found = machine.history(remote)
    assert sum(receipt.length for receipt in found.receipts) == 7300
    done = machine.run(pool, remote)
    (asked,) = pool.sends
    assert token.decode(asked) == pool.token(seam_before(FILES, 7300))
    assert done.sent_bytes == len(pool.answer(asked)) < len(WHOLE) - 7300 + 2000
    assert done.resumed_chunks == len(found.receipts) == 8
    kept = found.up_to_seam()
    assert sorted(remote.chunks) == list(range(len(kept), done.manifest.chunks))
    assert machine.told.infos == [
        "Resuming backup of tank/photos@monday: 8 of ~16 chunks are stored (token)"
    ]
    assert machine.restored(remote) == WHOLE
    assert not list(journal.directory().iterdir())
    receipts = repo.receipts_of(remote, done.manifest, machine.keyring)
    last = found.receipts[len(kept) - 1]
    surplus = last.offset + last.length - kept[-1].offset - kept[-1].length
    assert [receipt.surplus for receipt in receipts if receipt.surplus] == [surplus]
    assert receipts[len(kept) - 1] == kept[-1]
    assert surplus > 0


@given(data=st.data())
@settings(
    max_examples=examples(15),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_interrupted_anywhere_any_number_of_times_by_anything(
    machine: Machine, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Streams of all kinds, chunks of all sizes; with any of the engines after any other."""
    parts = stream_of(data.draw(st.just(files(2, 3, 40)) | stream_records()))
    earlier = data.draw(st.integers(0, 3))
    pool = Pool(tmp_path_factory.mktemp("any") / "pool", parts, earlier=earlier)
    whole, remote = pool.whole, Provider()
    size = max(len(whole) // data.draw(st.integers(1, 14)), 90)
    for _ in range(data.draw(st.integers(1, 3))):
        remote.fail_after(None)
        how = data.draw(st.sampled_from(["zfs", "stop", "provider", "machine"]))
        tokens = data.draw(st.sampled_from([SERVED, SERVED, TOO_OLD, REFUSED]))
        if how == "zfs":
            pool.behave(most=data.draw(st.integers(1, len(whole))), status=1, tokens=tokens)
        else:
            pool.behave(tokens=tokens)
            error = ProviderError("full") if how == "provider" else StoppedError("stopped")
            remote.fail_after(data.draw(st.integers(3, 17)), error)
        before = machine.history(remote) if machine.standing([remote]).unfinished else None
        try:
            machine.run(pool, remote, chunk_size=size)
        except OffsiteError:
            if how == "machine":
                machine.forget()
        else:
            break
        check_progress(machine, remote, before)
    else:
        remote.fail_after(None)
        pool.behave()
        machine.run(pool, remote, chunk_size=size)
    assert machine.restored(remote) == whole
    assert not machine.standing([remote]).unfinished


def check_progress(machine: Machine, remote: Provider, before: History | None) -> None:
    """What an interrupted run leaves is true, and the chunks that it kept were not sent again."""
    after = machine.history(remote)
    check_true(after)
    if before and before.receipts and before.seam_receipt is not None:
        assert not {*remote.chunks} & {*range(before.seam_receipt)}


def test_no_interruption_is_told_of_in_the_stored_stream(machine: Machine, pool: Pool) -> None:
    """A dozen of them: every run gets a chunk further, or its successor needs more of zfs."""
    remote, at = Provider(), 0
    for number in range(12):
        pool.behave(most=2000 + 100 * number, status=1)
        with pytest.raises(ZfsError):
            machine.run(pool, remote)
        remote.fail_after(None)
        stored = sum(receipt.length for receipt in machine.history(remote).receipts)
        assert stored > at - 1000  # what is behind the seam goes again
        at = stored
    assert at > len(WHOLE) / 2
    pool.behave()
    machine.run(pool, remote)
    assert machine.restored(remote) == WHOLE


@pytest.mark.parametrize("most", [1, 311, 312, 400, 800, 2000])
def test_zfs_dies_again_in_the_resumed_send(machine: Machine, pool: Pool, most: int) -> None:
    """Before the seam nothing changed; behind it, what came is kept."""
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    before = machine.history(remote)
    pool.behave(most=most, status=1)
    with pytest.raises(ZfsError, match="zfs send ended with status 1"):
        machine.run(pool, remote)
    after = machine.history(remote)
    check_true(after)
    assert after.receipts[: len(before.receipts) - 2] == before.receipts[:-2]
    pool.behave()
    done = machine.run(pool, remote)
    assert done.sent_bytes < len(WHOLE)
    assert machine.restored(remote) == WHOLE


def test_the_reason_of_a_zfs_that_dies_is_told(machine: Machine, pool: Pool) -> None:
    """Not that its stream ended early, which it did too; also in a resumed send."""
    for _ in range(2):
        pool.behave(most=3000, status=3)
        with pytest.raises(ZfsError, match="zfs send ended with status 3"):
            machine.run(pool, remote := Provider())
    pool.behave(most=3000, status=3)
    with pytest.raises(ZfsError, match="zfs send ended with status 3"):
        machine.run(pool, remote)


def test_a_stream_that_ends_early_though_zfs_says_well(machine: Machine, pool: Pool) -> None:
    remote = Provider()
    for most in (7000, 2000):
        pool.behave(most=most)
        with pytest.raises(StreamError, match="without an END"):
            machine.run(pool, remote)
    assert not machine.standing([remote]).complete


def test_all_is_stored_but_the_manifest(machine: Machine, pool: Pool) -> None:
    remote = Provider()
    remote.fail_after(2 + 16 + 6)  # FORMAT and index 0, chunks, five indexes and the last
    with pytest.raises(StoppedError):
        machine.run(pool, remote)
    assert "manifest.age" not in remote.puts
    assert sum(r.length for r in machine.history(remote).receipts) == len(WHOLE)
    remote.fail_after(None)
    done = machine.run(pool, remote)
    assert done.sent_bytes < 2000
    assert len(remote.chunks) == 1
    assert machine.restored(remote) == WHOLE


def test_a_seam_some_chunks_back(machine: Machine, tmp_path: Path) -> None:
    """A block of many chunks was cut: its chunks go again, those before it do not."""
    records = [Record(Kind.OBJECT, 2, payload=b"a bonus ")]
    records += [Record(Kind.WRITE, 2, at << 17, repo.noise(9000, at)) for at in range(3)]
    pool, remote = Pool(tmp_path / "pool", stream_of(records)), Provider()
    cut_at(machine, pool, remote, 17_500)
    found = machine.history(remote)
    assert (len(found.receipts), found.seam_receipt) == (18, 9)
    machine.run(pool, remote)
    assert min(remote.chunks) == 10
    assert machine.restored(remote) == pool.whole


@pytest.mark.parametrize(
    "features", [Feature(0), Feature.RAW | Feature.LARGE_BLOCKS | Feature.ZSTD]
)
def test_the_token_has_the_flags_of_the_stream(
    machine: Machine, tmp_path: Path, features: Feature
) -> None:
    records = [Record(Kind.OBJECT_RANGE, 0, length=32), *files(2)]
    pool, remote = Pool(tmp_path / "pool", stream_of(records, features)), Provider()
    cut_at(machine, pool, remote, 3000)
    done = machine.run(pool, remote)
    assert pool.sends != ["whole"]
    assert done.manifest.head.send.features == features
    assert machine.restored(remote) == pool.whole


@pytest.mark.parametrize("while_reading", [True, False])
def test_a_stop_before_zfs_is_asked_tells_what_is_stored(
    machine: Machine, pool: Pool, monkeypatch: pytest.MonkeyPatch, *, while_reading: bool
) -> None:
    """While the indexes are read, or the other provider catches up."""
    one, two = Provider("one"), Provider("two")
    cut_at(machine, pool, one, 7300)

    def stopped(*_: object, **__: object) -> History:
        raise StoppedError("stopped")

    if while_reading:
        monkeypatch.setattr(history, "of_unfinished", stopped)
    else:
        two.fail_after(3)
    with pytest.raises(StoppedError, match="8 chunks stored, but tank/photos@monday is not"):
        machine.run(pool, one, two)
    assert pool.sends == []


# --- where zfs serves no token --------------------------------------------------------------------


def other_rest(features: int) -> bytes:
    """A resumed stream with other features."""
    parts = split(resumed(FILES, seam_before(FILES, 7300)))
    return summed([with_begin(parts[0], features | Feature.RESUMING, b"some nvlist."), *parts[1:]])


def without_seam() -> bytes:
    return resumed(FILES, seams(FILES)[-1])


RESTS = {
    "other features": (other_rest(Feature.COMPRESSED | Feature.LZ4), "its features are"),
    "no seam": (without_seam(), "does not begin with the stored record"),
    "no rest": (WHOLE, "it is no resumed stream"),
    "garbage": (bytes(5000), "not a ZFS send stream"),
    "damaged": (other_rest(Feature.COMPRESSED)[:700] + b"!" * 5000, "damaged|not a ZFS send"),
    "nothing": (b"", "ended in its BEGIN"),
}


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        (TOO_OLD, "this ZFS is too old"),
        (REFUSED, "zfs send: cannot resume: 'tank/photos@monday' used in the initial send no"),
        ("echo 'cannot resume send: resume token is corrupt (3)' >&2; exit 255", "is corrupt"),
        (
            "echo \"cannot send 't/p@monday': No such file or directory\" >&2; exit 1",
            "No such file or directory",
        ),
    ],
)
def test_zfs_refuses_the_token(machine: Machine, pool: Pool, tokens: str, why: str) -> None:
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    pool.behave(tokens=tokens)
    check_compared(machine, pool, remote, why)


@pytest.mark.parametrize("rest", RESTS)
def test_what_zfs_sends_for_the_token_does_not_fit(machine: Machine, pool: Pool, rest: str) -> None:
    """Nothing was changed by then: all is sent again, and nothing stored again."""
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    body, why = RESTS[rest]
    pool.rest(body)
    check_compared(machine, pool, remote, why)


def check_compared(machine: Machine, pool: Pool, remote: Provider, why: str) -> None:
    done = machine.run(pool, remote)
    assert [asked == "whole" for asked in pool.sends] == [False, True]
    first, gave_up, second = machine.told.infos
    assert first.endswith("(token)")
    assert re.search(f"zfs cannot go on from there \\(.*{why}", gave_up), gave_up
    assert second.endswith("(re-send and compare)")
    assert done.sent_bytes == len(WHOLE)
    assert done.resumed_chunks == 8
    assert sorted(remote.chunks) == list(range(8, done.manifest.chunks))
    assert machine.restored(remote) == WHOLE


SUSPENDED = "cannot send 'tank/photos@monday': pool I/O is currently suspended"


@pytest.mark.parametrize(
    ("tokens", "why"),
    [
        ("kill -9 $$", "signal 9"),
        (f'echo "{SUSPENDED}" >&2; exit 1', "the pool is suspended or unavailable"),
        ("echo 'permission denied' >&2; exit 1", "permission denied"),
        ("exit 137", "status 137"),
        (
            "echo 'ssh: connect to host nas port 22: Connection refused' >&2; exit 255",
            "nas cannot be reached",
        ),
    ],
)
def test_what_has_nothing_to_do_with_the_token_is_no_reason_to_send_all_again(
    machine: Machine,
    pool: Pool,
    tokens: str,
    why: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Days of reading, though zfs would go on the next time."""
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    pool.behave(tokens=tokens)
    if "ssh" in tokens:
        ssh = tmp_path / "bin" / "ssh"
        ssh.parent.mkdir()
        ssh.write_text('#!/bin/sh\nfor last; do :; done\nexec sh -c "$last"\n')
        ssh.chmod(0o700)
        monkeypatch.setenv("PATH", f"{ssh.parent}:{os.environ['PATH']}")
        pool.zfs = replace(pool.zfs, ssh="nas")
    with pytest.raises(ZfsError, match=why) as failed:
        machine.run(pool, remote)
    assert [asked == "whole" for asked in pool.sends] == [False]
    assert "the same command goes on" in str(failed.value.hint)
    assert remote.puts == []
    pool.behave()
    assert machine.run(pool, remote).sent_bytes < len(WHOLE)
    assert machine.restored(remote) == WHOLE


UNREADABLE = "warning: cannot send 'tank/photos@monday': Input/output error"


def unreadable_behind(
    machine: Machine, pool: Pool, remote: Provider, at: int, tokens: str = SERVED
) -> str:
    """What is told if zfs cannot read what comes behind the part ``at`` of the stream."""
    sent = FILES[: at + 1]
    if machine.begun(remote) and tokens == SERVED:
        seam = machine.history(remote).receipts[-1].seam
        assert seam is not None
        stored = next(n for n, end in enumerate(accumulate(map(len, FILES))) if end == seam.end)
        sent = split_until(pool.answer(token.encode(pool.token(stored))), FILES[at])
    pool.behave(most=sum(map(len, sent)), status=1, tokens=tokens, says=UNREADABLE)
    with pytest.raises(ZfsError) as failed:
        machine.run(pool, remote)
    remote.fail_after(None)
    return f"{failed.value} HINT: {failed.value.hint}"


def split_until(rest: bytes, part: bytes) -> list[bytes]:
    """The parts of a resumed stream up to that one."""
    parts = split(rest)
    bodies = [one[:280] + one[312:] for one in parts]
    return parts[: bodies.index(part[:280] + part[312:]) + 1]


@pytest.mark.parametrize("tokens", [SERVED, TOO_OLD])
def test_a_block_that_cannot_be_read_is_told_with_its_place_the_second_time_for_good(
    machine: Machine, pool: Pool, tokens: str
) -> None:
    remote = Provider()
    first, later = seam_before(FILES, 5000), seam_before(FILES, 9000)
    where = place(FILES[first])
    told = unreadable_behind(machine, pool, remote, first, tokens)
    assert "the pool has unreadable blocks: tank/photos@monday in or soon after" in told
    assert f"object {where.object}, behind its byte {where.offset}" in told
    assert "zpool status -v; what is stored is kept: the same command goes on" in told
    for _ in range(2):
        told = unreadable_behind(machine, pool, remote, first, tokens)
        assert f"behind its byte {where.offset}, as in the run before; to try again" in told
        assert f"-inum {where.object}; if zpool scrub cannot mend it" in told
        assert "zfs destroy tank/photos@monday, and back up a new snapshot" in told
    # It was mended; another one is another one.
    assert "as in the run before" not in unreadable_behind(machine, pool, remote, later, tokens)
    pool.behave(tokens=tokens)
    machine.run(pool, remote)
    assert machine.restored(remote) == WHOLE


def test_what_is_damaged_is_named_as_zpool_names_it(
    machine: Machine, pool: Pool, tmp_path: Path
) -> None:
    remote, at = Provider(), seam_before(FILES, 5000)
    (tmp_path / "pool" / "zpool").write_text(
        "echo 'errors: Permanent errors have been detected in the following files:'; echo;"
        "echo '        tank/other@monday:/x'; echo '        tank/photos@monday:/a b.jpg'"
    )
    unreadable_behind(machine, pool, remote, at)
    told = unreadable_behind(machine, pool, remote, at)
    assert "(damaged: tank/photos@monday:/a b.jpg)" in told


def test_stop_while_looking_for_the_seam_is_no_reason_to_send_all_again(
    machine: Machine, pool: Pool
) -> None:
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    stop = threading.Event()
    before = signal.signal(signal.SIGUSR1, lambda *_: stop.set())
    pool.behave(tokens=f"kill -USR1 {os.getpid()}; exec sleep 300")
    with pytest.raises(StoppedError):
        machine.run(pool, remote, stop=stop)
    signal.signal(signal.SIGUSR1, before)
    assert len(pool.sends) == 1
    assert remote.puts == []
    pool.behave()
    machine.run(pool, remote)
    assert machine.restored(remote) == WHOLE


# --- send again and compare -----------------------------------------------------------------------


def changed(number: int, at: int) -> list[bytes]:
    """The same snapshot's stream with another block there."""
    records = files()
    wanted = next(n for n, r in enumerate(records) if (r.object, r.offset) == (number, at << 17))
    if records[wanted].kind is Kind.OBJECT:
        wanted += 1
    records[wanted] = Record(Kind.WRITE, number, at << 17, repo.noise(400, 77))
    return stream_of(records)


def test_the_same_stream_again(machine: Machine, pool: Pool) -> None:
    remote = Provider()
    cut_at(machine, pool, remote, 9000)
    pool.behave(tokens=TOO_OLD)
    done = machine.run(pool, remote)
    assert sorted(remote.chunks) == list(range(9, 16))
    assert done.sent_bytes == len(WHOLE)
    assert machine.restored(remote) == WHOLE


SIZES = [500, 1000, 1537]
CHANGED = [(2, 0), (2, 3), (3, 0), (3, 5), (4, 1)]  # object, block


@pytest.mark.parametrize(("size", "where"), cases(SIZES, CHANGED))
def test_another_stream_is_stored_from_its_first_other_chunk_on(
    machine: Machine, pool: Pool, tmp_path: Path, size: int, where: tuple[int, int]
) -> None:
    remote = Provider()
    cut_at(machine, pool, remote, 12_000, chunk_size=size)
    new = Pool(tmp_path / "new", changed(*where))
    new.behave(tokens=TOO_OLD)
    first = next(n for n, (a, b) in enumerate(zip(WHOLE, new.whole, strict=True)) if a != b)
    done = machine.run(new, remote, chunk_size=size)
    begins = min(first // size, -(-12_000 // size))
    assert sorted(remote.chunks) == list(range(begins, done.manifest.chunks))
    if first < 12_000:
        assert f"The stream is another one from chunk {begins} on" in machine.told.infos
    assert machine.restored(remote) == new.whole


def test_another_stream_from_its_first_byte_on(
    machine: Machine, pool: Pool, tmp_path: Path
) -> None:
    """Zfs was upgraded meanwhile: other features."""
    remote = Provider()
    cut_at(machine, pool, remote, 12_000)
    features = Feature.COMPRESSED | Feature.LZ4
    new = Pool(tmp_path / "new", stream_of(files(), features))
    done = machine.run(new, remote)
    assert sorted(remote.chunks) == list(range(done.manifest.chunks))
    assert done.manifest.head.send.features == features
    assert machine.restored(remote) == new.whole


@pytest.mark.parametrize("length", [3000, 4000, 4096, 12_000])
def test_a_shorter_stream(machine: Machine, pool: Pool, tmp_path: Path, length: int) -> None:
    """It ends within what is stored, at the end of a chunk too; nothing of the longer one stays."""
    remote = Provider()
    cut_at(machine, pool, remote, 12_000)
    room = length - len(FILES[0]) - 3 * 312 - 8
    records = [Record(Kind.OBJECT, 2, payload=b"a bonus "), Record(Kind.WRITE, 2, 0, bytes(room))]
    short = Pool(tmp_path / "short", stream_of(records))
    assert len(short.whole) == length
    done = machine.run(short, remote)
    assert done.manifest.chunks == -(-length // 1000)
    assert machine.restored(remote) == short.whole


def test_a_chunk_with_surplus_is_compared_by_its_head(machine: Machine, pool: Pool) -> None:
    """After a token the chunk where the joint lies is shorter: compared as what it is."""
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    cut_at(machine, pool, remote, 5000)
    assert any(receipt.surplus for receipt in machine.history(remote).receipts)
    stored = len(machine.history(remote).receipts)
    pool.behave(tokens=TOO_OLD)
    done = machine.run(pool, remote)
    assert "another" not in "".join(machine.told.infos)
    assert min(remote.chunks) == stored
    assert done.sent_bytes == len(WHOLE)
    assert machine.restored(remote) == WHOLE


def test_by_token_after_a_comparison(machine: Machine, pool: Pool, tmp_path: Path) -> None:
    """Which found another stream: its seams count."""
    remote = Provider()
    cut_at(machine, pool, remote, 7300)
    new = Pool(tmp_path / "new", changed(2, 2))
    new.behave(most=9000, status=1, tokens=TOO_OLD)
    with pytest.raises(ZfsError):
        machine.run(new, remote)
    new.behave()
    done = machine.run(new, remote)
    assert new.sends != ["whole"]
    assert done.sent_bytes < len(new.whole) - 7000
    assert machine.restored(remote) == new.whole


# --- crashes --------------------------------------------------------------------------------------


def test_head_is_not_read_from_a_stream_of_another_snapshot(
    machine: Machine, tmp_path: Path
) -> None:
    head = bytearray(FILES[0])
    head[40:48] = (99).to_bytes(8, "little")
    pool = Pool(tmp_path / "pool", split(summed([bytes(head), *FILES[1:]])))
    remote = Provider()
    with pytest.raises(ZfsError, match="sent another snapshot than tank/photos@monday"):
        machine.run(pool, remote)
    assert "manifest.age" not in remote.puts
