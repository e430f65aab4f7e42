"""The machine loses its power, in the middle of a backup and of a restore."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from lab import Guest, boot
from lab.world import World, wait_for
from tests.lab.test_resume import (
    MIB,
    check_clean,
    finish,
    interrupt_restore,
    log_of,
    sent,
    stream_stored,
)

POOL = "disk"
MEMORY = 1536  # MiB: the pool is on a disk
PATIENCE = 120  # seconds


def reboot(guest: Guest) -> None:
    guest.reboot()
    guest.run("zpool", "import", "-f", "-o", "cachefile=none", "-d", guest.disk, POOL)


def test_a_reboot_in_mid_backup_and_in_mid_restore(version: str, tmp_path: Path) -> None:
    data, target = f"{POOL}/photos", f"{POOL}/back"
    with boot(version, memory=MEMORY, disk=tmp_path / "disk") as guest:
        world = World.new(tmp_path / "home", guest)
        guest.run("zpool", "create", "-o", "cachefile=none", POOL, guest.disk)
        guest.run("zfs", "create", data)
        world.fill(data, noise=10)
        before = world.facts(data)

        # Offsite's own machine: it is gone without a word, and so is what is kept in memory.
        running = world.start("--backup", f"{data}@s", RCLONE_FLAGS="--bwlimit 500k")
        wait_for(lambda: world.receipts() >= 3 or running.poll() is not None)
        assert running.poll() is None, running.communicate()
        running.send_signal(signal.SIGKILL)
        running.communicate(timeout=PATIENCE)
        shutil.rmtree(world.home / "run")
        reboot(guest)
        done = finish(world, f"{data}@s")
        whole = sent(world, "-L", f"{data}@s")
        assert "chunks are stored (token)" in log_of(world)
        assert done["resumed_chunks"] >= 2
        assert done["sent_bytes"] < len(whole) - (done["resumed_chunks"] - 1) * MIB + 2 * MIB
        assert stream_stored(world, tmp_path / "recipe", world.home / "one") == whole
        check_clean(world, f"{data}@s")

        # The machine at the other end of ZFS_SSH: that is told, and the same command goes on.
        running = interrupt_restore(world, data, target)
        reboot(guest)
        _, stderr = running.communicate(timeout=PATIENCE)
        assert running.returncode == 1, stderr
        assert "Traceback" not in stderr
        assert len(world.get(target, "receive_resume_token")) > 1
        ran = world.offsite("--restore", data, "--as", target, "--json").json["restore"]
        assert f"Resuming restore to {target}" in log_of(world, "restore")
        assert ran["resumed_chunks"] >= 2
        assert sum(ran["providers"].values()) < done["stored_bytes"] - MIB // 4
        assert world.facts(target) == before
        asked = ("zfs", "get", "-Ho", "value", "receive_resume_token,offsite:restoring", target)
        assert guest.run(*asked).stdout == "-\n-\n"
