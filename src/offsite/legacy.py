"""Backups of the older bash tool, recognised by the names of their shards.

A shard is ``LABEL/LABEL:snapshot-s001-b<offset>.zfs.gz.age`` (or without the folder): a slice of
the stream of one ``zfs send``, in an age file and a gzip member of its own. Shards count from 1;
the offset, with 10 or 20 digits or absent, is the slice's place in the stream. The label is the
dataset's name with its slashes as underscores: tank_a_b is tank/a_b, or tank/a/b.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from offsite.errors import IntegrityError, ProviderError
from offsite.ordered import crew_of
from offsite.progress import Progress
from offsite.remote import Entry, Remote

_LABEL = r"[A-Za-z0-9][\w.-]*"
_SHARD = re.compile(
    rf"(?P<dataset>{_LABEL}):(?P<snapshot>[\w.:-]+)-s(?P<number>[0-9]{{3,}})"
    r"(?:-b(?P<offset>[0-9]{10}|[0-9]{20}))?\.zfs\.gz\.age",
    re.ASCII,
)
_FOLDER = re.compile(_LABEL, re.ASCII)
_READERS = 8  # requests at a time
_SHOWN = 5  # missing shards named in a refusal


@dataclass(frozen=True)
class Copy:
    """An object of ``size`` bytes."""

    remote: Remote
    path: str
    size: int


@dataclass(frozen=True)
class Shard:
    """``offset``: where its bytes are in the stream; None: behind those of the shard before it.

    ``copies`` tell the same, but were compressed and sealed each on its own.
    """

    number: int
    offset: int | None
    copies: tuple[Copy, ...]

    @property
    def name(self) -> str:
        return _name(self.number)

    @property
    def size(self) -> int:
        """Bytes of the copy that is asked first."""
        return self.copies[0].size


@dataclass(frozen=True)
class LegacyBackup:
    """What some remotes hold of one snapshot; ``dataset`` is a label."""

    dataset: str
    snapshot: str
    shards: tuple[Shard, ...]

    @property
    def name(self) -> str:
        return f"{self.dataset}:{self.snapshot}"

    @property
    def stored_bytes(self) -> int:
        return _stored(self.shards)


def label(dataset: str) -> str:
    """What the older tool called the dataset; a label stays as it is."""
    return dataset.replace("/", "_")


def read(
    remotes: Sequence[Remote], progress: Progress, dataset: str | None = None
) -> list[LegacyBackup]:
    """The older tool's backups, of one dataset if named, on all of these remotes together.

    Raises ProviderError; a folder that may well be a stranger's is only told of.
    """
    found: dict[tuple[str, str], dict[tuple[int, int | None], list[Copy]]] = {}
    for remote in remotes:
        for match, copy in _shards(remote, progress, None if dataset is None else label(dataset)):
            offset = None if match["offset"] is None else int(match["offset"])
            shards = found.setdefault((match["dataset"], match["snapshot"]), {})
            shards.setdefault((int(match["number"]), offset), []).append(copy)
    return [
        LegacyBackup(*key, tuple(Shard(*place, tuple(copies)) for place, copies in shards.items()))
        for key, shards in sorted(found.items())
    ]


def in_order(backup: LegacyBackup) -> tuple[Shard, ...]:
    """The shards in the order of the stream. Raises IntegrityError that names what is missing.

    The tool wrote offsets, or none; where both were tried on a snapshot, the larger one counts. A
    run that went on with another shard size left shards of one number at different offsets.
    """
    placed = [shard for shard in backup.shards if shard.offset is not None]
    others = [shard for shard in backup.shards if shard.offset is None]
    kinds = sorted(filter(None, (placed, others)), key=_stored, reverse=True)
    whole = next((kind for kind in kinds if next(_missing(kind), None) is None), None)
    if whole is None:
        gone = [_name(number) for number in islice(_missing(kinds[0]), _SHOWN + 1)]
        more = ", …" if len(gone) > _SHOWN else ""
        last = _name(max(shard.number for shard in kinds[0]))
        raise IntegrityError(
            f"{backup.name} cannot be restored: no provider has {', '.join(gone[:_SHOWN])}{more}"
            f" of its shards s001 to {last}",
            hint="the older tool never finished it, or they were deleted: choose another backup",
        )
    return tuple(sorted(whole, key=lambda shard: (shard.offset or 0, shard.number)))


def _stored(shards: Iterable[Shard]) -> int:
    return sum(shard.size for shard in shards)


def _name(number: int) -> str:
    return f"s{number:03d}"


def _missing(shards: Iterable[Shard]) -> Iterator[int]:
    """Numbers of shards that should be there; lazily, for a name may tell any number."""
    numbers = {shard.number for shard in shards}
    return (number for number in range(1, max(numbers) + 1) if number not in numbers)


def _shards(
    remote: Remote, progress: Progress, wanted: str | None
) -> Iterator[tuple[re.Match[str], Copy]]:
    for folder, entry in _objects(remote, progress, wanted):
        match = _SHARD.fullmatch(entry.name)
        if match is None or entry.is_dir:
            continue
        mine = match["dataset"]
        if (folder or mine) == mine == (wanted or mine):
            path = f"{folder}/{entry.name}" if folder else entry.name
            yield match, Copy(remote, path, entry.size)


def _objects(remote: Remote, progress: Progress, wanted: str | None) -> list[tuple[str, Entry]]:
    """What lies at the top, and in the folders that the older tool may have made."""
    folders = [wanted] if wanted else [entry.name for entry in remote.list("", dirs=True)]

    def look(folder: str) -> list[tuple[str, Entry]]:
        try:
            return [(folder, entry) for entry in remote.list(folder)]
        except ProviderError as error:
            if wanted or not folder:
                raise
            progress.warning(f"{folder}/ is passed over in the search for older backups: {error}")
            return []

    with crew_of(_READERS) as crew:
        listed = crew.map(look, ["", *filter(_FOLDER.fullmatch, folders)])
        return [one for found in listed for one in found]
