"""The snapshot that is backed up: found or made, described, and held while it is sent."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

import offsite
from offsite import connect, manifest, repository
from offsite.bases import Base
from offsite.config import Config
from offsite.errors import OffsiteError, ZfsError
from offsite.manifest import DatasetFacts, Head, SendFacts, SetFacts, SnapshotFacts, Unchanged
from offsite.progress import Progress
from offsite.repository import Author
from offsite.zfs import abilities, datasets, properties
from offsite.zfs.bookmarks import Point
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset, Snapshot
from offsite.zfs.failures import CommandError, Reason, is_read_only

_LEVEL = re.compile(r"(?P<name>zstd|gzip)(?:-(?P<level>[0-9]+))?")
_LEVELS = {"zstd": 3, "gzip": 6}  # where the property names none (zfsprops(7))


@dataclass(frozen=True)
class Subject:
    """What is backed up; ``label`` is the name under which it is stored, that of its first backup.

    An increment begins at ``point``; a new one stands on ``base`` and may be one of a ``set``, of
    which others are ``unchanged``.
    """

    zfs: Zfs
    dataset: Dataset
    snapshot: Snapshot
    label: str
    point: Point | None = None
    base: Base | None = None
    set: SetFacts | None = None
    unchanged: tuple[Unchanged, ...] = ()

    @property
    def begins_at(self) -> str | None:
        """The full name of the snapshot or bookmark that zfs send -i takes."""
        return self.point.full_name if self.point else None

    def estimate(self, config: Config) -> int | None:
        """About how many bytes the stream of a new backup will have; None if nobody knows."""
        flags, name = self._flags(config), self.snapshot.full_name
        return datasets.estimate(self.zfs, name, base=self.begins_at, flags=flags)

    def head(self, config: Config, author: Author, estimate: int) -> Head:
        """What a new backup of it is going to be."""
        now = datetime.now(UTC)
        dataset, snapshot = self.dataset, self.snapshot
        return Head(
            id=repository.new_id(now),
            host=connect.host(config),
            tool=f"offsite {offsite.__version__}",
            started=utc(now),
            dataset=DatasetFacts(dataset.name, dataset.guid, dataset.type, dataset.encryption),
            snapshot=SnapshotFacts(
                name=self.label,
                source_name=snapshot.name,
                guid=snapshot.guid,
                createtxg=snapshot.createtxg,
                created=utc(datetime.fromtimestamp(snapshot.creation, UTC)),
            ),
            send=SendFacts(list(self._flags(config)), datasets.version(self.zfs).kernel),
            chunk_size=config.chunk_size,
            base=_stands_on(self.base) if self.base else None,
            estimate=estimate,
            recipients=author.documents.fingerprint,
            set=self.set or msgspec.UNSET,
        )

    def _flags(self, config: Config) -> tuple[str, ...]:
        if self.base:
            return self.base.flags
        return abilities.known_flags(self.zfs, send_flags(self.dataset, config))

    def salt(self) -> int:
        """Of the passphrase that opens the dataset now; 0 if zfs tells of none."""
        return properties.salts(self.zfs, self.dataset.name).get(self.dataset.name, 0)

    def properties(self) -> dict[str, manifest.Property]:
        """As zfs tells, but for values that are too long for a manifest."""
        kept: dict[str, manifest.Property] = {}
        for name, one in properties.effective(self.zfs, self.dataset.name).items():
            with suppress(msgspec.ValidationError):
                told = msgspec.to_builtins(manifest.Property.of(one.value, one.source))
                kept |= msgspec.convert({name: told}, dict[manifest.Text, manifest.Property])
        return kept

    @contextmanager
    def held(self, host: str, names: Sequence[str], progress: Progress) -> Iterator[None]:
        """Hold the snapshot while it is sent, a tag for every lock we have.

        A run that was killed leaves its hold; whoever has the lock now owns the tag, and lets go
        of it. Raises ZfsError if the snapshot is gone before it can be held.
        """
        full = self.snapshot.full_name
        held: list[str] = []
        try:
            try:
                for tag in _tags(host, names):
                    held.append(tag)  # before: who knows how far a zfs came that is stopped
                    datasets.hold(self.zfs, full, tag)
            except ZfsError as error:
                held.pop()
                if isinstance(error, CommandError) and error.reason is Reason.MISSING:
                    raise ZfsError(
                        f"{full} is gone: it was destroyed before it could be held",
                        hint="look for what destroys snapshots, then run the same command again",
                    ) from error
                if not is_read_only(error):  # then nobody can destroy it; marks.py tells of it
                    progress.warning(
                        f"{full} cannot be held ({error}); do not destroy it during the backup"
                    )
            yield
        finally:
            for tag in held:
                _release(self.zfs, full, tag, progress)


def send_flags(dataset: Dataset, config: Config) -> tuple[str, ...]:
    """The flags of zfs send for this dataset, pinned in the manifest and for all that stands on it.

    Encrypted datasets go raw: their keys need not be loaded (SEND_RAW=no sends them in the clear,
    to be encrypted by us alone). Blocks that the pool compressed at a level that is not below ours
    are sent as they are; the rest is left to our own zstd (SEND_COMPRESSED overrides).
    """
    if sends_raw(dataset, config):
        return ("-w",)
    # Never -e: nothing with embedded blocks can be received below an encrypted dataset.
    as_stored = config.send_compressed
    if as_stored is None:
        as_stored = _level_on_disk(dataset.compression) >= config.compression
    return ("-L", "-c") if as_stored else ("-L",)


def _level_on_disk(compression: str) -> int:
    """Of zstd or gzip; 0 for what is weaker at any level: lz4 and its like, zstd-fast."""
    match = _LEVEL.fullmatch(compression)
    if match is None:
        return 0
    return int(match["level"] or _LEVELS[match["name"]])


def sends_raw(dataset: Dataset, config: Config) -> bool:
    """Whether this dataset's blocks leave the pool encrypted as they are."""
    return dataset.encryption != "off" and config.send_raw


def _stands_on(base: Base) -> manifest.Base:
    parent = base.parent.manifest.head
    return manifest.Base(parent.snapshot.guid, parent.snapshot.name, parent.id)


def utc(moment: datetime) -> str:
    """As documents write times."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def let_go(zfs: Zfs, snapshot: str, host: str, names: Sequence[str], progress: Progress) -> bool:
    """Release what a run that was killed still holds for these providers.

    Whether nothing of this host's is held any more, for other providers neither.
    """
    try:
        if datasets.find_snapshot(zfs, snapshot) is None:
            return True
        for tag in _tags(host, names):
            _release(zfs, snapshot, tag, progress)
        return not any(tag.startswith(f"offsite:{host}:") for tag in datasets.holds(zfs, snapshot))
    except ZfsError as error:
        progress.info(f"The holds of {snapshot} cannot be looked at ({error})")
        return False


def _tags(host: str, names: Sequence[str]) -> list[str]:
    return [f"offsite:{host}:{name}" for name in names]


def _release(zfs: Zfs, snapshot: str, tag: str, progress: Progress) -> None:
    """The backup is what it is, whether or not the hold can be let go of."""
    try:
        datasets.release(zfs.uninterrupted, snapshot, tag)
    except OffsiteError as error:
        command = shlex.join(["zfs", "release", tag, snapshot])
        progress.warning(f"{snapshot} stays held ({error}); run: {command}")
