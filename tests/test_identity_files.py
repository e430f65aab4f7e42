"""A restore on a new machine, with nothing but the identity file: as editors and users leave it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offsite import age, config
from tests.programs import needs
from tests.terminal import on_terminal
from tests.test_commands import MONDAY, STREAM, home_of_two
from tests.whole import DATASET, TARGET, Home

OTHERS = [age.generate_identity() for _ in range(3)]
SECRETS = [one.secret_line() for one in OTHERS]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """With a backup; the keys that only the old machine had are gone."""
    with home_of_two(tmp_path_factory.mktemp("moved")) as made:
        assert made.offsite("--backup", MONDAY).status == 0
        settings = config.load(made.environment(made.folder))
        settings.catalog_key_file.unlink()
        settings.allowed_signers_file.unlink()
        settings.signing_key_file.unlink()
        yield made


def identity(home: Home) -> Path:
    return config.load(home.environment(home.folder)).identity_file


def crlf(text: str) -> str:
    return text.replace("\n", "\r\n")


def spread(text: str) -> str:
    """Blank lines, comments of the user's, and everything indented."""
    lines = "\n\n".join(f"  \t{line}  " for line in text.splitlines())
    return f"\n# the key of the old NAS: age1…\n#\n{lines}\n   # end"


LEFT: dict[str, Callable[[str], str]] = {
    "CRLF": crlf,
    "no line end": str.rstrip,
    "blank lines and comments": spread,
    "a byte order mark": lambda text: "\ufeff" + text,
    "as a Windows editor has it": lambda text: "\ufeff" + crlf(spread(text)),
    "redirected in PowerShell": crlf,
    "the last of several": lambda text: "\n".join([*SECRETS, text]),
    "the first of several": lambda text: "\n".join([text, *SECRETS]),
    "among several, twice, CRLF": lambda text: crlf(
        "\n".join([SECRETS[0], text, text, SECRETS[1]])
    ),
}


@pytest.mark.parametrize("kind", LEFT)
def test_it_opens_the_backup(home: Home, kind: str) -> None:
    path = identity(home)
    before = path.read_bytes()
    try:
        encoding = "utf-16" if kind == "redirected in PowerShell" else "utf-8"
        path.write_bytes(LEFT[kind](before.decode()).encode(encoding))
        ran = home.offsite("--restore", MONDAY, "--as", TARGET)
        assert (ran.status, home.received) == (0, STREAM), ran
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize("answer", ["correct horse", "wrong"])
def test_it_is_behind_a_passphrase(home: Home, tmp_path: Path, answer: str) -> None:
    """With others, as a Windows editor left them: asked once, before the first byte."""
    needs("age")
    path = identity(home)
    before = path.read_bytes()
    locked, words = tmp_path / "locked", [b"correct horse"] * 2
    try:
        path.write_bytes(crlf("\n".join([*SECRETS, before.decode()])).encode())
        status, output = on_terminal(["age", "-p", "-o", str(locked), str(path)], words)
        assert status == 0, output
        path.write_bytes(locked.read_bytes())
        home.forget()
        argv = [sys.executable, "-m", "offsite", "--restore", MONDAY, "--as", TARGET]
        status, output = on_terminal(argv, [answer.encode()])
    finally:
        path.write_bytes(before)
    assert output.count("Enter passphrase") == 1, output
    assert "AGE-SECRET" not in output.upper()
    if answer == "wrong":
        assert (status, home.calls("receive")) == (2, [])
        assert "did not open it" in output
    else:
        assert (status, home.received) == (0, STREAM), output


def test_several_of_which_none_opens_it(home: Home) -> None:
    """Told before the first byte, and no key is shown."""
    path = identity(home)
    before = path.read_bytes()
    comment = b"".join(line for line in before.splitlines(True) if line.startswith(b"#"))
    try:
        path.write_bytes(comment + "\r\n".join(SECRETS).encode())
        ran = home.offsite("--restore", MONDAY, "--as", TARGET)
    finally:
        path.write_bytes(before)
    assert (ran.status, home.received) == (2, None)
    assert "no key here opens them" in ran.stderr
    assert "AGE_PRIVATE_KEY_FILE" in ran.stderr
    assert "AGE-SECRET" not in ran.stderr.upper()


def test_what_was_received_is_another_snapshot(home: Home) -> None:
    """By its guid: whatever zfs made of a stream that was right. It stays marked as unfinished."""
    home.snapshot("monday", STREAM, guid=78)
    try:
        ran = home.offsite("--restore", MONDAY, "--as", TARGET)
    finally:
        home.snapshot("monday", STREAM, guid=77)
    assert ran.status == 1, ran
    assert f"{TARGET}@monday was received, but it is not the snapshot backed up" in ran.stderr
    assert f"zfs destroy -r {TARGET}" in ran.stderr
    assert home.calls("inherit") == []


REPLACE = ("--restore", MONDAY, "--replace")
BESIDE = f"{DATASET}-restoring"


@contextmanager
def replaceable(home: Home) -> Iterator[None]:
    """Where the dataset is there, what is received goes beside it."""
    program = home.folder / "zfs"
    before, first = program.read_text(), '"list -t snapshot,'
    own = (
        f'"list -t snapshot "*" {DATASET}") name={MONDAY}; snapshot monday ;;\n'
        f'"list -r "*" {DATASET}") echo {DATASET} ;;\n'
    )
    program.write_text(before.replace(TARGET, BESIDE).replace(first, own + first))
    try:
        yield
    finally:
        program.write_text(before)


def test_what_was_received_as_another_snapshot_takes_nobody_s_place(home: Home) -> None:
    """The dataset that is to be replaced keeps its name, and all that it has."""
    home.snapshot("monday", STREAM, guid=78)
    try:
        with replaceable(home):
            ran = home.offsite(*REPLACE, "--yes")
    finally:
        home.snapshot("monday", STREAM, guid=77)
    assert ran.status == 1, ran
    assert f"{BESIDE}@monday was received, but it is not the snapshot backed up" in ran.stderr
    assert home.received == STREAM
    assert home.calls("rename") == []


@pytest.mark.parametrize("answer", ["n", "", "y"])
def test_who_sits_at_the_terminal_is_asked_before_a_dataset_is_replaced(
    home: Home, answer: str
) -> None:
    home.forget()
    with replaceable(home):
        command = [sys.executable, "-m", "offsite", *REPLACE]
        status, told = on_terminal(command, [answer.encode()])
    assert told.count(f"takes the place of {DATASET}, which is kept as") == 1, told
    renamed = [line.split()[-1] for line in home.calls("rename")]
    if answer == "y":
        assert (status, home.received) == (0, STREAM), told
        assert renamed[1:] == [DATASET]
        assert renamed[0].startswith(f"{DATASET}-before-restore-2")
    else:
        assert (status, home.received, renamed) == (1, None, []), told
        assert f"{DATASET} is not replaced; nothing was changed" in told
