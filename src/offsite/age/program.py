"""Whole age files through the ``age`` program, for the key types it alone knows.

Recipients are public and go on its command line, identities are named by path. Memory stays
bounded: its input is fed, and its output handed on, as fast as it takes and gives them.
"""

from __future__ import annotations

import os
import select
import subprocess
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path

from offsite.errors import IntegrityError, KeysError, NoKeyError
from offsite.process import Child

MISSING = "install age: apt install age, or https://age-encryption.org"
_PIECE = 64 * 1024
# A key that waits for a passphrase would wait for ever: there is no terminal for it here.
_STALLED = 120  # seconds


def encrypt(pieces: Iterable[bytes | memoryview], recipients: Sequence[str]) -> Iterator[bytes]:
    """The age file, in pieces. Raises KeysError if age refuses the recipients."""
    argv = ["age", "--encrypt", *(word for line in recipients for word in ("-r", line))]
    problem = yield from _through(argv, pieces)
    if problem is not None:
        raise KeysError(f"age cannot seal to these recipients: {problem}")


def decrypt(sealed: Iterable[bytes | memoryview], files: Sequence[Path]) -> Iterator[bytes]:
    """The plain bytes, in authenticated pieces. Raises NoKeyError, IntegrityError."""
    argv = ["age", "--decrypt"]
    argv += [word for path in files for word in ("-i", str(path.absolute()))]
    problem = yield from _through(argv, sealed)
    if problem is None:
        return
    if "no identity matched" in problem:
        raise NoKeyError("none of the identities at hand opens this object")
    raise IntegrityError(f"age cannot open it: {problem}")


def _through(
    argv: Sequence[str], pieces: Iterable[bytes | memoryview]
) -> Generator[bytes, None, str | None]:
    """Yield what the program makes of the pieces; return its complaint if it failed."""
    child = Child(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, missing=MISSING)
    try:
        taken = yield from _exchange(child, pieces)
        status = child.wait(_STALLED)
    finally:
        child.stop()
    if status == 0 and taken:
        return None
    return child.stderr_tail().partition("\n")[0] or f"exit status {status}"


def _exchange(child: Child, pieces: Iterable[bytes | memoryview]) -> Generator[bytes, None, bool]:
    """Feed the pieces and yield the output, in one thread; return whether all were taken."""
    sink, source = child.stdin.fileno(), child.stdout.fileno()
    os.set_blocking(sink, False)
    poll = select.poll()
    poll.register(source, select.POLLIN)
    poll.register(sink, select.POLLOUT)
    waiting = (memoryview(piece) for piece in pieces if len(piece))
    rest = next(waiting, None)
    while True:
        for handle in _ready(poll):
            if handle == source:
                piece = os.read(source, _PIECE)
                if not piece:
                    return rest is None
                yield piece
            elif rest is None:
                poll.unregister(sink)
                child.stdin.close()
            else:
                try:
                    rest = rest[os.write(sink, rest) :] or next(waiting, None)
                except BrokenPipeError:  # it has ended: its exit status and stderr say why
                    poll.unregister(sink)


def _ready(poll: select.poll) -> list[int]:
    events = poll.poll(_STALLED * 1000)
    if not events:
        raise KeysError(
            f"age gave no answer within {_STALLED} s",
            hint="keys that ask for a passphrase or a touch for every file cannot be used here",
        )
    return [handle for handle, _ in events]
