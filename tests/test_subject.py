"""How a dataset is sent: raw, as the pool compressed it, or plain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from offsite import subject
from offsite.config import Config, load
from tests.interrupted import DATASET


def flags(compression: str = "lz4", encryption: str = "off", **settings: str) -> tuple[str, ...]:
    config: Config = load({"HOME": "/nowhere", "RCLONE_REMOTE": "remote:bucket", **settings})
    found = replace(DATASET, compression=compression, encryption=encryption)
    return subject.send_flags(found, config)


@pytest.mark.parametrize(
    "compression",
    ["off", "on", "lz4", "lzjb", "zle", "zstd-fast", "zstd-fast-1", "zstd-fast-100", "zstd-1",
     "gzip-1"],
)  # fmt: skip
def test_what_we_compress_better_is_sent_plain(compression: str) -> None:
    assert flags(compression) == ("-L",)


@pytest.mark.parametrize("compression", ["zstd", "zstd-2", "zstd-19", "gzip", "gzip-6", "gzip-9"])
def test_what_is_compressed_at_our_level_is_sent_as_it_is(compression: str) -> None:
    assert flags(compression) == ("-L", "-c")


def test_our_own_level_counts() -> None:
    assert flags("zstd", COMPRESSION="4") == ("-L",)
    assert flags("gzip", COMPRESSION="best") == ("-L",)
    assert flags("zstd-19", COMPRESSION="best") == ("-L", "-c")
    assert flags("zstd-1", COMPRESSION="fast") == ("-L", "-c")


def test_the_user_decides() -> None:
    assert flags("off", SEND_COMPRESSED="yes") == ("-L", "-c")
    assert flags("zstd-19", SEND_COMPRESSED="no") == ("-L",)


def test_encrypted_data_goes_raw_or_in_the_clear() -> None:
    assert flags("zstd-19", "aes-256-gcm") == ("-w",)
    assert flags("zstd-19", "aes-256-gcm", SEND_COMPRESSED="no") == ("-w",)
    assert flags("lz4", "aes-256-gcm", SEND_RAW="no") == ("-L",)
    assert flags("lz4", "aes-256-gcm", SEND_RAW="no", SEND_COMPRESSED="yes") == ("-L", "-c")
