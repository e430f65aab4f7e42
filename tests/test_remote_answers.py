"""What a provider may answer instead of what was asked for, and how that ends."""

from __future__ import annotations

import hashlib
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from offsite import process
from offsite.errors import ProviderError
from offsite.remote import RcloneRemote, Retry
from tests.repo import soon, wait_for
from tests.storage.clients import SWIFT, Retries, connect, limit, through
from tests.storage.proxy import Fault, Kind, Proxy
from tests.storage.servers import Server

pytest_plugins = ["tests.storage.fixtures"]

MIB = 1 << 20
BODY = memoryview(os.urandom(4 * MIB))
DIGESTS = {"md5": hashlib.md5(BODY, usedforsecurity=False).hexdigest()}
FEWER = "the provider asks for fewer requests"
GET = b"GET "


@pytest.fixture
def proxied(
    proxy: Proxy, seaweed: Server, tmp_path: Path, retries: Retries
) -> Iterator[RcloneRemote]:
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    flags = ("--low-level-retries=1",)
    with closing(connect(behind, retry=SWIFT, flags=flags, on_retry=retries)) as remote:
        remote.put("object", BODY, DIGESTS)
        yield remote


# --- uploads --------------------------------------------------------------------------------------


def test_an_object_of_which_the_provider_tells_no_hash(seaweed: Server) -> None:
    """As S3 of what came in parts, though it does tell one of others: the size is what is left."""
    with closing(connect(seaweed, flags=("--s3-upload-cutoff=1M",), retry=SWIFT)) as remote:
        assert remote.hash_kinds == ("md5",)
        remote.put("parts", BODY, DIGESTS)
        assert not remote.holds("parts", len(BODY), DIGESTS)
        remote.put("whole", BODY[: MIB // 2], {})
        md5 = hashlib.md5(BODY[: MIB // 2], usedforsecurity=False).hexdigest()
        assert remote.holds("whole", MIB // 2, {"md5": md5})


@pytest.mark.parametrize("kind", ["500", "429 for long", "503 for long"])
def test_a_busy_provider_is_asked_again(
    kind: Kind, proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    """Also if it asks for a pause of a day: S3 says so in a header that rclone does not tell."""
    proxy.fault = Fault(kind, times=2)
    with soon():
        proxied.put("new", BODY, DIGESTS)
    assert proxy.struck == len(retries) == 2
    assert all(f"StatusCode: {kind[:3]}" in what for _, what, _ in retries)
    assert proxied.get("new", limit=len(BODY)) == BODY


@pytest.mark.parametrize(
    ("kind", "hint"), [("500", ""), ("429 for long", FEWER), ("503 for long", FEWER)]
)
def test_a_provider_that_stays_busy_is_an_error(
    kind: Kind, hint: str, proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    proxy.fault = Fault(kind)
    told = f"cannot store new on seaweed: .*StatusCode: {kind[:3]}"
    with soon(), pytest.raises(ProviderError, match=told) as caught:
        proxied.put("new", BODY, DIGESTS)
    assert hint in (caught.value.hint or "")
    assert len(retries) == SWIFT.tries - 1
    proxy.fault = None
    assert proxied.stat("new") is None


@pytest.mark.parametrize("kind", ["quota", "507"])
def test_a_quota_is_not_tried_again(
    kind: Kind, proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    proxy.fault = Fault(kind)
    with soon(), pytest.raises(ProviderError, match=r"QuotaExceeded|507") as caught:
        proxied.put("new", BODY, DIGESTS)
    assert caught.value.hint == "free space on the provider or raise its quota"
    assert proxy.struck == 1
    assert not retries
    proxy.fault = None
    assert proxied.stat("new") is None


@pytest.mark.soak
def test_a_real_quota(seaweed: Server, retries: Retries) -> None:
    """SeaweedFS closes the bucket and speaks of an internal error.

    It counts when it likes: not in the gate, where that took over a minute once.
    """
    bucket = replace(seaweed, remote="seaweed:small")
    with closing(connect(bucket, retry=SWIFT, on_retry=retries)) as remote:
        remote.put("fits", BODY, DIGESTS)
        weed_shell(seaweed, "s3.bucket.quota -name=small -sizeMB=1 -op=set")
        # It counts what is there now and then.
        enforce = "s3.bucket.quota.enforce -apply"
        wait_for(lambda: "read only" in weed_shell(seaweed, enforce))
        with soon(), pytest.raises(ProviderError, match="cannot store new on seaweed: "):
            remote.put("new", BODY, DIGESTS)
        assert len(retries) == SWIFT.tries - 1
        assert remote.stat("new") is None
        assert remote.get("fits", limit=len(BODY)) == BODY


def weed_shell(seaweed: Server, command: str) -> str:
    """What SeaweedFS's admin shell answers."""
    assert seaweed.child is not None
    argv = seaweed.child.argv
    ports = dict(re.findall(r"^-(\w+\.port(?:\.grpc)?)=(.*)$", "\n".join(argv), re.MULTILINE))
    doors = [
        f"-{kind}=127.0.0.1:{ports[f'{kind}.port']}.{ports[f'{kind}.port.grpc']}"
        for kind in ("master", "filer")
    ]
    return process.run([argv[0], "shell", *doors], stdin=f"{command}\n".encode()).stdout


def test_a_slow_provider_is_waited_for_as_long_as_it_moves(
    proxy: Proxy, seaweed: Server, tmp_path: Path, retries: Retries
) -> None:
    """4 MiB at 1 MiB/s, where a request may take 3 seconds and 4 more for every MiB."""
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    retry = Retry(tries=2, first_pause=0.1, timeout=3, slowest=MIB // 4)
    with closing(connect(behind, retry=retry, on_retry=retries)) as remote:
        proxy.rate = MIB
        start = time.monotonic()
        remote.put("new", BODY, DIGESTS)
        assert time.monotonic() - start > retry.timeout
    assert not retries


def test_a_provider_that_is_too_slow_is_given_up(
    proxy: Proxy, seaweed: Server, tmp_path: Path, retries: Retries
) -> None:
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    with closing(connect(behind, on_retry=retries)) as remote:
        limit(remote, Retry(tries=2, first_pause=0.1, timeout=1, slowest=100 * MIB))
        proxy.rate = MIB // 4
        with soon(), pytest.raises(ProviderError, match="rclone gave no answer in time"):
            remote.put("new", BODY, DIGESTS)
    assert len(retries) == 1


# --- downloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["reset", "500", "429", "404"])
def test_reading_from_a_busy_provider(kind: Kind, proxy: Proxy, proxied: RcloneRemote) -> None:
    """404 for an object that is listed: a provider that is not of one mind with itself."""
    proxy.fault = Fault(kind, method=GET, times=2)
    with soon():
        assert proxied.get("object", limit=len(BODY)) == BODY
    assert proxy.struck == 2


def test_an_object_that_is_there_but_not_given(
    proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    """That it is not there would be another thing to say. Archives are like that."""
    proxy.fault = Fault("deny", method=GET)
    told = "cannot read object on seaweed: it is there, but the provider does not give it"
    with soon(), pytest.raises(ProviderError, match=told):
        proxied.get("object", limit=len(BODY))
    assert len(retries) == SWIFT.tries - 1


def test_a_missing_object_is_not_asked_for_again(proxied: RcloneRemote, retries: Retries) -> None:
    proxied.delete("object")
    with soon(), pytest.raises(ProviderError, match="on seaweed: it is not there"):
        proxied.get_into("object", memoryview(bytearray(10)))
    assert not retries


def test_a_download_that_stalls_is_given_up(proxy: Proxy, seaweed: Server, tmp_path: Path) -> None:
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    flags = ("--timeout=1s", "--low-level-retries=1")
    place = f"{seaweed.remote}/{uuid.uuid4().hex}"
    with closing(connect(seaweed, place=place)) as patient:
        patient.put("object", BODY, DIGESTS)
    retry = replace(SWIFT, tries=2)
    with closing(connect(behind, retry=retry, flags=flags, place=place)) as remote:
        proxy.fault = Fault("freeze", GET)
        with soon(), pytest.raises(ProviderError, match="cannot read object on seaweed: "):
            remote.get("object", limit=len(BODY))


def test_wrong_bytes_of_the_right_length_are_not_noticed_here(
    proxy: Proxy, proxied: RcloneRemote
) -> None:
    """Why every reader compares what came with a signed hash."""
    proxy.fault = Fault("flip", method=GET, after=MIB)
    came = proxied.get("object", limit=len(BODY))
    assert sum(one != other for one, other in zip(came, BODY, strict=True)) == 1
