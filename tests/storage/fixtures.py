"""Fixtures for tests that want real storage: ``pytest_plugins = ["tests.storage.fixtures"]``.

One server of a kind per session. A server that cannot be had skips its tests and says why; it fails
them where script/test says that it is expected.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from offsite.remote import RcloneRemote
from tests.storage import servers
from tests.storage.clients import Retries, connect, through
from tests.storage.provision import Unavailable
from tests.storage.proxy import Proxy
from tests.storage.servers import Server


@contextmanager
def running(start: Callable[[Path], Server], folder: Path) -> Iterator[Server]:
    try:
        server = start(folder)
    except Unavailable as reason:
        if os.environ.get("OFFSITE_TEST_SERVERS") == "expected":
            raise
        pytest.skip(str(reason))
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def local_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(servers.start_local, tmp_path_factory.mktemp("local")) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(servers.start_seaweed, tmp_path_factory.mktemp("seaweed")) as server:
        yield server


@pytest.fixture(scope="session")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(servers.start_azurite, tmp_path_factory.mktemp("azurite")) as server:
        yield server


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(servers.start_sftp, tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(scope="session")
def sftp_shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(servers.start_sftp_shell, tmp_path_factory.mktemp("sftp")) as server:
        yield server


@pytest.fixture(scope="session")
def gcs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(servers.start_fake_gcs, tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture
def retries() -> Retries:
    return Retries()


@pytest.fixture
def proxy(seaweed: Server) -> Iterator[Proxy]:
    """Between rclone and SeaweedFS."""
    with Proxy(seaweed.port) as proxy:
        yield proxy


@pytest.fixture
def proxied(
    proxy: Proxy, seaweed: Server, tmp_path: Path, retries: Retries
) -> Iterator[RcloneRemote]:
    """A remote behind the proxy, with connections that are open already."""
    behind = through(proxy, seaweed, tmp_path / "rclone.conf")
    with closing(connect(behind, on_retry=retries)) as remote:
        remote.put("first", b"connections are open now", {})
        yield remote
