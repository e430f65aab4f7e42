"""Fixtures: Offsite's door to the machine's zfs, and a pool to send from."""

import functools
import shlex
from collections.abc import Iterator

import pytest

from lab import Machine
from offsite.zfs.command import Zfs
from tests.lab.zfs.streams import (
    CASES,
    CHANGE,
    FILESYSTEMS,
    NEWER,
    POOL,
    StreamOf,
    fill,
    make_new,
    snapshot,
    write_files,
)


@pytest.fixture(scope="session")
def zfs(machine: Machine) -> Zfs:
    settings = machine.zfs_settings()
    return Zfs(
        tuple(shlex.split(settings.get("ZFS_COMMAND", "zfs"))),
        settings.get("ZFS_SSH"),
        tuple(shlex.split(settings.get("ZFS_SSH_OPTIONS", ""))),
    )


@pytest.fixture(scope="session")
def filled(machine: Machine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Return a pool with datasets of several kinds, each with @1, #1 and a changed @2."""
    files = tmp_path_factory.mktemp("files")
    write_files(files)
    machine.make_pool(POOL, xattr="sa", compression="lz4")
    try:
        machine.run("dd", "if=/dev/urandom", "of=/tmp/key", "bs=32", "count=1")
        key = ["-o", "encryption=on", "-o", "keyformat=raw", "-o", "keylocation=file:///tmp/key"]
        machine.run("zfs", "create", f"{POOL}/fs")
        machine.run("zfs", "create", "-o", "recordsize=1M", f"{POOL}/large")
        machine.run("zfs", "create", *key, f"{POOL}/secret")
        machine.run("zfs", "create", "-V", "8M", "-o", "volblocksize=8K", f"{POOL}/vol")
        if NEWER:
            make_new(machine, f"{POOL}/new")
        volume = machine.script("cd /sys/block; ls -d zd* | tail -n 1").stdout.strip()
        write = ["dd", "if=/dev/urandom", f"of=/dev/{volume}", "bs=8192", "count=60"]
        for name in FILESYSTEMS:
            fill(machine, files, f"{POOL}/{name}")
        machine.run(*write, "conv=notrunc,fsync")
        snapshot(machine, 1)
        for name in FILESYSTEMS:
            machine.run("/bin/sh", "-ec", CHANGE, "sh", f"/{POOL}/{name}")
        machine.run(*write, "seek=30", "conv=notrunc,fsync")
        snapshot(machine, 2)
        yield POOL
    finally:
        machine.destroy_pool(POOL)


@pytest.fixture(scope="session")
def stream_of(zfs: Zfs, filled: str) -> StreamOf:
    """Return a function that gives the stream of a case, sent once."""
    return functools.cache(lambda name: CASES[name].send(zfs, filled))
