"""Put kernel modules, programs and a few settings into one initramfs."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lab.process import run
from lab.recipe import cpio
from lab.recipe.userland import (
    GNU,
    LOADER,
    PROGRAMS,
    SSHD_PARTS,
    libraries,
    parts_of_sshd,
    program,
)

HERE = Path(__file__).parent
FOLDERS = (
    "dev", "etc", "etc/ssh", "etc/zfs", "modules", "pools", "proc", "root", "root/.ssh",
    "run", "run/sshd", "sys", "tmp", "usr", "usr/bin", "usr/lib", "usr/lib/openssh", "var",
)  # fmt: skip
# One folder for all programs, whatever folder a script expects.
LINKS = {
    "bin": "usr/bin",
    "sbin": "usr/bin",
    "usr/sbin": "bin",
    "lib": "usr/lib",
    "lib64": "usr/lib",
    "var/run": "/run",
    "init": "usr/bin/init",
    "usr/bin/sh": "dash",  # busybox's shell would take its own applets instead of GNU programs
    "etc/mtab": "/proc/self/mounts",
}
SETTINGS = {
    "etc/passwd": "root:*:0:0:root:/root:/bin/sh\nsshd:*:100:100:sshd:/run/sshd:/bin/false\n",
    "etc/group": "root:x:0:\ndisk:x:6:\nsshd:x:100:\n",
    "etc/shells": "/bin/sh\n",
    "etc/hosts": "127.0.0.1 localhost lab\n",
    "etc/mdev.conf": "zd[0-9].* 0:6 660 */etc/zvol-link\n",
}
HOSTID = bytes.fromhex("0b5e17e0")  # pools remember it: the same after each boot


@dataclass(frozen=True)
class Keys:
    """The user's public ssh key and the guest's private one."""

    user: Path
    host: Path


def write_initramfs(path: Path, kernel: Path, userland: Path, keys: Keys) -> None:
    """Write the initramfs of a guest that lets in the owner of `keys`.

    `kernel` holds the modules in load order, `userland` the unpacked packages.
    """
    cpio.write(path, _entries(kernel, userland, keys))


def _entries(kernel: Path, userland: Path, keys: Keys) -> Iterator[cpio.Entry]:
    for name in FOLDERS:
        yield cpio.directory(name, 0o700 if name.startswith("root") else 0o755)
    yield cpio.character_device("dev/console", 5, 1)  # the kernel opens it before /init
    yield cpio.character_device("dev/null", 1, 3)
    for name, target in LINKS.items():
        yield cpio.link(name, target)
    for name, text in SETTINGS.items():
        yield cpio.file(name, text.encode())
    yield cpio.file("etc/hostid", HOSTID)
    yield cpio.file("root/.ssh/authorized_keys", keys.user.read_bytes(), 0o600)
    yield cpio.file("etc/ssh/host_key", keys.host.read_bytes(), 0o600)
    for name, mode in {
        "inittab": 0o644,
        "rc": 0o755,
        "sshd_config": 0o644,
        "zvol-link": 0o755,
    }.items():
        yield cpio.file(f"etc/{name}", (HERE / name).read_bytes(), mode)
    for module in sorted(kernel.glob("*.ko")):
        yield cpio.file(f"modules/{module.name}", module.read_bytes())
    yield from _programs(userland)


def _programs(userland: Path) -> Iterator[cpio.Entry]:
    busybox = program(userland, "busybox")
    yield cpio.file("usr/bin/busybox", busybox.read_bytes(), 0o755)
    ours = [program(userland, name) for name in (*PROGRAMS, *GNU)]
    for path in ours:
        yield cpio.file(f"usr/bin/{path.name}", path.read_bytes(), 0o755)
    taken = {"sh", *(path.name for path in ours)}
    for applet in applets(busybox):
        if applet not in taken:
            yield cpio.link(f"usr/bin/{applet}", "busybox")
    parts = parts_of_sshd(userland)
    for path in parts:
        yield cpio.file(f"{SSHD_PARTS}/{path.name}", path.read_bytes(), 0o755)
    for name, path in sorted(libraries(userland, [*ours, *parts]).items()):
        mode = 0o755 if name == LOADER else 0o644
        yield cpio.file(f"usr/lib/{name}", path.read_bytes(), mode)


def applets(busybox: Path) -> list[str]:
    """Return the names of the programs that busybox can play; it is static, so it runs here."""
    return [name for name in run([busybox, "--list"]).split() if name != "busybox"]
