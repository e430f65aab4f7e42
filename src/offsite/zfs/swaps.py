"""Whether what a bookmark tells of is still in its dataset's past: the pool's history knows.

``zfs receive -F`` takes a dataset back to an older snapshot and destroys the newer ones, but not
their bookmarks (``zfs rollback`` does that). ``zfs send -i`` from such a bookmark sends what is
younger than it; what the dataset was taken back to is older, and lacks in the stream: nobody
notices. No property of the dataset tells. The pool's log does: the receive is a clone that is
swapped with the dataset and then destroyed, and ``mintxg`` is the transaction group of the snapshot
that it was a clone of.
"""

from __future__ import annotations

import contextlib
import functools
import re
import threading
from collections import deque
from collections.abc import Iterator

from offsite.errors import OffsiteError
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.names import pool_of
from offsite.zfs.pipes import SendStream

_BUFFER = 256 << 10
_LONG = 600  # seconds for a log, of which a pool keeps up to 1 GiB
_MOST = 100_000  # events kept in memory, some 25 MB; a bookmark from before them is not vouched for

# Source: the callers of spa_history_log_internal_ds in OpenZFS module/zfs/dsl_*.c; seen on 2.1.11
# and 2.3.2.
_EVENT = re.compile(
    r"\[txg:\d+\] (?:"
    r"rename (?P<old>[^@]+) \(\d+\) -> (?P<new>[^@]+)"
    r"|clone (?P<clone>[^@]+) \(\d+\) origin=(?P<origin>[^@]+)@.*"
    r"|clone swap (?P<swapped>[^%]+)/%\w+ \(\d+\) .*"
    r"|destroy (?P<destroyed>[^%]+)/%\w+ \(\d+\) .*mintxg=(?P<mintxg>\d+)\).*"
    r"|bookmark (?P<marked>[^@]+) \(\d+\) name=(?P<name>\S+) creation_txg=(?P<txg>\d+)"
    r" target_snap=.*)"
)
_Event = dict[str, str]


def is_past(zfs: Zfs, bookmark: Point, before: int) -> bool | None:
    """Whether the dataset, up to a snapshot of the transaction group ``before``, has been what
    ``bookmark`` tells of. None if the log cannot be read, which takes root, or does not go back
    so far."""
    dataset, _, name = bookmark.full_name.partition("#")
    taken_to: int | None = None  # the transaction group that the swap which comes next went back to
    for event in reversed(_events(zfs, pool_of(dataset), before)):
        if dataset == event.get("destroyed"):
            taken_to = int(event["mintxg"])
        elif dataset == event.get("swapped"):
            if taken_to is None or taken_to < bookmark.createtxg:
                return False
            taken_to = None
        elif (event.get("marked"), event.get("name")) == (dataset, name):
            return int(event["txg"]) == bookmark.createtxg
        dataset = _called_before(dataset, event)
    return None


def _called_before(dataset: str, event: _Event) -> str:
    """What the dataset was called before this event; of a clone, whose past it has."""
    if "new" in event and f"{dataset}/".startswith(f"{event['new']}/"):
        return event["old"] + dataset.removeprefix(event["new"])
    return event["origin"] if dataset == event.get("clone") else dataset


@functools.lru_cache(maxsize=4)
def _events(zfs: Zfs, pool: str, before: int) -> tuple[_Event, ...]:  # noqa: ARG001 - a new key
    """What the log tells of swaps, names and bookmarks, oldest first; nothing if it cannot be had.

    Read again for every ``before``: what comes after a snapshot changes nothing of its past.
    """
    zpool = zfs.zpool
    if zpool is None:
        return ()
    found: deque[_Event] = deque(maxlen=_MOST)
    with contextlib.suppress(OffsiteError):
        with zpool.output("history", "-i", pool, name="zpool history") as stream:
            deadline = threading.Timer(_LONG, stream.kill)
            deadline.daemon = True
            deadline.start()
            try:
                found.extend(_read(stream))
            finally:
                deadline.cancel()
        return tuple(found)
    return ()


def _read(stream: SendStream) -> Iterator[_Event]:
    for line in _lines(stream):
        match = _EVENT.fullmatch(line.partition(" ")[2])
        if match:
            yield {key: value for key, value in match.groupdict().items() if value}


def _lines(stream: SendStream) -> Iterator[str]:
    buffer, rest = bytearray(_BUFFER), b""
    while count := stream.readinto(memoryview(buffer)):
        *lines, rest = (rest + buffer[:count]).split(b"\n")
        for line in lines:
            if b"[txg:" in line:
                yield line.decode(errors="replace").rstrip()
