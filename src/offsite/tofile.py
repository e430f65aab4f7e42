"""--to-file: the streams of a backup as files, for machines without ZFS.

``zfs receive`` reads one stream a call, so a chain of several backups becomes as many files, in the
order in which they are received: PATH.001 (full), PATH.002, … All or none of them are made.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import BinaryIO

from offsite import figures, pipeline
from offsite.errors import OffsiteError, StoppedError, UsageError
from offsite.links import Link
from offsite.pipeline import Download, Engine, OpenJob
from offsite.progress import Progress
from offsite.sources import ANOTHER_POINT, Sources

STDOUT = "-"


def paths(path: str, count: int, size: int) -> list[Path]:
    """The files to make, one a stream, for ``size`` bytes. Raises UsageError if that cannot be."""
    many = count > 1
    if path == STDOUT:
        if many:
            raise UsageError(
                f"this backup is a chain of {count} streams, and zfs receive reads one a call",
                hint="name a file: --to-file PATH makes PATH.001, PATH.002, …; or restore"
                " @latest-full",
            )
        if sys.stdout.isatty():
            raise UsageError("a stream is nothing for a terminal", hint="name a file, or pipe it")
        return [Path(STDOUT)]
    made = [Path(f"{path}.{n:03d}" if many else path) for n in range(1, count + 1)]
    _check_free(made)
    _check_room(made[0].parent, size)
    return made


def _check_free(made: Sequence[Path]) -> None:
    for path in (*made, *map(_partial, made)):
        if os.path.lexists(path):
            raise UsageError(
                f"{path} exists; it was not touched", hint="remove it, or name another"
            )
    if not made[0].parent.is_dir():
        raise UsageError(f"there is no folder {made[0].parent}")


def _check_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UsageError(
            f"not enough room: {figures.size(size)} are to be written, {folder} has"
            f" {figures.size(free)}",
            hint="free some space, or name another file",
        )


def _partial(path: Path) -> Path:
    return path.with_name(path.name + ".partial")


def write(
    chain: Sequence[Link],
    made: Sequence[Path],
    engine: Engine[OpenJob, None],
    stop: threading.Event,
    progress: Progress,
) -> list[Mapping[str, int]]:
    """Write the links' streams. Returns the bytes that came from each provider, for every link.

    Raises OSError, StoppedError, IntegrityError, ProviderError; then none of the files is there.
    And OffsiteError if a name is not free any more.
    """
    came: list[Mapping[str, int]] = []

    def streams() -> Generator[Iterable[memoryview], None, None]:
        for link in chain:
            sources = Sources(link.remotes, progress, hint=ANOTHER_POINT)
            download = Download(link.manifest, link.receipts, sources, engine)
            if stop.is_set():
                raise StoppedError("stopped")
            with closing(pipeline.fetch(download, stop, progress)) as pieces:
                yield pieces
            came.append(sources.bytes_from)

    with closing(streams()) as each:
        put(made, each)
    return came


def put(made: Sequence[Path], streams: Iterable[Iterable[memoryview]]) -> None:
    """Write a stream into each file. Whatever goes wrong, then none of the files is there."""
    with contextlib.ExitStack() as stack:
        try:
            for path, pieces in zip(made, streams, strict=True):
                with _opened(path, stack) as file:
                    for piece in pieces:
                        file.write(piece)
        except StoppedError as stopped:
            raise _stopped(made) from stopped
        _name([path for path in made if str(path) != STDOUT], stack)


def named(made: Sequence[Path]) -> str:
    """The files, for a person."""
    if str(made[0]) == STDOUT:
        return "standard output"
    return str(made[0]) if len(made) == 1 else f"{made[0]} to {made[-1].name}"


def _stopped(made: Sequence[Path]) -> StoppedError:
    kept = "of no use" if str(made[0]) == STDOUT else "not kept"
    return StoppedError(
        f"stopped before all was written to {named(made)}; what was is {kept}",
        hint="the same command begins anew",
    )


def _name(made: Sequence[Path], stack: contextlib.ExitStack) -> None:
    """Give the files their names. Raises OffsiteError if one was taken meanwhile; all stay then.

    A name is taken before the rename, which would overwrite: not every filesystem has hard links.
    """
    taken: list[Path] = []
    for path in made:
        try:
            path.touch(exist_ok=False)
        except FileExistsError as error:
            for each in taken:
                each.unlink()
            stack.pop_all()
            raise OffsiteError(
                f"{path} was made by somebody else meanwhile; it was not touched",
                hint=f"what was fetched is whole: {', '.join(str(_partial(p)) for p in made)}",
            ) from error
        taken.append(path)
    for path in made:
        _partial(path).rename(path)


@contextlib.contextmanager
def _opened(path: Path, stack: contextlib.ExitStack) -> Iterator[BinaryIO]:
    """The file under its name for the time being, on the disk when we leave; ``stack`` removes it.

    Only we can read it: it is what the backup keeps from everybody.
    """
    if str(path) == STDOUT:
        with os.fdopen(1, "wb", closefd=False) as file:
            yield file
        return
    partial = _partial(path)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    stack.callback(partial.unlink, missing_ok=True)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(descriptor)
