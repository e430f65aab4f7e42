"""The eleven kinds of record: the values in their headers.

Fields are those of ``dmu_replay_record_t`` in OpenZFS's include/sys/zfs_ioctl.h (the same text from
2.0 to 2.4), where their names begin with ``drr_``; what else is named in capitals is from there
too. Who fills them is said in parentheses, functions of module/zfs/dmu_send.c unless a file is
named. Sizes and offsets are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from offsite.zfs.fletcher import ZERO, State
from offsite.zfs.records import MAGIC, Kind

TO_THE_END = (1 << 64) - 1  # length of a FREE up to the end of its object: DMU_OBJECT_END, dmu.h


@dataclass(frozen=True)
class Begin:
    """The first record (``create_begin_record``); a packed nvlist of ``payloadlen`` follows it.

    ``versioninfo``: bits 0 and 1 are 1, DMU_SUBSTREAM (2 in a compound stream); the others are
    records.Feature. ``type``: dmu_objset_type_t, 2 a file system, 3 a volume. ``flags``:
    DRR_FLAG_*. ``fromguid`` is 0 in a full stream. ``toname`` is without the NULs that fill it up.
    """

    kind: ClassVar[Kind] = Kind.BEGIN
    payloadlen: int = 0
    magic: int = MAGIC
    versioninfo: int = 1
    creation_time: int = 0
    type: int = 2
    flags: int = 0
    toguid: int = 0
    fromguid: int = 0
    toname: bytes = b""


@dataclass(frozen=True)
class Object:
    """A dnode (``dump_dnode``); its bonus follows: DRR_OBJECT_PAYLOAD_SIZE.

    ``flags``: 2 byte-swapped (DRR_RAW_BYTESWAP), 4 with a spill block (DRR_OBJECT_SPILL).
    ``raw_bonuslen`` and the fields after ``toguid`` are set in raw streams only.
    """

    kind: ClassVar[Kind] = Kind.OBJECT
    object: int = 0
    type: int = 0
    bonustype: int = 0
    blksz: int = 0
    bonuslen: int = 0
    checksumtype: int = 0
    compress: int = 0
    dn_slots: int = 0
    flags: int = 0
    raw_bonuslen: int = 0
    toguid: int = 0
    indblkshift: int = 0
    nlevels: int = 0
    nblkptr: int = 0
    maxblkid: int = 0


@dataclass(frozen=True)
class FreeObjects:
    """Objects that are not there, ``numobjs`` from ``firstobj`` on (``dump_freeobjects``)."""

    kind: ClassVar[Kind] = Kind.FREEOBJECTS
    firstobj: int = 0
    numobjs: int = 0
    toguid: int = 0


@dataclass(frozen=True)
class Write:
    """A block, or a part of one (``dmu_dump_write``); its data follows: DRR_WRITE_PAYLOAD_SIZE.

    The data has ``compressed_size`` if ``compressiontype`` is set, else ``logical_size``.
    ``key_cksum`` and ``key_prop`` (``drr_key``) are the block's checksum and sizes: ddt_key_t in
    include/sys/ddt.h. ``flags``: 1 that checksum tells blocks apart (DRR_CHECKSUM_DEDUP), 2
    byte-swapped (DRR_RAW_BYTESWAP). ``salt``, ``iv``, ``mac`` are set in raw streams only.
    """

    kind: ClassVar[Kind] = Kind.WRITE
    object: int = 0
    type: int = 0
    offset: int = 0
    logical_size: int = 0
    toguid: int = 0
    checksumtype: int = 0
    flags: int = 0
    compressiontype: int = 0
    key_cksum: State = ZERO
    key_prop: int = 0
    compressed_size: int = 0
    salt: bytes = bytes(8)
    iv: bytes = bytes(12)
    mac: bytes = bytes(16)


@dataclass(frozen=True)
class Free:
    """A hole (``dump_free``); ``length`` may be TO_THE_END."""

    kind: ClassVar[Kind] = Kind.FREE
    object: int = 0
    offset: int = 0
    length: int = 0
    toguid: int = 0


@dataclass(frozen=True)
class End:
    """The last record (``dmu_send_impl``). ``checksum`` is of all the bytes before it."""

    kind: ClassVar[Kind] = Kind.END
    checksum: State = ZERO
    toguid: int = 0


@dataclass(frozen=True)
class WriteByref:
    """A block whose data an earlier WRITE has: cmd/zstream/zstream_redup.c undoes it.

    Senders older than 2.0 made it, with -D.
    """

    kind: ClassVar[Kind] = Kind.WRITE_BYREF
    object: int = 0
    offset: int = 0
    length: int = 0
    toguid: int = 0
    refguid: int = 0
    refobject: int = 0
    refoffset: int = 0
    checksumtype: int = 0
    flags: int = 0
    key_cksum: State = ZERO
    key_prop: int = 0


@dataclass(frozen=True)
class Spill:
    """A spill block (``dump_spill``); its data follows: DRR_SPILL_PAYLOAD_SIZE.

    ``flags``: 2 byte-swapped (DRR_RAW_BYTESWAP), 4 unmodified since the base and there for old
    receivers (DRR_SPILL_UNMODIFIED). The fields from ``compressiontype`` on are set in raw streams
    only, and ``type`` never.
    """

    kind: ClassVar[Kind] = Kind.SPILL
    object: int = 0
    length: int = 0
    toguid: int = 0
    flags: int = 0
    compressiontype: int = 0
    compressed_size: int = 0
    salt: bytes = bytes(8)
    iv: bytes = bytes(12)
    mac: bytes = bytes(16)
    type: int = 0


@dataclass(frozen=True)
class WriteEmbedded:
    """A block that fits into its pointer (``dump_write_embedded``).

    ``psize`` bytes of data follow, with zeros up to a multiple of 8; ``length`` is the block's.
    """

    kind: ClassVar[Kind] = Kind.WRITE_EMBEDDED
    object: int = 0
    offset: int = 0
    length: int = 0
    toguid: int = 0
    compression: int = 0
    etype: int = 0
    lsize: int = 0
    psize: int = 0


@dataclass(frozen=True)
class ObjectRange:
    """How a block of dnodes was encrypted (``dump_object_range``); in raw streams only."""

    kind: ClassVar[Kind] = Kind.OBJECT_RANGE
    firstobj: int = 0
    numslots: int = 0
    toguid: int = 0
    salt: bytes = bytes(8)
    iv: bytes = bytes(12)
    mac: bytes = bytes(16)
    flags: int = 0


@dataclass(frozen=True)
class Redact:
    """Data left out (``dump_redact``); in redacted streams only."""

    kind: ClassVar[Kind] = Kind.REDACT
    object: int = 0
    offset: int = 0
    length: int = 0
    toguid: int = 0


Record = (
    Begin | Object | FreeObjects | Write | Free | End | WriteByref | Spill | WriteEmbedded
    | ObjectRange | Redact
)  # fmt: skip
