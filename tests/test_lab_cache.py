"""The lab's cache is shared by processes: one builds, the others wait, and not for ever."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import cache
from lab.errors import LabError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFFSITE_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(cache, "LONGEST_BUILD", 0.3)
    return tmp_path


def test_the_next_one_takes_the_lock_of_one_that_is_done(folder: Path) -> None:
    for _ in range(2):
        with cache.alone("apt"), cache.building("2.3") as scratch:
            assert scratch.parent == folder / "scratch-2.3"


def test_a_lock_that_is_never_let_go_of_ends_the_wait(folder: Path) -> None:
    refused = pytest.raises(LabError, match=f"has held {folder}/apt.lock for")
    with cache.alone("apt"), refused, cache.alone("apt"):
        pass
    refused = pytest.raises(LabError, match=f"has held {folder}/build-2.3.lock for")
    with cache.building("2.3"), refused, cache.building("2.3"):
        pass
