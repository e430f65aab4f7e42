"""What the older bash tool left, made with stock tools, comes back on real OpenZFS."""

from __future__ import annotations

import shlex
import signal
import subprocess
from pathlib import Path

from lab.world import World, wait_for
from tests.programs import needs

# Its way: slices of one `zfs send`, each gzip | age, named by number and place in the stream.
OLDER_TOOL = """
set -eu
mkdir -p "$FOLDER" slices
zfs send $FLAGS "$SNAPSHOT" > stream
split -b 1500K -a 3 --numeric-suffixes=1 stream slices/s
n=0
for slice in slices/s*; do
    offset=$(printf %020d "$n")
    gzip < "$slice" | age -r "$RECIPIENT" > "$FOLDER/$NAME-${slice#slices/}-b$offset.zfs.gz.age"
    n=$((n + $(wc -c < "$slice")))
done
rm -r slices stream
"""

TINY = """
set -e
cd {mountpoint}
n=0
while [ $n -lt 700 ]; do printf "$n" > tiny$n; n=$((n + 1)); done
yes "a line of text" | head -c 131072 > lines
head -c 100000 /dev/urandom > noise
for n in 1 2 3; do setfattr -n user.a$n -v "$(yes a | tr -d '\\n' | head -c 300)" lines; done
"""


def older_backup(world: World, snapshot: str, folder: Path, flags: str = "") -> str:
    """Make one on provider ``two``; its name."""
    dataset, _, short = snapshot.partition("@")
    label = dataset.replace("/", "_")
    recipient = (world.home / ".config/age/zfs-backup.pub").read_text().split()[-1]
    environment = world.environment() | {
        "SNAPSHOT": snapshot,
        "FLAGS": flags,
        "FOLDER": str(world.home / "two" / label),
        "NAME": f"{label}:{short}",
        "RECIPIENT": recipient,
    }
    environment["PATH"] = f"{world.stock_zfs(folder / 'tools')}:{environment['PATH']}"
    subprocess.run(["sh", "-c", OLDER_TOOL], env=environment, cwd=folder, check=True, timeout=300)
    return f"{label}:{short}"


def test_a_backup_of_the_older_tool_is_listed_and_restored(
    world: World, pool: str, tmp_path: Path
) -> None:
    needs("age", "gzip", "split")
    data, back = f"{pool}/photos", f"{pool}/photos-back"
    world.machine.run("zfs", "create", "-o", "recordsize=128K", "-o", "xattr=sa", data)
    world.fill(data)
    world.machine.run("zfs", "snapshot", f"{data}@auto-1")
    before = world.facts(data)
    name = older_backup(world, f"{data}@auto-1", tmp_path)

    (row,) = world.offsite("--list", data, "--json").json["backups"]
    assert (row["status"], row["id"], row["providers"]) == (
        "legacy", name.replace(":", "@"), ["two"],
    )  # fmt: skip
    assert row["chunks"] > 2

    running = world.start(
        "--restore", "--unsigned", f"{data}@auto-1", "--as", back, RCLONE_FLAGS="--bwlimit 300k"
    )
    try:
        wait_for(lambda: receiving(world, back))
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 130, stderr
    assert "zfs drops it; nothing else was touched" in stderr
    wait_for(lambda: not world.exists(back))  # at the far end of ssh, a moment later

    ran = world.offsite("--restore", "--unsigned", f"{data}@auto-1", "--as", back, "--json")
    told = ran.json["restore"]
    assert (told["signed"], told["target"], told["chunks"]) == (False, back, row["chunks"])
    assert "not signed: nobody can tell whether it is what was backed up, or whole" in ran.stderr
    assert world.facts(back) == before
    assert world.exists(f"{back}@auto-1")

    refused = world.offsite("--restore", "--unsigned", f"{data}@auto-1", "--as", back, status=2)
    assert f"{back} exists; it was not touched" in refused.stderr
    last = max((world.home / "two").glob("*/*.age"))
    last.unlink()
    cut = world.offsite("--restore", "--unsigned", f"{data}@auto-1", "--as", f"{back}-2", status=1)
    assert "is not whole: its last shard" in cut.stderr
    wait_for(lambda: not world.exists(f"{back}-2"))


def test_embedded_blocks_come_back_below_an_encrypted_dataset(
    world: World, pool: str, tmp_path: Path
) -> None:
    """What zfs receive refuses there, and elsewhere takes without some files' attributes."""
    needs("age", "gzip", "split")
    data, safe = f"{pool}/photos", f"{pool}/safe"
    run = world.machine.run
    run("zfs", "create", "-o", "compression=zstd", "-o", "xattr=sa", data)
    world.machine.script(TINY.format(mountpoint=f"/{data}"))
    run("zfs", "snapshot", f"{data}@auto-1")
    before = world.facts(data)
    assert "user.a3=" in before
    world.machine.script(
        f"head -c 32 /dev/zero > /tmp/{pool}.key; zfs create -o encryption=on -o keyformat=raw"
        f" -o keylocation=file:///tmp/{pool}.key {safe}"
    )
    older_backup(world, f"{data}@auto-1", tmp_path, "-Lec")

    world.offsite("--restore", "--unsigned", f"{data}@auto-1", "--as", f"{safe}/back")
    assert world.facts(f"{safe}/back") == before
    file = tmp_path / "stream"
    world.offsite("--restore", "--unsigned", f"{data}@auto-1", "--to-file", str(file))
    receive = world.machine.command("zfs", "receive", f"{pool}/by-hand")
    with file.open("rb") as stream:
        subprocess.run(receive, stdin=stream, check=True, timeout=300)
    assert world.facts(f"{pool}/by-hand") == before


def receiving(world: World, target: str) -> bool:
    script = f"ps | grep -v grep | grep {shlex.quote(f'zfs receive -u {target}')}"
    return world.machine.run("sh", "-c", script, check=False).status == 0
