"""One storage provider: whole objects in, whole objects out, each checked, each request bounded.

An upload counts when the provider itself tells the size of what it stored, and its hash where it
has one: rclone's answer 200 is no proof (rclone#7367, rclone#9722). Failed requests are made again
with the same buffer, a bounded number of times, with growing, jittered pauses. A read goes on where
it was cut: whoever asked compares a hash of the whole.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Protocol, Self
from urllib.parse import quote

from offsite.config import Provider
from offsite.digests import KINDS, cheapest
from offsite.errors import ProviderError
from offsite.rclone.errors import Failure
from offsite.rclone.launch import TARGET, Launch
from offsite.rclone.objects import Entry, Item, difference, is_plain, listed, looked_at
from offsite.rclone.retry import Insistence, OnRetry, Retry
from offsite.rclone.server import Lease, Server

__all__ = ["Entry", "OnRetry", "RcloneRemote", "Remote", "Retry"]

_PIECE = 64 * 1024  # bytes
_LISTED = 250  # objects a second, at the least: most providers tell a thousand at a time


class Remote(Protocol):
    """A place for objects. Paths are relative, with ``/`` between plain names.

    All methods may be called from any thread. They raise ProviderError once trying again is no
    use, StoppedError when the run is being stopped.
    """

    @property
    def name(self) -> str:
        """The provider's name."""

    @property
    def hash_kinds(self) -> Collection[str]:
        """The hashes the provider tells of its objects, of those in digests.KINDS."""

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        """Store an object; its size, and the cheapest hash in ``digests``, were compared."""

    def get_into(self, path: str, into: memoryview) -> int:
        """Read a whole object and return its size; an error if it is larger than ``into``."""

    def get(self, path: str, *, limit: int) -> bytes:
        """Read a whole object of at most ``limit`` bytes."""

    def get_part(self, path: str, offset: int, into: memoryview) -> None:
        """Fill ``into`` with what an object has from ``offset`` on; an error if that is less."""

    def sample(self, path: str, seconds: float) -> int:
        """Read of an object what comes in so long, and forget it: how many bytes. 0 if it fails."""

    def stat(self, path: str) -> Entry | None:
        """The object at ``path``, None if there is none (or a folder)."""

    def holds(self, path: str, size: int, digests: Mapping[str, str]) -> bool:
        """Whether the provider tells of an object of this size and with its hash in ``digests``.

        False if it tells no hash, or one of a kind that is not there.
        """

    def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:
        """The objects in ``folder``, or its folders; nothing for a missing folder.

        ``expected``: about how many there may be. Where they are many, it takes long.
        """

    def delete(self, path: str) -> None:
        """Remove an object; a missing one is fine."""

    def share(self, halt: threading.Event, on_retry: OnRetry) -> Remote:
        """A handle for one of several works, which ``halt`` and closing end, and nothing else."""

    def close(self) -> None:
        """End every request in flight and let go of the provider."""


class RcloneRemote:
    """A Remote behind rclone; see offsite.rclone.server."""

    def __init__(
        self, server: Server, requests: Insistence, connections: Server | Lease | None = None
    ) -> None:
        self.name = requests.name
        self.hash_kinds: Collection[str] = ()
        self._server = server
        self._connections = connections or server
        self._requests = requests
        self._retry = requests.retry

    @classmethod
    def start(
        cls,
        provider: Provider,
        *,
        rclone_config: Path | None,
        rclone_flags: tuple[str, ...],
        stop: threading.Event,
        on_retry: OnRetry,
        environ: Mapping[str, str] | None = None,
        retry: Retry | None = None,
    ) -> Self:
        """Start rclone and ask what the provider can do.

        Raises ConfigError (rclone missing or too old, unknown remote), ProviderError, StoppedError.
        """
        environ = os.environ if environ is None else environ
        launch = Launch(provider.name, provider.remote, rclone_config, rclone_flags, environ)
        server = Server(launch, stop)
        requests = Insistence(provider.name, retry or Retry(), stop, on_retry, server.explain)
        remote = cls(server, requests)
        try:
            told = remote._requests.insist(
                "open", "the storage", lambda: remote._ask("operations/fsinfo")
            )
        except BaseException:
            remote.close()
            raise
        kinds = json.loads(told).get("Hashes") or []
        remote.hash_kinds = tuple(kind for kind in KINDS if kind in kinds)
        return remote

    def put(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        try:
            self._requests.insist("store", path, lambda: self._put_once(path, body, digests))
        except ProviderError:
            self._remove_remains(path)
            raise

    def get_into(self, path: str, into: memoryview) -> int:
        return self._read(path, len(into), lambda came, answer: answer.readinto(into[came:]))

    def get(self, path: str, *, limit: int) -> bytes:
        body = bytearray()

        def take(came: int, answer: http.client.HTTPResponse) -> int:
            piece = answer.read(min(_PIECE, limit - came))
            body.extend(piece)
            return len(piece)

        self._read(path, limit, take)
        return bytes(body)

    def get_part(self, path: str, offset: int, into: memoryview) -> None:
        part = slice(offset, offset + len(into))
        self._read(path, len(into), lambda came, answer: answer.readinto(into[came:]), part)

    def sample(self, path: str, seconds: float) -> int:
        until, came = time.monotonic() + seconds, 0
        # Whatever it fails at, the read that counts will insist, and tell.
        with (
            contextlib.suppress(Failure, ProviderError, OSError, http.client.HTTPException),
            self._connections.planes().data.request(
                "GET", "/" + quote(_object(path)), timeout=seconds
            ) as response,
        ):
            if response.status == http.HTTPStatus.OK:
                while time.monotonic() < until and (piece := response.read1(_PIECE)):
                    came += len(piece)
        return came

    def stat(self, path: str) -> Entry | None:
        item = self._requests.insist("look at", path, lambda: self._stat_once(path))
        return None if item is None else item.entry()

    def holds(self, path: str, size: int, digests: Mapping[str, str]) -> bool:
        kind = cheapest(self.hash_kinds, digests)
        if kind is None:
            return False

        def once() -> bool:
            item = self._stat_once(path, kind)
            return item is not None and (item.size, item.hash(kind)) == (size, digests[kind])

        return self._requests.insist("look at", path, once)

    def list(self, folder: str, *, dirs: bool = False, expected: int = 0) -> list[Entry]:
        timeout = self._retry.timeout + expected / _LISTED
        options = {"dirsOnly" if dirs else "filesOnly": True, "noModTime": True, "noMimeType": True}

        def once() -> list[Entry]:
            try:
                told = self._ask(
                    "operations/list", timeout=timeout, remote=_folder(folder), opt=options
                )
            except Failure as failure:
                if "directory not found" in failure.reason:
                    return []
                raise
            return listed(told)

        return self._requests.insist("list", folder or "/", once)

    def delete(self, path: str) -> None:
        self._requests.insist("delete", path, lambda: self._delete_once(path))

    def share(self, halt: threading.Event, on_retry: OnRetry) -> RcloneRemote:
        name, retry, explain = self.name, self._retry, self._server.explain
        requests = Insistence(name, retry, halt, on_retry, explain)
        made = RcloneRemote(self._server, requests, Lease(self._server))
        made.hash_kinds = self.hash_kinds
        return made

    def close(self) -> None:
        self._connections.close()

    def _put_once(self, path: str, body: bytes | memoryview, digests: Mapping[str, str]) -> None:
        target = "/" + quote(_object(path))
        timeout = self._retry.timeout + len(body) / self._retry.slowest
        planes = self._connections.planes()
        with planes.data.request("POST", target, body=body, timeout=timeout) as response:
            response.read()
        if response.status != http.HTTPStatus.OK:
            raise Failure(self._server.reason(path, f"rclone answered {response.status}"))
        kind = cheapest(self.hash_kinds, digests)
        wrong = difference(self._stat_once(path, kind), len(body), kind, digests)
        if wrong:
            raise Failure(f"the stored object differs: {wrong}", permanent=False)

    def _read(
        self,
        path: str,
        limit: int,
        take: Callable[[int, http.client.HTTPResponse], int],
        part: slice | None = None,
    ) -> int:
        """Have an object, or this part of it, taken from answers; how many bytes it was.

        ``take`` is told how many bytes came before, and says how many it took. A try goes on where
        the last one was cut.
        """
        came = 0

        def once() -> None:
            nonlocal came
            begin, end = part.start if part else 0, part.stop if part else None
            with self._reading(path, begin + came, end) as answer:
                size = answer.length
                if size is not None and came + size > limit:
                    raise _too_long(str(came + size), limit)
                while count := take(came, answer):
                    came += count
                if answer.length:  # what is left to come of the Content-Length
                    raise Failure(f"the answer ended {answer.length} bytes early")
                if size is None and answer.read(1):
                    raise _too_long(f"more than {limit}", limit)
            if part and came < limit:
                raise Failure(f"it ends {limit - came} bytes early", permanent=True)

        self._requests.insist("read", path, once, lambda: came)
        return came

    @contextlib.contextmanager
    def _reading(
        self, path: str, begin: int, end: int | None
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer with the object's bytes from ``begin`` to before ``end``."""
        planes = self._connections.planes()
        target, timeout = "/" + quote(_object(path)), self._retry.timeout
        whole = (begin, end) == (0, None)
        headers = {} if whole else {"Range": f"bytes={begin}-{'' if end is None else end - 1}"}
        wanted = http.HTTPStatus.OK if whole else http.HTTPStatus.PARTIAL_CONTENT
        with planes.data.request("GET", target, headers=headers, timeout=timeout) as answer:
            if answer.status != wanted:
                raise self._unreadable(path, answer.status)
            yield answer

    def _unreadable(self, path: str, status: int) -> Failure:
        """The data plane does not tell why; asking for the object's size usually does.

        It answers 404 for whatever it cannot open, also when the provider is only busy.
        """
        if self._stat_once(path) is None:
            return Failure("it is not there", permanent=True)
        if status == http.HTTPStatus.NOT_FOUND:
            return Failure("it is there, but the provider does not give it")
        return Failure(self._server.reason(path, f"rclone answered {status}"))

    def _stat_once(self, path: str, hash_kind: str | None = None) -> Item | None:
        options: dict[str, object] = {"filesOnly": True, "noModTime": True, "noMimeType": True}
        if hash_kind is not None:
            options |= {"showHash": True, "hashTypes": [hash_kind]}
        return looked_at(self._ask("operations/stat", remote=_object(path), opt=options))

    def _delete_once(self, path: str, timeout: float | None = None) -> None:
        try:
            self._ask("operations/deletefile", remote=_object(path), timeout=timeout)
        except Failure as failure:
            if not failure.reason.endswith(("object not found", "directory not found")):
                raise

    def _remove_remains(self, path: str) -> None:
        """No short or empty object may stay; the upload's own error is what gets reported."""
        if not self._requests.stop.is_set():
            with contextlib.suppress(Failure, ProviderError, OSError, http.client.HTTPException):
                self._delete_once(path, timeout=min(15.0, self._retry.timeout))

    def _ask(self, command: str, *, timeout: float | None = None, **parameters: object) -> bytes:
        """What rclone's control plane answers; raises Failure with its own words."""
        body = json.dumps({"fs": TARGET, **parameters}).encode()
        with self._connections.planes().control.request(
            "POST",
            "/" + command,
            body=body,
            headers={"Content-Type": "application/json"},
            timeout=timeout or self._retry.timeout,
        ) as response:
            answer = response.read()
        if response.status != http.HTTPStatus.OK:
            raise Failure(self._server.cleaned(str(json.loads(answer).get("error"))))
        return answer


def _object(path: str) -> str:
    """The path, if it names an object: plain names between slashes."""
    if not all(map(is_plain, path.split("/"))):
        raise Failure(f"{path!r} is not a path for an object", permanent=True)
    return path


def _folder(path: str) -> str:
    """The path, if it names a folder; the empty path is the root."""
    return path and _object(path)


def _too_long(size: str, limit: int) -> Failure:
    return Failure(f"{size} bytes are stored, at most {limit} were expected", permanent=True)
