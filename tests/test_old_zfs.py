"""The whole command on zfs that lacks things: what it has not is not used, and named in the log."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.world import Ran
from tests import old_zfs, repo, whole
from tests.whole import DATASET, TARGET, Home

STREAM = repo.stream(7, [repo.noise(5000, seed=1)])


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with whole.home(tmp_path) as made:
        made.snapshot("a", STREAM, guid=7)
        yield made


def use(home: Home, name: str, **settings: str) -> None:
    program = old_zfs.program(home.folder, name, rest=f"/bin/sh {home.folder}/zfs")
    store = str(home.folder / "store")
    home.configure(ONE_REMOTE=store, ZFS_COMMAND=str(program), **settings)


def named(ran: Ran) -> list[str]:
    """What the log says that this zfs knows not."""
    found = [line.partition(" knows no ")[2] for line in ran.log.splitlines()]
    return [line.partition(":")[0] for line in found if line]


def stored(home: Home) -> list[Path]:
    return sorted((home.folder / "store").rglob("*"))


OLD = {
    "linux-0.6.5": (
        ["encryption (send -w)", "compressed blocks (send -c)", "resume tokens (send -t)"],
        ["-L"],
        ["encryption", "resume tokens (receive -s)", "properties at receive (receive -o)"],
        ["-u"],
    ),
    "linux-0.7.13": (
        ["encryption (send -w)"],
        ["-L", "-c"],
        ["encryption"],
        ["-s", "-u", "-o", "-o"],
    ),
    "freebsd-12": (
        ["encryption (send -w)"],
        ["-L", "-c"],
        ["encryption", "properties at receive (receive -o)"],
        ["-s", "-u"],
    ),
    "illumos-2019": ([], ["-L", "-c"], ["properties at receive (receive -o)"], ["-s", "-u"]),
    "freebsd-13": ([], ["-L", "-c"], [], ["-s", "-u", "-o", "-o"]),
}


@pytest.mark.parametrize("name", OLD)
def test_it_is_backed_up_and_restored(home: Home, name: str) -> None:
    lacks_to_send, sent, lacks_to_receive, received = OLD[name]
    use(home, name, SEND_COMPRESSED="yes")
    done = home.offsite("--backup", f"{DATASET}@a")
    assert (done.status, named(done)) == (0, lacks_to_send), done
    assert home.calls("send")[-1] == f"send {' '.join(sent)} {DATASET}@a"
    done = home.offsite("--restore", DATASET, "--as", TARGET)
    assert (done.status, named(done)) == (0, lacks_to_receive), done
    assert home.received == STREAM
    (call,) = home.calls("receive")
    assert [word for word in call.split() if word[0] == "-"] == received
    marks = [line for line in home.calls("set") if "offsite:restoring" in line]
    backup = json.loads(home.offsite("--list", "--json").stdout)["backups"][0]["id"]
    by_hand = [f"set offsite:restoring={backup} {TARGET}"]
    assert marks == ([] if "-o" in received else by_hand)


# Read, not run, in zfs_do_send of a zfs_main.c that has send -c and no -w yet, as 0.7's: from a
# bookmark it rehearses nothing.
UNSIZED = """\
case "$*" in
"send -nP "*"#"*) echo 'Error: Unsupported flag with filesystem or bookmark.' >&2; exit 1 ;;
"get -pHo value referenced "*) echo 999999; exit ;;
esac
exec /bin/sh {folder}/zfs "$@"
"""


def test_an_increment_from_a_bookmark_whose_size_is_not_told(home: Home) -> None:
    """It is no large one for that, and what the snapshot refers to is not told for its size."""
    rest = home.folder / "unsized"
    rest.write_text(UNSIZED.format(folder=home.folder))
    program = old_zfs.program(home.folder, "linux-0.7.13", rest=f"/bin/sh {rest}")
    home.configure(ONE_REMOTE=str(home.folder / "store"), ZFS_COMMAND=str(program))
    home.keep_bookmarks()
    (full,) = home.offsite("--backup", f"{DATASET}@a", "--json").json["backups"]
    home.snapshot("b", repo.stream(8, []), guid=8, createtxg=2000)
    planned = home.offsite("--backup", f"{DATASET}@b", "--dry-run")
    assert "to one:\n  zfs does not tell how much. Nothing was changed.\n" in planned.stdout
    done = home.offsite("--backup", f"{DATASET}@b")
    assert done.status == 0, done
    assert f"INFO: Backing up {DATASET}@b to one\n" in done.log
    mark = f"{DATASET}#offsite-{full['backup_id'][-16:]}"
    assert home.calls("send")[-1] == f"send -L -i {mark} {DATASET}@b"
    assert f"An increment to one from bookmark {mark}" in done.log
    assert "more than half" not in done.log


def test_zfs_fuse_is_refused_before_anything_is_made(home: Home) -> None:
    use(home, "linux-2.3.2")
    assert home.offsite("--backup", f"{DATASET}@a").status == 0
    use(home, "zfs-fuse")
    before = stored(home)
    for arguments in (
        ("--backup", f"{DATASET}@new"),
        ("--backup", f"{DATASET}@new", "--dry-run"),
        ("--restore", DATASET, "--as", TARGET),
        ("--restore", DATASET, "-R", "--as", TARGET),
    ):
        (home.folder / "asked").write_text("")
        done = home.offsite(*arguments)
        assert done.status == 2, done
        assert "ERROR: the ZFS is too old (zfs-fuse?): it has no zfs list -p, no" in done.stderr
        assert "HINT: OpenZFS 0.7 or newer is needed" in done.stderr
        assert {*(home.folder / "asked").read_text().splitlines()} <= {""}
    assert stored(home) == before
