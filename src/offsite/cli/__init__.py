"""The entry point: parse, dispatch, and the one place where errors become text and exit status."""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

from rich.console import RenderableType
from rich.text import Text

from offsite import backup, config, keys, listing, log, restore
from offsite.cli import asking, listed, parser, report
from offsite.cli.options import Backup, Help, Keys, List, Options, Restore
from offsite.cli.stopping import INTERRUPTED, stopping
from offsite.config import Config
from offsite.console import Display, Output, display, plain, say
from offsite.errors import OffsiteError, ProviderError, StoppedError, UsageError
from offsite.member import Wish

FAILED = 1
PARTIAL = 3
STDOUT = "-"  # as a file's name
BUG = 70  # EX_SOFTWARE of sysexits.h
_BUG_HINT = "this is a bug in offsite: run it again with --verbose, and report what it prints"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    _open_closed_streams()
    os.umask(os.umask(0o077) | 0o022)  # whatever the user's: others write to nothing of ours
    arguments = sys.argv[1:] if argv is None else list(argv)
    # Also a command line that cannot be parsed is answered in the form it asks for.
    output = Output(
        verbose=not {"-v", "--verbose"}.isdisjoint(arguments), json="--json" in arguments
    )
    return _guarded(lambda: _run(parser.parse(arguments)), output, _tell)


def _run(options: Options) -> int:
    if isinstance(options.command, Help):
        say(options.command.text, sys.stdout)
        return 0
    settings = config.load(os.environ)
    home = config.home_of(os.environ)
    with display(options.output, journal=_journal(options), home=home) as shown:
        for warning in settings.warnings:
            shown.warning(warning)
        return _guarded(lambda: _dispatch(settings, options, shown), options.output, shown.line)


def _guarded(work: Callable[[], int], output: Output, line: log.Sink) -> int:
    """The exit status of ``work``; an error is told in one line and a hint."""
    try:
        return work()
    except OffsiteError as error:
        return _fail(error, error.exit_status, output, line)
    except KeyboardInterrupt:
        return _fail(OffsiteError("interrupted"), INTERRUPTED, output, line)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _fail(OffsiteError(f"{place}{error.strerror or error}"), FAILED, output, line)
    except Exception as error:  # noqa: BLE001 - a bug must end in one line, too
        bug = OffsiteError(f"internal error: {type(error).__name__}: {error}", hint=_BUG_HINT)
        return _fail(bug, BUG, output, line)


def _fail(error: OffsiteError, status: int, output: Output, line: log.Sink) -> int:
    line(logging.ERROR, " ".join(str(error).split()))
    if error.hint:
        line(log.HINT, error.hint)
    if output.verbose and not isinstance(error, UsageError):
        line(logging.DEBUG, traceback.format_exc().rstrip())
    if output.json:
        say(report.error_json(error, status), sys.stdout)
    return status


def _tell(level: int, text: str) -> None:
    """For what goes wrong before there is a display."""
    say(f"{log.level_name(level)}: {text}", sys.stderr)


def _journal(options: Options) -> tuple[str, str] | None:
    command = options.command
    if isinstance(command, Backup) and not command.dry_run:
        return "backup", command.dataset
    if isinstance(command, Restore) and not command.dry_run and command.file != STDOUT:
        return "restore", command.target or command.dataset
    return None


def _dispatch(settings: Config, options: Options, shown: Display) -> int:
    command, output = options.command, options.output
    if isinstance(command, Backup):
        with _telling_what_is_kept():
            return _backup(settings, command, output, shown)
    if isinstance(command, Restore):
        with _telling_what_is_kept() if command.file is None else nullcontext():
            return _restore(settings, command, output, shown)
    if isinstance(command, List):
        return _list(settings, command, output, shown)
    assert isinstance(command, Keys)
    return _keys(settings, command, output)


@contextmanager
def _telling_what_is_kept() -> Iterator[None]:
    try:
        yield
    except StoppedError as error:
        error.hint = error.hint or "what was stored or received is kept: the same command goes on"
        raise


def _backup(settings: Config, command: Backup, output: Output, shown: Display) -> int:
    if command.bare:
        _tell_guess(f"Backing up {command.dataset}: a dataset alone means --backup", output, shown)
    request = backup.Request(
        dataset=command.dataset,
        snapshot=command.snapshot,
        providers=command.providers,
        dry_run=command.dry_run,
        wish=Wish(
            anew=command.anew,
            restart=command.restart,
            full=command.full,
            base=command.base,
            intermediate=command.intermediate,
        ),
        recursive=command.recursive,
        exclude=command.exclude,
        jobs=command.jobs or backup.JOBS,
    )
    with stopping() as stop:
        done = backup.run(settings, request, shown, stop)
    _show(report.backups_summary(done), report.backups_json(done), output, shown)
    return PARTIAL if done.failed or any(result.failed for result in done.results) else 0


def _restore(settings: Config, command: Restore, output: Output, shown: Display) -> int:
    if command.bare:
        _tell_guess(f"Restoring {command.dataset}: a dataset with @ means --restore", output, shown)
    if command.moment:
        shown.info(f"Of the backups not after {command.moment}")
    request = restore.Request(
        dataset=command.dataset,
        point=command.point,
        target=command.target,
        provider=command.provider,
        host=command.host,
        trust=command.trust,
        dry_run=command.dry_run,
        restart=command.restart,
        update=command.update,
        replace=command.replace,
        at=command.at,
        file=command.file,
        properties=command.properties,
        recursive=command.recursive,
        unsigned=command.unsigned,
    )
    if command.replace and not (command.yes or command.dry_run):
        asking.about_replacing(command.target or command.dataset)
    with stopping() as stop:
        done = restore.run(settings, request, shown, stop)
    summary = report.restores_summary(done)
    if command.file == STDOUT and not command.dry_run:
        shown.finish()
        if not output.quiet:
            say(plain(summary), sys.stderr)
        return 0
    _show(summary, report.restores_json(done), output, shown)
    return PARTIAL if done.failed else 0


def _list(settings: Config, command: List, output: Output, shown: Display) -> int:
    names = "all" if command.providers is None else command.providers
    chosen = [provider.name for provider in settings.select(names)]
    with stopping() as stop:
        found = listing.run(
            settings,
            dataset=command.dataset,
            providers=command.providers,
            host=command.host,
            progress=shown,
            stop=stop,
        )
    if len(found.problems) < len(chosen):
        text = listed.text(found, dataset=command.dataset, providers=chosen)
        _print(text, listed.json(found), output)
    for provider, why in found.problems.items():
        shown.line(logging.ERROR, f"{provider} cannot be read: {why}")
    if not found.problems:
        return 0
    if len(found.problems) < len(chosen):
        return PARTIAL
    raise ProviderError("no provider can be read")


def _keys(settings: Config, command: Keys, output: Output) -> int:
    if command.action in {"init", "vouch"}:
        made = keys.initialise(settings) if command.action == "init" else [keys.vouch(settings)]
        _print(report.keys_made(made), report.as_json({"keys": made}), output)
    elif command.action == "show":
        shown = keys.show(settings)
        _print(report.keys_shown(shown), report.as_json({"keys": shown}), output)
    else:
        proven = keys.check(settings)
        _print(Text("\n".join(proven)), report.as_json({"proven": proven}), output)
    return 0


def _tell_guess(text: str, output: Output, shown: Display) -> None:
    """Who typed it is to see it, also where all else goes to a log file."""
    if not output.quiet:
        _tell(logging.INFO, text)
    shown.note(text)


def _show(summary: RenderableType, json: str, output: Output, shown: Display) -> None:
    """A result that a log file keeps, too."""
    shown.finish()
    shown.note(plain(summary))
    if output.json or not output.quiet:
        _print(summary, json, output)


def _print(renderable: RenderableType, json: str, output: Output) -> None:
    say(json if output.json else renderable, sys.stdout)


def _open_closed_streams() -> None:
    """``>&-`` closes a stream; what we print then goes nowhere instead of into our files."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "r" if name == "stdin" else "w"
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8"))
