"""What an unfinished restore received is thrown away, and only that."""

from __future__ import annotations

from collections.abc import Collection

from offsite import landing
from offsite.errors import UsageError
from offsite.landing import Landing
from offsite.zfs import datasets, names, targets


def start_over(found: Landing, known: Collection[int]) -> Landing:
    """Throw away what an unfinished restore received; ``known``: the guids that it may have.

    A dataset with snapshots goes only if it carries our mark, nobody wrote to it or mounted it, and
    all that is in it is known: as it is now, for whoever mounted it since ``found`` was looked at
    may have. Raises UsageError, and ZfsError if zfs itself finds more.
    """
    now = landing.look(found.zfs, found.dataset)
    if found.mark and now.exists and not now.mark:
        raise landing.exists(found.dataset)
    now = drop_partial(now)
    if not now.exists or not now.mark:
        return now
    check_disposable(now, known)
    targets.destroy_received(now.zfs, now.dataset, now.snapshots)
    return Landing(now.zfs, now.dataset)


def drop_partial(found: Landing) -> Landing:
    """Without what was received of a snapshot, if anything was. Raises ZfsError."""
    if not found.partial:
        return found
    datasets.drop_partial(found.zfs, found.dataset)
    return landing.look(found.zfs, found.dataset)


def check_disposable(found: Landing, known: Collection[int], going: Collection[str] = ()) -> None:
    """Raise UsageError unless ``start_over`` may destroy it; ``going``: what goes before it."""
    if names.parent_of(found.dataset) is None:
        raise UsageError(
            f"{found.dataset} is a pool's root, which cannot be received twice",
            hint="go on without --restart; or make the pool anew: zpool destroy, zpool create",
        )
    there = {snapshot.guid for snapshot in found.snapshots}
    others = [name for name in targets.below(found.zfs, found.dataset) if name not in going]
    if not there or not there <= {*known} or found.written or found.mounted or others:
        which = f" ({others[0]})" if others else ""
        raise UsageError(
            f"{found.dataset} holds more than what the unfinished restore received{which};"
            " it was not touched",
            hint=landing.give_up(found),
        )
