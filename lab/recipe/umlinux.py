"""Compile a User-Mode Linux kernel with OpenZFS built in: Linux as an ordinary program.

Source: Documentation/virt/uml of Linux; `./configure --enable-linux-builtin` and copy-builtin of
OpenZFS.
"""

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lab.errors import LabError
from lab.process import run, run_logged, say

CONFIG = Path(__file__).with_name("uml.config")
CONFIGURED = "CONFIG_ZFS=y"
COMPILING = 1200  # seconds for a step that takes two minutes on two cores
# The kernel keeps a process's vector registers in this many bytes. A processor with AMX has 11008
# of them, and without room for all the host refuses to set any ("ptrace set fp regs failed, errno =
# 14"); a host with fewer takes what it has (ptrace_regset of Linux, kernel/ptrace.c). Some of these
# lie on kernel stacks, so those are larger, too (uml.config).
REGISTERS = Path("arch/x86/um/user-offsets.c")
FEW, ENOUGH = "DEFINE_LONGS(HOST_FP_SIZE, 2696)", "DEFINE_LONGS(HOST_FP_SIZE, 12288)"


def compile_kernel(tree: Path, log: Path) -> Path:
    """Build the kernel of the linux-source and zfs-dkms packages unpacked in ``tree``.

    Returns the program's path. Raises LabError that names ``log`` when a step fails.
    """
    (archive,) = (tree / "usr/src").glob("linux-source-*.tar.xz")
    (zfs,) = (tree / "usr/src").glob("zfs-*")
    say("unpacking the kernel's source (10 s)")
    run(["tar", "-xf", archive, "-C", tree], env={"XZ_OPT": "-T0"})
    linux = tree / archive.name.removesuffix(".tar.xz")
    _make_room_for_registers(linux / REGISTERS)
    # copy-builtin cleans it away.
    revision = (zfs / "include/zfs_gitrev.h").read_bytes()

    def make(*targets: str) -> None:
        jobs = len(os.sched_getaffinity(0))
        words = ["make", "-s", "ARCH=um", f"-j{jobs}", *targets]
        env = {"KCONFIG_ALLCONFIG": str(CONFIG)}
        run_logged(words, log, cwd=linux, env=env, timeout=COMPILING)

    make("allnoconfig")
    make("prepare", "modules_prepare")
    say("compiling the kernel, configuring OpenZFS (2 to 6 minutes)")
    with ThreadPoolExecutor(1) as beside:  # configure uses one processor, mostly
        configured = beside.submit(_configure, zfs, linux, log.with_suffix(".configure.log"))
        make("vmlinux")
        configured.result()
    say("compiling OpenZFS into the kernel (3 to 10 minutes)")
    run_logged(["./copy-builtin", str(linux)], log, cwd=zfs, env={"ARCH": "um"}, timeout=COMPILING)
    (linux / "include/zfs/zfs_gitrev.h").write_bytes(revision)
    run([linux / "scripts/config", "--file", linux / ".config", "-e", "ZFS"])
    make("olddefconfig")
    if CONFIGURED not in (linux / ".config").read_text().splitlines():
        raise LabError(f"the kernel does not take CONFIG_ZFS, see {log}")
    make("vmlinux")
    built = tree / "vmlinux"
    shutil.copy(linux / "vmlinux", built)
    run(["strip", "--strip-debug", built])
    return built


def _make_room_for_registers(source: Path) -> None:
    text = source.read_text()
    if FEW not in text:
        raise LabError(f"{source} is not as expected: {FEW} is missing")
    source.write_text(text.replace(FEW, ENOUGH))


def _configure(zfs: Path, linux: Path, log: Path) -> None:
    log.unlink(missing_ok=True)
    words = ["./configure", "--disable-dependency-tracking", "--with-config=kernel"]
    words += ["--enable-linux-builtin", f"--with-linux={linux}", f"--with-linux-obj={linux}"]
    run_logged([*words, "KERNEL_ARCH=um"], log, cwd=zfs, env={"ARCH": "um"}, timeout=COMPILING)
