"""Receipts of a backup of any size: three million of 100 TB would take 5 GB as objects, and take
0.7 GB packed.
"""

from __future__ import annotations

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
    """A sequence that is never changed; ``Packer`` makes one. A slice of it shares its memory.

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


class Packer:
    """Makes Receipts of what it is given, some at a time."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=1)
        self._packs: list[bytes] = []
        self._loose: list[Receipt] = []

    def add(self, receipts: Iterable[Receipt]) -> None:
        for receipt in receipts:
            self._loose.append(receipt)
            if len(self._loose) == _PACK:
                self._pack()

    def done(self) -> Receipts:
        """All that it was given; then it is not to be given any more."""
        count = len(self._packs) * _PACK + len(self._loose)
        if self._loose:
            self._pack()
        return Receipts(self._packs, range(count))

    def _pack(self) -> None:
        packed = self._compressor.compress(_ENCODER.encode(self._loose))
        # A copy: the buffer that it is in is as large as the input.
        self._packs.append(bytes(memoryview(packed)))
        self._loose = []


def pack(receipts: Iterable[Receipt]) -> Receipts:
    """All of them, taken one after the other."""
    packer = Packer()
    packer.add(receipts)
    return packer.done()


def _unpack(packed: bytes) -> list[Receipt]:
    return _DECODER.decode(zstandard.ZstdDecompressor().decompress(packed))
