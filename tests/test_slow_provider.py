"""A slow provider beside a fast one: both get all of it, within the memory limit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import uuid
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from offsite import budget, config
from tests import repo, whole
from tests.storage.clients import connect, through
from tests.storage.proxy import Proxy
from tests.storage.servers import Server

pytest_plugins = ["tests.storage.fixtures"]

MIB = 1 << 20
LIMIT = 512 * MIB
RATE = 12 * MIB
POLL = 0.2  # seconds
SIZE = 64  # MiB


def test_the_slow_one_sets_the_pace(tmp_path: Path, seaweed: Server) -> None:
    fast, place = tmp_path / "fast", uuid.uuid4().hex
    stream = repo.stream(77, [repo.noise(MIB, seed) for seed in range(SIZE)])
    with Proxy(seaweed.port, rate=RATE) as slow, whole.home(tmp_path / "home") as home:
        behind = through(slow, seaweed, tmp_path / "rclone.conf")
        home.configure(
            RCLONE_CONFIG_PATH=str(behind.conf),
            FAST_REMOTE=str(fast),
            SLOW_REMOTE=f"{seaweed.remote}/{place}",
            SHARD_SIZE="1M",
            MEMORY_LIMIT="512M",
        )
        home.snapshot("monday", stream, guid=77)
        command = [sys.executable, "-m", "offsite", "--backup", "tank/photos@monday", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as running:
            memory = lead = 0
            while running.poll() is None:
                memory = max(memory, proportional_size(running.pid))
                lead = max(lead, size_of(fast) - slow.sent)
                time.sleep(0.1)
            assert running.stdout is not None
            done = json.load(running.stdout)["backup"]
        assert (running.returncode, done["failed"]) == (0, {})
        assert (done["stream_bytes"], done["providers"]) == (len(stream), ["fast", "slow"])
        assert done["seconds"] > len(stream) / RATE
        assert memory < LIMIT
        # Half of the arena is for sealed chunks; each stays there until it is everywhere.
        arena = budget.share(config.load(os.environ), 2).arena
        assert MIB < lead < arena / 2 + MIB < len(stream) / 2
        (row,) = home.offsite("--list", "--json").json["backups"]
        assert (row["status"], row["providers"]) == ("complete", ["fast", "slow"])


def test_a_sample_ends_in_time(tmp_path: Path, seaweed: Server) -> None:
    with Proxy(seaweed.port) as slow:
        remote = connect(through(slow, seaweed, tmp_path / "rclone.conf"))
        with closing(remote):
            remote.put("one", repo.noise(16 * MIB), {})
            slow.rate = MIB // 16  # all of it would take four minutes
            with repo.soon():
                came = remote.sample("one", 4.0)
            assert 0 < came < 16 * MIB


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def proportional_size(pid: int) -> int:
    """PSS of a process and all below it, in bytes."""
    total = 0
    try:
        top = psutil.Process(pid)
        family = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for each in family:
        try:
            total += each.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def peak_of(running: subprocess.Popen[Any]) -> int:
    """The highest PSS of a process and all below it until it ends, in bytes."""
    highest = 0
    while running.poll() is None:
        highest = max(highest, proportional_size(running.pid))
        time.sleep(POLL)
    return highest


def size_of(folder: Path) -> int:
    return sum(map(size_of_file, folder.rglob("*")))


def size_of_file(path: Path) -> int:
    """0 for what has been renamed or removed meanwhile."""
    try:
        return path.stat().st_size if path.is_file() else 0
    except FileNotFoundError:
        return 0
