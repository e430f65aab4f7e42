"""The lab itself: a guest boots, works, and is never left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab import CommandError, DeadlineError, Machine, boot

pytestmark = [pytest.mark.lab, pytest.mark.gate]

ROOT = Path(__file__).parents[2]
OWNER = """
import sys
import time
from lab import boot
with boot(sys.argv[1]) as guest:
    print(guest.running.pid, guest.folder, flush=True)
    time.sleep(600)
"""


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def hashes(machine: Machine, folder: str) -> str:
    """Return the SHA-256 of all files under a folder of the machine, sorted by name."""
    return machine.script(f"cd {folder}; find . -type f -exec sha256sum {{}} + | sort -k2").stdout


def test_the_module_has_the_version_asked_for(machine: Machine) -> None:
    shown = machine.run("zfs", "version").stdout
    assert f"zfs-{machine.version}" in shown
    assert f"zfs-kmod-{machine.version}" in shown


def test_arguments_input_and_status_arrive_as_given(machine: Machine) -> None:
    odd = ("a b", "$HOME", "it's", "#x", "*", "", "new\nline", "ü")
    assert machine.run("printf", "%s|", *odd).stdout == "|".join(odd) + "|"
    assert machine.run("cat", stdin=b"\xff\x00x").stdout == "\udcff\x00x"
    done = machine.script("echo out; echo err >&2; exit 7", check=False)
    assert (done.stdout, done.stderr, done.status) == ("out\n", "err\n", 7)
    with pytest.raises(CommandError, match="status 1"):
        machine.script("false; true")


def test_a_snapshot_sent_and_received_is_the_same(machine: Machine, pool: str) -> None:
    machine.script(f"""
        zfs create -o compression=lz4 {pool}/a
        dd if=/dev/urandom of=/{pool}/a/random bs=1M count=8 2>/dev/null
        truncate -s 64M /{pool}/a/sparse
        for n in $(seq 200); do echo "file $n" > /{pool}/a/$n; done
        zfs snapshot {pool}/a@one
        zfs send {pool}/a@one | zfs receive {pool}/b
    """)
    sent = hashes(machine, f"/{pool}/a")
    assert len(sent.splitlines()) == 202
    assert sent == hashes(machine, f"/{pool}/b")


@pytest.mark.soak
def test_a_stream_crosses_the_host_unchanged(machine: Machine, pool: str) -> None:
    machine.script(f"dd if=/dev/urandom of=/{pool}/x bs=1M count=4; zfs snapshot {pool}@s")
    send = machine.command("zfs", "send", f"{pool}@s")
    stream = subprocess.run(send, capture_output=True, check=True, timeout=60).stdout
    receive = machine.command("zfs", "receive", f"{pool}/copy")
    subprocess.run(receive, input=stream, check=True, timeout=60)
    assert hashes(machine, f"/{pool}/copy") in hashes(machine, f"/{pool}").replace("copy/", "")


def test_push_keeps_names_modes_holes_and_attributes(
    machine: Machine, pool: str, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "in ner").mkdir(parents=True)
    (tree / "in ner" / "it's").write_text("x")
    (tree / "in ner" / "it's").chmod(0o640)
    (tree / "link").symlink_to("in ner/it's")
    with (tree / "sparse").open("wb") as out:
        out.truncate(64 << 20)
        out.seek(32 << 20)
        out.write(b"data")
    machine.push(tree, f"/{pool}/to")
    machine.push(tree / "sparse", f"/{pool}/new/name")
    where = f"/{pool}/to"
    assert machine.run("stat", "-c", "%a", f"{where}/in ner/it's").stdout == "640\n"
    assert machine.run("readlink", f"{where}/link").stdout == "in ner/it's\n"
    for path in (f"{where}/sparse", f"/{pool}/new/name"):
        size, blocks = machine.run("stat", "-c", "%s %b", path).stdout.split()
        assert int(size) == 64 << 20
        assert int(blocks) < 10_000
    assert machine.run("ls", "-A", f"/{pool}/new").stdout == "name\n"


def test_pools_have_the_properties_asked_for_and_leave_nothing(machine: Machine) -> None:
    name = f"props{os.getpid()}"
    try:
        machine.make_pool(name, 128 << 20, compression="off", ashift="12", xattr="sa")
        assert machine.run("zfs", "get", "-Ho", "value", "compression", name).stdout == "off\n"
        assert machine.run("zpool", "get", "-Ho", "value", "ashift", name).stdout == "12\n"
    finally:
        machine.destroy_pool(name)
    machine.destroy_pool(name)
    assert name not in machine.run("ls", machine.pool_folder).stdout


def test_a_hanging_command_dies_at_its_deadline(machine: Machine) -> None:
    began = time.monotonic()
    with pytest.raises(DeadlineError, match="killed after 2 s"):
        machine.run("sh", "-c", "sleep 4321 & sleep 4321", timeout=2)
    assert time.monotonic() - began < 20
    assert "sleep 4321" not in machine.run("ps", "-ef").stdout


def test_a_volume_gets_its_device_link(machine: Machine, pool: str) -> None:
    machine.run("zfs", "create", "-V", "16M", f"{pool}/v")
    machine.script(
        f"for n in $(seq 50); do [ -b /dev/zvol/{pool}/v ] && exit; sleep 0.2; done; false"
    )


@pytest.mark.soak
def test_a_pool_on_disk_survives_a_power_cut(version: str, tmp_path: Path) -> None:
    with boot(version, disk=tmp_path / "disk") as guest:
        guest.script(f"zpool create disk {guest.disk}; echo kept > /disk/f; zpool sync disk")
        guest.make_pool("gone")
        guest.reboot()
        guest.run("zpool", "import", "-f", "-d", guest.disk, "disk")
        assert guest.run("cat", "/disk/f").stdout == "kept\n"
        assert guest.run("zpool", "list", "gone", check=False).status == 1
        pid = guest.running.pid
    assert not alive(pid)
    assert not guest.folder.exists()


def test_nothing_is_left_when_the_owner_is_killed(version: str) -> None:
    words = [sys.executable, "-c", OWNER, version]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        pid, _, folder = owner.stdout.readline().decode().strip().partition(" ")
        assert alive(int(pid))
        owner.kill()
    deadline = time.monotonic() + 10
    while alive(int(pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not alive(int(pid))
    with boot(version):  # sweeps what the killed one could not remove
        assert not Path(folder).exists()
