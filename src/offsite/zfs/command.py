"""The door to zfs, on this machine or another one behind ssh. Arguments are never parsed by us or
by a shell: locally they are an argv, remotely every one is quoted.
"""

from __future__ import annotations

import os
import shlex
import shutil
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace

from offsite import process
from offsite.errors import ConfigError, OffsiteError, StoppedError, ZfsError
from offsite.zfs.failures import CommandError, Reason, explain
from offsite.zfs.names import check_base_name, check_dataset_name, check_snapshot_name
from offsite.zfs.pipes import ReceiveStream, SendStream, reading, writing

# ssh takes the first value it is given: these come after the user's options and yield to them.
_SSH_DEFAULTS = (
    "-T",
    *("-o", "BatchMode=yes"),
    *("-o", "ConnectTimeout=20"),
    *("-o", "ServerAliveInterval=15"),
    *("-o", "ServerAliveCountMax=4"),
)
_MISSING = {
    "zfs": "install zfsutils-linux, or set ZFS_COMMAND or ZFS_SSH; restore --to-file needs no zfs",
    "ssh": "install openssh-client",
}
# Where zfs is, and cron and users that are not root do not look.
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class Zfs:
    """How to run zfs: ``command`` is its argv prefix, ``ssh`` the host to run it on (None: here).

    ``ssh_options`` stand before our own, e.g. ``("-F", "file")``. Once ``stop`` is set, ``run``
    kills its zfs, or starts none (StoppedError): some of its commands take minutes.

    Raises ConfigError for an empty command and for a host that ssh would take for an option.
    """

    command: tuple[str, ...] = ("zfs",)
    ssh: str | None = None
    ssh_options: tuple[str, ...] = ()
    stop: threading.Event | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if not self.command:
            raise ConfigError("ZFS_COMMAND is empty", hint="the default is ZFS_COMMAND=zfs")
        if self.ssh is not None and (not self.ssh.isprintable() or self.ssh[:1] in {"", "-", " "}):
            raise ConfigError(f"ZFS_SSH: {self.ssh!r} is not a host", hint="e.g. ZFS_SSH=root@nas")

    def argv(self, *args: str, stream: bool = False) -> list[str]:
        """The program and arguments that run ``zfs ARGS`` where it is to run.

        If sudo runs it, without a question: it is no foreground job, so the terminal would stop it.

        A ``stream`` gets an ssh connection of its own: if we are killed, one that is shared
        (ControlMaster) would live on, with the zfs at its far end blocked for ever.
        """
        command = [*self.command, *args]
        if command[0].rpartition("/")[2] == "sudo" and command[1:2] != ["-n"]:
            command.insert(1, "-n")
        if self.ssh is None:
            return [_found(command[0]), *command[1:]]
        remote = shlex.join(["env", "LC_ALL=C", *command])
        own = ("-o", "ControlPath=none") if stream else ()
        return ["ssh", *self.ssh_options, *_SSH_DEFAULTS, *own, "--", self.ssh, remote]

    @property
    def zpool(self) -> Zfs | None:
        """How to run zpool, which is beside zfs; None if the command is a wrapper of some name."""
        *before, program = self.command
        folder, slash, name = program.rpartition("/")
        if name != "zfs":
            return None
        return replace(self, command=(*before, f"{folder}{slash}zpool"))

    @property
    def uninterrupted(self) -> Zfs:
        """The same, but what it runs comes to its end: for what has to be put in order when we
        stop."""
        return replace(self, stop=None)

    def run(self, *args: str, timeout: float = 60) -> str:
        """Run ``zfs ARGS`` and return what it wrote to stdout.

        Raises CommandError (a ZfsError) with zfs's own reason for any status but 0, ZfsError if it
        does not end within ``timeout`` seconds, ConfigError if there is no such program, and
        StoppedError.
        """
        return self._run(args, timeout).stdout

    def exact(self, *args: str, timeout: float = 60) -> str:
        """As ``run``; bytes that are no UTF-8 are kept (surrogateescape)."""
        return self._run(args, timeout).raw.decode(errors="surrogateescape")

    def of_those_there(self, *args: str, timeout: float = 60) -> list[str]:
        """The lines that ``run`` gives, also if some of the names in ``args`` are not there."""
        done = self._result(self.argv(*args), f"zfs {args[0]}", timeout=timeout)
        if done.status != 0:
            error = explain(args[0], done.status, done.stderr, host=self.ssh)
            if error.reason is not Reason.MISSING:
                raise error
        return done.stdout.splitlines()

    def _run(self, args: Sequence[str], timeout: float) -> process.Result:
        done = self._result(self.argv(*args), f"zfs {args[0]}", timeout=timeout)
        if done.status != 0:
            raise explain(args[0], done.status, done.stderr, host=self.ssh)
        return done

    def usage(self) -> str:
        """What zfs says if it is told nothing to do: how its commands are used, if it works.

        Raises ZfsError, ConfigError and StoppedError as ``run`` does.
        """
        done = self._result(self.argv(), "zfs", timeout=60)
        return done.stdout + done.stderr

    def _result(self, argv: Sequence[str], name: str, *, timeout: float) -> process.Result:
        try:
            return process.run(
                argv, timeout=timeout, env=_environment(), missing=self._missing, stop=self.stop
            )
        except (ConfigError, StoppedError):
            raise
        except process.ArgumentsError as error:
            raise CommandError(str(error), hint=None, reason=Reason.TOO_LONG) from error
        except OffsiteError as error:
            where = f" (on {self.ssh})" if self.ssh else ""
            raise ZfsError(
                f"{name}: no answer within {timeout:.0f} s{where}",
                hint="is the pool suspended? See: zpool status -x",
            ) from error

    def send(
        self, snapshot: str, *, base: str | None = None, flags: Sequence[str] = ()
    ) -> AbstractContextManager[SendStream]:
        """``zfs send``: full, or the increment from ``base`` (a snapshot or bookmark, full name).

        Leaving the block waits for the exit status: raises CommandError unless it is 0. Leaving
        it with an exception ends the send. Start it from a thread that outlives it (process.py).
        """
        return self.output(
            *send_args(snapshot, base=base, flags=flags), name=f"zfs send {snapshot}"
        )

    def resume(self, token: str) -> AbstractContextManager[SendStream]:
        """``zfs send -t``: the rest of the send that the token tells of. As ``send``."""
        return self.output("send", "-t", token, name="zfs send -t")

    def output(self, *args: str, name: str) -> AbstractContextManager[SendStream]:
        """What ``zfs ARGS`` writes, as it comes; ``name`` is what it is called where it is stopped.
        As ``send``."""
        return reading(
            name,
            lambda stdout: process.Child(
                self.argv(*args, stream=True),
                stdout=stdout,
                env=_environment(),
                missing=self._missing,
            ),
            lambda status, stderr: explain(args[0], status, stderr, host=self.ssh),
        )

    def receive(
        self, target: str, *, flags: Sequence[str] = ("-u",)
    ) -> AbstractContextManager[ReceiveStream]:
        """``zfs receive`` into ``target``, a dataset or the snapshot it is to become.

        ``-u`` leaves it unmounted.

        Leaving the block ends the stream and waits for the exit status: raises CommandError unless
        it is 0. Leaving it with an exception ends the receive, which then keeps nothing (or, with
        ``-s``, what it has). Start it from a thread that outlives it (process.py).
        """
        (check_snapshot_name if "@" in target else check_dataset_name)(target)
        return writing(
            f"zfs receive {target}",
            lambda stdin: process.Child(
                self.argv("receive", *flags, target, stream=True),
                stdin=stdin,
                env=_environment(),
                missing=self._missing,
            ),
            lambda status, stderr: explain("receive", status, stderr, host=self.ssh),
        )

    @property
    def _missing(self) -> str:
        program = "ssh" if self.ssh else self.command[0].rpartition("/")[2]
        return _MISSING.get(program, f"install {program}, or correct ZFS_COMMAND")


def send_args(snapshot: str, *, base: str | None = None, flags: Sequence[str] = ()) -> list[str]:
    """The zfs arguments of a full or incremental send. Raises UsageError for impossible names."""
    check_snapshot_name(snapshot)
    if base is None:
        return ["send", *flags, snapshot]
    check_base_name(base)
    return ["send", *flags, "-i", base, snapshot]


def _found(program: str) -> str:
    """The program, with its path if only administrators' folders have it."""
    if "/" in program or shutil.which(program):
        return program
    return shutil.which(program, path=_SBIN) or program


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C"}
