"""What has moved so far, how fast, and how long it may still take."""

from __future__ import annotations

import collections
from dataclasses import dataclass

from offsite.progress import ChunkDone, Plan

_WINDOW = 30.0  # seconds that the rate looks back


@dataclass
class ProviderTally:
    """One provider's share, in bytes; ``dropped`` says why it is left out."""

    stored: int = 0
    retries: int = 0
    trouble: str = ""  # the last retry's reason, until something is stored again
    dropped: str = ""


class Tally:
    """Counts what a verb reports. Times are monotonic seconds, given by the caller."""

    def __init__(self, plan: Plan, now: float) -> None:
        self.plan = plan
        self.chunks = plan.done_chunks
        self.plain_bytes = plan.done_bytes
        self.stored_bytes = plan.done_stored
        self.providers = {name: ProviderTally() for name in plan.providers}
        self._recent = collections.deque([(now, self.plain_bytes)])

    def add(self, done: ChunkDone, now: float) -> None:
        self.chunks += 1
        self.plain_bytes += done.plain_bytes
        self.stored_bytes += done.stored_bytes
        self._recent.append((now, self.plain_bytes))
        while len(self._recent) > 2 and now - self._recent[1][0] >= _WINDOW:  # noqa: PLR2004 - ends
            self._recent.popleft()

    def provider(self, name: str) -> ProviderTally:
        return self.providers.setdefault(name, ProviderTally())

    def expected_chunks(self) -> int:
        """Never less than what was seen; 0 if unknown."""
        return max(self.plan.chunks, self.chunks) if self.plan.chunks else 0

    def fraction(self) -> float | None:
        """0 to 0.99, by the estimate; None if there is none."""
        if not self.plan.stream_bytes:
            return None
        return min(0.99, self.plain_bytes / self.plan.stream_bytes)

    def rate(self, now: float) -> float:
        """Stream bytes per second, lately."""
        since, then = self._recent[0]
        return (self.plain_bytes - then) / (now - since) if now > since else 0.0

    def seconds_left(self, now: float) -> float | None:
        """None while nobody can tell."""
        rate = self.rate(now)
        left = self.plan.stream_bytes - self.plain_bytes
        return left / rate if rate > 0 and left > 0 else None
