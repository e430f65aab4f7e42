"""What a verb tells the world while it works: facts, never text for a terminal.

Verbs call these methods; ``console`` turns them into a live display, log lines or nothing. All
methods may be called from any thread and must return at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Plan:
    """What is about to move. Sizes in bytes; ``chunks`` is an estimate (0: unknown).

    ``file``: in words, where a restore is written to, if not into a dataset.
    ``done_chunks`` and ``done_bytes`` of it, ``done_stored`` bytes as stored, moved in an earlier
    run.
    """

    verb: str  # "backup" or "restore"
    dataset: str
    snapshot: str
    stream_bytes: int
    chunks: int
    providers: tuple[str, ...]
    done_chunks: int = 0
    done_bytes: int = 0
    done_stored: int = 0
    file: str | None = None


@dataclass(frozen=True)
class ChunkDone:
    """Chunk ``number`` (from 0) is stored on every live provider, or was joined to the stream."""

    number: int
    plain_bytes: int
    stored_bytes: int


class Progress(Protocol):
    def start(self, plan: Plan) -> None:
        """The work begins."""

    def chunk(self, done: ChunkDone) -> None:
        """One chunk is done."""

    def stored(self, provider: str, size: int) -> None:
        """``size`` bytes reached (backup) or came from (restore) ``provider``."""

    def retry(self, provider: str, what: str, pause: float) -> None:
        """A request failed and is made again after ``pause`` seconds."""

    def dropped(self, provider: str, why: str) -> None:
        """The provider is left out from now on."""

    def info(self, message: str) -> None:
        """A fact worth a log line."""

    def warning(self, message: str) -> None:
        """Something the user should mend, though the work goes on."""

    def finish(self) -> None:
        """The work ended, well or not."""

    def part(self, name: str, /) -> Progress:
        """For one of several works that go on at once: the dataset ``name``."""


class Silent:
    """A Progress that says nothing."""

    def start(self, plan: Plan) -> None: ...
    def chunk(self, done: ChunkDone) -> None: ...
    def stored(self, provider: str, size: int) -> None: ...
    def retry(self, provider: str, what: str, pause: float) -> None: ...
    def dropped(self, provider: str, why: str) -> None: ...
    def info(self, message: str) -> None: ...
    def warning(self, message: str) -> None: ...
    def finish(self) -> None: ...
    def part(self, _name: str, /) -> Progress:
        return self
