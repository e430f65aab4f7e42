"""Real send streams of every kind, and a plain reader of their records.

Those that only newer OpenZFS makes are there where the machine has one.
"""

import hashlib
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lab import Machine
from lab.host import version_to_use
from offsite.zfs.command import Zfs
from offsite.zfs.records import HEADER_SIZE, Feature, Kind, read_header

StreamOf = Callable[[str], bytes]

POOL = "streams"
NEWER = version_to_use().startswith(("2.3", "2.4"))
FILESYSTEMS = ("fs", "large", "secret", *(("new",) if NEWER else ()))
CHANGE = """
cd "$1"
rm small/*7
dd if=/dev/urandom of=random bs=4096 count=30 seek=50 conv=notrunc 2>/dev/null
truncate -s 10000 text
echo more >> 'small/file 5'
dd if=/dev/urandom of=holes bs=4096 count=2 seek=10 conv=notrunc 2>/dev/null
"""


@dataclass(frozen=True)
class Case:
    dataset: str
    flags: tuple[str, ...] = ()
    base: str | None = None
    has: tuple[Kind, ...] = ()
    features: int = 0

    def send(self, zfs: Zfs, pool: str) -> bytes:
        name = f"{pool}/{self.dataset}"
        base = f"{name}{self.base}" if self.base else None
        return send(zfs, f"{name}@2" if base else f"{name}@1", self.flags, base)


LEC = ("-Lec",)
DATA = (Kind.OBJECT, Kind.WRITE, Kind.FREE, Kind.FREEOBJECTS)
CASES = {
    "plain": Case("fs", has=(*DATA, Kind.SPILL)),
    "full": Case("fs", LEC, None, (*DATA, Kind.WRITE_EMBEDDED, Kind.SPILL), Feature.COMPRESSED),
    "increment": Case("fs", LEC, "@1", DATA, Feature.EMBED_DATA),
    "increment from a bookmark": Case("fs", LEC, "#1", DATA),
    "large blocks": Case("large", LEC, None, DATA, Feature.LARGE_BLOCKS),
    "large blocks, split": Case("large", (), None, DATA),
    "raw": Case("secret", ("-w",), None, (*DATA, Kind.OBJECT_RANGE, Kind.SPILL), Feature.RAW),
    "raw increment": Case("secret", ("-w",), "@1", (Kind.OBJECT_RANGE,), Feature.RAW),
    "encrypted, sent plain": Case("secret", LEC, has=DATA),
    "volume": Case("vol", LEC, has=(Kind.OBJECT, Kind.WRITE)),
    "volume increment": Case("vol", LEC, "@1", (Kind.WRITE,)),
}
NEW = Feature.LONGNAME | Feature.LARGE_MICROZAP
if NEWER:
    CASES |= {
        "new features": Case("new", LEC, None, DATA, NEW | Feature.ZSTD),
        "new features, raw": Case("new", ("-w",), None, DATA, NEW),
        "new features, increment": Case("new", LEC, "@1", DATA, NEW),
    }
# Names beyond 255 bytes, a directory of one block larger than 128 KiB, blocks that two files share.
MAKE_NEW = """
zfs create -o longname=on -o compression=zstd -o recordsize=1M -o dedup=on "$1"
cd "/$1"
parameters=/sys/module/zfs/parameters
echo 1048576 > $parameters/zap_micro_max_size
echo 1 > $parameters/zfs_bclone_enabled
long=$(printf '%0300d' 1)
mkdir many
for number in $(seq 2500); do : > "many/$number"; done
echo long > "$long"
dd if=/dev/urandom of=origin bs=1M count=2 2>/dev/null
cp origin double
sync
cp --reflink=always origin clone
"""


def write_files(folder: Path) -> None:
    """Data for every kind of record: holes, blocks that fit into their pointer, many files."""
    source = random.Random(1)  # noqa: S311 - test data
    (folder / "random").write_bytes(source.randbytes(1000000))
    (folder / "text").write_text("".join(f"line of text {number}\n" for number in range(20000)))
    (folder / "embedded").write_bytes(b"x" * 131072)
    (folder / "attributes").touch()
    with (folder / "holes").open("wb") as file:
        file.truncate(9000000)
        file.seek(4000000)
        file.write(source.randbytes(12000))
    (folder / "small").mkdir()
    for number in range(60):
        (folder / "small" / f"file {number}").write_text(f"file {number}\n")


def make_new(machine: Machine, name: str) -> None:
    """A filesystem with what came after 2.1."""
    machine.run("/bin/sh", "-ec", MAKE_NEW, "sh", name)


def fill(machine: Machine, files: Path, name: str) -> None:
    machine.push(files, f"/{name}")
    for number in range(6):  # more than a dnode holds: they spill
        value = f"{number}" * 500
        machine.run("setfattr", "-n", f"user.x{number}", "-v", value, f"/{name}/attributes")


def snapshot(machine: Machine, number: int) -> None:
    for name in (*FILESYSTEMS, "vol"):
        machine.run("zfs", "snapshot", f"{POOL}/{name}@{number}")
        machine.run("zfs", "bookmark", f"{POOL}/{name}@{number}", f"{POOL}/{name}#{number}")


def send(zfs: Zfs, snapshot: str, flags: Sequence[str] = (), base: str | None = None) -> bytes:
    data = bytearray()
    buffer = memoryview(bytearray(1 << 20))
    with zfs.send(snapshot, base=base, flags=flags) as stream:
        while count := stream.readinto(buffer):
            data += buffer[:count]
    return bytes(data)


def receive(zfs: Zfs, target: str, data: bytes) -> None:
    with zfs.receive(target) as stream:
        stream.write(data)


def walk(data: bytes) -> list[tuple[Kind, int, int, int]]:
    """(kind, object, offset, position) of every record between BEGIN and END."""
    view = memoryview(data)
    at = HEADER_SIZE + int.from_bytes(data[4:8], "little")
    found = []
    while at < len(data) - HEADER_SIZE:
        kind, number, offset, size = read_header(view, at)
        found.append((Kind(kind), number, offset, at))
        at += HEADER_SIZE + size
    return found


def payloads(data: bytes) -> dict[tuple[Kind, int, int], str]:
    """The digest of every block's data."""
    records = walk(data)
    ends = [at for *_, at in records[1:]] + [len(data) - HEADER_SIZE]
    return {
        record[:3]: hashlib.sha256(data[record[3] + HEADER_SIZE : end]).hexdigest()
        for record, end in zip(records, ends, strict=True)
        if record[0] in {Kind.WRITE, Kind.WRITE_EMBEDDED, Kind.SPILL}
    }
