"""Send streams as records (DRR, ``dmu_replay_record_t``): read, proved, made.

For tests, for streams that are put together anew, and to look into one. What only passes by is
followed by ``zfs.stream``, a hundred times as fast.
"""

from offsite.zfs.drr.header import measure, pack, parse, payload_length
from offsite.zfs.drr.kinds import (
    TO_THE_END,
    Begin,
    End,
    Free,
    FreeObjects,
    Object,
    ObjectRange,
    Record,
    Redact,
    Spill,
    Write,
    WriteByref,
    WriteEmbedded,
)
from offsite.zfs.drr.stream import Readable, read, write

__all__ = [
    "TO_THE_END",
    "Begin",
    "End",
    "Free",
    "FreeObjects",
    "Object",
    "ObjectRange",
    "Readable",
    "Record",
    "Redact",
    "Spill",
    "Write",
    "WriteByref",
    "WriteEmbedded",
    "measure",
    "pack",
    "parse",
    "payload_length",
    "read",
    "write",
]
