"""Indexes are written as a backup goes: what a lost machine costs, and how a backup goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from offsite import indexes, manifest, repository
from offsite.journal import Journal
from offsite.manifest import Index
from tests import repo, story
from tests.interrupted import Provider
from tests.story import FEATURES, HEAD, cut, index_in, read, receipts, tell, writing


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(repo.ID, tmp_path)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    repo.settle()


def names(count: int) -> list[str]:
    return [f"index-{number:05d}.age" for number in range(count)]


def test_index_0_tells_what_it_is_going_to_be(journal: Journal) -> None:
    remote = Provider()
    with writing(journal, remote) as writer:
        writer.begin()
    assert remote.puts == names(1)
    first = index_in(remote, 0)
    assert (first.head, first.receipts, first.previous) == (HEAD, [], None)
    assert journal.path.exists()
    assert not list(journal.read())


def test_every_16_receipts_an_index_that_follows_the_one_before(journal: Journal) -> None:
    remote, all_of_them = Provider(), receipts(40)
    with writing(journal, remote) as writer:
        writer.begin()
        for receipt in all_of_them:
            written = len(remote.puts)
            writer.add(receipt)
            assert (len(remote.puts) > written) == ((receipt.number + 1) % 16 == 0)
        assert remote.puts == names(3)
        writer.flush()
        writer.flush()
    assert remote.puts == names(4)
    for number in (1, 2, 3):
        index = index_in(remote, number)
        before = remote.objects[story.path(names(4)[number - 1])]
        assert index.previous == hashlib.sha256(before).hexdigest()
        assert index.receipts == all_of_them[16 * number - 16 : 16 * number]
        assert (index.number, index.features, index.head) == (number, FEATURES, None)
    assert [reference.chunks for reference in writer.references] == [0, 16, 16, 8]
    assert (writer.chunks, writer.stream_bytes, writer.stored_bytes) == (40, 40_000, 2000)


def test_the_indexes_of_what_is_large_are_few(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At most a part of the backup is not in one, and no index is longer than its bound."""
    monkeypatch.setattr(indexes, "RECEIPTS", 2)
    monkeypatch.setattr(indexes, "_PART", 10)
    monkeypatch.setattr(indexes, "_MOST", 5)
    remote = Provider()
    with writing(journal, remote) as writer:
        writer.begin()
        for receipt in receipts(90):
            writer.add(receipt)
            told = sum(reference.chunks for reference in writer.references)
            assert writer.chunks - told < max(2, writer.chunks / 10 + 1)
    sizes = [reference.chunks for reference in writer.references[1:]]
    assert sizes == [2] * 14 + [3] * 3 + [4] * 3 + [5] * 8
    for receipt in receipts(90):
        story.put_chunks(remote, receipt.number)
    assert read(remote).receipts == receipts(sum(sizes))


def test_the_longest_index_is_a_document_that_is_read() -> None:
    seam = story.seam(2**53, 2**53)
    long = [msgspec.structs.replace(one, seam=seam, first_record=2**53) for one in receipts(64)]
    index = Index(format=1, id=repo.ID, number=2**20, receipts=long)
    assert len(manifest.encode(index)) * indexes._MOST / 64 < repository.DOCUMENT_LIMIT / 20


def test_an_index_after_a_minute_though_there_are_few_receipts(journal: Journal) -> None:
    remote = Provider()
    with writing(journal, remote) as writer:
        writer.begin()
        first, second, third = receipts(3)
        writer.add(first)
        writer._written -= indexes.SECONDS
        writer.add(second)
        writer.add(third)
        assert remote.puts == names(2)
    assert len(index_in(remote, 1).receipts) == 2


def test_when_the_machine_is_lost_fewer_than_16_stored_chunks_are(journal: Journal) -> None:
    remote = Provider()
    with writing(journal, remote) as writer:
        writer.begin()
        for receipt in receipts(50):
            story.put_chunks(remote, receipt.number)
            writer.add(receipt)
            found = read(remote)
            assert receipt.number + 1 - len(found.receipts) < 16
            assert read(remote, journal=journal).receipts == receipts(receipt.number + 1)


# --- going on -------------------------------------------------------------------------------------


def ways() -> Iterator[tuple[int, int, bool]]:
    """How many chunks are known, how many of them stay, whether the last of these is cut."""
    for known in range(10):
        for kept in range(known + 1):
            yield known, kept, False
            if kept:
                yield known, kept, True


@pytest.mark.parametrize(("known", "stay", "short"), list(ways()))
def test_going_on(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, known: int, stay: int, *, short: bool
) -> None:
    """The providers tell of what stays and of nothing else, at once, with one index written."""
    monkeypatch.setattr(indexes, "RECEIPTS", 3)
    remote = Provider()
    tell(journal, receipts(known), remote)
    before = read(remote, journal=journal)
    kept = list(before.receipts[:stay])
    if short:
        kept[-1] = cut(kept[-1])
    remote.fail_after(None)
    with writing(journal, remote) as writer:
        writer.go_on(before.references, before.receipts, kept)
        assert len(remote.puts) == 1
        (only,) = remote.puts
        assert only == names(9)[(stay + 2) // 3 if stay else 0]
        assert [r for entry in journal.read() for r in entry.receipts] == kept
        for machine in (journal, None):
            after = read(remote, journal=machine)
            assert after.receipts == kept
            assert after.references == writer.references
        assert writer.chunks == stay
        assert writer.stream_bytes == sum(receipt.length for receipt in kept)
        assert writer.stored_bytes == sum(receipt.size for receipt in kept)
        assert sum(reference.chunks for reference in writer.references) == stay


def test_going_on_and_on(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each time further back than the time before, and then to the end."""
    monkeypatch.setattr(indexes, "RECEIPTS", 3)
    remote = Provider()
    tell(journal, receipts(11), remote)
    for turn, stay in enumerate((9, 7, 6, 3, 1), 1):
        found = read(remote)
        with writing(journal, remote) as writer:
            writer.go_on(found.references, found.receipts, found.receipts[:stay])
            for number in range(stay, stay + 2):
                story.put_chunks(remote, number, story=str(turn))
                writer.add(story.receipt(number, str(turn)))
            writer.flush()
            assert [reference.name for reference in writer.references] == names(
                len(writer.references)
            )
        after = read(remote)
        assert after.receipts[:stay] == found.receipts[:stay]
        assert after.receipts[stay:] == [
            story.receipt(number, str(turn)) for number in range(stay, stay + 2)
        ]
    assert [repository.is_chunk(name) for name in remote.puts] == [False] * len(remote.puts)
