"""For all tests: examples take as long as they take, since the machine may be loaded; totals."""

import functools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.properties import told
from tests.thorough import examples

# On what is the profile of the environment: in CI, hypothesis draws the same examples every time.
settings.register_profile(
    "patient",
    settings(),
    max_examples=examples(30),
    deadline=None,
    suppress_health_check={*settings().suppress_health_check, HealthCheck.too_slow},
)
settings.load_profile("patient")

# Crashes and faults at every point, whole commands over and over: they are busy, or wait.
HEAVY = {
    "test_attacks.py",
    "test_closed_terminal.py",
    "test_commands.py",
    "test_crashes.py",
    "test_identity_files.py",
    "test_lab_engine.py",
    "test_legacy.py",
    "test_memory.py",
    "test_remote_answers.py",
    "test_remote_faults.py",
    "test_resume_crashes.py",
    "test_sets.py",
    "test_slow_provider.py",
    "test_storage_faults.py",
    "test_surroundings.py",
}


MEASURED = "measured"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the heavy tests, and begin with them: at the end all workers have something to do."""
    for item in items:
        if item.path.name in HEAVY:
            item.add_marker("heavy")
    items.sort(key=lambda item: item.path.name not in HEAVY)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """As ``tmp_path``, and short enough for a unix socket wherever that is."""
    with tempfile.TemporaryDirectory(prefix="offsite-", dir="/tmp") as name:
        yield Path(name)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """What it is told is shown at the end, whether or not the test passed."""
    return functools.partial(record_property, MEASURED)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what was measured. Add this run's counts, and the names of what failed, to what
    script/test sums up."""
    figures = told(terminalreporter, MEASURED)
    if figures:
        terminalreporter.section(MEASURED)
        terminalreporter.write_line("\n".join(map(str, figures)))
    totals = os.environ.get("OFFSITE_TOTALS")
    if totals is None or hasattr(terminalreporter.config, "workerinput"):
        return  # a worker of pytest-xdist: the one who gathers the results tells
    stats = terminalreporter.stats
    counts = [
        len(stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped", "rerun")
    ]
    passed, failed, errors, skipped, rerun = counts
    with Path(totals).open("a") as out:
        print(passed, failed + errors, skipped, rerun, file=out)
        for report in [*stats.get("failed", []), *stats.get("error", [])]:
            crash = getattr(report.longrepr, "reprcrash", None)
            why = crash.message.splitlines()[0] if crash is not None and crash.message else "?"
            print("FAILED", report.nodeid, "-", why[:200], file=out)
