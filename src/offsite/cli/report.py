"""The verbs' results, as text to read and as JSON."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from offsite import backup, figures, restore, storing
from offsite.errors import OffsiteError
from offsite.figures import printable
from offsite.keys import KeyFile
from offsite.keys.show import Shown

_SHOWN = 4  # links of a chain


def backups_summary(done: backup.Outcome) -> RenderableType:
    """What is where now: of one dataset in a few lines, of a set a table and what is amiss."""
    if not done.recursive:
        return Text("\n").join(backup_summary(result) for result in done.results)
    count = len({result.dataset for result in done.results})
    count += len(done.unchanged)
    whole = figures.count(count + len(done.failed), "dataset")
    first = done.results[0]
    places = in_words(list(dict.fromkeys(p for one in done.results for p in one.providers)))
    said = "would be" if first.dry_run else "are"
    text = Text(
        # The last, for a dataset may have finished first what it began in an earlier set.
        printable(
            f"{count} of {whole} {said} backed up as @{done.results[-1].snapshot} on {places}."
        ),
        "yellow" if done.failed else "green",
    )
    if done.unchanged:
        told = figures.count(len(done.unchanged), "other dataset")
        text.append(f"\n  {told} had not changed: older backups hold the same", "default")
    there = len({result.dataset for result in done.results if _is_there(result)})
    if there:
        text.append(f"\n  {figures.count(there, 'dataset')} of them there already", "default")
    if not first.dry_run:
        stream = sum(result.stream_bytes or 0 for result in done.results)
        stored = sum(result.stored_bytes for result in done.results)
        text.append(
            f"\n  {figures.size(stream)}, stored as {figures.size(stored)}"
            f" ({figures.ratio(stream, stored)})",
            "default",
        )
    missing: dict[tuple[str, str], list[str]] = {}
    for result in done.results:
        for reason in result.failed.items():
            missing.setdefault(reason, []).append(result.dataset)
    for (provider, why), names in missing.items():
        what = f"{names[0]} is" if len(names) == 1 else f"{len(names)} of them are"
        text.append("\n" + printable(f"{what} not on {provider}: {why}"), "red")
    for dataset, why in done.failed.items():
        text.append("\n" + printable(f"{dataset} is not backed up: {why}"), "bold red")
    return Group(_set_table(done.results), text)


def _set_table(results: Sequence[storing.Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("DATASET", overflow="fold")
    table.add_column("TYPE", no_wrap=True)
    for title in ("STREAM", "STORED"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("PROVIDERS", overflow="fold")
    for result in results:
        table.add_row(
            Text(printable(result.dataset)),
            Text(printable(_kind(result))),
            Text(_stream(result)),
            Text("-" if result.dry_run else figures.size(result.stored_bytes)),
            Text(printable(", ".join(_lacking(result) or result.providers))),
        )
    return table


def _stream(result: storing.Result) -> str:
    """What comes, or would come, from zfs."""
    if result.complete_on:
        return "copied" if _lacking(result) else "there already"
    return "?" if result.stream_bytes is None else figures.size(result.stream_bytes)


def _lacking(result: storing.Result) -> list[str]:
    """Of a dry run: the providers that do not have all of it."""
    return [each for each in result.providers if each not in (result.complete_on or ())]


def _is_there(result: storing.Result) -> bool:
    """Whether a dry run found nothing to do."""
    return bool(result.complete_on) and not _lacking(result)


def backups_json(done: backup.Outcome) -> str:
    """``backup`` is the last of ``backups``; ``failed`` and ``unchanged`` only for a set."""
    of_set = {"failed": dict(done.failed), "unchanged": dict(done.unchanged)}
    told = of_set if done.recursive else {}
    return as_json({"backup": done.results[-1], "backups": done.results, **told})


def backup_summary(result: storing.Result) -> Text:
    """A few lines: what is where now, and what is not."""
    if result.dry_run:
        lines = [printable(line) for line in _plan(result)]
        return _with_failed(Text("\n  ".join(lines) + " Nothing was changed."), result)
    name, places = f"{result.dataset}@{result.snapshot}", in_words(result.providers)
    text = Text(printable(f"{name} is backed up on {places}."), "green")
    text.append(f"\n  {_amounts(result)}", "default")
    if result.resumed_chunks:
        kept = figures.count(result.resumed_chunks, "chunk")
        text.append(
            f"\n  {kept} stored before; {figures.size(result.sent_bytes)} came from zfs now",
            "default",
        )
    text.append("\n  " + printable(f"backup {result.backup_id}, {_kind(result)}"), "dim")
    return _with_failed(text, result)


def _plan(result: storing.Result) -> list[str]:
    """The lines of what a backup would do."""
    name = f"{result.dataset}@{result.snapshot} ({_kind(result)})"
    chunks = figures.count(result.chunks, "chunk")
    there, lacking = in_words(result.complete_on or ()), _lacking(result)
    if _is_there(result):
        return [f"{name} is on {there} already."]
    if result.complete_on:
        each = " to each" if len(lacking) > 1 else ""
        size = f"at most {chunks}, {figures.size(result.stored_bytes)}{each}; zfs sends nothing."
        return [f"Would copy {name} from {there} to {in_words(lacking)}:", size]
    size = "zfs does not tell how much."
    if result.stream_bytes is not None:
        size = f"about {figures.size(result.stream_bytes)} in ~{chunks} before compression."
    if result.resumed_chunks:
        size += f" Stored already: {figures.count(result.resumed_chunks, 'chunk')}."
    return [f"Would back up {name} to {in_words(result.providers)}:", size]


def _with_failed(text: Text, result: storing.Result) -> Text:
    for provider, why in result.failed.items():
        text.append("\n" + printable(f"Not on {provider}: {why}"), "bold red")
    return text


def _kind(result: storing.Result) -> str:
    return f"from @{result.base}" if result.base else result.type


def restores_summary(done: restore.Outcome) -> RenderableType:
    """What came back: of one dataset in a few lines, of a tree a table and what is amiss."""
    if not done.recursive:
        return restore_summary(done.results[0])
    first, count = done.results[0], len(done.results)
    said = "would be restored" if first.dry_run else "are restored"
    whole = figures.count(count + len(done.failed), "dataset")
    text = Text(printable(f"{count} of {whole} {said}."), "yellow" if done.failed else "green")
    fetched: Counter[str] = Counter()
    for result in done.results:
        fetched.update(result.providers)
    if sources := _shares(fetched):
        checked = (
            "to fetch. Nothing was changed." if first.dry_run else "signatures and hashes verified"
        )
        text.append("\n" + printable(f"  {sources}; {checked}"), "default")
    if done.estimated_seconds is not None:
        text.append("\n" + _estimate(done.estimated_seconds, fetched.total()), "default")
    for note in done.notes:
        text.append("\n" + printable(f"  {note}"), "default")
    locked = [result.target for result in done.results if result.locked]
    if locked and not first.dry_run:
        load = f"zfs load-key {shlex.quote(locked[0])}"
        text.append("\n" + printable(f"  Encrypted: {load}"), "default")
        text.append(f" and {len(locked) - 1} more" if len(locked) > 1 else "", "default")
    for dataset, why in done.failed.items():
        text.append("\n" + printable(f"{dataset} is not restored: {why}"), "bold red")
    if not first.dry_run:
        text.append("\n  Not mounted yet: zfs mount -a", "dim")
    return Group(_tree_table(done.results), text)


def _tree_table(results: Sequence[restore.Result]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("DATASET", overflow="fold")
    table.add_column("FROM", overflow="fold")
    plan = results[0].dry_run
    if plan:
        table.add_column("CHAIN", overflow="fold")
    else:
        table.add_column("BACKUPS", justify="right", no_wrap=True)
    table.add_column("STREAM", justify="right", no_wrap=True)
    if plan:
        table.add_column("TO FETCH", overflow="fold")
    for result in results:
        there = result.updated and not result.chain
        cells = [
            result.target,
            result.dataset if plan else f"{result.dataset}@{result.snapshot}",
            _links(result) if plan else "" if there else str(len(result.chain)),
            "there already" if there else figures.size(result.stream_bytes),
            *([_shares(result.providers)] if plan else []),
        ]
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _links(result: restore.Result) -> str:
    """The snapshots of a chain; of a long one the ends. What is there already is one."""
    names = [f"@{one.snapshot}" for one in result.chain] or [f"@{result.snapshot}"]
    if len(names) > _SHOWN:
        names[1:-1] = [f"{len(names) - 2} more"]
    return ", ".join(names)


def _shares(providers: Mapping[str, int]) -> str:
    """How much of each that gives something."""
    return ", ".join(
        f"{figures.size(size)} from {name}" for name, size in providers.items() if size
    )


def restores_json(done: restore.Outcome) -> str:
    """``restore`` is the first of ``restores``, which is there only for a tree."""
    first = {"restore": done.results[0]}
    if not done.recursive:
        return as_json(first)
    notes = {
        "failed": dict(done.failed),
        "notes": list(done.notes),
        "estimated_seconds": done.estimated_seconds,
    }
    return as_json({**first, "restores": done.results, **notes})


def restore_summary(result: restore.Result) -> Text:
    """A few lines: what came from where, and how to get at it."""
    name = f"{result.dataset}@{result.snapshot}"
    if result.dry_run:
        return _restore_plan(name, result)
    if result.files:
        return _written(name, result)
    if result.updated and not result.chain:
        return Text(printable(f"{result.target} has {name} already; nothing was changed."), "green")
    done = "is updated to" if result.updated else "is restored to"
    first, second = (result.target, name) if result.updated else (name, result.target)
    text = Text(printable(f"{first} {done} {second}."), "green")
    for fact in (_amounts(result), *_restore_facts(result)):
        text.append(f"\n  {fact}", "default")
    if result.kept:
        text.append("\n  " + printable(f"What was there before: {result.kept}"), "bold")
    target = shlex.quote(result.target)
    if result.locked:
        text.append("\n  " + printable(f"Its key is not loaded: zfs load-key {target}"), "dim")
    if result.type == "filesystem" and not result.updated:
        text.append("\n  " + printable(f"Not mounted yet: zfs mount {target}"), "dim")
    return text


def _restore_facts(result: restore.Result) -> list[str]:
    facts = []
    if len(result.chain) > 1:
        facts.append(f"a chain of {figures.count(len(result.chain), 'backup')}")
    if result.resumed_chunks:
        facts.append(f"{figures.count(result.resumed_chunks, 'chunk')} received before")
    if sources := _shares(result.providers):
        facts.append(f"{sources}; {_checked(result)}")
    if result.properties:
        facts.append(f"{_properties(result)} set")
    return facts


def _checked(result: restore.Result) -> str:
    if result.signed:
        return "signature and hashes verified"
    return "made by the older tool: the stream was whole, but nobody signed it"


def _written(name: str, result: restore.Result) -> Text:
    """What streams are where, and how to receive them."""
    text = Text(printable(f"{name} is written to {in_words(result.files)}."), "green")
    text.append(f"\n  {_amounts(result)}\n  {_checked(result)}", "default")
    if result.files != ("-",):
        each = " && ".join(f"zfs receive -u TARGET < {shlex.quote(f)}" for f in result.files)
        text.append("\n  " + printable(f"Receive: {each}"), "dim")
    return text


def _restore_plan(name: str, result: restore.Result) -> Text:
    """What would be received, backup by backup, and from where."""
    if result.updated and not result.chain:
        return Text(printable(f"{result.target} has {name} already. Nothing was changed."))
    verb = (
        f"Would update {result.target} to {name}"
        if result.updated
        else f"Would restore {name} to {in_words(result.files) if result.files else result.target}"
    )
    places = [provider for provider, size in result.providers.items() if size]
    lines = [printable(f"{verb} from {in_words(places or [*result.providers])}") + ":"]
    known = f"{figures.size(result.stream_bytes)} in " if result.signed else "unsigned, "
    lines.append(
        f"  {known}{figures.count(result.chunks, 'chunk')}"
        f", {figures.size(sum(result.providers.values()))} to fetch. Nothing was changed."
    )
    if result.estimated_seconds is not None:
        lines.append(_estimate(result.estimated_seconds, sum(result.providers.values())))
    for one in result.chain:
        kind = "full" if one.full else "incremental"
        shares = _shares(one.providers) or "received before"
        lines.append(printable(f"  @{one.snapshot}  {kind}, {shares}"))
    if result.properties:
        lines.append(printable(f"  {_properties(result)}: {', '.join(result.properties)}"))
    if result.kept:
        lines.append(printable(f"  What is there now would be kept as {result.kept}"))
    return Text("\n".join(lines))


def _estimate(seconds: float, size: int) -> str:
    time = figures.duration(max(seconds, 1))
    return f"  about {time} at the {figures.size(size / seconds)}/s measured now"


def _properties(result: restore.Result) -> str:
    return "1 property" if len(result.properties) == 1 else f"{len(result.properties)} properties"


def as_json(value: Mapping[str, Any]) -> str:
    """Two-space JSON; dataclasses inside become objects."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else dataclasses.asdict(value)


def error_json(error: OffsiteError, status: int) -> str:
    """What a program reads instead of a result."""
    return as_json({"error": str(error), "hint": error.hint, "exit_status": status})


def keys_made(files: Collection[KeyFile]) -> Text:
    """A line for every key file: made, kept or absent."""
    lines: list[Text] = []
    for file in files:
        word = "made" if file.created else "kept" if file.path.exists() else "absent"
        style = "green" if file.created else "dim"
        lines.append(Text.assemble((f"{word:7}", style), printable(f"{file.kind}: {file.path}")))
        if file.note:
            lines.append(
                Text(printable(f"       {file.note}"), "dim" if word == "absent" else "yellow")
            )
    return Text("\n").join(lines)


def keys_shown(shown: Collection[Shown]) -> Text:
    """Every key file and its public parts."""
    lines: list[Text] = []
    for key in shown:
        lines.append(Text(printable(f"{key.kind}: {key.path}"), "bold"))
        lines += [Text(printable(f"  {line}")) for line in key.public or ("not here",)]
    return Text("\n").join(lines)


def _amounts(result: storing.Result | restore.Result) -> str:
    chunks, stream = figures.count(result.chunks, "chunk"), result.stream_bytes or 0
    ratio = figures.ratio(stream, result.stored_bytes)
    text = (
        f"{figures.size(stream)} in {chunks}, "
        f"stored as {figures.size(result.stored_bytes)} ({ratio}), "
        f"in {figures.duration(result.seconds)}"
    )
    if result.resumed_chunks or result.seconds <= 0:
        return text
    return f"{text} ({figures.size(stream / result.seconds)}/s)"


def in_words(names: Collection[str]) -> str:
    *others, last = names or ("no provider",)
    return f"{', '.join(others)} and {last}" if others else last
