"""MEMORY_LIMIT holds for everything together: us, the workers, rclone, whatever they start."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from offsite import budget, config
from offsite.errors import ConfigError
from tests import repo, whole
from tests.story import hash_of
from tests.test_slow_provider import environment, peak_of

MIB = 1 << 20
LIMITS = [256 * MIB, 1024 * MIB]
SIZE = 320 * MIB  # ten chunks


@pytest.fixture
def home(tmp_path: Path) -> Iterator[whole.Home]:
    with whole.home(tmp_path / "home") as made:
        blocks = (repo.noise(MIB, hash_of(str(number))) for number in range(SIZE // MIB))
        made.snapshot("monday", repo.stream(77, blocks), guid=77)
        yield made


@pytest.mark.parametrize("cores", [1, 2, 4, 32])
def test_the_default_is_enough_for_four_providers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int
) -> None:
    """As config.env.example says; however many workers the cores could feed."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    default = config.load({"HOME": str(tmp_path), "OFFSITE_CONFIG": "/dev/null"})
    pair = 2 * default.chunk_size + MIB
    assert budget.share(default, 4).pairs(pair) >= 2
    with pytest.raises(ConfigError, match="too small"):
        budget.share(default, 5).pairs(pair)
    more = replace(default, memory_limit=default.memory_limit + 176 * MIB)
    assert budget.share(more, 5).pairs(pair) >= 2


def peak(*arguments: str) -> tuple[int, Any]:
    """The highest memory of all processes of a command, in bytes; and what it tells."""
    command = [sys.executable, "-m", "offsite", *arguments, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as running:
        highest = peak_of(running)
        assert running.stdout is not None
        told = json.load(running.stdout)
    assert running.returncode == 0, told
    return highest, told


@pytest.mark.parametrize("limit", LIMITS)
def test_a_backup_and_a_restore_stay_within_the_limit(home: whole.Home, limit: int) -> None:
    """With no setting but the limit."""
    store = home.folder.parent / "store"
    home.configure(STORE_REMOTE=str(store), MEMORY_LIMIT=f"{limit // MIB}M")
    memory, told = peak("--backup", "tank/photos@monday")
    assert told["backup"]["stream_bytes"] > SIZE
    assert limit / 4 < memory <= limit
    memory, told = peak("--restore", "tank/photos@monday", "--as", whole.TARGET)
    assert told["restore"]["stream_bytes"] > SIZE
    assert limit / 4 < memory <= limit


@pytest.mark.parametrize("cores", [1, 2, 32])
def test_256_mib_are_enough_for_one_provider(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cores: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores))
    tight = config.load(
        {"HOME": str(tmp_path), "OFFSITE_CONFIG": "/dev/null", "MEMORY_LIMIT": "256M"}
    )
    assert budget.share(tight, 1).pairs(2 * tight.chunk_size + MIB) >= 2
    assert budget.rclone_settings(tight)["GOMEMLIMIT"] == "64MiB"
