"""Trying again, without a provider: the pauses, and which tries count."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from offsite.errors import ProviderError
from offsite.rclone.errors import Failure
from offsite.rclone.retry import Insistence, Retry

FIRST, LONGEST = 0.5, 3.0
RETRY = Retry(tries=6, first_pause=FIRST, longest_pause=LONGEST)


class Waited(threading.Event):
    """A stop that never comes, and for which nobody waits."""

    def wait(self, timeout: float | None = None) -> bool:
        del timeout
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
