"""``script/demo``: the main job for real, told in a minute of reading.

A dataset with all sorts of files goes to two providers at once, and is interrupted on the way; one
provider is taken away; the dataset comes back from the other one, interrupted again, and once more
with stock tools only; the next day only what changed is sent; then the whole pool is lost, and
comes back onto a new one. Every file is compared.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.errors import LabError
from lab.guest import boot
from lab.host import Host, usable
from lab.machine import Machine
from lab.stage import counted, cut_short, say, title, typed
from lab.world import World, recipe, wait_for

POOL = f"demo{os.getpid()}"  # nobody's: it is destroyed in the end
DATA = f"{POOL}/photos"
NOISE = 16  # MiB; all else comes to three chunks of 1 MiB
MIB = 1 << 20
NEXT_DAY = """
zfs destroy {0}@%
cd /{0}
echo "a new day" > text/diary; echo more >> text/numbers; rm many/7; mv noise moved
sync
"""

MORE = """
for name in restored by-hand again; do zfs destroy -r {0}/$name; done
echo "of the pool itself" > /{0}/readme
zfs create -o compression=zstd -o org.example:note="to be kept" {0}/letters
for i in 1 2 3; do echo "letter $i" > /{0}/letters/$i; done
zfs create -s -V 64M -o volblocksize=16k {0}/vm
sync
"""
# Whether a zfs receive is at work: it writes what it was handed, also after the run was killed.
RECEIVING = f"""
for pid in $(pidof zfs); do
    case $(tr '\\0' ' ' </proc/$pid/cmdline) in "zfs receive "*{POOL}/*) exit 0 ;; esac
done
exit 1
"""
PROPERTIES = (
    "zfs get -Hp -r -t filesystem,volume -o name,property,value"
    " compression,org.example:note,mountpoint,canmount,volsize,volblocksize {0}"
)


def main() -> int:
    """Play all scenes; 0 if every comparison held."""
    began = time.monotonic()
    try:
        with machine() as there, tempfile.TemporaryDirectory(prefix="offsite-demo-") as folder:
            play(there, Path(folder))
    except LabError as error:
        raise SystemExit(f"ERROR: {error}") from error
    title(f"All of it compared, nothing missing. {time.monotonic() - began:.0f} s")
    return 0


@contextmanager
def machine() -> Iterator[Machine]:
    """This host if it has OpenZFS, else one in a process."""
    if usable():
        title("OpenZFS is here: the demo uses a pool in a file on this machine")
        yield Host()
        return
    title("No OpenZFS here: booting a small machine that has it, in a process")
    with boot() as guest:
        say(f"OpenZFS {guest.version}, in a User-Mode Linux kernel on one processor")
        yield guest


def play(there: Machine, folder: Path, noise: int = NOISE) -> None:
    """All scenes, in order, on a pool of their own; SystemExit if one shows what it must not."""
    world = World(folder / "home", there)
    world.home.mkdir()
    cellar, cloud = world.home / "cellar", world.home / "cloud"
    for place in (cellar, cloud):
        place.mkdir()
    world.configure(CELLAR_REMOTE=str(cellar), CLOUD_REMOTE=str(cloud))
    world.offsite("keys", "init")
    there.make_pool(POOL, 1 << 30)
    try:
        title("A dataset: text, programs, noise, 120 small files, holes, links, attributes")
        there.run("zfs", "create", "-o", "compression=lz4", DATA)
        world.fill(DATA, noise)
        before = world.facts(DATA)
        interrupted_backup(world, plug=(noise + 3) * 6 // 10)
        shutil.rmtree(cellar)
        interrupted_restore(world, before, plug=(noise + 3) * 4 // 10)
        without_offsite(world, before, cloud, folder)
        next_day(world, cellar)
        whole_pool(world)
    finally:
        there.destroy_pool(POOL)


def interrupted_backup(world: World, plug: int) -> None:
    """``plug``: chunks after which it is killed."""
    title("Back it up, to two providers at once; somebody pulls the plug at about 60 %")
    backup = ("--backup", f"{DATA}@today")
    killed = cut_short(world, *backup, rate="2M", when=lambda: world.receipts() >= plug)
    typed(world, "--list")

    title("The same command again: it goes on where it was")
    resumed = counted(world, *backup)
    done = resumed.json["backup"]
    sent, size = done["sent_bytes"] / MIB, done["stream_bytes"] / MIB
    say(
        f"Read from the pool: {killed.read / MIB:.1f} MiB until it was killed, {sent:.1f} MiB when"
        f" it went on; the stream has {size:.1f} MiB"
    )
    if "(token)" not in resumed.line("Resuming") or sent > size - (plug - 2):
        raise SystemExit("the pool was read AGAIN: it did not go on by a token of zfs")


def interrupted_restore(world: World, before: str, plug: int) -> None:
    """``plug``: MiB that zfs has received when it is killed."""
    title("The cellar burns down; and somebody pulls the plug of the restore, too")
    restore = ("--restore", DATA, "--as", f"{POOL}/restored")

    def enough() -> bool:
        return on_disk(world, f"{POOL}/restored") >= plug * MIB

    cut_short(world, *restore, rate="400k", when=enough)
    wait_for(lambda: world.machine.script(RECEIVING, check=False).status)
    resumed = counted(world, *restore).json["restore"]
    fetched, stored = sum(resumed["providers"].values()), resumed["stored_bytes"]
    say(f"Fetched for the rest: {fetched / MIB:.1f} MiB of the {stored / MIB:.1f} MiB stored")
    if resumed["resumed_chunks"] < plug - 1 or fetched >= stored:
        raise SystemExit("it fetched again what zfs had received")
    same(before, world.facts(f"{POOL}/restored"))


def on_disk(world: World, target: str) -> int:
    """Bytes that an unfinished receive has written: what is in a pipe or a socket is not its."""
    world.machine.run("zpool", "sync", POOL)
    return int(world.get(target, "used", check=False) or 0)


def without_offsite(world: World, before: str, provider: Path, folder: Path) -> None:
    """The recipe, on the one backup there is."""
    title("Once more, without Offsite: FORMAT.md's recipe, stock tools only")
    by_hand(world, provider, folder)
    same(before, world.facts(f"{POOL}/by-hand"))


def next_day(world: World, cellar: Path) -> None:
    """An incremental backup, and a restore of the chain."""
    title("The next day: the snapshot is destroyed, files have changed, the cellar is rebuilt")
    cellar.mkdir()
    world.machine.script(NEXT_DAY.format(DATA))
    typed(world, "--backup", f"{DATA}@next-day")
    rows = world.offsite("--list", DATA, "--json").json["backups"]
    types = {row["type"]: row["providers"] for row in rows if row["snapshot"] == "next-day"}
    if types != {"full": ["cellar"], "incremental": ["cloud"]}:
        raise SystemExit(f"not a full backup to the cellar and an increment to the cloud: {types}")
    say("The cellar got a full backup, the cloud only what is new (from a bookmark).")
    typed(world, "--list")
    typed(world, "--restore", DATA, "--as", f"{POOL}/again", "--provider", "cloud")
    same(world.facts(DATA), world.facts(f"{POOL}/again"))


def whole_pool(world: World) -> None:
    """A pool with a volume is lost and comes back: files, the volume's bytes, properties."""
    title("The whole pool with one command; then all its disks die, and there is a new one")
    world.machine.script(MORE.format(POOL))
    write = f"dd if=/dev/urandom of={world.device(f'{POOL}/vm')} bs=64k count=9 seek=3 conv=fsync"
    world.machine.script(f"{write} 2>/dev/null")
    before = pool_facts(world)
    typed(world, "--backup", POOL)
    world.machine.destroy_pool(POOL)
    world.machine.make_pool(POOL, 1 << 30)
    typed(world, "--restore", POOL)
    after = pool_facts(world)
    same(before[0], after[0])
    if before[1:] != after[1:]:
        raise SystemExit(f"restored DIFFERENT: {before[1:]}, now {after[1:]}")
    say("The volume's bytes and what was set on the datasets: identical")


def pool_facts(world: World) -> tuple[str, str, str]:
    """Of all files, of the volume's bytes, and of the properties set on datasets."""
    files = "".join(world.facts(f"{POOL}{name}") for name in ("", "/photos", "/letters"))
    volume = world.machine.script(f"sha256sum < {world.device(f'{POOL}/vm')}").stdout
    return files, volume, world.machine.script(PROPERTIES.format(POOL)).stdout


def by_hand(world: World, provider: Path, folder: Path) -> None:
    """Run the recipe on the one backup of ``provider``."""
    (backup,) = (provider / "offsite/backups").iterdir()
    tools = world.stock_zfs(folder / "tools")
    environment = world.environment() | {
        "REMOTE": str(provider),
        "ID": backup.name,
        "IDENTITY": str(world.home / ".config/age/zfs-backup.txt"),
        "SIGNERS": str(world.home / ".config/offsite/allowed_signers"),
        "TARGET": f"{POOL}/by-hand",
    }
    environment["PATH"] = f"{tools}:{environment['PATH']}"
    print("\n    $ rclone copy … && age -d … | zstd -dc | zfs receive", flush=True)
    ran = subprocess.run(
        ["sh", "-c", recipe()],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if ran.returncode:
        raise SystemExit(f"the recipe failed:\n{ran.stderr}")
    good = dict.fromkeys(line for line in ran.stderr.splitlines() if "Good" in line)
    print("\n".join(good), flush=True)


def same(before: str, after: str) -> None:
    """Compare hashes, modes, owners, times, links and attributes of every file."""
    if before != after:
        raise SystemExit("the restored files DIFFER from the original ones")
    files = sum(line.count("  ./") for line in before.splitlines())
    print(f"    {files} files compared by SHA-256, with modes, times, links, attributes: identical")


if __name__ == "__main__":
    sys.exit(main())
