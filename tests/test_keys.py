"""The keys of a host: made as the stock tools expect, kept, refused, proven; never shown."""

from __future__ import annotations

import base64
import contextlib
import functools
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

import offsite
from offsite import age, keys, sshsig
from offsite.config import Config, load
from offsite.errors import KeysError, OffsiteError
from offsite.keys import files, signers
from offsite.keys.load import vouchers_file
from tests.programs import needs
from tests.terminal import on_terminal

VOUCHERS = "vouchers for the signing key"


@pytest.fixture
def config(tmp_path: Path) -> Config:
    home = tmp_path / "home"
    home.mkdir()
    return load({"HOME": str(home), "RCLONE_REMOTE": "remote:bucket"})


def secrets_of(config: Config) -> list[str]:
    """What must never be seen: the identities' lines, and the signing key's seed as filed."""
    lines = config.identity_file.read_text() + config.catalog_key_file.read_text()
    identities = [line for line in lines.splitlines() if line.startswith("AGE-SECRET-KEY-")]
    blob = base64.b64decode("".join(config.signing_key_file.read_text().splitlines()[1:-1]))
    at = blob.index(keys.load_signing_key(config).private_bytes_raw())
    whole = slice(-(-at // 3) * 3, (at + 32) // 3 * 3)  # base64 goes by threes
    return [*identities, base64.b64encode(blob[whole]).decode()]


def snapshot(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


# --- init -----------------------------------------------------------------------------------------


def test_initialise_makes_everything(config: Config) -> None:
    done = keys.initialise(config)
    assert [item.created for item in done] == [True] * 7
    for item in done:
        private = item.kind in {"age identity", "catalog key", "signing key"}
        assert stat.S_IMODE(item.path.stat().st_mode) == (0o600 if private else 0o644)
        assert stat.S_IMODE(item.path.parent.stat().st_mode) == 0o700
    assert not [path for path in config.identity_file.parent.iterdir() if ".tmp" in path.name]
    assert len(keys.check(config)) == 5
    assert not [secret for secret in secrets_of(config) if secret in repr(done)]


def test_initialise_twice_changes_nothing(config: Config, tmp_path: Path) -> None:
    keys.initialise(config)
    before = snapshot(tmp_path)
    done = keys.initialise(config)
    assert snapshot(tmp_path) == before
    assert not [item for item in done if item.created or item.note]


def test_stock_tools_read_what_we_make(config: Config, tmp_path: Path) -> None:
    needs("age-keygen", "ssh-keygen", "age")
    keys.initialise(config)

    def out(*argv: str | Path, stdin: bytes = b"") -> str:
        done = subprocess.run(argv, input=stdin, capture_output=True, check=True, timeout=300)
        return done.stdout.decode()

    recipient = out("age-keygen", "-y", config.identity_file).strip()
    assert config.recipients_file.read_text().split() == [recipient]
    assert f"# public key: {recipient}\n" in config.identity_file.read_text()
    assert out("age-keygen", "-y", config.catalog_key_file).strip() == keys.catalog_recipient(
        config
    )
    public = out("ssh-keygen", "-y", "-f", config.signing_key_file).strip()
    assert public == sshsig.public_line(keys.load_signing_key(config))
    pub = config.signing_key_file.with_name("signing.key.pub")
    assert pub.read_text().startswith(public)
    argv = ("ssh-keygen", "-Y", "sign", "-f", config.signing_key_file, "-n", "offsite-index")
    (tmp_path / "sig").write_text(out(*argv, stdin=b"data"))
    argv = ("ssh-keygen", "-Y", "verify", "-f", config.allowed_signers_file, "-I", "offsite")
    assert "Good" in out(*argv, "-n", "offsite-index", "-s", tmp_path / "sig", stdin=b"data")


def test_recipients_without_identity_are_enough(config: Config) -> None:
    config.recipients_file.parent.mkdir(parents=True)
    config.recipients_file.write_text(age.generate_identity().recipient)
    done = {item.kind: item for item in keys.initialise(config)}
    assert not config.identity_file.exists()
    assert "restore" in done["age identity"].note
    assert "offsite keys vouch, with that at hand" in done[VOUCHERS].note
    assert str(config.allowed_signers_file) in done[VOUCHERS].note
    assert "needed to restore" in "\n".join(keys.check(config))
    with pytest.raises(KeysError, match="no such key file") as raised:
        keys.load_identities(config)
    assert "put the identity that you kept there, or name it in AGE_PRIV" in str(raised.value.hint)
    assert "init" not in str(raised.value.hint)  # a new one would open nothing


def test_an_existing_identity_is_kept_and_its_recipients_derived(config: Config) -> None:
    identity = age.generate_identity()
    config.identity_file.parent.mkdir(parents=True)
    config.identity_file.write_text(identity.secret_line())
    config.identity_file.chmod(0o600)
    done = {item.kind: item for item in keys.initialise(config)}
    assert config.identity_file.read_text() == identity.secret_line()
    assert done[VOUCHERS].created
    assert keys.load_recipients(config).lines == (identity.recipient,)
    keys.check(config)


def test_an_identity_that_comes_later_than_the_recipients(config: Config) -> None:
    """Whoever brings the old one to a new machine after its keys were made."""
    keys.initialise(config)
    old = age.generate_identity()
    config.identity_file.write_text(old.secret_line())
    done = {item.kind: item for item in keys.initialise(config)}
    note = done["age identity"].note
    assert f"{config.identity_file} opens nothing that is backed up from here" in note
    assert f"not in {config.recipients_file}. Move that away and run this again" in note
    config.recipients_file.rename(config.recipients_file.with_suffix(".away"))
    done = {item.kind: item for item in keys.initialise(config)}
    assert done["age identity"].note == ""
    assert keys.stranger(config) is None
    keys.check(config)


def test_an_ssh_identity_does_not_tell_its_recipients(config: Config) -> None:
    needs("ssh-keygen", "age")
    config.identity_file.parent.mkdir(parents=True)
    argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(config.identity_file)]
    subprocess.run(argv, check=True, timeout=300)
    with pytest.raises(KeysError, match="does not tell"):
        keys.initialise(config)
    config.recipients_file.unlink(missing_ok=True)
    shutil.copy(f"{config.identity_file}.pub", config.recipients_file)
    done = {item.kind: item for item in keys.initialise(config)}
    assert str(config.allowed_signers_file) in done[VOUCHERS].note
    keys.check(config)
    with pytest.raises(KeysError, match=r"only X25519 identities .* can vouch"):
        keys.vouch(config)
    subprocess.run(
        ["ssh-keygen", "-q", "-p", "-N", "secret", "-f", *argv[-1:]], check=True, timeout=300
    )
    assert keys.stranger(config) is None
    with pytest.raises(KeysError, match="passphrase"):
        keys.load_identities(config)
    assert not [item for item in keys.initialise(config) if item.created]


def test_another_hosts_allowed_signers_are_extended(config: Config) -> None:
    other = signers.Signer(sshsig.public_line(Ed25519PrivateKey.generate()), "other")
    config.allowed_signers_file.parent.mkdir(parents=True)
    config.allowed_signers_file.write_text(signers.allowed_line(other).rstrip("\n"))
    config.allowed_signers_file.chmod(0o640)
    done = {item.kind: item for item in keys.initialise(config)}
    assert "added" in done["allowed signers"].note
    assert [signer.label == "other" for signer in keys.load_trust(config).allowed] == [True, False]
    assert stat.S_IMODE(config.allowed_signers_file.stat().st_mode) == 0o640


def test_folders_that_cannot_be_made(config: Config, tmp_path: Path) -> None:
    (tmp_path / "home" / ".config").write_text("a file")
    with pytest.raises(KeysError, match="cannot write"):
        keys.initialise(config)


def test_create_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "key"
    assert files.create(path, "first", private=True)
    assert not files.create(path, "second", private=True)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


# --- refusals -------------------------------------------------------------------------------------

LOADERS: dict[str, Callable[[Config], object]] = {
    "identity_file": keys.load_identities,
    "catalog_key_file": keys.load_catalog,
    "signing_key_file": keys.load_signing_key,
}


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o644, 0o601])
def test_private_files_that_others_may_use(config: Config, name: str, mode: int) -> None:
    keys.initialise(config)
    path = getattr(config, name)
    path.chmod(mode)
    for use in (LOADERS[name], keys.check, keys.show, keys.initialise):
        with pytest.raises(KeysError, match=str(path)) as caught:
            use(config)
        assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
@pytest.mark.parametrize("name", LOADERS)
def test_private_files_of_another_user(
    config: Config, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys.initialise(config)
    path = getattr(config, name)
    os.chown(path, 12345, -1)
    LOADERS[name](config)  # root may use anybody's
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(KeysError, match="another user"):
        LOADERS[name](config)


@pytest.mark.parametrize("name", ["recipients_file", "allowed_signers_file"])
def test_public_files_that_anyone_may_write(config: Config, name: str) -> None:
    keys.initialise(config)
    path = getattr(config, name)
    path.chmod(0o666)
    with pytest.raises(KeysError, match="changed by anyone"):
        keys.check(config)


@pytest.mark.parametrize("name", [*LOADERS, "recipients_file", "allowed_signers_file"])
@pytest.mark.parametrize("content", [b"\xff\x00hunter2", b"offsite hunter2", b"x" * (2 << 20)])
def test_nonsense_is_refused_and_not_echoed(config: Config, name: str, content: bytes) -> None:
    keys.initialise(config)
    getattr(config, name).write_bytes(content)
    with pytest.raises(KeysError) as caught:
        keys.check(config)
    assert "hunter2" not in f"{caught.value!r} {caught.value.hint} {caught.value.__cause__!r}"


@pytest.mark.parametrize("name", [*LOADERS, "recipients_file"])
@pytest.mark.parametrize("content", [b"", b"# comment\n", b"hunter2", b"AGE-SECRET-KEY-1HUNTER2"])
def test_files_without_a_key_are_refused(config: Config, name: str, content: bytes) -> None:
    test_nonsense_is_refused_and_not_echoed(config, name, content)


@pytest.mark.parametrize("name", LOADERS)
def test_what_is_not_a_file(config: Config, name: str) -> None:
    keys.initialise(config)
    path = getattr(config, name)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises(KeysError):
        LOADERS[name](config)
    path.rmdir()
    os.mkfifo(path, 0o600)
    with pytest.raises(KeysError, match="not a file"):
        LOADERS[name](config)


def test_folders_we_may_not_look_into(config: Config, request: pytest.FixtureRequest) -> None:
    keys.initialise(config)
    for folder in (config.identity_file.parent, config.signing_key_file.parent):
        folder.chmod(0)
        request.addfinalizer(functools.partial(folder.chmod, 0o700))
    if os.geteuid() == 0:
        request.addfinalizer(lambda: os.seteuid(0))
        os.seteuid(54321)  # root may look into everything
    for use in (*LOADERS.values(), keys.load_recipients, keys.load_trust, keys.show):
        with pytest.raises(KeysError, match="cannot read"):
            use(config)


def test_a_private_key_where_a_public_one_belongs(config: Config) -> None:
    keys.initialise(config)
    for private in (config.identity_file, config.signing_key_file):
        secret = private.read_text()
        config.recipients_file.write_text(secret)
        with pytest.raises(KeysError, match=rf"{config.recipients_file}, line \d: holds a private"):
            keys.load_recipients(config)


def test_no_error_shows_a_secret(config: Config) -> None:
    keys.initialise(config)
    secrets = secrets_of(config)
    assert len(secrets) == 3
    paths = [
        config.identity_file, config.catalog_key_file, config.signing_key_file,
        config.recipients_file, config.allowed_signers_file,
    ]  # fmt: skip
    originals = {path: path.read_bytes() for path in paths}
    shown = []
    for target in paths:
        for source in paths:
            for cut in (0, 1):
                target.write_bytes(originals[source][: len(originals[source]) - cut * 5])
                for use in (keys.check, keys.show, keys.initialise, *LOADERS.values()):
                    try:
                        shown.append(repr(use(config)))
                    except OffsiteError as error:
                        shown.append(f"{error!r} {error.hint} {error.__cause__!r}")
        for path, data in originals.items():
            path.write_bytes(data)
    text = "".join(shown).replace("\\n", "").replace("\n", "")
    for secret in secrets:
        assert not [at for at in range(17, len(secret) - 12) if secret[at : at + 12] in text]


# --- check and show -------------------------------------------------------------------------------


def test_check_finds_what_does_not_fit(config: Config) -> None:
    keys.initialise(config)
    config.recipients_file.write_text(age.generate_identity().recipient)
    with pytest.raises(KeysError, match="does not open"):
        keys.check(config)
    config.identity_file.unlink()
    keys.check(config)
    config.allowed_signers_file.write_text("")
    with pytest.raises(KeysError, match="not trusted"):
        keys.check(config)
    config.catalog_key_file.unlink()
    with pytest.raises(KeysError, match="no catalog key"):
        keys.check(config)
    config.recipients_file.unlink()
    with pytest.raises(KeysError, match="no such key file"):
        keys.check(config)


def test_show(config: Config) -> None:
    assert not [shown for shown in keys.show(config) if shown.public]
    keys.initialise(config)
    shown = {item.kind: item.public for item in keys.show(config)}
    assert shown["age recipients"] == shown["age identity"] == keys.load_recipients(config).lines
    assert shown["signing key"][1].startswith("SHA256:")
    assert shown["allowed signers"][0].startswith(shown["signing key"][1])
    assert not [secret for secret in secrets_of(config) if secret in repr(shown)]


# --- signers --------------------------------------------------------------------------------------

PUBLIC = sshsig.public_line(Ed25519PrivateKey.from_private_bytes(b"s" * 32))


@pytest.mark.parametrize(
    ("line", "label"),
    [
        (f"offsite {PUBLIC} nas", "nas"),
        (f'offsite namespaces="offsite-manifest" {PUBLIC} my nas', "my nas"),
        (f'offsite namespaces="git,offsite-manifest" {PUBLIC}', ""),
        (f'"bob,offsite" {PUBLIC} nas', "nas"),
        (f"bob,offsite\t{PUBLIC} nas", "nas"),
        (f"bob {PUBLIC} nas", None),
        (f'offsite namespaces="git" {PUBLIC} nas', None),
        (f'offsite namespaces="xoffsite-manifest" {PUBLIC} nas', None),
        (f"# offsite {PUBLIC} nas", None),
        ("bob ssh-rsa AAAA nas", None),
    ],
)
def test_allowed_signers(line: str, label: str | None) -> None:
    found = list(signers.parse_allowed(f"\n# comment\n  {line}\n", "FILE"))
    assert found == ([] if label is None else [signers.Signer(PUBLIC, label)])


@pytest.mark.parametrize(
    "line",
    [
        f"offsite cert-authority {PUBLIC} nas",
        f'offsite valid-before="20200101" {PUBLIC} nas',
        f'offsite namespaces="offsite-manifest",valid-before="20200101" {PUBLIC} nas',
        "offsite ssh-rsa AAAA nas",
        "offsite ssh-ed25519 AAAA nas",
        "offsite",
    ],
)
def test_allowed_signers_that_say_more_than_we_understand(line: str) -> None:
    with pytest.raises(KeysError, match="FILE, line 2"):
        list(signers.parse_allowed(f"\n{line}", "FILE"))


@given(st.text(max_size=60))
def test_no_signer_line_fails_otherwise(text: str) -> None:
    for line in (text, f"offsite {text}", f"offsite {text} {PUBLIC}"):
        with contextlib.suppress(KeysError):
            list(signers.parse_allowed(line, "FILE"))
        with contextlib.suppress(KeysError):
            list(signers.parse_revoked(line, "FILE"))


@pytest.mark.parametrize("before", ["\ufeff", "\ufeff \r\n"])
def test_files_with_a_byte_order_mark(config: Config, before: str) -> None:
    keys.initialise(config)
    load_all: tuple[Callable[[Config], object], ...] = (
        keys.load_recipients,
        keys.load_identities,
        keys.load_catalog,
        keys.load_signing_key,
        keys.load_trust,
    )
    plain = [load_one(config) for load_one in load_all]
    for path in (
        config.recipients_file,
        config.identity_file,
        config.catalog_key_file,
        config.signing_key_file,
        config.allowed_signers_file,
    ):
        path.write_bytes((before + path.read_text()).replace("\n", "\r\n").encode())
    for load_one, expected in zip(load_all, plain, strict=True):
        found = load_one(config)
        if isinstance(found, Ed25519PrivateKey) and isinstance(expected, Ed25519PrivateKey):
            assert found.private_bytes_raw() == expected.private_bytes_raw()
        else:
            assert found == expected


# --- an identity behind a passphrase --------------------------------------------------------------


SCRIPT = f"""
import sys
sys.path.insert(0, {str(Path(offsite.__file__).parents[1])!r})
from offsite import keys
from offsite.config import load
from offsite.errors import OffsiteError
config = load({{"HOME": sys.argv[1], "RCLONE_REMOTE": "remote:bucket"}})
try:
    print("OPENED", keys.load_identities(config).native, len(keys.load_trust(config).vouching))
    print("AGAIN", keys.load_identities(config).native, len(keys.load_trust(config).vouching))
except OffsiteError as error:
    print("REFUSED", error, error.hint)
"""


@pytest.fixture
def locked(config: Config, tmp_path: Path) -> Config:
    needs("age")
    keys.initialise(config)
    config.identity_file.write_text("\ufeff" + config.identity_file.read_text())
    argv = ["age", "-p", "-o", str(tmp_path / "locked"), str(config.identity_file)]
    status, output = on_terminal(argv, [b"correct horse", b"correct horse"])
    assert status == 0, output
    (tmp_path / "locked").replace(config.identity_file)
    config.identity_file.chmod(0o600)
    config.allowed_signers_file.unlink()
    return config


@pytest.mark.parametrize("allowed", ["", f"offsite {PUBLIC} nas"])
def test_the_passphrase_is_asked_once(locked: Config, allowed: str) -> None:
    locked.allowed_signers_file.write_text(allowed)
    home = str(locked.identity_file.parents[2])
    recipient = locked.recipients_file.read_text().strip()
    status, output = on_terminal([sys.executable, "-c", SCRIPT, home], [b"correct horse"])
    assert status == 0, output
    assert f"OPENED (Identity({recipient}),) 1" in output
    assert f"AGAIN (Identity({recipient}),) 1" in output
    assert output.count("passphrase") == 1
    assert "AGE-SECRET" not in output


def test_a_wrong_passphrase(locked: Config) -> None:
    home = str(locked.identity_file.parents[2])
    _, output = on_terminal([sys.executable, "-c", SCRIPT, home], [b"wrong"])
    assert "REFUSED" in output
    assert "did not open it" in output


def test_no_terminal(locked: Config) -> None:
    home = str(locked.identity_file.parents[2])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, home],
        capture_output=True,
        check=True,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        timeout=300,
    )
    assert "REFUSED" in done.stdout.decode()
    assert "no terminal" in done.stdout.decode()


def test_the_output_goes_elsewhere(locked: Config) -> None:
    """The terminal is there, but nobody looks at it."""
    home, out = str(locked.identity_file.parents[2]), locked.identity_file.with_name("out")
    line = shlex.join([sys.executable, "-c", SCRIPT, home]) + f" > {shlex.quote(str(out))}"
    status, output = on_terminal(["/bin/sh", "-c", line], [])
    assert (status, output) == (0, "")
    assert "REFUSED" in out.read_text()


def test_show_and_init_do_not_ask(locked: Config) -> None:
    shown = {item.kind: item.public for item in keys.show(locked)}
    assert shown["age identity"] == ("protected by a passphrase",)
    vouchers_file(locked).unlink()
    done = {item.kind: item for item in keys.initialise(locked)}
    assert str(locked.allowed_signers_file) in done[VOUCHERS].note
    trust = keys.load_trust(locked)  # not asked: the new allowed_signers file knows one
    assert (len(trust.allowed), trust.vouching) == (1, ())


def test_vouching_asks(locked: Config) -> None:
    before = vouchers_file(locked).read_text()
    vouchers_file(locked).unlink()
    home = str(locked.identity_file.parents[2])
    script = SCRIPT.replace("try:\n", "try:\n    keys.vouch(config)\n")
    status, output = on_terminal([sys.executable, "-c", script, home], [b"correct horse"])
    assert status == 0, output
    assert output.count("passphrase") == 1
    assert vouchers_file(locked).read_text() == before
