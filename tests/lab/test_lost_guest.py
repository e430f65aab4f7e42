"""A guest that hangs is ended and booted anew, and its test runs once more."""

import os
import subprocess
import sys
from pathlib import Path

from lab.host import ASKED

ROOT = Path(__file__).parents[2]


def test_a_test_that_lost_its_guest_runs_once_more(version: str, tmp_path: Path) -> None:
    """A guest that hangs is ended. A test that fails by itself, or again, has failed."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/lab/wedged.py"]
    totals = tmp_path / "totals"
    told = {"OFFSITE_TEST_FOLDER": str(tmp_path), "OFFSITE_TOTALS": str(totals)}
    told[ASKED] = version
    ran = subprocess.run(
        words, env=os.environ | told, check=False, cwd=ROOT, capture_output=True, timeout=120
    )
    counts, *failed = totals.read_text().splitlines()
    assert counts == "4 2 0 4", ran.stdout.decode()  # passed, failed, skipped, rerun
    assert [line.split(" - ")[0] for line in failed] == [
        "FAILED tests/lab/wedged.py::test_died",
        "FAILED tests/lab/wedged.py::test_failed",
    ]
    assert ran.returncode == 1
