"""The whole offsite command in this process, on a pool whose zfs is a small program.

The program gives streams from files and keeps what it is given; all else is the product.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.world import Ran, write_settings
from offsite import cli, config, connect, journal
from offsite.repository import Keyring
from tests import repo
from tests.storage import proxy

DATASET = repo.DATASET
TARGET = "tank/new"
# Facts of a snapshot are in the file of its name: size, guid, createtxg, time.
_ZFS = """\
#!/bin/sh
printf '%s\\n' "$*" >> '{folder}/calls'
cd '{folder}/snapshots' || exit 99
for name; do :; done
short=${{name##*@}}
snapshot() {{ read -r size facts < "$1.facts"; printf '%s\\t%s\\n' "$name" "$facts"; }}
missing() {{ echo "cannot open '$name': dataset does not exist" >&2; exit 1; }}
case "$*" in
"send -t "*) echo "invalid option 't'" >&2; exit 2 ;;
"send -nP"*) read -r size facts < "$short.facts"; printf 'size\\t%s\\n' "$size" ;;
"send "*" -i "*) # the base's guid, of one byte, into BEGIN
    eval "base=\\${{$(($# - 1))}}"
    from=$(grep "^$base	" ../points | cut -f 2)
    head -c 48 "$short.zfs"; printf "\\\\$(printf %03o "$from")"; exec tail -c +50 "$short.zfs" ;;
"send "*) exec cat "$short.zfs" ;;
"receive "*) printf %s "$short" > ../short; exec cat > ../received ;;
"version"*) printf 'zfs-2.2.2\\nzfs-kmod-2.2.2\\n' ;;
"list -t snapshot,bookmark "*) [ ! -e ../points ] || cat ../points ;;
"bookmark "*)
    short=${{2##*@}} name=$3
    [ ! -e ../points ] || {{ snapshot "$short" | cut -f 1-3 | sed 's/$/\t-/' >> ../points; }} ;;
"list -t snapshot "*"{target}@"*) [ -e ../received ] || missing; snapshot "$short" ;;
"list -t snapshot "*" {target}") name="$name@$(cat ../short)"; snapshot "$(cat ../short)" ;;
"list -t snapshot "*) [ -e "$short.zfs" ] || missing; snapshot "$short" ;;
"list "*" tank" | "list "*" {dataset}")
    printf '%s\\t5555\\tfilesystem\\tlz4\\t0\\t0\\toff\\n' "$name" ;;
"list -t filesystem,volume -Ho name") echo tank; echo {dataset} ;;
"list "*) missing ;;
"snapshot "*)
    like=next; [ -e next.zfs ] || like=monday
    for each in zfs facts; do cp "$like.$each" "$short.$each"; done ;;
"hold "*) printf '%s\\t%s\\tnow\\n' "$3" "$2" >> ../holds ;;
"holds "*) grep "^$name	" ../holds; true ;;
"release "*) [ ! -e ../holds ] || sed -i "\\|^$3	$2	|d" ../holds ;;
"get -Ho value "*) echo - ;;
"get -pHo property,source "*) printf 'type\\t-\\n' ;;
"get "*) printf 'type\\tfilesystem\\t-\\n' ;;
esac
"""


@dataclass(frozen=True)
class Home:
    """A user's HOME with keys and settings, and the pool."""

    folder: Path

    def configure(self, **settings: str) -> None:
        """Write config.env; providers are ``NAME_REMOTE``."""
        lines = {"ZFS_COMMAND": f"/bin/sh {self.folder}/zfs", **settings}
        write_settings(self.folder / "config.env", lines)

    def snapshot(
        self,
        name: str,
        stream: bytes,
        *,
        guid: int,
        createtxg: int = 1000,
        creation: int = 1768651200,
    ) -> None:
        """Let the pool have this snapshot of DATASET."""
        folder = self.folder / "snapshots"
        (folder / f"{name}.zfs").write_bytes(stream)
        facts = f"{len(stream)} {guid}\t{createtxg}\t{creation}\n"
        (folder / f"{name}.facts").write_text(facts)

    def forget(self) -> None:
        """From now on ``calls`` and ``received`` tell of the next command."""
        (self.folder / "calls").write_text("")
        (self.folder / "received").unlink(missing_ok=True)

    def keep_bookmarks(self) -> None:
        """From now on; before, there is nothing to stand on, and every backup is a full one.

        Guids are to be less than 256.
        """
        (self.folder / "points").touch()

    def offsite(self, *arguments: str) -> Ran:
        """Run a command to its end; no thread of it is left."""
        self.forget()
        out, err, before = io.StringIO(), io.StringIO(), {*threading.enumerate()}
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                status = cli.main(arguments)
        finally:
            repo.wait_for(lambda: not _new(before))
        ran = Ran(status, out.getvalue(), err.getvalue())
        assert "internal error" not in ran.stderr, ran
        return ran

    def calls(self, verb: str) -> list[str]:
        """What the last command asked this verb of zfs for."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line for line in lines if line.split()[:1] == [verb]]

    @property
    def received(self) -> bytes | None:
        """What reached ``zfs receive`` in the last command."""
        path = self.folder / "received"
        return path.read_bytes() if path.exists() else None

    @property
    def holds(self) -> list[str]:
        """The tags that hold a snapshot."""
        path = self.folder / "holds"
        return [line.split("\t")[1] for line in path.read_text().splitlines()]

    @property
    def journals(self) -> Sequence[Path]:
        return sorted(journal.directory().glob("*"))

    @property
    def keyring(self) -> Keyring:
        return connect.catalog_keyring(config.load(self.environment(self.folder)))

    @staticmethod
    def environment(folder: Path) -> Mapping[str, str]:
        return {
            "HOME": str(folder),
            "OFFSITE_CONFIG": str(folder / "config.env"),
            "XDG_STATE_HOME": str(folder / "state"),
            "XDG_RUNTIME_DIR": "",
        }


def _new(before: set[threading.Thread]) -> list[threading.Thread]:
    """Threads that a command left behind; those of a proxy end when its other side has."""
    new = {*threading.enumerate()} - before
    return [thread for thread in new if not thread.name.startswith(proxy.THREADS)]


@contextmanager
def home(folder: Path) -> Iterator[Home]:
    """A new home in ``folder``, with keys; it is HOME until the end."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in Home.environment(folder).items():
            patch.setenv(name, value)
        made = Home(folder)
        (folder / "snapshots").mkdir(parents=True)
        (folder / "zfs").write_text(_ZFS.format(folder=folder, dataset=DATASET, target=TARGET))
        made.configure()
        assert made.offsite("keys", "init").status == 0
        yield made
