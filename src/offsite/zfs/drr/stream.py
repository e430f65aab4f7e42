"""Whole send streams: read record by record with every checksum proved, and written with them.

A stream's state is its Fletcher-4 so far. Every header but BEGIN's ends with the state of all that
is before those last 32 bytes; END has in a field of its own, too, the state before its header.
Sources in OpenZFS: ``dump_record`` and ``dmu_send_impl`` in module/zfs/dmu_send.c,
``receive_read_payload_and_next_header`` and ``receive_read_record`` in module/zfs/dmu_recv.c.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol, runtime_checkable

from offsite.zfs import fletcher
from offsite.zfs.drr.header import measure, pack, parse
from offsite.zfs.drr.kinds import Begin, End, Record
from offsite.zfs.fletcher import ZERO, State
from offsite.zfs.records import CHECKSUM, CHECKSUM_AT, HEADER_SIZE
from offsite.zfs.stream import Follower, StreamError


@runtime_checkable
class Readable(Protocol):
    """A binary file, or ``pipes.SendStream``."""

    def readinto(self, buffer: memoryview, /) -> int: ...


class _Pieces:
    """Pieces of a stream, cut anywhere, as a Readable."""

    def __init__(self, pieces: Iterable[bytes | memoryview]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readinto(self, into: memoryview) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = memoryview(piece)
        count = min(len(into), len(self._rest))
        into[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def read(source: Readable | Iterable[bytes | memoryview]) -> Iterator[tuple[Record, bytes]]:
    """The records of a stream, each with its payload; memory: one record.

    A header is proved before it is given, BEGIN's and payloads only with the next header: who acts
    on a payload reads on first. END comes last, and only if nothing follows it.
    Raises StreamError for what ``Follower`` refuses (an unknown kind, a length no sender makes, a
    compound or a big-endian stream, no END), for what ``parse`` refuses, and for checksums that
    are wrong or, as receivers put up with, zero.
    """
    stream = source if isinstance(source, Readable) else _Pieces(source)
    follower, state = Follower(), ZERO
    while not follower.ended:
        at = follower.position
        header = _take(stream, HEADER_SIZE, follower)
        try:
            record, (_, size) = parse(header), measure(header)
        except ValueError as error:
            raise StreamError(at, str(error)) from None
        payload = _take(stream, size, follower)
        if not isinstance(record, Begin):
            state = _prove(state, record, header, at)
            header = header[CHECKSUM_AT:]
        state = fletcher.update(state, header + payload)
        if follower.ended:
            _take(stream, 1, follower)  # raises if there is one
        yield record, payload


def write(records: Iterable[tuple[Record, bytes]]) -> Iterator[bytes]:
    """The stream of these records and payloads, with all checksums computed.

    What an End says of its checksum is not looked at. Raises ValueError for what ``pack``
    refuses and a payload without the length that its record tells; StreamError for records that
    are not BEGIN … END.
    """
    follower, state = Follower(), ZERO
    for record, payload in records:
        header, state = _seal(state, record, payload)
        follower.feed(memoryview(header))
        follower.feed(memoryview(payload))
        yield header
        if payload:
            yield payload
    follower.finish()


def _take(stream: Readable, size: int, follower: Follower) -> bytes:
    """The next bytes, which the follower has seen. Raises StreamError if the stream ends in them.

    After END there is none to end: then what is returned says nothing.
    """
    data = memoryview(bytearray(size))
    done = 0
    while done < size and (count := stream.readinto(data[done:])):
        done += count
    follower.feed(data[:done])
    if done < size:
        follower.finish()
    return bytes(data)


def _prove(state: State, record: Record, header: bytes, at: int) -> State:
    """The state before the header's checksum, which says the same."""
    if isinstance(record, End) and record.checksum != state:
        raise StreamError(at, "the END record has the checksum of another stream")
    state = fletcher.update(state, header[:CHECKSUM_AT])
    if CHECKSUM.unpack_from(header, CHECKSUM_AT) != state:
        raise StreamError(at, f"checksum mismatch: {record.kind.name} record or what is before it")
    return state


def _seal(state: State, record: Record, payload: bytes) -> tuple[bytes, State]:
    """The record's header with its checksums, and the state after its payload."""
    header = pack(replace(record, checksum=state) if isinstance(record, End) else record)
    _, size = measure(header)
    if len(payload) != size:
        raise ValueError(f"{record.kind.name} record with {len(payload)} bytes instead of {size}")
    if isinstance(record, Begin):
        return header, fletcher.update(ZERO, header + payload)
    state = fletcher.update(state, header[:CHECKSUM_AT])
    checksum = CHECKSUM.pack(*state)
    return header[:CHECKSUM_AT] + checksum, fletcher.update(state, checksum + payload)
