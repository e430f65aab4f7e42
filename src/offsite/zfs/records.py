"""The records of a send stream: their fields, byte for byte.

A stream is BEGIN, records, END. Each is a header of 312 bytes (``dmu_replay_record_t``), then its
payload. Source: OpenZFS include/sys/zfs_ioctl.h, the same from 2.1 to 2.4. Byte order is the
sender's; BEGIN's magic tells it.
"""

from __future__ import annotations

import enum
import re
import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

HEADER_SIZE = 312
CHECKSUM_AT = 280  # where every header but BEGIN's has its checksum, drr_checksum: four u64
MAGIC = 0x2F5BACBAC  # DMU_BACKUP_MAGIC
COMPOUND = 2  # header type (bits 0 and 1 of BEGIN's version) of zfs send -R and -p

# What the kernel takes at most; a longer payload is damage, or an attack.
BLOCK_LIMIT = 16 << 20  # SPA_MAXBLOCKSIZE
BONUS_LIMIT = 16 << 10  # DNODE_MAX_SIZE
EMBEDDED_LIMIT = 112  # BPE_PAYLOAD_SIZE
BEGIN_LIMIT = 1 << 20  # a packed nvlist with encryption keys has about 1 KiB


class Kind(enum.IntEnum):
    """``drr_type``, a u32 at offset 0 of every header."""

    BEGIN = 0
    OBJECT = 1
    FREEOBJECTS = 2
    WRITE = 3
    FREE = 4
    END = 5
    WRITE_BYREF = 6
    SPILL = 7
    WRITE_EMBEDDED = 8
    OBJECT_RANGE = 9
    REDACT = 10


class Feature(enum.IntFlag):
    """``DMU_BACKUP_FEATURE_*``: what a receiver must know, BEGIN's version shifted right by 2."""

    DEDUP = 1 << 0
    SA_SPILL = 1 << 2
    EMBED_DATA = 1 << 16
    LZ4 = 1 << 17
    LARGE_BLOCKS = 1 << 19
    RESUMING = 1 << 20
    REDACTED = 1 << 21
    COMPRESSED = 1 << 22
    LARGE_DNODE = 1 << 23
    RAW = 1 << 24
    ZSTD = 1 << 25
    HOLDS = 1 << 26
    LONGNAME = 1 << 28
    LARGE_MICROZAP = 1 << 29


# What follows drr_type in a record, as struct codes with the fields' names (drr_ left out): 5x is
# five unused bytes, 4Q a zio_cksum_t. Source: the union in dmu_replay_record_t.
FIELDS = {
    Kind.BEGIN: "payloadlen:I magic:Q versioninfo:Q creation_time:Q type:I flags:I toguid:Q"
    " fromguid:Q toname:256s",
    Kind.OBJECT: "4x object:Q type:I bonustype:I blksz:I bonuslen:I checksumtype:B compress:B"
    " dn_slots:B flags:B raw_bonuslen:I toguid:Q indblkshift:B nlevels:B nblkptr:B 5x maxblkid:Q",
    Kind.FREEOBJECTS: "4x firstobj:Q numobjs:Q toguid:Q",
    Kind.WRITE: "4x object:Q type:I 4x offset:Q logical_size:Q toguid:Q checksumtype:B flags:B"
    " compressiontype:B 5x key_cksum:4Q key_prop:Q compressed_size:Q salt:8s iv:12s mac:16s",
    Kind.FREE: "4x object:Q offset:Q length:Q toguid:Q",
    Kind.END: "4x checksum:4Q toguid:Q",
    Kind.WRITE_BYREF: "4x object:Q offset:Q length:Q toguid:Q refguid:Q refobject:Q refoffset:Q"
    " checksumtype:B flags:B 6x key_cksum:4Q key_prop:Q",
    Kind.SPILL: "4x object:Q length:Q toguid:Q flags:B compressiontype:B 6x compressed_size:Q"
    " salt:8s iv:12s mac:16s type:I",
    Kind.WRITE_EMBEDDED: "4x object:Q offset:Q length:Q toguid:Q compression:B etype:B 6x"
    " lsize:I psize:I",
    Kind.OBJECT_RANGE: "4x firstobj:Q numslots:Q toguid:Q salt:8s iv:12s mac:16s flags:B 3x",
    Kind.REDACT: "4x object:Q offset:Q length:Q toguid:Q",
}


@dataclass(frozen=True)
class Layout:
    """Where the fields are, for one byte order. Structs are unpacked at a header's start.

    Those from ``kind`` on have only what it takes to follow a stream: they are quick.
    """

    order: Literal["<", ">"]
    whole: dict[Kind, struct.Struct]  # drr_type and all of FIELDS
    checksum: struct.Struct  # the exception: four words, to be unpacked at CHECKSUM_AT
    kind: struct.Struct  # drr_type
    begin: struct.Struct  # all of FIELDS
    write: struct.Struct  # drr_type, object, offset, logical size, compression, compressed size
    embedded: struct.Struct  # object, offset, psize
    object: struct.Struct  # object, bonuslen, raw_bonuslen
    spill: struct.Struct  # length, compressed size


def _layout(order: Literal["<", ">"]) -> Layout:
    def only(kind: Kind, *names: str) -> struct.Struct:
        return _struct(order, kind, names)

    return Layout(
        order=order,
        whole={kind: only(kind, "kind", *field_codes(kind)) for kind in Kind},
        checksum=struct.Struct(order + "4Q"),
        kind=struct.Struct(order + "I"),
        begin=only(Kind.BEGIN, *field_codes(Kind.BEGIN)),
        write=only(
            Kind.WRITE,
            *("kind", "object", "offset", "logical_size", "compressiontype", "compressed_size"),
        ),
        embedded=only(Kind.WRITE_EMBEDDED, "object", "offset", "psize"),
        object=only(Kind.OBJECT, "object", "bonuslen", "raw_bonuslen"),
        spill=only(Kind.SPILL, "length", "compressed_size"),
    )


def field_codes(kind: Kind) -> dict[str, str]:
    """A record's fields, in order: their names and struct codes."""
    return dict(re.findall(r"(\w+):(\w+)", FIELDS[kind]))


def _struct(order: str, kind: Kind, names: Collection[str]) -> struct.Struct:
    """Unpacks these fields of a record and skips the others."""
    codes = order
    for field in f"kind:I {FIELDS[kind]}".split():
        name, _, code = field.rpartition(":")
        codes += code if name in names else f"{struct.calcsize('=' + code)}x"
    return struct.Struct(codes)


LAYOUTS = (_layout("<"), _layout(">"))
_WITH_OFFSET = frozenset({Kind.FREE, Kind.REDACT, Kind.WRITE_BYREF})
_WITHOUT_OFFSET = frozenset({Kind.FREEOBJECTS, Kind.OBJECT_RANGE, Kind.END})

# As plain numbers: looking up an enum member costs more than unpacking the header.
_OBJECT, _WRITE, _EMBEDDED = int(Kind.OBJECT), int(Kind.WRITE), int(Kind.WRITE_EMBEDDED)
_SPILL = int(Kind.SPILL)


def read_header(
    layout: Layout, data: memoryview | bytearray | bytes, at: int
) -> tuple[int, int, int, int]:
    """(kind, object, offset, payload length) of the record after BEGIN whose header is at ``at``.

    ``object`` is the first one of a range; ``offset`` is in bytes of the object and 0 where a
    record has none. Raises ValueError for an unknown kind and for a length no sender makes.
    """
    kind, number, offset, size, compression, packed = layout.write.unpack_from(data, at)
    if kind == _WRITE:
        size, limit = packed if compression else size, BLOCK_LIMIT
    elif kind == _OBJECT:
        number, bonus, size = layout.object.unpack_from(data, at)
        offset, size, limit = 0, size or _round_up(bonus), BONUS_LIMIT
    elif kind == _EMBEDDED:
        number, offset, size = layout.embedded.unpack_from(data, at)
        size, limit = _round_up(size), EMBEDDED_LIMIT
    elif kind == _SPILL:
        size, packed = layout.spill.unpack_from(data, at)
        offset, size, limit = 0, packed or size, BLOCK_LIMIT
    elif kind in _WITH_OFFSET:
        number, offset, _ = layout.embedded.unpack_from(data, at)
        size = limit = 0
    elif kind in _WITHOUT_OFFSET:
        offset = size = limit = 0
    else:
        raise ValueError(f"record of unknown type {kind}" if kind else "a second BEGIN")
    if size > limit:
        raise ValueError(f"{Kind(kind).name} record with a payload of {size} bytes")
    return kind, number, offset, size


def _round_up(size: int) -> int:
    return (size + 7) & ~7
