"""Debian packages without touching the host's: own sources, own state, unpacked in a tree."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lab.errors import LabError
from lab.process import run
from lab.recipe.mirror import KEYRING, mirror

COMPONENTS = "main contrib"


@dataclass(frozen=True)
class Archive:
    """A view of some Debian suites, the last preferred, with apt's state in `state`."""

    state: Path
    suites: tuple[str, ...]

    def apt(self, command: str, *args: str | Path) -> list[str]:
        """Return the command line of apt-get or apt-cache on this archive alone."""
        options = {
            "Dir::State": self.state,
            "Dir::State::status": self.state / "status",
            "Dir::Cache": self.state / "cache",
            "Dir::Etc::sourcelist": self.state / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            # Prefer the last suite also for dependencies, as exact versions among them demand.
            "APT::Default-Release": self.suites[-1],
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "APT::Sandbox::User": "",  # its user cannot read a cache in a home directory
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            # Frozen mirrors look expired; the signature is still checked.
            "Acquire::Check-Valid-Until": "false",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        return [command, "-q", *words, *map(str, args)]


def open_archive(state: Path, suites: tuple[str, ...]) -> Archive:
    """Write an apt configuration of those suites and fetch their package lists."""
    uri = mirror()
    for folder in ("lists/partial", "cache/archives/partial"):
        (state / folder).mkdir(parents=True)
    (state / "status").touch()
    lines = [f"deb [signed-by={KEYRING}] {uri} {suite} {COMPONENTS}\n" for suite in suites]
    (state / "sources.list").write_text("".join(lines))
    archive = Archive(state, suites)
    run(archive.apt("apt-get", "update", "--error-on=any"))
    return archive


def closure(archive: Archive, packages: Iterable[str]) -> dict[str, str]:
    """Return name and version of the packages and of all that they depend on.

    A name may carry its suite (`zfs-dkms/sid`).
    """
    args = ("-s", "install", "--no-install-recommends", *packages)
    plan = run(archive.apt("apt-get", *args))
    return dict(re.findall(r"^Inst (\S+) \((\S+)", plan, re.MULTILINE))


def version_of(archive: Archive, package: str, suite: str) -> str:
    """Return the upstream version of a package in a suite; raises LabError if there is none."""
    shown = run(archive.apt("apt-cache", "show", f"{package}/{suite}"))
    match = re.search(r"^Version: (?:\d+:)?([^-\s]+)", shown, re.MULTILINE)
    if not match:
        raise LabError(f"no package {package} in {suite}")
    return match[1]


def unpack(archive: Archive, packages: Iterable[str], tree: Path) -> None:
    """Download packages and unpack their files under `tree`, running no maintainer scripts."""
    folder = archive.state / "debs"
    folder.mkdir(exist_ok=True)
    tree.mkdir(exist_ok=True)
    run(archive.apt("apt-get", "download", *packages), cwd=folder)
    for deb in sorted(folder.glob("*.deb")):
        run(["dpkg-deb", "-x", deb, tree])
        deb.unlink()
