"""An interrupted restore goes on: the stream that a resume token asks for, from stored chunks."""

from __future__ import annotations

import bisect
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from offsite import pipeline
from offsite.errors import IntegrityError
from offsite.manifest import Receipt
from offsite.pipeline import Download
from offsite.progress import Progress, Silent
from offsite.zfs.resuming import Resuming
from offsite.zfs.token import Token
from offsite.zfs.walk import NoSeamError, Pieces, read_begin

Place = tuple[int, int]  # object, offset in it


@dataclass(frozen=True)
class Rest:
    """What is needed of a backup to go on from ``token``: the chunks from ``first`` on."""

    download: Download
    token: Token
    first: int

    def stream(
        self, halt: threading.Event, progress: Progress
    ) -> Generator[memoryview, None, None]:
        """What ``zfs receive -s`` takes; each piece is good until the next is asked for.

        Raises NoSeamError before the first one if the backup has no such place, and the errors of
        ``pipeline.fetch``.
        """
        try:
            yield from self._stream(halt, progress)
        except NoSeamError as error:
            error.hint = "throw away what was received of it, and begin anew: --restart"
            raise

    def _stream(
        self, halt: threading.Event, progress: Progress
    ) -> Generator[memoryview, None, None]:
        with closing(self._from(0, halt)) as pieces:
            _, begin = read_begin(Pieces(pieces))
        resuming = Resuming(begin, self.token.object, self.token.offset)
        receipt = self.download.receipts[self.first]
        start = receipt.first_record
        if resuming.everything or not self.first or start is None:
            start = len(begin)
        else:
            for at in (receipt.range_at, receipt.object_at):
                if at is not None:
                    with closing(self._from(at, halt)) as pieces:
                        resuming.govern(pieces)
            if receipt.object_at is None and self.token.offset:
                self._govern_from_afar(resuming, len(begin), halt)
        with closing(self._ahead_from(start, halt, progress)) as pieces:
            yield from resuming.stream(pieces)

    def _govern_from_afar(self, resuming: Resuming, start: int, halt: threading.Event) -> None:
        """From the chunk that must have the OBJECT, where no receipt tells its place.

        Old senders write the OBJECTs of a batch before the data of all of them, and who followed
        the stream may have begun in between. ``start``: where BEGIN ends.
        """
        place = (self.token.object, 0)
        found = _last_until(self.download.receipts, place, _object_of)
        if found is None or found.number >= self.first:
            return
        for at in (found.range_at, found.first_record):
            if at is not None:
                with closing(self._from(max(at, start), halt)) as pieces:
                    resuming.govern(pieces, past_data=True)

    def _from(self, position: int, halt: threading.Event) -> Generator[memoryview, None, None]:
        """The stream from ``position`` on, fetched chunk by chunk: few will be asked for."""
        receipts = self.download.receipts
        for receipt in receipts[_chunk_at(receipts, position) :]:
            alone = replace(self.download, receipts=[receipt])
            with closing(pipeline.fetch(alone, halt, Silent())) as views:
                for view in views:
                    yield view[max(position - receipt.offset, 0) :]

    def _ahead_from(
        self, position: int, halt: threading.Event, progress: Progress
    ) -> Generator[memoryview, None, None]:
        """The same, many chunks on their way."""
        receipts = self.download.receipts
        left = receipts[_chunk_at(receipts, position) :]
        with closing(
            pipeline.fetch(replace(self.download, receipts=left), halt, progress)
        ) as views:
            for receipt, view in zip(left, views, strict=True):
                yield view[max(position - receipt.offset, 0) :]


def first_chunk(receipts: Iterable[Receipt], token: Token) -> int:
    """The first that is still needed, by what they tell of their records."""
    found = _last_until(receipts, (token.object, token.offset), lambda one: _key(one, token))
    return found.number if found else 0


def _last_until(
    receipts: Iterable[Receipt], place: Place, key: Callable[[Receipt], Place | None]
) -> Receipt | None:
    """Not behind ``place``, of those that have a key, which ascend."""
    found = None
    for receipt in receipts:
        if (at := key(receipt)) is not None:
            if at > place:
                break
            found = receipt
    return found


def _chunk_at(receipts: Sequence[Receipt], position: int) -> int:
    found = bisect.bisect_right(receipts, position, key=lambda receipt: receipt.offset)
    if not found:
        raise IntegrityError("the backup has no chunks")
    return found - 1


def _key(receipt: Receipt, token: Token) -> Place | None:
    """A token with offset 0 may name an OBJECT that has no data (zfs/resuming.py)."""
    return receipt.first_write if token.offset else _object_of(receipt)


def _object_of(receipt: Receipt) -> Place | None:
    return None if receipt.first_object is None else (receipt.first_object, 0)
