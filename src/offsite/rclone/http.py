"""HTTP over a unix socket, with connections that are kept and reused."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import threading
from collections.abc import Iterator, Mapping
from http.client import HTTPResponse


class UnixConnection(http.client.HTTPConnection):
    """One HTTP connection to the unix socket at ``path``; ``timeout`` in seconds."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path
        self._interrupted = False

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
        if self._interrupted:
            raise ConnectionAbortedError("interrupted")

    def interrupt(self) -> None:
        """Break it, from another thread than the one that uses it."""
        self._interrupted = True
        sock = self.sock  # the other thread may close it meanwhile
        if sock is not None:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def hung_up(self) -> bool:
        """Whether the other side has closed it, while no answer was due."""
        if self.sock is None:
            return False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))

    def set_timeout(self, timeout: float) -> None:
        """Seconds that sending a whole request, and each read of its answer, may take."""
        self.timeout = timeout
        if self.sock is not None:
            self.sock.settimeout(timeout)


class Plane:
    """A socket that speaks HTTP, for many threads: a connection serves one request at a time.

    There are never more connections than requests at once. Whatever goes wrong with a request ends
    its connection, so the next one starts on a clean one. rclone closes what was idle for a minute
    (lib/http, IdleTimeout): all of them, if ``zfs receive`` stands that long.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._idle: list[UnixConnection] = []
        self._busy: set[UnixConnection] = set()
        self._lock = threading.Lock()
        self._closed = False

    @contextlib.contextmanager
    def request(
        self,
        method: str,
        target: str,
        *,
        body: bytes | memoryview | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float,
    ) -> Iterator[HTTPResponse]:
        """Send ``body`` uncopied and lend the answer to be read. Raises OSError, HTTPException."""
        connection = self._take(timeout)
        try:
            connection.request(method, target, body, headers or {})
            response = connection.getresponse()
            with response:
                yield response
                reusable = response.isclosed()  # read to its end
        except BaseException:
            self._give_back(connection, reusable=False)
            raise
        self._give_back(connection, reusable=reusable)

    def answers(self) -> bool:
        """Whether a connection can be made now."""
        connection = UnixConnection(self.path, timeout=5)
        try:
            connection.connect()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def close(self) -> None:
        """Close the idle connections; those in use end with their request."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def abort(self) -> None:
        """Close, and break the connections in use: their requests fail at once."""
        self.close()
        with self._lock:
            for connection in self._busy:
                connection.interrupt()

    def _take(self, timeout: float) -> UnixConnection:
        with self._lock:
            if self._closed:
                raise ConnectionAbortedError("closed")
            connection = self._take_idle() or UnixConnection(self.path, timeout)
            self._busy.add(connection)
        connection.set_timeout(timeout)
        return connection

    def _take_idle(self) -> UnixConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.hung_up():
                return connection
            connection.close()
        return None

    def _give_back(self, connection: UnixConnection, *, reusable: bool) -> None:
        with self._lock:
            self._busy.discard(connection)
            if reusable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()
