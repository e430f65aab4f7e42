"""The live display on a terminal: one block that is redrawn, lines above it, nothing left after."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from offsite import figures
from offsite.console.streams import Screen, may_be_gone
from offsite.console.tally import ProviderTally, Tally
from offsite.log import HINT, level_name

_STYLES = {logging.WARNING: "yellow", logging.ERROR: "bold red", HINT: "default"}
_TITLES = {"backup": "Backing up", "restore": "Restoring"}
_BAR = 32  # columns


class _Live(Live):
    """It draws from a thread of its own, too."""

    def refresh(self) -> None:
        with may_be_gone(self.console.file):
            super().refresh()


class Terminal:
    """``guard`` protects the tally; it is never held while rich draws.

    Works begin and end, and something moves first, in many threads.
    """

    def __init__(
        self,
        console: Screen,
        guard: threading.Lock,
        clock: Callable[[], float],
        threshold: int,
    ) -> None:
        self._console = console
        self._errors = Screen(stderr=True, highlight=False)
        self._guard = guard
        self._clock = clock
        self._threshold = threshold
        self._tallies: list[Tally] = []
        self._live: Live | None = None
        self._changing = threading.Lock()  # the tallies and the live display

    def begin(self, tally: Tally) -> None:
        with self._changing:
            self._tallies = [*self._tallies, tally]

    def end(self, tally: Tally) -> None:
        with self._changing:
            self._tallies = [one for one in self._tallies if one is not tally]

    def changed(self) -> None:
        """Draw from now on. Live has a thread, and workers are forked before any thread starts:
        so it starts with the first thing that moves and not with the plan."""
        if self._live is None:
            with self._changing:
                self._draw_from_now_on()

    def _draw_from_now_on(self) -> None:
        if self._live is None and self._tallies:
            live = _Live(
                get_renderable=self._draw,
                console=self._console,
                refresh_per_second=8,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live = live
            with may_be_gone(self._console.file):
                live.start()

    def chunk(self, *_: object) -> None:
        self.changed()

    def retry(self, text: str) -> None:
        self.line(logging.DEBUG, text)  # the provider's line tells it already
        self.changed()

    def line(self, level: int, text: str) -> None:
        if level >= self._threshold:
            lines = [figures.printable(line) for line in text.splitlines()]
            shown = Text(f"{level_name(level)}: " + "\n".join(lines), _STYLES.get(level, "dim"))
            above = self._live is not None or level < logging.WARNING
            console = self._console if above else self._errors
            with may_be_gone(console.file):
                console.print(shown, soft_wrap=True)

    def note(self, text: str) -> None: ...

    def close(self) -> None:
        with self._changing:
            if self._live is not None:
                with may_be_gone(self._console.file):
                    self._live.stop()
                self._live = None
            self._tallies = []

    def _draw(self) -> RenderableType:
        with self._guard:
            return Group(*(draw(tally, self._clock()) for tally in self._tallies))


def draw(tally: Tally, now: float) -> RenderableType:
    """The block for this moment."""
    plan = tally.plan
    name = figures.printable(f"{plan.dataset}@{plan.snapshot}")
    title = Text.assemble(_TITLES.get(plan.verb, plan.verb), " ", (name, "bold"))
    fraction = tally.fraction()
    bar = Table.grid(padding=(0, 2))
    bar.add_row(
        ProgressBar(1.0, fraction or 0.0, width=_BAR, pulse=fraction is None, animation_time=now),
        "" if fraction is None else f"{fraction:.0%}",
        Text(position(tally)),
    )
    providers = Table.grid(padding=(0, 2))
    for provider, one in tally.providers.items():
        word = "stored" if plan.verb == "backup" else "read"
        providers.add_row(
            Text(f"  {figures.printable(provider)}"),
            Text(f"{figures.size(one.stored)} {word}", justify="right"),
            _trouble(one),
        )
    return Group(title, bar, Text(f"  {movement(tally, now)}"), providers)


def position(tally: Tally) -> str:
    """``chunk 3 of ~15``: the one that was done last."""
    expected = tally.expected_chunks()
    return f"chunk {tally.chunks}" + (f" of ~{expected}" if expected else "")


def movement(tally: Tally, now: float) -> str:
    """``96 MiB of ~480 MiB, 40 MiB/s, ratio 2.1 : 1, about 9 s left``."""
    moved = figures.size(tally.plain_bytes)
    if tally.plan.stream_bytes:
        moved += f" of ~{figures.size(tally.plan.stream_bytes)}"
    parts = [moved, f"{figures.size(tally.rate(now))}/s"]
    if tally.stored_bytes:
        parts.append(f"ratio {figures.ratio(tally.plain_bytes, tally.stored_bytes)}")
    left = tally.seconds_left(now)
    if left is not None:
        parts.append(f"about {figures.duration(left)} left")
    return ", ".join(parts)


def _trouble(one: ProviderTally) -> Text:
    if one.dropped:
        return _line(f"left out: {figures.printable(one.dropped)}", "bold red")
    retries = f"{one.retries} {'retry' if one.retries == 1 else 'retries'}" if one.retries else ""
    if one.trouble:
        return _line(f"{retries}, {figures.printable(one.trouble)}", "yellow")
    return _line(retries, "dim")


def _line(text: str, style: str) -> Text:
    """As much of it as fits: it is told in full in a line of its own, or when the run ends."""
    return Text(text, style, no_wrap=True, overflow="ellipsis")
