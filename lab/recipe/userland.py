"""The programs of a guest, with the libraries they are linked to."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from lab.errors import LabError
from lab.process import run, say
from lab.recipe.packages import Archive, closure, open_archive, unpack
from lab.recipe.release import Release

NETWORK = "network"
SLIRP = "slirp4netns"
PACKAGES = (
    "openssh-server", "dash", "attr", "tar", "coreutils", "findutils", "busybox-static", SLIRP,
)  # fmt: skip
ZFS_PACKAGE = "zfsutils-linux"
FOLDERS = ("sbin", "usr/sbin", "bin", "usr/bin", "lib/udev", "usr/lib/udev")
SSHD_PARTS = "usr/lib/openssh"
LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
LOADER = "ld-linux-x86-64.so.2"

PROGRAMS = ("dash", "zfs", "zpool", "zstream", "zdb", "mount.zfs", "zvol_id", "sshd")
# Where busybox's own are slower or lack what tests use (sparse files, -printf, xattrs).
GNU = (
    "setfattr", "getfattr", "tar", "find", "cp", "dd", "du", "head", "ls", "sha256sum", "stat",
    "sync", "tail", "timeout", "touch", "truncate",
)  # fmt: skip
DLOPENED = ("libgcc_s.so.1",)  # without it zstream aborts at the end of its threads


def unpack_userland(release: Release, scratch: Path) -> Path:
    """Return a tree with the unpacked packages of a guest's programs and their libraries."""
    say("fetching OpenZFS programs and their libraries (15 MB, about 15 s)")
    archive = open_archive(scratch / "apt-userland", release.suites)
    tree = scratch / "userland"
    unpack(archive, _packages(archive, release), tree)
    return tree


def _packages(archive: Archive, release: Release) -> list[str]:
    """Return our packages and the libraries they need; interpreters and their kin are left out."""
    versions = closure(archive, [f"{ZFS_PACKAGE}/{release.suite}", *PACKAGES])
    ours = {ZFS_PACKAGE, *PACKAGES}
    library = re.compile(r"z?lib(?!.*(perl|python))")
    # With the version: the suites of one archive may have different ones.
    return [f"{n}={v}" for n, v in versions.items() if n in ours or library.match(n)]


def copy_network(tree: Path, to: Path) -> None:
    """Copy slirp4netns, which runs on the host, with its own libraries and loader."""
    to.mkdir()
    path = program(tree, SLIRP)
    for name, source in {SLIRP: path, **libraries(tree, [path])}.items():
        shutil.copy(source, to / name)


def program(tree: Path, name: str) -> Path:
    """Return the path of a program in the tree; raises LabError if it has none."""
    for folder in FOLDERS:
        path = tree / folder / name
        if path.exists():
            return path
    raise LabError(f"the unpacked packages have no {name}")


def parts_of_sshd(tree: Path) -> list[Path]:
    """Return the programs that sshd starts for each connection; before OpenSSH 9.8, none."""
    return sorted((tree / SSHD_PARTS).glob("sshd-*"))


def libraries(tree: Path, programs: Iterable[Path]) -> dict[str, Path]:
    """Return file name and path of every library that the programs load, the loader included.

    The tree's own loader resolves them: the host's C library may be older than the tree's.
    """
    folders = [tree / folder for folder in LIBRARIES if (tree / folder).is_dir()]
    loader = next(folder / LOADER for folder in folders if (folder / LOADER).exists())
    found = {LOADER: loader}
    for name in DLOPENED:
        found[name] = next(folder / name for folder in folders if (folder / name).exists())
    search = ":".join(map(str, folders))
    for path in programs:
        listing = run([loader, "--inhibit-cache", "--library-path", search, "--list", path])
        for name, target in re.findall(r"^\s*(\S+) => (/\S+)", listing, re.MULTILINE):
            if not Path(target).is_relative_to(tree):
                raise LabError(f"{path.name} needs {name}, which the unpacked packages lack")
            found[Path(name).name] = Path(target)
    return found
