"""The records of a send stream: their fields, byte for byte.

A stream is BEGIN, records, END. Each is a header of 312 bytes (``dmu_replay_record_t``), then its
payload. Source: OpenZFS include/sys/zfs_ioctl.h, the same from 2.1 to 2.4. Byte order is the
sender's, and BEGIN's magic tells it; only little-endian streams are handled, for no machine of the
other order was ever at hand.
"""

from __future__ import annotations

import enum
import re
import struct

HEADER_SIZE = 312
# The last 32 bytes of every header but BEGIN's, drr_checksum: the Fletcher-4 state of the stream up
# to them, four u64. Source: dump_record in module/zfs/dmu_send.c.
CHECKSUM_AT = HEADER_SIZE - 32
MAGIC = 0x2F5BACBAC  # DMU_BACKUP_MAGIC
SWAPPED_MAGIC = int.from_bytes(MAGIC.to_bytes(8, "big"), "little")  # of a big-endian sender
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


def field_codes(kind: Kind) -> dict[str, str]:
    """A record's fields, in order: their names and struct codes."""
    return dict(re.findall(r"(\w+):(\w+)", FIELDS[kind]))


def _struct(kind: Kind, *wanted: str) -> struct.Struct:
    """Unpacks these fields of a record at its start, and skips the others."""
    codes = "<"
    for field in f"kind:I {FIELDS[kind]}".split():
        name, _, code = field.rpartition(":")
        codes += code if name in wanted else f"{struct.calcsize('=' + code)}x"
    return struct.Struct(codes)


CHECKSUM = struct.Struct("<4Q")  # at CHECKSUM_AT
KIND = struct.Struct("<I")
BEGIN = _struct(Kind.BEGIN, *field_codes(Kind.BEGIN))
WHOLE = {kind: _struct(kind, "kind", *field_codes(kind)) for kind in Kind}  # drr_type and all

# Only what it takes to follow a stream: they are quick.
_OF_WRITE = _struct(
    Kind.WRITE, "kind", "object", "offset", "logical_size", "compressiontype", "compressed_size"
)
_OF_EMBEDDED = _struct(Kind.WRITE_EMBEDDED, "object", "offset", "psize")
_OF_OBJECT = _struct(Kind.OBJECT, "object", "bonuslen", "raw_bonuslen")
_OF_SPILL = _struct(Kind.SPILL, "length", "compressed_size")
_WITH_OFFSET = frozenset({Kind.FREE, Kind.REDACT, Kind.WRITE_BYREF})
_WITHOUT_OFFSET = frozenset({Kind.FREEOBJECTS, Kind.OBJECT_RANGE, Kind.END})

# As plain numbers: looking up an enum member costs more than unpacking the header.
_OBJECT, _WRITE, _EMBEDDED = int(Kind.OBJECT), int(Kind.WRITE), int(Kind.WRITE_EMBEDDED)
_SPILL = int(Kind.SPILL)


def read_header(data: memoryview | bytearray | bytes, at: int) -> tuple[int, int, int, int]:
    """(kind, object, offset, payload length) of the record after BEGIN whose header is at ``at``.

    ``object`` is the first one of a range; ``offset`` is in bytes of the object and 0 where a
    record has none. Raises ValueError for an unknown kind and for a length no sender makes.
    """
    kind, number, offset, size, compression, packed = _OF_WRITE.unpack_from(data, at)
    if kind == _WRITE:
        size, limit = packed if compression else size, BLOCK_LIMIT
    elif kind == _OBJECT:
        number, bonus, size = _OF_OBJECT.unpack_from(data, at)
        offset, size, limit = 0, size or _round_up(bonus), BONUS_LIMIT
    elif kind == _EMBEDDED:
        number, offset, size = _OF_EMBEDDED.unpack_from(data, at)
        size, limit = _round_up(size), EMBEDDED_LIMIT
    elif kind == _SPILL:
        size, packed = _OF_SPILL.unpack_from(data, at)
        offset, size, limit = 0, packed or size, BLOCK_LIMIT
    elif kind in _WITH_OFFSET:
        number, offset, _ = _OF_EMBEDDED.unpack_from(data, at)
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
