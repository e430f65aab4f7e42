"""Whole commands, each in a process of its own: what else is true of them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.faults import victims
from offsite import age
from offsite.zfs.records import MAGIC
from tests import repo, whole
from tests.terminal import on_terminal
from tests.test_slow_provider import environment, size_of_file
from tests.whole import DATASET, TARGET, Home

MIB = 1 << 20
MONDAY = f"{DATASET}@monday"
STREAM = repo.stream(77, [repo.noise(MIB, seed) for seed in range(6)])
HIDDEN = "\x1b[?25l"  # the cursor, by a live display
# Its send waits until it may go on.
WAITING = """#!/bin/sh
case "$1 $2" in
"send -nP") ;;
"send "*) touch {home}/begun; until [ -e {home}/go ]; do sleep 0.05; done ;;
esac
exec /bin/sh {home}/zfs "$@"
"""
# Both wait in the middle.
_HALFWAY = """#!/bin/sh
hold() {{ touch {home}/begun; until [ -e {home}/go ]; do sleep 0.05; done; }}
case "$1 $2" in
"send -nP" | "send -t") ;;
"send "*) /bin/sh {home}/zfs "$@" | {{ head -c 3000000; hold; {rest}; }}; exit ;;
"receive "*) {{ head -c 3000000; hold; {rest}; }} | /bin/sh {home}/zfs "$@"; exit ;;
esac
exec /bin/sh {home}/zfs "$@"
"""


def halfway(home: Home, rest: str = "cat") -> str:
    """A ZFS_COMMAND that makes ``begun`` in the middle of a stream and waits there for ``go``.

    ``rest``: what brings the second half.
    """
    program = home.folder / "halfway"
    program.write_text(_HALFWAY.format(home=home.folder, rest=rest))
    return f"/bin/sh {program}"


@contextmanager
def home_of_two(folder: Path) -> Iterator[Home]:
    """A home with one snapshot and two local folders."""
    with whole.home(folder / "home") as made:
        for name in ("one", "two"):
            (folder / name).mkdir()
        made.configure(
            ONE_REMOTE=str(folder / "one"), TWO_REMOTE=str(folder / "two"), SHARD_SIZE="1M"
        )
        made.snapshot("monday", STREAM, guid=77)
        yield made


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    with home_of_two(tmp_path) as made:
        yield made


def start(*arguments: str, prefix: tuple[str, ...] = (), **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*prefix, sys.executable, "-m", "offsite", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment() | more,
    )


def end(running: subprocess.Popen[str], status: int = 0) -> str:
    """Wait for a command; what it told on stdout and stderr."""
    out, err = running.communicate(timeout=300)
    assert running.returncode == status, (out, err)
    assert "Traceback" not in err
    return out + err


@pytest.mark.parametrize("typed", ["{}", "{} & wait $!"])
def test_a_job_in_the_background_of_a_terminal_has_a_log_file(home: Home, typed: str) -> None:
    """The live display would be drawn over what is typed there."""
    job = "&" in typed
    command = typed.format(f"{sys.executable} -m offsite --backup {MONDAY}")
    words = ["bash", "--norc", "-ic", command]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        status, told = on_terminal(words, [])
    assert (status, HIDDEN in told) == (0, not job), told
    logs = [*home.folder.glob("*.log")]
    assert [f"Log file: {path}\r\n" in told for path in logs] == [True] * job
    assert statuses(home) == [("complete", ["one", "two"])]


def test_a_quiet_run_tells_what_went_wrong_and_nothing_else(home: Home) -> None:
    """So that a timer's mail comes only then."""
    for command in (("--backup", MONDAY), ("--restore", MONDAY, "--as", TARGET)):
        ran = home.offsite(*command, "--quiet")
        assert (ran.status, ran.stdout, ran.stderr) == (0, "", "")
    ran = home.offsite("--restore", f"{DATASET}@never", "--as", "tank/other", "-q")
    assert (ran.status, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"ERROR: no finished backup of {DATASET}@never\nHINT: there are: @monday\n"
    )
    assert not [*home.folder.glob("*.log")]


@pytest.mark.parametrize("name", ["manifest.age", "index-00000.age", "chunk-00000000.zfs.zst.age"])
def test_what_a_provider_lost_is_given_to_it_again(home: Home, tmp_path: Path, name: str) -> None:
    """The second run knows it, and keeps that; the third one asks what is there all the same."""
    backup = ("--backup", "tank/photos@monday")
    assert [home.offsite(*backup).status for _ in range(2)] == [0, 0]
    (lost,) = (tmp_path / "two").rglob(name)
    (kept,) = (tmp_path / "one").rglob(name)
    lost.unlink()
    again = home.offsite(*backup)
    assert again.status == 0, again
    assert "two does not have all of the complete backup" in again.stderr
    assert lost.read_bytes() == kept.read_bytes()
    assert home.calls("send") == []
    assert "does not have all" not in home.offsite(*backup).stderr


def test_a_new_snapshot_of_a_name_that_is_taken(home: Home) -> None:
    """Every night's cron job would succeed, and nothing of the day be backed up."""
    taken = "WARNING: tank/photos@monday was there before, and is backed up: --as makes nothing new"
    new = ("--backup", DATASET, "--as", "@monday")
    first = home.offsite(*new, "--provider", "one")
    assert (first.status, taken in first.stderr) == (0, False), first  # it was not backed up yet
    again = home.offsite(*new)
    assert (again.status, taken in again.stderr) == (0, True), again
    assert "was there before" not in home.offsite("--backup", MONDAY).stderr


@pytest.mark.parametrize(("ahead", "times"), [(60, 0), (3600, 1)])
def test_a_snapshot_of_the_future(home: Home, ahead: int, times: int) -> None:
    """Seconds; it is backed up all the same."""
    home.snapshot("monday", STREAM, guid=77, creation=int(time.time()) + ahead)
    ran = home.offsite("--backup", MONDAY)
    assert ran.status == 0, ran
    warning = f"WARNING: {MONDAY} is of the future: is this machine's clock right?\n"
    assert ran.stderr.count(warning) == times


def test_what_is_damaged_everywhere_is_given_to_nobody(home: Home, tmp_path: Path) -> None:
    home.offsite("--backup", MONDAY, "--provider", "one")
    chunk = next(path for path in files(tmp_path / "one") if path.name.startswith("chunk-"))
    chunk.write_bytes(bytes(chunk.stat().st_size))
    ran = home.offsite("--backup", MONDAY)
    assert ran.status == 1, ran
    error, hint = ran.stderr.splitlines()[-2:]
    assert re.search(rf"{chunk.name}.* cannot be had", error)
    assert hint == (
        "HINT: this backup cannot be copied any more: make another one, of a new snapshot: --full"
    )
    assert statuses(home) == [("complete", ["one"])]


def statuses(home: Home) -> list[tuple[str, Any]]:
    rows = home.offsite("--list", "--json").json["backups"]
    return sorted((row["status"], row["providers"]) for row in rows)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_the_bookmark_is_made_before_the_stream_begins(home: Home) -> None:
    """Then no kill is early enough to lose what the next increment stands on."""
    (done,) = home.offsite("--backup", MONDAY, "--json").json["backups"]
    mark = f"bookmark {MONDAY} {DATASET}#offsite-{done['backup_id'][-16:]}"
    order = (home.folder / "calls").read_text().splitlines()
    (stream,) = home.calls("send")[-1:]
    assert home.calls("bookmark") == [mark]
    assert order.index(mark) < order.index(stream)


def test_what_is_sealed_to_two_recipients_comes_back_with_either_identity_alone(
    home: Home,
) -> None:
    """Two people, each with a safe of his own; a third one has no business there."""
    folder = home.folder / ".config/age"
    mine, other, stranger = folder / "zfs-backup.txt", folder / "other.txt", folder / "stranger.txt"
    for path in (other, stranger):
        path.touch(mode=0o600)
    identity = age.generate_identity()
    other.write_text(f"{identity.secret_line()}\n")
    stranger.write_text(f"{age.generate_identity().secret_line()}\n")
    with mine.with_suffix(".pub").open("a") as public:
        public.write(f"{identity.recipient}\n")
    assert home.offsite("--backup", MONDAY, "--provider", "one").status == 0
    own = home.folder / ".config/offsite"
    for name in ("catalog.key", "signing.key"):  # they are of no use on another machine
        (own / name).unlink()
    body = {path: path.read_text() for path in (mine, other, stranger)}
    for path in body:
        path.unlink()
    for path, text in body.items():
        mine.touch(mode=0o600)
        mine.write_text(text)
        ran = home.offsite("--restore", MONDAY, "--as", TARGET, "--provider", "one")
        assert ran.status == (2 if path == stranger else 0), ran
        assert home.received == (None if path == stranger else STREAM)


def test_a_stream_of_a_big_endian_machine_is_refused_before_a_chunk_is_stored(home: Home) -> None:
    begin = struct.pack(">IIQQQIIQQ", 0, 0, MAGIC, 1, 1700000000, 2, 0, 77, 0).ljust(312, b"\0")
    home.snapshot("monday", begin + STREAM[312:], guid=77)
    ran = home.offsite("--backup", MONDAY)
    assert ran.status == 1
    assert "the stream is none that Offsite handles" in ran.stderr
    assert "from a big-endian machine" in ran.stderr
    (hint,) = [line for line in ran.stderr.splitlines() if line.startswith("HINT: ")]
    assert "little-endian" in hint
    assert "kept" not in hint
    for name in ("one", "two"):
        assert not list((home.folder.parent / name).rglob("chunk-*"))


@pytest.mark.parametrize("content", [None, "", "# public key: none\n"])
def test_without_recipients_nothing_is_sent(home: Home, content: str | None) -> None:
    shutil.rmtree(home.folder / ".config/age")
    if content is not None:
        (home.folder / ".config/age").mkdir()
        (home.folder / ".config/age/zfs-backup.pub").write_text(content)
    ran = home.offsite("--backup", MONDAY)
    assert ran.status == 2, ran
    assert "offsite keys init" in ran.stderr or "recipient" in ran.stderr
    assert home.calls("send") == []
    assert files(home.folder.parent / "one") == files(home.folder.parent / "two") == []


def test_who_cannot_open_what_he_makes_is_told(home: Home) -> None:
    identity = home.folder / ".config/age/zfs-backup.txt"
    assert "opens nothing" not in home.offsite("--backup", MONDAY).stderr
    identity.write_text(age.generate_identity().secret_line())
    ran = home.offsite("--backup", MONDAY, "--restart")
    assert f"WARNING: {identity} opens nothing that is backed up from here" in ran.stderr
    identity.unlink()
    assert "opens nothing" not in home.offsite("--backup", MONDAY).stderr


def test_a_dataset_alone_means_a_backup_and_a_snapshot_a_restore(home: Home) -> None:
    home.snapshot("next", STREAM, guid=77)
    assert home.offsite(DATASET).status == 0
    assert log_of(home, "backup").count("a dataset alone means --backup") == 1
    (row,) = home.offsite("--list", "--json").json["backups"]
    assert row["complete"]
    assert home.received is None
    assert home.offsite(f"{DATASET}@{row['snapshot']}", "--as", TARGET).status == 0
    assert log_of(home, "restore").count("a dataset with @ means --restore") == 1
    assert home.received == STREAM


def test_what_an_absent_provider_stands_on_is_kept(home: Home) -> None:
    """No snapshot is left of it: without the bookmark, all would be sent to it again."""
    home.keep_bookmarks()
    marks = {}
    for number, name in enumerate("abcde", 1):
        home.snapshot(name, repo.stream(number, []), guid=number, createtxg=number)
        where = ("--provider", "one") if name in "bcd" else ()
        ran = home.offsite("--backup", f"{DATASET}@{name}", *where, "--json")
        assert ran.status == 0, ran
        made_for = ":one" if where else ""
        ids = [one["backup_id"] for one in ran.json["backups"]]
        marks[name] = [f"#offsite-{one[-16:]}{made_for}" for one in ids]
        bases = [one["base"] for one in ran.json["backups"]]
        if where:  # what such runs made is tidied by such a run
            gone = "b" if name == "d" else ""
            assert home.calls("destroy") == [f"destroy {DATASET}{marks[each][0]}" for each in gone]
    assert bases == ["d", "a"]
    assert home.calls("destroy") == [f"destroy {DATASET}{marks[name][0]}" for name in "bc"]


@pytest.mark.parametrize("kind", ["chunk-00000001", "index-", "manifest"])
def test_nothing_stands_on_what_a_provider_has_lost_a_part_of(home: Home, kind: str) -> None:
    """The other one's chain goes on."""
    home.keep_bookmarks()
    home.snapshot("a", repo.stream(1, [repo.noise(MIB, 1)] * 3), guid=1, createtxg=1)
    (full,) = home.offsite("--backup", f"{DATASET}@a", "--json").json["backups"]
    stored = home.folder.parent / "one/offsite/backups" / full["backup_id"]
    min(stored.glob(f"{kind}*")).unlink()
    home.snapshot("b", repo.stream(2, []), guid=2, createtxg=2)
    ran = home.offsite("--backup", f"{DATASET}@b")
    assert ran.status == 0, ran
    assert re.search(r"A full backup to one: .*(not whole there|nothing is there yet)", ran.log)
    assert "An increment to two from bookmark" in ran.log
    for name in ("one", "two"):
        file = str(home.folder / name)
        again = home.offsite("--restore", f"{DATASET}@b", "--to-file", file, "--provider", name)
        assert again.status == 0, again
        there = file if name == "one" else f"{file}.001 to two.002"
        assert f"INFO: Restoring {DATASET}@b to {there} from {name}, about" in again.log
    assert [path.name for path in sorted(home.folder.glob("[ot][nw]*"))] == [
        "one", "two.001", "two.002",
    ]  # fmt: skip


def log_of(home: Home, verb: str) -> str:
    return "".join(path.read_text() for path in home.folder.glob(f"offsite-{verb}-*.log"))


def test_why_a_backup_is_a_full_one_and_what_an_increment_costs_is_in_the_log(
    home: Home, tmp_path: Path
) -> None:
    home.keep_bookmarks()
    home.configure(ONE_REMOTE=str(tmp_path / "one"), MAX_CHAIN="1")
    why = {
        "a": "A full backup to one: nothing is there yet to stand on",
        "b": "more than half of the full backup @a",
        "c": "A full backup to one: 1 increments stand on the last full one (MAX_CHAIN)",
        "d": "A full backup to one: --full was asked for",
    }
    for number, name in enumerate(why, 1):
        home.snapshot(name, repo.stream(number, []), guid=number, createtxg=number)
        full = ["--full"] if name == "d" else []
        ran = home.offsite("--backup", f"{DATASET}@{name}", *full)
        assert [key for key, told in why.items() if told in ran.log] == [name]
        assert f"Backing up {DATASET}@{name} to one, about 936 B in ~1 chunk\n" in ran.log


def test_chunks_that_will_be_very_many_are_told(home: Home, tmp_path: Path) -> None:
    home.configure(ONE_REMOTE=str(tmp_path / "one"), SHARD_SIZE="64M")
    told = "about 212,992 chunks of 64 MiB: with larger ones (SHARD_SIZE) a restore takes less"
    assert told not in home.offsite("--backup", MONDAY).log
    home.snapshot("large", repo.stream(88, []), guid=88)
    facts = home.folder / "snapshots/large.facts"
    facts.write_text(f"{13 << 40} {facts.read_text().partition(' ')[2]}")
    assert told in home.offsite("--backup", f"{DATASET}@large").log


@pytest.mark.parametrize("more", [(), ("-R",)])
def test_which_of_two_hours_a_restore_means_is_told(home: Home, more: tuple[str, ...]) -> None:
    assert home.offsite("--backup", MONDAY).status == 0
    at = ("--at", "2026-10-25 02:30")
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
            time.tzset()
            ran = home.offsite("--restore", DATASET, *at, "--as", TARGET, *more)
    finally:
        time.tzset()
    assert ran.status == 0, ran
    told = (
        "Of the backups not after 2026-10-25 02:30 CET, not CEST: that hour comes twice;"
        " 2026-10-25T02:30+02:00 is the other"
    )
    assert told in log_of(home, "restore")


def test_one_dataset_to_two_providers_by_two_processes_side_by_side(home: Home) -> None:
    waiting = home.folder / "waiting"
    waiting.write_text(WAITING.format(home=home.folder))
    first = start("--backup", MONDAY, "--provider", "one", ZFS_COMMAND=f"/bin/sh {waiting}")
    try:
        repo.wait_for((home.folder / "begun").exists)
        end(start("--backup", MONDAY, "--provider", "two"))
        assert statuses(home) == [("complete", ["two"]), ("unfinished", ["one"])]
        (home.folder / "go").touch()
        end(first)
    finally:
        first.kill()
    assert statuses(home) == [("complete", ["one"]), ("complete", ["two"])]


def test_the_level_of_compression_reaches_what_is_stored(home: Home, tmp_path: Path) -> None:
    words = [word.encode() for word in ("tank", "chunk", "hold", "stream", "bookmark", "pool")]
    text = b" ".join(words[byte % 6] for byte in repo.noise(MIB // 4))
    home.snapshot("text", repo.stream(77, [text]), guid=77)
    sizes = []
    for level in ("1", "19"):
        home.configure(ONE_REMOTE=str(tmp_path / "one"), COMPRESSION=level)
        ran = home.offsite("--backup", f"{DATASET}@text", "--restart", "--json")
        assert ran.status == 0, ran
        sizes.append(ran.json["backup"]["stored_bytes"])
        shutil.rmtree(tmp_path / "one/offsite/backups")
    assert sizes[1] < sizes[0] * 0.9 < len(text) * 0.5


def test_no_temporary_file_holds_any_data(home: Home) -> None:
    begun, go = home.folder / "begun", home.folder / "go"
    with tempfile.TemporaryDirectory(prefix="offsite-tmp-") as name:
        for arguments in (("--backup", MONDAY), ("--restore", MONDAY, "--as", TARGET)):
            running = start(*arguments, TMPDIR=name, ZFS_COMMAND=halfway(home))
            most, looked = 0, 0
            while running.poll() is None:
                looked += begun.exists()
                seen = [*files(Path(name)), *unlinked(home.folder)]
                most = max(most, *(size_of_file(path) for path in seen), 0)
                if looked > 20:
                    go.touch()
                time.sleep(0.01)
            end(running)
            assert looked > 20
            begun.unlink()
            go.unlink()
            assert most < MIB / 10
            assert list(Path(name).iterdir()) == []


def unlinked(home: Path) -> list[Path]:
    """What has no name any more and is held open, anywhere but in memory, by anyone of a run."""
    found = []
    for process in victims.of_home(home):
        with contextlib.suppress(OSError):
            for path in Path(f"/proc/{process.pid}/fd").iterdir():
                place = str(path.readlink())
                if place.endswith(" (deleted)") and not place.startswith(("/memfd:", "/dev/")):
                    found.append(path)
    return found


def test_a_disk_that_is_not_mounted(home: Home) -> None:
    """Its folder is not made on the disk below it, and its backups are not said to be none."""
    missing = home.folder.parent / "not mounted/zfs"
    home.configure(ONE_REMOTE=str(home.folder.parent / "one"), USB_REMOTE=f"{missing}/")
    shutil.rmtree(missing.parent)
    ran = home.offsite("--backup", MONDAY)
    assert ran.status == 3
    lacking = f"the folder {missing} of provider usb is not there: is its disk mounted?"
    assert f"usb is left out from now on: {lacking}" in ran.stderr
    assert statuses(home) == [("complete", ["one"])]
    home.forget()
    for line in (["--backup", MONDAY], ["--list"], ["--restore", MONDAY, "--as", TARGET]):
        ran = home.offsite(*line, "--provider", "usb")
        assert ran.status == 1, ran
        assert lacking in ran.stderr
        assert f"HINT: if it is a new place: mkdir -p '{missing}'" in ran.stderr
        assert "No backups" not in ran.stdout
    assert home.calls("send") == []
    assert not missing.parent.exists()


def test_a_folder_that_may_not_be_written_to(home: Home) -> None:
    two = home.folder.parent / "two"
    two.chmod(0o555)
    prefix = bound_by_modes(two)
    told = end(start("--backup", MONDAY, prefix=prefix), status=3)
    assert f"two is left out from now on: cannot store offsite/FORMAT on two: mkdir {two}" in told
    assert "permission denied" in told
    assert statuses(home) == [("complete", ["one"])]
    told = end(start("--backup", MONDAY, "--provider", "two", prefix=prefix), status=1)
    assert f"ERROR: cannot store offsite/FORMAT on two: mkdir {two}/offsite: permission" in told
    assert "they may read, list and write there" in told
    assert files(two) == []


def bound_by_modes(folder: Path) -> tuple[str, ...]:
    """What runs a program as one whom file modes bind, even if we are root."""
    if os.geteuid() != 0:
        return ()
    prefix = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")
    tried = subprocess.run([*prefix, "touch", folder / "x"], capture_output=True, check=False)
    if tried.returncode == 0 or b"Permission denied" not in tried.stderr:
        pytest.skip(f"root cannot be bound here: {tried.stderr!r}")
    return prefix
