"""A send stream record by record, where two streams are to be joined.

Only what lies before a join is read this way: a record at a time, as a whole, compared with its
checksum, as receive_read_payload_and_next_header in OpenZFS module/zfs/dmu_recv.c does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from offsite.errors import ZfsError
from offsite.zfs import fletcher
from offsite.zfs.fletcher import State
from offsite.zfs.records import BEGIN, CHECKSUM, CHECKSUM_AT, HEADER_SIZE, Feature, read_header
from offsite.zfs.stream import Begin, Follower, StreamError

_REFUSED = Feature.DEDUP | Feature.REDACTED


class NoSeamError(ZfsError):
    """Two streams cannot be joined: what they are to have in common is missing in one of them."""

    def __init__(self, why: str) -> None:
        super().__init__(f"the stream cannot be resumed: {why}")


class Source(Protocol):
    """A stream of bytes, as ``pipeline.Source``."""

    def readinto(self, buffer: memoryview, /) -> int: ...
    def kill(self) -> None: ...


class Pieces:
    """Pieces of a stream, cut anywhere, as a source; iterating gives what was not read, uncopied.

    A piece is used only until the next one is asked for.
    """

    def __init__(self, pieces: Iterable[memoryview]) -> None:
        self._pieces = iter(pieces)
        self._piece = memoryview(b"")

    def readinto(self, into: memoryview) -> int:
        """Copy bytes into ``into``, as many as there are; 0 at the end."""
        while not self._piece:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._piece = piece
        count = min(len(into), len(self._piece))
        into[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count

    def kill(self) -> None:
        """Nothing to wake: who makes the pieces stops by himself."""

    def __iter__(self) -> Iterator[memoryview]:
        if self._piece:
            yield self._piece
        yield from self._pieces


@dataclass(frozen=True)
class Record:
    """A record after BEGIN. ``data``: header and payload, its own copy.

    ``kind``, ``object`` and ``offset`` as ``records.read_header`` tells them. ``before``: the
    stream's state at its first byte.
    """

    kind: int
    object: int
    offset: int
    data: memoryview
    before: State

    @property
    def after(self) -> State:
        """The stream's state after the record."""
        return state_after(self.data[CHECKSUM_AT:])


def state_after(tail: bytes | memoryview) -> State:
    """The state after a record, from its stored checksum followed by its payload."""
    stored: State = CHECKSUM.unpack_from(tail)
    return fletcher.update(stored, tail)


def read_begin(source: Source) -> tuple[Begin, bytes]:
    """What the stream says of itself, and the bytes of its BEGIN record, payload included.

    Raises NoSeamError if it ends there, and the errors of ``parse_begin``.
    """
    header = bytearray(HEADER_SIZE)
    if _fill(source, memoryview(header)) < HEADER_SIZE:
        raise NoSeamError("it ended in its BEGIN record")
    begin, size = parse_begin(header)
    payload = bytearray(size)
    if _fill(source, memoryview(payload)) < size:
        raise NoSeamError("it ended in its BEGIN record")
    return begin, bytes(header + payload)


def parse_begin(data: bytes | bytearray) -> tuple[Begin, int]:
    """What a BEGIN record says, and the length of its payload in bytes.

    Raises StreamError if it is none, and NoSeamError for a deduplicated or a redacted stream:
    joining them was never tried.
    """
    follower = Follower()
    follower.feed(memoryview(data)[:HEADER_SIZE])
    if follower.begin is None:
        raise StreamError(len(data), "it ended in its BEGIN record")
    size, *_ = BEGIN.unpack_from(data)
    if size % 4:
        raise StreamError(0, f"its BEGIN record has a payload of {size} bytes")
    if refused := follower.begin.features & _REFUSED:
        raise NoSeamError(f"it has the features {refused!r}")
    return follower.begin, int(size)


def read_record(data: memoryview | bytearray, at: int, position: int) -> tuple[int, int, int, int]:
    """``records.read_header``; its errors are StreamErrors."""
    try:
        found = read_header(data, at)
    except ValueError as error:
        raise StreamError(position, str(error)) from None
    if found[3] % 4:
        raise StreamError(position, f"a record with a payload of {found[3]} bytes")
    return found


def walk(source: Source, state: State | None = None) -> Iterator[Record]:
    """The records until the source ends: the last one's payload may be cut there.

    ``source`` begins at a record after BEGIN, and ``state`` is that of the stream there; if nobody
    knows it, the first record's header is trusted. Raises StreamError for a damaged record; its
    offset counts from the first one.
    """
    at = 0
    while True:
        header = bytearray(HEADER_SIZE)
        if _fill(source, memoryview(header)) < HEADER_SIZE:
            return
        kind, number, offset, size = read_record(header, 0, at)
        data = memoryview(header + bytearray(size))
        filled = _fill(source, data[HEADER_SIZE:])
        before = _before(header) if state is None else state
        if fletcher.update(before, data[:CHECKSUM_AT]) != CHECKSUM.unpack_from(data, CHECKSUM_AT):
            raise StreamError(at, "a record is damaged (checksum mismatch)")
        yield Record(kind, number, offset, data[: HEADER_SIZE + filled], before)
        state = state_after(data[CHECKSUM_AT:])
        at += len(data)


def _before(header: bytearray) -> State:
    """The state before a header, from its stored checksum: Fletcher-4 can be undone."""
    summed = fletcher.update(fletcher.ZERO, header[:CHECKSUM_AT])
    stored: State = CHECKSUM.unpack_from(header, CHECKSUM_AT)
    return fletcher.carry(fletcher.difference(stored, summed), -CHECKSUM_AT // 4)


def _fill(source: Source, into: memoryview) -> int:
    """Read until ``into`` is full or the source ends; how many bytes that gave."""
    done = 0
    while done < len(into) and (count := source.readinto(into[done:])):
        done += count
    return done
