"""A dataset and all below it: which of them are backed up, and their snapshots, made at one moment.

The backups of one such run are a *set*: they share ``SetFacts`` in their heads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import platformdirs

from offsite.chain import Names
from offsite.errors import UsageError
from offsite.manifest import SetFacts
from offsite.progress import Progress
from offsite.zfs import datasets, targets
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset, Snapshot
from offsite.zfs.names import check_snapshot_name

WANTED = "offsite:backup"  # a user property, inherited as all of them are
_OFF = frozenset({"off", "no", "false", "0"})


def members(
    zfs: Zfs, root: str, excluded: Sequence[str], progress: Progress
) -> tuple[list[Dataset], bool]:
    """The datasets to back up, parents first, and whether these are all that there are.

    Left out is what has the property ``offsite:backup=off``, and what matches a pattern by its
    full name or by its path below ``root``, with all below it; and what is not all there yet.
    Raises UsageError if nothing is left.
    """
    found = datasets.list_below(zfs, root, WANTED)
    unused = set(excluded)
    wanted: list[Dataset] = []
    for dataset, value in found:
        hits = {pattern for pattern in excluded if _matches(dataset.name, root, pattern)}
        unused -= hits
        if not hits and value.lower() not in _OFF:
            wanted.append(dataset)
    chosen = len(wanted)
    wanted = _finished(zfs, root, wanted, progress)
    for pattern in unused:
        progress.warning(f"--exclude {pattern} matches nothing in {root}")
    if not wanted:
        raise UsageError(
            f"nothing in {root} is to be backed up",
            hint=f"--exclude or the property {WANTED}=off leaves everything out"
            if not chosen
            else "finish the restore first, or give it up",
        )
    if chosen < len(found):
        left = len(found) - chosen
        progress.info(f"Left out by --exclude or {WANTED}=off: {left} of {len(found)} datasets")
    return wanted, len(wanted) == len(found)


def _finished(zfs: Zfs, root: str, wanted: Sequence[Dataset], progress: Progress) -> list[Dataset]:
    """Without what a restore, or another zfs receive, still works on or was interrupted in."""
    half = targets.unfinished(zfs, root)
    for one in wanted:
        if one.name in half:
            progress.info(f"Left out: {one.name}, where a restore or zfs receive is unfinished")
    return [one for one in wanted if one.name not in half]


def _matches(name: str, root: str, pattern: str) -> bool:
    """Also what is below a dataset that matches."""
    while len(name) >= len(root):
        if fnmatchcase(name, pattern) or fnmatchcase(name[len(root) + 1 :], pattern):
            return True
        name = name.rpartition("/")[0]
    return False


@dataclass(frozen=True)
class Note:
    """A file that is there while a set is made: a run that was cut off leaves it behind.

    One that went to its end, whatever failed in it, does not: the next one is of a new moment.
    """

    path: Path

    def read(self) -> Names | None:
        """The names of the set that was cut off, if there is one."""
        try:
            told = json.loads(self.path.read_bytes())
            names = Names(str(told["snapshot"]), given=True)
            check_snapshot_name(f"pool@{names.snapshot}")
        except (OSError, ValueError, TypeError, KeyError, UsageError):
            return None
        return names

    def write(self, names: Names) -> None:
        """Raises OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        part.write_text(json.dumps({"snapshot": names.snapshot}), "ascii")
        part.rename(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def note_of(root: Dataset, providers: Sequence[str]) -> Note:
    """For sets of ``root`` to these providers, which is what a lock is for, too."""
    which = hashlib.sha256("\0".join(sorted(providers)).encode()).hexdigest()[:8]
    folder = platformdirs.user_state_path("offsite", appauthor=False) / "sets"
    return Note(folder / f"{root.guid:016x}-{which}.json")


def having(zfs: Zfs, wanted: Sequence[Dataset], names: Names) -> list[Dataset]:
    """Those that have the snapshot of that moment.

    Others were made after it, or restored: then theirs has the name, but came another time.
    """
    there = datasets.find_snapshots(zfs, [f"{one.name}@{names.snapshot}" for one in wanted])
    found = [(one, there.get(f"{one.name}@{names.snapshot}")) for one in wanted]
    moment = min((snapshot.createtxg for _, snapshot in found if snapshot), default=None)
    return [one for one, snapshot in found if snapshot and snapshot.createtxg == moment]


def too_long(wanted: Sequence[Dataset], names: Names) -> dict[str, UsageError]:
    """Those that can have no snapshot of that name, or could not be restored under their own."""
    found: dict[str, UsageError] = {}
    for one in wanted:
        try:
            check_snapshot_name(f"{one.name}@{names.snapshot}")
        except UsageError as error:
            found[one.name] = error
    return found


def make_snapshots(
    zfs: Zfs, root: str, wanted: Sequence[Dataset], names: Names, *, everything: bool
) -> tuple[Snapshot, int]:
    """Make the snapshots that are missing, all at one moment. The first one, and how many.

    ``everything``: ``wanted`` is all that is below ``root``. Raises ZfsError.
    """
    name = names.snapshot
    full = [f"{one.name}@{name}" for one in wanted]
    there = datasets.find_snapshots(zfs, full) if names.given else {}
    missing = [one.name for one in wanted if f"{one.name}@{name}" not in there]
    if missing:
        whole = everything and len(missing) == len(wanted)
        datasets.create_snapshots(zfs, [root] if whole else missing, name, recursive=whole)
    return datasets.get_snapshot(zfs, f"{wanted[0].name}@{name}"), len(missing)


def facts(root: Dataset, first: Snapshot, wanted: Sequence[Dataset]) -> SetFacts:
    """Whoever continues the set finds the same: its id is the guid of its first snapshot."""
    return SetFacts(f"{first.guid:016x}", root.name, root.guid, len(wanted))
