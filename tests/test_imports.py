"""Imports point one way: down this list. Verbs never import each other."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path

import offsite

LAYERS: tuple[tuple[str, ...], ...] = (
    ("__main__",),
    ("cli",),
    ("console",),
    ("backup", "listing", "restore"),  # the verbs
    ("unsigned",),
    ("series",),
    ("recovery", "saving"),
    ("choosing", "forecast", "idle", "leftovers", "storing"),
    ("unreadable",),
    ("discard", "fetching", "fits", "pace", "receiving", "shards", "swap", "tofile"),
    (
        "landing",
        "links",
        "member",
        "properties",
        "recursion",
        "sending",
        "subject",
        "tasks",
        "trees",
    ),
    ("histories",),
    ("bases", "chain", "elsewhere", "lineage", "marks", "standing"),
    ("alike",),
    ("catalog", "connect", "history", "indexes", "legacy", "rejoin", "relay"),
    (
        "budget",
        "cache",
        "journal",
        "pipeline",
        "repository",
        "slots",
        "sources",
        "workers",
    ),
    ("receipts",),
    ("frame", "keys", "manifest", "mirror", "seal"),
    ("age", "sshsig"),
    ("zfs",),
    ("remote",),
    ("rclone",),
    ("lock", "log"),
    ("config", "envfile", "providers", "values"),
    ("ordered", "progress"),
    ("process",),
    ("digests", "errors", "figures", "scrub"),
)
VERBS = frozenset(LAYERS[3])
SOURCE = Path(offsite.__file__).parent


def modules() -> dict[str, Path]:
    """Dotted names below ``offsite``; a package is called as its folder."""
    found: dict[str, Path] = {}
    for path in SOURCE.rglob("*.py"):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        if name:
            found[name] = path
    return found


def imported(text: str, known: Mapping[str, Path]) -> set[str]:
    """The modules below ``offsite`` that a source text imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide where they point"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    below = {name.removeprefix("offsite.") for name in names if name.startswith("offsite.")}
    return {found for name in below if (found := _module_of(name, known))}


def _module_of(name: str, known: Mapping[str, Path]) -> str:
    """``errors.UsageError`` is in ``errors``; a name of the package itself is in none."""
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name


def problems(graph: Mapping[str, set[str]]) -> list[str]:
    level = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    found: list[str] = []
    for module, targets in sorted(graph.items()):
        here = module.split(".")[0]
        if here not in level:
            found.append(f"{module} has no place in LAYERS")
            continue
        for target in sorted(targets):
            there = target.split(".")[0]
            if there == here:
                continue
            if level.get(there, -1) < level[here]:
                found.append(f"{module} imports {target}, which is above it")
            elif {here, there} <= VERBS:
                found.append(f"{module} imports {target}: verbs never import each other")
    return found + [f"a cycle: {' -> '.join(cycle)}" for cycle in cycles(graph)]


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(graph.get(module, set())):
                # A package's face imports its parts, and parts may import other parts.
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def test_imports_point_one_way() -> None:
    known = modules()
    graph = {name: imported(path.read_text(), known) for name, path in known.items()}
    assert len(graph) > 20
    assert problems(graph) == []


def test_the_list_names_no_ghosts() -> None:
    present = {name.split(".")[0] for name in modules()}
    assert {name for layer in LAYERS for name in layer} - present == set()


def test_it_would_notice() -> None:
    known = modules()

    def of(module: str, text: str) -> list[str]:
        return problems({module: imported(text, known)})

    assert of("config", "from offsite.errors import ConfigError") == []
    assert of("errors", "from offsite.config import Config") == [
        "errors imports config, which is above it"
    ]
    assert of("errors", "def f():\n    import offsite.zfs.command") == [
        "errors imports zfs.command, which is above it"
    ]
    assert of("zfs.names", "from offsite import keys, __version__") == [
        "zfs.names imports keys, which is above it"
    ]
    assert of("backup", "from offsite import restore") == [
        "backup imports restore: verbs never import each other"
    ]
    assert of("backup", "from offsite.console import Display") == [
        "backup imports console, which is above it"
    ]
    assert of("novel", "") == ["novel has no place in LAYERS"]
    assert problems({"config": {"values"}, "values": {"config"}}) == [
        "a cycle: config -> values -> config"
    ]
