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
    is_root = names.parent_of(now.dataset) is None
    if is_root and now.mark and not now.blank:  # else it is received into once more
        check_disposable(now, known)
    now = drop_partial(now)
    if not now.exists or not now.mark:
        return now
    if is_root:
        targets.show(now.zfs, now.dataset)
        targets.remove_mark(now.zfs, now.dataset)
        return Landing(now.zfs, now.dataset, blank=True)
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
    others = [name for name in targets.below(found.zfs, found.dataset) if name not in going]
    others += [one.full_name for one in found.snapshots if one.guid not in known]
    if not found.snapshots or others or found.written or found.mounted:
        which = f" ({others[0]})" if others else ""
        raise UsageError(
            f"{found.dataset} holds more than what the unfinished restore received{which};"
            " it was not touched",
            hint=landing.give_up(found),
        )
