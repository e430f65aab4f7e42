"""Keep a guest: the process beside it that ends all of it, whoever of the others dies.

    python keeper.py JSON       in the guest's own folder; JSON is a Plan

A User-Mode Linux kernel leaves the session and the process group that it was started in, and runs
every process of the guest as one of the host; so what is ours is known by its working directory.
Only the standard library: this is started as a file, from any environment.
"""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE = 10  # seconds until what the guest waits for is there; until all of it is gone
POLL = 0.02  # seconds


def main() -> int:
    """Start what the plan names, and wait until one of them ends, or who started us has died."""
    plan = json.loads(sys.argv[1])
    started = []
    try:
        if plan["network"]:
            started.append(_start(plan["network"], "network.log"))
            _await(Path(plan["socket"]))
        guest = _start(plan["guest"], "serial.log")
        started.append(guest)
        Path("guest.new").write_text(str(guest.pid))
        Path("guest.new").rename("guest.pid")
        watched = [os.pidfd_open(one.pid) for one in started]
        # Standard input is a pipe from our owner, who never writes: it ends with him.
        select.select([*watched, *([sys.stdin] if plan["owned"] else [])], [], [])
    finally:
        for one in started:
            one.kill()
            one.wait()
        end_all(Path.cwd())
    return 0


def end_all(folder: Path) -> None:
    """Kill all processes but this one that work in ``folder`` without a terminal; none is left."""
    deadline = time.monotonic() + PATIENCE
    while (left := _members(folder)) and time.monotonic() < deadline:
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(POLL)


def _start(argv: list[str], log: str) -> subprocess.Popen[bytes]:
    with Path(log).open("ab") as out:
        return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)


def _await(path: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(POLL)


def _members(folder: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] != "Z" and fields[4] == "0" and (entry / "cwd").readlink() == folder:
                found.append(int(entry.name))
        except OSError:
            continue  # gone, or somebody else's
    return found


if __name__ == "__main__":
    sys.exit(main())
