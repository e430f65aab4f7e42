"""The lock files have what pyproject.toml asks for (script/lock makes them)."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
RUN: list[str] = PROJECT["project"]["dependencies"]
DEV: list[str] = PROJECT["dependency-groups"]["dev"]
BUILD: list[str] = PROJECT["build-system"]["requires"]


def unmet(lock: str, wanted: list[str]) -> list[str]:
    """What is not in the text of a lock file in a version that will do."""
    pins = re.findall(r"^([\w.-]+)==(\S+)", lock, re.MULTILINE)
    pinned = {canonicalize_name(name): version for name, version in pins}

    def met(one: Requirement) -> bool:
        version = pinned.get(canonicalize_name(one.name))
        return version is not None and one.specifier.contains(version)

    return [text for text in wanted if not met(Requirement(text))]


@pytest.mark.parametrize(
    ("lock", "wanted"),
    [
        ("requirements.lock", RUN),
        ("requirements-dev.lock", RUN + DEV),
        ("requirements-build.lock", BUILD),
    ],
)
def test_a_lock_has_all_that_is_asked_for(lock: str, wanted: list[str]) -> None:
    assert unmet((ROOT / lock).read_text(), wanted) == []


def test_it_would_notice() -> None:
    lock = "types_psutil==7.1.0 \\\n    --hash=sha256:00\nrich==13.9 ; x\n"
    assert unmet(lock, ["types-psutil>=7", "rich>=14", "rich", "tenacity"]) == [
        "rich>=14",
        "tenacity",
    ]
