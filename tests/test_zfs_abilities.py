"""What zfs of other systems and times can do, told by their own usage texts (tests/usages)."""

from __future__ import annotations

from pathlib import Path

import pytest

from offsite.errors import ConfigError
from offsite.zfs import abilities, bookmarks, datasets, targets
from offsite.zfs.abilities import Abilities
from offsite.zfs.command import Zfs
from offsite.zfs.failures import CommandError, Reason
from tests import old_zfs

_BEFORE_ENCRYPTION = Abilities(encryption=False, properties=False)
ABLE = {
    "freebsd-12": _BEFORE_ENCRYPTION,
    "freebsd-13": Abilities(),
    "illumos-2018": _BEFORE_ENCRYPTION,
    "illumos-2019": Abilities(properties=False),
    "linux-0.6.5": Abilities(
        encryption=False, compressed=False, tokens=False, partial=False, properties=False
    ),
    "linux-0.7.13": Abilities(encryption=False),
    "linux-2.3.2": Abilities(),
    "zfs-fuse": Abilities(*[False] * 9),
}


def zfs_of(folder: Path, name: str) -> Zfs:
    return Zfs(command=(str(old_zfs.program(folder, name)),))


def asked(folder: Path) -> list[str]:
    return (folder / "asked").read_text().splitlines()


@pytest.mark.parametrize("name", old_zfs.NAMES)
def test_what_it_can_do_is_asked_once(tmp_path: Path, name: str) -> None:
    zfs = zfs_of(tmp_path, name)
    assert abilities.of(zfs) == ABLE[name]
    assert abilities.of(zfs) == ABLE[name]
    assert asked(tmp_path) == [""]
    assert targets.knows_marks(zfs) == ABLE[name].properties


def refused(zfs: Zfs, *args: str) -> bool:
    try:
        zfs.run(*args)
    except CommandError as error:
        if error.reason is not Reason.TOO_OLD:
            raise
        return True
    return False


@pytest.mark.parametrize("name", old_zfs.NAMES)
def test_a_flag_is_used_just_where_it_is_taken(tmp_path: Path, name: str) -> None:
    zfs, able = zfs_of(tmp_path, name), ABLE[name]
    flags = {"-L": able.large_blocks, "-c": able.compressed, "-w": able.encryption}
    for flag, known in flags.items():
        if known or flag != "-w":
            assert abilities.known_flags(zfs, (flag,)) == ((flag,) if known else ())
        assert refused(zfs, "send", flag, "t@a") != known
    assert abilities.missing_flags(zfs) == {flag for flag, known in flags.items() if not known}
    assert refused(zfs, "send", "-t", "1-a") != able.tokens
    assert refused(zfs, "receive", "-s", "t") != able.partial
    assert refused(zfs, "receive", *targets.mark_flags("x", mounts=True), "t") != able.properties
    assert refused(zfs, "bookmark", "t@a", "t#a") != able.bookmarks


def test_encrypted_blocks_are_never_sent_decrypted_for_want_of_a_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot send an encrypted dataset as it is") as caught:
        abilities.known_flags(zfs_of(tmp_path, "freebsd-12"), ("-w",))
    assert str(caught.value.hint).startswith("SEND_RAW=no")


def test_the_version_is_told_or_not(tmp_path: Path) -> None:
    assert datasets.version(zfs_of(tmp_path, "freebsd-13")).kernel == "2.1.99"
    for name in ("freebsd-12", "illumos-2019", "zfs-fuse", "linux-0.7.13"):
        (tmp_path / name).mkdir()
        assert datasets.version(zfs_of(tmp_path / name, name)).kernel == "unknown"


@pytest.mark.parametrize(
    "says",
    ["", "The ZFS modules cannot be auto-loaded.", "sudo: a password is required", "\tsend [-L]"],
)
def test_one_that_does_not_tell_is_taken_for_a_new_one(tmp_path: Path, says: str) -> None:
    """Not for good: it may only have been out of reach."""
    program = tmp_path / "zfs"
    program.write_text(f"#!/bin/sh\necho '{says}' >&2; exit 1\n")
    program.chmod(0o755)
    zfs = Zfs(command=(str(program),))
    assert abilities.of(zfs) == Abilities()
    program.write_text(old_zfs.program(tmp_path, "linux-0.6.5").read_text())
    assert abilities.of(zfs) == ABLE["linux-0.6.5"]


def test_sudo_is_not_let_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be allowed to run some commands of zfs only, and would ask for a password."""
    (tmp_path / "sudo").write_text(f'#!/bin/sh\nprintf "%s " "$@" > {tmp_path}/args\n')
    (tmp_path / "sudo").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert abilities.of(Zfs(command=("sudo", "/sbin/zfs"))) == Abilities()
    assert (tmp_path / "args").read_text() == "-n /sbin/zfs "


def test_what_is_lacking_is_named(tmp_path: Path) -> None:
    lacking = abilities.lacking(zfs_of(tmp_path, "linux-0.6.5"), "send")
    assert [line.partition(":")[0] for line in lacking] == [
        "This ZFS (it tells no version) knows no encryption (send -w)",
        "This ZFS (it tells no version) knows no compressed blocks (send -c)",
        "This ZFS (it tells no version) knows no resume tokens (send -t)",
    ]
    lacking = abilities.lacking(zfs_of(tmp_path, "linux-0.6.5"), "receive")
    assert [line.rpartition("knows no ")[2].partition(":")[0] for line in lacking] == [
        "encryption",
        "resume tokens (receive -s)",
        "properties at receive (receive -o)",
    ]
    (tmp_path / "new").mkdir()
    new = zfs_of(tmp_path / "new", "freebsd-13")
    assert abilities.lacking(new, "send") == abilities.lacking(new, "receive") == []


def test_one_without_exact_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        abilities.check(zfs_of(tmp_path, "zfs-fuse"))
    assert str(caught.value) == (
        "the ZFS is too old (zfs-fuse?): it has no zfs list -p, no zfs receive -u"
    )
    assert caught.value.exit_status == 2
    assert asked(tmp_path) == [""]
    for name in old_zfs.NAMES:
        if name != "zfs-fuse":
            (tmp_path / name).mkdir()
            abilities.check(zfs_of(tmp_path / name, name))


WITHOUT_BOOKMARKS = """#!/bin/sh
case "$*" in *bookmark*) echo "invalid type 'bookmark'" >&2; exit 2 ;; esac
printf 'tank@a\\t1\\t2\\t0\\n'
"""


def test_points_without_bookmarks(tmp_path: Path) -> None:
    """As zfs-fuse says it."""
    (tmp_path / "zfs").write_text(WITHOUT_BOOKMARKS)
    (tmp_path / "zfs").chmod(0o755)
    (point,) = bookmarks.list_points(Zfs(command=(str(tmp_path / "zfs"),)), "tank")
    assert point.full_name == "tank@a"
