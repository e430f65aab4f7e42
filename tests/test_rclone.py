"""Starting rclone: what is refused and how clearly, what stays secret, where things end up."""

from __future__ import annotations

import os
import stat
import sys
import sysconfig
import threading
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest

from offsite import config, process
from offsite import connect as connecting
from offsite.config import Provider
from offsite.errors import ConfigError, OffsiteError, ProviderError, StoppedError
from offsite.rclone.errors import Failure, clean, known_secrets
from offsite.rclone.launch import find_program
from offsite.remote import RcloneRemote, Retry
from tests import repo
from tests.storage.clients import connect, through
from tests.storage.proxy import Fault, Proxy
from tests.storage.servers import Server

pytest_plugins = ["tests.storage.fixtures"]

ONCE = Retry(tries=1, timeout=20)


def start(
    remote: str,
    *,
    conf: Path | None = None,
    flags: tuple[str, ...] = (),
    environ: Mapping[str, str] | None = None,
    retry: Retry = ONCE,
) -> RcloneRemote:
    return RcloneRemote.start(
        Provider("prov", remote),
        rclone_config=conf,
        rclone_flags=flags,
        stop=threading.Event(),
        on_retry=lambda *_: None,
        environ={**os.environ, **(environ or {})},
        retry=retry,
    )


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "rclone.conf"
    path.write_text(f"[here]\ntype = alias\nremote = {tmp_path}\n[other]\ntype = memory\n")
    return path


@pytest.mark.parametrize(
    ("remote", "flags", "message", "hint"),
    [
        ("nope:x", (), "prov: rclone has no remote named 'nope'", "here:, other:"),
        ("relative/path", (), "neither remote:path nor an absolute path", "whole path"),
        (":local:relative", (), "neither remote:path nor an absolute path", "whole path"),
        ("here:x", ("--no-such-flag",), "unknown flag: --no-such-flag", "RCLONE_FLAGS"),
        ("here:x", ("--timeout=soon",), 'invalid argument "soon"', "RCLONE_FLAGS"),
        ("here:x", ("--rc-addr=:5572",), "--rc-addr=:5572 is Offsite's own", "RCLONE_FLAGS"),
        ("here:x", ("--addr", ":8080"), "--addr is Offsite's own", "RCLONE_FLAGS"),
        ("here:x", ("--b2-key=K005secret",), "--b2-key would show a secret", "rclone config"),
        ("here:x", ("--sftp-pass", "hunter2"), "--sftp-pass would show a secret", "rclone config"),
    ],
)
def test_settings_that_cannot_work(
    remote: str, flags: tuple[str, ...], message: str, hint: str, conf: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        start(remote, conf=conf, flags=flags)
    assert message in str(caught.value)
    assert hint in (caught.value.hint or "")


def test_a_missing_configuration_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such rclone configuration"):
        start("here:x", conf=tmp_path / "none.conf")


def test_a_file_is_no_place_for_a_backup(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OffsiteError), closing(start(str(tmp_path / "file"))) as remote:
        remote.put("object", b"x", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_sysconfig_is_not_asked_in_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each provider has one, and they start at once: 2 of 100 processes got a RuntimeError."""
    monkeypatch.delattr(sysconfig, "get_path")
    assert find_program(os.environ["PATH"])


def test_an_encrypted_configuration(conf: Path) -> None:
    rclone = find_program(os.environ["PATH"])
    encrypt = [rclone, "config", "encryption", "set", "--config", str(conf)]
    assert process.run([*encrypt, "--password-command", "echo hunter2"]).status == 0
    with pytest.raises(ConfigError, match="is encrypted and cannot be opened") as caught:
        start("here:x", conf=conf)
    assert "RCLONE_CONFIG_PASS" in (caught.value.hint or "")
    with closing(start("here:x", conf=conf, environ={"RCLONE_CONFIG_PASS": "hunter2"})) as remote:
        remote.put("object", b"x", {})


def test_rclone_must_be_there_and_new_enough(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rclone: program not found"):
        find_program(str(tmp_path), scripts=tmp_path)
    program = tmp_path / "rclone"
    program.write_text("#!/bin/sh\necho rclone v1.60.1-DEV\n")
    program.chmod(0o755)
    with pytest.raises(ConfigError, match=r"is version 1\.60, too old: 1\.75 or newer"):
        find_program(str(tmp_path), scripts=tmp_path / "none")
    program.write_text("#!/bin/sh\necho rclone v1.75.0\n")
    assert find_program(str(tmp_path), scripts=tmp_path / "none") == str(program)
    program.write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ConfigError, match=r"does not work \(exit status 3\)"):
        find_program(str(tmp_path), scripts=tmp_path / "none")


def test_sockets_are_private_and_gone_afterwards(short_path: Path) -> None:
    with closing(start(str(short_path), environ={"XDG_RUNTIME_DIR": str(short_path)})):
        (folder,) = short_path.glob("offsite-*")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(list(folder.iterdir())) == 2
    assert not folder.exists()


def test_the_sockets_of_a_killed_run_go_with_the_next_one(short_path: Path) -> None:
    places = {"XDG_RUNTIME_DIR": str(short_path)}
    program = (
        "import os; from offsite.rclone import folder; f = folder.make(os.environ); os.abort()"
    )
    process.run([sys.executable, "-c", program], env={**os.environ, **places})
    (left,) = short_path.iterdir()
    with closing(start(str(short_path), environ=places)):
        (living,) = short_path.glob("offsite-*")
        assert living != left
        with closing(start(str(short_path), environ=places)):
            assert living.exists()
    assert not list(short_path.iterdir())


def test_a_long_runtime_folder_is_not_used(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)
    for folder in (long, tmp_path / "store"):
        folder.mkdir()
    with closing(start(str(tmp_path / "store"), environ={"XDG_RUNTIME_DIR": str(long)})) as remote:
        remote.put("object", b"x", {})
        assert not list(long.iterdir())


def test_no_secret_of_a_connection_string_is_shown(tmp_path: Path) -> None:
    secret = "correct-horse-battery"
    spec = f":s3,provider=Other,access_key_id=abcdefgh,secret_access_key={secret}"
    remote = start(f"{spec},endpoint='http://127.0.0.1:1':bucket", flags=("--low-level-retries=1",))
    with closing(remote):
        children = psutil.Process().children(recursive=True)
        assert not any(secret in " ".join(child.cmdline()) for child in children)
        with pytest.raises(ProviderError) as caught:
            remote.put("object", b"x", {})
    assert secret not in f"{caught.value}{caught.value.hint}"
    assert secret not in repr(remote._server._launch)


def test_a_provider_that_comes_up_late_gets_objects_in_the_right_place(
    seaweed: Server, tmp_path: Path
) -> None:
    """Where rclone cannot tell whether the path is a file, it would serve the folder above."""
    with Proxy(seaweed.port) as proxy:
        proxy.fault = Fault("reset", method=b"")
        behind = through(proxy, seaweed, tmp_path / "rclone.conf")
        remote = connect(behind, flags=("--low-level-retries=1",))
        proxy.fault = None
        with closing(remote):
            remote.put("late/object", b"x", {})
    rclone = find_program(os.environ["PATH"])
    argv = [rclone, "--config", str(seaweed.conf), "lsf", "-R", "--files-only", seaweed.remote]
    stored = process.run(argv).stdout.splitlines()
    assert [path.count("/") for path in stored if path.endswith("late/object")] == [2]


def test_the_users_flags_and_environment_win(conf: Path) -> None:
    with (
        closing(start("here:store", conf=conf, flags=("--dry-run",))) as remote,
        pytest.raises(ProviderError, match="the stored object differs: it is not there"),
    ):
        remote.put("object", b"x", {})
    with pytest.raises(ConfigError, match='does not take the setting "timeout" = "soon"'):
        start("here:x", conf=conf, environ={"RCLONE_TIMEOUT": "soon"})


def test_a_stop_before_the_start(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        RcloneRemote.start(
            Provider("prov", str(tmp_path)),
            rclone_config=None,
            rclone_flags=(),
            stop=stop,
            on_retry=lambda *_: None,
        )


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("ERROR : a/b: Post request put error: no space left", "a/b: no space left"),
        ('ERROR : rc: "operations/stat": error: it broke', "it broke"),
        ("CRITICAL: Failed to create file system", "Failed to create file system"),
        ("see https://host/x?X-Amz-Signature=abc&y=1 now", "see https://host/x now"),
        ("dial sftp://me:pw@host/x", "dial sftp://host/x"),
        (
            "bad secret_access_key=abc, account-key: fine",
            "bad secret_access_key=***, account-key: fine",
        ),
        ('{"refresh_token":"1//abc","x":1}', '{"refresh_token":"***","x":1}'),
        ("Authorization: Bearer abc.def", "Authorization: ***"),
        ("it said verysecret here", "it said *** here"),
    ],
)
def test_lines_are_cleaned(line: str, shown: str) -> None:
    secrets = known_secrets({"RCLONE_CONFIG_B2_KEY": "verysecret", "HOME": "/root"}, "b2:x")
    assert clean(line, secrets) == shown


@pytest.mark.parametrize(
    ("reason", "permanent", "pause"),
    [
        ("connection reset by peer", False, 0),
        ("status 403: AccessDenied", True, 0),
        ("403 rateLimitExceeded", False, 0),
        ("try again after 2026-01-02T03:04:05.123Z (29.5s)", False, 29.5),
        ("Too Many Requests: retry after 12s", False, 12),
        ("ExpiredToken: the 401 token has expired", False, 0),
        ("RequestTimeTooSkewed: 403", True, 0),
        ("write /x: no space left on device", True, 0),
        ("googleapi: Error 404: NoSuchBucket", True, 0),
        ("something nobody has seen before", False, 0),
    ],
)
def test_failures_are_told_apart(reason: str, permanent: bool, pause: float) -> None:  # noqa: FBT001
    failure = Failure(reason)
    assert (failure.permanent, failure.pause) == (permanent, pause)


X509 = 'Get "https://s3.example": tls: failed to verify certificate: x509: certificate '


@pytest.mark.parametrize(
    ("reason", "hint"),
    [
        (f"{X509}has expired or is not yet valid: current time is after 2026-01-02", "clock"),
        ("operation error S3: PutObject, 403, RequestTimeTooSkewed: The difference", "the clock"),
        ("operation error S3: GetObject, 403, RequestExpired: Request has expired", "the clock"),
        ("403 AuthenticationFailed: Request date header too old", "the clock"),
        (f"{X509}signed by unknown authority", "ca-certificates"),
        ("api error ExpiredToken: The provided token has expired", "rclone config reconnect"),
        ("oauth2: token expired and refresh token is not set", "rclone config reconnect"),
        ("open /x: too many open files", "ulimit -n"),
        ("429 Too Many Requests", "fewer requests"),
        ("SlowDown: Please reduce your request rate, 503", "fewer requests"),
    ],
)
def test_the_hint_fits_the_failure(reason: str, hint: str) -> None:
    told = Failure(reason).hint
    assert told is not None
    assert hint in told


class Started:
    """In place of a remote: waits for all of ``others`` to start, then fails as it is told to."""

    def __init__(self, others: threading.Barrier, why: Mapping[str, Exception]) -> None:
        self.closed: list[str] = []
        self._others, self._why = others, why

    def start(self, provider: Provider, **_: object) -> Mock:
        self._others.wait(60)
        if provider.name in self._why:
            raise self._why[provider.name]
        made = Mock(close=lambda: self.closed.append(provider.name))
        made.name = provider.name
        return made


NAMES = ["a", "b", "c"]


@pytest.mark.parametrize("lost", [[], ["b"], ["a", "c"], NAMES])
def test_all_providers_start_at_once(
    lost: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config.load({"HOME": str(tmp_path)})
    double = Started(threading.Barrier(3), {name: ProviderError(f"no {name}") for name in lost})
    monkeypatch.setattr(RcloneRemote, "start", double.start)
    providers, told = [Provider(name, "x:") for name in NAMES], repo.Recorder()
    left = [name for name in NAMES if name not in lost]
    started = connecting.remotes(settings, providers, threading.Event(), told)
    if left:
        with started as (remotes, failed):
            assert [one.name for one in remotes] == left
            assert failed == told.drops == {name: f"no {name}" for name in lost}
            assert double.closed == []
    else:
        with pytest.raises(ProviderError, match="no a; b: no b; c: no c"), started:
            pass
    assert sorted(double.closed) == left


def test_a_stop_while_providers_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config.load({"HOME": str(tmp_path)})
    double = Started(threading.Barrier(3), {"b": StoppedError("stopped")})
    monkeypatch.setattr(RcloneRemote, "start", double.start)
    providers = [Provider(name, "x:") for name in NAMES]
    started = connecting.remotes(settings, providers, threading.Event(), repo.Recorder())
    with pytest.raises(StoppedError), started:
        pass
    assert sorted(double.closed) == ["a", "c"]
