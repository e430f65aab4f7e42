"""Which verb a command line means: ``--backup``, ``-b``, ``backup``, or a bare dataset."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from offsite.errors import UsageError

VERBS = ("backup", "restore", "list", "keys", "completions")
VERB_OPTIONS = {
    "-b": "backup",
    "--backup": "backup",
    "-r": "restore",
    "--restore": "restore",
    "-l": "list",
    "--list": "list",
}
TAKES_VALUE = frozenset(
    {"--as", "--provider", "--host", "--trust-signer", "--at", "--to-file"}
    | {"--base", "--exclude", "--jobs", "-j", "--properties"}
)


def find_verb(argv: Sequence[str]) -> tuple[str | None, list[str], bool]:
    """The verb, the arguments without it, and whether it was guessed from a bare dataset.

    A verb as an option counts before a verb as a word, so that ``--backup list`` is about a pool.
    Raises UsageError for two verbs or a misspelled one.
    """
    words = _without_values(argv)
    named = [at for at, word in words if word.partition("=")[0] in VERB_OPTIONS]
    if len(named) > 1:
        one, other = (argv[at].partition("=")[0] for at in named[:2])
        raise UsageError(f"{one} and {other}: one command does one thing")
    if named:
        (at,) = named
        name, equals, value = argv[at].partition("=")
        return (
            VERB_OPTIONS[name],
            [*argv[:at], *([value] if equals else []), *argv[at + 1 :]],
            False,
        )
    first = next((at for at, word in words if not word.startswith("-")), None)
    if first is None:
        return None, list(argv), False
    word = argv[first]
    if word in VERBS:
        return word, [*argv[:first], *argv[first + 1 :]], False
    _refuse_misspelled(word)
    return ("restore" if "@" in word else "backup"), list(argv), True


def _without_values(argv: Sequence[str]) -> list[tuple[int, str]]:
    """The arguments with their places, but for the values of options."""
    found: list[tuple[int, str]] = []
    is_value = False
    for at, argument in enumerate(argv):
        if not is_value:
            found.append((at, argument))
        is_value = not is_value and argument in TAKES_VALUE
    return found


def _refuse_misspelled(word: str) -> None:
    near = difflib.get_close_matches(word, VERBS, n=1, cutoff=0.75)
    if near:
        raise UsageError(
            f"unknown command {word!r}; did you mean {near[0]}?",
            hint=f"if {word} is a pool: offsite backup {word}",
        )
