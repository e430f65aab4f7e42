"""Disk images that a guest's OpenZFS takes."""

import struct
from pathlib import Path

SECTOR = 512
FIRST = 2048  # sectors: 1 MiB, as partitioning tools do
ZFS_TYPE = 0xBF
PARTITION_TABLE = 446
SIGNATURE = 510


def make_disk(path: Path, size: int = 1 << 30) -> None:
    """Create a sparse image of `size` bytes with one partition: /dev/vda1 in the guest.

    OpenZFS partitions a whole disk itself and then waits for udev, which the guest lacks.
    """
    # status, first CHS, type, last CHS, first sector, sectors; CHS 0xfeffff means "use LBA"
    entry = struct.pack(
        "<B3sB3sII", 0, b"\xfe\xff\xff", ZFS_TYPE, b"\xfe\xff\xff", FIRST, size // SECTOR - FIRST
    )
    with path.open("xb") as out:
        out.truncate(size)
        out.seek(PARTITION_TABLE)
        out.write(entry)
        out.seek(SIGNATURE)
        out.write(b"\x55\xaa")
