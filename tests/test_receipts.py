"""Receipts by the million: a sequence like any other, in a seventh of the memory."""

from __future__ import annotations

import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from offsite.manifest import Receipt
from offsite.receipts import pack
from tests import story

COUNTS = [0, 1, 63, 64, 65, 128, 200]
SLICES = [(None, None), (0, 64), (63, 65), (1, -1), (-5, None), (64, None), (150, 20), (0, 999)]


def receipts(count: int) -> list[Receipt]:
    return [
        msgspec.structs.replace(
            one, seam=story.seam(one.offset, one.offset + 9), first_write=(7, 9)
        )
        for one in story.receipts(count)
    ]


@pytest.mark.parametrize("count", COUNTS)
def test_it_is_the_sequence_that_was_packed(count: int) -> None:
    plain = receipts(count)
    packed = pack(iter(plain))
    assert (len(packed), bool(packed)) == (count, count > 0)
    assert list(packed) == plain
    assert list(reversed(packed)) == plain[::-1]
    assert packed == plain
    assert plain == packed
    for at in range(-count, count):
        assert packed[at] == plain[at]
    for at in (count, -count - 1):
        with pytest.raises(IndexError):
            packed[at]


@pytest.mark.parametrize(("start", "stop"), SLICES)
def test_slices(start: int | None, stop: int | None) -> None:
    plain = receipts(200)
    packed, expected = pack(plain)[start:stop], plain[start:stop]
    assert packed == expected
    assert packed[2:] == expected[2:]
    assert packed[:-1] == expected[:-1]
    assert pack(packed) == expected


def test_what_is_not_equal() -> None:
    plain = receipts(70)
    packed = pack(plain)
    assert packed != plain[1:]
    assert packed != pack([*plain[:69], story.cut(plain[69])])
    assert packed != 7


def test_many_threads_read_it() -> None:
    plain = receipts(200)
    packed, begin = pack(plain), threading.Barrier(4)

    def read(step: int) -> bool:
        begin.wait(60)
        return all(packed[at * step % 200] == plain[at * step % 200] for at in range(2000))

    with ThreadPoolExecutor(4) as crew:
        assert all(crew.map(read, (1, 7, 63, 199)))


def test_what_it_takes() -> None:
    """Less than 300 bytes for each; as objects they would take 1,500."""
    plain = receipts(1000)
    pack(plain)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        packed = pack(plain)
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(packed) == 1000
    assert after - before < 300 * 1000
