"""The main job as a user runs it: real OpenZFS, the offsite command, local providers."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from datetime import datetime
from pathlib import Path

import pytest

from lab.faults import victims
from lab.world import LOCKED, PASSPHRASE, QUICK_KEY, World, recipe, wait_for

pytestmark = pytest.mark.gate


@pytest.fixture
def data(world: World, pool: str) -> str:
    """A filesystem with all sorts of files."""
    name = f"{pool}/photos"
    world.machine.run("zfs", "create", "-o", "recordsize=128K", "-o", "xattr=sa", name)
    world.fill(name)
    return name


def stored(folder: Path) -> dict[str, bytes]:
    """Every file below a local provider's folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_backup_to_two_providers_list_and_restore_from_the_second(world: World, data: str) -> None:
    before = world.facts(data)
    assert all(name in before for name in ("user.note=", "user.of=", "trusted.note=")), before
    monday = ("--backup", f"{data}@monday", "--provider", "all")
    done = world.offsite(*monday, "--json").json["backup"]
    assert (done["snapshot"], done["type"], done["failed"]) == ("monday", "full", {})
    assert sorted(done["providers"]) == ["one", "two"]
    assert stored(world.home / "one") == stored(world.home / "two")

    (row,) = world.offsite("--list", "--json").json["backups"]
    assert row["id"] == done["backup_id"]
    assert (row["dataset"], row["snapshot"], row["complete"]) == (data, "monday", True)
    assert (row["chunks"], row["stream_bytes"]) == (done["chunks"], done["stream_bytes"])
    assert row["providers"] == ["one", "two"]
    assert row["stored_bytes"] == done["stored_bytes"] < row["stream_bytes"]
    moment = world.get(f"{data}@monday", "creation")
    assert datetime.fromisoformat(row["created"]).timestamp() == int(moment)

    shutil.rmtree(world.home / "one")
    latest = ("--restore", f"{data}@latest", "--as", f"{data}-back")
    restored = world.offsite(*latest, "--json").json["restore"]
    assert restored["providers"]["two"] == done["stored_bytes"]
    assert world.get(f"{data}-back", "mounted") == "no"
    assert world.facts(f"{data}-back") == before
    assert streams_equal(world, f"{data}@monday", f"{data}-back@monday")


def test_a_dataset_of_as_long_and_odd_a_name_as_may_be(world: World, pool: str) -> None:
    """Of 200 characters; its log, locks and journal are files of shorter names."""
    name = f"{pool}/a b:c-d.e_f g"
    name += "/" + "x" * (199 - len(name))
    assert len(name) == 200
    world.machine.script(f"zfs create -p '{name}'; echo content > '/{name}/file'")
    world.offsite("--backup", f"{name}@a day:1")
    world.offsite("--backup", f"{pool}@a day:1", "--no-recursive")
    (row,) = world.offsite("--list", name, "--json").json["backups"]
    assert (row["dataset"], row["snapshot"], row["complete"]) == (name, "a day:1", True)
    world.offsite("--restore", f"{name}@a day:1", "--as", f"{pool}/back")
    assert (
        world.machine.script(f"zfs mount {pool}/back; cat /{pool}/back/file").stdout == "content\n"
    )


def streams_equal(world: World, one: str, other: str) -> bool:
    """Whether both snapshots send the same records; toname and checksums name the dataset."""
    dump = "zfs send -L '{}' | zstream dump -v | grep -v -e toname -e cksum -e '= [0-9a-f]*/'"
    first, second = (world.machine.script(dump.format(name)).stdout for name in (one, other))
    return len(first) > 1000 and first == second


OTHERS = [pytest.param(one, marks=pytest.mark.soak) for one in (signal.SIGINT, signal.SIGHUP)]


@pytest.mark.parametrize("number", [signal.SIGTERM, *OTHERS])
def test_the_snapshot_is_held_only_while_it_is_sent(
    world: World, data: str, number: signal.Signals
) -> None:
    running = world.start("--backup", f"{data}@held", RCLONE_FLAGS="--bwlimit 500k")
    try:
        wait_for(lambda: world.receipts() >= 1)
        assert "offsite" in holds(world, f"{data}@held")
        destroyed = world.machine.run("zfs", "destroy", f"{data}@held", check=False)
        assert destroyed.status != 0
        rclones = [one for one in victims.children(running.pid) if one.is_rclone]
        assert len(rclones) == 2  # one a provider, however many chunks
        running.send_signal(number)
        _, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130  # whichever it was
    told = re.search(rf"stopped; (\d+) chunks? stored, but {data}@held is not backed up", stderr)
    assert told is not None, stderr
    assert int(told[1]) > 0
    assert holds(world, f"{data}@held") == ""
    (row,) = world.offsite("--list", "--json").json["backups"]
    assert (row["complete"], row["status"]) == (False, "unfinished")
    refused = world.offsite("--restore", f"{data}@held", "--as", f"{data}-no", status=2)
    assert "no finished backup" in refused.stderr
    assert not world.exists(f"{data}-no")
    done = world.offsite("--backup", f"{data}@held", "--json").json["backup"]
    assert done["resumed_chunks"] >= int(told[1])


def holds(world: World, snapshot: str) -> str:
    return world.machine.run("zfs", "holds", "-H", snapshot, check=False).stdout


def test_a_killed_run_leaves_nothing_that_hinders_the_next(world: World, data: str) -> None:
    running = world.start("--backup", f"{data}@killed", RCLONE_FLAGS="--bwlimit 500k")
    wait_for(lambda: world.receipts() >= 2 or running.poll() is not None)
    running.kill()
    running.communicate(timeout=60)
    assert running.returncode == -signal.SIGKILL
    wait_for(lambda: not victims.of_home(world.home))
    ran = world.offsite("--backup", f"{data}@killed", "--json")
    done = ran.json["backup"]
    logs = "".join(path.read_text() for path in world.home.glob("offsite-backup-*.log"))
    assert re.search(rf"Resuming backup of {data}@killed: .* chunks are stored \(token\)", logs)
    assert done["resumed_chunks"] >= 2
    assert done["sent_bytes"] < done["stream_bytes"] - (1 << 20)
    assert holds(world, f"{data}@killed") == ""
    statuses = [row["status"] for row in world.offsite("--list", "--json").json["backups"]]
    assert statuses == ["complete"]
    before = world.facts(data)
    world.offsite("--restore", data, "--as", f"{data}-back")
    assert world.facts(f"{data}-back") == before


def test_a_second_run_on_the_same_dataset_and_provider_is_refused(world: World, data: str) -> None:
    running = world.start("--backup", f"{data}@first", RCLONE_FLAGS="--bwlimit 500k")
    try:
        wait_for(lambda: "offsite" in holds(world, f"{data}@first"))
        refused = world.offsite("--backup", f"{data}@second", status=4)
        assert (
            f"ERROR: Another offsite backup is already running for dataset {data}"
            f" (PID {running.pid})" in refused.stderr
        )
        assert not world.exists(f"{data}@second")
        # Of another dataset one is not.
        world.machine.script(f"zfs create {data}/other; echo other > /{data}/other/file; sync")
        world.offsite("--backup", f"{data}/other@now")
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGTERM)
        running.communicate(timeout=60)


def test_a_volume_comes_back(world: World, pool: str) -> None:
    name = f"{pool}/disk"
    world.machine.run("zfs", "create", "-V", "16M", "-b", "16K", name)
    device = world.device(name)
    world.machine.script(f"dd if=/dev/urandom of={device} bs=1M count=3 conv=fsync 2>/dev/null")
    world.offsite("--backup", f"{name}@v1")
    world.offsite("--restore", name, "--as", f"{name}-back")
    back = world.device(f"{name}-back")
    sums = world.machine.script(f"sha256sum < {device}; sha256sum < {back}").stdout.split()
    assert sums[0] == sums[2]
    assert streams_equal(world, f"{name}@v1", f"{name}-back@v1")


def test_an_encrypted_dataset_goes_raw_and_comes_back_locked(world: World, pool: str) -> None:
    name = f"{pool}/vault"
    world.machine.script(
        f"echo {PASSPHRASE} | zfs create -o encryption=aes-256-gcm"
        f" {QUICK_KEY} -o recordsize=1M {name}"
    )
    world.fill(name, noise=3)
    before = world.facts(name)
    world.machine.script(f"zfs snapshot {name}@s; zfs unmount {name}; zfs unload-key {name}")
    world.offsite("--backup", f"{name}@s")
    world.offsite("--restore", name, "--as", f"{pool}/back")
    assert world.get(f"{pool}/back", "keystatus") == "unavailable"
    world.machine.script(f"echo {PASSPHRASE} | zfs load-key {pool}/back")
    assert world.facts(f"{pool}/back") == before


def test_a_plain_dataset_is_restored_below_an_encrypted_one(world: World, pool: str) -> None:
    """A stream with embedded blocks, as zfs send -e makes it, would be refused there."""
    name, vault = f"{pool}/plain", f"{pool}/vault"
    target = f"{vault}/back"
    world.machine.script(
        f"zfs create -o compression=lz4 {name}\n"
        f"head -c 131072 /dev/zero | tr '\\0' x > /{name}/embedded; seq 9999 > /{name}/numbers\n"
        f"{LOCKED} {vault}"
    )
    world.offsite("--backup", f"{name}@s")
    world.offsite("--restore", name, "--as", target)
    assert world.facts(target) == world.facts(name)
    assert world.get(target, "encryptionroot") == vault
    world.machine.run("zfs", "unmount", vault)
    world.machine.run("zfs", "unload-key", vault)
    refused = world.offsite("--restore", name, "--as", f"{vault}/more", status=2)
    assert f"to be encrypted by the key of {vault}, which is not loaded" in refused.stderr
    assert f"zfs load-key {vault}" in refused.stderr
    assert not world.exists(f"{vault}/more")


def test_the_remote_tells_nothing(world: World, data: str) -> None:
    world.offsite("--backup", f"{data}@topsecretname", "--provider", "one")
    needles = [b"topsecretname", b"photos", data.encode(), b"secret-content", b"small file 7"]
    for name, content in stored(world.home / "one").items():
        for needle in needles:
            assert needle not in content, (name, needle)
            assert needle.decode() not in name
        if name != "offsite/FORMAT":
            assert content.startswith(b"age-encryption.org/v1\n"), name
    plain = [content for content in stored(world.home / "one").values() if b"age-keygen" in content]
    assert not plain


def test_the_recipe_in_format_md_restores_a_chain_with_stock_tools(
    world: World, data: str, tmp_path: Path
) -> None:
    backups = []
    for name in ("full", "increment"):
        world.machine.script(
            f"cd /{data}; echo {name} > which; echo {name} >> text/numbers; rm many/{len(name)}"
        )
        backups.append(world.offsite("--backup", f"{data}@{name}", "--json").json["backup"])
    assert [done["type"] for done in backups] == ["full", "incremental"]
    for done in backups:
        by_hand(world, done["backup_id"], f"{data}-by-hand", tmp_path)
    assert world.facts(f"{data}-by-hand") == world.facts(data)


def by_hand(world: World, backup_id: str, target: str, folder: Path) -> None:
    """Run the recipe."""
    tools = world.stock_zfs(folder / "tools")
    environment = world.environment() | {
        "REMOTE": str(world.home / "two"),
        "ID": backup_id,
        "IDENTITY": str(world.home / ".config/age/zfs-backup.txt"),
        "SIGNERS": str(world.home / ".config/offsite/allowed_signers"),
        "TARGET": target,
    }
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    ran = subprocess.run(
        ["sh", "-c", recipe()],
        env=environment, cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran
    assert "Good" in ran.stdout + ran.stderr


def test_one_provider_failing_is_partial_success(world: World, data: str) -> None:
    blocked = world.home / "two"
    blocked.rmdir()
    blocked.write_text("a file where a folder should be")
    ran = world.offsite("--backup", f"{data}@partial", "--json", status=3)
    assert ran.json["backup"]["providers"] == ["one"]
    assert list(ran.json["backup"]["failed"]) == ["two"]
    world.offsite("--restore", data, "--as", f"{data}-back", "--provider", "one")


def test_a_send_that_dies_never_becomes_a_backup(world: World, data: str) -> None:
    # More than all buffers on the way take: zfs must still be sending.
    world.machine.script(f"dd if=/dev/urandom of=/{data}/more bs=1M count=64 2>/dev/null; sync")
    running = world.start("--backup", f"{data}@cut", RCLONE_FLAGS="--bwlimit 500k")
    wait_for(lambda: any((world.home / "one").rglob("chunk-*")))
    world.machine.script(f"{victims.STREAMS}\nkill -9 $(streams {data}@)")
    _, stderr = running.communicate(timeout=120)
    assert running.returncode == 1
    assert "zfs send" in stderr
    for name in ("one", "two"):
        assert not list((world.home / name).rglob("manifest.age"))
    (row,) = world.offsite("--list", "--json").json["backups"]
    assert (row["complete"], row["status"]) == (False, "unfinished")
    refused = world.offsite("--restore", data, "--as", f"{data}-no", status=2)
    assert "no finished backup" in refused.stderr
    assert holds(world, f"{data}@cut") == ""


def test_names_of_snapshots(world: World, data: str) -> None:
    began = time.strftime("%Y%m%d", time.gmtime())
    provider = ("--provider", "one", "--json")
    names = [
        world.offsite("--backup", f"{data}@today", *provider).json["backup"]["snapshot"],
        world.offsite("backup", f"{data}@now", *provider).json["backup"]["snapshot"],
        world.offsite("-b", data, "--as", "@named", *provider).json["backup"]["snapshot"],
        world.offsite(data, *provider, ZFS_SNAP_PREFIX="hourly").json["backup"]["snapshot"],
    ]
    days = {began, time.strftime("%Y%m%d", time.gmtime())}  # midnight may pass meanwhile
    assert names[0] in {f"auto-{day}" for day in days}
    assert names[1:3] == ["now", "named"]
    assert re.fullmatch(rf"hourly-({'|'.join(days)})-\d{{6}}", names[3])
    assert world.exists(f"{data}@now")
    assert world.exists(f"{data}@named")
    world.offsite("-b", f"{data}@now", "--as", "@other", status=2)
    assert not world.exists(f"{data}@other")


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (["--backup", "nopool/data"], 1, "no pool nopool is imported here\nHINT: imported pools: "),
        (["--backup", "{data}x"], 1, "does not exist\nHINT: did you mean {data}"),
        (["--backup", "{pool}/" + "z" * 40], 1, "does not exist\nHINT: see: zfs list\n"),
        (["--backup", "{data}@a;rm"], 2, "';'"),
        (["--backup", "{data}", "--provider", "nowhere"], 2, "nowhere"),
        (["--restore", "{data}", "--as", "{data}"], 2, "exists"),
        (["--restore", "{data}", "--as", "{data}/a/b/c"], 2, "\nHINT: zfs create -p "),
        (["--restore", "{data}", "--as", "nopool/y"], 2, "choose another --as; imported pools: "),
        (["--restore", "{data}-never"], 2, "no backup of"),
        (["--restore", "{data}@never", "--as", "{data}-x"], 2, "no backup"),
    ],
)
def test_refusals(world: World, data: str, arguments: list[str], status: int, told: str) -> None:
    before = world.machine.run("zfs", "list", "-Ht", "all", "-o", "name").stdout
    names = {"data": data, "pool": data.partition("/")[0]}
    ran = world.offsite(*(each.format(**names) for each in arguments), status=status)
    assert told.format(**names) in ran.stderr
    assert ran.stderr.startswith("ERROR: ")
    assert world.machine.run("zfs", "list", "-Ht", "all", "-o", "name").stdout == before


def test_dry_runs_change_nothing(world: World, data: str) -> None:
    plan = world.offsite("--backup", f"{data}@future", "--dry-run", "--json").json["backup"]
    assert plan["dry_run"]
    assert plan["stream_bytes"] > 3 << 20
    assert not world.exists(f"{data}@future")
    assert not stored(world.home / "one")
    world.offsite("--backup", f"{data}@future", "--provider", "one")
    ran = world.offsite("--restore", data, "--as", f"{data}-x", "--dry-run", "--json")
    assert ran.json["restore"]["stream_bytes"] > 3 << 20
    assert not world.exists(f"{data}-x")


def test_another_machine_with_nothing_but_the_identity_file(
    world: World, data: str, tmp_path: Path
) -> None:
    before = world.facts(data)
    world.offsite("--backup", f"{data}@disaster")
    other = World(tmp_path / "other", world.machine)
    other.home.mkdir()
    other.configure(
        BB_REMOTE=str(world.home / "one"), AGE_PRIVATE_KEY_FILE=str(tmp_path / "kit.txt")
    )
    shutil.copy(world.home / ".config/age/zfs-backup.txt", tmp_path / "kit.txt")
    assert other.offsite("--list", "--json").json["backups"][0]["complete"]
    other.offsite("--restore", data, "--as", f"{data}-elsewhere")
    assert other.facts(f"{data}-elsewhere") == before

    # By a key that the identity never met, and so does not vouch for.
    (world.home / ".config/offsite/signing.key").unlink()
    (world.home / ".config/age/zfs-backup.txt").unlink()
    world.offsite("keys", "init")
    world.offsite("--backup", f"{data}@unvouched")
    more = ("--restore", f"{data}@unvouched", "--as", f"{data}-more")
    refused = other.offsite(*more, status=1)
    fingerprint = re.search(r"--trust-signer (SHA256:\S+)", refused.stderr)
    assert fingerprint is not None, refused
    assert not world.exists(f"{data}-more")
    other.offsite(*more, "--trust-signer", fingerprint[1])
    assert other.facts(f"{data}-more") == before


@pytest.mark.soak
def test_two_hosts_with_datasets_of_one_name(world: World, data: str, tmp_path: Path) -> None:
    world.offsite("--backup", f"{data}@mine", "--provider", "one")
    other = World(tmp_path / "other", world.machine)
    shutil.copytree(world.home / ".config", other.home / ".config")
    settings = world.machine.zfs_settings()
    if "ZFS_SSH_OPTIONS" not in settings:
        pytest.skip("no second host: OpenZFS is this machine's own")
    config = tmp_path / "ssh_config"
    reached = Path(settings["ZFS_SSH_OPTIONS"].removeprefix("-F ")).read_text()
    config.write_text(reached.replace("Host 127.0.0.1", "Host nas2\n    HostName 127.0.0.1"))
    other.configure(
        ONE_REMOTE=str(world.home / "one"), ZFS_SSH="root@nas2", ZFS_SSH_OPTIONS=f"-F {config}"
    )
    other.offsite("--backup", f"{data}@theirs")
    refused = other.offsite("--restore", data, "--as", f"{data}-x", status=2)
    assert "--host" in refused.stderr
    assert "nas2" in refused.stderr
    rows = other.offsite("--list", "--host", "nas2", "--json").json["backups"]
    assert [row["snapshot"] for row in rows] == ["theirs"]
    other.offsite("--restore", data, "--host", "nas2", "--as", f"{data}-x")
    assert world.exists(f"{data}-x@theirs")
