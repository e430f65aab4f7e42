"""A resumed restore: the stream that continues an interrupted ``zfs receive -s``.

The target's token names a place (object, offset) in the stored stream. ``zfs receive`` takes on
from a BEGIN that names the same place, the records that govern it, and the stream from there on.
Of the stream it compares only that BEGIN with its state: a gap would be silent loss. So what
follows is proved here: the first data passed on is that of the very place, and then comes the rest
of the stored stream, record by record, through END.

What follows BEGIN, by the place (receiving a record twice is safe; see zfs_send.8, -t, and
module/zfs/dmu_send.c, setup_resume_points):

- (1, 0), where every token begins: everything. No object is before 1.
- (object, 0): the OBJECT_RANGE (raw streams only), and everything from OBJECT on. Since 2.2 a
  receive notes an OBJECT this way too, whose WRITE at 0 may not exist or be behind a SPILL.
- (object, offset): the OBJECT_RANGE, OBJECT, what directly follows it (its FREE to the end, a SPILL
  that is sent though unmodified), and everything from the WRITE or WRITE_EMBEDDED of the place on.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

from offsite.zfs import fletcher, nvlist
from offsite.zfs.fletcher import State
from offsite.zfs.mend import Mender, mended
from offsite.zfs.records import CHECKSUM, CHECKSUM_AT, HEADER_SIZE, Feature, Kind
from offsite.zfs.stream import StreamError
from offsite.zfs.walk import (
    NoSeamError,
    Pieces,
    Record,
    parse_begin,
    state_after,
    walk,
)

_START = (1, 0)  # the place of a token that has received nothing: dmu_recv_begin_sync
_WRITES = frozenset({Kind.WRITE, Kind.WRITE_EMBEDDED})

# Fields at their offsets in a header; see the table of records.FIELDS.
_RANGE = struct.Struct("<8xQQ")  # OBJECT_RANGE: the first object, how many
_TO_THE_END = b"\xff" * 8  # FREE: its length (DMU_OBJECT_END)
_UNMODIFIED = 4  # SPILL: its flags (DRR_SPILL_UNMODIFIED)


class Resuming:
    """Builds the stream for one token: for its object's ``number`` and its ``offset`` in bytes.

    ``begin`` is the stored stream's BEGIN with its payload. ``everything``: the stream is needed
    from the end of BEGIN on, and nothing else. Raises NoSeamError for a stream that cannot be
    resumed and StreamError for what is none.
    """

    def __init__(self, begin: bytes, number: int, offset: int) -> None:
        facts, size = parse_begin(begin)
        features = facts.features
        if len(begin) != HEADER_SIZE + size:
            raise StreamError(len(begin), "its BEGIN record is not whole")
        if Feature.RESUMING in features:
            raise NoSeamError("it is the rest of another stream")
        self.everything = (number, offset) <= _START
        self._stored_begin = begin
        self._begin = _resuming_begin(begin, number, offset)
        self._place = (number, offset)
        self._start = {Kind.OBJECT} if offset == 0 else _WRITES
        self._needs_range = Feature.RAW in features and not self.everything
        self._needs_object = offset != 0
        self._range: list[Record] = []
        self._object: list[Record] = []  # OBJECT and what belongs to it
        self._open = False  # the next record may belong to it, too

    def govern(self, pieces: Iterable[memoryview], *, past_data: bool = False) -> bool:
        """Keep what governs the place from ``pieces`` before it; whether all is known now.

        The pieces begin at a record: where the receipts say that the OBJECT_RANGE is (to be called
        first), and the OBJECT. They are read up to the first data at most (with ``past_data``, up
        to that of the place or behind it), and may end anywhere. What is behind the start of the
        pieces for ``stream`` is found there. Raises StreamError for damaged records.
        """
        for record in self._walk(Pieces(pieces)) if not self._governed() else ():
            self._note(record)
            far = not past_data or (record.object, record.offset) >= self._place
            if (record.kind in _WRITES and far) or self._governed():
                break
        return self._governed()

    def stream(self, pieces: Iterable[memoryview]) -> Iterator[memoryview]:
        """The stream to feed to ``zfs receive -s``.

        The pieces are writable and begin at a record: the one that starts what is passed on, or any
        before it (with ``everything``, the first after BEGIN). What governs the place is taken from
        there, too. They reach through END; each is used until the next is asked for, and what is
        yielded is good as long. Before the first byte: raises NoSeamError if the place is not there
        or what governs it is not known. Later: StreamError for a damaged stream, or an incomplete
        one.
        """
        source = Pieces(pieces)
        first = self._find(source)
        state = fletcher.update(fletcher.ZERO, self._begin)
        yield memoryview(self._begin)
        for record in (*self._range, *self._object):
            state = _sum(record.data, state)
            yield record.data
        mender = Mender(state, first.before)
        mender.mend(first.data)
        yield first.data
        yield from mended(source, mender)

    def _find(self, source: Pieces) -> Record:
        known = fletcher.update(fletcher.ZERO, self._stored_begin) if self.everything else None
        for record in self._walk(source, known):
            self._note(record)
            place = (record.object, record.offset)
            if self.everything or (record.kind in self._start and place == self._place):
                if self._governed():
                    return record
                raise NoSeamError("what governs its start was not found")
            if record.kind in _WRITES and place > self._place:
                break
        raise NoSeamError("the stored stream has no such place: {}:{}".format(*self._place))

    def _note(self, record: Record) -> None:
        """Keep the record if it governs the place."""
        number = self._place[0]
        if self._needs_range and record.kind == Kind.OBJECT_RANGE and _covers(record, number):
            self._range = [record]
        if self._needs_object and (record.kind, record.object) == (Kind.OBJECT, number):
            self._object, self._open = [record], True
        elif self._open and _belongs(record, number):
            self._object.append(record)
        else:
            self._open = False

    def _walk(self, source: Pieces, state: State | None = None) -> Iterator[Record]:
        if self._open:  # what came next is unknown
            self._object, self._open = [], False
        return walk(source, state)

    def _governed(self) -> bool:
        known = bool(self._object) and not self._open
        return (known or not self._needs_object) and bool(self._range or not self._needs_range)


def _resuming_begin(begin: bytes, number: int, offset: int) -> bytes:
    """As module/zfs/dmu_send.c makes it for ``zfs send -t`` (dmu_send_impl)."""
    own = begin[HEADER_SIZE:]
    try:
        payload = nvlist.insert(own, {"resume_object": number, "resume_offset": offset})
    except ValueError as error:
        raise StreamError(HEADER_SIZE, str(error)) from error
    header = bytearray(begin[:HEADER_SIZE])
    header[4:8] = len(payload).to_bytes(4, "little")
    version = int.from_bytes(header[16:24], "little") | Feature.RESUMING << 2
    header[16:24] = version.to_bytes(8, "little")
    return bytes(header) + payload


def _covers(record: Record, number: int) -> bool:
    """Whether an OBJECT_RANGE is that of the object."""
    first, count = _RANGE.unpack_from(record.data)
    return bool(first <= number < first + count)


def _belongs(record: Record, number: int) -> bool:
    """Whether a record that follows OBJECT is one which ``zfs send -t`` would repeat with it."""
    if record.object != number:
        return False
    if record.kind == Kind.FREE:
        return bytes(record.data[24:32]) == _TO_THE_END
    return record.kind == Kind.SPILL and bool(record.data[32] & _UNMODIFIED)


def _sum(data: memoryview, state: State) -> State:
    """Write a record's checksum, given the state before it; the state after it."""
    stored = fletcher.update(state, data[:CHECKSUM_AT])
    CHECKSUM.pack_into(data, CHECKSUM_AT, *stored)
    return state_after(data[CHECKSUM_AT:])
