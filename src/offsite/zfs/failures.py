"""What zfs, sudo and ssh say when they fail, and what we tell the user instead.

One table. The texts are those of OpenZFS 2.1 to 2.4 (lib/libzfs, cmd/zfs) and of OpenSSH, in the C
locale; the lab provokes them for real. An unknown text is passed on as it is.
"""

from __future__ import annotations

import enum
import re
import shlex
import signal
from collections.abc import Mapping
from dataclasses import dataclass

from offsite.errors import ZfsError


class Reason(enum.Enum):
    """What callers tell apart; everything else is OTHER."""

    MISSING = enum.auto()  # no such dataset or snapshot
    EXISTS = enum.auto()  # the name is taken
    TAG_EXISTS = enum.auto()  # held already under this tag
    TAG_MISSING = enum.auto()  # not held under this tag
    TOO_OLD = enum.auto()  # this zfs does not know the command
    READ_ONLY = enum.auto()  # the pool was imported so
    BUSY = enum.auto()  # somebody else uses the dataset just now
    MISFIT = enum.auto()  # the stream's beginning is refused: EINVAL, whatever zfs makes of it
    UNSERVED = enum.auto()  # there is no going on from this resume token, now or later
    UNREADABLE = enum.auto()  # a block of the pool is damaged, and there is no good copy of it
    TOO_LONG = enum.auto()  # the system does not take so many arguments; zfs did not run
    OTHER = enum.auto()


class CommandError(ZfsError):
    """zfs, or the ssh that carried it, ended with a status other than 0."""

    def __init__(self, message: str, *, hint: str | None, reason: Reason) -> None:
        super().__init__(message, hint=hint)
        self.reason = reason


def is_read_only(error: Exception) -> bool:
    """Whether zfs refused because the pool was imported read-only."""
    return isinstance(error, CommandError) and error.reason is Reason.READ_ONLY


@dataclass(frozen=True)
class _Known:
    """``says`` and ``hint`` are filled with the pattern's named groups and ``{host}``."""

    pattern: str
    says: str
    hint: str | None = None
    reason: Reason = Reason.OTHER


_SSH = (
    _Known(
        r"ssh: Could not resolve hostname (?P<name>[^\s:]+)",
        "host {name}: the name cannot be resolved",
        "check ZFS_SSH and the network",
    ),
    _Known(
        r"ssh: connect to (?:host|address) (?P<name>\S+) port (?P<port>\d+): (?P<why>.+)",
        "host {name} cannot be reached on port {port}: {why}",
        "is the host up and sshd running there? Try: ssh {host} true",
    ),
    _Known(
        r"Host key verification failed|HOST IDENTIFICATION HAS CHANGED",
        "host {host}: its ssh host key is unknown or has changed",
        "compare the key, then log in once by hand: ssh {host}",
    ),
    _Known(
        r"(?P<who>\S+): Permission denied \((?P<how>[^)]*)\)",
        "ssh login as {who} was refused ({how})",
        "offsite never types passwords: install a key with ssh-copy-id {host}, or name one with "
        "ZFS_SSH_OPTIONS='-i FILE'",
    ),
    _Known(
        r"Connection (?:reset|closed|timed out)|Connection to \S+ (?:closed|timed out)"
        r"|Timeout, server \S+ not responding|client_loop: |kex_exchange_identification"
        r"|ssh_dispatch_run_fatal|mux_client_request_session",
        "the ssh connection to {host} was lost",
        "run the same command again once the network is back",
    ),
)

_START = (
    _Known(
        r"^env: (?:can't execute )?'?(?P<name>[^':\n]+)'?: No such file"
        r"|(?:^|[: ])(?P<program>[\w./-]+): (?:command )?not found",
        "there is no program {name}{program}",
        "install zfsutils-linux, or give the full path, e.g. ZFS_COMMAND=/usr/sbin/zfs",
    ),
    _Known(
        r"sudo: .*password is required|sudo: a terminal is required|not in the sudoers file"
        r"|sudo: .*not allowed to execute|sudo: no tty present",
        "sudo does not let this user run zfs without a password",
        "add to sudoers: USER ALL=(root) NOPASSWD: /usr/sbin/zfs, or use zfs allow",
    ),
    _Known(
        r"modules (?:cannot be auto-loaded|are not loaded)|/dev/zfs and /proc/self/mounts",
        "the ZFS kernel module is not loaded",
        "run as root: modprobe zfs",
    ),
    _Known(
        r"(?i)failed to initialize (?:the lib)?zfs library|Failed to load \w+ module",
        "the ZFS of this system cannot be reached",
        "is its kernel module loaded (FreeBSD: kldload zfs) and of the same version?",
    ),
)

SAYS_READ_ONLY = "pool is read-only"
_COMMON = (
    _Known(
        r"(?i)permission denied",
        "permission denied",
        "run as root: zfs allow -u USER {allow} DATASET, or set ZFS_COMMAND='sudo -n zfs'",
    ),
    _Known(
        r"pool I/O is currently suspended|pool is unavailable|one or more devices is currently un",
        "the pool is suspended or unavailable",
        "see: zpool status -x",
    ),
    _Known(
        SAYS_READ_ONLY,
        "the pool is imported read-only",
        "a snapshot that is there can be backed up; for all else import it for writing:"
        " zpool export POOL && zpool import POOL",
        Reason.READ_ONLY,
    ),
    _Known(
        r"incremental source \(?(?P<name>.*?)\)? (?:does not exist|no longer exists|could not)",
        "the base {name} is gone",
    ),
    _Known(
        r"not an earlier snapshot from the same fs",
        "the base is not an earlier snapshot of the same dataset",
    ),
    _Known(
        r"key must be loaded",
        "the dataset is encrypted and its key is not loaded",
        "run: zfs load-key DATASET, or send it raw (-w)",
    ),
    _Known(r"contain.* large microzaps, need", "the snapshot has large microzaps", "send with -L"),
    _Known(r"no such tag on this dataset", "no such hold", reason=Reason.TAG_MISSING),
    _Known(r"tag already exists on this", "held already", reason=Reason.TAG_EXISTS),
)

_RECEIVE = (
    _Known(
        r"cannot open '(?P<name>[^']*)': dataset does not exist",
        "{name}, the parent of the target, does not exist",
        "create it (zfs create -p {name}), or import its pool",
        Reason.MISSING,
    ),
    _Known(
        r"destination '(?P<name>[^']*)' does not exist",
        "{name} does not exist",
        "the base of an increment must be there, and the pool imported",
        Reason.MISSING,
    ),
    _Known(
        r"parent '(?P<name>[^']*)' is not a filesystem",
        "{name} is a volume: it cannot hold datasets",
        "choose another target",
    ),
    _Known(
        r"destination '(?P<name>[^']*)' exists|restore to (?P<full>.*): destination already exists",
        "{name}{full} exists already",
        "choose another name; nothing was overwritten",
        Reason.EXISTS,
    ),
    _Known(r"space quota exceeded", "the quota of the target is exhausted", "raise the quota"),
    _Known(
        r"has unsupported feature, feature flags = (?P<flags>[0-9a-f]+)",
        "the stream needs features this ZFS does not have (feature flags {flags})",
        "receive it on a newer OpenZFS",
    ),
    _Known(
        r"(?P<what>kernel modules|pool) must be upgraded",
        "the {what} must be upgraded to receive this stream",
        "receive it on a newer OpenZFS, or upgrade the pool",
        Reason.MISFIT,
    ),
    _Known(
        r"incompatible embedded data stream feature with encrypted receive",
        "the stream cannot be received here (embedded blocks, or another place than it stands at)",
        "below an encrypted dataset, receive it with: -o encryption=off",
        Reason.MISFIT,
    ),
    _Known(
        r"dataset is busy",
        "the target is in use",
        "look for another zfs receive, and for programs that use its mountpoint; once they have"
        " ended, run the same command again",
        Reason.BUSY,
    ),
    _Known(r"bad magic number", "the stream is not a ZFS send stream"),
    _Known(
        r"contains\s+partially-complete state",
        "the target holds the rest of an interrupted receive",
        "continue that restore, or drop the rest: zfs receive -A TARGET",
        Reason.BUSY,
    ),
    _Known(
        r"has been modified|most recent snapshot of .* does not|has snapshots \(eg",
        "the target has changed since the base of this increment",
        "receive into another dataset",
    ),
    _Known(
        r"incremental send stream requires -L",
        "the increment has no large blocks, and what it stands on has: it cannot be received",
        "restore the point before it, and back up the source anew: --full",
    ),
    _Known(r"checksum mismatch(?! or)", "the stream is damaged (checksum mismatch)"),
    _Known(
        r"checksum mismatch or incomplete stream|incomplete stream|failed to read from stream",
        "the stream ended early or is damaged",
    ),
)

_LAST = (
    _Known(r"cannot resume send: (?P<why>.+)", "cannot resume: {why}", reason=Reason.UNSERVED),
    _Known(
        r"cannot send '[^']*': (?P<why>No such file or directory|Invalid argument)",
        "what is to be sent is refused: {why}",
        reason=Reason.UNSERVED,
    ),
    _Known(
        r"'(?P<name>[^']*)': (?:(?:dataset|snapshot) does not exist|no such pool)",
        "{name} does not exist",
        reason=Reason.MISSING,
    ),
    _Known(
        r"bookmark '(?P<name>[^']*)' does not exist",
        "{name} does not exist",
        reason=Reason.MISSING,
    ),
    _Known(
        r"'(?P<name>[^']*)': (?:dataset already|bookmark) exists",
        "{name} exists already",
        reason=Reason.EXISTS,
    ),
    _Known(
        r"dataset is busy|it's being held",
        "the dataset is busy or held",
        "see who holds it: zfs holds SNAPSHOT",
        Reason.BUSY,
    ),
    _Known(r"cannot set property for '[^']*': (?P<why>.+)", "{why}"),
    _Known(r"out of space", "no space left in the pool", "free some space, then run it again"),
    _Known(
        r"unrecognized command|invalid option|invalid type '|bad property list: invalid property",
        "this ZFS is too old",
        "OpenZFS 0.7 or newer is needed",
        Reason.TOO_OLD,
    ),
    _Known(
        r"(?:I/O|Input/output) error",
        "the pool has unreadable blocks",
        "see: zpool status -v",
        Reason.UNREADABLE,
    ),
)

_ALLOW = {
    "receive": "receive,create,mount,userprop",
    "inherit": "userprop",
    "rename": "rename,create,mount",
}
_ALLOW_SEND = "send,snapshot,hold,release,bookmark"
_NOISE = ("Warning: Permanently added", "** ", "debug1:")


def explain(verb: str, status: int, stderr: str, *, host: str | None) -> CommandError:
    """The error to raise for ``zfs VERB`` that ended with ``status`` (negative: a signal)."""
    where = f" (on {host})" if host else ""
    text = "".join(each for each in stderr if each.isprintable() or each == "\n")
    known, found = _recognise(verb, text, remote=host is not None)
    if known:
        fill = {"host": host or "", "allow": _ALLOW.get(verb, _ALLOW_SEND), **found}
        return CommandError(
            f"zfs {verb}: {known.says.format_map(fill)}{where}",
            hint=known.hint and known.hint.format_map(_quoted(fill)),
            reason=known.reason,
        )
    lines = [line for line in text.splitlines() if line and not line.startswith(_NOISE)]
    # What a signal ended is the process that was started here.
    who = f"the ssh of zfs {verb}" if host and status < 0 else f"zfs {verb}"
    ended = f"{who} ended with {_status_text(status)}{where}"
    message = f"{ended}: {lines[0]}" if lines else ended
    return CommandError(message, hint=None, reason=Reason.OTHER)


def _quoted(values: Mapping[str, str]) -> dict[str, str]:
    """For a line that the user may copy to a shell."""
    return {name: shlex.quote(value) for name, value in values.items()}


def _recognise(verb: str, text: str, *, remote: bool) -> tuple[_Known | None, dict[str, str]]:
    """The table's entry for a text, and what its named groups matched."""
    tables = (
        *(_SSH if remote else ()),
        *_START,
        *_COMMON,
        *(_RECEIVE if verb == "receive" else ()),
        *_LAST,
    )
    for known in tables:
        if found := re.search(known.pattern, text, re.MULTILINE):
            return known, found.groupdict(default="")
    return None, {}


def _status_text(status: int) -> str:
    if status < 0:
        return f"signal {-status} ({signal.strsignal(-status)})"
    return f"status {status}"
