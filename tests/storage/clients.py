"""Remotes for tests, on a server of tests.storage.servers."""

from __future__ import annotations

import threading
import uuid
from dataclasses import replace
from pathlib import Path

from offsite.config import Provider
from offsite.remote import OnRetry, RcloneRemote, Retry
from tests.storage.proxy import Proxy
from tests.storage.servers import Server, write_conf

QUICK = Retry(tries=4, first_pause=0.1, longest_pause=0.5, timeout=30)
SWIFT = Retry(tries=3, first_pause=0.02, longest_pause=0.05, timeout=30)


class Retries(list[tuple[str, str, float]]):
    """An on_retry that remembers."""

    def __call__(self, provider: str, what: str, pause: float) -> None:
        self.append((provider, what, pause))


def _unheard(provider: str, what: str, pause: float) -> None:
    pass


def through(proxy: Proxy, server: Server, conf: Path) -> Server:
    """The same S3 server, reached through the proxy; writes the configuration file ``conf``.

    Every PUT is then an upload: rclone does not look whether the bucket is there.
    """
    return at(proxy.port, server, conf)


def at(port: int, server: Server, conf: Path) -> Server:
    """As ``through``, whoever listens there."""
    endpoint = f"http://127.0.0.1:{port}"
    settings = {**server.settings, "endpoint": endpoint, "no_check_bucket": "true"}
    behind = replace(server, conf=conf, port=port, settings=settings)
    write_conf(conf, behind)
    return behind


def connect(
    server: Server,
    *,
    stop: threading.Event | None = None,
    on_retry: OnRetry = _unheard,
    retry: Retry = QUICK,
    flags: tuple[str, ...] = (),
    conf: Path | None = None,
    place: str | None = None,
) -> RcloneRemote:
    """A remote in ``place``, or one of its own, on ``server``, to be closed by the caller."""
    place = place or f"{server.remote}/{uuid.uuid4().hex}"
    if place.startswith("/"):
        Path(place).mkdir(exist_ok=True)
    return RcloneRemote.start(
        Provider(server.name, place),
        rclone_config=conf or server.conf,
        rclone_flags=flags,
        stop=stop or threading.Event(),
        on_retry=on_retry,
        retry=retry,
    )


def limit(remote: RcloneRemote, retry: Retry) -> None:
    """Its requests are made like this from now on: rclone's start may have taken its time."""
    remote._retry = remote._requests.retry = retry
