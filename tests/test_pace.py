"""The time that --dry-run foretells."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from offsite import pace, repository
from offsite.errors import StoppedError
from offsite.landing import Step
from tests import repo, test_landing, whole
from tests.storage.memory import MemoryRemote


class Clock:
    """The time that pace.py sees: it passes only where a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pace, "time", made)
    return made


class Slow(MemoryRemote):
    """Gives ``rate`` bytes a second to each of those who read at once: always ``together``."""

    def __init__(
        self, clock: Clock, name: str, together: int = 4, longest: float = 0.1, rate: int = 1000
    ) -> None:
        super().__init__(name)
        self.longest = longest
        self.asked: list[str] = []
        self._clock = clock
        self._rate = rate
        self._seconds = 0.0
        self._together = threading.Barrier(together, self._pass, timeout=repo.LONG)

    def _pass(self) -> None:
        self._clock.now += self._seconds

    def sample(self, path: str, seconds: float) -> int:
        self.asked.append(path)
        self._seconds = min(seconds, self.longest)
        self._together.wait()
        return int(self._rate * self._seconds)


def step(number: int, *remotes: MemoryRemote, chunks: int = 4, lacking: Sequence[int] = ()) -> Step:
    """A link with chunks of 500 bytes, some of which the first remote lacks."""
    one = test_landing.link(number)
    (receipt,) = one.receipts
    receipts = [msgspec.structs.replace(receipt, number=n) for n in range(chunks)]
    gone = {repository.chunk_name(n) for n in lacking}
    names = {remote.name: gone if remote is remotes[0] else set() for remote in remotes}
    return Step(replace(one, receipts=receipts, remotes=remotes, lacking=names))


def test_as_fast_as_four_at_once(clock: Clock) -> None:
    one = Slow(clock, "one")
    left = [step(0, one), step(1, one, chunks=12)]
    seconds = pace.estimate(left, threading.Event())
    assert seconds == pytest.approx(16 * 500 / 4000)
    assert len(set(one.asked)) == 16


def test_who_gives_what(clock: Clock) -> None:
    one, two = Slow(clock, "one", 2), Slow(clock, "two", 2, rate=10_000)
    left = [step(0, one, two, lacking=[1, 2])]
    seconds = pace.estimate(left, threading.Event())
    assert seconds == pytest.approx(1000 / 2000 + 1000 / 20_000)
    for remote, numbers in ((one, (0, 3)), (two, (1, 2))):
        assert sorted(path.rpartition("/")[2] for path in remote.asked) == [
            repository.chunk_name(number) for number in numbers
        ]


def test_two_seconds_at_most(clock: Clock) -> None:
    """The last ones get what is left of them."""
    one, began = Slow(clock, "one", longest=0.375), clock.now
    pace.estimate([step(0, one, chunks=1000)], threading.Event())
    assert clock.now - began == 2
    assert len(one.asked) == 4 * 6


def test_no_estimate() -> None:
    stop = threading.Event()
    assert pace.estimate([], stop) is None
    assert pace.estimate([step(0, MemoryRemote("empty"))], stop) is None
    stop.set()
    with pytest.raises(StoppedError):
        pace.estimate([], stop)


def test_a_dry_run_tells_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "_SECONDS", 4.0)  # the machine may pause for two
    with whole.home(tmp_path / "home") as home:
        home.configure(ONE_REMOTE=str(tmp_path / "one"), SHARD_SIZE="1M")
        stream = repo.stream(77, [repo.noise(repo.CHUNK, seed) for seed in range(2000)])
        home.snapshot("monday", stream, guid=77)
        home.offsite("--backup", "tank/photos@monday")
        words = ("--restore", "tank/photos", "--to-file", str(tmp_path / "file"), "--dry-run")
        fast = home.offsite(*words, "--json").json["restore"]["estimated_seconds"]
        assert "/s measured now\n" in home.offsite(*words).stdout
        home.configure(
            ONE_REMOTE=str(tmp_path / "one"), SHARD_SIZE="1M", RCLONE_FLAGS="--bwlimit 64k"
        )
        slow = home.offsite(*words, "--json").json["restore"]["estimated_seconds"]
        assert 0 < fast < 30 < slow
