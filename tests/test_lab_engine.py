"""A guest that does not come up: that is told within its deadline, and nothing of it is left."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from lab import engine, keeper, uml
from lab.errors import LabError
from lab.plan import Spec
from lab.recipe.build import Product
from tests.thorough import cases

NETWORK = "touch bess; exec sleep 300"
HANGS = "echo BOOTING; sleep 300 & sleep 300"
PATIENCE = 4  # seconds, in which even on a busy machine it comes to say BOOTING
SILENT = f"did not answer within {PATIENCE} s"


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    """What to boot: shell scripts in place of the network and, yet to be written, the kernel."""
    product, folder = Product(tmp_path / "product", emulated=False), tmp_path / "offsite-lab-x"
    folder.mkdir()
    write_program(product.network / "ld-linux-x86-64.so.2", NETWORK)
    return Spec(product, memory=64, disk=None, folder=folder, patience=PATIENCE)


def write_program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


ENDS = [
    (HANGS, SILENT, PATIENCE),
    (f"echo lab: ready; {HANGS}", SILENT, PATIENCE),  # and nobody answers at its port
    ("echo BOOTING; exit 1", "ended before it answered", 0),
]


@pytest.mark.parametrize(("end", "owned"), cases(ENDS, [True, False]))
def test_a_guest_that_never_answers(
    spec: Spec, monkeypatch: pytest.MonkeyPatch, end: tuple[str, str, float], *, owned: bool
) -> None:
    script, told, least = end
    write_program(spec.product.kernel, script)
    monkeypatch.setattr(uml, "forward", lambda _, free_port: free_port())
    check_told(spec, rf"(?s)the guest {told}\n.*serial.log: .*BOOTING", least, owned=owned)


def test_a_guest_whose_network_does_not_start(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(spec.product.kernel, HANGS)
    monkeypatch.setattr(uml, "API_TIMEOUT", PATIENCE)
    check_told(spec, "(?s)the guest's network does not start.*BOOTING", PATIENCE)


def check_told(spec: Spec, pattern: str, least: float, *, owned: bool = True) -> None:
    began = time.monotonic()
    with pytest.raises(LabError, match=pattern):
        engine.start(spec, owned=owned)
    assert least <= time.monotonic() - began < 60
    assert keeper._members(spec.folder) == []
