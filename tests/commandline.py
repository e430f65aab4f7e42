"""The command line in this process, with stand-ins for what the verbs do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from offsite import storing


def live_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let ``folder`` be HOME, with one provider, a local folder."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_STATE_HOME", str(folder / "state"))
    settings = folder / "config.env"
    settings.write_text(f"RCLONE_REMOTE={folder}/store\n")
    monkeypatch.setenv("OFFSITE_CONFIG", str(settings))
    (folder / "store").mkdir()
    return folder


RESULT = storing.Result(
    backup_id="20251123t044100-abc",
    dataset="tank/a",
    snapshot="auto-20251123",
    type="full",
    stream_bytes=480 << 20,
    stored_bytes=228 << 20,
    chunks=15,
    seconds=12.0,
    providers=("bb", "scaleway"),
    failed={},
    dry_run=False,
)


Verb = Callable[..., Any]


def stub(monkeypatch: pytest.MonkeyPatch, verb: Any, run: Verb) -> None:
    """The verbs have their own tests; here it counts what becomes of their results."""
    monkeypatch.setattr(verb, "run", run)
