"""Writing to whom may have gone away: a pipe's reader, or the user with the terminal."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rich.console import Console


@contextmanager
def may_be_gone(stream: IO[str]) -> Iterator[None]:
    """If nobody reads ``stream`` any more, what its buffer holds and all the rest go nowhere.

    Any other OSError passes, e.g. of a full disk.
    """
    try:
        yield
    except OSError as error:
        if not (isinstance(error, BrokenPipeError) or _is_closed_terminal(error, stream)):
            raise
        with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), stream.fileno())


def _is_closed_terminal(error: OSError, stream: IO[str]) -> bool:
    """It says no more that it is one: isatty(3) fails, too. A failing disk has no such file."""
    return error.errno == errno.EIO and stat.S_ISCHR(os.fstat(stream.fileno()).st_mode)


class Screen(Console):
    """A rich console that leaves to us what a reader who has gone away means."""

    def on_broken_pipe(self) -> None:
        """Rich would end the process here; it calls this while it handles the error."""
        raise  # noqa: PLE0704
