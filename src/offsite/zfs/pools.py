"""What a pool can take in: its features, and those that a send stream needs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from offsite.errors import OffsiteError, StoppedError
from offsite.zfs.command import Zfs
from offsite.zfs.names import check_dataset_name
from offsite.zfs.records import Feature

# Source: recv_begin_check_feature_flags_impl in OpenZFS module/zfs/dmu_recv.c. Seen on 2.1.11 and
# 2.4.4: without one of these zfs receive says "pool must be upgraded to receive this stream".
_NEEDED = {
    Feature.LARGE_BLOCKS: "large_blocks",
    Feature.EMBED_DATA: "embedded_data",
    Feature.LZ4: "lz4_compress",
    Feature.LARGE_DNODE: "large_dnode",
    Feature.RAW: "encryption",
    Feature.ZSTD: "zstd_compress",
    Feature.LONGNAME: "longname",
    Feature.LARGE_MICROZAP: "large_microzap",
}
_TO_RESUME = "extensible_dataset"  # of zfs receive -s
_PREFIX = "feature@"

State = Literal["disabled", "unknown"]


def features(zfs: Zfs, pool: str) -> Mapping[str, str] | None:
    """The pool's features: ``disabled``, ``enabled`` or ``active``. None if that cannot be had."""
    check_dataset_name(pool)
    zpool = zfs.zpool
    if zpool is None:
        return None
    try:
        output = zpool.run("get", "-Hp", "-o", "property,value", "all", pool)
    except StoppedError:
        raise
    except OffsiteError:
        return None
    rows = [line.split("\t", 1) for line in output.splitlines() if line.startswith(_PREFIX)]
    return {row[0].removeprefix(_PREFIX): row[1] for row in rows if len(row) > 1} or None


def is_read_only(zfs: Zfs, pool: str) -> bool:
    """Whether it was imported so (zpool import -o readonly=on); no, if that cannot be had."""
    check_dataset_name(pool)
    zpool = zfs.zpool
    try:
        return zpool is not None and zpool.run("get", "-Hpo", "value", "readonly", pool) == "on\n"
    except StoppedError:
        raise
    except OffsiteError:
        return False


def lacking(has: Mapping[str, str], stream: int, *, resumable: bool = True) -> dict[str, State]:
    """The features that a stream with these feature flags needs and the pool does not have.

    ``resumable``: it is to be received with -s.

    ``unknown``: this OpenZFS does not know it.
    """
    wanted = [name for flag, name in _NEEDED.items() if stream & flag]
    if resumable and has.get(_TO_RESUME) == "disabled":
        wanted.append(_TO_RESUME)
    states: dict[str, State] = {}
    for name in wanted:
        if name not in has:
            states[name] = "unknown"
        elif has[name] == "disabled":
            states[name] = "disabled"
    return states
