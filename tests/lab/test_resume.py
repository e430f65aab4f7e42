"""Interrupted backups and restores, on real OpenZFS: the same command goes on from where it was.

Streams are kept small and lines slow, so that an interruption strikes while chunks are moving.
"""

from __future__ import annotations

import hashlib
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from lab.faults import victims
from lab.world import World, recipe, wait_for
from offsite.indexes import RECEIPTS
from tests.lab.disks import disk_of

MIB = 1 << 20
KEY = "/tmp/resume-key"  # on the machine
# An OpenZFS that cannot resume a send, as before 0.7, at the end of ZFS_COMMAND.
OLD_ZFS = """#!/bin/sh
if [ "$1 $2" = "send -t" ]; then echo "invalid option 't'" >&2; exit 2; fi
exec zfs "$@"
"""
# One whose streams are other ones: large blocks come in parts of 128 KiB.
OTHER_ZFS = """#!/bin/sh
if [ "$1 $2" = "send -t" ]; then echo "invalid option 't'" >&2; exit 2; fi
if [ "$1 $2" = "send -L" ]; then shift 2; exec zfs send "$@"; fi
exec zfs "$@"
"""
# A receive that lives on for a while after whoever fed it was killed.
SLOW_TO_END = """#!/bin/sh
[ "$1" = receive ] || exec zfs "$@"
{ cat; sleep 8; } | zfs "$@"
"""


@pytest.fixture
def data(world: World, pool: str) -> str:
    """A filesystem with 8 MiB of noise and all sorts of files."""
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", "-o", "recordsize=1M", "-o", "xattr=sa", name)
    world.fill(name, noise=8)
    return name


def chunks(place: Path) -> int:
    return len(list(place.rglob("chunk-*")))


def interrupt(
    world: World,
    snapshot: str,
    kind: signal.Signals,
    more: int = 3,
    rate: str = "500k",
    settings: Mapping[str, str] | None = None,
) -> None:
    """Begin the backup, or go on with it, and end it after ``more`` more chunks."""
    environment = {"RCLONE_FLAGS": f"--bwlimit {rate}", **(settings or {})}
    before = world.receipts()
    running = world.start("--backup", snapshot, **environment)
    wait_for(lambda: world.receipts() >= before + more or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    running.send_signal(kind)
    running.communicate(timeout=60)


def finish(world: World, snapshot: str, *args: str, **environment: str) -> Any:
    command = ("--backup", snapshot, "--json", *args)
    return world.offsite(*command, status=0, **environment).json["backup"]


def log_of(world: World, verb: str = "backup") -> str:
    """All that runs in the background have written."""
    paths = sorted(world.home.glob(f"offsite-{verb}-*.log"), key=lambda path: path.stat().st_mtime)
    return "".join(path.read_text() for path in paths)


def tree(place: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in place.rglob("*")
        if path.is_file()
    }


def stream_stored(world: World, folder: Path, place: Path, backup_id: str = "*") -> bytes:
    """What FORMAT.md's recipe hands to zfs receive, of this backup or the only one."""
    (backup,) = (place / "offsite/backups").glob(backup_id)
    tools = folder / "tools"
    tools.mkdir(parents=True)
    (tools / "zfs").write_text(f'#!/bin/sh\nexec cat > "{folder}/stream"\n')
    (tools / "zfs").chmod(0o755)
    environment = world.environment() | {
        "REMOTE": str(place),
        "ID": backup.name,
        "IDENTITY": str(world.home / ".config/age/zfs-backup.txt"),
        "SIGNERS": str(world.home / ".config/offsite/allowed_signers"),
        "TARGET": "unused",
    }
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    subprocess.run(["sh", "-c", recipe()], env=environment, cwd=folder, check=True)
    return (folder / "stream").read_bytes()


def sent(world: World, *args: str) -> bytes:
    """A plain, uninterrupted send."""
    done = subprocess.run(
        world.machine.command("zfs", "send", *args), capture_output=True, check=True, timeout=120
    )
    return done.stdout


def check_clean(world: World, snapshot: str) -> None:
    """No hold, no journal, nothing unfinished stays."""
    assert world.machine.run("zfs", "holds", "-H", snapshot).stdout == ""
    assert not list((world.home / ".local/state/offsite/journals").iterdir())
    assert all(row["complete"] for row in world.offsite("--list", "--json").json["backups"])


# --- backup: the token engine ---------------------------------------------------------------------


def create_key(world: World) -> list[str]:
    world.machine.run("dd", "if=/dev/urandom", f"of={KEY}", "bs=32", "count=1")
    location = f"keylocation=file://{KEY}"
    return ["-o", "encryption=on", "-o", "keyformat=raw", "-o", location]


@pytest.mark.parametrize("kind", ["plain", "compressed", "encrypted"])
def test_a_filesystem_after_two_interruptions_is_one_and_the_same_stream(
    world: World, pool: str, tmp_path: Path, kind: str
) -> None:
    options = {
        "plain": [],
        "compressed": ["-o", "compression=zstd", "-o", "recordsize=1M"],
        "encrypted": create_key(world),
    }
    flags = {"plain": ["-L"], "compressed": ["-Lc"], "encrypted": ["-w"]}
    data = f"{pool}/{kind}"
    world.machine.run("zfs", "create", *options[kind], data)
    world.fill(data, noise=8)
    before = world.facts(data)
    interrupt(world, f"{data}@s", signal.SIGKILL)
    interrupt(world, f"{data}@s", signal.SIGINT)
    (row,) = world.offsite("--list", "--json").json["backups"]
    assert not row["complete"]
    assert 0 < row["percent"] < 100
    world.offsite("--restore", data, "--as", f"{pool}/early", status=2)
    done = finish(world, f"{data}@s")
    whole = sent(world, *flags[kind], f"{data}@s")
    log = log_of(world)
    assert log.count("chunks are stored (token)") == 2
    assert f"Resuming backup of {data}@s: {done['resumed_chunks']} of ~" in log
    # What was stored was not read again: at most the blocks of one record and what governs it.
    assert done["sent_bytes"] < len(whole) - (done["resumed_chunks"] - 1) * MIB + 2 * MIB
    assert done["sent_bytes"] < 0.8 * len(whole)
    assert stream_stored(world, tmp_path / "recipe", world.home / "one") == whole
    assert tree(world.home / "one") == tree(world.home / "two")
    file = tmp_path / "file"
    world.offsite("--restore", data, "--to-file", str(file))
    assert file.read_bytes() == whole
    world.offsite("--restore", data, "--as", f"{pool}/back")
    if kind != "encrypted":
        assert world.facts(f"{pool}/back") == before
    check_clean(world, f"{data}@s")


def test_a_volume(world: World, pool: str, tmp_path: Path) -> None:
    volume = f"{pool}/vol"
    world.machine.run("zfs", "create", "-V", "16M", "-o", "volblocksize=8K", volume)
    device = world.device(volume)
    world.machine.script(f"dd if=/dev/urandom of={device} bs=1M count=9 conv=fsync")
    interrupt(world, f"{volume}@s", signal.SIGKILL)
    done = finish(world, f"{volume}@s")
    assert "(token)" in log_of(world)
    whole = sent(world, "-L", f"{volume}@s")
    assert done["sent_bytes"] < len(whole) - MIB
    assert stream_stored(world, tmp_path / "recipe", world.home / "one") == whole


# How the dataset is made, and what zfs send is to be asked for.
STREAMS = {
    "increment": ((), ("-L", "-i", "@s0")),
    "compressed increment": (("-o", "compression=zstd"), ("-Lc", "-i", "@s0")),
    "increment from a bookmark": ((), ("-L", "-i", "#mark")),
    "raw increment": (("key",), ("-w", "-i", "@s0")),
    "volume increment": (("-V", "24M", "-o", "volblocksize=16K"), ("-L", "-i", "@s0")),
    "raw volume": (("-V", "24M", "-o", "volblocksize=16K", "key"), ("-w",)),
    "sent in the clear": (("key",), ("-L",)),
    "renamed meanwhile": ((), ("-L",)),
}


@pytest.mark.parametrize("kind", STREAMS)
def test_other_streams_after_an_interruption_are_one_and_the_same(
    world: World, pool: str, tmp_path: Path, kind: str
) -> None:
    options, send = STREAMS[kind]
    data, target = f"{pool}/data", f"{pool}/back"
    settings = {"SEND_RAW": "no"} if kind == "sent in the clear" else {}
    key = create_key(world) if "key" in options else []
    world.machine.run("zfs", "create", *key, *(one for one in options if one != "key"), data)
    place = world.device(data) if "-V" in options else f"/{data}/noise"
    write = f"dd if=/dev/urandom of={place} bs=1M conv=fsync,notrunc 2>/dev/null"
    if "-i" in send:
        world.machine.script(f"{write} count=2")
        finish(world, f"{data}@s0", **settings)
    if "#mark" in send:
        world.machine.script(f"zfs bookmark {data}@s0 {data}#mark; zfs destroy {data}@s0")
    world.machine.script(f"{write} count=7 seek=1")
    interrupt(world, f"{data}@s", signal.SIGKILL, settings=settings)
    whole = sent(world, *send, f"{data}@s")
    begun = data  # the name in the manifest: it was signed with what was stored first
    if kind == "renamed meanwhile":
        data = f"{data}-renamed"
        world.machine.run("zfs", "rename", begun, data)
    done = finish(world, f"{data}@s", **settings)
    log = log_of(world)
    assert "chunks are stored (token)" in log
    assert "re-send and compare" not in log
    assert done["sent_bytes"] < len(whole) - (done["resumed_chunks"] - 1) * MIB + 2 * MIB
    assert done["sent_bytes"] < 0.8 * len(whole)
    assert tree(world.home / "one") == tree(world.home / "two")
    stored = stream_stored(world, tmp_path / "recipe", world.home / "one", done["backup_id"])
    assert stored == whole
    file = str(tmp_path / "file")
    done = world.offsite("--restore", begun, "--to-file", file, "--json").json["restore"]
    assert Path(done["files"][-1]).read_bytes() == whole
    world.offsite("--restore", begun, "--as", target)
    assert world.content(target, KEY) == world.content(data, KEY)
    check_clean(world, f"{data}@s")


def test_another_machine_goes_on_with_nothing_but_remote_and_keys(
    world: World, pool: str, tmp_path: Path
) -> None:
    """Its bound: the receipts since the last index, and what was in flight."""
    data = f"{pool}/photos"
    world.machine.run("zfs", "create", "-o", "recordsize=1M", data)
    world.fill(data, noise=RECEIPTS + 12)
    interrupt(world, f"{data}@s", signal.SIGKILL, more=RECEIPTS + 2, rate="2M")
    shutil.rmtree(world.home / ".local/state/offsite/journals")
    other = World(tmp_path / "other", world.machine)
    shutil.copytree(world.home / ".config", other.home / ".config", symlinks=True)
    for name in ("one", "two"):
        (other.home / name).symlink_to(world.home / name)
    done = finish(other, f"{data}@s")
    assert "(token)" in log_of(other)
    assert done["resumed_chunks"] >= RECEIPTS - 1  # the last one may lack its end
    assert done["sent_bytes"] < done["stream_bytes"] - (RECEIPTS - 2) * MIB
    world.offsite("--restore", data, "--as", f"{data}-back")
    assert world.facts(f"{data}-back") == world.facts(data)


# --- backup: re-send and compare ------------------------------------------------------------------


def test_a_zfs_that_cannot_resume_sends_again_and_nothing_is_stored_twice(
    world: World, data: str
) -> None:
    interrupt(world, f"{data}@s", signal.SIGKILL, more=4)
    early = tree(world.home / "one")
    done = finish(world, f"{data}@s", ZFS_COMMAND=world.program("old", OLD_ZFS))
    assert "(re-send and compare)" in log_of(world)
    assert done["sent_bytes"] == done["stream_bytes"]
    late = tree(world.home / "one")
    kept = [name for name in early if "chunk-" in name and late[name] == early[name]]
    assert len(kept) >= done["resumed_chunks"] >= 3
    world.offsite("--restore", data, "--as", f"{data}-back")
    assert world.facts(f"{data}-back") == world.facts(data)


def test_a_stream_that_differs_is_stored_anew_from_there_on(world: World, data: str) -> None:
    interrupt(world, f"{data}@s", signal.SIGKILL, more=6)
    done = finish(world, f"{data}@s", ZFS_COMMAND=world.program("other", OTHER_ZFS))
    assert "The stream is another one from chunk" in log_of(world)
    assert done["sent_bytes"] == done["stream_bytes"]
    world.offsite("--restore", data, "--as", f"{data}-back")
    assert world.facts(f"{data}-back") == world.facts(data)
    check_clean(world, f"{data}@s")


# --- backup: what cannot go on --------------------------------------------------------------------


# The snapshot of the same name is another one.
REWIND = """
zpool export {1}
zpool import -o cachefile=none -d {2} --rewind-to-checkpoint {1}
zfs snapshot {0}@s
"""
# What is done before the backup that is cut off, and after it.
LOSSES = {
    "destroyed": (":", "zfs destroy {0}@s"),
    "rolled back": ("zfs snapshot {0}@early", "zfs rollback -r {0}@early"),
    "pool rolled back": (
        "zpool sync {1}; zpool checkpoint {1}",
        REWIND,
    ),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_snapshot_is_told_and_the_chunks_are_kept_until_restart(
    world: World, pool: str, data: str, loss: str
) -> None:
    before, after = (text.format(data, pool, world.machine.pool_folder) for text in LOSSES[loss])
    world.machine.script(before)
    # A killed run leaves its hold; only the whole pool can be taken back from under it.
    interrupt(world, f"{data}@s", signal.SIGKILL if loss == "pool rolled back" else signal.SIGINT)
    (row,) = world.offsite("--list", "--json").json["backups"]
    world.machine.script(after)
    kept, there = chunks(world.home / "one"), world.exists(f"{data}@s")
    refused = world.offsite("--backup", f"{data}@s", status=2)
    assert "its snapshot" in refused.stderr
    assert "is gone" in refused.stderr
    assert "--restart" in refused.stderr
    assert chunks(world.home / "one") == kept
    assert world.exists(f"{data}@s") == there
    done = finish(world, f"{data}@s", "--restart")
    assert done["backup_id"] != row["id"]
    assert done["resumed_chunks"] == 0
    (only,) = world.offsite("--list", "--json").json["backups"]
    assert only["id"] == done["backup_id"]
    check_clean(world, f"{data}@s")


@pytest.mark.parametrize("why", ["left out", "unreachable"])
def test_restart_at_one_provider_keeps_what_another_one_goes_on_from(
    world: World, data: str, why: str
) -> None:
    interrupt(world, f"{data}@s", signal.SIGINT)
    whole = finish(world, f"{data}@s", "--provider", "two")
    apart = ("--provider", "one") if why == "left out" else ()
    (world.home / "file").write_text("no folder")
    away = {} if apart else {"TWO_REMOTE": str(world.home / "file")}
    command = ("--backup", data, "--restart", "--json", *apart)
    anew = world.offsite(*command, status=0 if apart else 3, **away).json["backup"]
    assert anew["backup_id"] != whole["backup_id"]
    assert anew["resumed_chunks"] == 0
    world.machine.script(f"zfs destroy {data}@s; echo more > /{data}/more; zfs snapshot {data}@t")
    done = world.offsite("--backup", f"{data}@t", "--json").json["backups"]
    bases = {(one["type"], one["base"], *one["providers"]) for one in done}
    assert bases == {("incremental", anew["snapshot"], "one"), ("incremental", "s", "two")}
    for provider in ("one", "two"):
        world.offsite("--restore", data, "--as", f"{data}-{provider}", "--provider", provider)
        assert world.facts(f"{data}-{provider}") == world.facts(data)


def test_without_a_name_the_interrupted_snapshot_is_the_one_to_finish(
    world: World, data: str
) -> None:
    interrupt(world, data, signal.SIGKILL)
    (row,) = world.offsite("--list", "--json").json["backups"]
    done = finish(world, data)
    assert (done["backup_id"], done["snapshot"]) == (row["id"], row["snapshot"])
    again = finish(world, data)
    assert again["backup_id"] != done["backup_id"]


def test_other_recipients_begin_anew(world: World, data: str) -> None:
    interrupt(world, f"{data}@s", signal.SIGKILL)
    made = subprocess.run(["age-keygen"], capture_output=True, text=True, check=True)
    with (world.home / ".config/age/zfs-backup.pub").open("a") as file:
        file.write(made.stdout.partition("public key: ")[2].split()[0] + "\n")
    done = finish(world, f"{data}@s")
    assert done["resumed_chunks"] == 0
    assert "other keys or recipients" in log_of(world)


def test_a_finished_backup_is_not_made_twice(world: World, data: str) -> None:
    done = finish(world, f"{data}@s")
    before = tree(world.home / "one")
    again = finish(world, f"{data}@s")
    assert (again["backup_id"], again["sent_bytes"]) == (done["backup_id"], 0)
    assert tree(world.home / "one") == before


# --- backup: providers that fell behind -----------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A provider's folder with room for 4 MiB."""
    yield from disk_of(4, tmp_path / "small")


def test_a_provider_that_fell_behind_gets_the_chunks_of_the_other(
    world: World, data: str, small_disk: Path
) -> None:
    one = world.home / "one"
    world.configure(ONE_REMOTE=str(one), SMALL_REMOTE=str(small_disk))
    ran = world.offsite("--backup", f"{data}@s", "--json", status=3)
    assert ran.json["backup"]["providers"] == ["one"]
    subprocess.run(["mount", "-o", "remount,size=64M", str(small_disk)], check=True)
    done = finish(world, f"{data}@s")
    assert done["sent_bytes"] == 0
    assert done["failed"] == {}
    assert tree(one) == tree(small_disk)
    back = ("--restore", data, "--as", f"{data}-back", "--provider", "small")
    world.offsite(*back)
    assert world.facts(f"{data}-back") == world.facts(data)


def test_a_run_without_a_name_finishes_first_what_a_provider_has_in_part(
    world: World, data: str, small_disk: Path
) -> None:
    """Else a large first backup would begin anew each night that one provider is down."""
    one = world.home / "one"
    world.configure(ONE_REMOTE=str(one), SMALL_REMOTE=str(small_disk))
    begun = world.offsite("--backup", data, "--json", status=3).json["backup"]
    subprocess.run(["mount", "-o", "remount,size=64M", str(small_disk)], check=True)
    late, new = world.offsite("--backup", data, "--json").json["backups"]
    assert (late["backup_id"], late["sent_bytes"]) == (begun["backup_id"], 0)
    assert (new["type"], new["base"]) == ("incremental", begun["snapshot"])
    assert sorted(new["providers"]) == ["one", "small"]
    assert tree(one) == tree(small_disk)


def test_a_provider_behind_in_an_unfinished_backup_catches_up(
    world: World, data: str, small_disk: Path
) -> None:
    one = world.home / "one"
    world.configure(ONE_REMOTE=str(one), SMALL_REMOTE=str(small_disk))
    interrupt(world, f"{data}@s", signal.SIGKILL, more=7)
    assert chunks(small_disk) < chunks(one)
    subprocess.run(["mount", "-o", "remount,size=64M", str(small_disk)], check=True)
    done = finish(world, f"{data}@s")
    assert 0 < done["sent_bytes"] < done["stream_bytes"]
    assert done["resumed_chunks"] > 0
    finished = tree(one)
    assert finished == tree(small_disk)
    world.offsite("--restore", data, "--as", f"{data}-back", "--provider", "small")
    assert world.facts(f"{data}-back") == world.facts(data)


# --- restore --------------------------------------------------------------------------------------


SLOW = "--bwlimit 250k"  # so that a run can be cut before all is through, whoever is the faster


def interrupt_restore(
    world: World, data: str, target: str, *args: str, **environment: str
) -> subprocess.Popen[str]:
    """Begin a restore, or go on with it, until zfs has a good part of it."""
    enough = taken_in(world, target) + 3 * MIB
    restore = ("--restore", data, "--as", target, *args)
    running = world.start(*restore, RCLONE_FLAGS=SLOW, **environment)
    wait_for(lambda: taken_in(world, target) >= enough or running.poll() is not None)
    assert running.poll() is None, running.communicate()
    return running


def taken_in(world: World, target: str) -> int:
    """Bytes that an unfinished receive has on the disk."""
    pool = target.partition("/")[0]
    world.machine.run("zpool", "sync", pool)
    return int(world.get(target, "used", check=False) or 0)


@pytest.mark.parametrize("kind", ["plain", "encrypted"])
def test_a_restore_goes_on_and_fetches_only_the_rest(world: World, pool: str, kind: str) -> None:
    data, target = f"{pool}/{kind}", f"{pool}/back"
    world.machine.run("zfs", "create", *(create_key(world) if kind == "encrypted" else []), data)
    world.fill(data, noise=20)  # what may flow in before a run is ended is a fraction of it
    before = world.facts(data)
    done = finish(world, f"{data}@s")
    running = interrupt_restore(world, data, target)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    wait_for(lambda: len(world.get(target, "receive_resume_token", check=False)) > 1)
    running = interrupt_restore(world, data, target, "--provider", "two")
    world.machine.script(f"{victims.STREAMS}\nkill -9 $(streams {target})", check=False)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 1, stderr
    ran = world.offsite("--restore", data, "--as", target, "--json").json["restore"]
    fetched = sum(ran["providers"].values())
    assert fetched < done["stored_bytes"] - 2 * MIB, "what was received was fetched again"
    assert log_of(world, "restore").count(f"Resuming restore to {target}") == 2
    assert ran["resumed_chunks"] >= 4
    assert world.get(target, "receive_resume_token") == "-"
    assert world.content(target, KEY) == before


def test_a_receive_that_still_works_for_a_killed_run_is_waited_for(world: World, data: str) -> None:
    """It tells how far it came only when it ends, and that is another place than before."""
    target = f"{data}-back"
    before = world.facts(data)
    finish(world, f"{data}@s")
    slow = world.program("slow", SLOW_TO_END)
    running = interrupt_restore(world, data, target, ZFS_COMMAND=slow)
    running.send_signal(signal.SIGKILL)
    running.communicate(timeout=60)
    early = world.get(target, "receive_resume_token")
    ran = world.offsite("--restore", data, "--as", target, "--json").json["restore"]
    assert ran["resumed_chunks"] > 0
    assert f"still works on {target}" in log_of(world, "restore")
    assert len(early) > 1
    assert world.facts(target) == before


def test_restart_throws_away_only_what_was_received(world: World, data: str) -> None:
    target = f"{data}-back"
    finish(world, f"{data}@s")
    finish(world, f"{data}@t", "--full")
    running = interrupt_restore(world, f"{data}@s", target)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "the same command goes on" in stderr
    refused = world.offsite("--restore", f"{data}@t", "--as", target, status=2)
    assert "interrupted restore of another snapshot" in refused.stderr
    assert "--restart" in refused.stderr
    world.offsite("--restore", f"{data}@t", "--as", target, "--restart")
    assert world.facts(target) == world.facts(data)
    assert world.exists(f"{target}@t")
    refused = world.offsite("--restore", f"{data}@s", "--as", target, "--restart", status=2)
    assert "exists; it was not touched" in refused.stderr
