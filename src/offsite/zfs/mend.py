"""Record checksums of a stream that is continued by another one, mended as it passes by.

A record's checksum is the state of Fletcher-4 over all bytes of the stream before it. Behind a join
the bytes are the incoming stream's and the sum is the outgoing one's. Fletcher-4 is linear, so the
difference of the two can be carried along without reading a payload, and damage that the incoming
stream had can still be told: its checksums stay as wrong as they were.

Source: dump_record in OpenZFS module/zfs/dmu_send.c sums a header up to its checksum, puts the
state there (but in BEGIN), and sums that and the payload; dmu_send_impl puts it into drr_end, too.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from offsite.zfs.fletcher import State, carry, difference
from offsite.zfs.records import CHECKSUM, CHECKSUM_AT, HEADER_SIZE, Kind
from offsite.zfs.stream import StreamError
from offsite.zfs.walk import Source, read_record

_MASK = (1 << 64) - 1
_WORDS = struct.Struct("<8I")  # a checksum as the words that are summed
_END = int(Kind.END)
_END_SUM_AT = 8  # in END: the state before its header (drr_end.drr_checksum)
_WORDS_BEFORE = CHECKSUM_AT // 4
_WORDS_BETWEEN = (CHECKSUM_AT - _END_SUM_AT - CHECKSUM.size) // 4


class Mender:
    """Mends records that follow a join, given both streams' Fletcher-4 states at their first byte.

    ``outgoing`` is the state of what was passed on so far, ``incoming`` that of the stream which
    the records are from. ``ended``: END was mended.
    """

    def __init__(self, outgoing: State, incoming: State) -> None:
        self.ended = False
        self._delta = difference(outgoing, incoming)  # behind the last checksum that was mended
        self._words = 0  # u32 words from there to the next header
        self._skip = 0  # bytes of payload that are still to come
        self._position = 0

    def mend(self, data: memoryview) -> int:
        """Mend the checksums in ``data`` (writable, contiguous bytes) in place.

        Returns how many bytes from its start on are done: all but a header that is cut by its end,
        which must be the start of the next call's data. Raises StreamError for a damaged header
        and for bytes after END; its offset counts from the first byte mended.
        """
        at, end = self._skip, len(data)
        while at + HEADER_SIZE <= end and not self.ended:
            at += HEADER_SIZE + self._mend_record(data, at)
        if self.ended and at < end:
            raise StreamError(self._position + at, "bytes follow the END record")
        done = min(at, end)
        self._skip = at - done
        self._position += done
        return done

    def finish(self) -> None:
        """Raise StreamError unless END was mended."""
        if not self.ended:
            raise StreamError(self._position, "it ended without an END record")

    def _mend_record(self, data: memoryview, at: int) -> int:
        """Mend the record whose header is at ``at``; the length of its payload."""
        kind, _, _, size = read_record(data, at, self._position + at)
        delta = self._delta
        if kind == _END:
            self.ended = True
            delta = carry(delta, self._words)
            delta = _add(data, at + _END_SUM_AT, delta, carry(delta, _END_SUM_AT // 4))
            delta = carry(delta, _WORDS_BETWEEN)
        else:
            delta = carry(delta, self._words + _WORDS_BEFORE)
        self._delta = _add(data, at + CHECKSUM_AT, delta, delta)
        self._words = size // 4
        return size


def _add(data: memoryview, at: int, amount: State, delta: State) -> State:
    """Add ``amount`` to the state stored at ``at``; what ``delta``, the one there, is behind it."""
    old = _WORDS.unpack_from(data, at)
    p, q, r, s = CHECKSUM.unpack_from(data, at)
    a, b, c, d = amount
    CHECKSUM.pack_into(data, at, p + a & _MASK, q + b & _MASK, r + c & _MASK, s + d & _MASK)
    a, b, c, d = delta
    for x, y in zip(old, _WORDS.unpack_from(data, at), strict=True):
        a += y - x
        b += a
        c += b
        d += c
    return a & _MASK, b & _MASK, c & _MASK, d & _MASK


class MendedSource:
    """A source's bytes from a record on, mended. Payloads are read straight into the caller's view.

    A stream that ends within a header ends here before it: END is missing either way.
    """

    def __init__(self, source: Source, mender: Mender) -> None:
        self._source = source
        self._mender = mender
        self._rest = memoryview(b"")  # of a mended header, whose start filled the last view

    def kill(self) -> None:
        """Wake a blocked reader."""
        self._source.kill()

    def readinto(self, into: memoryview) -> int:
        """Bytes read into ``into``; 0 at the end. Raises StreamError as ``Mender.mend``."""
        if self._rest:
            count = min(len(into), len(self._rest))
            into[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count
        done = filled = 0
        while filled < len(into):
            count = self._source.readinto(into[filled:])
            filled += count
            done += self._mender.mend(into[done:filled])
            if done == filled or count == 0:
                return done
        return done + self._split_header(into[done:])

    def _split_header(self, into: memoryview) -> int:
        """``into`` is full with the start of a header: nothing of it may leave before it is whole.

        Returns how many bytes of it are good now: all or none.
        """
        header = memoryview(bytearray(HEADER_SIZE))
        size = filled = len(into)
        header[:size] = into
        while filled < HEADER_SIZE:
            count = self._source.readinto(header[filled:])
            if count == 0:
                return 0
            filled += count
        self._mender.mend(header)
        into[:] = header[:size]
        self._rest = header[size:]
        return size


def mended(pieces: Iterable[memoryview], mender: Mender) -> Iterator[memoryview]:
    """The same bytes, mended in place, through END. Pieces are writable views, cut anywhere.

    What is yielded is good until the next is asked for. Raises StreamError as ``Mender.mend``, and
    if the pieces end before END.
    """
    held = bytearray()
    for piece in pieces:
        view = piece
        if held:
            start = view[: HEADER_SIZE - len(held)]
            held += start
            if len(held) < HEADER_SIZE:
                continue
            view = view[len(start) :]
            mender.mend(memoryview(held))
            yield memoryview(held)
        done = mender.mend(view)
        held = bytearray(view[done:])
        if done:
            yield view[:done]
    mender.finish()
