"""About how long a stream will be, from zfs or, where that does not tell, from the snapshot."""

from __future__ import annotations

from pathlib import Path

import pytest

from offsite.errors import ZfsError
from offsite.zfs import datasets
from offsite.zfs.command import Zfs

# As zfs 2.1 to 2.4 tell it.
FULL = "full\ttank/a@b\t4242\nsize\t4242\n"
GONE = "echo 'cannot open: dataset does not exist' >&2; exit 1"


def zfs(folder: Path, send: str, referenced: str = "echo 777") -> Zfs:
    script = folder / "zfs"
    script.write_text(f"""\
echo "$*" >> {folder}/calls
case "$1 $2" in
"send -nP") {send} ;;
"get -pHo") {referenced} ;;
esac
""")
    return Zfs(("/bin/sh", str(script)))


def test_zfs_tells(tmp_path: Path) -> None:
    asked = zfs(tmp_path, f"printf '{FULL}'")
    found = datasets.estimate(asked, "tank/a@b", base="tank/a@a", flags=("-L", "-c"))
    assert found == 4242
    assert (tmp_path / "calls").read_text() == "send -nP -L -c -i tank/a@a tank/a@b\n"


@pytest.mark.parametrize(
    "send",
    [
        "echo 'cannot send: unsupported' >&2; exit 1",
        ":",
        r"printf 'incremental\ta\ttank/a@b\n'",  # as some do from a bookmark: no size at all
    ],
)
def test_zfs_does_not_tell(tmp_path: Path, send: str) -> None:
    """The snapshot's size is good for a full one, and far too much for an increment."""
    assert datasets.estimate(zfs(tmp_path, send), "tank/a@b") == 777
    assert datasets.estimate(zfs(tmp_path, send), "tank/a@b", base="tank/a#a") is None


def test_the_snapshot_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ZfsError, match="does not exist"):
        datasets.estimate(zfs(tmp_path, GONE, GONE), "tank/a@b")
