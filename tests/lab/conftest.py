"""Fixtures of the lab: a machine with real OpenZFS, and a pool on it.

script/test runs these tests in several workers (pytest-xdist), each with a machine of its own.
"""

import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import msgspec
import pytest

from lab import Guest, GuestLostError, Host, Machine, boot
from lab.faults import report
from lab.faults.report import Score
from lab.host import serves, version_to_use
from lab.process import tail
from lab.world import World
from tests.properties import told

HERE = Path(__file__).parent
NUMBERS = count(1)
ONE_WORKER = {"test_versions.py"}  # they share a second machine
LONGEST = "test_kills.py"  # as long as some ten others
SCORES = "fault matrix"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every test here that takes a machine, and begin with the longest; pytest hands over
    those of other folders, too."""
    for item in items:
        fixtures = {"machine", "pool", "version", "world"} & set(getattr(item, "fixturenames", ()))
        if fixtures and item.path.is_relative_to(HERE):
            item.add_marker("lab")
            if not item.get_closest_marker("gate"):
                item.add_marker("soak")
            if item.path.name in ONE_WORKER:
                item.add_marker(pytest.mark.xdist_group(item.path.name))
    items.sort(key=lambda item: item.path.name != LONGEST)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    with guest_looked_after(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    with guest_looked_after(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    with guest_looked_after(item):
        return (yield)


@contextmanager
def guest_looked_after(item: pytest.Item) -> Iterator[None]:
    """Boot a guest anew that was lost in a test that failed, which then runs once more."""
    try:
        yield
    except (Exception, pytest.fail.Exception) as error:
        machine = getattr(item, "funcargs", {}).get("machine")
        # Its folder is gone where it ended with the last test that had it.
        if not isinstance(machine, Guest) or not machine.folder.exists() or machine.answers():
            raise
        told = tail(machine.spec.serial)
        machine.reboot()
        raise GuestLostError(f"booted anew; end of its console:\n{told}") from error


@pytest.fixture(scope="session")
def version() -> str:
    """The OpenZFS branch of the guests."""
    if serves():
        pytest.skip("no guest is built where OpenZFS is this machine's own")
    return version_to_use()


@pytest.fixture(scope="session")
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """This host if it serves itself, else a guest."""
    if serves():
        yield Host()
        return
    with boot(request.getfixturevalue("version")) as guest:
        yield guest


@pytest.fixture
def pool(machine: Machine) -> Iterator[str]:
    """Return the name of a fresh pool of 512 MiB in memory, mounted at /NAME."""
    name = f"lab{os.getpid()}x{next(NUMBERS)}"
    try:
        machine.make_pool(name)
        yield name
    finally:
        machine.destroy_pool(name)


@pytest.fixture
def world(machine: Machine, tmp_path: Path) -> World:
    """A user with fresh keys and two local providers, ``one`` and ``two``."""
    return World.new(tmp_path / "home", machine)


@pytest.fixture
def scores(record_property: Callable[[str, object], None]) -> Iterator[list[Score]]:
    """Every series of the fault matrix adds its own; the summary shows them all."""
    mine: list[Score] = []
    yield mine
    record_property(SCORES, msgspec.json.encode(mine).decode())


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the fault matrix, whether or not the tests passed."""
    scores = [
        score
        for each in told(terminalreporter, SCORES)
        for score in msgspec.json.decode(str(each), type=list[Score])
    ]
    if scores:
        terminalreporter.section("fault matrix")
        terminalreporter.write_line(report.table(scores))
