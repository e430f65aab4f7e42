"""Chunks and documents: round trips, stock tools, damage, bombs, keys."""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import tracemalloc
from pathlib import Path

import pytest
import xxhash
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite import age, frame, seal
from offsite.age import Identities, Recipients
from offsite.errors import IntegrityError, KeysError, NoKeyError
from offsite.seal import Sealed
from tests.programs import needs

MIB = 1 << 20
IDENTITY = age.generate_identity()
IDENTITIES = Identities((IDENTITY,))
RECIPIENTS = Recipients((IDENTITY.recipient, age.generate_identity().recipient))
RANDOM = random.Random(1)  # noqa: S311 - data, not keys
WORDS = b" ".join(RANDOM.choices([b"tank", b"photos", b"snapshot", b"record"], k=200_000))
NOISE = RANDOM.randbytes(2 * MIB)
PLAINS = {
    "empty": b"",
    "one byte": b"x",
    "a sample": WORDS[:16384],
    "words": WORDS,
    "noise": NOISE,
    "half noise": WORDS[:MIB] + NOISE[:MIB],
    "zeros": bytes(3 * MIB),
    "odd": NOISE[: 512 * 1024 + 1],
}


def sealed_bytes(
    plain: bytes, level: int = 3, hashes: tuple[str, ...] = ()
) -> tuple[Sealed, bytes]:
    out = bytearray(seal.sealed_bound(len(plain), RECIPIENTS))
    facts = seal.seal_chunk(
        memoryview(plain), memoryview(out), RECIPIENTS, level=level, hashes=hashes
    )
    return facts, bytes(out[: facts.size])


def opened(sealed: bytes, room: int) -> bytes:
    out = bytearray(room)
    size = seal.open_chunk(memoryview(bytearray(sealed)), memoryview(out), IDENTITIES)
    assert not any(out[size:])
    return bytes(out[:size])


def as_chunk(compressed: bytes) -> bytes:
    return age.encrypt(compressed, RECIPIENTS)


@pytest.mark.parametrize("name", PLAINS)
@pytest.mark.parametrize("level", [1, 3, 19])
def test_round_trip(name: str, level: int) -> None:
    plain = PLAINS[name]
    facts, sealed = sealed_bytes(plain, level, ("md5", "sha1"))
    assert opened(sealed, len(plain)) == plain
    assert opened(sealed, len(plain) + 1000) == plain
    assert facts == Sealed(
        size=len(sealed),
        sha256=hashlib.sha256(sealed).hexdigest(),
        plain_xxh128=xxhash.xxh3_128_hexdigest(plain),
        head_xxh128=xxhash.xxh3_128_hexdigest(b""),
        hashes={kind: hashlib.new(kind, sealed).hexdigest() for kind in ("md5", "sha1")},
    )


@pytest.mark.parametrize("head", [0, 1, 256 * 1024, 256 * 1024 + 1, 700_000, 3 * MIB])
def test_the_first_bytes_have_a_digest_of_their_own(head: int) -> None:
    out = bytearray(seal.sealed_bound(len(NOISE), RECIPIENTS))
    facts = seal.seal_chunk(memoryview(NOISE), memoryview(out), RECIPIENTS, level=2, head=head)
    assert facts.head_xxh128 == xxhash.xxh3_128_hexdigest(NOISE[:head])
    assert facts.plain_xxh128 == seal.plain_digest(memoryview(NOISE))


@given(st.lists(st.binary(max_size=40).map(lambda seed: seed * 5000), max_size=6))
@settings(deadline=None)
def test_any_bytes_fit_and_come_back(parts: list[bytes]) -> None:
    plain = b"".join(parts)
    assert opened(sealed_bytes(plain)[1], len(plain)) == plain


@pytest.mark.parametrize("size", [1, 1000, 128 * 1024, 600_000, 2 * MIB])
def test_noise_stays_within_the_bound(size: int) -> None:
    for level in (1, 3, 19):
        assert opened(sealed_bytes(NOISE[:size], level)[1], size) == NOISE[:size]


def test_noise_is_copied_and_the_rest_compressed() -> None:
    size = {name: sealed_bytes(plain)[0].size for name, plain in PLAINS.items()}
    assert size["words"] < len(PLAINS["words"]) / 3
    assert size["half noise"] < 0.7 * len(PLAINS["half noise"])
    assert len(NOISE) < size["noise"] < len(NOISE) + 2000
    far_apart = sealed_bytes(NOISE[:MIB] * 2)[0].size  # level 3 would halve it, at half the speed
    assert far_apart > 2 * MIB
    raw = age.decrypt(sealed_bytes(NOISE)[1], IDENTITIES, limit=3 * MIB)
    assert NOISE[: 100 * 1024] in raw  # raw blocks, byte for byte


@pytest.mark.parametrize("name", PLAINS)
def test_stock_tools_open_it(tmp_path: Path, name: str) -> None:
    needs("age", "zstd")
    (tmp_path / "key").write_text(IDENTITY.secret_line())
    (tmp_path / "chunk.age").write_bytes(sealed_bytes(PLAINS[name])[1])
    command = "age -d -i key chunk.age > chunk.zst && zstd -lv chunk.zst >&2 && zstd -dc chunk.zst"
    done = subprocess.run(
        ["/bin/sh", "-c", command], cwd=tmp_path, capture_output=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout == PLAINS[name]
    assert f"({len(PLAINS[name])} B)".encode() in done.stderr  # the frame tells its size


def test_what_zstd_makes_is_opened() -> None:
    needs("zstd")
    for options in (["--no-check"], ["--check"], ["-19"], ["-1", "--no-check"]):
        done = subprocess.run(
            ["zstd", "-qc", f"--stream-size={len(WORDS)}", *options],
            input=WORDS, capture_output=True, check=True, timeout=300,
        )  # fmt: skip
        assert opened(as_chunk(done.stdout), len(WORDS)) == WORDS


def test_a_buffer_is_used_again() -> None:
    out = bytearray(seal.sealed_bound(len(NOISE), RECIPIENTS))
    for plain in (NOISE, WORDS[:10], b"", WORDS):
        facts = seal.seal_chunk(memoryview(plain), memoryview(out), RECIPIENTS, level=3)
        assert opened(bytes(out[: facts.size]), len(plain)) == plain


def test_levels_whose_window_readers_refuse() -> None:
    for level in (0, -5, 20, 22):
        with pytest.raises(ValueError, match="level"):
            sealed_bytes(b"", level)


# --- damage ---------------------------------------------------------------------------------------


def test_damage_truncation_and_additions() -> None:
    sealed = sealed_bytes(NOISE[: 3 * 65536])[1]
    for at in [*range(300), *(RANDOM.randrange(len(sealed)) for _ in range(100))]:
        damaged = bytearray(sealed)
        damaged[at] ^= 1 << RANDOM.randrange(8)
        with pytest.raises((IntegrityError, NoKeyError)):
            opened(bytes(damaged), 4 * 65536)
    for size in (
        0,
        10,
        100,
        65536,
        len(sealed) - 1,
        *range(len(sealed) % 65552, len(sealed), 65552),
    ):
        with pytest.raises(IntegrityError):
            opened(sealed[:size], 4 * 65536)
    with pytest.raises(IntegrityError):
        opened(sealed + b"\0", 4 * 65536)


def test_wrong_identity() -> None:
    sealed = sealed_bytes(WORDS)[1]
    with pytest.raises(NoKeyError):
        seal.open_chunk(
            memoryview(bytearray(sealed)),
            memoryview(bytearray(len(WORDS))),
            Identities((age.generate_identity(),)),
        )


FRAME = zstandard.ZstdCompressor().compress(WORDS)
EMPTY_FRAME = zstandard.ZstdCompressor().compress(b"")
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"
# A skippable frame that, taken for further blocks of the frame before it, ends where they would.
_CONTENT = (0x4D2A50 >> 3) + 6 - 8
DISGUISED = b"\x50\x2a\x4d\x18" + _CONTENT.to_bytes(4, "little") + bytes(_CONTENT - 3) + b"\1\0\0"


@pytest.mark.parametrize(
    "compressed",
    [
        b"",
        b"(",
        b"\x28\xb5\x2f\xfd",
        b"not a frame, but long enough to hold the header of one",
        FRAME[:-1],
        FRAME[:-4],
        FRAME[:30],
        FRAME + b"\0",
        FRAME + b"\0\0\0",
        FRAME + b"\1\0\0",
        FRAME + b"\0\0\0\0",
        FRAME + FRAME,
        FRAME + EMPTY_FRAME,
        FRAME + SKIPPABLE,
        FRAME + DISGUISED,
        SKIPPABLE + FRAME,
        EMPTY_FRAME + FRAME,
        FRAME[: zstandard.frame_header_size(FRAME)] + b"\x07\0\0",
        FRAME[:100] + bytes(len(FRAME) - 100),
        zstandard.ZstdCompressor(write_content_size=False).compress(WORDS),
        zstandard.ZstdCompressor(
            compression_params=zstandard.ZstdCompressionParameters(window_log=26)
        ).compress(bytes(64 * MIB)),
    ],
)
def test_anything_but_one_sound_frame_is_refused(compressed: bytes) -> None:
    with pytest.raises(IntegrityError, match=r"frame|ends"):
        opened(as_chunk(compressed), 64 * MIB)


def test_a_damaged_frame_with_checksum() -> None:
    checked = zstandard.ZstdCompressor(write_checksum=True).compress(WORDS)
    assert opened(as_chunk(checked), len(WORDS)) == WORDS
    with pytest.raises(IntegrityError):
        opened(as_chunk(checked[:-1] + bytes([checked[-1] ^ 1])), len(WORDS))
    with pytest.raises(IntegrityError):
        opened(as_chunk(checked[:-1]), len(WORDS))


def test_the_bomb_that_says_so() -> None:
    bomb = as_chunk(zstandard.ZstdCompressor().compress(bytes(64 * MIB)))
    with pytest.raises(IntegrityError, match=f"longer than the expected {MIB}"):
        opened(bomb, MIB)


def lying_frame(says: int, blocks: int) -> bytes:
    """A frame whose header says ``says`` bytes, with ``blocks`` run-length blocks of 128 KiB."""
    head = b"\x28\xb5\x2f\xfd" + bytes([0xC0, 0x38]) + says.to_bytes(8, "little")
    run = 128 * 1024 << 3 | 1 << 1
    block = run.to_bytes(3, "little") + b"x"
    return head + block * (blocks - 1) + (run | 1).to_bytes(3, "little") + b"x"


def test_the_bomb_that_lies() -> None:
    assert opened(as_chunk(lying_frame(2 * 131072, 2)), 2 * 131072) == b"x" * 2 * 131072
    for says, blocks in ((1000, 2), (131072, 20_000), (0, 1), (3 * 131072, 2)):
        bomb = as_chunk(lying_frame(says, blocks))
        tracemalloc.start()
        with pytest.raises(IntegrityError, match="frame"):
            opened(bomb, 4 * 131072)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4 * MIB


def test_opening_takes_no_memory_of_the_size_of_the_chunk() -> None:
    plain = os.urandom(MIB) * 16
    sealed, out = bytearray(sealed_bytes(plain)[1]), bytearray(len(plain))
    tracemalloc.start()
    seal.open_chunk(memoryview(sealed), memoryview(out), IDENTITIES)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert out == plain
    assert peak < 2 * MIB


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_frame_makes_the_reader_fail_otherwise(tail: bytes) -> None:
    for compressed in (b"\x28\xb5\x2f\xfd" + tail, FRAME[:100] + tail):
        try:
            frame.decompress_into(memoryview(compressed), memoryview(bytearray(1000)))
        except IntegrityError:
            continue
        assert zstandard.ZstdDecompressor().decompress(compressed, max_output_size=1000) is not None


# --- documents ------------------------------------------------------------------------------------


def test_documents() -> None:
    for data in (b"", b"{}", NOISE):
        sealed = seal.seal_document(data, RECIPIENTS)
        assert seal.open_document(sealed, IDENTITIES, limit=len(data)) == data
    with pytest.raises(IntegrityError, match="longer"):
        seal.open_document(sealed, IDENTITIES, limit=len(NOISE) - 1)
    with pytest.raises(IntegrityError):
        seal.open_document(sealed[:-1], IDENTITIES, limit=len(NOISE))
    with pytest.raises(NoKeyError):
        seal.open_document(sealed, Identities(), limit=len(NOISE))


def test_through_the_age_program(tmp_path: Path) -> None:
    needs("age", "ssh-keygen")
    key = tmp_path / "id"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=300
    )
    recipients = Recipients((key.with_suffix(".pub").read_text().strip(),))
    for plain in PLAINS.values():
        out = bytearray(seal.sealed_bound(len(plain), recipients))
        size = seal.seal_chunk(memoryview(plain), memoryview(out), recipients, level=3).size
        back = bytearray(len(plain))
        sealed, cut = memoryview(out[:size]), memoryview(out[: size - 1])
        assert seal.open_chunk(sealed, memoryview(back), Identities(files=(key,))) == len(plain)
        assert back == plain
        with pytest.raises((IntegrityError, KeysError)):
            seal.open_chunk(cut, memoryview(back), Identities(files=(key,)))
