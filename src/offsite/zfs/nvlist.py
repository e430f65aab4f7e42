"""Packed nvlists: the named values in resume tokens and behind BEGIN records.

Source: OpenZFS module/nvpair/nvpair.c. The first byte tells the packing: 0 is NATIVE (the second
byte is 1 for little-endian), 1 is XDR. A version (0) and flags (1: names are unique) follow, then
the pairs, then a size of 0. Tokens are NATIVE (fnvpair.c, fnvlist_pack), and so are the payloads of
BEGIN up to 2.4; since May 2026 dmu_send.c packs those as XDR, with zeros up to a multiple of 8.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping

Value = bool | int | str | list[int]
_Pairs = Iterator[tuple[str, Value | None]]

# data_type_t in include/sys/nvpair.h: the values read here, and those that are lists themselves.
_BOOLEAN, _UINT64, _STRING, _UINT64_ARRAY = 1, 8, 9, 16
_NVLIST, _NVLIST_ARRAY = 19, 20
_ELEMENTS = {_BOOLEAN: 0, _UINT64: 1, _STRING: 1}

_NATIVE, _XDR = b"\x00\x01", b"\x01"
_HEADER_SIZE = 12
_HEADER = struct.pack("<4sII", _NATIVE, 0, 1)
_NATIVE_SIZE = struct.Struct("<I")
_NATIVE_PAIR = struct.Struct("<IHHII")  # nvpair_t: size, the name's with its NUL, 0, elements, type
_XDR_SIZES = struct.Struct(">II")  # of the pair as it is here, and as an nvpair_t
_XDR_LENGTH = struct.Struct(">I")
_XDR_TYPE = struct.Struct(">II")  # type, elements
_NAME_LIMIT = (1 << 15) - 2  # nvp_name_sz is an int16_t and counts the NUL


def encode(pairs: Mapping[str, Value]) -> bytes:
    """A NATIVE little-endian list of the pairs in their order; a False one is left out.

    Raises ValueError for what no list can have: NUL in a text, a number of more than 64 bits.
    """
    return _HEADER + _join(_native_pair, pairs) + bytes(_NATIVE_SIZE.size)


def insert(payload: bytes, pairs: Mapping[str, Value]) -> bytes:
    """A packed list with ``pairs`` before its own, which stay as they are; of nothing, a new list.

    They are packed as the list is. Raises ValueError if it is damaged or has one of them already.
    """
    if not payload:
        return encode(pairs)
    for name in decode(payload).keys() & pairs.keys():
        raise ValueError(f"the list has {name[:40]!r} already")
    new = _join(_xdr_pair if payload.startswith(_XDR) else _native_pair, pairs)
    return payload[:_HEADER_SIZE] + new + payload[_HEADER_SIZE:] + bytes(-len(new) % 8)


def decode(data: bytes) -> dict[str, Value | None]:
    """The pairs of a packed list. A value of a type that is not read here, e.g. a list, is None.

    Raises ValueError for bytes that are no list.
    """
    if data.startswith(_NATIVE):
        pairs = _native_pairs(data)
    elif data.startswith(_XDR):
        pairs = _xdr_pairs(data)
    else:
        raise ValueError("not a packed list, or one of a big-endian machine")
    if any(_cut(data, 4, 4)):
        raise ValueError("a packed list of an unknown version")
    found: dict[str, Value | None] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the list has {name[:40]!r} twice")
        found[name] = value
    return found


def _native_pairs(data: bytes) -> _Pairs:
    """Those of the outermost list: an inner one's follow the pair that is that list."""
    at, open_lists = _HEADER_SIZE, 1
    while open_lists:
        (size,) = _NATIVE_SIZE.unpack(_cut(data, at, _NATIVE_SIZE.size))
        if not size:
            at += _NATIVE_SIZE.size
            open_lists -= 1
            continue
        pair = _cut(data, at, size)
        _, length, _, count, kind = _NATIVE_PAIR.unpack(_cut(pair, 0, _NATIVE_PAIR.size))
        if open_lists == 1:
            name = _before_nul(_cut(pair, _NATIVE_PAIR.size, length), 1)
            value = pair[_NATIVE_PAIR.size + _round_up(length, 8) :]
            yield _text(name), _native_value(kind, count, value)
        open_lists += {_NVLIST: 1, _NVLIST_ARRAY: count}.get(kind, 0)
        at += size
    _check_padding(data[at:])


def _native_value(kind: int, count: int, data: bytes) -> Value | None:
    return _value("<", kind, count, _before_nul(data, 8) if kind == _STRING else data)


def _before_nul(data: bytes, unit: int) -> bytes:
    """The text in what is a text, NUL, and zeros up to a multiple of ``unit`` bytes."""
    text = data.partition(b"\0")[0]
    if data != _pad(text + b"\0", unit):
        raise ValueError("a text does not end where it should")
    return text


def _xdr_pairs(data: bytes) -> _Pairs:
    at = _HEADER_SIZE
    while True:
        size, unpacked_size = _XDR_SIZES.unpack(_cut(data, at, _XDR_SIZES.size))
        if not unpacked_size:
            break
        pair = _cut(data, at, size)
        name, after = _xdr_text(pair, _XDR_SIZES.size)
        kind, count = _XDR_TYPE.unpack(_cut(pair, after, _XDR_TYPE.size))
        after += _XDR_TYPE.size
        # An empty array has nothing there, though its size counts a length.
        end = size if count else after
        yield _text(name), _xdr_value(kind, count, pair[after:end])
        at += end
    _check_padding(data[at + _XDR_SIZES.size :])


def _xdr_value(kind: int, count: int, data: bytes) -> Value | None:
    if kind == _STRING:
        text, end = _xdr_text(data, 0)
        if end != len(data):
            raise ValueError("a text does not end where it should")
        data = text
    elif kind == _UINT64_ARRAY and count:
        data = data[_XDR_LENGTH.size :]
    return _value(">", kind, count, data)


def _xdr_text(data: bytes, at: int) -> tuple[bytes, int]:
    """A text and where it ends."""
    (length,) = _XDR_LENGTH.unpack(_cut(data, at, _XDR_LENGTH.size))
    at += _XDR_LENGTH.size
    return _cut(data, at, length), at + _round_up(length, 4)


def _value(order: str, kind: int, count: int, data: bytes) -> Value | None:
    if count != _ELEMENTS.get(kind, count):
        raise ValueError(f"a value of type {kind} with {count} elements")
    if kind == _STRING:
        return _text(data)
    if kind not in {_BOOLEAN, _UINT64, _UINT64_ARRAY}:
        return None
    if len(data) != count * 8:
        raise ValueError(f"{count} numbers in {len(data)} bytes")
    numbers = list(struct.unpack(f"{order}{count}Q", data))
    return numbers if kind == _UINT64_ARRAY else numbers[0] if kind == _UINT64 else True


def _text(data: bytes) -> str:
    if b"\0" in data:
        raise ValueError("a text with NUL in it")
    return data.decode()


def _cut(data: bytes, at: int, size: int) -> bytes:
    part = data[at : at + size]
    if len(part) < size:
        raise ValueError("the list ends early")
    return part


def _check_padding(data: bytes) -> None:
    if data.strip(b"\0"):
        raise ValueError("bytes follow the list")


def _join(pack: Callable[[str, Value], bytes], pairs: Mapping[str, Value]) -> bytes:
    return b"".join(pack(name, value) for name, value in pairs.items() if value is not False)


def _native_pair(name: str, value: Value) -> bytes:
    kind, count = _kind(value)
    label = _raw(name, _NAME_LIMIT) + b"\0"
    data = _raw(value) + b"\0" if isinstance(value, str) else _numbers("<", value)
    body = _pad(label, 8) + _pad(data, 8)
    return _NATIVE_PAIR.pack(_NATIVE_PAIR.size + len(body), len(label), 0, count, kind) + body


def _xdr_pair(name: str, value: Value) -> bytes:
    kind, count = _kind(value)
    data = _xdr_string(value) if isinstance(value, str) else _numbers(">", value)
    if kind == _UINT64_ARRAY and count:
        data = _XDR_LENGTH.pack(count) + data
    body = _xdr_string(name) + _XDR_TYPE.pack(kind, count) + data
    return _XDR_SIZES.pack(_XDR_SIZES.size + len(body), len(_native_pair(name, value))) + body


def _xdr_string(text: str) -> bytes:
    data = _raw(text)
    return _XDR_LENGTH.pack(len(data)) + _pad(data, 4)


def _kind(value: Value) -> tuple[int, int]:
    """Type and number of elements."""
    match value:
        case bool():
            return _BOOLEAN, 0
        case int():
            return _UINT64, 1
        case str():
            return _STRING, 1
        case list():
            return _UINT64_ARRAY, len(value)


def _numbers(order: str, value: int | list[int]) -> bytes:
    if isinstance(value, bool):
        return b""
    numbers = value if isinstance(value, list) else [value]
    if any(number >> 64 for number in numbers):
        raise ValueError("a number that has no place in 64 bits")
    return struct.pack(f"{order}{len(numbers)}Q", *numbers)


def _raw(text: str, limit: int | None = None) -> bytes:
    data = text.encode()
    if b"\0" in data or (limit is not None and len(data) > limit):
        raise ValueError(f"a text that has no place in a list: {text[:40]!r}")
    return data


def _pad(data: bytes, unit: int) -> bytes:
    return data + bytes(-len(data) % unit)


def _round_up(size: int, unit: int) -> int:
    return -(-size // unit) * unit
