"""What is set on datasets. A user property's value may be any bytes but NUL: tabs, line ends too.

Values are as ``zfs get -p`` writes them; bytes that are no UTF-8 are kept (surrogateescape).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from offsite.errors import ZfsError
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError, Reason
from offsite.zfs.names import check_dataset_name

_SET = ("local", "received", "inherited")
_TRIES = 3
_LONG = 600  # seconds, for many datasets


@dataclass(frozen=True)
class Property:
    """A value in zfs's exact (``-p``) form and where it comes from, e.g. ``local``, ``default``."""

    value: str
    source: str

    @property
    def is_set(self) -> bool:
        """Whether a user chose it, here or above, and not zfs."""
        return self.source.startswith(_SET)


def effective(zfs: Zfs, dataset: str) -> dict[str, Property]:
    """All effective properties of a dataset, the user's own ones too. Raises ZfsError.

    Names and sources hold no line ends and are asked for by themselves. Where a value may, for
    there are more lines than names, each that is set is asked for by itself, too.
    """
    check_dataset_name(dataset)
    told = zfs.exact("get", "-pHo", "property,source", "all", dataset)
    rows = [line.partition("\t")[::2] for line in told.splitlines()]
    text = zfs.exact("get", "-pHo", "property,value,source", "all", dataset)
    found = _values(text, rows, lambda _, plain: plain)
    if found is None:
        asked = {row: _one(zfs, row[0], dataset) for row in rows if Property("", row[1]).is_set}
        found = _values(text, rows, asked.get)
        if found is None:
            return {name: Property(value, source) for (name, source), value in asked.items()}
    return {
        name: Property(value, source) for (name, source), value in zip(rows, found, strict=True)
    }


def salts(zfs: Zfs, dataset: str, *, below: bool = False) -> dict[str, int]:
    """By name the salt of the passphrase that opens a dataset, and those ``below`` it; 0 where the
    key has another format, nothing where zfs does not tell. Raises StoppedError.

    Every new passphrase has a new one, and who inherits the key has that of its owner: the same
    salt is the same key (OpenZFS: zfs_crypto_rewrap in lib/libzfs/libzfs_crypto.c; seen on 2.3.2).
    """
    check_dataset_name(dataset)
    depth = ("-r", "-t", "filesystem,volume") if below else ()
    args = ("get", *depth, "-pHo", "name,value", "pbkdf2salt", dataset)
    try:
        rows = [line.split("\t") for line in zfs.run(*args, timeout=_LONG).splitlines()]
    except ZfsError:  # who knows no such property, or cannot be asked any more
        return {}
    return {name: int(value) for name, value in rows if value.isdecimal()}


def set_below(zfs: Zfs, root: str) -> dict[str, dict[str, Property]] | None:
    """What is set on ``root`` and the datasets below it, for all that have anything set.

    Of values with more than one line each is asked for where it was set. None if something was
    changed each time while it was asked. Raises ZfsError.
    """
    check_dataset_name(root)
    for _ in range(_TRIES):
        try:
            found = _set_below(zfs, root)
        except CommandError as error:
            if error.reason is not Reason.MISSING:
                raise
            found = None  # it was destroyed
        if found is not None:
            return found
    return None


def _set_below(zfs: Zfs, root: str) -> dict[str, dict[str, Property]] | None:
    told = [line.split("\t") for line in _below(zfs, root, "name,property,source").splitlines()]
    rows = [(f"{dataset}\t{name}", source) for dataset, name, source in told]

    ask = functools.cache(functools.partial(_one, zfs))

    def exact(row: tuple[str, str], plain: str | None) -> str:
        dataset, _, name = row[0].partition("\t")
        origin = "" if name == "mountpoint" else row[1].partition("inherited from ")[2]
        return ask(name, origin or dataset) if plain is None else plain

    values = _values(_below(zfs, root, "name,property,value,source"), rows, exact)
    if values is None:
        return None
    found: dict[str, dict[str, Property]] = {}
    for (dataset, name, source), value in zip(told, values, strict=True):
        found.setdefault(dataset, {})[name] = Property(value, source)
    return found


def _below(zfs: Zfs, root: str, columns: str) -> str:
    which = ("-r", "-t", "filesystem,volume", "-s", ",".join(_SET))
    return zfs.exact("get", *which, "-pHo", columns, "all", root, timeout=_LONG)


def _one(zfs: Zfs, name: str, dataset: str) -> str:
    return zfs.exact("get", "-pHo", "value", name, dataset).removesuffix("\n")


def _values(
    text: str,
    rows: Sequence[tuple[str, str]],
    exact: Callable[[tuple[str, str], str | None], str | None],
) -> list[str] | None:
    """The value in each of ``rows``, of which is known what stands before and after it.

    ``exact`` makes it of what the row's first line tells; that is None if the next row does not
    follow. The result is None if ``text`` tells anything else.
    """
    found, at = [], 0
    for row, after in itertools.zip_longest(rows, rows[1:]):
        key, source = row
        end = text.find("\n", at)
        follows = text.startswith(f"{after[0]}\t", end + 1) if after else end + 1 == len(text)
        plain = text[at + len(key) + 1 : end - len(source) - 1]
        value = exact(row, plain if end >= 0 and follows else None)
        line = f"{key}\t{value}\t{source}\n"
        if value is None or not text.startswith(line, at):
            return None
        at += len(line)
        found.append(value)
    return found if at == len(text) else None
