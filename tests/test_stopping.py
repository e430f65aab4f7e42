"""Signals, to a real process."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from offsite.cli.stopping import stopping
from offsite.errors import StoppedError
from offsite.subject import Subject
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset
from tests import repo, whole

LISTENER = """
import signal, sys, time
if "nohup" not in sys.argv:  # which whoever runs these tests may be under
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
from offsite.cli.stopping import stopping
with stopping() as stop:
    print("ready", flush=True)
    stop.wait(300)
    print("stopping", flush=True)
    if "slow" in sys.argv:
        time.sleep(300)
print("put back", flush=True)
"""


def listener(*arguments: str, **more: Any) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", LISTENER, *arguments], stdout=subprocess.PIPE, text=True, **more
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_asks_to_stop(number: signal.Signals) -> None:
    with listener() as process:
        process.send_signal(number)
        out, _ = process.communicate(timeout=repo.LONG)
    assert (process.returncode, out) == (0, "stopping\nput back\n")


def test_handlers_are_put_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stopping() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.wait(repo.LONG)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_within_the_event_s_own_lock() -> None:
    """As it comes once in a thousand times to a main thread that waits for the event."""
    code = """
import signal
from offsite.cli.stopping import stopping
with stopping() as stop:
    with stop._cond:
        signal.raise_signal(signal.SIGTERM)
    assert stop.wait(60)
"""
    command = [sys.executable, "-c", code]
    ended = subprocess.run(command, timeout=repo.LONG, check=False)
    assert ended.returncode == 0


def test_a_main_thread_that_runs_no_handler() -> None:
    """As one that begins to wait just then; this one is in a read(2) that no signal ends."""
    reading, writing = os.pipe()
    state = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
    seen: list[bool] = []

    def interrupt() -> None:
        try:
            repo.wait_for(lambda: state.read_text().rpartition(") ")[2][0] == "S")
            os.kill(os.getpid(), signal.SIGTERM)
            repo.wait_for(stop.is_set)
            seen.append(True)
        finally:
            os.write(writing, b"x")

    with stopping() as stop:
        signal.siginterrupt(signal.SIGTERM, False)
        other = threading.Thread(target=interrupt)
        other.start()
        ctypes.CDLL(None).read(reading, ctypes.create_string_buffer(1), 1)
        other.join()
    assert seen == [True]
    os.close(reading)
    os.close(writing)


def test_another_signal_asks_for_nothing() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        with stopping() as stop:
            signal.raise_signal(signal.SIGUSR1)
            assert not stop.is_set()
            signal.raise_signal(signal.SIGTERM)
            assert stop.is_set()
        assert stop.is_set()
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_the_second_signal_is_final() -> None:
    with listener("slow") as process:
        # One wish, told twice: both wait until it goes on.
        process.send_signal(signal.SIGSTOP)
        os.waitpid(process.pid, os.WUNTRACED)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCONT):
            process.send_signal(number)
        assert process.stdout is not None
        assert process.stdout.readline() == "stopping\n"
        time.sleep(0.7)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(repo.LONG) == 130


def test_nohup_is_respected_and_a_background_job_still_listens() -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    with listener("nohup", preexec_fn=ignore) as process:
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)
        process.send_signal(signal.SIGINT)
        assert process.wait(repo.LONG) == 0


def test_an_interrupt_before_anything_is_loaded() -> None:
    """One line instead of the traceback of an import."""
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupting:
    def find_spec(self, name, path, target=None):
        if name == "offsite.cli":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from offsite.__main__ import main
sys.exit(main())
"""
    command = [sys.executable, "-c", code, "--version"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "ERROR: interrupted\n")


@pytest.mark.parametrize("command", ["send -nP", "hold", "get -pHo property,value,source all"])
def test_a_zfs_that_takes_its_time_is_ended_and_the_snapshot_let_go_of(
    tmp_path: Path, command: str
) -> None:
    with whole.home(tmp_path / "home") as home:
        home.configure(ONE_REMOTE=str(tmp_path))
        home.snapshot("monday", repo.stream(77, [b"x" * 100]), guid=77)
        zfs, stalled = home.folder / "zfs", home.folder / "stalled"
        stall = f'case "$*" in {command.replace(" ", "?")}*) : > {stalled}; exec sleep 300; esac'
        zfs.write_text(zfs.read_text() + stall)

        def interrupt() -> None:
            repo.wait_for(stalled.exists)
            os.kill(os.getpid(), signal.SIGINT)

        watcher = threading.Thread(target=interrupt)
        watcher.start()
        ran = home.offsite("--backup", f"{whole.DATASET}@monday")
        asked = time.time() - stalled.stat().st_mtime
        watcher.join()
        assert (ran.status, asked < 2 * repo.LONG) == (130, True), ran
        held, let_go = (
            [line.split()[1] for line in home.calls(verb)] for verb in ("hold", "release")
        )
        assert held == let_go != []


def test_a_hold_before_the_one_that_is_stopped_is_let_go_of(tmp_path: Path) -> None:
    stop, calls = threading.Event(), tmp_path / "calls"
    slow = f'echo "$1 $2" >> {calls}; [ "$1 $2" != "hold offsite:nas:two" ] || exec sleep 300'
    zfs = Zfs(("/bin/sh", "-c", slow, "zfs"), stop=stop)
    dataset = Dataset("tank/photos", 5, "filesystem", "off", "lz4", 0, 0)
    subject = Subject(zfs, dataset, repo.snapshot(), "monday")
    holding = subject.held("nas", ["one", "two", "three"], repo.Recorder())

    def interrupt() -> None:
        repo.wait_for(lambda: calls.exists() and "hold offsite:nas:two" in calls.read_text())
        stop.set()

    watcher = threading.Thread(target=interrupt)
    watcher.start()
    with pytest.raises(StoppedError), holding:
        pytest.fail("nothing is sent")
    watcher.join()
    said = [line.replace("offsite:nas:", "") for line in calls.read_text().splitlines()]
    assert said == ["hold one", "hold two", "release one", "release two"]
