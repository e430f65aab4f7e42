"""The door to zfs, with small real programs in its place where faults are wanted.

tests/lab/zfs/test_transfer.py goes through the same door to real OpenZFS.
"""

import gc
import os
import shlex
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offsite.errors import ConfigError, StoppedError, UsageError, ZfsError
from offsite.zfs import command
from offsite.zfs.command import Zfs, send_args
from offsite.zfs.failures import CommandError, Reason
from tests import repo

MakeZfs = Callable[[str], Zfs]


@pytest.fixture
def make_zfs(tmp_path: Path) -> MakeZfs:
    """Return a Zfs whose program is a shell script; $PWD is the test's own folder."""

    def make(script: str) -> Zfs:
        program = tmp_path / "zfs"
        program.write_text(f"#!/bin/sh\ncd {shlex.quote(str(tmp_path))}\n{script}\n")
        program.chmod(0o755)
        return Zfs((str(program),))

    return make


def wait_until_gone(pid: Path) -> None:
    """Until the process has ended whose number is in this file."""
    process = Path("/proc", pid.read_text().strip())
    repo.wait_for(lambda: not process.exists())


# How zfs is called


def test_local_arguments_are_an_argv() -> None:
    assert Zfs(("doas", "zfs")).argv("list", "a b") == ["doas", "zfs", "list", "a b"]


@pytest.mark.parametrize("sudo", ["sudo", "/usr/bin/sudo"])
def test_sudo_never_asks(sudo: str) -> None:
    assert Zfs((sudo, "zfs")).argv("list") == [sudo, "-n", "zfs", "list"]
    assert Zfs((sudo, "-n", "zfs")).argv("list") == [sudo, "-n", "zfs", "list"]
    assert Zfs((sudo, "zfs"), "nas").argv("list")[-1] == f"env LC_ALL=C {sudo} -n zfs list"


@settings(deadline=None)  # a process per example
@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_a_remote_shell_hands_over_every_argument_as_it_is(args: list[str]) -> None:
    argv = Zfs(("printf", r"%s\0"), ssh="nas").argv("mark", *args)
    assert argv[-2] == "nas"
    done = subprocess.run(["sh", "-c", argv[-1]], capture_output=True, check=True)
    assert done.stdout.decode().split("\0") == ["mark", *args, ""]


def test_ssh_options_of_the_user_come_first_and_the_host_is_no_option() -> None:
    argv = Zfs(("zfs",), "root@nas", ("-o", "ServerAliveInterval=5", "-i", "a key")).argv("list")
    assert argv[:5] == ["ssh", "-o", "ServerAliveInterval=5", "-i", "a key"]
    assert argv[-3:] == ["--", "root@nas", "env LC_ALL=C zfs list"]
    assert argv.index("BatchMode=yes") > 4


def test_ssh_takes_the_user_s_value_of_an_option() -> None:
    argv = Zfs(("zfs",), "nas", ("-F", "/dev/null", "-o", "ServerAliveInterval=5")).argv("list")
    done = subprocess.run([argv[0], "-G", *argv[1:]], capture_output=True, text=True, check=True)
    settings = dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)
    assert (settings["serveraliveinterval"], settings["batchmode"]) == ("5", "yes")
    assert settings["hostname"] == "nas"


@pytest.mark.parametrize("host", ["-oProxyCommand=touch x", "", " nas", "na\ns"])
def test_a_host_that_is_none_is_refused(host: str) -> None:
    with pytest.raises(ConfigError, match="is not a host"):
        Zfs(ssh=host)


def test_an_empty_command_is_refused() -> None:
    with pytest.raises(ConfigError, match="ZFS_COMMAND is empty"):
        Zfs(())


def test_send_arguments() -> None:
    assert send_args("t/a@b", flags=["-Lec"]) == ["send", "-Lec", "t/a@b"]
    assert send_args("t/a@b", base="t/a#x") == ["send", "-i", "t/a#x", "t/a@b"]
    for impossible in ({"snapshot": "-R"}, {"snapshot": "t@a", "base": "-R"}):
        with pytest.raises(UsageError):
            send_args(**impossible)


# run


def test_run_returns_stdout_in_the_c_locale(
    make_zfs: MakeZfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert make_zfs('echo "$LC_ALL" "$@"; echo noise >&2').run("list", "-H") == "C list -H\n"


def test_run_tells_zfs_s_own_words(make_zfs: MakeZfs) -> None:
    with pytest.raises(CommandError) as caught:
        make_zfs("echo 'something new' >&2; echo more >&2; exit 3").run("list")
    assert str(caught.value) == "zfs list ended with status 3: something new"
    assert caught.value.reason is Reason.OTHER


def test_run_without_the_program() -> None:
    with pytest.raises(ConfigError, match="/nowhere/zfs: program not found") as caught:
        Zfs(("/nowhere/zfs",)).run("list")
    assert str(caught.value.hint).startswith("install zfsutils-linux, or set ZFS_COMMAND or ZFS_S")
    with pytest.raises(ConfigError, match="nosuch: program not found") as caught:
        Zfs(("nosuch", "zfs")).run("list")
    assert caught.value.hint == "install nosuch, or correct ZFS_COMMAND"


def test_zfs_is_found_where_cron_does_not_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PATH of a crontab, and of users on Debian, has no sbin."""
    for folder in ("bin", "sbin"):
        (tmp_path / folder).mkdir()
    program = tmp_path / "sbin/zfs"
    program.write_text("#!/bin/sh\necho administrators\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin")
    monkeypatch.setattr(command, "_SBIN", f"/nowhere:{tmp_path}/sbin")
    assert Zfs().run("list") == "administrators\n"
    assert Zfs(ssh="nas").argv("list")[-1] == "env LC_ALL=C zfs list"
    zpool = Zfs().zpool
    assert zpool is not None
    assert zpool.argv("list") == ["zpool", "list"]  # there is none
    shutil.copy(program, tmp_path / "bin/zfs")
    assert Zfs().argv("list") == ["zfs", "list"]


def test_run_does_not_wait_for_ever(make_zfs: MakeZfs) -> None:
    with pytest.raises(ZfsError, match=r"zfs list: no answer within 0 s") as caught:
        make_zfs("exec sleep 300").run("list", timeout=0.2)
    assert "zpool status" in str(caught.value.hint)


def test_run_on_a_host_that_is_down() -> None:
    zfs = Zfs(("zfs",), "127.0.0.1", ("-F", "/dev/null", "-p", "1"))
    with pytest.raises(CommandError) as caught:
        zfs.run("list")
    assert str(caught.value) == (
        "zfs list: host 127.0.0.1 cannot be reached on port 1: Connection refused (on 127.0.0.1)"
    )
    assert caught.value.hint == "is the host up and sshd running there? Try: ssh 127.0.0.1 true"


# send


def read_all(zfs: Zfs, size: int = 1 << 16) -> int:
    total = 0
    with zfs.send("t/a@b") as stream:
        while count := stream.readinto(memoryview(bytearray(size))):
            total += count
        assert stream.bytes_read == total
    return total


def test_send_is_read_to_its_end(make_zfs: MakeZfs) -> None:
    assert read_all(make_zfs("head -c 3000000 /dev/zero")) == 3000000


def test_a_send_that_fails_after_its_last_byte_is_no_success(make_zfs: MakeZfs) -> None:
    zfs = make_zfs("head -c 1000 /dev/zero; echo 'cannot send: I/O error' >&2; exit 1")
    with pytest.raises(CommandError, match="zfs send: the pool has unreadable blocks"):
        read_all(zfs)


def test_a_send_that_is_killed_is_no_success(make_zfs: MakeZfs) -> None:
    with pytest.raises(CommandError, match=r"zfs send ended with signal 9 \(Killed\)"):
        read_all(make_zfs("head -c 1000 /dev/zero; kill -9 $$"))


def test_a_send_left_before_its_end_is_no_success(make_zfs: MakeZfs) -> None:
    with (
        pytest.raises(CommandError, match="zfs send ended with"),
        make_zfs("exec cat /dev/zero").send("t/a@b") as stream,
    ):
        stream.readinto(memoryview(bytearray(100)))


def test_an_exception_ends_the_send_and_passes_through(make_zfs: MakeZfs, tmp_path: Path) -> None:
    def read_and_fail(zfs: Zfs) -> None:
        with zfs.send("t/a@b") as stream:
            stream.readinto(memoryview(bytearray(100)))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        read_and_fail(make_zfs("echo $$ > pid; exec cat /dev/zero"))
    wait_until_gone(tmp_path / "pid")


def test_kill_frees_a_blocked_reader(make_zfs: MakeZfs, tmp_path: Path) -> None:
    def read_two_bytes(zfs: Zfs) -> None:
        with zfs.send("t/a@b") as stream:
            stream.readinto(memoryview(bytearray(1)))
            threading.Timer(0.3, stream.kill).start()
            stream.readinto(memoryview(bytearray(1)))

    with repo.soon(), pytest.raises(StoppedError, match="zfs send t/a@b was stopped"):
        read_two_bytes(make_zfs("echo $$ > pid; printf x; exec sleep 300"))
    wait_until_gone(tmp_path / "pid")


def test_kill_frees_who_waits_for_a_send_that_does_not_end(make_zfs: MakeZfs) -> None:
    def read_and_leave(zfs: Zfs) -> None:
        with zfs.send("t/a@b") as stream:
            assert stream.readinto(memoryview(bytearray(1))) == 0
            threading.Timer(0.3, stream.kill).start()

    with repo.soon(), pytest.raises(StoppedError):
        read_and_leave(make_zfs("exec >&-; exec sleep 300"))


def test_no_descriptor_is_left_open(make_zfs: MakeZfs) -> None:
    gc.collect()  # what tests before this one left open would be closed at any time
    before = len(list(Path("/proc/self/fd").iterdir()))
    zfs = make_zfs("head -c 1000 /dev/zero")
    for _ in range(3):
        read_all(zfs)
        with pytest.raises(ConfigError), Zfs(("/nowhere/zfs",)).send("t/a@b"):
            pass
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# receive


def test_receive_gets_every_byte(make_zfs: MakeZfs, tmp_path: Path) -> None:
    data = os.urandom(3 << 20)
    with make_zfs('cat > got; echo "$@" > args').receive("t/b") as stream:
        stream.write(memoryview(data)[: 1 << 20])
        stream.write(data[1 << 20 :])
        assert stream.bytes_written == len(data)
    assert (tmp_path / "got").read_bytes() == data
    assert (tmp_path / "args").read_text() == "receive -u t/b\n"


def test_a_receive_that_ends_early_says_why(make_zfs: MakeZfs) -> None:
    says = "cannot receive new filesystem stream: out of space"
    zfs = make_zfs(f"head -c 100000 > /dev/null; echo '{says}' >&2; exit 1")
    with (
        pytest.raises(CommandError, match="zfs receive: no space left in the pool") as caught,
        zfs.receive("t/b") as stream,
    ):
        stream.write(bytes(8 << 20))
    assert caught.value.hint == "free some space, then run it again"


def test_a_receive_that_fails_at_the_end_says_why(make_zfs: MakeZfs) -> None:
    zfs = make_zfs("cat > /dev/null; echo 'cannot receive: incomplete stream' >&2; exit 1")
    with (
        pytest.raises(CommandError, match="zfs receive: the stream ended early or is damaged"),
        zfs.receive("t/b") as stream,
    ):
        stream.write(bytes(100))


def test_a_receive_that_takes_only_a_part_is_no_success(make_zfs: MakeZfs) -> None:
    with (
        pytest.raises(ZfsError, match="zfs receive t/b ended before the stream did"),
        make_zfs("head -c 100 > /dev/null").receive("t/b") as stream,
    ):
        stream.write(bytes(8 << 20))


def test_an_exception_ends_the_receive_before_it_can_complete(
    make_zfs: MakeZfs, tmp_path: Path
) -> None:
    def write_and_fail(zfs: Zfs) -> None:
        with zfs.receive("t/b") as stream:
            stream.write(bytes(100000))
            pid = tmp_path / "pid"
            repo.wait_for(lambda: pid.exists() and pid.read_text().endswith("\n"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail(make_zfs("echo $$ > pid; cat > /dev/null; touch complete"))
    wait_until_gone(tmp_path / "pid")
    assert not (tmp_path / "complete").exists()


def test_kill_frees_a_blocked_writer(make_zfs: MakeZfs) -> None:
    def write_much(zfs: Zfs) -> None:
        with zfs.receive("t/b") as stream:
            threading.Timer(0.3, stream.kill).start()
            stream.write(bytes(8 << 20))

    with repo.soon(), pytest.raises(StoppedError):
        write_much(make_zfs("exec sleep 300"))


def test_kill_frees_who_waits_for_a_receive(make_zfs: MakeZfs) -> None:
    def write_and_leave(zfs: Zfs) -> None:
        with zfs.receive("t/b") as stream:
            stream.write(bytes(100))
            threading.Timer(0.3, stream.kill).start()

    with repo.soon(), pytest.raises(StoppedError):
        write_and_leave(make_zfs("cat > /dev/null; exec sleep 300"))


def test_a_target_that_is_no_dataset_is_refused() -> None:
    for target in ("-F", "t/b@", "t/b#c", "t/$(x)"):
        with pytest.raises(UsageError):
            Zfs().receive(target)
