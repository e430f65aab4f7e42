"""The processes of an offsite run: found in /proc, told apart, killed."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lab.machine import Machine

PROC = Path("/proc")


class Victim(StrEnum):
    """Whom to kill. ``ssh`` carries the stream, ``zfs`` is the one that sends or receives it."""

    MAIN = "main"
    INTERRUPT = "main-int"  # SIGINT, as ^C; all others get SIGKILL
    FAMILY = "family"  # main and its children, at once
    WORKER = "worker"
    RCLONE = "rclone"
    SSH = "ssh"
    ZFS = "zfs"


@dataclass(frozen=True)
class Process:
    """A living process, as /proc tells it (proc(5))."""

    pid: int
    parent: int
    argv: tuple[str, ...]

    @property
    def is_rclone(self) -> bool:
        return self.argv[1:3] == ("serve", "restic")

    @property
    def is_ssh(self) -> bool:
        """The ssh of a stream has a connection of its own (offsite: zfs/command.py)."""
        return Path(self.argv[0]).name == "ssh" and "ControlPath=none" in self.argv

    @property
    def is_stream(self) -> bool:
        """What offsite started to send or receive: ssh, or zfs itself on this machine."""
        verbs = {"send", "receive"} & set(self.argv)
        return self.is_ssh or (bool(verbs) and "-nP" not in self.argv)


def look_up(pid: int) -> Process | None:
    """The process of that id; None if it is gone, dead but not reaped, or the kernel's own."""
    try:
        words = _read(pid, "cmdline").decode(errors="replace")
        parent = _parent(pid)
    except OSError:
        return None
    return Process(pid, parent, tuple(words.removesuffix("\0").split("\0"))) if words else None


def children(main: int) -> list[Process]:
    """What the process started and still runs.

    Asked many times a second: of all others only the parent is read.
    """
    found = []
    for pid in _pids():
        with suppress(OSError):
            if _parent(pid) == main and (process := look_up(pid)) is not None:
                found.append(process)
    return found


def of_home(home: Path) -> list[Process]:
    """All processes that were started with this HOME, whoever their parent is now."""
    line = f"HOME={home}".encode()
    found = []
    for pid in _pids():
        with suppress(OSError):
            if line in _read(pid, "environ").split(b"\0") and (process := look_up(pid)):
                found.append(process)
    return found


def _pids() -> Iterator[int]:
    return (int(folder.name) for folder in PROC.iterdir() if folder.name.isdecimal())


def _read(pid: int, name: str) -> bytes:
    return Path(PROC, str(pid), name).read_bytes()


def _parent(pid: int) -> int:
    return int(_read(pid, "stat").rpartition(b")")[2].split(maxsplit=2)[1])


def shared_files(family: list[Process]) -> set[Path]:
    """Named shared memory that these processes use: it would outlive them."""
    found = set()
    for process in family:
        with suppress(OSError):
            lines = _read(process.pid, "maps").decode(errors="replace").splitlines()
            found |= {Path(line[line.index("/") :]) for line in lines if " /dev/shm/" in line}
    return found


# A shell function: the ids of the zfs processes that send or receive a stream, of all or of those
# whose command line has this text: on the user's own OpenZFS others are at work, too.
STREAMS = """
streams() {
    for pid in $(pidof zfs); do
        case $(tr '\\0' ' ' </proc/$pid/cmdline) in
        "zfs send "*"$1"* | "zfs receive "*"$1"*) echo $pid ;;
        esac
    done
}
"""
# One may be gone by then, it counts if any was killed.
_KILL_ZFS = f"""{STREAMS}
missed=1
for pid in $(streams); do kill -9 $pid && missed=0; done
exit $missed
"""


def kill(victim: Victim, main: int, machine: Machine, rng: random.Random) -> bool:
    """Kill one process of that kind that works for ``main``; whether there was one."""
    if victim is Victim.ZFS and machine.zfs_settings():
        return machine.script(_KILL_ZFS, check=False).status == 0
    if victim is Victim.FAMILY:
        return _kill_family(main)
    number = signal.SIGINT if victim is Victim.INTERRUPT else signal.SIGKILL
    found = _candidates(victim, main)
    return bool(found) and _signal(rng.choice(found), number)


def _kill_family(main: int) -> bool:
    """As the kernel ends a cgroup that is out of memory: nobody tidies up after another one.

    While the parent is stopped it takes no leave of the dead: their ids are nobody else's.
    """
    us = look_up(main)
    if us is None or not _signal(us, signal.SIGSTOP):
        return False
    for _ in range(2):  # it may just have started one
        for child in children(main):
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
    return _signal(us, signal.SIGKILL)


def workers(main: int) -> int:
    """How many it has."""
    return len(_candidates(Victim.WORKER, main))


def _candidates(victim: Victim, main: int) -> list[Process]:
    if (us := look_up(main)) is None:
        return []
    if victim in {Victim.MAIN, Victim.INTERRUPT}:
        return [us]
    kinds = {
        Victim.WORKER: lambda child: child.argv == us.argv,  # forked, never another program
        Victim.RCLONE: lambda child: child.is_rclone,
        Victim.SSH: lambda child: child.is_ssh,
        Victim.ZFS: lambda child: child.is_stream,
    }
    found = [child for child in children(main) if kinds[victim](child)]
    return sorted(found, key=lambda child: child.pid)


def _signal(process: Process, number: signal.Signals) -> bool:
    """Signal exactly this process: its id may be another one's by now."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        if look_up(process.pid) != process:
            return False
        signal.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True
