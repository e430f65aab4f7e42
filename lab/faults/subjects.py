"""What is backed up under fire: each kind takes another way through the stream and the resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lab.world import PASSPHRASE, QUICK_KEY, World

NOISE = 12  # MiB that do not compress: the emulated guest sends 1 to 5 MB/s
PART = 2  # MiB of it in one file
OTHERS = 3  # MiB, less than which all other files come to (world.FILES)
# A receive goes on from a batch of 32 objects: no two of these files are in one (series.py).
APART = """
cd /{dataset}
for i in $(seq {files}); do
    mkdir apart-$i
    for j in $(seq 40); do : > apart-$i/$j; done
    : > apart-$i/noise # on the same processor: each hands out numbers of its own
    dd if=/dev/urandom of=apart-$i/noise bs=1M count={part} conv=notrunc 2>/dev/null
done
sync
"""
OLD_ZFS = """\
#!/bin/sh
# An OpenZFS that knows no resume tokens when it sends.
case "$*" in "send -t "*) echo "invalid option 't'" >&2; exit 2 ;; esac
exec zfs "$@"
"""
BASE = "base"
FIRST = """
cd /{dataset}
seq 90000 > gone
dd if=/dev/urandom of=noise bs=64k count=20 2>/dev/null
zfs snapshot {dataset}@{base}
rm gone
"""
LOAD_KEY = """
if [ "$(zfs get -Ho value keystatus {0})" = unavailable ]; then
    echo {1} | zfs load-key {0}
fi
"""


@dataclass(frozen=True)
class Subject:
    """A filesystem with all sorts of files, and how it is made and read."""

    name: str
    options: str = ""
    old: bool = False  # send without tokens: what is stored is compared, not skipped
    grown: bool = False  # what is struck is an increment, and the restore of it and its base

    @property
    def batch(self) -> int:
        """MiB, less than which 32 objects in a row have."""
        return PART + OTHERS

    @property
    def bases(self) -> list[str]:
        """The snapshots that it stands on."""
        return [BASE] if self.grown else []

    @property
    def way(self) -> tuple[str, ...]:
        """Which backup is made of it."""
        return ("--base", f"@{BASE}") if self.grown else ("--full",)

    def make(self, world: World, dataset: str) -> None:
        world.machine.script(f"echo {PASSPHRASE} | zfs create {self.options} {dataset}")
        if self.grown:
            world.machine.script(FIRST.format(dataset=dataset, base=BASE))
            world.offsite("--backup", f"{dataset}@{BASE}")
        world.fill(dataset, noise=PART)
        world.machine.script(APART.format(dataset=dataset, files=(NOISE - PART) // PART, part=PART))

    def settings(self, world: World, dataset: str) -> Mapping[str, str]:
        """For the backup; a program it needs goes into the pool."""
        if not self.old:
            return {}
        pool = dataset.partition("/")[0]
        program = world.home / "old-zfs"
        if not program.exists():
            program.write_text(OLD_ZFS)
            program.chmod(0o755)
            world.machine.push(program, f"/{pool}/old-zfs")
        return {"ZFS_COMMAND": f"/{pool}/old-zfs"}

    def facts(self, world: World, dataset: str) -> str:
        """Everything about its files."""
        world.machine.script(LOAD_KEY.format(dataset, PASSPHRASE))
        return world.facts(dataset)


@dataclass(frozen=True)
class Volume(Subject):
    """A block device."""

    @property
    def batch(self) -> int:
        return NOISE + OTHERS

    def make(self, world: World, dataset: str) -> None:
        world.machine.run("zfs", "create", "-V", "24M", "-b", "16K", dataset)
        device = world.device(dataset)
        world.machine.script(
            f"dd if=/dev/urandom of={device} bs=1M count={NOISE} conv=fsync 2>/dev/null\n"
            f"seq 300000 | dd of={device} bs=64k seek=200 conv=fsync 2>/dev/null"
        )

    def facts(self, world: World, dataset: str) -> str:
        return world.machine.script(f"sha256sum < {world.device(dataset)}").stdout


SUBJECTS = (
    Subject("grown", "-o compression=lz4 -o xattr=sa", grown=True),
    Subject("vault", f"-o encryption=on {QUICK_KEY} -o recordsize=1M"),
    Volume("disk"),
    Subject("packed", "-o compression=zstd", old=True),
)
