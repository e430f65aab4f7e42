"""How long a restore will take at the pace that its providers have now: for --dry-run.

Some of the chunks that are needed are read from those that would give them, as many at once as a
restore reads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from offsite import repository
from offsite.errors import StoppedError
from offsite.landing import Step
from offsite.ordered import crew_of
from offsite.pipeline import DOWNLOADS
from offsite.remote import Remote

_SECONDS = 2.0  # for all providers together
_SAMPLES = 64  # objects; enough to fill the time with small ones


@dataclass
class Share:
    """What one provider would give: bytes, and the first of the objects."""

    size: int = 0
    paths: list[str] = field(default_factory=list)


def estimate(left: Sequence[Step], stop: threading.Event) -> float | None:
    """Seconds to fetch what is left; None if that is nothing, or nothing came in time.

    Raises StoppedError.
    """
    shares: dict[str, Share] = {}
    add(shares, left)
    remotes = {remote.name: remote for step in left for remote in step.link.remotes}
    return of(shares, remotes, stop)


def of(
    shares: Mapping[str, Share], remotes: Mapping[str, Remote], stop: threading.Event
) -> float | None:
    """The same for what each provider would give; ``remotes`` by name."""
    paces = {
        name: _pace(remotes[name], share.paths, _SECONDS / len(shares))
        for name, share in shares.items()
    }
    if stop.is_set():
        raise StoppedError("stopped")
    if not shares or not all(paces.values()):
        return None
    return sum(share.size / paces[name] for name, share in shares.items())


def add(shares: dict[str, Share], left: Sequence[Step]) -> None:
    """Add what each provider would give of these."""
    for step in left:
        for receipt in step.receipts:
            share = shares.setdefault(step.link.holder(receipt).name, Share())
            share.size += receipt.size
            if len(share.paths) < _SAMPLES:
                name = repository.chunk_name(receipt.number)
                share.paths.append(repository.object_path(step.link.id, name))


def _pace(remote: Remote, paths: Sequence[str], seconds: float) -> float:
    """Bytes a second."""
    began = time.monotonic()

    def sample(path: str) -> int:
        rest = began + seconds - time.monotonic()
        return remote.sample(path, rest) if rest > 0 else 0

    with crew_of(DOWNLOADS) as crew:
        came = sum(crew.map(sample, paths))
    return came / (time.monotonic() - began)
