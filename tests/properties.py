"""What tests have told of themselves (record_property), by whichever worker they ran in."""

from __future__ import annotations

import pytest


def told(reporter: pytest.TerminalReporter, name: str) -> list[object]:
    """The values of that name, of all tests that ran, whether or not they passed."""
    ended = (
        report
        for reports in reporter.stats.values()
        for report in reports
        if getattr(report, "when", None) == "teardown"
    )
    return [value for report in ended for key, value in report.user_properties if key == name]
