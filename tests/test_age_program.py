"""Together with the age program: both directions, the key types it alone knows, its failures."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator
from pathlib import Path

import pytest

from offsite import age
from offsite.age import Identities, Recipients, program
from offsite.errors import ConfigError, IntegrityError, KeysError, NoKeyError
from tests.programs import needs

BLOCK = 64 * 1024
PLAIN = os.urandom(BLOCK) * 3 + b"the end"


def run(*argv: str | Path, stdin: bytes = b"") -> bytes:
    needs(str(argv[0]))
    done = subprocess.run(argv, input=stdin, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def age_key(tmp_path: Path) -> Path:
    path = tmp_path / "age.txt"
    run("age-keygen", "-o", path)
    return path


def ssh_key(path: Path, kind: str = "ed25519", passphrase: str = "") -> str:
    """Make a key; its public line."""
    run("ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-C", "some comment", "-f", path)
    return path.with_suffix(".pub").read_text().strip()


def test_age_opens_what_we_seal(tmp_path: Path) -> None:
    identity, other = age.generate_identity(), age.generate_identity()
    recipients = Recipients((other.recipient, identity.recipient))
    key = tmp_path / "key.txt"
    key.write_text(identity.secret_line() + "\n")
    assert run("age-keygen", "-y", key).decode().strip() == identity.recipient
    for size in (0, 1, BLOCK, len(PLAIN)):
        sealed = age.encrypt(PLAIN[:size], recipients)
        assert run("age", "-d", "-i", key, stdin=sealed) == PLAIN[:size]


def test_we_open_what_age_seals(age_key: Path) -> None:
    identities = age.parse_identities(age_key.read_text(), age_key)
    recipient = run("age-keygen", "-y", age_key).decode().strip()
    assert identities.native[0].recipient == recipient
    assert identities.files == ()
    other = age.generate_identity().recipient
    for size in (0, 1, BLOCK, len(PLAIN)):
        sealed = run("age", "-r", other, "-r", recipient, stdin=PLAIN[:size])
        assert age.decrypt(sealed, identities, limit=len(PLAIN)) == PLAIN[:size]


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
@pytest.mark.parametrize("size", [0, len(PLAIN)])
def test_ssh_keys(tmp_path: Path, kind: str, size: int) -> None:
    public = ssh_key(tmp_path / "id", kind)
    native = age.generate_identity()
    recipients = age.parse_recipients(f"{public}\n{native.recipient}\n", "FILE")
    assert recipients.public_keys is None
    pieces = [PLAIN[:size][at : at + 10_000] for at in range(0, size, 10_000)]
    out = bytearray(age.bound(size, recipients))
    sealed = bytes(out[: age.encrypt_stream(pieces, memoryview(out), recipients)])
    ssh = age.parse_identities((tmp_path / "id").read_text(), tmp_path / "id")
    assert ssh == Identities(files=(tmp_path / "id",))
    for identities in (ssh, Identities((native,)), Identities.of(ssh, Identities((native,)))):
        assert age.decrypt(sealed, identities, limit=size) == PLAIN[:size]
    with pytest.raises(IntegrityError):
        age.decrypt(sealed[:-1], ssh, limit=len(PLAIN))


def test_wrong_ssh_key(tmp_path: Path) -> None:
    public = ssh_key(tmp_path / "id")
    ssh_key(tmp_path / "other")
    sealed = age.encrypt(PLAIN, Recipients((public,)))
    for identities in (
        Identities(files=(tmp_path / "other",)),
        Identities((age.generate_identity(),)),
    ):
        with pytest.raises(NoKeyError):
            age.decrypt(sealed, identities, limit=len(PLAIN))


def test_recipients_that_age_refuses() -> None:
    needs("age")
    recipients = Recipients(("ssh-ed25519 AAAA",))
    with pytest.raises(KeysError, match=r"age cannot seal .*malformed"):
        age.encrypt(PLAIN * 100, recipients)


def test_a_consumer_that_stops_leaves_no_process(tmp_path: Path) -> None:
    public = ssh_key(tmp_path / "id")
    sealed = age.encrypt(PLAIN * 100, Recipients((public,)))
    before = children()  # storage servers of other tests may be running
    pieces = age.decrypt_stream((sealed,), Identities(files=(tmp_path / "id",)))
    assert isinstance(pieces, Generator)
    assert PLAIN.startswith(next(pieces))
    assert children() - before
    pieces.close()
    assert not children() - before  # of those, any may have ended meanwhile


def children() -> set[str]:
    """The pids of this process's own children, zombies included."""
    return set(Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split())


# --- an age that is missing, or does not do what it should ----------------------------------------

SSH_LINE = "ssh-ed25519 AAAA"


def fake_age(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    path = folder / "age"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_age_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="not found") as caught:
        age.encrypt(b"data", Recipients((SSH_LINE,)))
    assert caught.value.hint == program.MISSING


@pytest.mark.parametrize(
    "script",
    [
        "head -c 1000",
        "exec <&-; echo sealed",
        "cat; exit 3",
        "cat; kill -9 $$",
        "cat; echo oops >&2; false",
    ],
)
def test_an_age_that_ends_early_never_makes_a_short_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    fake_age(tmp_path, monkeypatch, script)
    with pytest.raises(KeysError, match=r"exit status|oops"):
        age.encrypt(PLAIN * 10, Recipients((SSH_LINE,)))


def test_an_age_that_waits_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_age(tmp_path, monkeypatch, "exec sleep 300")
    monkeypatch.setattr(program, "_STALLED", 0.2)
    with pytest.raises(KeysError, match="no answer"):
        age.encrypt(PLAIN * 10, Recipients((SSH_LINE,)))


def test_an_age_that_says_more_than_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_age(tmp_path, monkeypatch, "cat; head -c 1000000 /dev/zero")
    with pytest.raises(KeysError, match="longer file"):
        age.encrypt(PLAIN, Recipients((SSH_LINE,)))
