"""The command line: ``offsite --backup X`` and ``offsite backup X`` are one and the same.

``spelling`` finds the verb, wherever it stands; the rest goes to that verb's own argparse parser.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Sequence
from typing import NoReturn

import offsite
from offsite.cli import completions, guesses, helptext, moments, spelling
from offsite.cli.options import Backup, Command, Help, Keys, List, Options, Restore
from offsite.console import Output
from offsite.errors import UsageError
from offsite.zfs.names import check_dataset_name

_SPELLED = {"to_file": "to-file", "target": "as"}
_MOST_JOBS = 64
_SHORTEST = 2  # a name and its @ or #


class _Parser(argparse.ArgumentParser):
    """Raises UsageError where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see {self.prog} --help")


def parse(argv: Sequence[str]) -> Options:
    """Raises UsageError for everything that cannot be meant."""
    verb, rest, bare = spelling.find_verb(argv)
    if verb is None:
        return _without_verb(rest)
    parser = _Parser(prog=f"offsite {verb}", add_help=False, allow_abbrev=False)
    _add_common(parser)
    build = _ADDERS[verb](parser)
    given, unknown = parser.parse_known_args(rest)
    if given.help:
        return Options(Help(helptext.VERBS[verb]), Output())
    if given.version:
        return Options(Help(f"offsite {offsite.__version__}"), Output())
    if unknown:
        raise guesses.not_understood(unknown[0], verb, _options())
    given.bare = bare
    _check_exclusive(given, "quiet", "verbose")
    return Options(build(given), Output(given.quiet, given.verbose, given.json))


def _without_verb(argv: Sequence[str]) -> Options:
    parser = _Parser(prog="offsite", add_help=False, allow_abbrev=False)
    _add_common(parser)
    given, unknown = parser.parse_known_args(argv)
    if given.version:
        return Options(Help(f"offsite {offsite.__version__}"), Output())
    if given.help:
        return Options(Help(helptext.MAIN), Output())
    if unknown:
        raise guesses.not_understood(unknown[0], None, _options())
    raise UsageError(
        "nothing to do",
        hint="offsite --backup DATASET, offsite --restore DATASET --as TARGET, or offsite --list;"
        " offsite --help tells more",
    )


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("--version", action="store_true")
    parser.add_argument("-q", "--quiet", action="store_true")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("--json", action="store_true")


def add_backup(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Command]:
    parser.add_argument("dataset", nargs="?", metavar="DATASET[@SNAP]")
    parser.add_argument("--as", dest="alias", metavar="@SNAP")
    parser.add_argument("--provider", action="append", metavar="NAME[,NAME...]|all")
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--base", metavar="@SNAP|#BOOKMARK")
    parser.add_argument("--intermediate", action="store_true")
    _add_recursion(parser)
    parser.add_argument("--exclude", action="append", default=[], metavar="PATTERN")
    parser.add_argument("-j", "--jobs", metavar="N")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("-n", "--dry-run", action="store_true")

    def build(given: argparse.Namespace) -> Backup:
        dataset, snapshot = _split(given.dataset, "backup")
        if snapshot is not None and given.alias is not None:
            raise UsageError(
                f"{given.dataset} and --as {given.alias} both name the snapshot",
                hint=f"{dataset} --as {given.alias} makes a new one, {given.dataset} alone takes"
                " or makes that one",
            )
        _check_exclusive(given, "full", "base", "intermediate")
        if not all(given.exclude):  # a shell variable that is not set
            raise UsageError("--exclude names nothing", hint="e.g. --exclude '*/cache'")
        if given.exclude and given.recursive is False:
            raise UsageError("--exclude and --no-recursive exclude each other")
        if given.exclude and not given.recursive and "/" in dataset:
            raise UsageError(
                f"--exclude is for what is below {dataset}", hint="add --recursive (-R)"
            )
        return Backup(
            dataset=dataset,
            snapshot=snapshot if given.alias is None else _snapshot_of(given.alias),
            anew=given.alias is not None,
            providers=_joined(given.provider),
            dry_run=given.dry_run,
            restart=given.restart,
            full=given.full,
            base=None if given.base is None else _base_of(given.base),
            intermediate=given.intermediate,
            bare=given.bare,
            recursive=given.recursive,
            exclude=tuple(given.exclude),
            jobs=None if given.jobs is None else _jobs_of(given.jobs),
        )

    return build


def _add_recursion(parser: argparse.ArgumentParser) -> None:
    """None is what the dataset suggests."""
    parser.add_argument("-R", "--recursive", action="store_true", default=None)
    parser.add_argument("--no-recursive", dest="recursive", action="store_false", default=None)


def add_restore(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Command]:
    parser.add_argument("dataset", nargs="?", metavar="DATASET[@SNAP|@latest|@latest-full]")
    parser.add_argument("--as", dest="target", metavar="TARGET")
    parser.add_argument("--provider", default="auto", metavar="NAME|auto")
    parser.add_argument("--host", metavar="NAME")
    parser.add_argument("--trust-signer", action="append", default=[], metavar="SHA256:...")
    parser.add_argument("--at", metavar="TIME")
    parser.add_argument("--to-file", metavar="PATH|-")
    _add_recursion(parser)
    parser.add_argument("--properties", choices=("none", "local", "all"))
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--replace", action="store_true")
    parser.add_argument("--yes", action="store_true")
    parser.add_argument("--restart", action="store_true")
    parser.add_argument("--unsigned", action="store_true")
    parser.add_argument("-n", "--dry-run", action="store_true")

    def build(given: argparse.Namespace) -> Restore:
        dataset, point = _split(given.dataset, "restore")
        if given.target is not None and (not given.target or "@" in given.target):
            raise UsageError(
                f"--as {given.target!r} is no dataset name",
                hint="for a restore it names the new dataset, e.g. --as tank/restored",
            )
        if given.target is not None:
            _check_name(given.target)
        _check_fingerprints(given.trust_signer)
        for other in ("update", "replace", "restart", "target", "properties", "recursive"):
            _check_exclusive(given, "to_file", other)
        _check_exclusive(given, "update", "properties")
        _check_exclusive(given, "update", "replace")
        if given.to_file == "-" and given.json:
            raise UsageError("--json and --to-file - both want stdout")
        if point is not None and given.at is not None:
            raise UsageError(f"@{point} and --at exclude each other")
        return Restore(
            dataset=dataset,
            point=point,
            target=given.target,
            provider=given.provider,
            host=given.host,
            trust=tuple(given.trust_signer),
            dry_run=given.dry_run,
            restart=given.restart,
            bare=given.bare,
            update=given.update,
            replace=given.replace,
            yes=given.yes,
            at=None if given.at is None else moments.read_moment(given.at),
            moment="" if given.at is None else moments.told(given.at),
            file=given.to_file,
            properties=given.properties or "local",
            recursive=given.recursive,
            unsigned=given.unsigned,
        )

    return build


def add_list(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Command]:
    parser.add_argument("dataset", nargs="?", metavar="DATASET")
    parser.add_argument("--provider", action="append", metavar="NAME[,NAME...]|all")
    parser.add_argument("--host", metavar="NAME")

    def build(given: argparse.Namespace) -> List:
        if given.dataset is not None:
            dataset, snapshot = _split(given.dataset, "list")
            if snapshot is not None:
                raise UsageError(
                    f"{given.dataset!r} is a snapshot: a list is of a dataset, with all of them",
                    hint=f"offsite --list {shlex.quote(dataset)}",
                )
        return List(given.dataset, _joined(given.provider), given.host)

    return build


def add_keys(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Command]:
    actions = ("init", "vouch", "show", "check")
    parser.add_argument("action", nargs="?", metavar="|".join(actions))

    def build(given: argparse.Namespace) -> Keys:
        if given.action not in actions:
            what = "keys: what?" if given.action is None else f"unknown: keys {given.action}"
            raise UsageError(what, hint="offsite keys init, vouch, show or check")
        return Keys(given.action)

    return build


def add_completions(parser: argparse.ArgumentParser) -> Callable[[argparse.Namespace], Command]:
    parser.add_argument("shell", nargs="?", metavar="|".join(completions.SHELLS))

    def build(given: argparse.Namespace) -> Help:
        if given.shell not in completions.SHELLS:
            raise UsageError(
                "completions: for which shell?", hint="offsite completions bash, zsh or fish"
            )
        return Help(completions.script(given.shell, _options(), spelling.TAKES_VALUE).rstrip())

    return build


def _options() -> dict[str, list[str]]:
    """Of each verb, and under "" those that need none."""
    return {verb: _options_of(verb) for verb in ("", *spelling.VERBS)}


def _options_of(verb: str) -> list[str]:
    parser = _Parser(add_help=False)
    _add_common(parser)
    if verb:
        _ADDERS[verb](parser)
    actions = parser._actions  # noqa: SLF001 - argparse tells its options nowhere else
    names = [name for action in actions for name in action.option_strings]
    return [*names, *([] if verb else spelling.VERB_OPTIONS)]


_ADDERS: dict[str, Callable[[argparse.ArgumentParser], Callable[[argparse.Namespace], Command]]] = {
    "backup": add_backup,
    "restore": add_restore,
    "list": add_list,
    "keys": add_keys,
    "completions": add_completions,
}


def _split(typed: str | None, verb: str) -> tuple[str, str | None]:
    if not typed:
        raise UsageError(f"{verb}: which dataset?", hint=f"e.g. offsite {verb} tank/photos")
    dataset, at, snapshot = typed.partition("@")
    if not dataset or (at and not snapshot) or "@" in snapshot:
        raise UsageError(
            f"{typed!r} is neither DATASET nor DATASET@SNAPSHOT",
            hint=f"e.g. offsite {verb} tank/photos@monday",
        )
    _check_name(dataset)
    return dataset, snapshot or None


def _check_name(dataset: str) -> None:
    if dataset.startswith(("/", ".", "~")):
        raise UsageError(
            f"{dataset!r} is a path, and no dataset",
            hint="e.g. tank/photos; zfs list shows the names, and where each is mounted",
        )
    check_dataset_name(dataset)


def _snapshot_of(typed: str) -> str:
    name = typed.removeprefix("@")
    if not name or "@" in name or "/" in name:
        raise UsageError(
            f"--as {typed!r} is no snapshot name",
            hint="for a backup it names the snapshot, e.g. --as @monday",
        )
    return name


def _base_of(typed: str) -> str:
    name = typed if typed.startswith(("@", "#")) else f"@{typed}"
    if len(name) < _SHORTEST or set(name[1:]) & set("@#/"):
        raise UsageError(
            f"--base {typed!r} is no snapshot or bookmark", hint="e.g. --base @monday, '#mark'"
        )
    return name


def _jobs_of(typed: str) -> int:
    if not typed.isascii() or not typed.isdecimal() or not 1 <= int(typed) <= _MOST_JOBS:
        raise UsageError(f"--jobs {typed!r} is no number of datasets", hint=f"1 to {_MOST_JOBS}")
    return int(typed)


def _check_fingerprints(typed: Sequence[str]) -> None:
    for fingerprint in typed:
        if not fingerprint.startswith("SHA256:"):
            raise UsageError(
                f"--trust-signer {fingerprint!r} is no fingerprint",
                hint="offsite keys show tells it, on the machine that made the backup: SHA256:...",
            )


def _check_exclusive(given: argparse.Namespace, *names: str) -> None:
    """Raise UsageError if more than one of these options was given."""
    both = [f"--{_SPELLED.get(name, name)}" for name in names if getattr(given, name)]
    if len(both) > 1:
        raise UsageError(f"{both[0]} and {both[1]} exclude each other")


def _joined(names: Sequence[str] | None) -> str | None:
    if names is None:
        return None
    for name in names:
        if not name.strip():  # a shell variable that is not set must not mean all of them
            raise UsageError("--provider names none", hint="name one, or say --provider all")
    return ",".join(names)
