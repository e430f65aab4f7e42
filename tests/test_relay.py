"""Providers that lag behind catch up: the very bytes that others have, nothing that is damaged."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from offsite import history, indexes, repository, sources
from offsite.errors import (
    ConfigError,
    IntegrityError,
    ProviderError,
    StoppedError,
    ZfsError,
)
from offsite.journal import Journal
from offsite.mirror import Mirror
from offsite.relay import Lost, Relay
from offsite.repository import index_name
from offsite.slots import Arena
from tests import interrupted, repo, story
from tests.interrupted import Machine, Pool, Provider, Told, stream_of
from tests.story import KEYS, copied, mirror_of, path, put_chunks, receipts, tell, writing

CHUNKS = 8


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An index for every three receipts; no pause before a second try; no thread is left."""
    monkeypatch.setattr(indexes, "RECEIPTS", 3)
    monkeypatch.setattr(sources, "_ROUNDS", 1)
    monkeypatch.setattr(sources, "_ROUNDS_DAMAGED", 1)
    yield
    repo.settle()


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(repo.ID, tmp_path)


@pytest.fixture
def one(journal: Journal) -> Provider:
    made = Provider("one")
    tell(journal, receipts(CHUNKS), made)
    made.fail_after(None)
    return made


@contextmanager
def catching_up(*remotes: Provider, arena: int = 1 << 20) -> Iterator[tuple[Mirror, Told]]:
    """Everything was copied; what became of the mirror."""
    told = Told()
    with mirror_of(*remotes, progress=told) as mirror:
        assert catch_up(mirror, told, arena=arena) is None
        yield mirror, told


def catch_up(
    mirror: Mirror, told: Told, halt: threading.Event | None = None, arena: int = 1 << 20
) -> Lost | None:
    nothing = Journal(repo.ID, Path("/nonexistent"))
    found = history.of_unfinished(repo.ID, mirror, KEYS.keyring(), nothing)
    made = Relay(repo.ID, mirror, Arena(arena), told)
    return made.catch_up(found, found.receipts, halt or threading.Event())


def without(remote: Provider, name: str, *gone: str | int) -> Provider:
    made = copied(remote, name)
    for each in gone:
        del made.objects[path(each)]
    return made


def test_all_end_with_the_same_objects_and_nothing_is_put_twice(one: Provider) -> None:
    whole = dict(one.objects)
    lagging = without(one, "lagging", index_name(2), index_name(3), 5, 6, 7)
    holes = without(one, "holes", index_name(1), 0, 4)
    empty = Provider("empty", None)
    lagging.objects[path(6)] = b"cut"
    with catching_up(one, lagging, holes, empty) as (mirror, told):
        assert [remote.name for remote in mirror.live] == ["one", "lagging", "holes", "empty"]
    for remote in (one, lagging, holes, empty):
        assert remote.objects == whole
    assert one.puts == []
    assert sorted(lagging.chunks) == [5, 6, 7]
    assert {*holes.puts} >= {repository.chunk_name(0), repository.chunk_name(4), index_name(1)}
    assert len(empty.puts) == len(whole)
    assert told.infos == ["Copying 8 chunks to empty, holes, lagging"]
    assert told.warnings == []


def test_no_provider_has_all_and_together_they_do(one: Provider) -> None:
    whole = dict(one.objects)
    two = without(one, "two", 1, 3, 5)
    for number in (0, 2, 7):
        del one.objects[path(number)]
    with catching_up(one, two):
        pass
    assert one.objects == two.objects == whole
    assert (sorted(one.chunks), sorted(two.chunks)) == ([0, 2, 7], [1, 3, 5])


def test_nothing_is_lacking(one: Provider) -> None:
    two = copied(one, "two")
    with catching_up(one, two) as (_, told):
        assert told.infos == []
    assert one.puts == two.puts == []


def test_a_damaged_chunk_comes_from_another_provider(one: Provider) -> None:
    """It has the right size, and only its bytes tell: what is copied is compared first."""
    two, empty = copied(one, "two"), Provider("empty")
    put_chunks(one, 2, 3, story="damage")
    whole = dict(two.objects)
    with catching_up(one, two, empty) as (_, told):
        assert "one failed at" in told.warnings[0]
        assert "it is not the object that was stored" in told.warnings[0]
    assert empty.objects == whole


@pytest.mark.parametrize("arena", [4096, 1 << 20])
def test_a_chunk_damaged_everywhere_goes_nowhere(one: Provider, arena: int) -> None:
    empty, told = Provider("empty"), Told()
    put_chunks(one, 3, 5, story="damage")
    with mirror_of(one, empty, progress=told) as mirror:
        lost = catch_up(mirror, told, arena=arena)
    assert lost is not None
    assert lost.number == 3
    assert "chunk-00000003" in str(lost.why)
    assert "cannot be had: one: it is not the" in str(lost.why)
    assert {0, 1, 2} <= set(empty.chunks)
    assert {3, 5}.isdisjoint(empty.chunks)
    assert empty.chunks == [0, 1, 2] or arena > 4096  # no use in what is behind it
    assert [name for name in empty.puts if "index" in name] == [index_name(0), index_name(1)]


def test_a_provider_that_cannot_be_read_is_not_the_only_one(one: Provider) -> None:
    class Unread(Provider):
        def get_into(self, path: str, into: memoryview) -> int:  # noqa: ARG002
            raise ProviderError("archived")

    two, empty = Unread("two"), Provider("empty")
    two.objects = dict(one.objects)
    with catching_up(two, one, empty):
        pass
    assert empty.objects == one.objects
    why = "cannot be had: two: archived"
    with pytest.raises(ProviderError, match=why), catching_up(two, Provider("empty")):
        pass


@pytest.mark.parametrize("puts", [0, 1, 4, 8, 10])
def test_a_provider_that_cannot_be_written_to_is_dropped(one: Provider, puts: int) -> None:
    bad, good = Provider("bad"), Provider("good")
    bad.fail_after(puts, ProviderError("disk full"))
    with catching_up(one, bad, good) as (mirror, told):
        assert told.drops == {"bad": "disk full"}
        assert [remote.name for remote in mirror.live] == ["one", "good"]
    assert good.objects == one.objects
    assert len(bad.puts) == puts


def test_nothing_is_read_for_a_provider_that_was_dropped(one: Provider) -> None:
    class Counting(Provider):
        reads = 0

        def get_into(self, path: str, into: memoryview) -> int:
            self.reads += 1
            return super().get_into(path, into)

    source, bad = Counting("one"), Provider("bad")
    source.objects = one.objects
    bad.fail_after(1, ProviderError("disk full"))
    with catching_up(source, bad, arena=4096):
        assert source.reads == 2


def test_a_provider_whose_stray_index_cannot_be_removed_is_dropped(
    one: Provider, tmp_path: Path
) -> None:
    """Not a chunk of ours is put where another story's index would vouch for it."""

    class Undying(Provider):
        def delete(self, path: str) -> None:  # noqa: ARG002
            raise ProviderError("locked")

    two = Undying("two")
    tell(Journal(repo.ID, tmp_path / "two"), receipts(5, 3), two)
    before = dict(two.objects)
    with catching_up(one, two) as (mirror, told):
        assert told.drops == {"two": "locked"}
        assert [remote.name for remote in mirror.live] == ["one"]
    assert two.objects == before


def test_another_story_is_overwritten_and_vouched_for_no_more(
    one: Provider, journal: Journal
) -> None:
    two = copied(one, "two")
    found = story.read(two)
    with writing(journal, two) as writer:
        writer.go_on(found.references, found.receipts, found.receipts[:4])
        for new in receipts(7, 4)[4:]:
            put_chunks(two, new.number, story="other")
            writer.add(new)
        writer.flush()

    class Watched(Provider):
        def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
            super().put(path, body, digests)
            alone = copied(self, "alone")
            interrupted.check_true(story.read(alone))

    watched = Watched("two")
    watched.objects = dict(two.objects)
    with catching_up(one, watched):
        pass
    assert watched.objects == one.objects


def test_one_slot_is_enough(one: Provider) -> None:
    empty = Provider("empty")
    with catching_up(one, empty, arena=4096):
        pass
    assert empty.objects == one.objects


def test_no_memory_for_even_one_chunk_is_told(one: Provider) -> None:
    """It was begun with larger chunks than there is room for now."""
    why = "MEMORY_LIMIT leaves no room to copy chunks of 50 bytes"
    with pytest.raises(ConfigError, match=why), catching_up(one, Provider("empty"), arena=4095):
        pass


@pytest.mark.parametrize("before", [True, False])
def test_stop(one: Provider, *, before: bool) -> None:
    halt = threading.Event()

    class Stopping(Provider):
        def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
            super().put(path, body, digests)
            if len(self.puts) == 3:
                halt.set()

    if before:
        halt.set()
    empty = Stopping("empty")
    told = Told()
    with mirror_of(one, empty, progress=told) as mirror, pytest.raises(StoppedError):
        catch_up(mirror, told, halt, arena=4096)
    assert len(empty.puts) <= (0 if before else 4)
    assert told.drops == {}


def test_stop_in_a_pause(one: Provider, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody can be reached for a while; the user does not want to wait for that."""
    monkeypatch.setattr(sources, "_ROUNDS", 6)
    monkeypatch.setattr(sources, "_FIRST_PAUSE", 300.0)
    halt = threading.Event()

    class Unreachable(Provider):
        def get_into(self, path: str, into: memoryview) -> int:  # noqa: ARG002
            threading.Timer(0.1, halt.set).start()
            raise ProviderError("no route")

    source, told = Unreachable("one"), Told()
    source.objects = one.objects
    empty = Provider("empty")
    with (
        repo.soon(),
        mirror_of(source, empty, progress=told) as mirror,
        pytest.raises(StoppedError),
    ):
        catch_up(mirror, told, halt)


def test_stop_in_a_request_is_no_failure_of_the_provider(one: Provider) -> None:
    empty, told = Provider("empty"), Told()
    empty.fail_after(3)
    with mirror_of(one, empty, progress=told) as mirror, pytest.raises(StoppedError):
        catch_up(mirror, told)
    assert told.drops == {}


# --- complete backups -----------------------------------------------------------------------------


def test_the_manifest_is_copied_from_who_has_the_very_one(one: Provider) -> None:
    old, two, target = Provider("old"), Provider("two"), Provider("target")
    manifest = path(repository.MANIFEST)
    old.objects[manifest], two.objects[manifest] = b"another", b"the one"
    digest = hashlib.sha256(b"the one").hexdigest()
    with mirror_of(old, two, target) as mirror:
        made = Relay(repo.ID, mirror, Arena(4096), Told())
        made.copy_manifest([old, two], digest, ["target"])
        assert target.objects == {manifest: b"the one"}
        assert old.objects[manifest] == b"another"
        with pytest.raises(IntegrityError, match="changed meanwhile"):
            made.copy_manifest([old], digest, ["target"])


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with interrupted.machine(tmp_path_factory.mktemp("machine")) as made:
        yield made


def test_a_complete_backup_spreads_without_the_pool(machine: Machine, tmp_path: Path) -> None:
    """To one that has nothing, and to one where it was interrupted."""
    pool = Pool(tmp_path / "pool", stream_of(interrupted.files()))
    one, two, three = Provider("one"), Provider("two"), Provider("three")
    two.fail_after(7, ProviderError("disk full"))
    machine.run(pool, one, two)
    for remote in (one, two):
        remote.fail_after(None)
    pool.behave()
    marked: list[tuple[str, bool]] = []

    def mark(backup_id: str) -> None:
        marked.append((backup_id, any(repository.MANIFEST in name for name in three.objects)))

    done = machine.spread(one, two, three, mark=mark)
    assert marked == [(done.manifest.head.id, False)]  # no kill leaves it whole there, no base kept
    assert (done.sent_bytes, done.resumed_chunks) == (0, done.manifest.chunks)
    assert pool.sends == []
    assert one.puts == []
    assert len(three.puts) == len(one.objects)
    assert one.objects == two.objects == three.objects
    for remote in (two, three):
        assert machine.restored(remote) == pool.whole
    assert machine.spread(one, two, three).sent_bytes == 0
    assert machine.told.infos == ["tank/photos@monday is backed up already"]


def test_what_nobody_has_undamaged_is_sent_again(machine: Machine, tmp_path: Path) -> None:
    """All before it is copied, and none of it comes out of zfs again."""
    pool = Pool(tmp_path / "pool", stream_of(interrupted.files()))
    one, two = Provider("one"), Provider("two")
    pool.behave(most=7300, status=1)
    with pytest.raises(ZfsError):
        machine.run(pool, one)
    had = len(one.chunks)
    assert had > 4
    damage(one, had - 2)
    one.fail_after(None)
    pool.behave()
    done = machine.run(pool, one, two)
    assert machine.told.warnings[-1].endswith("it is sent again, with what follows it")
    assert done.resumed_chunks == had - 2
    assert done.sent_bytes < len(pool.whole)
    assert min(one.chunks) >= had - 3  # a chunk is cut at its last seam
    assert one.objects == two.objects
    assert machine.restored(one) == machine.restored(two) == pool.whole


def test_of_a_complete_backup_what_nobody_has_undamaged_is_an_error(
    machine: Machine, tmp_path: Path
) -> None:
    pool = Pool(tmp_path / "pool", stream_of(interrupted.files()))
    one, two = Provider("one"), Provider("two")
    machine.run(pool, one)
    damage(one, 1)
    with pytest.raises(IntegrityError, match=r"chunk-00000001.* cannot be had"):
        machine.spread(one, two)
    assert repository.MANIFEST not in two.puts


def damage(remote: Provider, number: int) -> None:
    name = next(each for each in remote.objects if repository.chunk_name(number) in each)
    remote.objects[name] = bytes(len(remote.objects[name]))


def test_a_provider_with_a_backup_of_its_own_is_left_alone(
    machine: Machine, tmp_path: Path
) -> None:
    """Two runs that did not know of each other finished it: both are whole, neither is lost."""
    pool = Pool(tmp_path / "pool", stream_of(interrupted.files()))
    one, two = Provider("one"), Provider("two")
    pool.behave(most=7300, status=1)
    with pytest.raises(ZfsError):
        machine.run(pool, one, two)
    pool.behave()
    machine.run(pool, one)
    machine.run(pool, two)
    assert one.objects != two.objects
    before = dict(two.objects)
    two.fail_after(None)
    machine.spread(one, two)
    assert two.objects == before
    assert two.puts == []
    assert any("two has another" in line for line in machine.told.infos)
    assert machine.restored(one) == machine.restored(two) == pool.whole
