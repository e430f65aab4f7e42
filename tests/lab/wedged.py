"""For test_lost_guest.py to run in a pytest of their own: what happens when guests are lost."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import DeadlineError, Guest, Machine, boot
from tests.lab.test_lab import alive

pytestmark = pytest.mark.lab
FOLDER = Path(os.environ["OFFSITE_TEST_FOLDER"])


@pytest.fixture(scope="module")
def machine(version: str) -> Iterator[Machine]:
    with boot(version) as guest:
        yield guest


def once(what: str) -> bool:
    """Whether this happens for the first time; the test runs once more behind it."""
    first = not (FOLDER / what).exists()
    (FOLDER / what).touch()
    return first


@pytest.fixture
def dies_before(machine: Guest) -> None:
    if once("before"):
        os.kill(machine.running.pid, signal.SIGKILL)
    machine.run("true", timeout=60)


@pytest.fixture
def dies_after(machine: Guest) -> Iterator[None]:
    yield
    if once("after"):
        os.kill(machine.running.pid, signal.SIGKILL)
    machine.run("true", timeout=60)


def test_wedged_once(machine: Guest) -> None:
    if once("meanwhile"):
        pid = machine.running.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DeadlineError, match="guest ended") as hung:
            machine.run("true", timeout=1)
        assert not alive(pid)
        raise hung.value
    machine.run("true", timeout=60)


@pytest.mark.usefixtures("dies_before")
def test_died_while_it_was_set_up(machine: Guest) -> None:
    machine.run("true", timeout=60)


@pytest.mark.usefixtures("dies_after")
def test_died_while_it_was_tidied_up(machine: Guest) -> None:
    machine.run("true", timeout=60)


def test_died(machine: Guest) -> None:
    os.kill(machine.running.pid, signal.SIGKILL)
    pytest.fail("whatever the reason seems to be")


def test_failed(machine: Guest) -> None:
    assert machine.run("echo", "all is well").stdout == ""
