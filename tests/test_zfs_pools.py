"""Which streams a pool can take in, and what is said of one that it cannot."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from offsite import fits
from offsite.errors import UsageError
from offsite.landing import Landing
from offsite.zfs import pools
from offsite.zfs.command import Zfs
from offsite.zfs.records import Feature

# As zpool 2.1.11 tells them of a pool made with -o feature@zstd_compress=disabled.
TOLD = """\
size\t100
feature@extensible_dataset\tactive
feature@large_blocks\tenabled
feature@lz4_compress\tactive
feature@zstd_compress\tdisabled
"""
HAS = {"extensible_dataset": "active", "large_blocks": "enabled", "lz4_compress": "active",
       "zstd_compress": "disabled"}  # fmt: skip
ZSTD = int(Feature.ZSTD | Feature.COMPRESSED | Feature.LZ4)


@pytest.fixture
def zfs(tmp_path: Path) -> Zfs:
    """A zfs with a zpool beside it, which tells what is in ``told``."""
    (tmp_path / "told").write_text(TOLD)
    for name in ("zfs", "zpool"):
        program = tmp_path / name
        program.write_text(
            f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\ncat {tmp_path}/told\n'
        )
        program.chmod(0o755)
    return Zfs(command=(str(tmp_path / "zfs"),))


def test_zpool_is_run_as_zfs_is() -> None:
    def zpool(*command: str) -> tuple[str, ...] | None:
        found = Zfs(command=command).zpool
        return found.command if found else None

    assert zpool("zfs") == ("zpool",)
    assert zpool("/usr/sbin/zfs") == ("/usr/sbin/zpool",)
    assert zpool("sudo", "/usr/sbin/zfs") == ("sudo", "/usr/sbin/zpool")
    assert zpool("sudo", "-n", "zfs") == ("sudo", "-n", "zpool")
    assert zpool("doas", "zfs") == ("doas", "zpool")
    assert zpool("/opt/my-zfs") is None
    assert zpool("/bin/sh", "/opt/zfs.sh") is None
    there = Zfs(ssh="root@nas", ssh_options=("-F", "x")).zpool
    assert there is not None
    assert there.argv("get") == [
        *Zfs(ssh="root@nas", ssh_options=("-F", "x")).argv()[:-1],
        "env LC_ALL=C zpool get",
    ]


def test_a_pool_that_was_imported_read_only(zfs: Zfs, tmp_path: Path) -> None:
    for told, is_so in (("on\n", True), ("off\n", False), ("", False)):
        (tmp_path / "told").write_text(told)
        assert pools.is_read_only(zfs, "tank") is is_so
    calls = (tmp_path / "calls").read_text()
    assert calls.splitlines()[0] == "zpool get -Hpo value readonly tank"
    (tmp_path / "told").write_text("on\n")
    with pytest.raises(UsageError, match="tank is imported read-only: nothing can be restored"):
        fits.check_writable(zfs, "tank/new")
    (tmp_path / "zpool").unlink()
    assert pools.is_read_only(zfs, "tank") is False
    assert pools.is_read_only(Zfs(("/opt/my-zfs",)), "tank") is False


def test_features(zfs: Zfs, tmp_path: Path) -> None:
    assert pools.features(zfs, "tank") == HAS
    calls = (tmp_path / "calls").read_text()
    assert calls == "zpool get -Hp -o property,value all tank\n"
    (tmp_path / "told").write_text("size\t100\nversion\t28\n")
    assert pools.features(zfs, "tank") is None
    (tmp_path / "zpool").write_text("#!/bin/sh\nexit 1\n")
    assert pools.features(zfs, "tank") is None
    (tmp_path / "zpool").unlink()
    assert pools.features(zfs, "tank") is None
    assert pools.features(replace(zfs, command=("/bin/sh", "-c", "cat")), "tank") is None


def test_what_a_stream_needs() -> None:
    assert pools.lacking(HAS, 0) == {}
    assert pools.lacking(HAS, int(Feature.LARGE_BLOCKS | Feature.LZ4 | Feature.COMPRESSED)) == {}
    assert pools.lacking(HAS, int(Feature.SA_SPILL | Feature.RESUMING)) == {}
    assert pools.lacking(HAS, ZSTD) == {"zstd_compress": "disabled"}
    assert pools.lacking(HAS, ZSTD | Feature.LONGNAME) == {
        "zstd_compress": "disabled", "longname": "unknown",
    }  # fmt: skip
    old = {**HAS, "extensible_dataset": "disabled"}
    assert pools.lacking(old, 0) == {"extensible_dataset": "disabled"}
    assert pools.lacking(old, 0, resumable=False) == {}


def test_an_illumos_pool() -> None:
    """It has encryption, and no zstd. Read: openzfs/openzfs at 3c0e43c7, zfeature_common.c."""
    known = ("lz4_compress", "extensible_dataset", "bookmarks", "embedded_data", "large_blocks",
             "large_dnode", "encryption")  # fmt: skip
    has = dict.fromkeys(known, "enabled")
    assert pools.lacking(has, Feature.RAW | Feature.LARGE_DNODE | Feature.LARGE_BLOCKS) == {}
    assert pools.lacking(has, ZSTD) == {"zstd_compress": "unknown"}


def test_a_restore_is_refused_before_the_first_byte(zfs: Zfs) -> None:
    found = Landing(zfs, "tank/new")
    assert fits.check_features(found, [int(Feature.LZ4)]) is None
    with pytest.raises(UsageError, match="tank has no feature zstd_compress, which") as caught:
        fits.check_features(found, [int(Feature.LZ4), ZSTD])
    hint = "zpool set feature@zstd_compress=enabled tank; or restore into another pool"
    assert caught.value.hint == hint
    with pytest.raises(UsageError, match="has no feature longname") as caught:
        fits.check_features(found, [int(Feature.LONGNAME)])
    assert caught.value.hint == "restore it on a newer OpenZFS"


def test_what_cannot_be_known_is_not_checked() -> None:
    found = Landing(Zfs(command=("/bin/false",)), "tank/new")
    told = fits.check_features(found, [ZSTD])
    assert told == "Whether tank has the features that the backup needs is not known here"
    assert fits.check_features(found, []) is None
