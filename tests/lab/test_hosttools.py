"""Installing what the host lacks: whether sudo may ask."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

from lab import cache
from lab.recipe import hosttools


@pytest.mark.parametrize(
    ("user", "terminal", "prefix"),
    [(0, True, []), (1000, True, ["sudo"]), (1000, False, ["sudo", "-n"])],
)
def test_sudo_asks_only_where_somebody_sits(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: object,
    user: int,
    *,
    terminal: bool,
    prefix: list[str],
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(isatty=lambda: terminal))
    monkeypatch.setattr(cache, "root", lambda: tmp_path)
    monkeypatch.setattr(hosttools, "run", lambda argv, **_: ran.append(argv))
    hosttools.need({"no-such-program": "some-package"})
    (argv,) = ran
    assert argv[: argv.index("env")] == prefix
    assert argv[-2:] == ["--no-install-recommends", "some-package"]
