"""Key files on disk: who may read them, and how they come to be.

Errors name the file and what is wrong with it, never its content.
"""

from __future__ import annotations

import codecs
import os
import secrets
import stat
from pathlib import Path

from offsite.errors import KeysError

_LONGEST = 1 << 20  # bytes
_OTHERS_MAY_ANYTHING = 0o077
_ANYONE_MAY_WRITE = 0o002
_MAKE = "offsite keys init makes it"


def read_private(path: Path, *, missing: str = _MAKE) -> bytes:
    """The bytes of a file that only its owner may read, and the owner is us (or we are root).

    Raises KeysError; its hint is ``missing`` if there is no such file.
    """
    data, status = _read(path, missing)
    mode = stat.S_IMODE(status.st_mode)
    if mode & _OTHERS_MAY_ANYTHING:
        raise KeysError(
            f"{path} is private, but others may use it (mode {mode:04o})", hint=f"chmod 600 {path}"
        )
    if os.geteuid() not in (0, status.st_uid):
        raise KeysError(
            f"{path} belongs to another user (uid {status.st_uid})",
            hint=f"chown it to yourself, then chmod 600 {path}",
        )
    return data


def read_public(path: Path) -> str:
    """The text of a file that decides whom we trust: not everyone may write it.

    Raises KeysError.
    """
    data, status = _read(path, _MAKE)
    if status.st_mode & _ANYONE_MAY_WRITE:
        raise KeysError(f"{path} can be changed by anyone", hint=f"chmod o-w {path}")
    return as_text(data, path)


def exists(path: Path) -> bool:
    """Whether there is anything at ``path``. Raises KeysError if we may not even look."""
    try:
        return path.exists()
    except OSError as error:
        raise KeysError(f"cannot read {path}: {error.strerror}") from error


def as_text(data: bytes, path: Path) -> str:
    """Without the byte order mark that some editors put in front. Raises KeysError.

    UTF-16 is what a redirection in PowerShell writes; it always has the mark.
    """
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return data.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError:
        raise KeysError(f"{path} is not a text file") from None  # the cause would hold its bytes


def create(path: Path, text: str, *, private: bool) -> bool:
    """Write a new file, and its folders for the owner only; whole or not at all.

    Returns False, and leaves the file alone, if there is one already. Raises KeysError.
    """
    try:
        _make_folder(path.parent)
        temporary = _write_temporary(path, text, 0o600 if private else 0o644)
        try:
            os.link(temporary, path)  # unlike rename, never over a file that appeared meanwhile
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_folder(path.parent)
    except OSError as error:
        raise KeysError(f"cannot write {path}: {error.strerror}") from error
    return True


def append(path: Path, lines: str) -> None:
    """Add lines to an existing text file, keeping its mode; whole or not at all."""
    old = read_public(path)
    separator = "" if not old or old.endswith("\n") else "\n"
    try:
        temporary = _write_temporary(path, old + separator + lines, path.stat().st_mode & 0o777)
        temporary.replace(path.resolve())
        _sync_folder(path.resolve().parent)
    except OSError as error:
        raise KeysError(f"cannot write {path}: {error.strerror}") from error


def _read(path: Path, missing: str) -> tuple[bytes, os.stat_result]:
    try:
        with open(path, "rb", opener=_open_at_once) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise KeysError(f"{path} is not a file")
            data = file.read(_LONGEST + 1)
    except FileNotFoundError as error:
        raise KeysError(f"{path}: no such key file", hint=missing) from error
    except OSError as error:
        raise KeysError(f"cannot read {path}: {error.strerror}") from error
    if len(data) > _LONGEST:
        raise KeysError(f"{path} is too long for a key file")
    return data, status


def _open_at_once(path: str, flags: int) -> int:
    # A FIFO in a key's place must not keep us waiting for a writer.
    return os.open(path, flags | os.O_NONBLOCK)


def _make_folder(folder: Path) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)


def _write_temporary(path: Path, text: str, mode: int) -> Path:
    temporary = path.resolve().with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
