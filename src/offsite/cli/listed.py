"""What ``--list`` shows: a row for each backup, or an entry where the terminal is too narrow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from offsite import figures, listing
from offsite.cli.report import as_json, in_words
from offsite.figures import printable

_STYLES = {"complete": "green", "unfinished": "yellow", "legacy": "dim", "sealed": "dim"}
_UNBOUND = 10_000  # columns


def text(
    found: listing.Listing, *, dataset: str | None, providers: Sequence[str]
) -> RenderableType:
    """All backups; the oldest first, as it came. ``providers``: those that were asked."""
    if not found.rows:
        return _nothing(dataset, [name for name in providers if name not in found.problems])
    return Group(_Rows(found.rows), *_notes(found.rows))


def json(found: listing.Listing) -> str:
    """All backups, and ``problems`` if a provider could not be read."""
    problems = {"problems": dict(found.problems)} if found.problems else {}
    return as_json({"backups": list(found.rows), **problems})


@dataclass(frozen=True)
class _Rows:
    """A table if it fits: words that are broken over lines in columns can neither be read nor
    copied."""

    rows: Sequence[listing.Row]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with_host = len({row.host for row in self.rows if row.host}) > 1
        table = _table(self.rows, with_host=with_host)
        widest = Measurement.get(console, options.update_width(_UNBOUND), table).maximum
        if widest <= options.max_width:
            yield table
            return
        for row in self.rows:
            yield from _entry(row, with_host=with_host)


def _table(rows: Sequence[listing.Row], *, with_host: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("DATASET", "SNAPSHOT", *(["HOST"] if with_host else []), "TYPE", "CREATED"):
        table.add_column(title, no_wrap=True)
    for title in ("STREAM", "STORED", "CHUNKS"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("STATUS", "PROVIDERS"):
        table.add_column(title, no_wrap=True)
    for row in rows:
        table.add_row(
            Text(printable(row.dataset or "?")),
            Text(printable(_snapshot(row))),
            *([Text(printable(row.host))] if with_host else []),
            Text(printable(row.type)),
            _created(row),
            Text(_stream(row)),
            Text(figures.size(row.stored_bytes)),
            Text(str(row.chunks)),
            _status(row),
            Text(printable(", ".join(row.providers))),
        )
    return table


def _entry(row: listing.Row, *, with_host: bool) -> RenderResult:
    yield Text(printable(f"{row.dataset or row.id}@{_snapshot(row)}"), "bold")
    made = f" made {figures.local_time(row.created)}" if row.created else ""
    host = f" on {row.host}" if with_host and row.host else ""
    facts = Text(printable(f"{row.type}{made}{host}, "))
    facts.append(
        f"{_stream(row)} as {figures.size(row.stored_bytes)}"
        f" in {figures.count(row.chunks, 'chunk')}, "
    )
    facts.append(_status(row))
    facts.append(printable(f", stored on {in_words(row.providers)}"))
    yield Padding(facts, (0, 0, 0, 4))


def _nothing(dataset: str | None, readable: Sequence[str]) -> Text:
    what = f"No backups of {dataset}" if dataset else "No backups yet"
    where = f" on {in_words(readable)}" if readable else ""
    return Text(printable(f"{what}{where}. Make one: offsite --backup {dataset or 'POOL/DATASET'}"))


def _name(row: listing.Row) -> str:
    """As a restore takes it."""
    return f"{row.dataset or row.id}@{row.point if row.dataset else '?'}"


def _snapshot(row: listing.Row) -> str:
    """Its name, and what tells it apart from another one of that name."""
    if not row.snapshot or row.point == row.snapshot:
        return row.snapshot or "?"
    return f"{row.snapshot} (@{row.point})"


def _created(row: listing.Row) -> Text:
    return Text(printable(figures.local_time(row.created)))


def _stream(row: listing.Row) -> str:
    known = row.stream_bytes > 0 or row.complete
    return figures.size(row.stream_bytes) if known else "-"


def _status(row: listing.Row) -> Text:
    status = row.status
    if status == "unfinished" and row.percent is not None:
        status = f"unfinished {row.percent} %"
    return Text(status, _STYLES.get(row.status, "red"))


def _notes(rows: Sequence[listing.Row]) -> list[Text]:
    notes: dict[str, list[str]] = {}
    for row in rows:
        if row.note:
            notes.setdefault(row.note, []).append(_name(row))
    return [Text(printable(f"{', '.join(of)}: {note}"), "dim") for note, of in notes.items()]
