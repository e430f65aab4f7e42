"""Fletcher-4 against its definition, one word at a time."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsite.zfs import fletcher
from offsite.zfs.fletcher import ZERO, State

MASK = (1 << 64) - 1
BLOCK = 16 * 1024 * 4  # bytes that are summed at a time


@pytest.fixture(autouse=True, scope="module")
def numpy() -> None:
    """Loaded now: the first example of a test would take too long."""
    fletcher.update(ZERO, b"")


def plainly(state: State, data: bytes) -> State:
    a, b, c, d = state
    for (word,) in struct.iter_unpack("<I", data):
        a = a + word & MASK
        b = b + a & MASK
        c = c + b & MASK
        d = d + c & MASK
    return a, b, c, d


def added(one: State, other: State) -> State:
    a, b, c, d = (x + y & MASK for x, y in zip(one, other, strict=True))
    return a, b, c, d


words = st.binary(max_size=400).map(lambda data: data[: len(data) & ~3])
word = st.integers(0, MASK)
states = st.tuples(word, word, word, word) | st.sampled_from([ZERO, (MASK, MASK, MASK, MASK)])


@given(states, words)
def test_it_is_the_sum_of_sums_of_the_words(state: State, data: bytes) -> None:
    assert fletcher.update(state, data) == plainly(state, data)


def test_known_sums() -> None:
    assert fletcher.update(ZERO, b"") == ZERO
    assert fletcher.update(ZERO, b"\1\0\0\0") == (1, 1, 1, 1)
    assert fletcher.update(ZERO, b"\1\0\0\0\2\0\0\0\3\0\0\0") == (6, 10, 15, 21)
    assert fletcher.update(ZERO, b"\0\0\0\1") == (1 << 24,) * 4


@pytest.mark.parametrize("size", [BLOCK - 4, BLOCK, BLOCK + 4, 2 * BLOCK + 12])
def test_more_than_one_block_of_the_largest_words(size: int) -> None:
    data = b"\xff" * size
    assert fletcher.update(ZERO, data) == plainly(ZERO, data)
    assert fletcher.update((1, 2, 3, MASK), memoryview(data)) == plainly((1, 2, 3, MASK), data)


@given(states, words, words)
def test_pieces_give_the_sum_of_the_whole(state: State, one: bytes, other: bytes) -> None:
    whole = fletcher.update(state, one + other)
    assert fletcher.update(fletcher.update(state, bytearray(one)), other) == whole


@given(states, st.integers(0, 300))
def test_a_state_is_carried_over_zeros(state: State, count: int) -> None:
    assert fletcher.carry(state, count) == plainly(state, bytes(4 * count))


@given(states, word, word)
def test_it_may_be_carried_in_steps_of_any_length(state: State, one: int, other: int) -> None:
    stepwise = fletcher.carry(fletcher.carry(state, one), other)
    assert stepwise == fletcher.carry(state, one + other)


@given(states, states, words)
def test_a_difference_passes_over_bytes_that_both_share(
    one: State, other: State, data: bytes
) -> None:
    delta = fletcher.difference(one, other)
    assert added(other, delta) == one
    after = fletcher.carry(delta, len(data) // 4)
    assert added(fletcher.update(other, data), after) == fletcher.update(one, data)
