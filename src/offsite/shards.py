"""The shards of an older backup as one stream: fetched in parts, decrypted, unzipped as it comes.

Nothing is signed here: age tells that a shard is as somebody sealed it, gzip that it was not cut
before. Whether they are one stream, and a whole one, is for whoever follows it to see.
"""

from __future__ import annotations

import threading
import zlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

from offsite import age
from offsite.age import Identities
from offsite.errors import IntegrityError, NoKeyError, ProviderError, StoppedError
from offsite.legacy import Copy, Shard
from offsite.ordered import crew_of, halting, in_order, waking
from offsite.progress import ChunkDone, Progress

_PART = 4 << 20  # bytes of one request: a shard may be larger than the memory
_AHEAD = 4  # requests at a time
_STEP = 1 << 20  # bytes that are unzipped at a time, whatever a few of them would become
_GZIP = 16 + zlib.MAX_WBITS


@dataclass(frozen=True)
class Reader:
    """Who reads. ``came``: bytes that each provider gave."""

    identities: Identities
    stop: threading.Event
    progress: Progress
    came: Counter[str] = field(default_factory=Counter)


def stream(shards: Sequence[Shard], reader: Reader) -> Generator[memoryview, None, None]:
    """The bytes of the stream. Where shards overlap, the later one gives what is new.

    Raises IntegrityError if a shard is damaged, or bytes between two of them are in none;
    NoKeyError, ProviderError, StoppedError.
    """
    at = 0
    for shard in shards:
        begin = at if shard.offset is None else shard.offset
        if begin > at:
            raise IntegrityError(
                f"shard {shard.name} begins at byte {begin} of the stream, but what is before it"
                f" ends at {at}",
                hint="the older tool changed its shard size in between; choose another backup",
            )
        before, at = at, (yield from _behind(shard, begin, at, reader))
        reader.progress.chunk(ChunkDone(shard.number, at - before, shard.size))


def _behind(shard: Shard, begin: int, at: int, reader: Reader) -> Generator[memoryview, None, int]:
    """What a shard that begins at ``begin`` has from ``at`` on; returns where that ends.

    If a copy fails half-way, another one goes on from there: they are slices of one stream.
    """
    left = [*shard.copies]
    while True:
        copy, place = left.pop(0), begin
        try:
            with closing(_opened(copy, reader)) as pieces:
                for piece in pieces:
                    new = memoryview(piece)[max(at - place, 0) :]
                    place += len(piece)
                    if new:
                        at = place
                        yield new
        except (IntegrityError, ProviderError) as error:
            if reader.stop.is_set():  # its connections were ended under a request
                raise StoppedError("stopped") from error
            if not left:
                raise
            reader.progress.warning(f"{error}; going on with the copy on {left[0].remote.name}")
        else:
            return at


def _opened(copy: Copy, reader: Reader) -> Generator[bytes, None, None]:
    where = f"{copy.path} on {copy.remote.name}"
    try:
        with closing(_parts(copy, reader)) as parts:
            yield from gunzip(age.decrypt_stream(parts, reader.identities))
    except NoKeyError as error:
        raise NoKeyError(
            f"{where}: none of the identities at hand opens it",
            hint="set AGE_PRIVATE_KEY_FILE to the identity that it was made for",
        ) from error
    except IntegrityError as error:
        raise IntegrityError(f"{where}: {error}") from error


def _parts(copy: Copy, reader: Reader) -> Generator[memoryview, None, None]:
    """The object, some parts ahead of whoever reads."""
    with (
        halting(reader.stop) as halt,
        closing(copy.remote.share(halt, reader.progress.retry)) as own,
        waking(halt, own.close),
        crew_of(_AHEAD) as crew,
    ):

        def get(offset: int) -> memoryview:
            part = memoryview(bytearray(min(_PART, copy.size - offset)))
            own.get_part(copy.path, offset, part)
            return part

        for part in in_order(crew, get, range(0, copy.size, _PART), halt, ahead=_AHEAD):
            reader.came[copy.remote.name] += len(part)
            reader.progress.stored(copy.remote.name, len(part))
            yield part


def gunzip(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """What a gzip member in pieces holds, in bounded pieces.

    Raises IntegrityError for one that is damaged or cut, or has something behind it.
    """
    member = zlib.decompressobj(_GZIP)
    try:
        for piece in pieces:
            rest, plain = piece, b""
            while rest or len(plain) == _STEP:
                plain = member.decompress(rest, _STEP)
                rest = member.unconsumed_tail
                if plain:
                    yield plain
            if member.unused_data:
                raise IntegrityError("something follows its gzip member")
    except zlib.error as error:
        raise IntegrityError(f"it is no gzip file, or a damaged one ({error})") from error
    if not member.eof:
        raise IntegrityError("its gzip member ends early")
