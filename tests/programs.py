"""Programs that a test wants: this machine's, and made-up ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def needs(*programs: str) -> None:
    """Skip the test, saying why, if one of them is missing."""
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (script/test installs it)")


def fake_system(folder: Path, **programs: str) -> str:
    """A PATH with the ordinary tools, and these programs over them."""
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    for tool in ("bash", "env", "dirname", "cat", "sh", "id"):
        found = shutil.which(tool)
        assert found is not None
        if not (folder / tool).exists():
            (folder / tool).symlink_to(found)
    return str(folder)
