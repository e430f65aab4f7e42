"""How the demo shows commands: as a user types them, cut short, and counted while they run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.world import PATIENCE, World

POLL = 0.02  # seconds
BEGUN = "INFO: Backing up "  # logged right before a stream begins


@dataclass(frozen=True)
class Watched:
    """A command that ended. ``read``: bytes that its first backup took from zfs send, at most."""

    read: int
    log: str
    stdout: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def line(self, word: str) -> str:
        """What its log says from the last line with ``word`` on; SystemExit if nothing."""
        _, found, rest = self.log.rpartition(word)
        if not found:
            raise SystemExit(f"its log does not say {word!r}:\n{self.log}")
        return found + rest.partition("\n")[0]


def title(text: str) -> None:
    """A line between scenes."""
    print(f"\n\033[1m==> {text}\033[0m" if sys.stdout.isatty() else f"\n==> {text}", flush=True)


def say(text: str) -> None:
    """What no command says, indented."""
    print("\n".join(f"    {line}" for line in text.splitlines()), flush=True)


def typed(world: World, *args: str) -> None:
    """Show a command and run it as the user would."""
    _prompt(args)
    status = subprocess.run(
        [sys.executable, "-m", "offsite", *args],
        env=world.environment() | {"TERM": os.environ.get("TERM", "dumb")},
        check=False,
    ).returncode
    if status:
        raise SystemExit(f"offsite ended with status {status}")


def cut_short(world: World, *args: str, rate: str, when: Callable[[], object]) -> Watched:
    """Show a command, run it over a line of this ``rate`` a second, and kill it at some time."""
    watched = _watch(world, args, when, {"RCLONE_FLAGS": f"--bwlimit {rate}"})
    print(f"… {watched.line('Processing chunk')}\nKilled", flush=True)
    return watched


def counted(world: World, *args: str) -> Watched:
    """Show a command and run it to its end, with the end of its log."""
    watched = _watch(world, args, None, {})
    ended = watched.log.rpartition(" INFO: ")[2]
    print(f"… {watched.line('Resuming')}\n{ended.rstrip()}", flush=True)
    return watched


def _prompt(args: tuple[str, ...]) -> None:
    print(f"\n    $ offsite {shlex.join(args)}", flush=True)


def _watch(
    world: World,
    args: tuple[str, ...],
    when: Callable[[], object] | None,
    environment: dict[str, str],
) -> Watched:
    """Run it to its end, or until ``when()``, then to be killed."""
    _prompt(args)
    older = {*world.home.glob("*.log")}
    before = read = 0
    log = ""
    deadline = time.monotonic() + PATIENCE
    with world.start(*args, "--json", **environment) as running:
        while running.poll() is None and not (when and when()):
            if time.monotonic() > deadline:
                running.kill()
                raise SystemExit(f"it hangs:\n{log}")
            read = _read_by(running.pid, read)
            log = "".join(path.read_text() for path in {*world.home.glob("*.log")} - older)
            before = before if BEGUN in log else read
            time.sleep(POLL)
        if when and running.poll() is not None:
            raise SystemExit(f"it ended before it could be killed:\n{running.communicate()[1]}")
        if when:
            running.kill()
        stdout, stderr = running.communicate()
    log = "".join(path.read_text() for path in {*world.home.glob("*.log")} - older)
    if not when and running.returncode:
        raise SystemExit(f"offsite ended with status {running.returncode}:\n{stderr}")
    return Watched(read - before, log, stdout)


def _read_by(pid: int, otherwise: int) -> int:
    """Bytes that the main thread of a process has read (proc(5), io); little but the stream.

    Not the whole process: its count grows by that of every child it has waited for.
    """
    try:
        lines = Path(f"/proc/{pid}/task/{pid}/io").read_text().splitlines()
    except OSError:
        return otherwise
    return int(dict(line.split(": ") for line in lines)["rchar"])
