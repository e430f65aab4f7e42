"""Compile the OpenZFS kernel modules against unpacked Debian headers, without dkms."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError
from lab.process import run, run_logged, say

# In the order of their dependencies. OpenZFS 2.2 and later have only spl and zfs.
ZFS_MODULES = (
    "spl", "zavl", "znvpair", "zunicode", "zcommon", "zlua", "icp", "zzstd", "zfs",
)  # fmt: skip
COMPILING = 1200  # seconds for a step that takes minutes on two cores


def compile_modules(tree: Path, log: Path) -> Iterator[Path]:
    """Build the modules of the zfs-dkms source in `tree`; yield them in insertion order.

    `tree` has the unpacked linux-headers, linux-kbuild and zfs-dkms packages.
    Raises LabError that names `log` when configure or make fails.
    """
    source = _only(tree / "usr/src", "zfs-*")
    common = _only(tree / "usr/src", "linux-headers-*-common")
    headers = _only(tree / "usr/src", "linux-headers-*-cloud-amd64")
    _localise(headers, tree)
    compiler = _compiler(headers)
    configure = [
        "./configure",
        "--disable-dependency-tracking",
        "--with-config=kernel",
        f"--with-linux={common}",
        f"--with-linux-obj={headers}",
        f"CC={compiler}",
        f"KERNEL_CC={compiler}",
    ]
    # Kbuild appends these to the kernel's own flags: what is stripped in the end need not be made.
    lean = {"KCFLAGS": "-g0"}
    say("configuring the OpenZFS modules (1 to 2.5 minutes)")
    run_logged(configure, log, cwd=source, env=lean, timeout=COMPILING)
    jobs = len(os.sched_getaffinity(0))
    say(f"compiling the OpenZFS modules on {jobs} cores (2 to 5 minutes on two)")
    make = ["make", "-s", f"-j{jobs}", "-C", "module"]
    run_logged(make, log, cwd=source, env=lean, timeout=COMPILING)
    for name in ZFS_MODULES:
        for path in (source / "module").rglob(f"{name}.ko"):
            run(["strip", "--strip-debug", path])  # zfs.ko: 93 MB to 9 MB
            yield path


def _localise(headers: Path, tree: Path) -> None:
    """Make the headers' Makefile include its sibling in the tree, not in the host's /usr/src."""
    makefile = headers / "Makefile"
    text = makefile.read_text()
    makefile.write_text(re.sub(r"^include /usr/", f"include {tree}/usr/", text, flags=re.MULTILINE))


def _compiler(headers: Path) -> str:
    """Return the compiler the kernel was built with if the host has it, else plain gcc.

    The kernel's options suit its own compiler best; other versions of gcc only warn.
    """
    config = (headers / ".config").read_text()
    match = re.search(r'^CONFIG_CC_VERSION_TEXT="(\S+)', config, re.MULTILINE)
    return match[1] if match and shutil.which(match[1]) else "gcc"


def _only(folder: Path, pattern: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise LabError(f"expected one {pattern} in {folder}, found {len(found)}")
    return found[0]
