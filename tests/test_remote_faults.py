"""What goes wrong between us, rclone and a provider, and how it ends: bounded, clear, clean."""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from offsite.errors import ProviderError, StoppedError
from offsite.rclone import server
from offsite.remote import RcloneRemote, Retry
from tests import repo
from tests.storage.clients import QUICK, SWIFT, Retries, at, connect, limit, through
from tests.storage.proxy import Fault, Proxy
from tests.storage.servers import Server

pytest_plugins = ["tests.storage.fixtures"]

MIB = 1 << 20
FOREVER = 300.0  # seconds
BODY = memoryview(os.urandom(4 * MIB))
DIGESTS = {kind: hashlib.new(kind, BODY).hexdigest() for kind in ("sha256", "md5")}
BROKEN = "connection reset|EOF|broken pipe|use of closed network connection"  # Go's words for it


@pytest.fixture
def local(local_store: Server, retries: Retries) -> Iterator[RcloneRemote]:
    with closing(connect(local_store, on_retry=retries)) as remote:
        yield remote


def rclone_of(remote: RcloneRemote) -> psutil.Process:
    child = remote._server._child
    assert child is not None
    return psutil.Process(child.pid)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("reset", times=2),
        Fault("cut", times=2),
        Fault("cut", after=MIB, times=2),
        Fault("503", times=2),
    ],
    ids=lambda fault: f"{fault.kind} after {fault.after}",
)
def test_passing_faults_are_survived(
    fault: Fault, proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    proxy.fault = fault
    proxied.put("object", BODY, DIGESTS)
    assert proxy.struck == 2
    assert 1 <= len(retries) <= 2
    assert all(name == "seaweed" and "store object: " in what for name, what, _ in retries)
    assert proxied.get("object", limit=len(BODY)) == BODY


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("reset"), BROKEN),
        (Fault("503"), "503"),
        (Fault("cut", after=MIB), BROKEN),
    ],
    ids=["reset", "503", "cut"],
)
def test_lasting_faults_end_with_a_clear_error(
    fault: Fault, said: str, proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    proxy.fault = fault
    told = f"cannot store object on seaweed: .*({said})"
    with repo.soon(), pytest.raises(ProviderError, match=told):
        proxied.put("object", BODY, DIGESTS)
    assert len(retries) == QUICK.tries - 1
    proxy.fault = None
    assert proxied.stat("object") is None


@pytest.mark.parametrize("flags", [(), ("--ignore-size",)], ids=["by rclone", "by us"])
def test_an_upload_stored_by_half_is_found_at_once(
    flags: tuple[str, ...], proxy: Proxy, seaweed: Server, tmp_path: Path, retries: Retries
) -> None:
    """Made again, or taken away; by us, too, where the user told rclone not to look."""
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    found = f"the stored object differs: {2 * MIB} bytes instead of {4 * MIB}"
    found = found if flags else f"sizes differ src {4 * MIB} vs dst.* {2 * MIB}"
    with closing(connect(behind, retry=SWIFT, on_retry=retries, flags=flags)) as remote:
        proxy.fault = Fault("half", times=1)
        remote.put("object", BODY, {})
        assert proxy.struck == len(retries) == 1
        assert re.search(found, retries[0][1])
        assert remote.get("object", limit=len(BODY)) == BODY

        proxy.fault = Fault("half")
        with pytest.raises(ProviderError, match=f"cannot store object on seaweed: .*{found}"):
            remote.put("object", BODY, {})
        assert proxy.struck == 1 + SWIFT.tries
        assert remote.stat("object") is None


def test_refused_access_is_not_tried_again(
    proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    proxy.fault = Fault("deny")
    with pytest.raises(ProviderError, match=r"AccessDenied|403") as caught:
        proxied.put("object", BODY, DIGESTS)
    assert "credentials" in (caught.value.hint or "")
    assert not retries


def test_a_cut_answer_is_read_again(proxy: Proxy, proxied: RcloneRemote) -> None:
    proxied.put("object", BODY, DIGESTS)
    proxy.fault = Fault("truncate", method=b"GET ", after=MIB, times=2)
    assert proxied.get("object", limit=len(BODY)) == BODY
    assert proxy.struck == 2


def read_whole(remote: RcloneRemote) -> bytes:
    return remote.get("object", limit=len(BODY))


def read_into(remote: RcloneRemote) -> bytes:
    into = memoryview(bytearray(len(BODY) + 7))
    return bytes(into[: remote.get_into("object", into)])


def read_parts(remote: RcloneRemote) -> bytes:
    into = memoryview(bytearray(len(BODY)))
    for begin in (0, 7):
        part = into[7:] if begin else into[:7]
        remote.get_part("object", begin, part)
    return bytes(into)


@pytest.mark.parametrize("read", [read_whole, read_into, read_parts])
def test_what_is_cut_again_and_again_goes_on_where_it_was(
    read: Callable[[RcloneRemote], bytes], proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    """More often than a provider is tried; hardly a byte comes twice."""
    proxied.put("object", BODY, DIGESTS)
    limit(proxied, SWIFT)
    proxy.given, proxy.fault = 0, Fault("end", method=b"GET ", after=MIB // 2)
    assert read(proxied) == BODY
    assert len(retries) > SWIFT.tries
    assert len(BODY) < proxy.given < 1.05 * len(BODY)
    assert max(pause for *_, pause in retries) < 2 * SWIFT.first_pause


def test_answers_that_never_bring_anything_end_with_an_error(
    proxy: Proxy, proxied: RcloneRemote, retries: Retries
) -> None:
    """What came before does not count any more."""
    proxied.put("object", BODY, DIGESTS)
    limit(proxied, SWIFT)

    def nothing_more(provider: str, what: str, pause: float) -> None:
        retries(provider, what, pause)
        if len(retries) == 3:
            proxy.fault = Fault("end", method=b"GET ")

    proxied._requests._on_retry = nothing_more
    proxy.fault = Fault("end", method=b"GET ", after=MIB // 2)
    with pytest.raises(ProviderError, match="cannot read object on seaweed: "):
        proxied.get_into("object", memoryview(bytearray(len(BODY))))
    assert len(retries) == 3 + SWIFT.tries - 1


def test_a_stalled_provider_is_given_up_by_rclone(
    proxy: Proxy, seaweed: Server, tmp_path: Path
) -> None:
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    retry = Retry(tries=2, first_pause=0.1, timeout=FOREVER)
    with closing(connect(behind, retry=retry, flags=("--timeout=1s",))) as remote:
        proxy.fault = Fault("stall")
        told = pytest.raises(ProviderError, match="cannot store object on seaweed: ")
        with repo.soon(2 * repo.LONG), told:
            remote.put("object", BODY, DIGESTS)


def test_connections_that_rclone_closed_meanwhile_cost_no_try(
    local: RcloneRemote, retries: Retries
) -> None:
    """It closes what was idle for a minute, as all are while ``zfs receive`` stands."""
    local.put("object", BODY, DIGESTS)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: local.stat("object"), range(64)))
    planes = local._connections.planes()
    for plane in (planes.data, planes.control):
        for connection in plane._idle:
            connection.interrupt()
    limit(local, replace(QUICK, tries=1))
    assert local.get("object", limit=len(BODY)) == BODY
    assert local.stat("object") is not None
    assert not retries


def test_a_rclone_that_hangs_is_given_up(local_store: Server) -> None:
    with closing(connect(local_store)) as remote:
        limit(remote, Retry(tries=2, first_pause=0.1, timeout=0.5, slowest=100 * MIB))
        rclone = rclone_of(remote)
        rclone.suspend()
        with repo.soon(), pytest.raises(ProviderError, match="rclone gave no answer in time"):
            remote.put("object", BODY, DIGESTS)
    assert not rclone.is_running()


def test_a_provider_that_is_down(seaweed: Server, tmp_path: Path, retries: Retries) -> None:
    retry, flags = Retry(tries=2, first_pause=0.1), ("--low-level-retries=1",)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))  # it does not listen, and nobody else can
        behind = at(deaf.getsockname()[1], seaweed, tmp_path / "rclone.conf")
        with closing(connect(behind, on_retry=retries, retry=retry, flags=flags)) as remote:
            with pytest.raises(ProviderError, match="connection refused") as caught:
                remote.put("object", BODY, DIGESTS)
            assert "network" in (caught.value.hint or "")
            assert len(retries) == 1
            limit(remote, Retry(tries=1))
            with pytest.raises(ProviderError, match="connection refused"):
                remote.get("object", limit=10)
            with pytest.raises(ProviderError, match="connection refused"):
                remote.list("")


def test_a_long_list_takes_its_time(proxy: Proxy, seaweed: Server, tmp_path: Path) -> None:
    """Of a provider that tells of twenty objects in seconds, as others of a million in an hour."""
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    with closing(connect(behind)) as remote:
        for number in range(20):
            remote.put(f"long/object-{number}", b"x", {})
        limit(remote, Retry(tries=1, timeout=1))
        proxy.rate = 3000
        with pytest.raises(ProviderError, match="gave no answer in time"):
            remote.list("long")
        assert len(remote.list("long", expected=10_000)) == 20


def test_a_stop_ends_a_pause_at_once(proxy: Proxy, seaweed: Server, tmp_path: Path) -> None:
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    stop, pauses = threading.Event(), []

    def stop_then(provider: str, what: str, pause: float) -> None:
        pauses.append(pause)
        stop.set()

    retry = Retry(tries=5, first_pause=FOREVER, longest_pause=FOREVER)
    with closing(connect(behind, stop=stop, retry=retry, on_retry=stop_then)) as remote:
        proxy.fault = Fault("reset")
        with repo.soon(), pytest.raises(StoppedError):
            remote.put("object", BODY, DIGESTS)
    assert proxy.struck == len(pauses) == 1
    assert pauses[0] >= FOREVER


def test_close_ends_a_stalled_request_at_once(
    proxy: Proxy, seaweed: Server, tmp_path: Path
) -> None:
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    stop = threading.Event()
    remote = connect(behind, stop=stop, retry=Retry(timeout=FOREVER))
    proxy.fault = Fault("stall")
    with ThreadPoolExecutor(1) as pool:
        put = pool.submit(remote.put, "object", BODY, DIGESTS)
        repo.wait_for(lambda: bool(proxy.struck))
        stop.set()
        with repo.soon():
            remote.close()
            with pytest.raises(StoppedError):
                put.result()


def test_a_killed_rclone_is_restarted_under_the_feet_of_many_puts(
    local: RcloneRemote, local_store: Server, retries: Retries
) -> None:
    first, killed, numbers = rclone_of(local), threading.Event(), itertools.count()

    def puts() -> None:
        """All sixty, and one at least after it was killed."""
        over = False
        while not over:
            late, number = killed.is_set(), next(numbers)
            local.put(f"dir/{number % 60}", BODY, DIGESTS)
            over = late and number >= 60

    with ThreadPoolExecutor(4) as pool:
        putting = [pool.submit(puts) for _ in range(4)]
        repo.wait_for(lambda: any(Path(local_store.remote).glob("*/dir/*")))
        first.kill()
        killed.set()
        for each in putting:
            each.result()
    assert rclone_of(local).pid != first.pid
    assert any("rclone was killed by signal 9" in what for _, what, _ in retries)
    assert len(local.list("dir")) == 60
    assert local.get("dir/30", limit=len(BODY)) == BODY


def test_a_rclone_that_keeps_dying_is_an_error(local: RcloneRemote) -> None:
    with pytest.raises(ProviderError, match=r"local: rclone died 4 times.* signal 9"):  # noqa: PT012
        for _ in range(10):
            rclone_of(local).kill()
            local.put("object", BODY, DIGESTS)
    with pytest.raises(ProviderError, match="died"):
        local.get("object", limit=len(BODY))


def test_deaths_of_a_rclone_are_forgiven(
    local: RcloneRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run may last for weeks."""
    monkeypatch.setattr(server, "_REMEMBERED", 0.0)
    for _ in range(6):
        rclone_of(local).kill()
        local.put("object", BODY, DIGESTS)


def test_rclone_outlives_the_thread_that_asked_for_it(local_store: Server) -> None:
    with ThreadPoolExecutor(1) as pool:
        remote = pool.submit(connect, local_store).result()
    with closing(remote):
        time.sleep(0.2)  # it would be dead by now
        assert rclone_of(remote).status() != psutil.STATUS_ZOMBIE
        remote.put("object", BODY, DIGESTS)


def test_a_full_provider_keeps_no_short_object(local: RcloneRemote, local_store: Server) -> None:
    local.put("small", b"fits", {})
    rclone = rclone_of(local)
    rclone.rlimit(resource.RLIMIT_FSIZE, (MIB, MIB))  # as good as a full disk
    with pytest.raises(ProviderError, match=r"cannot store too-large on local: .*file too large"):
        local.put("too-large", BODY, DIGESTS)
    assert [entry.name for entry in local.list("")] == ["small"]
    assert not list(Path(local_store.remote).glob("*/too-large*"))


def test_an_object_changed_behind_our_back_is_not_accepted(
    local: RcloneRemote, local_store: Server, retries: Retries
) -> None:
    wrong = {"sha256": hashlib.sha256(b"something else").hexdigest()}
    with pytest.raises(ProviderError, match="the stored object differs: sha256"):
        local.put("object", BODY, wrong)
    assert len(retries) == QUICK.tries - 1
    assert local.stat("object") is None
