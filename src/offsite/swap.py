"""--replace: a restore beside the dataset takes its place; the old one is kept under a new name.

Two renames, and a machine may die between them. Then the dataset is not there, both others are, and
the same command goes on: the restored one carries its mark until it has its name.
"""

from __future__ import annotations

import itertools
import shlex
from dataclasses import dataclass
from datetime import date

from offsite import landing
from offsite.errors import UsageError, ZfsError
from offsite.landing import Landing
from offsite.progress import Progress
from offsite.zfs import datasets, names, targets
from offsite.zfs.command import Zfs

_SHOWN = 3  # datasets named in a refusal


@dataclass(frozen=True)
class Swap:
    """``beside`` shall be called ``dataset``, which, if it is there, shall be called ``kept``."""

    zfs: Zfs
    dataset: str
    beside: str
    kept: str | None


def beside(dataset: str) -> str:
    """Where a restore is made that shall replace a dataset."""
    return f"{dataset}-restoring"


def prepare(zfs: Zfs, found: Landing, today: date) -> tuple[Landing, Swap | None]:
    """Where to restore instead of ``found``, and the swap for afterwards; ``found`` if it is free.

    Raises UsageError if it cannot be replaced.
    """
    other = landing.look(zfs, beside(found.dataset))
    if found.ours or not (found.exists or other.ours):
        return found, None
    if other.exists and not other.ours:
        raise UsageError(
            f"{other.dataset}, where the restore would be made, exists and is not ours",
            hint=f"give it another name: zfs rename {shlex.quote(other.dataset)} NAME",
        )
    kept = _kept(zfs, found, today) if found.exists else None
    return other, Swap(zfs, found.dataset, other.dataset, kept)


def _kept(zfs: Zfs, found: Landing, today: date) -> str:
    """A name that is free, for a dataset that can be renamed."""
    if names.parent_of(found.dataset) is None:
        raise UsageError(
            f"{found.dataset} is a pool: its root cannot be replaced",
            hint=f"restore into it: --as {found.dataset}/NAME",
        )
    others = _would_move(zfs, found.dataset)
    if others:
        raise UsageError(others, hint=landing.beside(found.dataset))
    name = f"{found.dataset}-before-restore-{today:%Y%m%d}"
    tries = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
    kept = next(each for each in tries if datasets.find_dataset(zfs, each) is None)
    longest = max((len(one.name) for one in found.snapshots), default=0)
    if len(kept) + len("@") + longest > names.NAME_LIMIT:
        raise UsageError(
            f"{found.dataset} cannot be kept as {kept}: with its snapshots' names that is too long"
            " for zfs",
            hint=f"rename it yourself, then restore without --replace: zfs rename"
            f" {shlex.quote(found.dataset)} NAME",
        )
    return kept


def _would_move(zfs: Zfs, dataset: str) -> str | None:
    """What speaks against a rename, if there are datasets below."""
    others = targets.below(zfs, dataset)
    if not others:
        return None
    more = ", …" if len(others) > _SHOWN else ""
    return (
        f"there are datasets below {dataset}, which would move away with it:"
        f" {', '.join(others[:_SHOWN])}{more}"
    )


def check_none_begun(found: Landing) -> None:
    """Raise UsageError if the dataset is not there because a swap was interrupted."""
    if found.exists or len(beside(found.dataset)) > names.NAME_LIMIT:
        return
    other = landing.look(found.zfs, beside(found.dataset))
    if other.mark:
        raise UsageError(
            f"{found.dataset} is not there, but {other.dataset}, an unfinished restore that was to"
            " replace it",
            hint="go on: the same command with --replace; what was there before is called"
            f" {found.dataset}-before-restore-…",
        )


def carry_out(swap: Swap, progress: Progress) -> None:
    """Raises ZfsError; then the old dataset has its name again, or the message says where it is.

    ^C does not come between the two renames.
    """
    zfs, kept = swap.zfs.uninterrupted, swap.kept
    if kept is not None:
        others = _would_move(zfs, swap.dataset)  # hours may have passed
        if others:
            raise ZfsError(
                f"{swap.beside} is restored, but cannot take the place of {swap.dataset}: {others}",
                hint="move them away, then run the same command again",
            )
        targets.rename(zfs, swap.dataset, kept)
        progress.info(f"What was {swap.dataset} is now {kept}")
    try:
        targets.rename(zfs, swap.beside, swap.dataset)
    except ZfsError as error:
        if kept is not None:
            _undo(swap, kept, error)
        raise


def _undo(swap: Swap, kept: str, error: ZfsError) -> None:
    try:
        targets.rename(swap.zfs.uninterrupted, kept, swap.dataset)
    except ZfsError:
        raise ZfsError(
            f"{swap.dataset} is now {kept}, and the restored one could not take its place: {error}",
            hint=f"it is whole: zfs rename {shlex.quote(swap.beside)} {shlex.quote(swap.dataset)}",
        ) from error
