"""This host as the machine, where it has OpenZFS itself and we are root."""

import os
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

from lab.errors import DeadlineError
from lab.machine import Machine
from lab.recipe.release import LATEST

MODULE_VERSION = Path("/sys/module/zfs/version")
DEVICE = Path("/dev/zfs")
ASKED = "OFFSITE_LAB_ZFS"  # in the environment: a branch, of which a guest is


def usable() -> bool:
    """Tell whether tests may use this host's own OpenZFS: it is loaded, and we are root."""
    programs = all(shutil.which(name) for name in ("zfs", "zpool"))
    return os.geteuid() == 0 and DEVICE.exists() and MODULE_VERSION.exists() and programs


def serves() -> bool:
    """Tell whether it is what tests are to use: no other version was asked for."""
    return usable() and not os.environ.get(ASKED)


def version_to_use() -> str:
    """The OpenZFS that tests are to use: the one asked for, this host's own, or the lab's."""
    return os.environ.get(ASKED) or (Host().version if usable() else LATEST)


class Host(Machine):
    """The host's own OpenZFS, used on pools in files only."""

    pool_folder = "/dev/shm"  # noqa: S108  not a predictable temporary file: pools have own names

    def __init__(self) -> None:
        self.version = MODULE_VERSION.read_text().strip().partition("-")[0]

    def command(self, *argv: str) -> list[str]:
        """Return the command line itself."""
        return list(argv)

    def zfs_settings(self) -> dict[str, str]:
        """Return no settings: Offsite reaches local ZFS by itself."""
        return {}

    def given_up(self, argv: Sequence[str], timeout: float) -> DeadlineError:
        """Return the error; a process that SIGKILL does not end hangs in the kernel."""
        words = shlex.join(argv)[:200]
        return DeadlineError(f"{words} did not end within {timeout:g} s; it hangs in the kernel")
