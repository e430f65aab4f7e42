"""Write a cpio archive in the `newc` format that Linux takes as initramfs.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of Linux. Ours needs no
root for device nodes and owners, and equal input gives equal bytes.
"""

import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

ALIGNMENT = 4


@dataclass(frozen=True)
class Entry:
    """A directory, file, symbolic link or device node, owned by root."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Entry:
    """Return the entry of a directory."""
    return Entry(name, stat.S_IFDIR | mode)


def file(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return the entry of a regular file."""
    return Entry(name, stat.S_IFREG | mode, data)


def link(name: str, target: str) -> Entry:
    """Return the entry of a symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int) -> Entry:
    """Return the entry of a character device."""
    return Entry(name, stat.S_IFCHR | 0o600, device=(major, minor))


def write(path: Path, entries: Iterable[Entry]) -> None:
    """Write the entries to `path`, uncompressed: unpacking would cost each boot a second."""
    with path.open("wb") as out:
        for number, entry in enumerate(entries, start=1):
            _write_entry(out, entry, number)
        _write_entry(out, Entry("TRAILER!!!", 0), 0)


def _write_entry(out: BinaryIO, entry: Entry, inode: int) -> None:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, *entry.device, len(name), 0,
    )  # fmt: skip
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    out.write(header + name + _padding(len(header) + len(name)))
    out.write(entry.data + _padding(len(entry.data)))


def _padding(length: int) -> bytes:
    return bytes(-length % ALIGNMENT)
