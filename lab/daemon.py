"""A guest that keeps running between commands: `python3 -m lab boot` until `stop`."""

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import cache
from lab.engine import Running
from lab.errors import LabError
from lab.guest import Guest, launch
from lab.plan import Spec
from lab.recipe.build import product


@dataclass(frozen=True)
class Record:
    """What is noted about a guest left running."""

    version: str
    pid: int
    port: int
    folder: str
    memory: int


def start(version: str, memory: int, disk: Path | None) -> Guest:
    """Start a guest and leave it running. Raises LabError if one of this version runs."""
    if attach(version):
        raise LabError(
            f"a guest with OpenZFS {version} runs already; `python3 -m lab stop` ends it"
        )
    guest = launch(version, memory, disk, owned=False)
    running = guest.running
    record = Record(version, running.pid, running.port, str(guest.folder), memory)
    _note(version).write_text(json.dumps(asdict(record)))
    return guest


def attach(version: str) -> Guest | None:
    """Return the guest that an earlier `boot` left running, or None."""
    note = _note(version)
    try:
        record = Record(**json.loads(note.read_text()))
    except FileNotFoundError:
        return None
    folder = Path(record.folder)
    if not _is_ours(record):
        note.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        return None
    spec = Spec(product(version), record.memory, None, folder)
    return Guest(spec, Running(record.pid, record.port))


def stop(version: str) -> bool:
    """End the guest left running; tell whether there was one."""
    guest = attach(version)
    if not guest:
        return False
    guest.power_off()
    shutil.rmtree(guest.folder, ignore_errors=True)
    _note(version).unlink(missing_ok=True)
    return True


def _note(version: str) -> Path:
    return cache.root() / f"running-{version}.json"


def _is_ours(record: Record) -> bool:
    """Tell whether the pid still is that guest: its command line has the guest's own folder."""
    try:
        line = Path(f"/proc/{record.pid}/cmdline").read_bytes()
    except OSError:
        return False
    return f"{record.folder}/".encode() in line
