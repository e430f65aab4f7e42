"""Resume tokens: what ``zfs send -t`` takes, and what the property receive_resume_token tells.

Sources: OpenZFS module/zfs/dsl_dataset.c (get_receive_resume_token writes them),
lib/libzfs/libzfs_sendrecv.c (zfs_send_resume_token_to_nvlist reads them, zfs_send_resume uses what
they say). A token is ``1-SUM-LENGTH-DATA`` in hexadecimal: a packed nvlist's length, the list in
zlib's form, and of that the first word of its Fletcher-4, without the bytes after the last u32.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace

from offsite.errors import ZfsError
from offsite.zfs import fletcher, nvlist
from offsite.zfs.records import Feature

_VERSION = 1  # ZFS_SEND_RESUME_TOKEN_VERSION
_LEVEL = 6
_SHAPE = re.compile(r"([0-9]{1,9})-([0-9a-f]{1,16})-([0-9a-f]{1,16})-([0-9a-f]+)")
# Real ones have less than 1 KiB: a name of 256 bytes and a few numbers.
_TEXT_LIMIT = 64 << 10
_PACKED_LIMIT = 64 << 10
_NUMBERS = frozenset({"object", "offset", "bytes", "toguid", "fromguid"})


class TokenError(ZfsError):
    """The text is no resume token, or one of a stream that we cannot resume."""


@dataclass(frozen=True)
class Token:
    """The send of the snapshot ``toguid`` from (``object``, ``offset`` in bytes of it) on.

    ``toname`` tells the pool; the snapshot is looked up by its guid. ``fromguid`` is 0 in a full
    send. ``bytes``, received so far, counts only in estimates. The flags are those of zfs send: a
    missing one is not noticed and gives another stream.
    """

    object: int
    offset: int
    bytes: int
    toguid: int
    toname: str
    fromguid: int = 0
    large_blocks: bool = False
    embed: bool = False
    compress: bool = False
    raw: bool = False

    def with_features(self, features: Feature) -> Token:
        """With the flags of a stream whose BEGIN has these features, as the receiver sets them.

        Source: module/zfs/dmu_recv.c, dmu_recv_begin_sync.
        """
        return replace(
            self,
            large_blocks=Feature.LARGE_BLOCKS in features,
            embed=Feature.EMBED_DATA in features,
            compress=Feature.COMPRESSED in features,
            raw=Feature.RAW in features,
        )


def encode(token: Token) -> str:
    """The text of a token. With the usual zlib (not zlib-ng), ZFS itself writes the same one.

    Raises ValueError for numbers of more than 64 bits and NUL in the name.
    """
    packed = nvlist.encode(_pairs(token))
    data = zlib.compress(packed, _LEVEL)
    return f"{_VERSION}-{_sum(data):x}-{len(packed):x}-{data.hex()}"


def decode(text: str) -> Token:
    """Read a token, which may be an attacker's. Raises TokenError."""
    try:
        pairs = nvlist.decode(_unpack(text))
        if any("redact" in name for name in pairs):
            raise TokenError("the resume token is that of a redacted stream: not supported")
        return _token(pairs)
    except ValueError as error:
        raise TokenError(f"the resume token is damaged: {error}") from error


def _pairs(token: Token) -> dict[str, nvlist.Value]:
    """In the order in which ZFS puts them."""
    base: dict[str, nvlist.Value] = {"fromguid": token.fromguid} if token.fromguid else {}
    return base | {
        "object": token.object,
        "offset": token.offset,
        "bytes": token.bytes,
        "toguid": token.toguid,
        "toname": token.toname,
        "largeblockok": token.large_blocks,
        "embedok": token.embed,
        "compressok": token.compress,
        "rawok": token.raw,
    }


def _token(pairs: Mapping[str, nvlist.Value | None]) -> Token:
    for name, value in pairs.items():
        if name not in _NUMBERS | {"toname"} and value is not True:
            raise TokenError(f"the resume token has {name[:40]!r}, which is not known here")
    return Token(
        object=_number(pairs, "object"),
        offset=_number(pairs, "offset"),
        bytes=_number(pairs, "bytes"),
        toguid=_number(pairs, "toguid"),
        toname=_name(pairs),
        fromguid=_number(pairs, "fromguid") if "fromguid" in pairs else 0,
        large_blocks="largeblockok" in pairs,
        embed="embedok" in pairs,
        compress="compressok" in pairs,
        raw="rawok" in pairs,
    )


def _number(pairs: Mapping[str, nvlist.Value | None], name: str) -> int:
    value = pairs.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"it has no {name}")  # noqa: TRY004 - the type is the input's
    return value


def _name(pairs: Mapping[str, nvlist.Value | None]) -> str:
    value = pairs.get("toname")
    if not isinstance(value, str):
        raise ValueError("it has no toname")  # noqa: TRY004 - the type is the input's
    return value


def _unpack(text: str) -> bytes:
    """The packed list of a token whose sums are right. Raises ValueError."""
    found = _SHAPE.fullmatch(text) if len(text) <= _TEXT_LIMIT else None
    if not found:
        raise ValueError("it is not of the form 1-SUM-LENGTH-DATA")
    version, checksum, length = int(found[1]), int(found[2], 16), int(found[3], 16)
    if version != _VERSION:
        raise TokenError(f"the resume token is of version {version}: only {_VERSION} is known here")
    data = bytes.fromhex(found[4])
    if _sum(data) != checksum:
        raise ValueError("its checksum is wrong")
    if length > _PACKED_LIMIT:
        raise ValueError(f"it claims to have {length} bytes")
    return _decompress(data, length)


def _decompress(data: bytes, length: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        packed = stream.decompress(data, length + 1)  # with room left, it sees the end
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(packed) != length or not stream.eof or stream.unused_data:
        raise ValueError("it has not the length it claims")
    return packed


def _sum(data: bytes) -> int:
    """Source: fletcher_4_native_varsize in module/zcommon/zfs_fletcher.c."""
    return fletcher.update(fletcher.ZERO, data[: len(data) & ~3])[0]
