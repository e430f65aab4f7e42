"""A block of the source that zfs cannot read: said with its place, and what helps if it stays so.

``zfs send`` ends there with an I/O error, whoever asks (but for zfs_send_corrupt_data, which would
send other bytes than were written). What was sent before is stored, so every run fails at once at
the same place: behind the last seam.
"""

from __future__ import annotations

from contextlib import suppress

from offsite.errors import OffsiteError
from offsite.history import History
from offsite.sending import Sender
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError, Reason

_MOST = 3  # files that are named


def explained(
    error: OffsiteError, sender: Sender, found: History | None, before: tuple[int, int] | None
) -> OffsiteError:
    """The error to raise instead, if it is such a one; the place is noted in the journal.

    ``found``: what was stored when this run began. ``before``: the place that the run before it
    noted, object and bytes.
    """
    if not isinstance(error, CommandError) or error.reason is not Reason.UNREADABLE:
        return error
    snapshot = sender.snapshot.full_name
    number, offset = place = _place(sender, found)
    with suppress(OffsiteError):
        sender.indexes.journal.fail(number, offset)
    where = f"{snapshot} in or soon after object {number}, behind its byte {offset}"
    if place != before:
        return CommandError(f"{error}: {where}", hint=error.hint, reason=error.reason)
    named = _named(sender.zfs, snapshot)
    return CommandError(
        f"{error}: {where}, as in the run before; to try again will not help"
        + (f" (damaged: {', '.join(named)})" if named else ""),
        hint=f"{_mended(sender, number)}, zfs destroy {snapshot}, and back up a new snapshot",
        reason=error.reason,
    )


def _mended(sender: Sender, number: int) -> str:
    """How what the object holds can be put back. All of a volume's data is in one object."""
    if sender.head.dataset.type == "volume":
        return "if zpool scrub cannot mend it, write that part of the volume from another copy"
    return (
        f"zpool status -v names the file, and so may: find MOUNTPOINT -xdev -inum {number};"
        " if zpool scrub cannot mend it, put the file back from another copy"
    )


def _place(sender: Sender, found: History | None) -> tuple[int, int]:
    """Object and offset of the last block that is stored."""
    last = sender.indexes.last or (found.receipts[-1] if found and found.receipts else None)
    return (last.seam.object, last.seam.offset) if last and last.seam else (0, 0)


def _named(zfs: Zfs, snapshot: str) -> list[str]:
    """Damaged files of the snapshot, as zpool status names them; some of them at most."""
    pool = snapshot.partition("@")[0].partition("/")[0]
    if zfs.zpool is None:
        return []
    with suppress(OffsiteError):
        told = zfs.zpool.run("status", "-v", pool)
        lines = (line.strip() for line in told.splitlines())
        return [line for line in lines if line.startswith(f"{snapshot}:")][:_MOST]
    return []
