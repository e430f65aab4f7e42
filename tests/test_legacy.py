"""Backups of the older tool, made as it made them: ``gzip | age`` of slices of a stream."""

from __future__ import annotations

import gzip
import os
import subprocess
import threading
import tracemalloc
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from lab.world import Ran, recipe
from offsite import age, legacy, shards, unsigned
from offsite.age import Identities, Recipients
from offsite.errors import IntegrityError, ProviderError, StoppedError, UsageError
from offsite.progress import Silent
from offsite.remote import Entry
from offsite.zfs.command import Zfs
from offsite.zfs.records import Feature
from offsite.zfs.stream import Begin
from tests import repo, whole
from tests.programs import needs
from tests.storage.memory import MemoryRemote
from tests.thorough import cases
from tests.whole import DATASET, TARGET, Home

STREAM = repo.stream(77, [repo.noise(400_000), bytes(3_000_000), repo.noise(300_000, 2)])
SLICES = [STREAM[:1_000_000], STREAM[1_000_000:2_500_000], STREAM[2_500_000:]]
WANTED = f"{DATASET}@monday"
RESTORE = ("--restore", "--unsigned", WANTED, "--as", TARGET)
TEN, TWENTY, NONE = "-b{:010d}", "-b{:020d}", ""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """With two providers, and nothing on them."""
    needs("age", "gzip")
    with whole.home(tmp_path / "home") as made:
        folders = {name: made.folder / name for name in ("one", "two")}
        for folder in folders.values():
            folder.mkdir()
        made.configure(ONE_REMOTE=str(folders["one"]), TWO_REMOTE=str(folders["two"]))
        made.snapshot("monday", STREAM, guid=77)
        yield made


def seal(home: Home, plain: bytes, *, recipient: str | None = None) -> bytes:
    """What the older tool made of a slice."""
    to = ["-r", recipient] if recipient else ["-R", str(home.folder / ".config/age/zfs-backup.pub")]
    zipped = subprocess.run(["gzip"], input=plain, capture_output=True, check=True).stdout
    return subprocess.run(["age", *to], input=zipped, capture_output=True, check=True).stdout


def names(
    offset: str, slices: Sequence[bytes] = SLICES, label: str = "tank_photos", at: str = "monday"
) -> list[str]:
    starts = [sum(map(len, slices[:n])) for n in range(len(slices))]
    return [
        f"{label}:{at}-s{number:03d}{offset.format(start)}.zfs.gz.age"
        for number, start in enumerate(starts, 1)
    ]


def store(
    home: Home,
    offset: str = TWENTY,
    *,
    folder: str = "one/tank_photos",
    label: str = "tank_photos",
    at: str = "monday",
) -> list[Path]:
    """The whole backup; the paths of its shards."""
    place = home.folder / folder
    place.mkdir(exist_ok=True)
    paths = [place / name for name in names(offset, label=label, at=at)]
    for path, plain in zip(paths, SLICES, strict=True):
        path.write_bytes(seal(home, plain))
    return paths


def refused(ran: Ran, home: Home, *, status: int) -> str:
    """The refusal's text; zfs never saw the end of a stream."""
    assert ran.status == status, ran
    assert home.received is None or len(home.received) < len(STREAM)
    return " ".join(line for line in ran.stderr.splitlines() if "ERROR" in line or "HINT" in line)


# --- restoring ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "folder"), cases([TEN, TWENTY, NONE], ["one/tank_photos", "two"])
)
def test_a_backup_of_the_older_tool_comes_back(home: Home, offset: str, folder: str) -> None:
    store(home, offset, folder=folder)
    (home.folder / folder / "holiday.jpg").write_bytes(b"a stranger's")
    ran = home.offsite(*RESTORE, "--json")
    assert ran.status == 0, ran
    assert home.received == STREAM
    assert home.calls("receive") == [f"receive -u {TARGET}@monday"]
    assert "not signed: nobody can tell whether it is what was backed up, or whole" in ran.stderr
    told = ran.json["restore"]
    assert (told["signed"], told["backup_id"], told["chunks"]) == (False, "tank_photos:monday", 3)
    assert (told["dataset"], told["snapshot"], told["target"]) == (DATASET, "monday", TARGET)
    assert (told["stream_bytes"], sum(told["providers"].values())) == (
        len(STREAM),
        told["stored_bytes"],
    )


def test_its_parent_s_key_is_not_loaded(home: Home) -> None:
    """Known once the stream said that it is not raw; before zfs is asked for anything."""
    store(home)
    zfs = home.folder / "zfs"
    missing = '"get -Ho value keystatus tank") echo unavailable ;;\n"get -Ho value "*)'
    zfs.write_text(zfs.read_text().replace('"get -Ho value "*)', missing))
    told = refused(home.offsite(*RESTORE), home, status=2)
    assert f"{TARGET} is to be encrypted by the key of tank, which is not loaded" in told
    assert home.calls("receive") == []


def test_its_pool_lacks_a_feature(home: Home) -> None:
    """Embedded blocks are undone on the way, and it is not received with -s."""
    zpool = home.folder / "zpool"
    names = {"embedded_data": "disabled", "extensible_dataset": "disabled", "lz4_compress": "{}"}
    rows = "".join(f"feature@{name}\\t{state}\\n" for name, state in names.items())
    zfs = Zfs(("/bin/sh", str(home.folder / "zfs")))
    job = cast("unsigned._Job", SimpleNamespace(target=TARGET))
    features = Feature.EMBED_DATA | Feature.LZ4
    begin = Begin("tank/photos@monday", 1, 0, "filesystem", 0, features, 0)
    zpool.write_text(f"printf '{rows.format('enabled')}'")
    unsigned._check_pool(zfs, job, begin)
    zpool.write_text(f"printf '{rows.format('disabled')}'")
    with pytest.raises(UsageError, match="tank has no feature lz4_compress, which"):
        unsigned._check_pool(zfs, job, begin)


def test_it_is_taken_only_if_the_user_says_so(home: Home) -> None:
    """Who can delete the signed backups could plant one."""
    store(home, TWENTY)
    for asked in (WANTED, DATASET):
        ran = home.offsite("--restore", asked, "--as", TARGET)
        text = refused(ran, home, status=2)
        assert "tank_photos:monday of the older tool, not signed" in text
        assert "add --unsigned" in text


def test_the_label_is_a_name_for_it_too(home: Home) -> None:
    store(home)
    ran = home.offsite("--restore", "--unsigned", "tank_photos@monday", "--as", TARGET)
    assert ran.status == 0, ran
    assert home.received == STREAM
    assert "is restored to tank/new" in ran.stdout
    assert "nobody signed it" in ran.stdout
    assert "verified" not in ran.stdout


def test_one_label_of_two_datasets(home: Home) -> None:
    """tank_a_b is tank_a/b, or tank/a/b: the stream tells which."""
    data = repo.stream(77, [b"x"]).replace(b"tank/photos@", b"tank_a/b@mo\0")
    place = home.folder / "one/tank_a_b"
    place.mkdir()
    (place / "tank_a_b:monday-s001.zfs.gz.age").write_bytes(seal(home, data))
    text = refused(
        home.offsite("--restore", "--unsigned", "tank/a/b@monday", "--as", TARGET), home, status=2
    )
    assert "tank_a_b:monday is of tank_a/b, not of tank/a/b" in text
    assert "--restore tank_a/b@monday --as NAME" in text
    assert home.calls("receive") == []
    for name in ("tank_a/b", "tank_a_b"):
        assert home.offsite("--restore", "--unsigned", f"{name}@monday", "--as", TARGET).status == 0
        assert home.received == data


def test_shards_of_several_providers_are_one_backup(home: Home) -> None:
    """The older tool went on when an upload had failed."""
    one = store(home)
    two = store(home, folder="two/tank_photos")
    one[1].unlink()
    two[2].unlink()
    ran = home.offsite(*RESTORE, "--json")
    assert ran.status == 0, ran
    assert home.received == STREAM
    assert all(ran.json["restore"]["providers"].values())
    assert "has s003" not in ran.stderr
    text = refused(home.offsite(*RESTORE, "--provider", "one"), home, status=1)
    assert "no provider has s002 of its shards s001 to s003" in text


def test_another_copy_goes_on_in_the_middle_of_a_shard(home: Home) -> None:
    one = store(home)
    store(home, folder="two/tank_photos")
    sealed = bytearray(one[0].read_bytes())
    sealed[len(sealed) // 2] ^= 1
    one[0].write_bytes(sealed)
    ran = home.offsite(*RESTORE)
    assert ran.status == 0, ran
    assert home.received == STREAM
    assert "damaged at block" in ran.stderr
    assert "going on with the copy on two" in ran.stderr


def test_shards_of_runs_with_another_shard_size(home: Home) -> None:
    """What a run left that went on after the dataset had grown: overlapping slices."""
    paths = store(home)
    paths[2].unlink()
    later = paths[0].with_name(f"tank_photos:monday-s002-b{1_200_000:020d}.zfs.gz.age")
    later.write_bytes(seal(home, STREAM[1_200_000:2_600_000]))
    last = paths[0].with_name(f"tank_photos:monday-s003-b{2_600_000:020d}.zfs.gz.age")
    last.write_bytes(seal(home, STREAM[2_600_000:]))
    assert home.offsite(*RESTORE).status == 0
    assert home.received == STREAM
    paths[1].unlink()
    text = refused(home.offsite(*RESTORE), home, status=1)
    assert (
        "s002 begins at byte 1200000 of the stream, but what is before it ends at 1000000" in text
    )


@pytest.mark.parametrize("begun", [TEN, NONE])
def test_an_attempt_with_and_one_without_offsets(home: Home, begun: str) -> None:
    store(home, NONE if begun == TEN else TEN)
    for path in store(home, begun)[1:]:
        path.unlink()
    assert home.offsite(*RESTORE).status == 0
    assert home.received == STREAM


def test_to_a_file(home: Home) -> None:
    paths = store(home)
    file = home.folder / "photos.zfs"
    ran = home.offsite("--restore", "--unsigned", WANTED, "--to-file", str(file), "--json")
    assert ran.status == 0, ran
    assert (file.read_bytes(), ran.json["restore"]["signed"]) == (STREAM, False)
    assert home.calls("receive") == []
    file.unlink()
    paths[2].unlink()
    ran = home.offsite("--restore", "--unsigned", WANTED, "--to-file", str(file))
    assert ran.status == 1, ran
    assert not [path for path in home.folder.iterdir() if path.name.startswith("photos")]


def test_a_dry_run(home: Home) -> None:
    paths = store(home)
    ran = home.offsite(*RESTORE, "--dry-run")
    assert ran.status == 0, ran
    assert f"Would restore {WANTED} to {TARGET} from one" in ran.stdout
    assert "unsigned, 3 chunks" in ran.stdout
    assert home.calls("receive") == []
    told = home.offsite(*RESTORE, "--dry-run", "--json").json["restore"]
    assert told["providers"] == {"one": sum(path.stat().st_size for path in paths)}


@pytest.mark.parametrize("offset", [TEN, TWENTY, NONE])
def test_the_recipe_in_format_md(home: Home, tmp_path: Path, offset: str) -> None:
    """The stream comes back with stock tools, and not at all if a shard is missing."""
    needs("rclone", "age", "gunzip")
    last = store(home, offset)[2]
    zfs = tmp_path / "bin/zfs"
    zfs.parent.mkdir()
    zfs.write_text(f"#!/bin/sh\nexec cat > {tmp_path}/stream\n")
    zfs.chmod(0o755)
    environment = os.environ | {
        "PATH": f"{zfs.parent}:{os.environ['PATH']}",
        "REMOTE": str(home.folder / "one"),
        "NAME": "tank_photos:monday",
        "IDENTITY": str(home.folder / ".config/age/zfs-backup.txt"),
        "TARGET": TARGET,
    }

    def run() -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["sh", "-c", recipe("recipe for older backups")],
            env=environment, cwd=tmp_path, capture_output=True, check=False, timeout=300,
        )  # fmt: skip

    ran = run()
    assert ran.returncode == 0, ran
    assert (tmp_path / "stream").read_bytes() == STREAM
    (tmp_path / "stream").unlink()
    last.with_name(last.name.replace("-s003", "-s004")).write_bytes(last.read_bytes())
    last.unlink()
    ran = run()
    assert ran.returncode != 0
    assert b"not 1 to N, each once" in ran.stderr
    assert not (tmp_path / "stream").exists()


# --- which one ------------------------------------------------------------------------------------


def test_a_signed_backup_always_wins(home: Home) -> None:
    signed = repo.stream(77, [repo.noise(5000, 3)])
    home.snapshot("monday", signed, guid=77)
    assert home.offsite("--backup", WANTED).status == 0
    store(home)
    store(home, at="zz-later")
    for asked in (WANTED, DATASET):
        ran = home.offsite("--restore", "--unsigned", asked, "--as", TARGET, "--json")
        assert (ran.status, ran.json["restore"]["signed"]) == (0, True), ran
        assert home.received == signed
        assert "older tool" not in ran.stderr
    missing = home.offsite("--restore", "--unsigned", f"{DATASET}@no", "--as", TARGET)
    assert "no finished backup of tank/photos@no" in missing.stderr
    assert "the older tool left, unsigned: @monday, @zz-later" in missing.stderr


def test_a_damaged_signed_backup_is_not_replaced_by_an_unsigned_one(home: Home) -> None:
    assert home.offsite("--backup", WANTED, "--provider", "one").status == 0
    store(home)
    (manifest,) = home.folder.glob("one/offsite/backups/*/manifest.age")
    (chunk,) = home.folder.glob("one/offsite/backups/*/chunk-*")
    chunk.unlink()
    text = refused(home.offsite(*RESTORE), home, status=1)
    assert "gone or cut on" in text
    manifest.write_bytes(manifest.read_bytes()[:-1])
    assert "damaged" in refused(home.offsite(*RESTORE), home, status=2)
    (manifest.parent / "index-00000.age").unlink()
    assert "1 cannot" in refused(home.offsite(*RESTORE), home, status=2)


def test_the_latest_is_one_of_the_older_tool_if_there_is_nothing_else(home: Home) -> None:
    store(home)
    ran = home.offsite("--restore", "--unsigned", DATASET, "--as", TARGET)
    assert ran.status == 0, ran
    assert "no backup of tank/photos: @monday of the older tool is taken" in ran.stderr
    store(home, at="auto-20250718")
    ran = home.offsite("--restore", "--unsigned", DATASET, "--as", TARGET, "--dry-run")
    assert "the last by name of @auto-20250718, @monday; their times are not known" in ran.stderr
    for more in (["--host", "nas"], ["--at", "2026-01-17"]):
        text = refused(
            home.offsite("--restore", "--unsigned", DATASET, *more, "--as", TARGET), home, status=2
        )
        assert "no backup of tank/photos" in text


def test_who_cannot_be_asked_may_have_a_signed_one(home: Home) -> None:
    store(home)
    (home.folder / "two").rmdir()
    (home.folder / "two").write_text("a file where a folder should be")
    text = refused(home.offsite(*RESTORE), home, status=2)
    assert "two could not be read" in text
    assert home.offsite(*RESTORE, "--provider", "one").status == 0
    assert home.received == STREAM


@pytest.mark.parametrize("option", ["--update", "--replace", "--restart"])
def test_what_is_not_for_an_unsigned_backup(home: Home, option: str) -> None:
    store(home)
    text = refused(home.offsite(*RESTORE, option, "--yes"), home, status=2)
    assert f"{option} is not for tank_photos:monday" in text
    assert home.calls("receive") == []


def test_a_tree_is_made_of_signed_backups(home: Home) -> None:
    store(home)
    text = refused(home.offsite(*RESTORE, "--recursive"), home, status=2)
    assert "no backup of tank/photos or of what is below it" in text


# --- what is missing, damaged or hostile ----------------------------------------------------------


def test_a_missing_shard_is_named_before_the_first_byte(home: Home) -> None:
    paths = store(home)
    paths[0].unlink()
    paths[1].unlink()
    text = refused(home.offsite(*RESTORE), home, status=1)
    assert "no provider has s001, s002 of its shards s001 to s003" in text
    assert home.calls("receive") == []


def test_a_missing_last_shard_is_noticed_at_the_end(home: Home) -> None:
    store(home)[2].unlink()
    text = refused(home.offsite(*RESTORE), home, status=1)
    assert "is not whole: its last shard, s002, ends at byte 2500000" in text


@pytest.mark.parametrize("cut", [1, 100, 70_000])
def test_a_truncated_shard(home: Home, cut: int) -> None:
    path = store(home)[2]
    path.write_bytes(path.read_bytes()[:-cut])
    text = refused(home.offsite(*RESTORE), home, status=1)
    assert f"{path.name} on one: age payload" in text


def test_a_gzip_that_died_in_a_whole_age_file(home: Home) -> None:
    path = store(home)[2]
    zipped = gzip.compress(SLICES[2])
    for damaged, why in (
        (zipped[:-5], "its gzip member ends early"),
        (zipped[:-8] + bytes(8), "damaged one"),
        (zipped + b"more", "something follows its gzip member"),
        (SLICES[2], "it is no gzip file"),
    ):
        to = str(home.folder / ".config/age/zfs-backup.pub")
        done = subprocess.run(["age", "-R", to], input=damaged, capture_output=True, check=True)
        path.write_bytes(done.stdout)
        assert why in refused(home.offsite(*RESTORE), home, status=1)


def test_shards_that_were_swapped(home: Home) -> None:
    paths = store(home, NONE)
    first, second = paths[0].read_bytes(), paths[1].read_bytes()
    paths[0].write_bytes(second)
    paths[1].write_bytes(first)
    assert "not a ZFS send stream" in refused(home.offsite(*RESTORE), home, status=1)
    assert home.calls("receive") == []


def test_bytes_behind_the_end_never_reach_zfs_as_a_whole_stream(home: Home) -> None:
    path = store(home)[2]
    path.with_name(f"tank_photos:monday-s004-b{len(STREAM):020d}.zfs.gz.age").write_bytes(
        seal(home, b"more")
    )
    assert "bytes follow the END record" in refused(home.offsite(*RESTORE), home, status=1)


def test_an_increment_is_refused(home: Home) -> None:
    path = store(home, NONE)[0]
    data = bytearray(SLICES[0])
    data[48:56] = (5).to_bytes(8, "little")  # fromguid (zfs/records.py)
    path.write_bytes(seal(home, bytes(data)))
    assert "is an increment" in refused(home.offsite(*RESTORE), home, status=2)
    assert home.calls("receive") == []


def test_a_wrong_identity(home: Home) -> None:
    path = store(home)[1]
    path.write_bytes(seal(home, SLICES[1], recipient=age.generate_identity().recipient))
    text = refused(home.offsite(*RESTORE), home, status=2)
    assert f"{path.name} on one: none of the identities at hand opens it" in text


def test_a_bomb_takes_no_memory() -> None:
    """256 MiB of zeros, in 256 KB; of which none is ever in memory but a step."""
    bomb = zlib.compressobj(9, wbits=31)
    packed = b"".join(bomb.compress(bytes(1 << 20)) for _ in range(256)) + bomb.flush()
    tracemalloc.start()
    try:
        sizes = [len(piece) for piece in shards.gunzip([packed])]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (sum(sizes), max(sizes)) == (256 << 20, 1 << 20)
    assert peak < 8 << 20


def test_a_bomb_ends_at_its_first_record(home: Home) -> None:
    path = store(home)[1]
    path.write_bytes(seal(home, bytes(100 << 20)))
    assert "not a ZFS send stream" in refused(home.offsite(*RESTORE), home, status=1)


def test_a_shard_is_read_in_parts() -> None:
    """Of 60 MB that do not shrink never more than a few parts are in memory."""
    identity = age.generate_identity()
    sealed = age.encrypt(
        gzip.compress(os.urandom(60_000_000), 1), Recipients((identity.recipient,))
    )
    remote = Parts("one")
    remote.objects["tank_photos:a-s001.zfs.gz.age"] = sealed
    (backup,) = legacy.read([remote], Silent())
    reader = shards.Reader(Identities((identity,)), threading.Event(), Silent())
    tracemalloc.start()
    try:
        assert sum(map(len, shards.stream(backup.shards, reader))) == 60_000_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert reader.came == {"one": len(sealed)}
    assert peak < 40_000_000


def test_a_stop_is_no_failure_of_a_provider() -> None:
    """Connections that a stop ended may tell so in their own words."""
    stop = threading.Event()

    class Stopped(MemoryRemote):
        def get_part(self, *_: object) -> None:
            stop.set()
            raise ProviderError("this work's connections to rclone are closed already")

    remote, told = Stopped("one"), repo.Recorder()
    remote.objects["t:a-s001.zfs.gz.age"] = b"x"
    (backup,) = legacy.read([remote, remote], Silent())
    with pytest.raises(StoppedError):
        next(shards.stream(backup.shards, shards.Reader(Identities(), stop, told)))
    assert told.warnings == []


class Parts(MemoryRemote):
    """Hands out parts without a copy of the whole."""

    def get_part(self, path: str, offset: int, into: memoryview) -> None:
        into[:] = memoryview(self.objects[path])[offset : offset + len(into)]


# --- names ----------------------------------------------------------------------------------------


def backup_of(*shard_names: str) -> legacy.LegacyBackup:
    remote = MemoryRemote("one")
    remote.objects = dict.fromkeys(shard_names, b"x")
    (found,) = legacy.read([remote], Silent())
    return found


def test_shards_are_counted_not_sorted_as_text() -> None:
    numbers = [*range(1, 1003)]
    for offset in (NONE, TEN):
        made = [f"t:a-s{n:03d}{offset.format((n - 1) * 10)}.zfs.gz.age" for n in numbers]
        backup = backup_of(*sorted(made))
        assert [shard.number for shard in legacy.in_order(backup)] == numbers


def test_a_number_that_no_backup_has() -> None:
    backup = backup_of("t:a-s001.zfs.gz.age", f"t:a-s{'9' * 200}.zfs.gz.age")
    with pytest.raises(IntegrityError, match=r"has s002, s003, s004, s005, s006, … of its shards"):
        legacy.in_order(backup)


def test_in_a_folder_there_are_only_its_own() -> None:
    remote = MemoryRemote("one")
    for path in ("t/t:a-s001", "t/u:b-s001", "u:c-s001", "deep/t/t:d-s001", "t u/t:e-s001"):
        remote.objects[f"{path}.zfs.gz.age"] = b"x"
    assert [one.name for one in legacy.read([remote], Silent())] == ["t:a", "u:c"]
    assert [one.name for one in legacy.read([remote], Silent(), "t")] == ["t:a"]
    assert legacy.read([remote], Silent(), "deep") == []


# --- the list -------------------------------------------------------------------------------------


def test_the_list_of_a_dataset_has_them(home: Home) -> None:
    store(home, TEN)
    store(home, NONE, folder="two", at="older")
    for asked in ([], [DATASET], ["tank_photos"]):
        ran = home.offsite("--list", *asked, "--json")
        assert ran.status == 0, ran
        rows = ran.json["backups"]
        assert [(row["id"], row["status"], row["providers"]) for row in rows] == [
            ("tank_photos@monday", "legacy", ["one"]),
            ("tank_photos@older", "legacy", ["two"]),
        ]
        assert all("each _ in the dataset's name may have been a /" in row["note"] for row in rows)
    assert home.offsite("--list", "tank/photo", "--json").json["backups"] == []


def test_a_strangers_folder_that_cannot_be_read_is_no_trouble(home: Home) -> None:
    store(home)

    class Closed(MemoryRemote):
        def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:
            if folder == "private":
                raise ProviderError("permission denied")
            return super().list(folder, dirs=dirs, expected=expected)

    remote, told = Closed("one"), repo.Recorder()
    remote.objects = {"private/x": b"x", "t/t:a-s001.zfs.gz.age": b"x"}
    assert [one.name for one in legacy.read([remote], told)] == ["t:a"]
    assert told.warnings == [
        "private/ is passed over in the search for older backups: permission denied"
    ]
