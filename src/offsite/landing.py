"""Where a restore arrives: what is there, whether it is ours, and at which link it goes on.

A restore marks the dataset that it makes with a property until all is received and checked
(``zfs/targets.py``). What carries that mark, and has nothing but the first links of the chain, is
an unfinished restore. So is a dataset without any snapshot that tells a resume token: the mark and
the token come a moment after the dataset.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from offsite import figures, lineage
from offsite.errors import UsageError, ZfsError
from offsite.links import Link
from offsite.manifest import Receipt
from offsite.rejoin import first_chunk
from offsite.zfs import datasets, names, targets, token
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Snapshot
from offsite.zfs.records import Feature
from offsite.zfs.token import Token, TokenError

# Bytes. A rollback resets the intent log, and zfs counts its header as written (1 KiB; 8 on disks
# with blocks of 4 KiB), though zfs receive does not. Whatever else is written takes more; and if it
# did not, zfs receive would refuse.
_NOT_DATA = 8 << 10


@dataclass(frozen=True)
class Landing:
    """The dataset as it was found. ``written``: bytes since its newest snapshot (oldest first).

    ``blank``: the root of a pool that nothing was ever put in; as good as none. ``key_of``: the
    dataset whose key opens it, None if it is not encrypted. ``unread``: why its token cannot be
    read; what it is of can only be thrown away.
    """

    zfs: Zfs
    dataset: str
    exists: bool = False
    mark: str | None = None
    written: int = 0
    mounted: bool = False
    snapshots: tuple[Snapshot, ...] = ()
    token: Token | None = None
    blank: bool = False
    key_of: str | None = None
    unread: TokenError | None = None

    @property
    def partial(self) -> bool:
        """Whether zfs keeps a part of a snapshot, to go on with."""
        return self.token is not None or self.unread is not None

    @property
    def ours(self) -> bool:
        """Whether it is an unfinished restore."""
        return self.mark is not None or (self.partial and not self.snapshots)


@dataclass(frozen=True)
class Step:
    """A link to receive; with a token, what zfs lacks of it."""

    link: Link
    token: Token | None = None

    @cached_property
    def first(self) -> int:
        """The first chunk that is still needed."""
        return first_chunk(self.link.receipts, self.token) if self.token else 0

    @property
    def receipts(self) -> Sequence[Receipt]:
        """The chunks that are still needed."""
        return self.link.receipts[self.first :]

    @property
    def stream_bytes(self) -> int:
        """Of the chunks that are still needed."""
        come = self.link.receipts[self.first].offset if self.first else 0
        return self.link.manifest.stream_bytes - come

    @cached_property
    def stored_bytes(self) -> int:
        """As ``stream_bytes``, as they are stored."""
        come = sum(receipt.size for receipt in self.link.receipts[: self.first])
        return self.link.manifest.stored_bytes - come


def look(zfs: Zfs, dataset: str) -> Landing:
    """Raises ZfsError, UsageError (impossible name)."""
    there = datasets.find_dataset(zfs, dataset)
    if there is None:
        return Landing(zfs, dataset)
    key_of = targets.encryption_root(zfs, dataset) if there.encryption != "off" else None
    text = datasets.resume_token(zfs, dataset) if datasets.can_resume(zfs, dataset) else None
    state = targets.state(zfs, dataset)
    snapshots = tuple(datasets.list_snapshots(zfs, dataset))
    is_root = names.parent_of(dataset) is None
    blank = is_root and not snapshots and targets.is_blank(zfs, dataset)
    if blank and not (text or state.mark):
        return Landing(zfs, dataset, blank=True, key_of=key_of)
    resuming, unread = _token(text)
    return Landing(
        zfs,
        dataset,
        exists=True,
        blank=blank,
        mark=state.mark,
        written=state.written,
        mounted=state.mounted,
        snapshots=snapshots,
        token=resuming,
        key_of=key_of,
        unread=unread,
    )


def _token(text: str | None) -> tuple[Token | None, TokenError | None]:
    try:
        return (None if text is None else token.decode(text)), None
    except TokenError as error:
        return None, error


def holds_just(found: Landing, guid: int) -> bool:
    """Whether it is finished and what this snapshot is, for nothing was written since."""
    there = next((one for one in found.snapshots if one.guid == guid), None)
    return there is not None and not found.ours and _written_since(found, there) <= _NOT_DATA


def _written_since(found: Landing, snapshot: Snapshot) -> int:
    """Bytes. Others may have been made since, as by a service that makes one of all every hour."""
    if snapshot == found.snapshots[-1]:
        return found.written
    return targets.written_since(found.zfs, found.dataset, snapshot.name)


def check_new(zfs: Zfs, dataset: str) -> None:
    """Raise UsageError unless a dataset can be made there."""
    parent = names.parent_of(dataset)
    if parent is None:
        raise UsageError(
            f"no pool {dataset} here; a dataset is restored into a pool",
            hint="create the pool, then restore into it: --as POOL/NAME",
        )
    if not datasets.parent_exists(zfs, dataset):
        pool = names.pool_of(dataset)
        there = datasets.all_names(zfs)
        if pool not in there:
            raise UsageError(
                f"no pool {pool} is imported here to restore {dataset} into",
                hint=f"create it, or choose another --as; {datasets.imported_pools(there)}",
            )
        raise UsageError(
            f"the parent {parent} of {dataset} does not exist here",
            hint=f"zfs create -p -o mountpoint=none {shlex.quote(parent)}, or choose another --as",
        )


def beside(dataset: str) -> str:
    """A hint: there is always room for both."""
    return f"restore beside it: --as {shlex.quote(dataset + '-restored')}"


def exists(dataset: str) -> UsageError:
    """The refusal to touch what is the user's."""
    return UsageError(
        f"{dataset} exists; it was not touched",
        hint=f"{beside(dataset)}; or receive what it lacks: --update;"
        " or put the backup in its place and keep it under another name: --replace",
    )


def steps(found: Landing, chain: Sequence[Link], *, update: bool) -> list[Step]:
    """What is to be received; nothing if all is there.

    Raises UsageError if the dataset is not what such a restore would go on with, and ZfsError if
    that cannot be told.
    """
    if not found.exists:
        done = 0
    elif found.ours:
        check_root(found)
        done = _done_of_ours(found, chain)
    elif update:
        done = _done_of_theirs(found, chain)
    else:
        raise exists(found.dataset)
    if found.unread is not None:
        raise ZfsError(
            f"{found.dataset} holds an interrupted zfs receive, but {found.unread}",
            hint="throw away what was received of it, and begin anew: --restart",
        )
    if found.token is None:
        left = [Step(link) for link in chain[done:]]
        if found.ours and not (done or found.blank):
            raise _nothing_there(found)
    else:
        check_same(found, found.token, chain[done : done + 1])
        left = [Step(chain[done], found.token), *(Step(link) for link in chain[done + 1 :])]
    _check_names(found, left)
    _check_key(found, left)
    return left


def check_root(found: Landing) -> None:
    """Raise UsageError if a pool's root that is received into was written to meanwhile.

    zfs would swap it for what is received, and these files with it.
    """
    is_root = names.parent_of(found.dataset) is None
    if is_root and not found.snapshots and not found.blank:
        raise UsageError(
            f"{found.dataset} is not empty any more: something was put there; it was not touched",
            hint="move it away, then run the same command again; or --as another name",
        )


def _done_of_ours(found: Landing, chain: Sequence[Link]) -> int:
    guids = [link.guid for link in chain]
    ours = [one for one in found.snapshots if one.guid in guids]
    others = [one for one in found.snapshots if one.guid not in guids]
    same = not others or (ours and found.mark == chain[-1].id)
    if not same or [one.guid for one in ours] != guids[: len(ours)]:
        raise UsageError(
            f"{found.dataset} holds an unfinished restore of another backup ({found.mark});"
            " it was not touched",
            hint=f"go on with that one: @{found.mark}; or {give_up(found)}",
        )
    if others:
        _check_only_names(found, ours[-1], others, chain[len(ours) :])
    else:
        _check_unwritten(found, 0)
    return len(ours)


def _check_only_names(
    found: Landing, newest: Snapshot, others: Sequence[Snapshot], left: Sequence[Link]
) -> None:
    """Raise UsageError if zfs would receive nothing over snapshots that somebody else made since
    the ``newest`` of ours: where they hold changes, or the stream is raw.

    Source: recv_begin_check_existing_impl in OpenZFS module/zfs/dmu_recv.c.
    """
    raw = bool(left) and lineage.is_raw(left[0].manifest.head)
    if not raw and _written_since(found, newest) <= (0 if left else _NOT_DATA):
        return
    undo = f"zfs rollback -r {shlex.quote(newest.full_name)}"
    raise UsageError(
        f"{others[0].full_name} was made while the restore was not finished, and zfs receives"
        " nothing over it; it was not touched",
        hint=f"if nothing that came after @{newest.name} is needed: {undo}; or {_keep(found)}",
    )


def _done_of_theirs(found: Landing, chain: Sequence[Link]) -> int:
    newest = found.snapshots[-1] if found.snapshots else None
    guids = [link.guid for link in chain]
    if newest is None or newest.guid not in guids:
        why = f"its newest snapshot, @{newest.name}," if newest else "what it has"
        raise UsageError(
            f"{found.dataset} cannot be updated: {why} is not what the backup stands on;"
            " it was not touched",
            hint=f"{beside(found.dataset)}; or --replace",
        )
    _check_unwritten(found, _NOT_DATA)
    return guids.index(newest.guid) + 1


def _check_unwritten(found: Landing, fine: int) -> None:
    if not found.snapshots or found.written <= fine:
        return
    name = found.snapshots[-1].full_name
    ours = shlex.quote(found.dataset)
    undo = f"(mounting and reading write a little, too): zfs unmount {ours};"
    or_else = _keep(found) if found.mark else beside(found.dataset)
    raise UsageError(
        f"{figures.size(found.written)} were written to {found.dataset} after {name};"
        " it was not touched",
        hint=f"throw that away {undo} zfs rollback {shlex.quote(name)}; or {or_else}",
    )


def _keep(found: Landing) -> str:
    """A hint: it may be the user's by now."""
    return f"make it yours as it is: zfs inherit {targets.MARK} {shlex.quote(found.dataset)}"


def give_up(found: Landing) -> str:
    destroy = f"zfs destroy -r {shlex.quote(found.dataset)}"
    return f"{_keep(found)}; or, if nothing in it is needed: {destroy}"


def check_same(found: Landing, partial: Token, chain: Sequence[Link]) -> None:
    """Raise UsageError unless the partial state is of a link of ``chain``: only that can go on.

    And of a stream of the same flags: the user may have begun to receive another one, and blocks of
    two sizes would come together in one file.
    """
    for link in chain:
        base = link.base.snapshot_guid if link.base else 0
        same = partial.with_features(Feature(link.manifest.head.send.features)) == partial
        if same and (partial.toguid, partial.fromguid) == (link.guid, base):
            return
    raise UsageError(
        f"{found.dataset} holds an interrupted restore of another snapshot ({partial.toname});"
        " it was not touched",
        hint="name that snapshot; or throw away what was received of it: --restart",
    )


def _nothing_there(found: Landing) -> UsageError:
    return UsageError(
        f"{found.dataset} was begun by a restore, but nothing of that is left in it",
        hint=f"if nothing in it is needed: zfs destroy {shlex.quote(found.dataset)}",
    )


def _check_names(found: Landing, left: Sequence[Step]) -> None:
    """Before the first byte: every snapshot can have its name."""
    taken = {snapshot.name for snapshot in found.snapshots}
    for step in left:
        name = f"{found.dataset}@{step.link.name}"
        names.check_snapshot_name(name)
        if step.link.name in taken:
            raise UsageError(
                f"{name} exists and is another snapshot than the backup's",
                hint=f"give it another name: zfs rename {shlex.quote(name)}"
                f" {shlex.quote(name + '-old')}",
            )


def _check_key(found: Landing, left: Sequence[Step]) -> None:
    """A raw stream brings the source's own key, wrapped. Received into a dataset that another one's
    key opens (``zfs change-key -i``), nothing opens that dataset ever again (openzfs#12614)."""
    raw = any(lineage.is_raw(step.link.manifest.head) for step in left)
    if raw and found.snapshots and found.key_of not in {None, found.dataset}:
        raise UsageError(
            f"{found.dataset} is opened by the key of {found.key_of}, and raw increments would make"
            " it unreadable; it was not touched",
            hint="give it a key of its own, which will then be the source's: zfs change-key"
            f" -o keyformat=passphrase -o keylocation=prompt {found.dataset};"
            f" or restore beside it: --as {found.dataset}-restored",
        )


def check(found: Landing, scope: Sequence[Link]) -> None:
    """Raise ZfsError unless the snapshots of these backups are there."""
    there = {snapshot.guid for snapshot in datasets.list_snapshots(found.zfs, found.dataset)}
    if not {link.guid for link in scope} <= there:
        raise ZfsError(f"{found.dataset} was received, but it is not the snapshots backed up")


def finish(found: Landing) -> None:
    """The last step: from now on the dataset is the user's. Raises ZfsError."""
    if targets.state(found.zfs, found.dataset).mark:
        targets.remove_mark(found.zfs, found.dataset)
