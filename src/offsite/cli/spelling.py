"""Which verb a command line means: ``--backup``, ``-b``, ``backup``, or a bare dataset."""

from __future__ import annotations

from collections.abc import Sequence

from offsite.cli import guesses
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
_ABOUT = {"help": "--help", "version": "--version"}
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
        raise _two(one, other)
    if named:
        (at,) = named
        name, equals, value = argv[at].partition("=")
        _refuse_second(name, at, words)
        return (
            VERB_OPTIONS[name],
            [*argv[:at], *([value] if equals else []), *argv[at + 1 :]],
            False,
        )
    first = next((at for at, word in words if not word.startswith("-")), None)
    if first is None:
        return None, list(argv), False
    word = argv[first]
    if word in _ABOUT:
        return _about(word, [other for at, other in words if at > first])
    if word in VERBS:
        return word, [*argv[:first], *argv[first + 1 :]], False
    if "/" not in word and "@" not in word:
        guesses.refuse_word(word, VERBS)
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


def _refuse_second(option: str, at: int, words: Sequence[tuple[int, str]]) -> None:
    """Raise UsageError for a verb as a word where there is one as an option, too.

    A pool that is called like a verb comes after the option, and alone.
    """
    bare = [(place, word) for place, word in words if not word.startswith("-")]
    if not bare or bare[0][1] not in VERBS or (len(bare) == 1 and bare[0][0] > at):
        return
    raise _two(bare[0][1], option)


def _two(one: str, other: str) -> UsageError:
    hint = "-r is --restore; what is below a dataset, too, is -R" if "-r" in {one, other} else None
    return UsageError(f"{one} and {other}: one command does one thing", hint=hint)


def _about(word: str, rest: Sequence[str]) -> tuple[str | None, list[str], bool]:
    """``help``, ``help VERB`` and ``version``, as the options of that name."""
    others = [other for other in rest if not other.startswith("-")]
    if not others or word == "version":
        return None, [_ABOUT[word]], False
    if others[0] not in VERBS:
        raise UsageError(
            f"there is no command {others[0]!r}", hint=f"there are: {', '.join(VERBS)}"
        )
    return others[0], [_ABOUT[word]], False
