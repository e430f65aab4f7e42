"""Long steps of the lab's recipe: each ends, and says why."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lab.errors import CommandError, LabError
from lab.process import run, run_logged
from tests import repo


def test_a_step_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    log, pids = tmp_path / "log", tmp_path / "pids"
    script = f"echo compiling; sleep 300 & echo $! > {pids}; sleep 300"
    with pytest.raises(LabError, match=f"(?s)sh did not end within 1 s, see {log}:.*compiling"):
        run_logged(["sh", "-c", script], log, cwd=tmp_path, timeout=1)
    left = Path("/proc", pids.read_text().strip(), "cmdline")
    repo.wait_for(lambda: not left.exists() or not left.read_bytes())


def test_who_ends_us_ends_the_step_too(tmp_path: Path) -> None:
    """As timeout(1) does where a whole phase takes too long."""
    log, pid = tmp_path / "log", tmp_path / "pid"
    script = f"echo compiling; echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 300"
    step = (
        "import sys; from pathlib import Path; from lab import process; "
        "process.end_all_on_sigterm(); "
        "step, log = ['sh', '-c', sys.argv[1]], Path(sys.argv[2]); "
        "process.run_logged(step, log, cwd=Path('.'), timeout=99)"
    )
    running = subprocess.Popen(
        [sys.executable, "-c", step, script, str(log)], stderr=subprocess.PIPE, text=True
    )
    try:
        repo.wait_for(pid.exists)
        running.terminate()
        _, told = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 143
    assert f"lab: ended while sh ran, see {log}:\n" in told
    assert told.endswith("compiling\n")
    assert not Path("/proc", pid.read_text().strip()).exists()


def test_a_step_that_fails_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(LabError, match=r"(?s)sh failed \(status 3\), see .*no such header"):
        run_logged(["sh", "-c", "echo no such header; exit 3"], log, cwd=tmp_path, timeout=60)
    run_logged(["sh", "-c", "echo $WHAT"], log, cwd=tmp_path, env={"WHAT": "done"}, timeout=60)
    assert log.read_text().endswith("\ndone\n")


@pytest.mark.parametrize("into", ["1", "2"])
def test_a_program_that_hangs_or_fails_is_told_with_its_last_words(into: str) -> None:
    """Such as apt, where a mirror sends nothing."""
    said = f"seq 99; echo Waiting for headers >&{into}"
    with pytest.raises(LabError, match=r"(?s)sleep 300 did not end within 1 s\n.*for headers") as e:
        run(["sh", "-c", f"{said}; exec sleep 300"], timeout=1)
    assert len(str(e.value).splitlines()) == 1 + 25
    with pytest.raises(CommandError, match=r"(?s)status 7\n.*for headers"):
        run(["sh", "-c", f"{said}; exit 7"], timeout=60)
