"""What the installed zfs can do, told by its own usage text.

Run without a command, every zfs lists its commands and their options (``usage`` in cmd/zfs/
zfs_main.c): zfs-fuse, FreeBSD's of before and since OpenZFS, illumos' and Linux's. Their versions
say less: not all tell one, and features came to each of them in another order.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from typing import Literal

from offsite.errors import ConfigError
from offsite.zfs import datasets
from offsite.zfs.command import Zfs

# A command is behind a tab, and so is a line that goes on, but then come blanks. FreeBSD 12 forgot
# the line's end between two commands.
_COMMAND = re.compile(r"\t(?=[a-z])")
_LETTERS = re.compile(r"\[-([A-Za-z]+)\b")


@dataclass(frozen=True)
class Abilities:
    """Whether this zfs has what is named so; a zfs that does not tell is taken for a new one."""

    exact_lists: bool = True  # list -p
    unmounted: bool = True  # receive -u
    bookmarks: bool = True
    encryption: bool = True  # the property of this name, and send -w
    large_blocks: bool = True  # send -L
    compressed: bool = True  # send -c
    tokens: bool = True  # send -t
    partial: bool = True  # receive -s
    properties: bool = True  # receive -o


_TO_SEND = {
    "bookmarks": "bookmarks: snapshots are held for the next backup instead",
    "encryption": "encryption (send -w): datasets are taken for unencrypted",
    "large_blocks": "large blocks (send -L): they are sent in parts of 128 KiB",
    "compressed": "compressed blocks (send -c): they are sent decompressed",
    "tokens": "resume tokens (send -t): an interrupted backup is sent again and compared",
}
_TO_RECEIVE = {
    "encryption": "encryption: what was sent raw (send -w) cannot be restored here",
    "partial": "resume tokens (receive -s): what was not received whole is received anew",
    "properties": "properties at receive (receive -o): a restore is marked as unfinished once its"
    " first backup is received",
}
_RAW = "-w"
_FLAGS = {"-L": "large_blocks", "-c": "compressed", _RAW: "encryption"}


def of(zfs: Zfs) -> Abilities:
    """Asked once, unless there was no answer. Raises ZfsError, ConfigError (there is no zfs)."""
    try:
        return _told(zfs)
    except LookupError:
        return Abilities()


def check(zfs: Zfs) -> None:
    """Raise ConfigError if nothing here can work with this zfs, and as ``of`` does."""
    able = of(zfs)
    has = {"zfs list -p": able.exact_lists, "zfs receive -u": able.unmounted}
    lacks = [name for name, known in has.items() if not known]
    if lacks:
        where = f" on {zfs.ssh}" if zfs.ssh else ""
        raise ConfigError(
            f"the ZFS{where} is too old (zfs-fuse?): it has no {', no '.join(lacks)}",
            hint="OpenZFS 0.7 or newer is needed; it imports the pools of older ones",
        )


def lacking(zfs: Zfs, to: Literal["send", "receive"]) -> list[str]:
    """A line for the log about everything that this zfs has not, and what that means."""
    able, all_of_it = of(zfs), _TO_SEND if to == "send" else _TO_RECEIVE
    lines = [line for name, line in all_of_it.items() if not getattr(able, name)]
    if not lines:
        return []
    version = datasets.version(zfs).userland
    name = "This ZFS (it tells no version)" if version == "unknown" else f"OpenZFS {version}"
    return [f"{name} knows no {line}" for line in lines]


def missing_flags(zfs: Zfs) -> frozenset[str]:
    """The flags of zfs send that we use and this zfs has not. Raises as ``of`` does."""
    able = of(zfs)
    return frozenset(flag for flag, name in _FLAGS.items() if not getattr(able, name))


def known_flags(zfs: Zfs, flags: tuple[str, ...]) -> tuple[str, ...]:
    """Of these flags of zfs send, those that this zfs has.

    Raises ConfigError rather than leave -w out: what is encrypted would be sent decrypted. And as
    ``of`` does.
    """
    missing = missing_flags(zfs)
    if _RAW in missing.intersection(flags):
        raise ConfigError(
            "this ZFS cannot send an encrypted dataset as it is (send -w)",
            hint="SEND_RAW=no lets ZFS decrypt it; then Offsite alone encrypts it",
        )
    return tuple(flag for flag in flags if flag not in missing)


@functools.cache
def _told(zfs: Zfs) -> Abilities:
    """Raises LookupError if there is no usage text in what zfs says."""
    commands: dict[str, str] = {}
    for entry in _COMMAND.split(zfs.usage())[1:]:
        name = entry.split(maxsplit=1)[0].partition("|")[0]
        commands[name] = commands.get(name, "") + entry
    lists, send, receive = (commands[name] for name in ("list", "send", "receive"))
    return Abilities(
        exact_lists="p" in _letters(lists),
        unmounted="u" in _letters(receive),
        bookmarks="bookmark" in commands,
        # Not by the letter: illumos has send -w and does not list it.
        encryption="load-key" in commands,
        large_blocks="L" in _letters(send),
        compressed="c" in _letters(send),
        tokens="-t <" in send,
        partial="s" in _letters(receive),
        # Others have -o for an origin only.
        properties="-o <property>" in receive,
    )


def _letters(usage: str) -> str:
    return "".join(_LETTERS.findall(usage))
