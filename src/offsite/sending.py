"""One backup's stream from zfs into stored chunks, whole or the rest of it.

Three ways, the best that serves: a plain send; ``zfs send -t`` with a token made from what is
stored, joined to it (zfs/join.py); the whole stream sent again and compared, chunk by chunk, with
what is stored.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from offsite import figures, pipeline, seal
from offsite.errors import ZfsError
from offsite.history import History
from offsite.indexes import IndexWriter
from offsite.manifest import Head, Receipt
from offsite.ordered import waking
from offsite.pipeline import Engine, SealJob, Source, Upload
from offsite.progress import Plan, Progress
from offsite.seal import Sealed
from offsite.zfs import seams, token
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.failures import CommandError, Reason
from offsite.zfs.join import Joined, join
from offsite.zfs.records import Feature
from offsite.zfs.seams import Place, Seam
from offsite.zfs.stream import Begin, Follower
from offsite.zfs.token import Token
from offsite.zfs.walk import NoSeamError


class _UnservedError(ZfsError):
    """zfs does not go on from what is stored."""


@dataclass(frozen=True)
class Sender:
    """Everything that sending the snapshot of one backup takes; an increment is from ``base``."""

    zfs: Zfs
    snapshot: Snapshot
    base: str | None
    engine: Engine[SealJob, Sealed]
    indexes: IndexWriter
    halt: threading.Event
    progress: Progress

    @property
    def head(self) -> Head:
        return self.indexes.head

    def send(self) -> int:
        """Send all of it; the bytes that came out of zfs. Raises ZfsError, StoppedError, …"""
        return self._compare([])

    def send_rest(self, history: History) -> int:
        """Send what ``history`` lacks, by a token if zfs serves one. As ``send``."""
        stored = len(history.receipts)
        if history.seam_receipt is not None and history.features is not None:
            self._tell(stored, "token")
            try:
                return self._by_token(history)
            except _UnservedError as error:
                self.progress.info(f"zfs cannot go on from there ({error})")
        self.indexes.features = history.features
        self.indexes.go_on(history.references, history.receipts, history.receipts)
        self._tell(stored, "re-send and compare")
        return self._compare(history.receipts)

    def _tell(self, stored: int, engine: str) -> None:
        head = self.head
        expected = max(-(-head.estimate // head.chunk_size), stored)
        known = (
            f"{stored} of ~{expected} chunks" if head.estimate else figures.count(stored, "chunk")
        )
        self.progress.info(
            f"Resuming backup of {self.snapshot.full_name}: {known} are stored ({engine})"
        )

    def _by_token(self, history: History) -> int:
        """Raises _UnservedError, before anything changes, if zfs does not go on from the seam."""
        kept = history.up_to_seam()
        seam, begin = _seam(kept[-1]), _begin(self.snapshot, self.head, history.features or 0)
        joined: Joined | None = None
        failure: ZfsError | None = None
        try:
            with self.zfs.resume(token.encode(_token(seam, begin))) as stream:
                try:
                    with waking(self.halt, stream.kill):
                        joined = join(stream, seam, begin)
                except NoSeamError as error:
                    failure = error  # zfs's own reason, if it has one, is told on leaving
                else:
                    follower = Follower(begin, seam)
                    self._go_on(history, kept, joined, follower)
        except ZfsError as error:
            if joined is not None or (stream.ended and stream.bytes_read):
                raise  # it died on the way: it may well serve the next time
            if not stream.bytes_read and not _is_refusal(error):
                raise  # ssh, a signal, a suspended pool: that is not about the token
            # Of a stream that began we know best why it does not fit; zfs only that we closed it.
            failure = failure if failure is not None and stream.bytes_read else error
        if failure is not None:
            raise _UnservedError(str(failure)) from failure
        self._check_whole(follower)
        return stream.bytes_read

    def _go_on(
        self, history: History, kept: Sequence[Receipt], joined: Joined, follower: Follower
    ) -> None:
        self.indexes.features = history.features
        self.indexes.go_on(history.references, history.receipts, kept)
        self._store(joined.source, follower, self._upload(kept, behind=True))

    def _compare(self, known: Sequence[Receipt]) -> int:
        def differs(number: int) -> None:
            self.progress.info(f"The stream is another one from chunk {number} on")
            references = self.indexes.references
            self.indexes.go_on(references, known, known[:number])

        flags, follower = tuple(self.head.send.flags), Follower()
        with self.zfs.send(self.snapshot.full_name, base=self.base, flags=flags) as stream:
            self._store(stream, follower, self._upload(known, differs=differs))
        self._check_whole(follower)
        return stream.bytes_read

    def _upload(
        self,
        known: Sequence[Receipt],
        *,
        behind: bool = False,
        differs: Callable[[int], None] | None = None,
    ) -> Upload:
        size = self.head.chunk_size
        sealed = seal.sealed_bound(size, self.indexes.author.chunks)
        return Upload(
            self.head.id, size, sealed, self.engine, self.indexes.mirror, known, behind, differs
        )

    def _store(self, source: Source, follower: Follower, upload: Upload) -> None:
        receipts = pipeline.store(source, follower, upload, self.halt, self.progress)
        with closing(receipts):
            for receipt in receipts:
                if follower.begin is not None:
                    self.indexes.features = int(follower.begin.features)
                self.indexes.add(receipt)

    def _check_whole(self, follower: Follower) -> None:
        """Zfs send's status was 0; the stream itself must say the same, and be of this snapshot."""
        follower.finish()
        begin, base = follower.begin, self.head.base
        whole = (self.snapshot.guid, base.snapshot_guid if base else 0)
        if begin is None or (begin.toguid, begin.fromguid) != whole:
            name = self.snapshot.full_name
            raise ZfsError(f"zfs sent another snapshot than {name}; nothing was signed")
        self.indexes.features = int(begin.features)


def plan(head: Head, names: Sequence[str], stored: Sequence[Receipt]) -> Plan:
    """What is going to move, in all and still."""
    return Plan(
        verb="backup",
        dataset=head.dataset.name,
        snapshot=head.snapshot.name,
        stream_bytes=head.estimate,
        chunks=-(-head.estimate // head.chunk_size),
        providers=tuple(names),
        done_chunks=len(stored),
        done_bytes=sum(receipt.length for receipt in stored),
        done_stored=sum(receipt.size for receipt in stored),
    )


def _is_refusal(error: ZfsError) -> bool:
    """Whether zfs would say the same to this token the next time."""
    return not isinstance(error, CommandError) or error.reason in {
        Reason.TOO_OLD,
        Reason.UNSERVED,
    }


def _seam(receipt: Receipt) -> Seam:
    found = receipt.seam
    assert found is not None
    place = Place(
        found.object, found.offset, found.begin, found.end, found.object_at, found.range_at
    )
    return seams.Seam(place, bytes.fromhex(found.checksum), found.sha256)


def _begin(snapshot: Snapshot, head: Head, features: int) -> Begin:
    """What the stored stream's BEGIN said."""
    return Begin(
        toname=snapshot.full_name,
        toguid=head.snapshot.guid,
        fromguid=head.base.snapshot_guid if head.base else 0,
        type=head.dataset.type,
        creation=snapshot.creation,
        features=Feature(features),
        flags=0,
    )


def _token(seam: Seam, begin: Begin) -> Token:
    bare = Token(seam.place.object, seam.place.offset, 0, begin.toguid, begin.toname)
    return replace(bare, fromguid=begin.fromguid).with_features(begin.features)
