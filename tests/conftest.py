"""For all tests: examples take as long as they take, since the machine may be loaded."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# On what is the profile of the environment: in CI, hypothesis draws the same examples every time.
settings.register_profile(
    "patient",
    settings(),
    deadline=None,
    suppress_health_check={*settings().suppress_health_check, HealthCheck.too_slow},
)
settings.load_profile("patient")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """As ``tmp_path``, and short enough for a unix socket wherever that is."""
    with tempfile.TemporaryDirectory(prefix="offsite-", dir="/tmp") as name:
        yield Path(name)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Add this run's passed, failed, skipped and rerun tests to what script/test sums up."""
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
