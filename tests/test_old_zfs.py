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
    log = Path(ran.stdout.splitlines()[0].removeprefix("Log file: "))
    found = [line.partition(" knows no ")[2] for line in log.read_text().splitlines()]
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
