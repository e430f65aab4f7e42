"""What is read of an unfinished backup from providers and the journal: never more than is so."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from offsite import history, indexes, repository
from offsite.errors import IntegrityError, ProviderError, StoppedError
from offsite.history import History
from offsite.journal import Journal
from offsite.manifest import Index, Manifest, Receipt
from offsite.repository import index_name
from tests import repo, story
from tests.interrupted import Provider, Told, check_true
from tests.repo import Keys
from tests.story import (
    FEATURES,
    KEYS,
    copied,
    cut,
    index_in,
    path,
    put_chunks,
    put_index,
    read,
    receipts,
    seam,
    tell,
    writing,
)

STRANGER = Keys(identity=KEYS.identity, catalog=KEYS.catalog)


@pytest.fixture(autouse=True)
def few_receipts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An index for every three; and no thread is left."""
    monkeypatch.setattr(indexes, "RECEIPTS", 3)
    yield
    repo.settle()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(repo.ID, tmp_path)


@pytest.fixture
def one(journal: Journal) -> Asked:
    """Eight chunks, all of them told in indexes."""
    made = Asked()
    tell(journal, receipts(8), made)
    made.asked.clear()
    return made


class Asked(Provider):
    """Remembers which chunks it was asked about: for its own hash, or for their bytes."""

    def __init__(self, name: str = "one", hash_kind: str | None = "sha256") -> None:
        super().__init__(name, hash_kind)
        self.asked: list[tuple[str, int]] = []
        self.failing = ""

    def holds(self, path: str, size: int, digests: Mapping[str, str]) -> bool:
        self._ask("holds", path)
        return super().holds(path, size, digests)

    def get(self, path: str, *, limit: int) -> bytes:
        self._ask("get", path)
        return super().get(path, limit=limit)

    def _ask(self, how: str, path: str) -> None:
        if self.failing and self.failing in path:
            raise ProviderError("cannot be reached")
        name = path.rpartition("/")[2]
        if repository.is_chunk(name):
            self.asked.append((how, int(name[6:14])))


def shares(found: History) -> dict[str, list[int]]:
    return {copy.remote.name: sorted(copy.chunks) for copy in found.copies}


# --- which chunks are there -----------------------------------------------------------------------


def test_all_that_was_told(one: Asked) -> None:
    found = read(one)
    check_true(found)
    assert found.receipts == receipts(8)
    assert found.features == FEATURES
    assert [reference.chunks for reference in found.references] == [0, 3, 3, 2]
    assert [(copy.indexes, copy.strays) for copy in found.copies] == [(4, False)]
    assert one.asked == []


@pytest.mark.parametrize("number", range(8))
@pytest.mark.parametrize("body", [None, b"", b"short", story.body(0) + b"!"])
def test_a_chunk_gone_or_of_another_size_ends_it(
    one: Asked, number: int, body: bytes | None
) -> None:
    del one.objects[path(number)]
    if body is not None:
        one.objects[path(number)] = body
    assert read(one).receipts == receipts(number)


def test_a_chunk_that_only_another_provider_has_is_kept(one: Asked) -> None:
    two = copied(one, "two")
    for number in (1, 2, 6):
        del one.objects[path(number)]
    for number in (0, 3, 7):
        two.objects[path(number)] = b"cut"
    found = read(one, two)
    assert found.receipts == receipts(8)
    assert shares(found) == {"one": [0, 3, 4, 5, 7], "two": [1, 2, 4, 5, 6]}
    del two.objects[path(2)]
    assert read(one, two).receipts == receipts(2)


def test_the_provider_that_tells_most_is_believed(one: Asked, journal: Journal) -> None:
    behind, empty = Asked("behind"), Asked("empty")
    behind.objects = dict(one.objects)
    for name in (index_name(2), index_name(3), 4, 7):
        del behind.objects[path(name)]
    found = read(empty, behind, one)
    assert found.receipts == receipts(8)
    assert shares(found) == {"empty": [], "behind": [0, 1, 2, 3, 5, 6], "one": list(range(8))}
    assert [copy.indexes for copy in found.copies] == [0, 2, 4]


@pytest.mark.parametrize("kind", ["sha256", "md5", "sha1", None])
def test_what_no_index_of_its_vouches_for_is_asked(one: Asked, kind: str | None) -> None:
    """The provider's own hash, or the bytes if it tells none that is known: never the size."""
    two = Asked("two", kind)
    two.objects = dict(one.objects)
    for number in (2, 3):
        del two.objects[path(index_name(number))]
    put_chunks(two, 4, story="other")
    found = read(one, two)
    check_true(found)
    assert shares(found)["two"] == [0, 1, 2, 3, 5, 6, 7]
    how = "holds" if kind in {"sha256", "md5"} else "get"
    assert two.asked == [(how, number) for number in (3, 4, 5, 6, 7)]
    assert one.asked == []


# --- stories --------------------------------------------------------------------------------------


def other(tmp_path: Path, count: int, since: int, name: str = "two") -> Asked:
    """A provider of another story from the chunk ``since`` on."""
    made = Asked(name)
    tell(Journal(repo.ID, tmp_path / name), receipts(count, since), made)
    made.asked.clear()
    return made


@pytest.mark.parametrize("since", [0, 2, 3, 5])
def test_another_story_s_chunks_do_not_count(
    one: Asked, journal: Journal, tmp_path: Path, since: int
) -> None:
    two = other(tmp_path, 7, since)
    found = read(one, two)
    check_true(found)
    assert found.receipts == receipts(8)
    assert shares(found)["two"] == list(range(since))
    assert [(copy.indexes, copy.strays) for copy in found.copies] == [(4, False), (0, True)]
    assert two.asked == []


@pytest.mark.parametrize("since", [3, 4, 5])
def test_stories_that_part(one: Asked, journal: Journal, since: int) -> None:
    """One provider was left out when the backup went on from its chunk ``since``."""
    two = Asked("two")
    two.objects = dict(one.objects)
    before = read(two)
    with writing(journal, two) as writer:
        writer.go_on(before.references, before.receipts, before.receipts[:since])
        for new in receipts(7, since)[since:]:
            put_chunks(two, new.number, story="other")
            writer.add(new)
        writer.flush()
    two.asked.clear()
    for found in (read(one, two), read(two, one), read(one, two, journal=journal)):
        check_true(found)
        assert found.receipts == receipts(8)
        assert shares(found)["two"] == list(range(since))
        strays = {copy.remote.name: copy.strays for copy in found.copies}
        assert strays == {"one": False, "two": True}
    assert two.asked == []
    assert read(two, journal=journal).receipts == receipts(7, since)


# --- the journal ----------------------------------------------------------------------------------


def test_the_journal_knows_what_no_index_tells(one: Asked, journal: Journal) -> None:
    for new in receipts(10)[8:]:
        put_chunks(one, new.number)
        journal.add(FEATURES, new)
    found = read(one, journal=journal)
    assert found.receipts == receipts(10)
    assert one.asked == [("holds", 8), ("holds", 9)]
    assert sum(reference.chunks for reference in found.references) == 8
    put_chunks(one, 9, story="other")
    assert read(one, journal=journal).receipts == receipts(9)


@pytest.mark.parametrize("features", [FEATURES, None])
def test_nothing_but_the_journal(journal: Journal, features: int | None) -> None:
    """The machine died before the second index."""
    remote = Provider()
    with writing(journal, remote) as writer:
        writer.begin()
    for new in receipts(2):
        put_chunks(remote, new.number)
        journal.add(features, new)
    found = read(remote, journal=journal)
    assert (found.receipts, found.features) == (receipts(2), features)
    assert (read(remote).receipts, read(remote).features) == ([], None)


@pytest.mark.parametrize(
    "entries",
    [
        [],
        receipts(3),
        receipts(10)[1:],
        receipts(10)[:5] + receipts(10)[6:],
        [*receipts(8), receipts(10)[9]],
        [*receipts(9), *receipts(10)[8:]],
        receipts(10, 7),
        receipts(10, 0),
        receipts(8, 7),
    ],
    ids=["none", "short", "begins late", "gap", "gap behind", "twice", "parts", "other", "last"],
)
def test_a_journal_of_something_else(one: Asked, journal: Journal, entries: list[Receipt]) -> None:
    put_chunks(one, 8, 9)
    journal.begin(FEATURES, entries)
    assert read(one, journal=journal).receipts == receipts(8)


def test_the_journal_has_the_last_word_on_the_chunk_that_both_tell_of(
    one: Asked, journal: Journal
) -> None:
    """A joint was made there, and no index tells that yet."""
    kept = [*receipts(7), cut(receipts(8)[7])]
    new = msgspec.structs.replace(story.receipt(8), offset=kept[-1].offset + kept[-1].length)
    put_chunks(one, 8)
    journal.begin(FEATURES, [*kept, new])
    assert read(one, journal=journal).receipts == [*kept, new]
    journal.begin(FEATURES, kept)
    assert read(one, journal=journal).receipts == receipts(8)


# --- indexes that are none ------------------------------------------------------------------------


def no_signer(remote: Provider) -> None:
    put_index(remote, index_in(remote, 2), STRANGER)


def foreign(remote: Provider) -> None:
    other_id = "20260119t120000-eeeeeeeeeeeeeeee"
    put_index(remote, msgspec.structs.replace(index_in(remote, 2), id=other_id))


def stale(remote: Provider) -> None:
    put_index(remote, msgspec.structs.replace(index_in(remote, 2), previous="12" * 32))


def headless(remote: Provider) -> None:
    put_index(remote, msgspec.structs.replace(index_in(remote, 2), previous=None))


def replayed(remote: Provider) -> None:
    remote.objects[path(index_name(2))] = remote.objects[path(index_name(1))]


def swapped(remote: Provider) -> None:
    third, second = path(index_name(3)), path(index_name(2))
    remote.objects |= {third: remote.objects[second], second: remote.objects[third]}


def gap(remote: Provider) -> None:
    index = index_in(remote, 2)
    put_index(remote, msgspec.structs.replace(index, receipts=index.receipts[1:]))


def shifted(remote: Provider) -> None:
    index = index_in(remote, 2)
    put_index(
        remote,
        msgspec.structs.replace(index, receipts=[cut(index.receipts[0]), *index.receipts[1:]]),
    )


def garbage(remote: Provider) -> None:
    remote.objects[path(index_name(2))] = repo.noise(3000)


def for_strangers(remote: Provider) -> None:
    put_index(remote, index_in(remote, 2), Keys(signing=KEYS.signing))


def huge(remote: Provider) -> None:
    remote.objects[path(index_name(2))] = bytes(repository.DOCUMENT_LIMIT + 1)


def gone(remote: Provider) -> None:
    del remote.objects[path(index_name(2))]


@pytest.mark.parametrize(
    "spoil",
    [
        no_signer, foreign, stale, headless, replayed, swapped, gap, shifted, garbage,
        for_strangers, huge, gone,
    ],
)  # fmt: skip
def test_an_index_that_does_not_follow_ends_the_reading(
    one: Asked, spoil: Callable[[Provider], None]
) -> None:
    """What is before it counts; and so does another provider, which has the right one."""
    good = copied(one, "good")
    spoil(one)
    told = Told()
    found = read(one, progress=told)
    assert found.receipts == receipts(3)
    assert len(found.references) == 2
    assert told.drops == {}
    assert read(one, good).receipts == receipts(8)


@pytest.mark.parametrize("index", [b"", b"x", None])
def test_no_first_index_nothing_to_go_on_with(one: Asked, index: bytes | None) -> None:
    two = copied(one, "two")
    del one.objects[path(index_name(0))]
    if index is not None:
        one.objects[path(index_name(0))] = index
    with pytest.raises(IntegrityError, match=f"backup {repo.ID} has no index that could be"):
        read(one)
    found = read(one, two)
    assert found.receipts == receipts(8)
    assert [copy.indexes for copy in found.copies] == [0, 4]


def test_many_indexes_are_read_in_order(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "RECEIPTS", 1)
    remote = Provider()
    tell(journal, receipts(150), remote)
    assert read(remote).receipts == receipts(150)


# --- providers that fail --------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["index-00000", "index-00002", "chunk-00000004"])
def test_a_provider_that_fails_is_left_out(one: Asked, failing: str) -> None:
    """Also where its chunks are asked about."""
    two, told = Asked("two"), Told()
    two.objects = dict(one.objects)
    del two.objects[path(index_name(3))]
    if "chunk" in failing:
        del two.objects[path(index_name(2))]
    two.failing = failing
    found = read(two, one, progress=told)
    assert told.drops == {"two": "cannot be reached"}
    assert found.receipts == receipts(8)
    assert list(shares(found)) == ["one"]
    one.failing = two.failing = "index"
    with pytest.raises(ProviderError, match="no provider is left"):
        read(two, one)


def test_stop_is_no_failure_of_a_provider(one: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: str, **_more: int) -> None:
        raise StoppedError("stopped")

    monkeypatch.setattr(one, "list", stopped)
    with pytest.raises(StoppedError):
        read(one)


# --- the seam -------------------------------------------------------------------------------------


def with_seam(count: int, begin: int, end: int) -> History:
    """All chunks in which it could be told name the one seam that ends there."""
    told = [
        msgspec.structs.replace(one, seam=seam(begin, end, "ab" * 16 if one.offset < end else None))
        if end <= one.offset + one.length
        else one
        for one in receipts(count)
    ]
    return History([], told, FEATURES, [])


@pytest.mark.parametrize(
    ("end", "number", "length"),
    [(3500, 3, 500), (3001, 3, 1), (3000, 2, 1000), (4000, 3, 1000), (1, 0, 1), (1999, 1, 999)],
)
def test_up_to_the_seam(end: int, number: int, length: int) -> None:
    """It may end in an earlier chunk, and at the end of one."""
    found = with_seam(4, 0, end)
    assert found.seam_receipt == number
    kept = found.up_to_seam()
    assert kept[:-1] == found.receipts[:number]
    last = kept[-1]
    assert (last.number, last.offset) == (number, number * 1000)
    assert (last.length, last.surplus) == (length, 1000 - length)
    assert (last.sha256, last.size) == (receipts(4)[number].sha256, story.SIZE)
    assert last.plain_xxh128 == "ab" * 16


def test_a_joint_at_the_same_seam_again_changes_nothing() -> None:
    once = with_seam(4, 0, 3500).up_to_seam()
    assert History([], once, FEATURES, []).up_to_seam() == once


def test_no_seam() -> None:
    assert History([], [], None, []).seam_receipt is None
    assert History([], receipts(3), FEATURES, []).seam_receipt is None


# --- complete backups -----------------------------------------------------------------------------


def test_who_lacks_what_of_a_complete_backup(one: Asked, tmp_path: Path) -> None:
    found = read(one)
    whole = Manifest(
        format=1,
        head=story.HEAD,
        finished="2026-01-17T12:00:00Z",
        chunks=8,
        stream_bytes=8000,
        stored_bytes=8 * story.SIZE,
        indexes=found.references,
    )
    behind, strange = copied(one, "behind"), other(tmp_path, 9, 2, "strange")
    for name in (index_name(3), 5):
        del behind.objects[path(name)]
    with story.mirror_of(behind, one, strange) as mirror:
        told = history.of_complete(whole, receipts(8), mirror, KEYS.keyring())
    check_true(told)
    assert told.receipts == receipts(8)
    assert shares(told) == {
        "behind": [0, 1, 2, 3, 4, 6, 7],
        "one": list(range(8)),
        "strange": [0, 1],
    }
    assert [copy.indexes for copy in told.copies] == [3, 4, 0]


def test_an_index_has_room_for_no_receipt(one: Asked) -> None:
    """Not written by us; it changes nothing."""
    found = read(one)
    last = found.references[-1].sha256
    empty = Index(format=1, id=repo.ID, number=4, features=FEATURES, previous=last)
    put_index(one, empty)
    assert read(one).receipts == receipts(8)
