"""Many remotes as one, for reading: the best provider first, another one for what it fails at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import tenacity

from offsite.errors import IntegrityError, OffsiteError, ProviderError, StoppedError
from offsite.progress import Progress
from offsite.remote import Remote

# Rounds over all remotes. Where nobody can be reached, patience helps; a damaged transfer deserves
# a second try, damaged storage would not gain from more.
_ROUNDS = 6
_ROUNDS_DAMAGED = 2
ANOTHER_POINT = "restore another point (offsite --list), or bring this object back from a copy"
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0  # seconds between rounds


class Sources:
    """Reads from ``remotes``, given best first; a remote that fails goes to the end of the queue.

    ``hint``: what to do about an object that nobody has undamaged. ``bytes_from`` counts what each
    gave (bytes).
    """

    def __init__(
        self, remotes: Sequence[Remote], progress: Progress, *, hint: str | None = None
    ) -> None:
        self.bytes_from = dict.fromkeys((remote.name for remote in remotes), 0)
        self._remotes = tuple(remotes)
        self._queue = list(remotes)
        self._progress = progress
        self._hint = hint
        self._lock = threading.Lock()
        self._aborted = threading.Event()

    def get(self, path: str, into: memoryview, check: Callable[[], None]) -> None:
        """Fill ``into`` with the object, which must have its length and pass ``check``.

        Raises IntegrityError if some provider has the object but nobody has it undamaged,
        ProviderError if nobody can be reached.
        """
        rounds = tenacity.Retrying(
            stop=_enough,
            wait=tenacity.wait_exponential(_FIRST_PAUSE, max=_LONGEST_PAUSE)
            + tenacity.wait_random(0, _FIRST_PAUSE),
            sleep=tenacity.sleep_using_event(self._aborted),
            retry=tenacity.retry_if_exception_type((IntegrityError, ProviderError)),
            reraise=True,
        )
        rounds(self._get_anywhere, path, into, check)

    def abort(self) -> None:
        """End all requests in flight; nothing can be read afterwards."""
        self._aborted.set()
        for remote in self._remotes:
            remote.close()

    def _get_anywhere(self, path: str, into: memoryview, check: Callable[[], None]) -> None:
        reasons: dict[str, OffsiteError] = {}
        with self._lock:
            queue = tuple(self._queue)
        for remote in queue:
            if self._aborted.is_set():
                raise StoppedError("stopped")
            try:
                self._get(remote, path, into, check)
            except (IntegrityError, ProviderError) as error:
                reasons[remote.name] = error
                self._demote(remote, path, error)
            else:
                return
        told = "; ".join(f"{name}: {error}" for name, error in reasons.items())
        told = f"{path} cannot be had: {told}"
        if any(isinstance(error, IntegrityError) for error in reasons.values()):
            raise IntegrityError(told, hint=self._hint)
        hints = [error.hint for error in reasons.values() if error.hint]
        raise ProviderError(told, hint=hints[0] if hints else None)

    def _get(self, remote: Remote, path: str, into: memoryview, check: Callable[[], None]) -> None:
        length = remote.get_into(path, into)
        if length != len(into):
            raise IntegrityError(f"has {length} bytes instead of {len(into)}")
        check()
        with self._lock:
            self.bytes_from[remote.name] += length
        self._progress.stored(remote.name, length)

    def _demote(self, remote: Remote, path: str, error: OffsiteError) -> None:
        with self._lock:
            first = self._queue[0] is remote
            self._queue.remove(remote)
            self._queue.append(remote)
        if first and len(self._queue) > 1:
            self._progress.warning(
                f"{remote.name} failed at {path} ({error}); going on with {self._queue[0].name}"
            )


def _enough(state: tenacity.RetryCallState) -> bool:
    failed = state.outcome is not None and state.outcome.exception()
    damaged = isinstance(failed, IntegrityError)
    return state.attempt_number >= (_ROUNDS_DAMAGED if damaged else _ROUNDS)
