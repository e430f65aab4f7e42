"""Fletcher-4 as OpenZFS sums send streams: four u64 over little-endian u32 words.

Source: module/zcommon/zfs_fletcher.c, fletcher_4_incremental_native. The state is linear in the
data, so the difference of two streams' states can be carried over bytes that both share without
looking at them (``carry``).
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import types

    import numpy as np
    from numpy.typing import NDArray

State = tuple[int, int, int, int]
ZERO: State = (0, 0, 0, 0)
_MASK = (1 << 64) - 1
_BLOCK = 16 * 1024  # words at a time: what fits the cache


def update(state: State, data: bytes | bytearray | memoryview) -> State:
    """The state after ``data``, whose length is a multiple of 4 bytes."""
    numpy = _numpy()
    words = numpy.frombuffer(data, dtype="<u4")
    for at in range(0, len(words), _BLOCK):
        block = words[at : at + _BLOCK].astype(numpy.uint64)
        a, b, c, d = carry(state, len(block))
        once, twice, thrice = _weights(len(block))
        state = (
            a + int(block.sum()) & _MASK,
            b + int((block * once).sum()) & _MASK,
            c + int((block * twice).sum()) & _MASK,
            d + int((block * thrice).sum()) & _MASK,
        )
    return state


def carry(state: State, words: int) -> State:
    """The state (or difference of two states) after ``words`` u32 words of zeros."""
    a, b, c, d = state
    second = words * (words + 1) // 2
    third = words * (words + 1) * (words + 2) // 6
    return (
        a,
        (b + words * a) & _MASK,
        (c + words * b + second * a) & _MASK,
        (d + words * c + second * b + third * a) & _MASK,
    )


def difference(one: State, other: State) -> State:
    """``one`` minus ``other``."""
    a, b, c, d = (x - y & _MASK for x, y in zip(one, other, strict=True))
    return a, b, c, d


@functools.lru_cache(maxsize=8)
def _weights(words: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.uint64]]:
    """How often each of ``words`` words is counted in b, c and d."""
    left = _numpy().arange(words, 0, -1, dtype="u8")
    twice = left * (left + 1) // 2
    return left, twice, twice * (left + 2) // 3


@functools.cache
def _numpy() -> types.ModuleType:
    """Only a resumed run needs it, and it would start threads before the workers are forked."""
    import numpy  # noqa: ICN001, PLC0415

    return numpy
