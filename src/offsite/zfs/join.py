"""A resumed backup: the stream of ``zfs send -t`` behind what an interrupted send left stored.

``zfs send -t`` begins with its own BEGIN, repeats what governs the seam and the seam itself, often
some blocks before it (a block that is sent in parts is resumed at its start). All of that is
dropped; what follows the seam continues the stored stream, which so stays one valid stream.

Source: setup_resume_points in OpenZFS module/zfs/dmu_send.c divides the token's offset by the block
size of the object; tests/vectors/streams has what 2.4.4 sent for its own tokens.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from offsite.zfs import fletcher
from offsite.zfs.mend import MendedSource, Mender
from offsite.zfs.records import CHECKSUM_AT, HEADER_SIZE, Feature, Kind
from offsite.zfs.seams import Seam
from offsite.zfs.stream import Begin
from offsite.zfs.walk import NoSeamError, Record, Source, read_begin, state_after, walk

_WRITES = frozenset({Kind.WRITE, Kind.WRITE_EMBEDDED})


@dataclass(frozen=True)
class Joined:
    """What continues the stored stream after its seam, and what the resumed one says of itself."""

    begin: Begin
    source: MendedSource


def join(source: Source, seam: Seam, stored: Begin) -> Joined:
    """Read a resumed stream up to and including its record that equals the seam.

    ``stored`` is what the stored stream's BEGIN says. Memory is bounded by one record. Raises
    NoSeamError if the streams cannot be joined: it is not the rest of the same send, it ended
    before the seam, or has another record in its place. Raises StreamError for a damaged one.
    """
    begin, head = read_begin(source)
    _check(begin, stored)
    for record in walk(source, fletcher.update(fletcher.ZERO, head)):
        if _equal(record, seam):
            outgoing = state_after(seam.checksum + bytes(record.data[HEADER_SIZE:]))
            return Joined(begin, MendedSource(source, Mender(outgoing, record.after)))
        if _beyond(record, seam):
            break
    where = f"object {seam.place.object} at {seam.place.offset}"
    raise NoSeamError(f"the rest does not begin with the stored record of {where}")


def _check(begin: Begin, stored: Begin) -> None:
    """A rest with other features would be other records than those that were cut off."""
    if Feature.RESUMING not in begin.features:
        raise NoSeamError("it is no resumed stream")
    if (begin.toguid, begin.fromguid) != (stored.toguid, stored.fromguid):
        raise NoSeamError("it is the stream of another snapshot or from another base")
    if begin.features != stored.features | Feature.RESUMING:
        raise NoSeamError(f"its features are {begin.features!r}, not those of the stored one")


def _equal(record: Record, seam: Seam) -> bool:
    """By content: an OBJECT and the object's first WRITE have the same place."""
    digest = hashlib.sha256(record.data[:CHECKSUM_AT])
    digest.update(record.data[HEADER_SIZE:])
    return digest.hexdigest() == seam.sha256


def _beyond(record: Record, seam: Seam) -> bool:
    """Whether the seam cannot come any more.

    Only data is sorted by (object, offset): an OBJECT may stand up to 31 others before its data,
    yet always before data of its own object and of later ones.
    """
    place = (seam.place.object, seam.place.offset)
    return record.kind in _WRITES and (record.object, record.offset) > place
