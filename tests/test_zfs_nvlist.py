"""Packed lists: laid out here field by field, packed by OpenZFS itself, and damaged."""

import contextlib
import struct
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from offsite.zfs.nvlist import Value, decode, encode, insert
from offsite.zfs.records import HEADER_SIZE

STREAM = Path(__file__).parent / "vectors" / "streams" / "raw.zst"

# As libnvpair of OpenZFS 2.1.11 packs them (nvlist_pack, NV_ENCODE_NATIVE and NV_ENCODE_XDR).
LIST: dict[str, Value | None] = {
    "object": 5,
    "toname": "a@b",
    "rawok": True,
    "snaps": [1, 2],
    "list": None,  # {"in": 1}
    "lists": None,  # [{"x": 1}, {}]
    "bytes": None,  # uint8_t, five times 7
}
NATIVE = bytes.fromhex(
    "000100000000000001000000200000000700000001000000080000006f626a656374000005000000000000002000"
    "0000070000000100000009000000746f6e616d650000614062000000000018000000060000000000000001000000"
    "7261776f6b00000028000000060000000200000010000000736e6170730000000100000000000000020000000000"
    "0000300000000500000001000000130000006c697374000000000000000001000000000000000000000000000000"
    "0000000020000000030000000100000008000000696e000000000000010000000000000000000000580000000600"
    "000002000000140000006c6973747300000000000000000000000000000000000000000000000100000000000000"
    "00000000000000000000000000000000010000000000000000000000000000000000000020000000020000000100"
    "0000080000007800000000000000010000000000000000000000000000002000000006000000050000001a000000"
    "6279746573000000070707070700000000000000"
)
XDR = bytes.fromhex(
    "0101000000000000000000010000002400000020000000066f626a65637400000000000800000001000000000000"
    "0005000000240000002000000006746f6e616d650000000000090000000100000003614062000000001c00000018"
    "000000057261776f6b0000000000000100000000000000300000002800000005736e617073000000000000100000"
    "000200000002000000000000000100000000000000020000004800000030000000046c6973740000001300000001"
    "0000000000000001000000200000002000000002696e000000000008000000010000000000000001000000000000"
    "00000000005c00000058000000056c69737473000000000000140000000200000000000000010000002000000020"
    "00000001780000000000000800000001000000000000000100000000000000000000000000000001000000000000"
    "000000000034000000200000000562797465730000000000001a0000000500000005000000070000000700000007"
    "00000007000000070000000000000000"
)
# {"e": [], "n": 1}: the size of the empty array counts four bytes that are not there.
EMPTY_ARRAY_XDR = bytes.fromhex(
    "0101000000000000000000010000001c000000180000000165000000000000100000000000000020000000200000"
    "00016e00000000000008000000010000000000000001000000000000000000000000"
)

names = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=20)
numbers = st.integers(0, (1 << 64) - 1)
values = st.just(value=True) | numbers | names | st.lists(numbers, max_size=4)
lists = st.dictionaries(names, values, max_size=6)


def pair(name: bytes, kind: int, count: int, value: bytes) -> bytes:
    """One NATIVE pair; the value comes with its padding."""
    label = name + b"\0"
    label += bytes(-len(label) % 8)
    size = 16 + len(label) + len(value)
    return struct.pack("<iHHii", size, len(name) + 1, 0, count, kind) + label + value


def native(*pairs: bytes, end: bytes = bytes(4)) -> bytes:
    return bytes.fromhex("00010000 00000000 01000000") + b"".join(pairs) + end


def begin_payload() -> bytes:
    """What follows the BEGIN of a real raw stream: a list ``crypt_keydata`` in a list."""
    data = zstandard.ZstdDecompressor().decompress(STREAM.read_bytes())
    return data[HEADER_SIZE : HEADER_SIZE + struct.unpack_from("<I", data, 4)[0]]


@given(lists)
def test_what_is_encoded_is_decoded(pairs: dict[str, Value]) -> None:
    packed = encode(pairs)
    assert list(decode(packed).items()) == list(pairs.items())
    assert decode(packed + bytes(7)) == pairs


def test_the_layout() -> None:
    assert encode({}) == native()
    assert encode({"no": False, "yes": True}) == native(pair(b"yes", 1, 0, b""))
    assert encode({"sevenNN": 1 << 63}) == native(pair(b"sevenNN", 8, 1, bytes(7) + b"\x80"))
    assert encode({"t": "12345678"}) == native(pair(b"t", 9, 1, b"12345678" + bytes(8)))
    array = struct.pack("<QQ", 7, 8)
    assert encode({"eight888": [7, 8]}) == native(pair(b"eight888", 16, 2, array))
    assert encode({"none": []}) == native(pair(b"none", 16, 0, b""))


@pytest.mark.parametrize("data", [NATIVE, XDR], ids=["native", "xdr"])
def test_lists_packed_by_zfs(data: bytes) -> None:
    assert decode(data) == LIST
    assert decode(data + bytes(4)) == LIST


def test_ours_are_those_of_zfs() -> None:
    plain = {name: value for name, value in LIST.items() if value is not None}
    assert NATIVE.startswith(encode(plain)[:-4])
    assert insert(native(), plain) == encode(plain)
    empty = XDR[:12] + bytes(8)
    assert XDR.startswith(insert(empty, plain).rstrip(b"\0"))


def test_an_empty_array_in_xdr() -> None:
    assert decode(EMPTY_ARRAY_XDR) == {"e": [], "n": 1}


def test_insert_into_the_list_of_a_raw_stream() -> None:
    payload = begin_payload()
    assert len(payload) == 1028
    assert decode(payload) == {"crypt_keydata": None}
    pairs = {"resume_object": 7, "resume_offset": 1 << 20}
    found = insert(payload, pairs)
    assert found == payload[:12] + encode(pairs)[12:-4] + payload[12:]
    assert list(decode(found).items()) == [*pairs.items(), ("crypt_keydata", None)]


@given(lists, lists)
def test_insert_puts_pairs_before_the_others(old: dict[str, Value], new: dict[str, Value]) -> None:
    new = {name: value for name, value in new.items() if name not in old}
    assert insert(encode(old), new) == encode(new | old)
    assert insert(b"", new) == encode(new)


@given(lists)
def test_insert_into_xdr_keeps_it_xdr(new: dict[str, Value]) -> None:
    new = {name: value for name, value in new.items() if name not in LIST}
    found = insert(XDR, new)
    assert found[:12] == XDR[:12]
    assert XDR[12:] in found
    assert len(found) % 8 == len(XDR) % 8
    assert list(decode(found).items()) == [*new.items(), *LIST.items()]


def test_insert_never_makes_a_name_double() -> None:
    with pytest.raises(ValueError, match="has 'object' already"):
        insert(NATIVE, {"object": 6})
    with pytest.raises(ValueError, match="big-endian"):
        insert(b"\0\0" + NATIVE[2:], {"x": 1})


@pytest.mark.parametrize(
    "pairs",
    [{"n": -1}, {"n": 1 << 64}, {"n": [1 << 64]}, {"n": "a\0b"}, {"a\0b": 1}, {"n" * 32767: True}],
)
def test_what_no_list_can_have(pairs: dict[str, Value]) -> None:
    with pytest.raises(ValueError, match="has no place"):
        encode(pairs)
    with pytest.raises(ValueError, match="has no place"):
        insert(XDR, pairs)


ONE = struct.pack("<Q", 1)
DAMAGED = {
    "nothing": (b"", "not a packed list"),
    "other packing": (b"\2\1" + NATIVE[2:], "not a packed list"),
    "big-endian": (b"\0\0" + NATIVE[2:], "big-endian"),
    "version": (NATIVE[:4] + b"\1" + NATIVE[5:], "unknown version"),
    "header only": (NATIVE[:12], "ends early"),
    "bytes behind": (NATIVE + b"x", "bytes follow"),
    "bytes behind xdr": (XDR + b"x", "bytes follow"),
    "twice": (native(pair(b"a", 1, 0, b""), pair(b"a", 8, 1, ONE)), "'a' twice"),
    "no room for the pair": (native(struct.pack("<i", 12)), "ends early"),
    "negative size": (native(struct.pack("<i", -24) + bytes(20)), "ends early"),
    "name without NUL": (native(pair(b"a", 1, 0, b"").replace(b"a\0", b"ab")), "a text does not"),
    "name ends early": (native(pair(b"a\0b", 1, 0, b"")), "a text does not"),
    "name is not UTF-8": (native(pair(b"\xff", 1, 0, b"")), "utf-8"),
    "text without NUL": (native(pair(b"a", 9, 1, b"12345678")), "a text does not"),
    "long padding": (native(pair(b"a", 9, 1, b"1" + bytes(15))), "a text does not"),
    "two texts": (native(pair(b"a", 9, 2, b"1" + bytes(7))), "2 elements"),
    "boolean with a number": (native(pair(b"a", 1, 1, ONE)), "1 elements"),
    "boolean with bytes": (native(pair(b"a", 1, 0, ONE)), "0 numbers in 8"),
    "short number": (native(pair(b"a", 8, 1, b"")), "1 numbers in 0"),
    "long number": (native(pair(b"a", 8, 1, ONE + ONE)), "1 numbers in 16"),
    "huge array": (native(pair(b"a", 16, -1, ONE)), "4294967295 numbers in 8"),
    "huge array of lists": (native(pair(b"a", 20, -1, b"")), "ends early"),
    "NUL in an xdr text": (XDR.replace(b"a@b", b"a\0b"), "NUL in it"),
    "huge xdr text": (XDR.replace(b"\3a@b", b"\xffa@b"), "ends early"),
    "xdr text shorter than its value": (XDR.replace(b"\3a@b\0\0\0", b"\0\0\0\0\0\0\0"), "text"),
    "huge xdr array": (EMPTY_ARRAY_XDR[:32] + b"\xff" * 4 + EMPTY_ARRAY_XDR[36:], "numbers in 0"),
}


@pytest.mark.parametrize(("data", "why"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told(data: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        decode(data)


@pytest.mark.parametrize("data", [NATIVE, XDR, begin_payload()], ids=["native", "xdr", "raw"])
def test_a_truncated_list_is_damaged(data: bytes) -> None:
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"early|not a packed list"):
            decode(data[:length])


def test_lists_in_lists_are_no_recursion() -> None:
    depth = 20000
    inner = pair(b"l", 19, 1, bytes(24))
    assert decode(native(inner * depth, end=bytes(4 * depth + 4))) == {"l": None}
    with pytest.raises(ValueError, match="ends early"):
        decode(native(inner * depth, end=bytes(4 * depth)))


changes = st.lists(st.tuples(st.integers(0, 1 << 12), st.integers(0, 255)), min_size=1, max_size=6)


@given(st.sampled_from([NATIVE, XDR, EMPTY_ARRAY_XDR]), changes, st.binary(max_size=9))
def test_damage_raises_nothing_else(
    data: bytes, changes: list[tuple[int, int]], tail: bytes
) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(data)] = value
    with contextlib.suppress(ValueError):
        decode(bytes(damaged) + tail)
    with contextlib.suppress(ValueError):
        insert(bytes(damaged), {"resume_object": 1})


@given(st.sampled_from([NATIVE[:12], XDR[:12], b""]), st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(start: bytes, data: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode(start + data)
