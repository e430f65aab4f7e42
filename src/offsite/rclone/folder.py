"""The folder of rclone's sockets: private, and gone with us, however we end.

Nobody tidies up after SIGKILL, so the next run does. Who lives holds a lock on his folder
(flock(2)); the kernel lets go of it when the process ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path

from offsite.errors import ConfigError

_PREFIX = "offsite-rclone-"
_SOCKET_LIMIT = 108  # bytes in sun_path (unix(7))
_LONGEST_NAME = f"/{_PREFIX}12345678/d999"
_TRIES = 100


class Folder:
    """``path`` is ours until ``remove``."""

    def __init__(self, path: str, descriptor: int) -> None:
        self.path = path
        self._remove = weakref.finalize(self, _remove, path, descriptor)  # once, from any thread

    def remove(self) -> None:
        """Remove it and what is in it; a second time is fine."""
        self._remove()


def make(environ: Mapping[str, str]) -> Folder:
    """A new folder, mode 0700, with a path short enough for unix sockets.

    Those of processes that were killed are removed. Raises ConfigError if there is no place.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    for base in (runtime, "/tmp"):  # noqa: S108 - mkdtemp makes a private folder there
        if base and len(base) + len(_LONGEST_NAME) < _SOCKET_LIMIT:
            with contextlib.suppress(OSError):
                _clear(Path(base))
                return _make(base)
    raise ConfigError(
        "no place for rclone's sockets: neither XDG_RUNTIME_DIR nor /tmp can be written",
        hint="set XDG_RUNTIME_DIR to a folder of yours",
    )


def _make(base: str) -> Folder:
    for _ in range(_TRIES):
        path = tempfile.mkdtemp(prefix=_PREFIX, dir=base)
        with contextlib.suppress(OSError):  # another run cleared it away before we had the lock
            return Folder(path, _lock(Path(path)))
    raise OSError(f"folders in {base} do not stay")


def _remove(path: str, descriptor: int) -> None:
    shutil.rmtree(path, ignore_errors=True)
    os.close(descriptor)


def _clear(base: Path) -> None:
    for path in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):  # in use, or not ours
            descriptor = _lock(path)
            try:
                if os.fstat(descriptor).st_uid == os.geteuid():
                    shutil.rmtree(path)
            finally:
                os.close(descriptor)


def _lock(path: Path) -> int:
    """A descriptor of the folder, locked; OSError if another has it, or it is gone by now."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.lstat()
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
