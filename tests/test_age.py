"""The age format: against C2SP's vectors, the age program in both directions, and tampering."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import pickle
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsite import age
from offsite.age import Identities, Identity, Recipients, bech32, header, x25519
from offsite.errors import IntegrityError, KeysError, NoKeyError, OffsiteError

BLOCK = 64 * 1024
PIECES = 5000
CACHE = Path.home() / ".cache" / "offsite-lab"
VECTORS = "cctv-age-0.2.0"  # an npm package of C2SP
VECTORS_SHA512 = (
    "1fiGAaWr+snqgu8+uCC7qPeApAuueOESET2npKe0FVLY+Huf+Kkia89Rybx/uoGNCml31SgAjiQIeFOY4K3New=="
)

ALICE = Identity(b"a" * 32)
BOB = Identity(b"b" * 32)
MALLORY = Identity(b"m" * 32)
TO_ALICE = Recipients((ALICE.recipient,))


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (script/test installs it)")
    return found


def read(sealed: bytes, *identities: Identity) -> bytes:
    return b"".join(age.decrypt_stream((sealed,), Identities(identities)))


# --- C2SP's vectors -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vector:
    name: str
    expect: str
    payload: str | None
    identities: tuple[Identity, ...]
    file: bytes


@pytest.fixture(scope="session")
def vectors() -> list[Vector]:
    tarball = CACHE / f"{VECTORS}.tgz"
    if not tarball.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        package, _, version = VECTORS.rpartition("-")
        argv = [needs("npm"), "pack", f"{package}@{version}", "--pack-destination", str(CACHE)]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=300)
        if done.returncode:
            pytest.skip(f"C2SP's age vectors cannot be downloaded: {done.stderr.strip()[-300:]}")
    digest = hashlib.sha512(tarball.read_bytes()).digest()
    assert base64.b64encode(digest).decode() == VECTORS_SHA512, f"{tarball} is not the pinned one"
    with tarfile.open(tarball) as archive:
        member = archive.extractfile("package/index.js")
        assert member is not None
        script = member.read().decode()
    pattern = r'// \.\./testdata/(\S+)\nvar \w+ = __toBinary\("([^"]*)"\)'
    return [_vector(name, data) for name, data in re.findall(pattern, script)]


def _vector(name: str, encoded: str) -> Vector:
    head, _, file = base64.b64decode(encoded + "=" * (-len(encoded) % 4)).partition(b"\n\n")
    fields: dict[str, list[str]] = {}
    for line in head.decode().splitlines():
        key, _, value = line.partition(": ")
        fields.setdefault(key, []).append(value)
    if "compressed" in fields:
        file = zlib.decompress(file)
    lines = [line for line in fields.get("identity", ()) if "-PQ-" not in line]
    expect = fields["expect"][0]
    if (
        "passphrase" in fields
        or "armored" in fields
        or len(lines) < len(fields.get("identity", ()))
    ):
        expect = "failure or success"  # a type or an encoding that is not read in-process
    payload = fields.get("payload", [None])[0]
    return Vector(name, expect, payload, tuple(map(x25519.parse_identity, lines)), file)


def cut(data: bytes, length: int) -> Iterator[bytes]:
    """The data in pieces."""
    return (data[at : at + length] for at in range(0, len(data), length))


@pytest.mark.parametrize("length", [1 << 30, 1000, 7])
def test_vectors(vectors: list[Vector], length: int) -> None:
    """Also of a file that comes in pieces, cut anywhere; the long ones in not too many."""
    assert len(vectors) == 143
    for vector in vectors:
        plain, error = bytearray(), None
        pieces = cut(vector.file, max(length, len(vector.file) // PIECES))
        try:
            for piece in age.decrypt_stream(pieces, Identities(vector.identities)):
                plain += piece
        except OffsiteError as caught:
            error = caught
        expected: tuple[type[OffsiteError] | None, ...] = {
            "success": (None,),
            "no match": (NoKeyError,),
            "failure or success": (None, NoKeyError, IntegrityError),
        }.get(vector.expect, (IntegrityError,))
        assert (type(error) if error else None) in expected, vector.name
        if error is None:
            assert hashlib.sha256(plain).hexdigest() == vector.payload, vector.name
        else:  # we know where the file ends, so that we release less of it than the vectors allow
            assert len(plain) % BLOCK == 0, vector.name


# --- keys -----------------------------------------------------------------------------------------


def test_key_lines_of_the_specification() -> None:
    identity = Identity(b"B" * 32)
    secret = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"
    assert identity.secret_line() == secret
    assert identity.recipient == "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj"
    assert x25519.parse_identity(secret) == identity
    assert x25519.parse_recipient(identity.recipient) == identity.public


@given(st.text("abcdefg1", min_size=1, max_size=20), st.binary(max_size=100))
def test_bech32_round_trip(hrp: str, data: bytes) -> None:
    text = bech32.encode(hrp, data)
    assert bech32.decode(text) == (hrp, data)
    assert bech32.decode(text.upper()) == (hrp, data)


@given(st.binary(min_size=32, max_size=32), st.data())
def test_bech32_finds_every_wrong_character(data: bytes, draw: st.DataObject) -> None:
    text = bech32.encode("age", data)
    at = draw.draw(st.integers(4, len(text) - 1))
    other = draw.draw(
        st.sampled_from([c for c in "qpzry9x8gf2tvdw0s3jn54khce6mua7lQ1b" if c != text[at]])
    )
    with pytest.raises(ValueError, match=r"checksum|case|Bech32|human"):
        bech32.decode(text[:at] + other + text[at + 1 :])


@given(st.text(max_size=80))
def test_no_line_makes_the_parsers_fail_otherwise(line: str) -> None:
    with contextlib.suppress(KeysError):
        age.parse_recipients(line, "FILE")
    with contextlib.suppress(KeysError):
        age.parse_identities(line, Path("FILE"))


def test_recipients_file() -> None:
    text = f"# Alice\n\n{ALICE.recipient}\r\n  {BOB.recipient}  \n#end"
    recipients = age.parse_recipients(text, "FILE")
    assert recipients.lines == (ALICE.recipient, BOB.recipient)
    assert recipients.public_keys == (ALICE.public, BOB.public)
    assert pickle.loads(pickle.dumps(recipients)) == recipients  # noqa: S301 - our own


@pytest.mark.parametrize(
    "line",
    [
        ALICE.secret_line(),
        ALICE.secret_line().lower(),
        f"{ALICE.recipient} {ALICE.secret_line()}",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "AGE-PLUGIN-YUBIKEY-1QQQQQQ",
        ALICE.recipient[:-1] + ("q" if ALICE.recipient[-1] != "q" else "p"),
        ALICE.recipient.upper(),
        "ssh-dss AAAA",
        "-i/etc/shadow",
        "hunter2",
    ],
)
def test_wrong_recipient_lines_are_refused_and_not_echoed(line: str) -> None:
    with pytest.raises(KeysError) as direct:
        Recipients((line,))
    with pytest.raises(KeysError, match="FILE, line 2") as caught:
        age.parse_recipients(f"\n{line}\n", "FILE")
    for error in (direct.value, caught.value):
        assert line[:16] not in f"{error} {error.hint}"
        assert error.__cause__ is None


def test_nothing_is_sealed_to_nobody() -> None:
    with pytest.raises(KeysError):
        Recipients(())
    with pytest.raises(KeysError, match="FILE holds no recipient"):
        age.parse_recipients("# none\n", "FILE")


def test_a_low_order_recipient_is_refused() -> None:
    recipients = Recipients((bech32.encode("age", bytes(32)),))
    with pytest.raises(KeysError, match="low-order"):
        age.encrypt(b"data", recipients)


def test_identities_never_show_themselves() -> None:
    identities = Identities.of(Identities((ALICE,)), Identities((BOB,)))
    for text in (repr(identities), str(identities), repr(ALICE), f"{ALICE}"):
        assert "SECRET" not in text
        assert "aaaa" not in text
        assert ALICE.secret.hex() not in text
    assert pickle.loads(pickle.dumps(identities)) == identities  # noqa: S301 - our own


SECRET = ALICE.secret_line()


@pytest.mark.parametrize("line", [SECRET[:-1] + "B", SECRET.lower(), SECRET + "Q", SECRET[1:]])
def test_damaged_identity_lines_are_not_echoed(line: str) -> None:
    with pytest.raises(KeysError, match="FILE, line 1") as caught:
        age.parse_identities(line, Path("FILE"))
    assert line[16:] not in f"{caught.value!r} {caught.value.hint}"
    assert caught.value.__cause__ is None


# --- sealing and opening --------------------------------------------------------------------------

SIZES = [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 3 * BLOCK + 5]


@pytest.mark.parametrize("size", SIZES)
def test_bound_is_exact(size: int) -> None:
    both = Recipients((ALICE.recipient, BOB.recipient))
    sealed = age.encrypt(b"x" * size, both)
    assert len(sealed) == age.bound(size, both)
    assert read(sealed, BOB) == b"x" * size
    with pytest.raises(ValueError, match=r".*"):
        age.encrypt_stream([b"x" * size], memoryview(bytearray(len(sealed) - 1)), both)


@given(st.lists(st.binary(max_size=3).map(lambda seed: seed * 30_000), max_size=8))
def test_pieces_of_any_length_are_joined(pieces: list[bytes]) -> None:
    plain = b"".join(pieces)
    out = bytearray(age.bound(len(plain), TO_ALICE))
    assert age.encrypt_stream(pieces, memoryview(out), TO_ALICE) == len(out)
    opened = list(age.decrypt_stream((memoryview(out),), Identities((MALLORY, ALICE))))
    assert b"".join(opened) == plain
    assert all(len(piece) <= BLOCK for piece in opened)


def test_every_file_has_its_own_keys() -> None:
    first, second = (age.encrypt(bytes(BLOCK), TO_ALICE) for _ in range(2))
    matching = sum(a == b for a, b in zip(first[200:], second[200:], strict=True))
    assert matching < len(first) / 100


def test_wrong_identity() -> None:
    sealed = age.encrypt(b"data", TO_ALICE)
    for identities in (Identities(), Identities((MALLORY, BOB))):
        with pytest.raises(NoKeyError):
            age.decrypt(sealed, identities, limit=100)


def test_every_changed_byte_is_found() -> None:
    sealed = age.encrypt(b"some data", TO_ALICE)
    for at in range(len(sealed)):
        for mask in (1, 0x20, 0x80):
            damaged = bytearray(sealed)
            damaged[at] ^= mask
            with pytest.raises((IntegrityError, NoKeyError)):
                read(bytes(damaged), ALICE)


def test_every_length_of_a_short_file_is_found() -> None:
    sealed = age.encrypt(b"some data", TO_ALICE)
    for size in range(len(sealed)):
        with pytest.raises(IntegrityError):
            read(sealed[:size], ALICE)


@pytest.mark.parametrize("size", [BLOCK, 3 * BLOCK, 3 * BLOCK + 7])
def test_truncation_at_block_ends_and_additions_are_found(size: int) -> None:
    sealed = age.encrypt(b"x" * size, TO_ALICE)
    start = len(sealed) - age.bound(size, TO_ALICE) + age.bound(0, TO_ALICE) - 16
    for end in range(start, len(sealed), BLOCK + 16):
        for near in (end - 1, end, end + 1, end + 16, end + 17):
            if near < len(sealed):
                with pytest.raises(IntegrityError):
                    read(sealed[:near], ALICE)
    for tail in (b"\0", bytes(16), bytes(17), sealed[-16:], sealed[start:]):
        with pytest.raises(IntegrityError):
            read(sealed + tail, ALICE)


def test_swapped_blocks_are_found() -> None:
    sealed = age.encrypt(b"x" * (3 * BLOCK), TO_ALICE)
    start, step = age.bound(0, TO_ALICE) - 16, BLOCK + 16
    first, second = sealed[start : start + step], sealed[start + step : start + 2 * step]
    swapped = sealed[:start] + second + first + sealed[start + 2 * step :]
    assert len(swapped) == len(sealed)
    with pytest.raises(IntegrityError, match="block 0"):
        read(swapped, ALICE)


def test_an_endless_header_is_refused() -> None:
    line = b"-> X25519 " + b"A" * 43 + b"\n" + b"A" * 43 + b"\n"
    with pytest.raises(IntegrityError, match="longer"):
        read(b"age-encryption.org/v1\n" + line * 10_000, ALICE)
    with pytest.raises(IntegrityError, match="longer"):
        read(b"age-encryption.org/v1\n-> " + b"A" * 1_000_000, ALICE)


def test_a_passphrase_among_other_recipients_is_refused() -> None:
    stanzas = [x25519.wrap(bytes(16), ALICE.public), header.Stanza(("scrypt", "A", "1"), bytes(32))]
    with pytest.raises(IntegrityError, match="passphrase"):
        read(header.build(stanzas, bytes(16)) + bytes(32), ALICE)


@given(st.binary(max_size=300))
def test_no_header_makes_the_parser_fail_otherwise(tail: bytes) -> None:
    with contextlib.suppress(IntegrityError):
        header.parse(memoryview(b"age-encryption.org/v1\n-> " + tail))


def test_longer_than_the_limit() -> None:
    sealed = age.encrypt(b"x" * 1000, TO_ALICE)
    assert len(age.decrypt(sealed, Identities((ALICE,)), limit=1000)) == 1000
    with pytest.raises(IntegrityError, match="999"):
        age.decrypt(sealed, Identities((ALICE,)), limit=999)
