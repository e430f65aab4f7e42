"""Ordinary tools of the host: install the missing ones, and nothing else."""

import ctypes.util
import os
import platform
import shutil
import sys
from pathlib import Path

from lab import cache
from lab.errors import CommandError, LabError
from lab.process import run, say

BUILD = {
    "gcc": "build-essential",
    "make": "build-essential",
    "strip": "binutils",
    "perl": "perl",
    "dpkg-deb": "dpkg",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
}
KERNEL = {"bc": "bc", "bison": "bison", "flex": "flex", "xz": "xz-utils"}
BOOT = {"ssh": "openssh-client", "setpriv": "util-linux", "tar": "tar", "taskset": "util-linux"}
EMULATOR = {"qemu-system-x86_64": "qemu-system-x86"}


def need(tools: dict[str, str]) -> None:
    """Install the packages of those commands that the host lacks."""
    _install({package for name, package in tools.items() if not shutil.which(name)})


def need_for_build(*, emulated: bool) -> None:
    """Install what compiling a kernel or its modules takes. Raises LabError off x86-64."""
    if platform.machine() != "x86_64":
        raise LabError(f"the lab builds x86-64 guests only, this is {platform.machine()}")
    need(BUILD if emulated else BUILD | KERNEL)
    # objtool of the kernel headers is linked to it
    if emulated and not ctypes.util.find_library("elf"):
        _install({"libelf1"})


def need_file(path: Path, package: str) -> None:
    """Install the package that brings a file, if the file is missing."""
    if not path.exists():
        _install({package})


def _install(packages: set[str]) -> None:
    if not packages:
        return
    names = sorted(packages)
    # sudo asks on the terminal, whatever stdin of apt-get is; where nobody sits, it must not hang.
    ask = [] if sys.stdin.isatty() else ["-n"]
    prefix = [] if os.geteuid() == 0 else ["sudo", *ask]
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y"]
    apt += ["-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "--no-install-recommends", *names]
    say(f"installing on this host: {' '.join(names)} (about 20 s)")
    with cache.alone("apt"):  # apt-get update does not wait for another one
        try:
            run(install, timeout=900)
        except CommandError:
            try:
                run([*apt, "update"], timeout=600)  # lists may be missing or stale
                run(install, timeout=900)
            except CommandError as error:
                told = f"please install these packages: {' '.join(names)}"
                raise LabError(f"{told}\n{error}") from error
