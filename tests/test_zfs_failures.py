"""Every text of the table, as the real programs said it (OpenZFS 2.1.11, OpenSSH 9.2, sudo 1.9)."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offsite.errors import ProviderError, ZfsError
from offsite.zfs import failures
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import while_imported
from offsite.zfs.failures import Reason, explain

NEWFS = "cannot receive new filesystem stream: "
INCREMENT = "cannot receive incremental stream: "
HOST = "root@nas"
NOISE = "Warning: Permanently added '[nas]:2222' (ED25519) to the list of known hosts.\r\n"

# verb, stderr, the part of our line after "zfs VERB: "
LOCAL = [
    ("list", "cannot open 't/none': dataset does not exist", "t/none does not exist"),
    ("send", "cannot open 't/a@none': dataset does not exist", "t/a@none does not exist"),
    ("hold", "cannot hold snapshot 't/a@n': dataset does not exist", "t/a@n does not exist"),
    (
        "snapshot",
        "cannot create snapshot 't/a@s1': dataset already exists",
        "t/a@s1 exists already",
    ),
    ("snapshot", "cannot create snapshots : permission denied", "permission denied"),
    ("snapshot", "cannot create snapshot 't/a@x': out of space", "no space left in the pool"),
    (
        "set",
        "cannot set property for 't/a': size is greater than available space",
        "size is greater than available space",
    ),
    ("hold", "cannot hold snapshot 't/a@s1': tag already exists on this dataset", "held already"),
    (
        "release",
        "cannot release hold from snapshot 't/a@s1': no such tag on this dataset",
        "no such hold",
    ),
    (
        "destroy",
        "cannot destroy snapshot t/a@s1: dataset is busy",
        "the dataset is busy or held",
    ),
    (
        "send",
        "warning: cannot send 't/a@s2': incremental source (t/a#none) does not exist",
        "the base t/a#none is gone",
    ),
    (
        "send",
        "warning: cannot send 't/a@s1': not an earlier snapshot from the same fs",
        "the base is not an earlier snapshot of the same dataset",
    ),
    (
        "send",
        "warning: cannot send 't/enc@1': dataset key must be loaded",
        "the dataset is encrypted and its key is not loaded",
    ),
    (
        "send",
        "cannot send t/a@1: source snapshot contains large microzaps, need -L (--large-block)",
        "the snapshot has large microzaps",
    ),
    ("send", "warning: cannot send 't/a@1': I/O error", "the pool has unreadable blocks"),
    (
        "send",
        "cannot resume send: resume token is corrupt (incorrect checksum)",
        "cannot resume: resume token is corrupt (incorrect checksum)",
    ),
    (
        "send",
        "warning: cannot send 't/a@1': No such file or directory",
        "what is to be sent is refused: No such file or directory",
    ),
    ("send", "cannot send 't/a@1': Input/output error", "the pool has unreadable blocks"),
    (
        "receive",
        "cannot receive new filesystem stream: dataset is busy",
        "the target is in use",
    ),
    *[
        (verb, f"cannot {says}: pool is read-only", "the pool is imported read-only")
        for verb, says in (
            ("snapshot", "create snapshots "),
            ("hold", "hold"),
            ("bookmark", "create bookmark 't/a#c'"),
            ("receive", "receive new filesystem stream"),
            ("set", "set property for 't/a'"),
        )
    ],
    ("send", "invalid option 'Y'\nusage:\n\tsend [-DnPpRVvLecwhb]", "this ZFS is too old"),
    ("version", "unrecognized command 'version'\nusage: zfs command", "this ZFS is too old"),
    (
        "list",
        "cannot open 't': pool I/O is currently suspended",
        "the pool is suspended or unavailable",
    ),
    (
        "list",
        "Permission denied the ZFS utilities must be run as root.",
        "permission denied",
    ),
    (
        "list",
        "The ZFS modules cannot be auto-loaded.\nTry running 'modprobe zfs' as 'root'",
        "the ZFS kernel module is not loaded",
    ),
    # zfs-fuse without its daemon (run); FreeBSD 13 without the module (read)
    *[
        ("list", says, "the ZFS of this system cannot be reached")
        for says in (
            (
                "Please make sure that the zfs-fuse daemon is running.\n"
                "internal error: failed to initialize ZFS library"
            ),
            "Failed to load zfs module: No such file or directory",
        )
    ],
    (
        "list",
        "sudo: a password is required",
        "sudo does not let this user run zfs without a password",
    ),
    ("list", "sudo: zfs: command not found", "there is no program zfs"),
    ("list", "env: can't execute 'zfs': No such file or directory", "there is no program zfs"),
    ("list", "env: '/no/zfs': No such file or directory", "there is no program /no/zfs"),
    ("list", "env: /no/zfs: No such file or directory", "there is no program /no/zfs"),
    (
        "receive",
        f"cannot open 't/no': dataset does not exist\n{NEWFS}unable to restore to destination",
        "t/no, the parent of the target, does not exist",
    ),
    ("receive", f"{NEWFS}destination 'nopool' does not exist", "nopool does not exist"),
    ("receive", f"{INCREMENT}destination 't/x' does not exist", "t/x does not exist"),
    (
        "receive",
        f"{NEWFS}parent 't/vol' is not a filesystem",
        "t/vol is a volume: it cannot hold datasets",
    ),
    (
        "receive",
        f"{NEWFS}destination 't/a' exists\nmust specify -F to overwrite it",
        "t/a exists already",
    ),
    (
        "receive",
        "cannot restore to t/a@2: destination already exists",
        "t/a@2 exists already",
    ),
    ("destroy", "bookmark 't/a#none' does not exist.", "t/a#none does not exist"),
    ("receive", f"{NEWFS}out of space", "no space left in the pool"),
    (
        "receive",
        f"{NEWFS}destination u/q/x space quota exceeded.",
        "the quota of the target is exhausted",
    ),
    ("receive", f"{NEWFS}permission denied", "permission denied"),
    (
        "receive",
        "cannot receive: stream has unsupported feature, feature flags = 32cb0004",
        "the stream needs features this ZFS does not have (feature flags 32cb0004)",
    ),
    (
        "receive",
        f"{NEWFS}kernel modules must be upgraded to receive this stream.",
        "the kernel modules must be upgraded to receive this stream",
    ),
    (
        "receive",
        f"{NEWFS}pool must be upgraded to receive this stream.",
        "the pool must be upgraded to receive this stream",
    ),
    (
        "receive",
        f"{NEWFS}incompatible embedded data stream feature with encrypted receive.",
        "the stream cannot be received here (embedded blocks, or another place than it stands at)",
    ),
    (
        "receive",
        "cannot receive: invalid stream (bad magic number)",
        "the stream is not a ZFS send stream",
    ),
    (
        "receive",
        f'{NEWFS}destination t/x contains partially-complete state from "zfs receive -s".',
        "the target holds the rest of an interrupted receive",
    ),
    (
        "receive",
        f"{INCREMENT}destination t/x has been modified\nsince most recent snapshot",
        "the target has changed since the base of this increment",
    ),
    (
        "receive",
        f"{INCREMENT}most recent snapshot of u does not\nmatch incremental source",
        "the target has changed since the base of this increment",
    ),
    (
        "receive",
        f"{INCREMENT}incremental send stream requires -L (--large-block), to match previous ...",
        "the increment has no large blocks, and what it stands on has: it cannot be received",
    ),
    ("receive", f"{NEWFS}checksum mismatch", "the stream is damaged (checksum mismatch)"),
    ("receive", f"{NEWFS}incomplete stream", "the stream ended early or is damaged"),
    (
        "receive",
        "cannot receive: failed to read from stream",
        "the stream ended early or is damaged",
    ),
    (
        "receive",
        f"{NEWFS}checksum mismatch or incomplete stream.\nPartially received snapshot is saved.",
        "the stream ended early or is damaged",
    ),
]
REMOTE = [
    (
        "ssh: Could not resolve hostname nas: Name or service not known\r\n",
        "host nas: the name cannot be resolved",
    ),
    (
        "ssh: connect to host nas port 22: Connection refused\r\n",
        "host nas cannot be reached on port 22: Connection refused",
    ),
    (
        "ssh: connect to host nas port 22: No route to host\r\n",
        "host nas cannot be reached on port 22: No route to host",
    ),
    (
        "Host key verification failed.\r\n",
        "host root@nas: its ssh host key is unknown or has changed",
    ),
    (
        f"{NOISE}root@nas: Permission denied (publickey,password).\r\n",
        "ssh login as root@nas was refused (publickey,password)",
    ),
    (
        "client_loop: send disconnect: Broken pipe\r\n",
        "the ssh connection to root@nas was lost",
    ),
    (
        "Connection to nas closed by remote host.\r\n",
        "the ssh connection to root@nas was lost",
    ),
    (
        "Timeout, server nas not responding.\r\n",
        "the ssh connection to root@nas was lost",
    ),
    (
        "kex_exchange_identification: read: Connection reset by peer\r\n",
        "the ssh connection to root@nas was lost",
    ),
    ("cannot open 't/none': dataset does not exist\n", "t/none does not exist"),
]


@pytest.mark.parametrize(("verb", "stderr", "line"), LOCAL)
def test_what_zfs_says_becomes_one_clear_line(verb: str, stderr: str, line: str) -> None:
    error = explain(verb, 1, stderr + "\n", host=None)
    assert str(error) == f"zfs {verb}: {line}"


@pytest.mark.parametrize(("stderr", "line"), REMOTE)
def test_what_ssh_says_becomes_one_clear_line(stderr: str, line: str) -> None:
    error = explain("list", 255, stderr, host=HOST)
    assert str(error) == f"zfs list: {line} (on {HOST})"


@pytest.mark.parametrize(
    ("verb", "stderr", "reason"),
    [
        ("list", "cannot open 't/none': dataset does not exist", Reason.MISSING),
        ("release", "cannot open 't/none': dataset does not exist", Reason.MISSING),
        ("destroy", "bookmark 't/a#none' does not exist.", Reason.MISSING),
        ("snapshot", "cannot create snapshot 't/a@1': dataset already exists", Reason.EXISTS),
        ("bookmark", "cannot create bookmark 't/a#1': bookmark exists", Reason.EXISTS),
        ("receive", f"{NEWFS}destination 't/a' exists", Reason.EXISTS),
        ("receive", "cannot receive resume stream: dataset is busy", Reason.BUSY),
        ("hold", "cannot hold: tag already exists on this dataset", Reason.TAG_EXISTS),
        ("release", "cannot release: no such tag on this dataset", Reason.TAG_MISSING),
        ("version", "unrecognized command 'version'", Reason.TOO_OLD),
        ("list", "invalid type 'bookmark'", Reason.TOO_OLD),  # zfs-fuse
        ("list", "cannot open 't': pool I/O is currently suspended", Reason.OTHER),
        ("list", "", Reason.OTHER),
        ("send", "cannot resume send: 't/a@1' used in the initial send no", Reason.UNSERVED),
        ("send", "warning: cannot send 't/a@1': Invalid argument", Reason.UNSERVED),
    ],
)
def test_what_callers_tell_apart(verb: str, stderr: str, reason: Reason) -> None:
    assert explain(verb, 1, stderr, host=None).reason is reason


def test_the_hint_names_the_rights_that_the_verb_needs() -> None:
    for verb, rights in [("send", "send,snapshot,hold"), ("receive", "receive,create,mount")]:
        error = explain(verb, 1, "cannot: permission denied", host=None)
        assert f"zfs allow -u USER {rights}" in str(error.hint)


def test_unknown_words_are_passed_on_without_the_noise_of_ssh() -> None:
    error = explain("send", 255, f"{NOISE}something \x1b[31mnew\r\nmore\r\n", host=HOST)
    assert str(error) == "zfs send ended with status 255 (on root@nas): something [31mnew"
    assert str(explain("send", -9, "", host=None)) == "zfs send ended with signal 9 (Killed)"
    far = explain("send", -9, "", host="root@nas")
    assert str(far) == "the ssh of zfs send ended with signal 9 (Killed) (on root@nas)"


def test_no_entry_of_the_table_is_untested() -> None:
    found = [failures._recognise(verb, text, remote=False)[0] for verb, text, _ in LOCAL]
    found += [failures._recognise("list", text, remote=True)[0] for text, _ in REMOTE]
    tables = [failures._SSH, failures._START, failures._COMMON, failures._RECEIVE, failures._LAST]
    assert set(chain(*tables)) == set(found)


@given(st.sampled_from(["send", "receive", "list"]), st.text(), st.sampled_from([None, HOST]))
def test_any_text_gives_one_printable_line(verb: str, stderr: str, host: str | None) -> None:
    error = explain(verb, 1, stderr, host=host)
    assert str(error).isprintable()


@pytest.mark.parametrize(
    ("list_says", "told"),
    [
        ("echo \"cannot open 'tank': no such pool\" >&2; exit 1", "the pool tank is not imported"),
        ("echo \"cannot open 'tank': dataset does not exist\" >&2; exit 1", "the pool tank is not"),
        ("echo tank", "what failed"),
        ("echo 'permission denied' >&2; exit 1", "what failed"),
    ],
)
def test_of_a_pool_that_was_exported_that_is_told(list_says: str, told: str) -> None:
    zfs = Zfs(
        ("/bin/sh", "-c", f'[ "$*" = "list -Ho name -d 0 tank" ] || exit 9; {list_says}', "zfs")
    )
    with pytest.raises(ZfsError, match=f"^{told}") as caught, while_imported(zfs, "tank/a"):
        raise ZfsError("what failed")
    assert "what failed" in str(caught.value)
    with while_imported(zfs, "tank/a"):
        pass
    with pytest.raises(ProviderError), while_imported(zfs, "tank/a"):  # no business of zfs's
        raise ProviderError("full")
