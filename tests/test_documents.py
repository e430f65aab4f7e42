"""What the documents say of the tests and the command is so."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from offsite import __main__, cli, errors
from offsite.cli.stopping import INTERRUPTED

ROOT = Path(__file__).parents[1]


def test_the_tests_that_the_architecture_names_exist() -> None:
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "ARCHITECTURE.md").read_text()))
    text = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    there = set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))
    assert len(named) > 20
    assert named - there == set()


def test_the_readme_tells_of_every_exit_status() -> None:
    told = re.findall(r"^\| (\d+) \| \w", (ROOT / "README.md").read_text(), re.MULTILINE)
    ours = {one.exit_status for one in family(errors.OffsiteError)}
    ours |= {0, cli.FAILED, cli.PARTIAL, cli.BUG, INTERRUPTED}
    assert sorted(map(int, told)) == sorted(ours)


def family(error: type[errors.OffsiteError]) -> Iterator[type[errors.OffsiteError]]:
    yield error
    for one in error.__subclasses__():
        yield from family(one)


def test_the_command_is_called_offsite() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (entry,) = importlib.metadata.EntryPoints(
        importlib.metadata.EntryPoint(name, value, "console_scripts")
        for name, value in project["scripts"].items()
    )
    assert (entry.name, entry.load()) == ("offsite", __main__.main)
