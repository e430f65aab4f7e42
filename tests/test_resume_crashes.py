"""The machine dies at any moment of a run that goes on with a backup, and what is found then.

Every write to a provider is a moment; for each of them, with the journal of that moment or without
one, and with any of the providers: what the history tells is true, and the backup can be finished.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from offsite import indexes
from offsite.errors import ProviderError, ZfsError
from offsite.zfs.records import Kind
from tests import interrupted, repo
from tests.interrupted import (
    TOO_OLD,
    Film,
    Machine,
    Moment,
    Pool,
    Provider,
    check_true,
    stream_of,
)
from tests.thorough import THOROUGH, cases, some
from tests.zfs_streams import Record

SIZE = 1000
HASHES = ["sha256", None]
CUTS = [(0, 1000), (1, 1000), (1, 800), (1, 1600)]  # changed from there on; the size of a chunk


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with interrupted.machine(tmp_path_factory.mktemp("machine")) as made:
        yield made


@pytest.fixture(autouse=True)
def few_receipts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes come so often that a small stream has some."""
    monkeypatch.setattr(indexes, "RECEIPTS", 3)


def blocks(seed: int = 0, changed: int = 99) -> list[bytes]:
    """Few records and much noise: most chunks are of one size when they are stored.

    From the block ``changed`` on it is the stream of ``seed``.
    """
    found = [Record(Kind.OBJECT, 2, payload=b"a bonus ")]
    for at in range(3):
        data = repo.noise(5688, at + (seed if at >= changed else 0))
        found.append(Record(Kind.WRITE, 2, at << 17, data))
    return stream_of(found)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    return Pool(tmp_path / "pool", blocks())


def die(
    machine: Machine, pool: Pool, remotes: Sequence[Provider], most: int, size: int = SIZE
) -> None:
    """A run whose zfs gives ``most`` bytes."""
    pool.behave(most=most, status=1)
    with pytest.raises(ZfsError):
        machine.run(pool, *remotes, chunk_size=size)
    pool.behave()


def check(machine: Machine, pool: Pool, moments: Sequence[Moment], hash_kind: str | None) -> None:
    """Whoever goes on from there finds the truth, and finishes with all of the stream."""
    names = list(moments[0].objects)
    cases = [(names, False), (names, True)] + [([name], False) for name in names[1:]]
    for n, moment in enumerate(some(moments)):
        for chosen, lost in cases:
            moment.set_journals()
            if lost:
                machine.forget()
            remotes = [moment.provider(name, hash_kind) for name in chosen]
            if machine.begun(*remotes) is None:
                continue
            check_true(machine.history(*remotes))
            if n % (11 if THOROUGH else 4) == 3 and not lost:
                machine.run(pool, *remotes, chunk_size=SIZE)
                for remote in remotes:
                    assert machine.restored(remote) == pool.whole


@pytest.mark.parametrize(("hash_kind", "most"), cases(HASHES, [10_500, 12_700]))
def test_going_on_by_token(machine: Machine, pool: Pool, hash_kind: str | None, most: int) -> None:
    remote = Provider("one", hash_kind)
    die(machine, pool, [remote], most)
    film = Film(remote)
    machine.run(pool, remote, chunk_size=SIZE)
    check(machine, pool, film.end(), hash_kind)


@pytest.mark.parametrize(("hash_kind", "cut"), cases(HASHES, CUTS))
def test_another_stream(
    machine: Machine, pool: Pool, tmp_path: Path, hash_kind: str | None, cut: tuple[int, int]
) -> None:
    """With one chunk after the other stored anew, whose old receipts stand in indexes."""
    changed, size = cut
    remote = Provider("one", hash_kind)
    die(machine, pool, [remote], 12_700, size)
    new = Pool(tmp_path / "new", blocks(seed=50, changed=changed))
    new.behave(tokens=TOO_OLD)
    film = Film(remote)
    machine.run(new, remote, chunk_size=size)
    check(machine, new, film.end(), hash_kind)


# --- two providers --------------------------------------------------------------------------------


@pytest.fixture
def pair(request: pytest.FixtureRequest) -> tuple[Provider, Provider]:
    return Provider("one", request.param), Provider("two", request.param)


@pytest.mark.parametrize(("pair", "puts"), cases(HASHES, [0, 1, 3]), indirect=["pair"])
def test_one_provider_fails_in_the_run_that_goes_on(
    machine: Machine, pool: Pool, pair: tuple[Provider, Provider], puts: int
) -> None:
    """It has old chunks, and none or some of the new ones."""
    one, two = pair
    die(machine, pool, pair, 12_500)
    two.fail_after(puts, ProviderError("disk full"))
    film = Film(*pair)
    die(machine, pool, pair, 11_000)
    check(machine, pool, film.end(), one.hash_kind)
    two.fail_after(None)
    machine.run(pool, *pair, chunk_size=SIZE)
    assert one.objects == two.objects


@pytest.mark.parametrize(("pair", "most"), cases(HASHES, [8000, 15_000]), indirect=["pair"])
def test_two_stories_of_one_backup(
    machine: Machine, pool: Pool, tmp_path: Path, pair: tuple[Provider, Provider], most: int
) -> None:
    """One provider has what was begun, the other how it went on without the first."""
    one, two = pair
    die(machine, pool, pair, 12_500)
    new = Pool(tmp_path / "new", blocks(seed=50, changed=0))
    new.behave(most=most, status=1, tokens=TOO_OLD)
    with pytest.raises(ZfsError):
        machine.run(new, one, chunk_size=SIZE)
    new.behave(tokens=TOO_OLD)
    film = Film(*pair)
    machine.run(new, *pair, chunk_size=SIZE)
    check(machine, new, film.end(), one.hash_kind)
    assert one.objects == two.objects
