"""Following a send stream as it passes by, without touching its payloads.

The follower proves that a stream is BEGIN … END and nothing else, and notes for every chunk where
its records are: what a resume or a search for one file's blocks needs later. Record checksums are
left to ``zfs receive``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from offsite.errors import ZfsError
from offsite.zfs.records import (
    BEGIN,
    BEGIN_LIMIT,
    COMPOUND,
    HEADER_SIZE,
    KIND,
    MAGIC,
    SWAPPED_MAGIC,
    Feature,
    Kind,
    read_header,
)
from offsite.zfs.seams import Place, Seam, Tally

_WINDOW = 4096  # OBJECT records remembered; old senders emit at most 32 before their data
_OBJSET_TYPES = {2: "filesystem", 3: "volume"}  # dmu_objset_type_t
_SUBSTREAM = 1

# As plain numbers: an enum member costs more to look up than all the rest.
_OBJECT, _WRITE, _EMBEDDED = int(Kind.OBJECT), int(Kind.WRITE), int(Kind.WRITE_EMBEDDED)
_RANGE, _END = int(Kind.OBJECT_RANGE), int(Kind.END)
_WRITES = frozenset({_WRITE, _EMBEDDED})
_SEAMS = frozenset({_OBJECT, *_WRITES})

_Object = tuple[int, int, int | None]  # number, position, position of its OBJECT_RANGE
_Mark = tuple[int, int, int, int]  # object, offset, begin, end


class StreamError(ZfsError):
    """The bytes are no plain ZFS send stream; ``offset`` is the byte where that shows."""

    def __init__(
        self,
        offset: int,
        why: str,
        *,
        says: str = "the stream is not a ZFS send stream",
        hint: str | None = None,
    ) -> None:
        super().__init__(f"{says} at byte {offset}: {why}", hint=hint)
        self.offset = offset


@dataclass(frozen=True)
class Begin:
    """What a stream says of itself. ``fromguid`` is 0 in a full one; ``creation``: unix seconds."""

    toname: str
    toguid: int
    fromguid: int
    type: str  # "filesystem" or "volume"
    creation: int
    features: Feature
    flags: int  # DRR_FLAG_*


@dataclass(frozen=True)
class ChunkIndex:
    """Where the records of one chunk are. Positions are bytes from the start of the stream.

    ``first_record`` is the first record that begins in the chunk. ``first_object`` (its number)
    and ``first_write`` (object, offset: of WRITE and WRITE_EMBEDDED) are the first of their kind
    whose header lies wholly in the chunk. ``object_at`` is the OBJECT record of ``first_write``,
    without one the last OBJECT that begins at or before ``first_record``. ``range_at`` is the
    OBJECT_RANGE (raw streams) that governs ``first_record`` or ``object_at``, whichever comes
    earlier: who reads on from the smallest of the three positions meets all that any record of the
    chunk depends on. ``seam`` is the last one that ends at or before the end of the chunk.
    """

    first_record: int | None
    first_object: int | None
    first_write: tuple[int, int] | None
    object_at: int | None
    range_at: int | None
    seam: Seam | None


class Follower:
    """Fed with a stream piece by piece, cut anywhere; memory and time do not grow with payloads.

    ``position``: bytes fed. ``begin``: known after the first header. ``counts``: records by Kind.
    ``ended``: END was seen and nothing after it. All errors are StreamError.
    """

    def __init__(self, begin: Begin | None = None, seam: Seam | None = None) -> None:
        """With ``begin`` and ``seam``: from behind that record on."""
        place = seam.place if seam else None
        self.position = place.end if place else 0
        self.begin = begin
        self.ended = False
        self.counts = [0] * len(Kind)
        self._next = self.position  # position of the next header
        self._held = bytearray()  # its first bytes, if it was cut
        self._cut: tuple[int, bytes] | None = None  # the last header that began in another chunk
        self._objects: deque[_Object] = deque(maxlen=_WINDOW)
        self._range_at = place.range_at if place else None
        self._latest: _Mark | None = None  # the last candidate for a seam
        self._complete: _Mark | None = None  # the one before it
        self._open: Tally | None = None  # of a candidate that the last chunk's end cut
        self._seam = seam
        if place and place.object_at is not None:
            self._objects.append((place.object, place.object_at, place.range_at))
        self._start_chunk()

    def feed(self, data: memoryview) -> None:
        """Follow the next bytes of the stream (contiguous, any length)."""
        view = data if data.format == "B" else data.cast("B")
        start, end = self.position, self.position + len(view)
        at = self._next
        if self._held:
            self._held += view[: HEADER_SIZE - len(self._held)]
            if len(self._held) == HEADER_SIZE:
                if at < self._chunk:
                    self._cut = at, bytes(self._held)
                at = self._follow(self._held, 0, at)
                self._held = bytearray()
        if not self._held:
            while at + HEADER_SIZE <= end and not self.ended:
                at = self._follow(view, at - start, at)
            if at < end:
                self._held += view[at - start :][:HEADER_SIZE]
        if self.ended and at < end:
            raise StreamError(at, "bytes follow the END record")
        self._next = at
        self.position = end

    def mark(self, chunk: memoryview) -> ChunkIndex:
        """What was seen since the last mark (or the start), which is ``chunk``."""
        if self._first_record is None and self._chunk <= self._next < self.position:
            self._note_first_record(self._next)
        self._find_seam(chunk)
        _, object_at, range_at = self._governing or (None, None, None)
        ranges = [at for at in (self._range_at_first, range_at) if at is not None]
        index = ChunkIndex(
            first_record=self._first_record,
            first_object=self._first_object,
            first_write=self._first_write,
            object_at=object_at,
            range_at=min(ranges, default=None),
            seam=self._seam,
        )
        self._start_chunk()
        return index

    def finish(self) -> None:
        """Raise StreamError unless the stream was complete."""
        if not self.ended:
            raise StreamError(self.position, "it ended without an END record")

    def _find_seam(self, chunk: memoryview) -> None:
        """The last seam that is complete, and a tally of the one that the chunk's end cuts."""
        latest = self._latest
        cut = latest is not None and latest[3] > self.position
        complete = self._complete if cut else latest
        begun = self._open
        if complete and (self._seam is None or complete[3] > self._seam.place.end):
            self._seam = self._tally(complete, begun, chunk).seam()
        self._open = self._tally(latest, begun, chunk) if latest and cut else None

    def _tally(self, mark: _Mark, begun: Tally | None, chunk: memoryview) -> Tally:
        if begun is None or begun.place.begin != mark[2]:
            number, _, at, _ = mark
            governing = (
                one for one in reversed(self._objects) if one[0] == number and one[1] <= at
            )
            _, object_at, range_at = next(governing, (None, None, None))
            begun = Tally(Place(*mark, object_at, range_at))
            if self._cut and self._cut[0] == mark[2]:
                begun.feed(*self._cut)
        begun.feed(self._chunk, chunk)
        return begun

    def _start_chunk(self) -> None:
        self._chunk = self.position
        self._first_record: int | None = None
        self._first_object: int | None = None
        self._first_write: tuple[int, int] | None = None
        self._governing: _Object | None = None
        self._range_at_first: int | None = None

    def _follow(self, data: memoryview | bytearray, inside: int, at: int) -> int:
        """Take in the header at ``data[inside:]``, position ``at``; the position of the next."""
        if self.begin is None:
            return self._follow_begin(data, inside, at)
        try:
            kind, number, offset, size = read_header(data, inside)
        except ValueError as error:
            raise StreamError(at, str(error)) from None
        self.counts[kind] += 1
        after = at + HEADER_SIZE + size
        if kind in _SEAMS:
            self._complete, self._latest = self._latest, (number, offset, at, after)
            if kind == _OBJECT:
                self._objects.append((number, at, self._range_at))
                if self._first_object is None and at >= self._chunk:
                    self._first_object = number
        elif kind == _RANGE:
            self._range_at = at
        elif kind == _END:
            self.ended = True
        if self._first_write is None and at >= self._chunk:
            self._note(kind, number, offset, at)
        return after

    def _follow_begin(self, data: memoryview | bytearray, inside: int, at: int) -> int:
        size, magic, version, time, kind, flags, toguid, fromguid, name = BEGIN.unpack_from(
            data, inside
        )
        if magic == SWAPPED_MAGIC:
            raise StreamError(
                at,
                "it is from a big-endian machine (SPARC, s390x, older POWER)",
                says="the stream is none that Offsite handles",
                hint="only little-endian ones are; zfs send and zfs receive alone take both",
            )
        if magic != MAGIC:
            raise StreamError(at, "it does not start with a BEGIN record")
        if version & 3 == COMPOUND:
            raise StreamError(at, "a compound stream (zfs send -R or -p) holds several")
        if version & 3 != _SUBSTREAM or KIND.unpack_from(data, inside)[0] != Kind.BEGIN:
            raise StreamError(at, "it does not start with a BEGIN record")
        if size > BEGIN_LIMIT or kind not in _OBJSET_TYPES:
            raise StreamError(at, f"its BEGIN record is damaged (type {kind}, {size} bytes)")
        self.begin = Begin(
            toname=name.partition(b"\0")[0].decode(errors="backslashreplace"),
            toguid=toguid,
            fromguid=fromguid,
            type=_OBJSET_TYPES[kind],
            creation=time,
            features=Feature(version >> 2),
            flags=flags,
        )
        self.counts[Kind.BEGIN] += 1
        if at >= self._chunk:
            self._note_first_record(at)
        return at + HEADER_SIZE + int(size)

    def _note(self, kind: int, number: int, offset: int, at: int) -> None:
        """The chunk's first WRITE was not seen before this record, which begins in the chunk."""
        if self._first_record is None:
            self._note_first_record(at)
        if kind in _WRITES:
            self._first_write = (number, offset)
            self._governing = None
            for entry in reversed(self._objects):
                if entry[0] == number:
                    self._governing = entry
                    break

    def _note_first_record(self, at: int) -> None:
        self._first_record = at
        self._range_at_first = self._range_at
        self._governing = self._objects[-1] if self._objects else None
