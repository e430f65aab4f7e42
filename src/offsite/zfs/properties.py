"""What is set on datasets. A user property's value may be any bytes but NUL: tabs, line ends too.

Values are as ``zfs get -p`` writes them; bytes that are no UTF-8 are kept (surrogateescape).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from offsite.errors import ZfsError
from offsite.zfs.command import Zfs
from offsite.zfs.names import check_dataset_name

_SET = ("local", "received", "inherited")
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
    sources = dict(line.partition("\t")[::2] for line in told.splitlines())
    text = zfs.exact("get", "-pHo", "property,value,source", "all", dataset)
    found = _read(text, sources, {})
    if found is not None:
        return found
    values = {
        name: zfs.exact("get", "-pHo", "value", name, dataset).removesuffix("\n")
        for name, source in sources.items()
        if Property("", source).is_set
    }
    found = _read(text, sources, values)
    if found is not None:
        return found
    return {name: Property(value, sources[name]) for name, value in values.items()}


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


def _read(
    text: str, sources: Mapping[str, str], values: Mapping[str, str]
) -> dict[str, Property] | None:
    """What ``text`` tells: the properties of ``sources``, in this order, a line each but for those
    ``values`` that are known. None if it tells anything else."""
    found: dict[str, Property] = {}
    for name, source in sources.items():
        line = text.partition("\n")[0]
        value = values.get(name, line[len(name) + 1 : -len(source) - 1])
        row = f"{name}\t{value}\t{source}\n"
        if not text.startswith(row):
            return None
        text = text.removeprefix(row)
        found[name] = Property(value, source)
    return None if text else found


def set_below(zfs: Zfs, root: str) -> dict[str, dict[str, Property] | None]:
    """What is set on ``root`` and the datasets below it, for all that have anything set.

    None where it cannot be told for certain, for a value has more than one line. Raises ZfsError.
    """
    check_dataset_name(root)
    columns = ("-s", ",".join(_SET), "-pHo", "name,property,value,source")
    text = zfs.exact("get", "-r", "-t", "filesystem,volume", *columns, "all", root, timeout=_LONG)
    found: dict[str, dict[str, Property]] = {}
    doubtful: set[str] = set()
    before = root
    for line in text.split("\n")[:-1]:
        dataset, _, rest = line.partition("\t")
        name, _, rest = rest.partition("\t")
        value, _, source = rest.rpartition("\t")
        one = Property(value, source)
        goes_back = dataset != before and dataset in found
        if goes_back or not one.is_set or name in found.get(dataset, {}):
            doubtful |= {before, dataset}
        else:
            found.setdefault(dataset, {})[name] = one
            before = dataset
    return {**found, **dict.fromkeys(doubtful, None)}
