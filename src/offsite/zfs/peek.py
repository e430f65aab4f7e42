"""What a send stream would say of itself: zfs send is asked, and ended after its first record."""

from __future__ import annotations

import contextlib
import functools
import threading

from offsite.ordered import waking
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.records import HEADER_SIZE
from offsite.zfs.stream import Begin, Follower


class _EnoughError(Exception):
    """Leaving with an exception ends the zfs."""


@functools.lru_cache(maxsize=256)
def begin(zfs: Zfs, snapshot: Snapshot, base: Point | None, flags: tuple[str, ...]) -> Begin:
    """The BEGIN record of the increment from ``base``, or of the full stream; asked for once, for
    snapshots never change.

    Raises ZfsError and StoppedError.
    """
    follower, header = Follower(), memoryview(bytearray(HEADER_SIZE))
    send = zfs.send(snapshot.full_name, base=base.full_name if base else None, flags=flags)
    with (
        contextlib.suppress(_EnoughError),
        send as stream,
        waking(zfs.stop or threading.Event(), stream.kill),
    ):
        while count := stream.readinto(header[follower.position :]):
            follower.feed(header[follower.position :][:count])
            if follower.begin is not None:
                raise _EnoughError
    if follower.begin is None:
        follower.finish()  # it tells that the stream ended early
    assert follower.begin is not None
    return follower.begin
