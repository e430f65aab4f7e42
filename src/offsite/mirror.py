"""Many remotes as one: every object goes to every live provider, a failing one is left behind."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

from offsite.digests import KINDS, cheapest, digests
from offsite.errors import OffsiteError, ProviderError, StoppedError
from offsite.progress import Progress
from offsite.remote import Remote


class Mirror:
    """Writes to ``remotes``, with ``in_flight`` requests at a time to each.

    A remote that fails after its own retries is dropped: told once, never used again. When none is
    left, ProviderError.
    """

    def __init__(self, remotes: Sequence[Remote], *, in_flight: int, progress: Progress) -> None:
        self.failed: dict[str, OffsiteError] = {}
        self._remotes = tuple(remotes)
        self._progress = progress
        self._lock = threading.Lock()
        self._senders = {
            remote.name: ThreadPoolExecutor(in_flight, thread_name_prefix=remote.name)
            for remote in remotes
        }

    @property
    def live(self) -> tuple[Remote, ...]:
        """The remotes that have everything so far."""
        return tuple(remote for remote in self._remotes if remote.name not in self.failed)

    @property
    def hash_kinds(self) -> frozenset[str]:
        """The hashes of stored objects that the live providers shall confirm: one of each."""
        cheap = (cheapest(remote.hash_kinds, KINDS) for remote in self.live)
        return frozenset(kind for kind in cheap if kind is not None)

    def put(
        self,
        path: str,
        body: memoryview,
        digests: Mapping[str, str],
        *,
        only: Collection[str] | None = None,
    ) -> None:
        """Store one object everywhere; returns when every live remote has it.

        ``only``: on the remotes of these names.
        """
        puts = [
            (remote, self._senders[remote.name].submit(self._put, remote, path, body, digests))
            for remote in self.live
            if only is None or remote.name in only
        ]
        self._await(puts)

    def put_document(self, path: str, data: bytes) -> None:
        """Store a small object everywhere, as ``put``."""
        puts = [
            (remote, self._senders[remote.name].submit(put_bytes, remote, path, data))
            for remote in self.live
        ]
        self._await(puts)

    def drop(self, name: str, why: OffsiteError) -> None:
        """Leave a provider out from now on."""
        with self._lock:
            if name in self.failed:
                return
            self.failed[name] = why
        self._progress.dropped(name, str(why))

    def abort(self) -> None:
        """End all requests in flight; nothing can be stored afterwards."""
        for remote in self._remotes:
            remote.close()

    def close(self) -> None:
        """Forget what is still queued and end the sender threads; the remotes stay open."""
        for sender in self._senders.values():
            sender.shutdown(wait=False, cancel_futures=True)

    def _put(self, remote: Remote, path: str, body: memoryview, digests: Mapping[str, str]) -> None:
        if remote.name in self.failed:
            return
        remote.put(path, body, digests)
        self._progress.stored(remote.name, len(body))

    def _await(self, puts: list[tuple[Remote, Future[None]]]) -> None:
        wait([future for _, future in puts])
        for remote, future in puts:
            try:
                future.result()
            except StoppedError:
                raise
            except OffsiteError as error:
                self.drop(remote.name, error)
        self.check_live()

    def check_live(self) -> None:
        """Raise what ended the last remote, if none is left."""
        if self.live:
            return
        if len(self.failed) == 1:
            raise next(iter(self.failed.values()))
        hints = dict.fromkeys(why.hint for why in self.failed.values() if why.hint)
        raise ProviderError(
            "no provider is left to write to: "
            + "; ".join(f"{name}: {why}" for name, why in self.failed.items()),
            hint="; ".join(hints) or "mend that, then run the same command again",
        )


def put_bytes(remote: Remote, path: str, data: bytes) -> None:
    """Store a small object; its size and the provider's own hash are compared."""
    kind = cheapest(remote.hash_kinds, KINDS)
    remote.put(path, data, digests([kind] if kind else [], data))
