"""Where the lab keeps what it built: one directory, safe to delete at any time."""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lab.errors import LabError
from lab.process import say

RECIPE = Path(__file__).with_name("recipe")
DAY = 86400
LONGEST_BUILD = 2300  # seconds; the scripts give the lab 2400


def root() -> Path:
    """Return the cache directory (OFFSITE_LAB_CACHE, else ~/.cache/offsite-lab), created."""
    named = os.environ.get("OFFSITE_LAB_CACHE")
    path = Path(named) if named else Path.home() / ".cache" / "offsite-lab"
    path.mkdir(parents=True, exist_ok=True)
    return path.resolve()


def recipe_hash(facts: str, sources: Iterable[str] | None = None) -> str:
    """Return 12 hex digits that change with `facts` and with the recipe's source files.

    `sources` names files in lab/recipe; None means all of them.
    """
    wanted = None if sources is None else set(sources)
    digest = hashlib.sha256(facts.encode())
    for path in sorted(RECIPE.iterdir()):
        if path.is_file() and (wanted is None or path.name in wanted):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


@contextmanager
def building(version: str) -> Iterator[Path]:
    """Hold a version's build lock and lend an empty scratch directory beside the products.

    The scratch directory is on the products' filesystem, so that a finished product
    is renamed into place; it is removed at the end, and so are those of killed builds.
    """
    with (root() / f"build-{version}.lock").open("w") as lock:
        if not _locks(lock):
            say(f"another process builds this guest; waiting up to {LONGEST_BUILD} s for it")
            _lock(lock)
        parent = root() / f"scratch-{version}"
        shutil.rmtree(parent, ignore_errors=True)  # only the lock's holder uses it
        parent.mkdir()
        try:
            yield Path(tempfile.mkdtemp(dir=parent))
        finally:
            shutil.rmtree(parent, ignore_errors=True)


@contextmanager
def alone(name: str) -> Iterator[None]:
    """Hold a lock that all processes of this cache share, after waiting for it."""
    with (root() / f"{name}.lock").open("w") as lock:
        _lock(lock)
        yield


def _lock(file: TextIO) -> None:
    """Wait for a lock as long as the scripts wait for the lab's build."""
    deadline = time.monotonic() + LONGEST_BUILD
    while not _locks(file):
        if time.monotonic() > deadline:
            held = f"another process has held {file.name} for {LONGEST_BUILD} s"
            raise LabError(f"{held}; which one: fuser {file.name}")
        time.sleep(0.2)


def _locks(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def prune(kept: Path) -> None:
    """Remove older recipes' products of the same version.

    A product that is younger than a day stays: a running guest may still need it to reboot.
    """
    version = kept.name.rpartition("-")[0]
    for path in kept.parent.glob(f"{version}-*"):
        if path != kept and time.time() - path.stat().st_mtime > DAY:
            shutil.rmtree(path, ignore_errors=True)
