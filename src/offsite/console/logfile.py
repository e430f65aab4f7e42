"""Progress without a terminal: lines with a time, in a file in the user's home or on stderr."""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from offsite import figures
from offsite.console.streams import may_be_gone
from offsite.console.tally import Tally
from offsite.console.terminal import movement
from offsite.log import level_name


def create(home: Path, verb: str, dataset: str) -> tuple[Path, TextIO]:
    """A new file ``offsite-backup-tank_photos-YYYYMMDD-HHMMSS.log``, 0600, never another's.

    Raises OSError if the folder takes no file.
    """
    label = re.sub(r"[^A-Za-z0-9._-]", "_", dataset)[:120]
    stem = f"offsite-{verb}-{label}-{time.strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        path = home / (f"{stem}.log" if number == 1 else f"{stem}-{number}.log")
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            number += 1
            continue
        return path, os.fdopen(descriptor, "w", encoding="utf-8", errors="replace")


class Lines:
    """A sink of lines. ``fallback`` takes over if ``stream`` can no longer be written to."""

    def __init__(
        self,
        stream: TextIO,
        *,
        guard: threading.Lock,
        clock: Callable[[], float],
        threshold: int,
        stamped: bool,
        fallback: TextIO | None = None,
    ) -> None:
        self._stream: TextIO | None = stream
        self._fallback = fallback
        self._guard = guard
        self._clock = clock
        self._threshold = threshold
        self._stamped = stamped
        self._writing = threading.RLock()

    def begin(self, tally: Tally) -> None: ...

    def changed(self) -> None:
        """Bytes on their way are no news; chunks are."""

    def chunk(self, tally: Tally, name: str) -> None:
        with self._guard:
            expected = tally.expected_chunks()
            number = f"{tally.chunks}" + (f" of ~{expected}" if expected else "")
            text = f"Processing chunk {number}... {movement(tally, self._clock())}"
        text = f"{name}: {text}" if name else text
        self.line(logging.INFO, text)

    def retry(self, text: str) -> None:
        self.line(logging.INFO, text)

    def line(self, level: int, text: str) -> None:
        if level < self._threshold:
            return
        stamp = time.strftime("%Y-%m-%d %H:%M:%S ") if self._stamped else ""
        lines = "\n".join(figures.printable(line) for line in text.splitlines())
        self._write(f"{stamp}{level_name(level)}: {lines}\n")

    def note(self, text: str) -> None:
        if self._stamped:
            self.line(logging.INFO, text)

    def end(self, tally: Tally) -> None: ...
    def close(self) -> None: ...

    def _write(self, text: str) -> None:
        with self._writing:
            if self._stream is None:
                return
            try:
                with may_be_gone(self._stream):
                    self._stream.write(text)
                    self._stream.flush()
            except OSError as error:  # a full disk must not end a backup
                self._stream, self._fallback = self._fallback, None
                self._write(f"WARNING: the log goes on here: {error.strerror}\n{text}")
