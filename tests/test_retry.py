"""Trying again, without a provider: the pauses, and which tries count."""

from __future__ import annotations

import math
import random
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offsite.errors import IntegrityError, OffsiteError, ProviderError
from offsite.progress import Silent
from offsite.rclone.errors import Failure
from offsite.rclone.retry import Insistence, Retry
from offsite.sources import Sources
from tests.storage.memory import MemoryRemote

FIRST, LONGEST = 0.5, 3.0
RETRY = Retry(tries=6, first_pause=FIRST, longest_pause=LONGEST)


class Waited(threading.Event):
    """A stop that never comes, and for which nobody waits: ``seconds`` is how long one would."""

    seconds = 0.0

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds += timeout or 0
        return False


def failing(reasons: Iterator[str], came: list[int], brought: Iterator[int]) -> list[float]:
    """The pauses until it is given up, when tries fail for these reasons and bring so much."""
    pauses: list[float] = []

    def once() -> None:
        came[0] += next(brought, 0)
        raise Failure(next(reasons, "no"))

    requests = Insistence(
        "one", RETRY, Waited(), lambda *told: pauses.append(told[2]), lambda *_: ""
    )
    with pytest.raises(ProviderError, match="cannot read x on one: no"):
        requests.insist("read", "x", once, lambda: came[0])
    return pauses


def test_pauses_grow_are_bounded_and_differ_from_one_another() -> None:
    floors = [0.5, 1.0, 2.0, LONGEST, LONGEST]
    runs = [failing(iter(()), [0], iter(())) for _ in range(20)]
    for pauses in runs:
        assert len(pauses) == RETRY.tries - 1
        for floor, pause in zip(floors, pauses, strict=True):
            assert floor <= pause <= floor + FIRST
    for some in zip(*runs, strict=True):  # many clients must not come back at the same moment
        assert len({*some}) == len(runs)
        assert max(some) - min(some) > FIRST / 4


def test_only_tries_in_a_row_that_bring_nothing_count_and_lengthen_the_pause() -> None:
    pauses = failing(iter(()), [0], iter([0, 0, 0, 1, 1, 0, 0, 1]))
    floors = [0.5, 1.0, 2.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 1.0, 2.0, LONGEST, LONGEST]
    assert len(pauses) == len(floors)
    assert all(floor <= one <= floor + FIRST for floor, one in zip(floors, pauses, strict=True))


def test_a_pause_that_the_provider_tells_is_kept_up_to_ten_minutes() -> None:
    told = iter(["try again in 90 s", "retry after 1h0m0s"])
    first, second, *_ = failing(told, [0], iter(()))
    assert (first, second) == (90, 600)


class Faulty(MemoryRemote):
    """The only provider, as a restore has it: fails for this reason, or gives what is damaged."""

    def __init__(self, clock: Waited, reason: str | None) -> None:
        super().__init__("one")
        self._reason = reason
        self._requests = Insistence("one", Retry(), clock, lambda *_: None, lambda *_: "")

    def get_into(self, path: str, into: memoryview) -> int:
        def once() -> int:
            if self._reason is not None:
                raise Failure(self._reason)
            return len(into)

        return self._requests.insist("read", path, once)


def damaged() -> None:
    raise IntegrityError("another hash")


def bound(cell: str) -> tuple[int, int] | None:
    """What the table tells first: how many of how many seconds; None if it tells no time."""
    if cell.startswith("at once"):
        return 0, 1
    found = re.match(r"(\d+) (s|min)\b", cell)
    return (int(found[1]), {"s": 1, "min": 60}[found[2]]) if found else None


@pytest.mark.parametrize(
    ("row", "reason", "backups"),
    [
        ("connection reset or refused, 500, 503", "500 Internal Server Error", True),
        ("object listed, but not given", "404 Not Found", False),
        ("access refused, clock wrong", "403 Forbidden: AccessDenied", True),
        ("object damaged", None, True),
    ],
)
def test_it_is_given_up_when_the_architecture_says(
    monkeypatch: pytest.MonkeyPatch, row: str, reason: str | None, *, backups: bool
) -> None:
    """With all settings as they are, and every pause as long as it may be."""
    text = (Path(__file__).parents[1] / "ARCHITECTURE.md").read_text()
    cells = re.search(rf"^\| {re.escape(row)} \| (.*?) \| (.*?) \|", text, re.MULTILINE)
    assert cells is not None
    backup, restore = bound(cells[1]), bound(cells[2])
    assert (backup is not None) == backups
    monkeypatch.setattr(random, "random", lambda: 1.0)

    clock = Waited()  # of an upload that fails of it
    with pytest.raises(ProviderError):
        Faulty(clock, reason or "another hash").get_into("x", memoryview(bytearray(3)))
    assert backup in {None, (math.ceil(clock.seconds), 1)}

    clock = Waited()
    reading = Sources([Faulty(clock, reason)], Silent())
    reading._aborted = clock
    with pytest.raises(OffsiteError):
        reading.get("x", memoryview(bytearray(3)), damaged)
    assert restore is not None
    assert math.ceil(clock.seconds / restore[1]) == restore[0]
