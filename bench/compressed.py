"""Blocks as the pool compressed them (zfs send -c), or plain for our zstd: what is stored.

    script/bench compressed [--size MIB] [--level N] [KIND...]

The lab's OpenZFS keeps the same files (text, Python, libraries and programs of this machine) in
datasets of every kind of compression. Each is sent with -L and with -L -c and sealed as a backup
does. Printed: MiB on the pool's disk, in the streams and stored, and seconds of one processor for
sealing.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from lab.guest import boot
from lab.machine import Machine
from offsite import age, seal
from offsite.age import Recipients
from offsite.values import LEVELS

MIB = 1 << 20
CHUNK = 32 * MIB
FOLDERS = ("/usr/share/doc", "/usr/lib/python3", "/usr/lib/x86_64-linux-gnu", "/usr/bin")
KINDS = (
    "off", "lz4", "zstd-fast-100", "zstd-fast-1", "gzip-1", "gzip-6", "zstd-3", "zstd-19",
)  # fmt: skip
POOL = "bench"
ROW = "{:<14} {:>8} {:>10} {:>8} {:>8} {:>10} {:>8} {:>8}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="script/bench compressed")
    parser.add_argument("--size", type=int, default=40, help="MiB of files (default 40)")
    parser.add_argument("--level", type=int, default=LEVELS["default"], help="ours")
    parser.add_argument("kinds", metavar="KIND", nargs="*", default=KINDS, help="of compression")
    chosen = parser.parse_args()
    with boot() as guest, tempfile.TemporaryDirectory() as folder:
        gather(Path(folder), chosen.size * MIB)
        guest.make_pool(POOL, (len(chosen.kinds) + 2) * chosen.size * MIB + 256 * MIB)
        guest.push(Path(folder), "/tmp/files")  # noqa: S108 - the guest's
        print(ROW.format("compression", "on disk", "-L stream", "stored", "seconds",
                         "-c stream", "stored", "seconds"))  # fmt: skip
        for kind in chosen.kinds:
            plain, as_stored = keep(guest, kind, chosen.level)
            disk = guest.run("zfs", "get", "-Hpo", "value", "referenced", f"{POOL}/{kind}").stdout
            print(ROW.format(kind, mib(int(disk)), *plain, *as_stored), flush=True)


def gather(content: Path, size: int) -> None:
    """About ``size`` bytes, of every folder the same."""
    for top in FOLDERS:
        left = size // len(FOLDERS)
        for path in sorted(Path(top).rglob("*")):
            if left > 0 and path.is_file() and not path.is_symlink() and path.stat().st_size < left:
                target = content / path.relative_to("/")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
                left -= path.stat().st_size


def keep(guest: Machine, kind: str, level: int) -> tuple[Sequence[str], Sequence[str]]:
    """Store the files with this compression; what sending with -L, and with -L -c, comes to."""
    name = f"{POOL}/{kind}"
    guest.script(
        f"zfs create -o compression={kind} {name}; cp -a /tmp/files/. /{name}; sync;"
        f" zfs snapshot {name}@s",
        timeout=1200,
    )
    return sealed(guest, f"{name}@s", ("-L",), level), sealed(guest, f"{name}@s", ("-Lc",), level)


def sealed(guest: Machine, snapshot: str, flags: Sequence[str], level: int) -> Sequence[str]:
    """MiB sent, MiB stored, seconds of sealing."""
    recipients = Recipients((age.generate_identity().recipient,))
    out = memoryview(bytearray(seal.sealed_bound(CHUNK, recipients)))
    length = size = 0
    seconds = 0.0
    command = guest.command("zfs", "send", *flags, snapshot)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as sending:
        assert sending.stdout is not None
        while chunk := sending.stdout.read(CHUNK):
            began = time.process_time()
            size += seal.seal_chunk(memoryview(chunk), out, recipients, level=level).size
            seconds += time.process_time() - began
            length += len(chunk)
    if sending.returncode != 0:
        raise SystemExit(f"zfs send {snapshot}: status {sending.returncode}")
    return mib(length), mib(size), f"{seconds:.2f}"


def mib(size: int) -> str:
    return f"{size / MIB:.1f}"


if __name__ == "__main__":
    main()
