"""Send streams made field by field, summed and looked at plainly: a second opinion on Fletcher-4.

Records are laid out as the table of OpenZFS include/sys/zfs_ioctl.h says, little-endian. The sums
here are the definition, word by word.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from offsite.zfs.records import HEADER_SIZE, MAGIC, Feature, Kind, read_header

MASK = (1 << 64) - 1
STATE = struct.Struct("<4Q")
WRITES = {Kind.WRITE, Kind.WRITE_EMBEDDED}
SEAMS = {*WRITES, Kind.OBJECT}
TO_THE_END = MASK
TOGUID, FROMGUID = 77, 66

State = tuple[int, int, int, int]


@dataclass(frozen=True)
class Record:
    """``length``: of a FREE; of an OBJECT_RANGE or FREEOBJECTS, how many. ``flags``: of a SPILL."""

    kind: Kind
    object: int = 0
    offset: int = 0
    payload: bytes = b""
    length: int = 0
    flags: int = 0

    def __bytes__(self) -> bytes:
        """The record without its checksum."""
        out = bytearray(HEADER_SIZE)

        def put(at: int, form: str, *values: int) -> None:
            struct.pack_into("<" + form, out, at, *values)

        size = len(self.payload)
        put(0, "IIQ", self.kind, 0, self.object)
        match self.kind:
            case Kind.OBJECT:
                put(16, "IIII", 19, 44, 131072, size)
            case Kind.WRITE:
                put(24, "QQQ", self.offset, 131072, TOGUID)
                put(50, "B", 15)
                put(96, "Q", size)
            case Kind.SPILL:
                put(16, "QQB", size, TOGUID, self.flags)
            case Kind.WRITE_EMBEDDED:
                put(16, "QQ", self.offset, 131072)
                put(48, "II", 131072, size)
            case Kind.OBJECT_RANGE | Kind.FREEOBJECTS:
                put(16, "Q", self.length)
            case _:
                put(16, "QQQ", self.offset, self.length, TOGUID)
        return bytes(out) + self.payload


END = bytes(Record(Kind.END))


def begin(features: int = Feature.COMPRESSED, payload: bytes = b"") -> bytes:
    name = b"tank/photos@monday"
    version = features << 2 | 1
    fields = (0, len(payload), MAGIC, version, 1700000000, 2, 4, TOGUID, FROMGUID, name)
    return struct.pack("<IIQQQIIQQ256s", *fields) + payload


def fletcher(state: State, data: bytes | bytearray) -> State:
    a, b, c, d = state
    for (word,) in struct.iter_unpack("<I", data):
        a = (a + word) & MASK
        b = (b + a) & MASK
        c = (c + b) & MASK
        d = (d + c) & MASK
    return a, b, c, d


def summed(parts: Sequence[bytes]) -> bytes:
    """BEGIN, records, END as one stream, with the right checksums."""
    state = fletcher((0, 0, 0, 0), parts[0])
    result = [parts[0]]
    for part in parts[1:]:
        data = bytearray(part)
        if data[0] == Kind.END:
            data[8:40] = STATE.pack(*state)
        state = fletcher(state, data[:280])
        data[280:312] = STATE.pack(*state)
        state = fletcher(state, data[280:])
        result.append(bytes(data))
    return b"".join(result)


def split(stream: bytes) -> list[bytes]:
    """BEGIN, records, END with their payloads."""
    at = HEADER_SIZE + int.from_bytes(stream[4:8], "little")
    parts = [stream[:at]]
    while at < len(stream):
        *_, size = read_header(memoryview(stream), at)
        parts.append(stream[at : at + HEADER_SIZE + size])
        at += len(parts[-1])
    return parts


def is_sound(stream: bytes) -> bool:
    """Whether all checksums are right, END's both included."""
    return summed(split(stream)) == stream


@dataclass(frozen=True)
class Place:
    """What a part is, as the code under test reads headers."""

    kind: Kind
    object: int
    offset: int


def place(part: bytes) -> Place:
    kind, number, offset, _ = read_header(memoryview(part), 0)
    return Place(Kind(kind), number, offset)


def seams(parts: Sequence[bytes]) -> list[int]:
    """Which of the parts a resume can join."""
    return [n for n, part in enumerate(parts) if n and place(part).kind in SEAMS]


def governing(parts: Sequence[bytes], at: int) -> list[bytes]:
    """The records that ``zfs send -t`` repeats before the WRITE ``parts[at]``."""
    number = place(parts[at]).object
    ranges = [part for part in parts[1:at] if part[0] == Kind.OBJECT_RANGE]
    opened = next(n for n in range(at, 0, -1) if place(parts[n]) == Place(Kind.OBJECT, number, 0))
    found = [*ranges[-1:], parts[opened]]
    for part in parts[opened + 1 : at]:
        to_the_end = part[0] == Kind.FREE and part[24:32] == b"\xff" * 8
        unmodified = part[0] == Kind.SPILL and part[32] == 4
        if place(part).object != number or not (to_the_end or unmodified):
            break
        found.append(part)
    return found


def resumed(parts: Sequence[bytes], at: int, *, earlier: int = 0) -> bytes:
    """What ``zfs send -t`` gives for the seam ``parts[at]``, with ``earlier`` WRITEs before it."""
    seam = place(parts[at])
    head = with_begin(parts[0], features_of(parts[0]) | Feature.RESUMING, b"some nvlist.")
    if seam.kind == Kind.OBJECT:
        ranges = [part for part in parts[1:at] if part[0] == Kind.OBJECT_RANGE]
        return summed([head, *ranges[-1:], *parts[at:]])
    start = at
    while earlier and (prior := place(parts[start - 1])).kind in WRITES:
        if prior.object != seam.object:
            break
        start, earlier = start - 1, earlier - 1
    return summed([head, *governing(parts, at), *parts[start:]])


def features_of(head: bytes) -> int:
    return int.from_bytes(head[16:24], "little") >> 2


def with_begin(head: bytes, features: int, payload: bytes) -> bytes:
    """BEGIN with other features and payload."""
    changed = bytearray(head[:HEADER_SIZE])
    changed[4:8] = len(payload).to_bytes(4, "little")
    changed[16:24] = (features << 2 | 1).to_bytes(8, "little")
    return bytes(changed) + payload


def pieces(data: bytes, sizes: Sequence[int]) -> Iterator[memoryview]:
    """Writable pieces of these sizes, over and over; one's memory is used for the next."""
    at, turn = 0, 0
    memory = memoryview(bytearray(max(sizes)))
    while at < len(data):
        piece = data[at : at + sizes[turn % len(sizes)]]
        memory[: len(piece)] = piece
        yield memory[: len(piece)]
        at, turn = at + len(piece), turn + 1


class Cut:
    """A source that gives at most these many bytes at a time, over and over."""

    def __init__(self, data: bytes, sizes: Sequence[int]) -> None:
        self.left = memoryview(data)
        self.killed = False
        self._sizes = sizes
        self._turn = 0

    def readinto(self, into: memoryview) -> int:
        size = self._sizes[self._turn % len(self._sizes)]
        self._turn += 1
        count = min(size, len(into), len(self.left))
        into[:count] = self.left[:count]
        self.left = self.left[count:]
        return count

    def kill(self) -> None:
        self.killed = True


sizes = st.lists(st.integers(1, 700) | st.sampled_from([1, 311, 312, 313, 1 << 20]), min_size=1)
_payload = st.integers(1, 12).flatmap(lambda n: st.binary(min_size=4 * n, max_size=4 * n))
_eights = st.integers(1, 6).flatmap(lambda n: st.binary(min_size=8 * n, max_size=8 * n))


@st.composite
def _object(draw: st.DrawFn, number: int) -> list[Record]:
    found = [Record(Kind.OBJECT, number, payload=draw(_eights))]
    if draw(st.booleans()):
        found.append(Record(Kind.FREE, number, 1 << 20, length=TO_THE_END))
    if draw(st.booleans()):
        found.append(Record(Kind.SPILL, number, payload=draw(_payload), flags=4))
    for offset in draw(st.lists(st.integers(0, 40), max_size=4, unique=True).map(sorted)):
        kind = draw(st.sampled_from([Kind.WRITE, Kind.WRITE, Kind.WRITE_EMBEDDED, Kind.FREE]))
        if kind == Kind.FREE:
            found.append(Record(kind, number, offset << 17, length=131072))
        else:
            data = draw(_eights if kind == Kind.WRITE_EMBEDDED else _payload)
            found.append(Record(kind, number, offset << 17, payload=data))
    return found


@st.composite
def stream_records(draw: st.DrawFn) -> list[Record]:
    """The records of a stream, plain or raw, sorted as senders do; one object at least has data."""
    raw = draw(st.booleans())
    numbers = draw(st.lists(st.integers(1, 100), max_size=4, unique=True).map(sorted))
    found: list[Record] = []
    for number in numbers:
        first = number // 32 * 32
        if raw and Record(Kind.OBJECT_RANGE, first, length=32) not in found:
            found.append(Record(Kind.OBJECT_RANGE, first, length=32))
        found += draw(_object(number))
    if raw:
        found.append(Record(Kind.OBJECT_RANGE, 128, length=32))
    found += [Record(Kind.OBJECT, 130), Record(Kind.WRITE, 130, 0, draw(_payload))]
    return [*found, Record(Kind.FREEOBJECTS, 131, length=7)]


def parts_of(records: Sequence[Record]) -> list[bytes]:
    """The records between BEGIN and END, with the right checksums."""
    raw = any(record.kind == Kind.OBJECT_RANGE for record in records)
    head = begin(Feature.COMPRESSED | (Feature.RAW if raw else 0))
    return split(summed([head, *map(bytes, records), END]))
