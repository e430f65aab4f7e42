"""Sending and receiving through the door, and what each of them refuses."""

import time

import pytest

from lab import Machine
from offsite.zfs import datasets
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError
from offsite.zfs.records import HEADER_SIZE
from tests.lab.zfs.streams import CASES, StreamOf, payloads, receive, send

FIND_SEND = """
for process in /proc/[0-9]*; do
    if [ "$(tr '\\0' ' ' < $process/cmdline)" = "zfs send {}@1 " ]; then basename $process; fi
done 2>/dev/null
"""


@pytest.mark.parametrize("name", ["full", "raw", "volume"])
def test_what_is_sent_can_be_received(
    name: str, zfs: Zfs, machine: Machine, filled: str, stream_of: StreamOf
) -> None:
    case, data = CASES[name], stream_of(name)
    target = f"{filled}/copy of {name}"
    try:
        receive(zfs, target, data)
        source = datasets.get_snapshot(zfs, f"{filled}/{case.dataset}@1")
        copy = datasets.get_snapshot(zfs, f"{target}@1")
        assert (copy.guid, copy.creation) == (source.guid, source.creation)
        assert payloads(send(zfs, f"{target}@1", case.flags)) == payloads(data)
    finally:
        machine.run("zfs", "destroy", "-r", target, check=False)


def test_a_receive_left_with_an_exception_keeps_nothing(
    zfs: Zfs, filled: str, stream_of: StreamOf
) -> None:
    data = stream_of("full")

    def write_and_fail() -> None:
        with zfs.receive(f"{filled}/half") as stream:
            stream.write(data[: len(data) // 2])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    deadline = time.monotonic() + 30
    while datasets.find_dataset(zfs, f"{filled}/half") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert datasets.find_dataset(zfs, f"{filled}/half") is None


def test_what_receive_refuses(zfs: Zfs, machine: Machine, filled: str, stream_of: StreamOf) -> None:
    data = stream_of("full")
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    increment = stream_of("increment")
    machine.run("zfs", "create", "-o", "quota=300K", f"{filled}/quota")
    machine.run("zfs", "create", f"{filled}/other")
    machine.run("zfs", "snapshot", f"{filled}/other@1")
    refused = [
        ("fs", data, rf"zfs receive: {filled}/fs exists already"),
        ("no/x", data, rf"zfs receive: {filled}/no, the parent of the target, does not exist"),
        ("vol/x", data, rf"zfs receive: {filled}/vol is a volume"),
        ("quota/x", data, "zfs receive: the quota of the target is exhausted"),
        ("x", bytes(flipped), r"zfs receive: the stream is damaged \(checksum mismatch\)"),
        ("x", data[:-HEADER_SIZE], "zfs receive: the stream ended early or is damaged"),
        ("x", data[:200], "zfs receive: the stream ended early or is damaged"),
        ("x", b"", "zfs receive: the stream ended early or is damaged"),
        ("x", bytes(100000), "zfs receive: the stream is not a ZFS send stream"),
        ("x", increment, rf"zfs receive: {filled}/x does not exist"),
        ("other", increment, "zfs receive: the target has changed since the base"),
    ]
    for target, stream, why in refused:
        with pytest.raises(CommandError, match=why):
            receive(zfs, f"{filled}/{target}", stream)
    assert datasets.find_dataset(zfs, f"{filled}/x") is None


def test_a_full_pool_is_told_while_it_fills(
    zfs: Zfs, machine: Machine, stream_of: StreamOf
) -> None:
    machine.make_pool("tiny", size=64 << 20)
    try:
        data = stream_of("full")
        room = int(machine.run("zfs", "get", "-pHo", "value", "available", "tiny").stdout)
        machine.run("zfs", "create", "-o", f"reservation={room - 1000000}", "tiny/taken")
        with pytest.raises(CommandError, match="zfs receive: no space left in the pool"):
            receive(zfs, "tiny/a", data)
    finally:
        machine.destroy_pool("tiny")


def test_what_send_refuses(zfs: Zfs, machine: Machine, filled: str) -> None:
    fs = f"{filled}/fs"
    for snapshot, base, why in [
        (f"{fs}@none", None, f"zfs send: {fs}@none does not exist"),
        (f"{fs}@2", f"{fs}@none", f"zfs send: {fs}@none does not exist"),
        (f"{fs}@2", f"{fs}#none", f"zfs send: the base {fs}#none is gone"),
        (f"{fs}@1", f"{fs}@2", "zfs send: the base is not an earlier snapshot"),
    ]:
        with pytest.raises(CommandError, match=why):
            send(zfs, snapshot, (), base)
    machine.run("zfs", "unmount", f"{filled}/secret")
    machine.run("zfs", "unload-key", f"{filled}/secret")
    try:
        with pytest.raises(CommandError, match="is encrypted and its key is not loaded"):
            send(zfs, f"{filled}/secret@1")
        assert send(zfs, f"{filled}/secret@1", ["-w"])
    finally:
        machine.run("zfs", "load-key", f"{filled}/secret")
        machine.run("zfs", "mount", f"{filled}/secret")


def test_a_send_killed_at_the_other_end_is_no_success(
    zfs: Zfs, machine: Machine, filled: str
) -> None:
    zeros = f"{filled}/zeros"
    machine.run("zfs", "create", "-o", "compression=off", zeros)
    machine.run("dd", "if=/dev/zero", f"of=/{zeros}/zeros", "bs=1M", "count=16")
    machine.run("zfs", "snapshot", f"{zeros}@1")

    def read_until_killed() -> None:
        buffer = memoryview(bytearray(1 << 16))
        with zfs.send(f"{zeros}@1") as stream:
            stream.readinto(buffer)
            pid = machine.script(FIND_SEND.format(zeros)).stdout.strip()
            machine.run("kill", "-9", pid)
            while stream.readinto(buffer):
                pass

    with pytest.raises(CommandError, match=r"zfs send ended with (?:signal 9|status)"):
        read_until_killed()
