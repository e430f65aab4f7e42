"""A Debian on which nothing was ever installed, in a folder; it takes root.

Its processes are this machine's, with its network; what they mount is theirs alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lab.process import run
from lab.recipe import hosttools
from lab.recipe.mirror import mirror

CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
ENTER = """\
set -e
root=$1 script=$2
shift 2
for folder in /dev /proc "$@"; do
    mkdir -p "$root$folder"
    mount --rbind "$folder" "$root$folder"
done
exec timeout --foreground "$LIMIT" chroot "$root" bash -c "$script"
"""


@dataclass(frozen=True)
class Debian:
    """Its files are below `root`."""

    root: Path

    def command(self, script: str, *shared: Path) -> list[str]:
        """What runs bash's script there for at most LIMIT seconds of the environment; the folders
        that are shared are there under the same names."""
        return ["unshare", "--mount", "bash", "-c", ENTER, "", str(self.root), script] + [
            str(each) for each in shared
        ]


@contextmanager
def clean(suite: str, *packages: str) -> Iterator[Debian]:
    """One of that suite with nothing but what is essential, apt, and these packages."""
    hosttools.need({"debootstrap": "debootstrap", "unshare": "util-linux"})
    with tempfile.TemporaryDirectory(prefix="offsite-debian-") as name:
        root = Path(name)
        with_them = ",".join(["ca-certificates", *packages])
        options = ["--variant=minbase", f"--include={with_them}"]
        # What it mounts there is gone with it, even if it is killed.
        install = ["unshare", "--mount", "debootstrap", *options, suite, name, mirror()]
        run(install, timeout=900)
        # Its name service, and whom this machine trusts, for there may be a proxy in between.
        for path in ("etc/resolv.conf", "etc/hosts", CERTIFICATES):
            if Path("/", path).exists():
                shutil.copyfile(Path("/", path), root / path)
        yield Debian(root)
