"""Seams: the records where a resumed send stream can be joined to what is stored already.

Source: a token names an object and an offset (get_receive_resume_token_impl in OpenZFS
module/zfs/dsl_dataset.c), which zfs send -t begins at (dmu_send.c, setup_resume_points). Fields and
their places are records.FIELDS.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from offsite.zfs.records import CHECKSUM_AT, HEADER_SIZE


@dataclass(frozen=True)
class Place:
    """A WRITE, WRITE_EMBEDDED or OBJECT (``offset`` 0): positions in the stream, header included.

    ``object_at`` and ``range_at`` are the positions of the OBJECT and (raw streams) OBJECT_RANGE
    that govern it.
    """

    object: int
    offset: int
    begin: int
    end: int
    object_at: int | None = None
    range_at: int | None = None


@dataclass(frozen=True)
class Seam:
    """A complete record at ``place``, and what tells it from any other.

    ``checksum`` is what its header stores (32 bytes): the state of the stream before them.
    ``sha256`` (hex) is of the rest of the record: 280 bytes of header, and the payload.
    """

    place: Place
    checksum: bytes
    sha256: str


class Tally:
    """Makes the Seam of the record at ``place`` out of the pieces of a stream."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self._checksum = bytearray()
        self._sha256 = hashlib.sha256()
        self._next = place.begin

    def feed(self, at: int, data: bytes | memoryview) -> None:
        """Take from ``data``, which begins at position ``at`` of the stream, what is the record's.

        Pieces come in the order of the stream; they may overlap, but leave no gap in the record.
        """
        checksum, payload = self.place.begin + CHECKSUM_AT, self.place.begin + HEADER_SIZE
        self._sha256.update(self._cut(at, data, checksum))
        self._checksum += self._cut(at, data, payload)
        self._sha256.update(self._cut(at, data, self.place.end))

    def seam(self) -> Seam:
        """The seam, once the whole record was fed."""
        assert self._next == self.place.end
        return Seam(self.place, bytes(self._checksum), self._sha256.hexdigest())

    def _cut(self, at: int, data: bytes | memoryview, end: int) -> bytes | memoryview:
        begin = self._next
        stop = max(begin, min(end, at + len(data)))
        self._next = stop
        return data[begin - at : stop - at]
