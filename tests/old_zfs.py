"""What other people's zfs say of themselves, and programs that refuse what those would.

The texts in usages/ are excerpts of what ``zfs`` without arguments writes to stderr, ending with
status 2. Two were run: zfs-fuse (its daemon and a pool, in a mount namespace of their own) and
OpenZFS 2.3.2. The others are read from ``get_usage`` and the letters that ``getopt`` is given in
the file that the text names first; nothing of them was run.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

_USAGES = Path(__file__).parent / "usages"
NAMES = sorted(path.stem for path in _USAGES.glob("*.txt"))


@dataclass(frozen=True)
class _Takes:
    """The option letters of send and receive that it takes, whatever its usage says."""

    send: str
    receive: str
    version: str | None = None


_TAKES = {
    "zfs-fuse": _Takes("RDpiI", "vnFd"),
    "linux-0.6.5": _Takes("iIRDpvnPLe", "denuvF"),
    "linux-0.7.13": _Takes("iIRDpvnPLetc", "oxdenuvFsA"),
    "freebsd-12": _Takes("iIRDpvnPLetc", "odenuvFsA"),
    "illumos-2018": _Takes("iIRDpvnPLetc", "odenuvFsA"),
    "illumos-2019": _Takes("iIRbDpvnPLetcw", "odenuvFsA"),
    "freebsd-13": _Takes(
        "iIRsDpVvnPLehtcwbdS",
        "oxdehMnuvFsAc",
        # ZFS_META_ALIAS in a sys/modules/zfs/zfs_config.h of freebsd/freebsd-src
        "zfs-2.1.99-FreeBSD_ge61076683\nzfs-kmod-2.1.99-FreeBSD_ge61076683\n",
    ),
    "linux-2.3.2": _Takes(
        "iIRsDpVvnPLehtcwbdSX",
        "oxdehMnuvFsAc",
        "zfs-2.3.2-2~bpo12+2\nzfs-kmod-2.3.2-2~bpo12+2\n",
    ),
}

_PROGRAM = """\
#!/bin/sh
printf '%s\\n' "$*" >> {calls}
usage() {{ echo "$1" >&2; cat {usage} >&2; exit 2; }}
[ $# -gt 0 ] || usage 'missing command'
known=
case "$1" in
version) {version} ;;
send) known={send} ;;
receive) known={receive} ;;
bookmark) {bookmark} ;;
list) {list} ;;
esac
for word in ${{known:+"$@"}}; do
    case "$word" in -*) ;; *) continue ;; esac
    letters=${{word#-}}
    while [ "$letters" ]; do
        letter=${{letters%"${{letters#?}}"}} letters=${{letters#?}}
        case "$known" in *"$letter"*) ;; *) usage "invalid option '$letter'" ;; esac
    done
done
case "$*" in
"receive "*"-o "*) {properties} ;;
"get "*receive_resume_token*) {token} ;;
*,encryption*) {encryption} ;;
esac
exec {rest} "$@"
"""


def usage(name: str) -> str:
    """The usage text of the zfs of that name."""
    lines = (_USAGES / f"{name}.txt").read_text().splitlines(keepends=True)
    head = "usage: zfs command args ...\nwhere 'command' is one of the following:\n\n"
    return head + "".join(line for line in lines if not line.startswith("#"))


def program(folder: Path, name: str, rest: str = "true") -> Path:
    """A zfs that refuses what the one of that name would, and leaves all else to ``rest``.

    What it was asked for is in the file ``asked`` beside it, a line a command.
    """
    takes, text = _TAKES[name], usage(name)

    def property_of(it: str, *, known: bool) -> str:
        return "" if known else f"usage \"bad property list: invalid property '{it}'\""

    script = _PROGRAM.format(
        calls=shlex.quote(str(folder / "asked")),
        usage=shlex.quote(str(folder / f"{name}.usage")),
        version=f"printf %s {shlex.quote(takes.version)}; exit"
        if takes.version
        else "usage \"unrecognized command 'version'\"",
        send=takes.send,
        receive=takes.receive,
        bookmark="" if "bookmark" in text else "usage \"unrecognized command 'bookmark'\"",
        list="" if "list [-Hp]" in text else "usage \"invalid option 'p'\"",
        properties="" if "-o <property>" in text else "usage 'invalid option'",
        token=property_of("receive_resume_token", known="t" in takes.send),
        encryption=property_of("encryption", known="w" in takes.send),
        rest=rest,
    )
    (folder / f"{name}.usage").write_text(text)
    path = folder / name
    path.write_text(script)
    path.chmod(0o755)
    return path
