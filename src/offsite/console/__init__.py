"""What the user sees while a verb works: a live display, a log file, or only what is wrong."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from rich.console import Console, RenderableType
from rich.text import Text

from offsite import figures, log, process
from offsite.console import logfile
from offsite.console.logfile import Lines
from offsite.console.streams import Screen, may_be_gone
from offsite.console.tally import Tally
from offsite.console.terminal import Terminal
from offsite.progress import ChunkDone, Plan

_WIDE = 10_000  # columns: lines in a file or pipe are not broken


@dataclass(frozen=True)
class Output:
    """How much to say, and in which form."""

    quiet: bool = False
    verbose: bool = False
    json: bool = False

    @property
    def threshold(self) -> int:
        """The least logging level that is shown."""
        return logging.WARNING if self.quiet else logging.DEBUG if self.verbose else logging.INFO


class Sink(Protocol):
    def begin(self, tally: Tally) -> None:
        """A work begins; ``tally`` is kept up to date."""

    def changed(self) -> None:
        """Something moved."""

    def chunk(self, tally: Tally, name: str, /) -> None:
        """A chunk is done; ``name`` is the work's, if there are several."""

    def retry(self, text: str) -> None:
        """A request is made again."""

    def line(self, level: int, text: str) -> None:
        """Something to read."""

    def note(self, text: str) -> None:
        """Something that is printed elsewhere and belongs into a log file, too."""

    def end(self, tally: Tally) -> None:
        """A work ended; others may go on."""

    def close(self) -> None:
        """All works ended."""


class Display:
    """progress.Progress for people; every method may be called from any thread.

    ``name``: the one of several works at once that this one is for.
    """

    def __init__(
        self,
        sinks: tuple[Sink, ...],
        guard: threading.Lock,
        clock: Callable[[], float],
        name: str = "",
    ) -> None:
        self._sinks = sinks
        self._guard = guard
        self._clock = clock
        self._name = name
        self._tally: Tally | None = None

    def part(self, name: str) -> Display:
        return Display(self._sinks, self._guard, self._clock, name)

    def start(self, plan: Plan) -> None:
        tally = Tally(plan, self._clock())
        self._tally = tally
        for sink in self._sinks:
            sink.begin(tally)
        self.info(_announcement(plan))

    def chunk(self, done: ChunkDone) -> None:
        assert self._tally is not None
        with self._guard:
            self._tally.add(done, self._clock())
        for sink in self._sinks:
            sink.chunk(self._tally, self._name)

    def stored(self, provider: str, size: int) -> None:
        if self._tally is None:
            return
        with self._guard:
            one = self._tally.provider(provider)
            one.stored += size
            one.trouble = ""
        self._changed()

    def retry(self, provider: str, what: str, pause: float) -> None:
        if self._tally is not None:
            with self._guard:
                one = self._tally.provider(provider)
                one.retries += 1
                one.trouble = what
        for sink in self._sinks:
            sink.retry(f"{provider}: {what}; again in {figures.duration(pause)}")

    def dropped(self, provider: str, why: str) -> None:
        if self._tally is not None:
            with self._guard:
                self._tally.provider(provider).dropped = why
        self.warning(f"{provider} is left out from now on: {why}")

    def info(self, message: str) -> None:
        self.line(logging.INFO, message)

    def warning(self, message: str) -> None:
        self.line(logging.WARNING, message)

    def finish(self) -> None:
        for sink in self._sinks:
            if not self._name:
                sink.close()
            elif self._tally is not None:
                sink.end(self._tally)

    def line(self, level: int, text: str) -> None:
        """A line with a logging level."""
        if self._name and not _tells_of(self._name, text):
            text = f"{self._name}: {text}"
        for sink in self._sinks:
            sink.line(level, text)

    def note(self, text: str) -> None:
        """What is printed elsewhere and belongs into a log file, too."""
        for sink in self._sinks:
            sink.note(text)

    def _changed(self) -> None:
        for sink in self._sinks:
            sink.changed()


@contextmanager
def display(
    output: Output, *, journal: tuple[str, str] | None = None, home: Path
) -> Iterator[Display]:
    """A Display for this run, the package's log records included.

    ``journal`` is (verb, dataset) if the work is long enough for a log file in ``home`` when
    stdout is no terminal, or not ours alone; the first line of stdout (of stderr with
    ``output.json``) names it.
    """
    guard = threading.Lock()
    with contextlib.ExitStack() as stack:
        sinks = _sinks(output, journal, home, guard, stack)
        shown = Display(sinks, guard, time.monotonic)
        stack.callback(shown.finish)
        with log.forwarded(shown.line, verbose=output.verbose):
            yield shown


def _sinks(
    output: Output,
    journal: tuple[str, str] | None,
    home: Path,
    guard: threading.Lock,
    stack: contextlib.ExitStack,
) -> tuple[Sink, ...]:
    def lines(stream: TextIO, threshold: int, *, stamped: bool) -> Lines:
        return Lines(
            stream,
            guard=guard,
            clock=time.monotonic,
            threshold=threshold,
            stamped=stamped,
            fallback=None if stream is sys.stderr else sys.stderr,
        )

    if output.quiet or journal is None:
        least = logging.DEBUG if output.verbose else logging.WARNING
        return (lines(sys.stderr, least, stamped=False),)
    if sys.stdout.isatty() and not process.is_background(sys.stdout.fileno()):
        console = Screen(stderr=output.json, highlight=False)
        return (Terminal(console, guard, time.monotonic, output.threshold),)
    try:
        path, stream = logfile.create(home, *journal)
    except OSError as error:
        shown = lines(sys.stderr, output.threshold, stamped=True)
        shown.line(logging.WARNING, f"no log file in {home}: {error.strerror}; it goes here")
        return (shown,)
    stack.callback(_close, stream)
    say(f"Log file: {path}", sys.stderr if output.json else sys.stdout)
    return (
        lines(stream, output.threshold, stamped=True),
        lines(sys.stderr, logging.WARNING, stamped=False),
    )


def _close(stream: TextIO) -> None:
    with contextlib.suppress(OSError):  # a full disk was told already, by Lines
        stream.close()


def render(renderable: RenderableType, stream: TextIO) -> str:
    """The text of a rich renderable: styled and fitted for a terminal, plain and wide elsewhere."""
    width = None if stream.isatty() else _WIDE
    console = Console(file=stream, highlight=False, width=width)
    with console.capture() as captured:
        console.print(renderable, soft_wrap=isinstance(renderable, Text))
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def plain(renderable: RenderableType) -> str:
    """The text of a rich renderable, without styles or line breaks of its own."""
    return render(renderable, io.StringIO())


def say(what: RenderableType, stream: TextIO) -> None:
    """Print, text as it is; that nobody reads it any more is no failure. Raises OSError."""
    with may_be_gone(stream):
        print(what if isinstance(what, str) else render(what, stream), file=stream, flush=True)


def _tells_of(dataset: str, text: str) -> bool:
    """Whether its name is in the text, and not only as a part of another's."""
    name = re.escape(dataset)
    return re.search(rf"(?<![\w./:-]){name}(?![\w/-]|[.:]\w)", text) is not None


def _announcement(plan: Plan) -> str:
    word, preposition = ("Restoring", "from") if plan.verb == "restore" else ("Backing up", "to")
    about = f", about {figures.size(plan.stream_bytes)}" if plan.stream_bytes else ""
    if plan.chunks:
        about += f" in ~{figures.count(plan.chunks, 'chunk')}"
    places = ", ".join(plan.providers)
    file = f" to {plan.file}" if plan.file else ""
    return f"{word} {plan.dataset}@{plan.snapshot}{file} {preposition} {places}{about}"
