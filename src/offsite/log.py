"""Where the package's log records go: one sink, chosen by the console. Nothing logs secrets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

HINT = logging.ERROR + 1  # what to do about the error before it
Sink = Callable[[int, str], None]


def level_name(level: int) -> str:
    return "HINT" if level == HINT else logging.getLevelName(level)


class _Forward(logging.Handler):
    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        self._sink(record.levelno, self.format(record))


@contextmanager
def forwarded(sink: Sink, *, verbose: bool) -> Iterator[None]:
    """Give every record of the ``offsite`` loggers to ``sink(level, text)``.

    Debug records too if ``verbose``, or else only warnings and worse.
    """
    logger = logging.getLogger("offsite")
    handler = _Forward(sink)
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG if verbose else logging.WARNING)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before[0])
        logger.propagate = before[1]
