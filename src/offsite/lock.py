"""One offsite at a time per operation, dataset and provider: flock(2) on small files.

The kernel frees a lock when its process dies, so a file that is left over blocks nobody. The files
lie in the user's *state* directory and not in /run/user/UID: that one vanishes when the last login
session ends (pam_systemd(8)), while a backup started with nohup lives on and must keep its locks.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import resource
import socket
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from offsite.errors import LockedError, OffsiteError

_TRIES = 1000
_SIZE_LIMIT = 64 * 1024  # bytes we read of a lock file
_held: set[int] = set()  # file descriptors, for _forget


@dataclass(frozen=True)
class _Key:
    operation: str
    dataset: str
    provider: str
    where: str

    @property
    def file_name(self) -> str:
        text = f"{self.operation}\0{self.where}\0{self.dataset}\0{self.provider}"
        label = re.sub(r"[^A-Za-z0-9]+", "_", f"{self.dataset}-{self.provider}")[:60]
        return f"{self.operation}-{label}-{hashlib.sha256(os.fsencode(text)).hexdigest()[:16]}.lock"


def directory() -> Path:
    """Where the lock files are."""
    return platformdirs.user_state_path("offsite", appauthor=False) / "locks"


@contextmanager
def hold(
    operation: str,
    dataset: str,
    providers: Iterable[str],
    where: str = "",
    tell: Callable[[str], object] = str,
) -> Iterator[None]:
    """Hold the locks of an operation on a dataset for all the providers, or none of them.

    ``where`` is the host whose dataset it is (empty: this one). ``tell`` gets a line for every
    leftover file of a process that died, once all are held. Raises LockedError at once, naming the
    process that holds one.
    """
    where = where or socket.gethostname()
    folder = _prepare(directory())
    messages: list[str] = []
    with contextlib.ExitStack() as stack:
        for provider in sorted(set(providers)):
            key = _Key(operation, dataset, provider, where)
            path = folder / key.file_name
            descriptor = stack.enter_context(_locked(path, key))
            if (age := _leftover_minutes(descriptor)) is not None:
                messages.append(
                    f"Removing old stale lock file ({age} minutes old - likely from reboot)"
                )
            try:
                _describe(descriptor, key)
            except OSError as error:
                raise OffsiteError(
                    f"cannot write the lock file {path}: {error.strerror}",
                    hint=f"make room in {folder}",
                ) from error
        for message in messages:
            tell(message)
        yield


def sweep(operation: str) -> None:
    """Remove the files that processes left which died, of an operation whose locks are each asked
    for by few runs: nobody might come across them again."""
    for path in directory().glob(f"{operation}-*.lock"):
        with contextlib.suppress(OSError):  # gone, held (BlockingIOError), or not ours
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_still(path, descriptor):
                    path.unlink()
            finally:
                os.close(descriptor)


def allow(count: int) -> None:
    """Let this process have as many more files open as ``count`` locks take, if the system may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = soft + count
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _prepare(folder: Path) -> Path:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid():
            folder.chmod(0o700)
            return folder
    except OSError as error:
        raise OffsiteError(
            f"cannot make the lock folder {folder}: {error.strerror}",
            hint="set XDG_STATE_HOME to a folder that stays and can be written to",
        ) from error
    raise OffsiteError(
        f"the lock folder {folder} is not a folder of this user's",
        hint="move it away; offsite makes a new one",
    )


@contextmanager
def _locked(path: Path, key: _Key) -> Iterator[int]:
    """A descriptor of the file ``path``, locked. The file goes when we leave, lock still held."""
    descriptor = _acquire(path, key)
    _held.add(descriptor)
    try:
        yield descriptor
    finally:
        if _is_still(path, descriptor):  # or else it is another process's by now
            path.unlink()
        _held.discard(descriptor)
        os.close(descriptor)


def _acquire(path: Path, key: _Key) -> int:
    for _ in range(_TRIES):
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_still(path, descriptor):
                return descriptor
        except BlockingIOError:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise LockedError(
                f"Another offsite {key.operation} is already running for dataset "
                f"{key.dataset}{holder}",
                hint="wait until it ends"
                + (f", or leave out the provider {key.provider}" if key.provider else ""),
            ) from None
        os.close(descriptor)  # its holder unlinked it between our open and flock
    raise OffsiteError(f"the lock file {path} does not stay what it is")


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise OffsiteError(f"cannot open the lock file {path}: {error.strerror}") from error


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _holder(descriptor: int) -> str:
    """`` (PID n)``; empty if the holder has not written it within the moment we wait."""
    for _ in range(20):
        text = os.pread(descriptor, _SIZE_LIMIT, 0)
        with contextlib.suppress(ValueError, TypeError, KeyError):
            return f" (PID {int(json.loads(text)['pid'])})"
        time.sleep(0.01)
    return ""


def _leftover_minutes(descriptor: int) -> int | None:
    status = os.fstat(descriptor)
    return max(0, int(time.time() - status.st_mtime) // 60) if status.st_size else None


def _describe(descriptor: int, key: _Key) -> None:
    facts = {
        "pid": os.getpid(),
        "dataset": key.dataset,
        "provider": key.provider,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(facts).encode(), 0)


def _forget() -> None:
    """A forked worker must not keep the lock of a parent that was killed."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_forget)
