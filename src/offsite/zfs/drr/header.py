"""A record's header of 312 bytes, as a value and back.

Where the fields are: records.FIELDS (dmu_replay_record_t of OpenZFS include/sys/zfs_ioctl.h). How
long the payload is: ``records.read_header``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any, get_args

from offsite.zfs.drr.kinds import Record
from offsite.zfs.records import (
    BEGIN,
    BEGIN_LIMIT,
    CHECKSUM_AT,
    HEADER_SIZE,
    KIND,
    MAGIC,
    WHOLE,
    Kind,
    field_codes,
    read_header,
)

_CLASSES: dict[Kind, type[Record]] = {each.kind: each for each in get_args(Record)}
_CODES = {kind: field_codes(kind) for kind in Kind}


def measure(header: bytes | memoryview) -> tuple[Kind, int]:
    """The kind of the record with this header, and the length of the payload that follows it.

    Raises ValueError for an unknown kind (with its number) and for a length no sender makes.
    """
    if len(header) != HEADER_SIZE:
        raise ValueError(f"a header of {len(header)} bytes")
    size, magic, *_ = BEGIN.unpack_from(header)
    if KIND.unpack_from(header)[0] != Kind.BEGIN:
        number, _, _, size = read_header(header, 0)
    elif magic != MAGIC or size > BEGIN_LIMIT:
        raise ValueError(f"BEGIN record with magic {magic:x} and a payload of {size} bytes")
    else:
        number = Kind.BEGIN
    if size % 4:
        raise ValueError(f"{Kind(number).name} record with a payload of {size} bytes, no u32 words")
    return Kind(number), size


def parse(header: bytes | memoryview) -> Record:
    """The record with this header, whose checksum is not looked at.

    Raises ValueError as ``measure`` does, and for a header with more in it than its record's
    fields: no sender makes one (``dump_record`` and its callers start from zeros).
    """
    kind, _ = measure(header)
    whole = WHOLE[kind]
    flat = whole.unpack_from(header)
    size = HEADER_SIZE if kind is Kind.BEGIN else CHECKSUM_AT
    if whole.pack(*flat).ljust(size, b"\0") != header[:size]:
        raise ValueError(f"{kind.name} record with something after or between its fields")
    rest = iter(flat[1:])
    fields = {name: _value(code, rest) for name, code in _CODES[kind].items()}
    return _CLASSES[kind](**fields)


def pack(record: Record) -> bytes:
    """A header, the checksum in it zero.

    Raises ValueError for a record that could not be parsed again as it is.
    """
    flat: list[Any] = [record.kind]
    for name, code in _CODES[record.kind].items():
        flat += getattr(record, name) if code == "4Q" else [getattr(record, name)]
    try:
        header = WHOLE[record.kind].pack(*flat).ljust(HEADER_SIZE, b"\0")
    except struct.error as error:
        raise ValueError(f"{record.kind.name} record: {error}") from None
    if parse(header) != record:
        raise ValueError(f"a field does not fit: {record}")
    return header


def payload_length(record: Record) -> int:
    """How many bytes follow its header. Raises ValueError as ``pack`` does."""
    return measure(pack(record))[1]


def _value(code: str, flat: Iterator[Any]) -> Any:
    if code == "4Q":
        return tuple(islice(flat, 4))
    value = next(flat)
    return value.rstrip(b"\0") if code == "256s" else value
