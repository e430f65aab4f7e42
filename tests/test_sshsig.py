"""SSH signatures: both ways with the real ssh-keygen, and against tampering."""

from __future__ import annotations

import base64
import contextlib
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from hypothesis import given
from hypothesis import strategies as st

from offsite import sshsig
from offsite.errors import IntegrityError

NAMESPACE = "offsite-manifest"
DATA = b'{"format":1}\n'
KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
PUBLIC = sshsig.public_line(KEY)
SIGNATURE = sshsig.sign(DATA, KEY, NAMESPACE)


def ssh_keygen(*argv: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("ssh-keygen is not installed (script/test installs openssh-client)")
    return subprocess.run(
        ["ssh-keygen", *argv], input=stdin, capture_output=True, check=False, timeout=300
    )


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    assert ssh_keygen("-q", "-t", "ed25519", "-N", "", "-C", "a host", "-f", path).returncode == 0
    return path


@pytest.mark.parametrize("data", [b"", DATA, b"x" * 1_000_000])
def test_ssh_keygen_verifies_what_we_sign(tmp_path: Path, data: bytes) -> None:
    signature, allowed = tmp_path / "signature", tmp_path / "allowed"
    signature.write_text(sshsig.sign(data, KEY, NAMESPACE))
    allowed.write_text(f'offsite namespaces="{NAMESPACE}" {PUBLIC} host\n')
    argv = ("-Y", "verify", "-f", allowed, "-I", "offsite", "-s", signature)
    done = ssh_keygen(*argv, "-n", NAMESPACE, stdin=data)
    assert done.returncode == 0, done.stderr
    assert ssh_keygen(*argv, "-n", NAMESPACE, stdin=data + b"x").returncode != 0
    assert ssh_keygen(*argv, "-n", "file", stdin=data).returncode != 0


@pytest.mark.parametrize("data", [b"", DATA, b"x" * 1_000_000])
def test_we_verify_what_ssh_keygen_signs(key_file: Path, data: bytes) -> None:
    argv = ("-Y", "sign", "-f", key_file, "-n", NAMESPACE)
    armored = ssh_keygen(*argv, stdin=data).stdout.decode()
    public, comment = sshsig.parse_public_line(key_file.with_suffix(".pub").read_text())
    assert comment == "a host"
    assert sshsig.verify(data, armored, NAMESPACE) == public
    key = load_ssh_private_key(key_file.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    assert sshsig.sign(data, key, NAMESPACE) == armored  # Ed25519 is deterministic


def test_fingerprint_is_that_of_ssh_keygen(key_file: Path) -> None:
    listed = ssh_keygen("-l", "-f", key_file).stdout.decode().split()[1]
    assert sshsig.fingerprint(key_file.with_suffix(".pub").read_text()) == listed


def test_signatures_of_other_kinds_are_refused(tmp_path: Path, key_file: Path) -> None:
    argv = ("-Y", "sign", "-n", NAMESPACE)
    sha256 = ssh_keygen(*argv, "-f", key_file, "-O", "hashalg=sha256", stdin=DATA).stdout.decode()
    with pytest.raises(IntegrityError, match="SHA-512"):
        sshsig.verify(DATA, sha256, NAMESPACE)
    for kind in ("rsa", "ecdsa"):
        path = tmp_path / kind
        ssh_keygen("-q", "-t", kind, "-N", "", "-f", path)
        armored = ssh_keygen(*argv, "-f", path, stdin=DATA).stdout.decode()
        with pytest.raises(IntegrityError, match="Ed25519"):
            sshsig.verify(DATA, armored, NAMESPACE)


def test_changed_data_and_namespace() -> None:
    assert sshsig.verify(DATA, SIGNATURE, NAMESPACE) == PUBLIC
    with pytest.raises(IntegrityError, match="changed"):
        sshsig.verify(DATA + b" ", SIGNATURE, NAMESPACE)
    with pytest.raises(IntegrityError, match="offsite-index"):
        sshsig.verify(DATA, SIGNATURE, "offsite-index")


def armor(blob: bytes) -> str:
    lines = base64.encodebytes(blob).decode()
    return f"-----BEGIN SSH SIGNATURE-----\n{lines}-----END SSH SIGNATURE-----\n"


BLOB = base64.b64decode("".join(SIGNATURE.splitlines()[1:-1]))


@pytest.mark.parametrize("at", range(len(BLOB)))
def test_every_changed_byte_is_found(at: int) -> None:
    for mask in (1, 0x40, 0xFF):
        damaged = bytearray(BLOB)
        damaged[at] ^= mask
        with pytest.raises(IntegrityError):
            sshsig.verify(DATA, armor(bytes(damaged)), NAMESPACE)


def test_truncation_and_additions_are_found() -> None:
    assert sshsig.verify(DATA, armor(BLOB), NAMESPACE) == PUBLIC
    for size in range(len(BLOB)):
        with pytest.raises(IntegrityError):
            sshsig.verify(DATA, armor(BLOB[:size]), NAMESPACE)
    for armored in (
        armor(BLOB + b"\0"),
        SIGNATURE + "x",
        "x" + SIGNATURE,
        SIGNATURE + SIGNATURE,
        SIGNATURE.replace("U1NI", "U1N\u00e9", 1),
        SIGNATURE.replace("\n", "\n\n" * 3000, 1),
        "",
    ):
        with pytest.raises(IntegrityError):
            sshsig.verify(DATA, armored, NAMESPACE)


@given(st.binary(max_size=300))
def test_no_blob_makes_the_parser_fail_otherwise(tail: bytes) -> None:
    for blob in (tail, b"SSHSIG\0\0\0\1" + tail, BLOB[:60] + tail):
        with pytest.raises(IntegrityError):
            sshsig.verify(DATA, armor(blob), NAMESPACE)


@given(st.text(max_size=100))
def test_public_lines(text: str) -> None:
    for line in (text, f"ssh-ed25519 {text}", f"{PUBLIC[:-3]}{text}"):
        with contextlib.suppress(ValueError):
            assert sshsig.parse_public_line(line)[0].startswith("ssh-ed25519 AAAA")
    assert sshsig.parse_public_line(f"  {PUBLIC}  my host \n") == (PUBLIC, "my host")
