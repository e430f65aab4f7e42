"""The local journal of an unfinished backup: its receipts, each on the disk before the next.

The index objects on the providers tell the same and are enough on another machine; they lag behind
by some chunks, the journal by none. One line of JSON an entry, as in an index, unsigned: who can
write here can write config.env, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import platformdirs

from offsite import manifest
from offsite.errors import IntegrityError, OffsiteError
from offsite.manifest import FORMAT_VERSION, Index, Receipt

# The last line, and no entry.
_SIGNED = b"signed\n"
_FAILED = re.compile(rb"failed (\d+) (\d+)\n\Z")
_NOTE = 64  # bytes: more than either has


def directory() -> Path:
    """Where the journals are."""
    return platformdirs.user_state_path("offsite", appauthor=False) / "journals"


@dataclass(frozen=True)
class Journal:
    """The journal of the backup ``backup_id``."""

    backup_id: str
    folder: Path = field(default_factory=directory)

    @property
    def path(self) -> Path:
        return self.folder / f"{self.backup_id}.jsonl"

    def read(self) -> Iterator[Index]:
        """The entries that were written whole, in order; none if there is no journal."""
        try:
            with self.path.open("rb") as lines:
                for line in lines:
                    yield manifest.decode(line, Index)
        except (FileNotFoundError, IntegrityError):  # the machine died while it was written
            return
        except OSError as error:
            raise OffsiteError(f"{self.path} cannot be read: {error.strerror}") from error

    def begin(self, features: int | None, receipts: Sequence[Receipt]) -> None:
        """Write the journal anew, so that it holds exactly these receipts."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self.path.with_suffix(".part")
            part.unlink(missing_ok=True)
            self._write(part, features, receipts)
            part.replace(self.path)
            _sync(self.path.parent)
        except OSError as error:
            raise _failure(self.path, error) from error

    def add(self, features: int | None, receipt: Receipt) -> None:
        """Append one receipt; on the disk when this returns."""
        try:
            self._write(self.path, features, [receipt])
        except OSError as error:
            raise _failure(self.path, error) from error

    def sign(self) -> None:
        """Note that the manifest is going to be written: from now on it may be on any provider."""
        try:
            _append(self.path, [_SIGNED])
        except OSError as error:
            raise _failure(self.path, error) from error

    def fail(self, number: int, offset: int) -> None:
        """Note that zfs could not read what is behind this block: object, bytes.

        A journal is not begun for it: without receipts it would tell what nobody knows here.
        """
        if not self.path.exists():
            return
        try:
            _append(self.path, [f"failed {number} {offset}\n".encode()])
        except OSError as error:
            raise _failure(self.path, error) from error

    @property
    def failed(self) -> tuple[int, int] | None:
        """The block that ``fail`` noted, if no run went on since then."""
        try:
            found = _FAILED.search(self._end())
        except OSError:
            return None
        return (int(found[1]), int(found[2])) if found else None

    @property
    def is_unsigned(self) -> bool:
        """Whether this machine began the backup, or went on with it, and never signed it."""
        try:
            return not self._end().endswith(_SIGNED)
        except OSError:
            return False

    def _end(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _NOTE, 0))
            return file.read()

    def remove(self) -> None:
        """The backup is finished, or was given up."""
        self.path.unlink(missing_ok=True)

    def _write(self, path: Path, features: int | None, receipts: Sequence[Receipt]) -> None:
        _append(path, (manifest.encode(self._entry(features, receipt)) for receipt in receipts))

    def _entry(self, features: int | None, receipt: Receipt) -> Index:
        number = receipt.number
        return Index(
            format=FORMAT_VERSION,
            id=self.backup_id,
            number=number,
            features=features,
            receipts=[receipt],
        )


def _append(path: Path, lines: Iterable[bytes]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failure(path: Path, error: OSError) -> OffsiteError:
    return OffsiteError(
        f"the journal {path} cannot be written: {error.strerror}",
        hint=f"make room in {path.parent}",
    )
