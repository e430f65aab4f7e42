"""Resume tokens: real ones, every value that one can have, and hostile ones."""

import contextlib
import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsite.zfs import fletcher, nvlist
from offsite.zfs.records import Feature
from offsite.zfs.token import Token, TokenError, decode, encode

# Told by OpenZFS of the version named after a zfs receive -s of a stream that was cut (zfs get
# receive_resume_token). Guids, name and flags beside them are what zfs get and BEGIN told.
REAL: dict[str, tuple[str, Token]] = {
    "full, 2.1.11": (
        (
            "1-ed2220786-f0-789c636064000310a500c4ec50360710e72765a526973030b8429460caa7a515a79680645"
            "8e0f26c48f2499525a9c540ba418213abfe92fcf4d2cc140606fe1e7ee3ccd91caf3490e439c1f27989b9a90"
            "c0cc52545a989b9c5fa69c50e86207324a0fa61ee4ecd4d4a4dc9cf069bcf8d249e9c9f5b50945a5c0c94820"
            "30042851ccf"
        ),
        Token(69, 262144, 596096, 16863899680819350543, "streams/fs@1", embed=True, compress=True),
    ),
    "increment, 2.1.11": (
        (
            "1-fbe0e4560-118-789c636064000310a501c49c50360710a715e5e7a69766a63040017f0fbf71e66c8e570a"
            "40363b92bafca4acd4e412060617a83a0cf9b4b4e2d412063800c9b321c9275596a41603e903efb0eb2fc987"
            "b822e9065fbc1eabcb550d24794eb07c5e626e2a03437149516a626eb17e5ab18311c81c09a87e98ff527393"
            "5253f2b3c1e673238927e7e71614a5161703a5e00000f03d2462"
        ),
        Token(
            68,
            0,
            61120,
            15367413525216417890,
            "streams/fs@2",
            16863899680819350543,
            embed=True,
            compress=True,
        ),
    ),
    "raw, 2.1.11": (
        (
            "1-de7449532-f8-789c636064000310a500c4ec50360710e72765a526973030b8429460caa7a515a79680645"
            "8e0f26c48f2499525a9c5405ac58a13abfe92fcf4d2cc140606d98fa29fe5dc3c361a20c97382e5f31273531"
            "9188a4b8a5213738bf58b53938b524b1c0c1990dcc3cd80707f727e6e41516a71717e36444c02ea1e987c516"
            "2394c8a010097481e35"
        ),
        Token(
            69, 262144, 604708, 12774537441777676573, "streams/secret@1", compress=True, raw=True
        ),
    ),
    "large blocks, 2.1.11": (
        (
            "1-1140a1543c-110-789c636064000310a500c4ec50360710e72765a526973030b8409460caa7a515a79630c"
            "001489e0d493ea9b224b5184837f03163d55f929f5e9a99c2c070e5f1d63d2f7df7f56b20c97382e5f312735"
            "319188a4b8a5213738bf573128bd2531d0cc1e6f03220dc0d164fcac94fcececf06894940cd87c9a7e626a5a"
            "600a540fab891c493f3730b8a528b8b21ba200000483125e2"
        ),
        Token(
            68,
            0,
            200320,
            10357801859287475156,
            "streams/large@1",
            large_blocks=True,
            embed=True,
            compress=True,
        ),
    ),
    "increment, 2.4.4": (
        (
            "1-12fa20568d-118-789c636064000310a501c49c50360710a715e5e7a69766a6304041a5c3d6cc25219da71"
            "4806c762475f94959a9c9250c0c0d507518f26969c5a9250c7000926743924faa2c492d06d21e068c58f597e"
            "4435c71f8f1ccf7f939c24c1a48f29c60f9bcc4dc540686e292a2d4c4dc62fdb462072390391250fd30ffa5e"
            "626a5a6e46783cde746124fcecf2d284a2d2e064ac1010028a525e3"
        ),
        Token(
            128,
            0,
            77896,
            149582440650367939,
            "streams/fs@2",
            14594289132595658873,
            embed=True,
            compress=True,
        ),
    ),
    "raw, 2.4.4": (
        (
            "1-efaade65f-f8-789c636064000310a500c4ec50360710e72765a52697303034409460caa7a515a79680645"
            "8e0f26c48f2499525a9c5407a8a0d2756fd25f9e9a599290c0c279f72c9293fc930324092e704cbe725e6a63"
            "230149714a526e616eb17a72617a59638183220b9879b01e1fee4fcdc82a2d4e2e2fc6c889804d43d30f9a2c"
            "472981403000e191ee6"
        ),
        Token(
            128, 262144, 605332, 3632403938953323977, "streams/secret@1", compress=True, raw=True
        ),
    ),
}

number = st.integers(0, (1 << 64) - 1)
name = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=255)
flag = st.booleans()
tokens = st.builds(Token, number, number, number, number, name, number, flag, flag, flag, flag)
NEEDED: dict[str, nvlist.Value] = {
    "object": 1,
    "offset": 0,
    "bytes": 0,
    "toguid": 2,
    "toname": "tank/a@b",
}


@pytest.fixture(autouse=True, scope="module")
def numpy() -> None:
    """Loaded now: the first example of a test would take too long."""
    fletcher.update(fletcher.ZERO, b"")


def written(packed: bytes, **fields: str) -> str:
    """A token around any bytes; ``fields`` replace what it should have."""
    data = zlib.compress(packed)
    made = {"version": "1", "sum": checksum(data), "length": f"{len(packed):x}", "data": data.hex()}
    return "-".join((made | fields).values())


def around(data: bytes, length: int) -> str:
    """A token of bytes that are compressed already, with their right sum."""
    return f"1-{checksum(data)}-{length:x}-{data.hex()}"


def checksum(data: bytes) -> str:
    words = struct.iter_unpack("<I", data[: len(data) & ~3])
    return f"{sum(word for (word,) in words):x}"


def of(pairs: dict[str, nvlist.Value]) -> str:
    return written(nvlist.encode(pairs))


@pytest.mark.parametrize(("text", "token"), REAL.values(), ids=REAL)
def test_real_tokens(text: str, token: Token) -> None:
    assert decode(text) == token
    assert decode(encode(token)) == token


@pytest.mark.skipif("ng" in zlib.ZLIB_RUNTIME_VERSION, reason="zlib-ng packs other bytes")
@pytest.mark.parametrize(("text", "token"), REAL.values(), ids=REAL)
def test_ours_are_those_of_zfs(text: str, token: Token) -> None:
    assert encode(token) == text


@given(tokens)
def test_what_is_encoded_is_decoded(token: Token) -> None:
    assert decode(encode(token)) == token


@given(tokens)
def test_the_form(token: Token) -> None:
    text = encode(token)
    data = bytes.fromhex(text.split("-")[3])
    assert text == around(data, len(zlib.decompress(data)))


def test_the_flags_are_those_of_the_stream_s_features() -> None:
    bare = Token(1, 2, 3, 4, "a@b", 5)
    assert bare.with_features(Feature.LARGE_BLOCKS) == Token(
        1, 2, 3, 4, "a@b", 5, large_blocks=True
    )
    assert bare.with_features(Feature.EMBED_DATA) == Token(1, 2, 3, 4, "a@b", 5, embed=True)
    assert bare.with_features(Feature.COMPRESSED) == Token(1, 2, 3, 4, "a@b", 5, compress=True)
    assert bare.with_features(Feature.RAW) == Token(1, 2, 3, 4, "a@b", 5, raw=True)
    others = Feature.LZ4 | Feature.ZSTD | Feature.LARGE_DNODE | Feature.RESUMING | Feature.LONGNAME
    assert bare.with_features(others) == bare
    full = Token(1, 2, 3, 4, "a@b", 5, large_blocks=True, embed=True, compress=True, raw=True)
    assert full.with_features(Feature(0)) == bare
    assert bare.with_features(~Feature(0)) == full


def test_only_what_zfs_needs_is_needed() -> None:
    assert decode(of(NEEDED)) == Token(1, 0, 0, 2, "tank/a@b")
    assert decode(of(NEEDED | {"savedok": True})) == Token(1, 0, 0, 2, "tank/a@b")
    for missing in NEEDED:
        pairs = {key: value for key, value in NEEDED.items() if key != missing}
        with pytest.raises(TokenError, match=f"is damaged: it has no {missing}"):
            decode(of(pairs))


@pytest.mark.parametrize("key", ["redact_snaps", "book_redact_snaps"])
@pytest.mark.parametrize("value", [[], [1, 2], True])
def test_redacted_streams_are_refused(key: str, value: nvlist.Value) -> None:
    with pytest.raises(TokenError, match="that of a redacted stream: not supported"):
        decode(of(NEEDED | {key: value}))


PACKED = nvlist.encode(NEEDED)
DATA = zlib.compress(PACKED)
DAMAGED = {
    "nothing": ("", "not of the form"),
    "none": ("-", "not of the form"),
    "line end": (of(NEEDED) + "\n", "not of the form"),
    "spaces": (written(PACKED, data=DATA.hex(" ")), "not of the form"),
    "half a byte": (of(NEEDED)[:-1], "hexadecimal"),
    "no data": (written(PACKED, data=""), "not of the form"),
    "not hexadecimal": (of(NEEDED)[:-2] + "xy", "not of the form"),
    "other digits": (written(PACKED, version="\u0661"), "not of the form"),
    "long": (of(NEEDED) + "00" * 40000, "not of the form"),
    "version": (written(PACKED, version="2"), "is of version 2: only 1 is known"),
    "sum": (written(PACKED, sum="1"), "its checksum is wrong"),
    "changed data": (of(NEEDED).replace("789c", "789d"), "its checksum is wrong"),
    "cut": (of(NEEDED)[:-16], "its checksum is wrong"),
    "short length": (written(PACKED, length="1"), "not the length it claims"),
    "no length": (written(PACKED, length="0"), "not the length it claims"),
    "long length": (written(PACKED, length="1000"), "not the length it claims"),
    "huge length": (written(PACKED, length="f" * 16), "claims to have 18446744073709551615"),
    "not a list": (written(b"x" * 40), "not a packed list"),
    "cut list": (written(PACKED[:-4]), "ends early"),
    "unknown pair": (of(NEEDED | {"new": 1}), "has 'new', which is not known here"),
    "unknown text": (of(NEEDED | {"new": "x"}), "has 'new', which is not known here"),
    "no text": (of(NEEDED | {"toname": 1}), "it has no toname"),
    "no number": (of(NEEDED | {"offset": True}), "it has no offset"),
    "text as number": (of(NEEDED | {"fromguid": "1"}), "it has no fromguid"),
    "a line for each fault": (of(NEEDED | {"x\n" * 100: 1}), "x.nx"),
}


@pytest.mark.parametrize(("text", "why"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_told_in_one_line(text: str, why: str) -> None:
    with pytest.raises(TokenError, match=why) as caught:
        decode(text)
    assert str(caught.value).startswith("the resume token ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 150


def test_data_after_the_end_is_damage() -> None:
    assert decode(around(DATA, len(PACKED))) == decode(of(NEEDED))
    with pytest.raises(TokenError, match="not the length it claims"):
        decode(around(DATA + b"more", len(PACKED)))
    with pytest.raises(TokenError, match="not the length it claims"):
        decode(around(DATA[:-1], len(PACKED)))
    with pytest.raises(TokenError, match="incorrect header check"):
        decode(around(b"1234", 4))


def test_a_bomb_is_not_unpacked() -> None:
    bomb = zlib.compress(bytes(16 << 20), 9)
    tracemalloc.start()
    try:
        for length in (0, 1, 60000):
            with pytest.raises(TokenError, match="not the length it claims"):
                decode(around(bomb, length))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


text_of_token = st.sampled_from([text for text, _ in REAL.values()])


@given(st.data(), text_of_token)
def test_a_truncated_or_changed_text_raises_nothing_else(data: st.DataObject, text: str) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    with pytest.raises(TokenError):
        decode(text[:at])
    other = data.draw(st.characters(codec="utf-8").filter(lambda each: each != text[at]))
    with contextlib.suppress(TokenError):
        decode(text[:at] + other + text[at + 1 :])


@given(st.data(), text_of_token)
def test_a_changed_list_raises_nothing_else(data: st.DataObject, text: str) -> None:
    packed = bytearray(zlib.decompress(bytes.fromhex(text.split("-")[3])))
    for at in data.draw(st.lists(st.integers(0, len(packed) - 1), min_size=1, max_size=5)):
        packed[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TokenError):
        decode(written(bytes(packed)))


@given(st.data(), text_of_token)
def test_changed_compressed_data_raises_nothing_else(data: st.DataObject, text: str) -> None:
    length, packed = int(text.split("-")[2], 16), bytearray.fromhex(text.split("-")[3])
    packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(TokenError):
        decode(around(bytes(packed), length))


@given(st.text() | st.from_regex(r"1-[0-9a-f]{1,16}-[0-9a-f]{1,16}-([0-9a-f]{2})*"))
def test_any_other_text_raises_nothing_else(text: str) -> None:
    with contextlib.suppress(TokenError):
        decode(text)
