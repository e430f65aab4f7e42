"""Backups that get interrupted: a pool whose zfs is a small program, and a machine beside it.

The program answers as zfs does, from files: for every token that could be asked for there is the
stream that ``zfs send -t`` would give. What runs is the product's own code, from ``storing.send``
down to the providers.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from offsite import catalog, config, connect, history, journal, keys, pipeline, repository, storing
from offsite.catalog import Backup
from offsite.config import Config
from offsite.errors import StoppedError
from offsite.history import History
from offsite.journal import Journal
from offsite.mirror import Mirror
from offsite.pipeline import Engine, SealJob
from offsite.progress import Silent
from offsite.remote import Remote
from offsite.repository import Author, Keyring
from offsite.seal import Sealed
from offsite.standing import Standing
from offsite.subject import Subject
from offsite.zfs import token
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset
from offsite.zfs.records import Feature, Kind
from offsite.zfs.token import Token
from tests import repo
from tests.storage.memory import MemoryRemote
from tests.zfs_streams import (
    END,
    Record,
    begin,
    features_of,
    place,
    resumed,
    seams,
    split,
    summed,
)

DATASET = Dataset(repo.DATASET, 5555, "filesystem", "off", "lz4", 0, 0)
SNAPSHOT = repo.snapshot()
_ZFS = """\
printf '%s\\n' "$*" >> '{folder}/calls'
case "$1 $2" in
'send -nP') printf 'size\\t{size}\\n'; exit 0 ;;
'send -t') {tokens} ;;
'send '*) file=whole ;;
'version '*) printf 'zfs-2.2.2\\nzfs-kmod-2.2.2\\n'; exit 0 ;;
*) exit 0 ;;
esac
{give} "{folder}/$file"
echo "{says}" >&2
exit {status}
"""
GONE = "cannot resume send: 'tank/photos@monday' used in the initial send no longer exists"
# How zfs send -t ends: well; where it came before the tool learned it; and for a token it refuses.
SERVED = 'set -- $(printf %s "$3" | sha256sum); file=$1; [ -e "{folder}/$1" ] || {refuse}'
TOO_OLD = "echo \"invalid option 't'\" >&2; exit 2"
REFUSED = f'echo "{GONE}" >&2; exit 255'


def stream_of(records: Sequence[Record], features: int | None = None) -> list[bytes]:
    """BEGIN, these records and END, of a full stream."""
    if features is None:
        raw = any(record.kind == Kind.OBJECT_RANGE for record in records)
        features = Feature.COMPRESSED | (Feature.RAW if raw else 0)
    head = bytearray(begin(features))
    head[48:56] = bytes(8)  # drr_fromguid
    return split(summed([bytes(head), *map(bytes, records), END]))


def files(count: int = 3, blocks: int = 6, size: int = 400, seed: int = 1) -> list[Record]:
    """Some files with blocks of ``size`` bytes of noise, as a sender sorts them."""
    found: list[Record] = []
    for number in range(2, 2 + count):
        found.append(Record(Kind.OBJECT, number, payload=b"a bonus "))
        found += [
            Record(Kind.WRITE, number, at << 17, repo.noise(size, seed * 1000 + number * 50 + at))
            for at in range(blocks)
        ]
        found.append(Record(Kind.FREE, number, blocks << 17, length=(1 << 64) - 1))
    return found


class Pool:
    """The pool of a snapshot whose stream is ``parts``; ``earlier`` as in zfs_streams.resumed."""

    def __init__(self, folder: Path, parts: Sequence[bytes], *, earlier: int = 0) -> None:
        self.parts = parts
        self.whole = b"".join(parts)
        self.zfs = Zfs(command=("/bin/sh", str(folder / "zfs")))
        self._folder = folder
        self._rests: dict[str, bytes] = {}
        folder.mkdir(parents=True)
        (folder / "whole").write_bytes(self.whole)
        for at in seams(parts):
            text = token.encode(self.token(at))
            # An OBJECT and the WRITE at 0 of it have one token: it begins with the OBJECT.
            if text not in self._rests:
                self._rests[text] = resumed(parts, at, earlier=earlier)
                name = hashlib.sha256(text.encode()).hexdigest()
                (folder / name).write_bytes(self._rests[text])
        self.behave()

    def token(self, at: int) -> Token:
        """What a receive that has the part ``at`` in full would ask for."""
        where, features = place(self.parts[at]), Feature(features_of(self.parts[0]))
        guid, name = SNAPSHOT.guid, SNAPSHOT.full_name
        return Token(where.object, where.offset, 0, guid, name).with_features(features)

    def behave(
        self, *, most: int | None = None, status: int = 0, tokens: str = SERVED, says: str = ""
    ) -> None:
        """From now on: give ``most`` bytes of any stream, say that, and end with ``status``."""
        give = "cat" if most is None else f"head -c {most}"
        known = tokens.format(folder=self._folder, refuse=f"{{ {REFUSED}; }}")
        script = _ZFS.format(
            folder=self._folder,
            size=len(self.whole),
            tokens=known,
            give=give,
            status=status,
            says=says,
        )
        (self._folder / "zfs").write_text(script)
        (self._folder / "calls").write_text("")

    def rest(self, rest: bytes) -> None:
        """Answer every token with these bytes."""
        for text in self._rests:
            name = hashlib.sha256(text.encode()).hexdigest()
            (self._folder / name).write_bytes(rest)

    @property
    def sends(self) -> list[str]:
        """What streams it was asked for since ``behave``: tokens, or ``whole``."""
        calls = (line.split() for line in (self._folder / "calls").read_text().splitlines())
        asked = [each for each in calls if each[:1] == ["send"] and each[1] != "-nP"]
        return [each[2] if each[1] == "-t" else "whole" for each in asked]

    def answer(self, text: str) -> bytes:
        """What it gives for a token."""
        return self._rests[text]


@dataclass(frozen=True)
class Moment:
    """Everything that survives if the machine dies now: objects by provider, journals by name."""

    objects: dict[str, dict[str, bytes]]
    journals: dict[str, bytes]

    def provider(self, name: str, hash_kind: str | None = "sha256") -> Provider:
        made = Provider(name, hash_kind)
        made.objects = dict(self.objects[name])
        return made

    def set_journals(self) -> None:
        folder = journal.directory()
        for path in folder.glob("*"):
            path.unlink()
        for name, body in self.journals.items():
            (folder / name).write_bytes(body)


class Film:
    """Every moment of some providers' lives."""

    def __init__(self, *remotes: Provider) -> None:
        self._remotes = remotes
        self._lock = threading.Lock()
        self.moments: list[Moment] = []
        for remote in remotes:
            remote.film = self
        self.take()

    def take(self) -> None:
        """Another moment: an object was written or deleted, or is about to be."""
        with self._lock:
            objects = {remote.name: dict(remote.objects) for remote in self._remotes}
            files = {path.name: path.read_bytes() for path in journal.directory().glob("*")}
            self.moments.append(Moment(objects, files))

    def end(self) -> list[Moment]:
        """All of them, each once."""
        self.take()
        for remote in self._remotes:
            remote.film = None
        return [
            moment
            for n, moment in enumerate(self.moments)
            if n == 0 or moment != self.moments[n - 1]
        ]


class Provider(MemoryRemote):
    """Remembers what was put into it, and may fail: after ``puts`` objects with ``error``."""

    def __init__(self, name: str = "one", hash_kind: str | None = "sha256") -> None:
        super().__init__(name, hash_kind)
        self.puts: list[str] = []
        self.left: int | None = None
        self.error: Exception = StoppedError("stopped")
        self.film: Film | None = None

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        with self._lock:
            if self.left is not None:
                if self.left == 0:
                    raise self.error
                self.left -= 1
            self.puts.append(path.rpartition("/")[2])
        with self._filmed():
            super().put(path, body, digests)

    def delete(self, path: str) -> None:
        with self._filmed():
            super().delete(path)

    @contextmanager
    def _filmed(self) -> Iterator[None]:
        if self.film:
            self.film.take()
        yield
        if self.film:
            self.film.take()

    def fail_after(self, puts: int | None, error: Exception | None = None) -> None:
        """Also forget what was put."""
        self.puts, self.left = [], puts
        self.error = error or StoppedError("stopped")

    @property
    def chunks(self) -> list[int]:
        """The chunks that were put, in order."""
        names = (name for name in self.puts if repository.is_chunk(name))
        return [int(name[6:14]) for name in names]


@dataclass
class Told(Silent):
    """A Progress that remembers every line."""

    infos: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    drops: dict[str, str] = field(default_factory=dict)

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def dropped(self, provider: str, why: str) -> None:
        self.drops[provider] = why


@dataclass
class Machine:
    """The machine with the pool: its settings, its keys, its workers. ``told`` in the last run."""

    config: Config
    author: Author
    keyring: Keyring
    engine: Engine[SealJob, Sealed]
    told: Told = field(default_factory=Told)

    def standing(self, remotes: Sequence[Remote]) -> Standing:
        found = catalog.read(remotes, self.keyring)
        assert found.problems == {}
        return Standing.of(found.backups, DATASET, self.author.documents.fingerprint)

    def begun(self, *remotes: Remote) -> Backup | None:
        """The backup that the next run goes on with."""
        return next(iter(self.standing(remotes).begun(SNAPSHOT, SNAPSHOT.name, Silent())), None)

    def run(
        self,
        pool: Pool,
        *remotes: Remote,
        chunk_size: int = 1000,
        stop: threading.Event | None = None,
    ) -> storing.Done:
        """Back up, or go on with what was begun. Raises what ended it."""
        known, self.told = self.standing(remotes), Told()
        begun = next(iter(known.begun(SNAPSHOT, SNAPSHOT.name, self.told)), None)
        subject = Subject(pool.zfs, DATASET, SNAPSHOT, SNAPSHOT.name)
        with self._working(remotes, chunk_size, stop) as work:
            return storing.send(work, subject, begun, known.previous, ["all"])

    def spread(
        self, *remotes: Remote, mark: Callable[[str], object] = lambda _: None
    ) -> storing.Done:
        """Give the complete backup to those that lack it. Raises what ended it."""
        (already,) = self.standing(remotes).copies(SNAPSHOT, SNAPSHOT.name)
        self.told = Told()
        with self._working(remotes, 1000, None) as work:
            return storing.spread(replace(work, mark=mark), already)

    @contextmanager
    def _working(
        self, remotes: Sequence[Remote], chunk_size: int, stop: threading.Event | None
    ) -> Iterator[storing.Run]:
        mirror = Mirror(remotes, in_flight=2, progress=self.told)
        settings = replace(self.config, chunk_size=chunk_size)
        stop = stop or threading.Event()
        try:
            yield storing.Run(
                settings, self.author, self.engine, mirror, stop, self.told, mark=lambda _: None
            )
        finally:
            mirror.close()
            repo.settle()

    def history(self, *remotes: Remote) -> History:
        """Of the backup that the next run goes on with, as it will read it."""
        begun = self.begun(*remotes)
        assert begun is not None
        return read_history(begun.id, remotes, self.keyring, Journal(begun.id))

    def forget(self) -> None:
        """It is another machine from now on, with the same keys."""
        for path in journal.directory().glob("*"):
            path.unlink()

    def restored(self, *remotes: Remote) -> bytes:
        """The newest complete backup, as it would have reached zfs."""
        made = repo.attempt(remotes, self.keyring)
        assert made.error is None, made.error
        return made.data


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """With keys of its own, state in ``folder``, and workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        (folder / "config.env").write_text("")
        settings = config.load({"HOME": str(folder), "OFFSITE_CONFIG": str(folder / "config.env")})
        keys.initialise(settings)
        author = connect.author(settings)
        with pipeline.sealing(repo.BUDGET, author.chunks, 3) as engine:
            yield Machine(settings, author, connect.catalog_keyring(settings), engine)


def read_history(
    backup_id: str, remotes: Sequence[Remote], keyring: Keyring, written: Journal
) -> History:
    """What the product knows of an unfinished backup, no thread left behind."""
    mirror = Mirror(remotes, in_flight=2, progress=Silent())
    try:
        return history.of_unfinished(backup_id, mirror, keyring, written)
    finally:
        mirror.close()
        repo.settle()


def check_true(found: History) -> None:
    """What the history says of the providers is so: the very chunks are there, in one piece."""
    end = 0
    for number, receipt in enumerate(found.receipts):
        assert (receipt.number, receipt.offset) == (number, end)
        end += receipt.length
    for copy in found.copies:
        assert isinstance(copy.remote, MemoryRemote)
        bodies = {path.rpartition("/")[2]: body for path, body in copy.remote.objects.items()}
        for receipt in found.receipts:
            if receipt.number in copy.chunks:
                body = bodies[repository.chunk_name(receipt.number)]
                assert hashlib.sha256(body).hexdigest() == receipt.sha256, receipt.number


def seam_before(parts: Sequence[bytes], length: int) -> int:
    """The last part that a resume can join, of those in the first ``length`` bytes."""
    ends, at = [], 0
    for part in parts:
        at += len(part)
        ends.append(at)
    return max(n for n in seams(parts) if ends[n] <= length)
