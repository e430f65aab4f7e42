"""Receipts of a backup of any size: three million of 100 TB would take 5 GB as objects, and take
0.7 GB packed.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import msgspec
import zstandard

from offsite.manifest import Receipt

_PACK = 64  # receipts that are unpacked together
_ENCODER = msgspec.msgpack.Encoder()
# Built before there are threads, as those of manifest.py.
_DECODER = msgspec.msgpack.Decoder(list[Receipt])


class Receipts(Sequence[Receipt]):
    """A sequence that is never changed; ``pack`` makes one. A slice of it shares its memory.

    Reading it in order unpacks each part once; many threads may read it.
    """

    __slots__ = ("_last", "_packs", "_range")

    def __init__(self, packs: Sequence[bytes], numbers: range) -> None:
        self._packs = packs
        self._range = numbers
        self._last: tuple[int, list[Receipt]] = (-1, [])

    def __len__(self) -> int:
        return len(self._range)

    @overload
    def __getitem__(self, at: int) -> Receipt: ...
    @overload
    def __getitem__(self, at: slice) -> Receipts: ...
    def __getitem__(self, at: int | slice) -> Receipt | Receipts:
        if isinstance(at, slice):
            return Receipts(self._packs, self._range[at])
        pack, place = divmod(self._range[at], _PACK)
        number, unpacked = self._last
        if number != pack:
            unpacked = _unpack(self._packs[pack])
            self._last = (pack, unpacked)
        return unpacked[place]

    def __eq__(self, other: object) -> bool:
        """As any sequence of the same receipts."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(map(operator.eq, self, other))

    __hash__ = None  # type: ignore[assignment]

    def __iter__(self) -> Iterator[Receipt]:
        return map(self.__getitem__, range(len(self)))


def pack(receipts: Iterable[Receipt]) -> Receipts:
    """All of them, taken one after the other."""
    packs, count, left = [], 0, iter(receipts)
    compressor = zstandard.ZstdCompressor(level=1)
    while some := list(itertools.islice(left, _PACK)):
        packed = compressor.compress(_ENCODER.encode(some))
        packs.append(bytes(memoryview(packed)))  # a copy: its own buffer is as large as the input
        count += len(some)
    return Receipts(packs, range(count))


def _unpack(packed: bytes) -> list[Receipt]:
    return _DECODER.decode(zstandard.ZstdDecompressor().decompress(packed))
