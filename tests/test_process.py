"""Other programs: those that do not end, and who may ask at a terminal."""

from __future__ import annotations

import logging
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offsite import process
from offsite.errors import OffsiteError


@pytest.mark.parametrize("error", [None, PermissionError])
def test_who_cannot_be_killed_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, error: type[Exception] | None
) -> None:
    """A zfs in the kernel, whose pool is suspended; or one that sudo runs as root."""
    children: list[subprocess.Popen[bytes]] = []

    def kill(child: subprocess.Popen[bytes]) -> None:
        children.append(child)
        if error is not None:
            raise error

    with monkeypatch.context() as patch:
        patch.setattr(subprocess.Popen, "kill", kill)
        with pytest.raises(OffsiteError, match="no answer within"):
            process.run(["sleep", "300"], timeout=0.2)
    (child,) = children
    assert child.poll() is None
    child.kill()
    child.wait()


def test_input_and_status() -> None:
    done = process.run(["sh", "-c", "cat; echo no >&2; exit 3"], stdin=b"text")
    assert (done.stdout, done.stderr, done.status) == ("text", "no\n", 3)


SECRETS = [
    ["--header", "X-Auth: hunter22"],
    ["--s3-header-upload=hunter22"],
    ["password=hunter22"],
    ["--some-token=hunter22"],
    ["sftp://me:hunter22@host/x"],
    ["Authorization: Bearer hunter22"],
]


@pytest.mark.parametrize("secret", SECRETS)
def test_what_is_run_is_logged_without_secrets(
    secret: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    argv = ["sh", "-c", "exit 3", "name", *secret, "a b"]
    with caplog.at_level(logging.DEBUG, "offsite"):
        process.run(argv)
        process.Child(argv).wait(60)
        child = process.Child(["sleep", "300"])
        child.stop(grace=60)
        child.wait(60)
    run, started, ended, *sleeping = caplog.messages
    assert re.fullmatch(r"sh -c 'exit 3' name .*'a b': status 3 after \d+\.\d\d s", run)
    assert started.endswith("'a b': started as process " + started.rpartition(" ")[2])
    assert ended.partition(": status 3")[0] == run.partition(": status 3")[0]
    assert [line.partition(" after ")[0] for line in sleeping] == [
        f"sleep 300: started as process {child.pid}",
        f"sleep 300: status {-signal.SIGTERM}",
    ]
    assert "hunter22" not in caplog.text


def test_a_job_in_the_background_is_not_in_the_foreground() -> None:
    code = """
import os, pty, sys
from offsite import process
pid, terminal = pty.fork()
if pid == 0:
    front = process.is_foreground(0) and not process.is_background(0)
    if job := os.fork():
        back = os.waitstatus_to_exitcode(os.waitpid(job, 0)[1])
    else:
        os.setpgid(0, 0)
        os._exit(process.is_foreground(0) or not process.is_background(0))
    os._exit(10 * front + back)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=300, check=False).returncode == 10
    with Path("/dev/null").open() as nothing:
        assert not process.is_foreground(nothing.fileno())
        assert not process.is_background(nothing.fileno())
