"""Tests for test_lab.py to run in a pytest of their own: what happens when guests are lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import DeadlineError, Guest, Machine, boot
from tests.lab.test_lab import alive

pytestmark = pytest.mark.lab
FIRST = Path(os.environ["OFFSITE_TEST_FOLDER"]) / "wedged once"


@pytest.fixture(scope="module")
def machine(version: str) -> Iterator[Machine]:
    with boot(version) as guest:
        yield guest


def test_wedged_once(machine: Guest) -> None:
    if not FIRST.exists():
        FIRST.touch()
        pid = machine.running.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DeadlineError, match="guest ended") as hung:
            machine.run("true", timeout=1)
        assert not alive(pid)
        raise hung.value
    machine.run("true", timeout=60)


def test_died(machine: Guest) -> None:
    os.kill(machine.running.pid, signal.SIGKILL)
    pytest.fail("whatever the reason seems to be")


def test_failed(machine: Guest) -> None:
    assert machine.run("echo", "all is well").stdout == ""
