"""Trying again: a bounded number of times, with growing, jittered pauses that a stop ends.

What counts are tries in a row that brought nothing: whoever gets on, if only by a few bytes a try,
gets to the end.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from offsite.errors import ProviderError, StoppedError
from offsite.rclone.errors import Failure

_LONGEST_TOLD_PAUSE = 600.0  # seconds; what a provider asks for is honoured up to here
_T = TypeVar("_T")


@dataclass(frozen=True)
class Retry:
    """How long to insist. Seconds; a request also gets a second for every ``slowest`` bytes.

    ``tries``: in a row that bring nothing.
    """

    tries: int = 6
    first_pause: float = 1.0
    longest_pause: float = 60.0
    timeout: float = 120.0
    slowest: int = 32 * 1024


OnRetry = Callable[[str, str, float], None]  # provider, what failed and why, pause in seconds


class _Tries:
    """Counts the tries in a row that failed and brought nothing: ``came`` tells bytes."""

    def __init__(self, came: Callable[[], int]) -> None:
        self.fruitless = 0
        self._came = came
        self._before = came()

    def failed(self) -> None:
        now = self._came()
        self.fruitless = 0 if now > self._before else self.fruitless + 1
        self._before = now


class Insistence:
    """Makes requests to one provider again until they succeed or it is no use."""

    def __init__(
        self,
        name: str,
        retry: Retry,
        stop: threading.Event,
        on_retry: OnRetry,
        explain: Callable[[Exception, str], str],
    ) -> None:
        self.name = name
        self.retry = retry
        self.stop = stop
        self._on_retry = on_retry
        self._explain = explain

    def insist(
        self, verb: str, path: str, once: Callable[[], _T], came: Callable[[], int] = lambda: 0
    ) -> _T:
        """Do ``once`` until it succeeds, cannot, or the tries or the user's patience end.

        ``came``: how many bytes all tries brought so far, if one goes on where the last one failed.
        """
        tries = _Tries(came)

        def attempt() -> _T:
            if self.stop.is_set():
                raise StoppedError(f"{self.name}: stopped")
            try:
                return once()
            except (Failure, ProviderError, OSError, http.client.HTTPException) as error:
                tries.failed()
                if self.stop.is_set():  # its rclone, or its connection, was ended under the request
                    raise StoppedError(f"{self.name}: stopped") from error
                if isinstance(error, (Failure, ProviderError)):
                    raise
                raise Failure(self._explain(error, path)) from error

        what = f"{verb} {path}".rstrip()
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_is_passing),
            stop=lambda _: tries.fruitless >= self.retry.tries,
            wait=lambda state: self._pause(state, tries.fruitless),
            sleep=tenacity.sleep_using_event(self.stop),
            before_sleep=lambda state: self._tell(what, state),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except Failure as failure:
            raise ProviderError(
                f"cannot {what} on {self.name}: {failure.reason}", hint=failure.hint
            ) from failure

    def _pause(self, state: tenacity.RetryCallState, fruitless: int) -> float:
        first = self.retry.first_pause
        growing: float = min(first * 2.0 ** max(fruitless - 1, 0), self.retry.longest_pause)
        jitter = tenacity.wait_random(0, first)
        failure = state.outcome.exception() if state.outcome else None
        told = failure.pause if isinstance(failure, Failure) else 0.0
        return max(growing + jitter(state), min(told, _LONGEST_TOLD_PAUSE))

    def _tell(self, what: str, state: tenacity.RetryCallState) -> None:
        failure = state.outcome.exception() if state.outcome else None
        self._on_retry(self.name, f"{what}: {failure}", state.upcoming_sleep)


def _is_passing(error: BaseException) -> bool:
    return isinstance(error, Failure) and not error.permanent
