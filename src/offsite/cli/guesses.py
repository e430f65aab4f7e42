"""What was meant by who typed what there is not: misspelled, or as other tools call it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from offsite.errors import UsageError

_NEVER = "nothing is ever deleted at a provider, yet"
_LIST = "offsite list shows what is backed up"
_CHECK = (
    "offsite keys check proves the keys; offsite restore DATASET --dry-run looks at every backup"
    " that a restore takes"
)
# Words that pools are hardly called.
_WORDS = {
    **dict.fromkeys(("ls", "show", "snapshots", "status"), _LIST),
    **dict.fromkeys(("check", "verify"), _CHECK),
    **dict.fromkeys(("delete", "destroy", "forget", "prune", "purge", "remove", "rm"), _NEVER),
    **dict.fromkeys(("init", "setup"), "offsite keys init makes the keys"),
    **dict.fromkeys(("receive", "recv", "recover"), "offsite restore brings a backup back"),
    **dict.fromkeys(("save", "send"), "offsite backup sends one"),
    **dict.fromkeys(
        ("config", "configure"), "the settings are in a file: ~/.config/offsite/config.env"
    ),
}
_PLACE = "--provider NAME tells which provider"
_BACKUP = {
    **dict.fromkeys(("--to", "--target", "--dest", "--destination", "--remote", "--repo"), _PLACE),
    **dict.fromkeys(
        ("--name", "--snapshot"), "--as @SNAP names a new snapshot, DATASET@SNAP one that exists"
    ),
    **dict.fromkeys(
        ("--force", "--overwrite"), "--full begins anew, and nothing else is to be forced"
    ),
    **dict.fromkeys(
        ("--retention", "--keep", "--keep-last", "--keep-daily", "--prune"),
        f"all backups are kept: {_NEVER}",
    ),
    **dict.fromkeys(
        ("--incremental", "-i"), "a backup is an increment where it can be; see --base and --full"
    ),
}
_RESTORE = {
    **dict.fromkeys(
        ("--force", "--overwrite", "-F"),
        "--replace puts the backup in the place of a dataset that exists, --update receives what"
        " came after it",
    ),
    **dict.fromkeys(
        ("--to", "--target", "--dest", "--destination", "--name"),
        "--as TARGET names the new dataset",
    ),
    **dict.fromkeys(
        ("--output", "-o", "--file", "--stdout"), "--to-file PATH (or -) writes the stream"
    ),
    **dict.fromkeys(("--from", "--remote", "--repo"), _PLACE),
    "--snapshot": "DATASET@SNAP names the snapshot",
    "--latest": "DATASET@latest is the newest, and so is DATASET alone",
    "--jobs": "datasets come back one after the other",
    "--exclude": "each dataset of a set can be restored by itself",
}
_OPTIONS: Mapping[str, Mapping[str, str]] = {"backup": _BACKUP, "restore": _RESTORE}
_TOO_MANY = {
    "backup": "one dataset a command: -R backs up all that is below it, too",
    "restore": "the new dataset's name goes after --as",
    "list": "one dataset, or none: then all are listed",
}


def refuse_word(word: str, verbs: Sequence[str]) -> None:
    """Raise UsageError for a bare word that looks like a command."""
    near = difflib.get_close_matches(word, verbs, n=1, cutoff=0.75)
    if word not in _WORDS and not near:
        return
    pool = f"if {word} is a pool: offsite backup {word}"
    if word in _WORDS:
        raise UsageError(f"there is no command {word!r}: {_WORDS[word]}", hint=pool)
    raise UsageError(f"unknown command {word!r}; did you mean {near[0]}?", hint=pool)


def not_understood(
    argument: str, verb: str | None, options: Mapping[str, Iterable[str]]
) -> UsageError:
    """The error for an argument that ``verb`` does not take. ``options``: of each verb."""
    see = f"see offsite {verb + ' ' if verb else ''}--help"
    if not argument.startswith("-"):
        told = _TOO_MANY.get(verb or "")
        return UsageError(
            f"unexpected argument {argument!r}", hint=f"{told}; {see}" if told else see
        )
    name = argument.partition("=")[0]
    guess = _guess(name, verb, options)
    return UsageError(f"unknown option {name}", hint=f"{guess}; {see}" if guess else see)


def _guess(name: str, verb: str | None, options: Mapping[str, Iterable[str]]) -> str:
    if meant := _OPTIONS.get(verb or "", {}).get(name):
        return meant
    if others := [other for other, theirs in options.items() if other and name in theirs]:
        return f"it belongs to offsite {' and '.join(others)}"
    near = difflib.get_close_matches(name, (*options[verb or ""], *options[""]), n=1, cutoff=0.7)
    return f"did you mean {near[0]}?" if near else ""
