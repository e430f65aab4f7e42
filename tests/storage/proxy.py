"""A small TCP proxy that breaks connections on purpose.

    with Proxy(server.port) as proxy:
        proxy.fault = Fault("reset", method=b"PUT", times=2)

A fault strikes when a piece of a request arrives that begins with ``method`` and has ``path`` in
its first line (clients begin a request with a new segment), lets ``after`` more bytes of it pass
first, and ends that connection.
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Self

THREADS = "proxy"  # what their names begin with
_PIECE = 64 * 1024
_ANSWERS = {  # status line, S3's code, further headers
    "500": ("500 Internal Server Error", "InternalError", ""),
    "503": ("503 Slow Down", "SlowDown", ""),
    "503 for long": ("503 Slow Down", "SlowDown", "Retry-After: 86400\r\n"),
    "429": ("429 Too Many Requests", "TooManyRequests", "Retry-After: 1\r\n"),
    "429 for long": ("429 Too Many Requests", "TooManyRequests", "Retry-After: 86400\r\n"),
    "404": ("404 Not Found", "NoSuchKey", ""),
    "deny": ("403 Forbidden", "AccessDenied", ""),
    "skew": ("403 Forbidden", "RequestTimeTooSkewed", ""),
    "quota": ("403 Forbidden", "QuotaExceeded", ""),
    "507": ("507 Insufficient Storage", "InsufficientStorage", ""),
}
_OF_ANSWERS = {"truncate", "end", "freeze", "flip", "bad day"}
_OF_UPLOADS = {"half", "spoil"}
_OF_LENGTH = rb"(?i)content-length:|authorization:"
_SILENT = 20  # of a bad day's connections, one in so many
Kind = Literal[
    "reset", "cut", "stall", "truncate", "end", "freeze", "flip", "bad day", "half",
    "spoil", "500", "503", "503 for long", "429", "429 for long", "404", "deny", "skew", "quota",
    "507",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """``reset``: a TCP reset. ``cut``: an orderly close. ``stall``: silence until the proxy ends.

    With these the request passes whole, and of its answer's body ``after`` bytes; then ``truncate``
    is a reset, which may overtake them, ``end`` an orderly close, ``freeze`` silence, ``flip`` one
    wrong bit, ``bad day`` an ``end``, but every twentieth time silence. ``half``: of an upload only
    the first half is stored, and the server says yes to it; ``spoil``: it is stored with one wrong
    bit. All others: that answer, in S3's form. Before it strikes, that connection waits for
    ``first`` to return.
    """

    kind: Kind
    method: bytes = b"PUT "
    after: int = 0
    times: int = 1_000_000
    path: bytes = b""
    first: Callable[[], None] = lambda: None


class Proxy:
    """Listens on ``port`` and passes everything to ``upstream``, both on loopback.

    ``rate`` limits what passes in both directions together, in bytes a second; ``sent`` counts the
    bytes that clients sent, ``given`` those that they got.
    """

    def __init__(self, upstream: int, *, rate: int | None = None) -> None:
        self.struck = 0
        self.sent = 0
        self.given = 0
        self.fault: Fault | None = None
        self.rate = rate
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._marked: dict[socket.socket, Fault] = {}
        self._free_at = 0.0
        self._ended = threading.Event()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Break every connection and stop listening."""
        self._ended.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.break_all()
        for thread in list(self._threads):
            thread.join(timeout=5)

    def break_all(self) -> None:
        """Reset the connections that are open now."""
        with self._lock:
            sockets = list(self._sockets)
        for each in sockets:
            _reset(each)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._upstream))
            except OSError:
                _reset(client)
                client.close()
                continue
            with self._lock:
                self._sockets |= {client, server}
            for work in (self._requests, self._answers):
                self._start(work, client, server)

    def _start(self, work: Callable[..., None], *ends: socket.socket) -> None:
        name = f"{THREADS}-{len(self._threads)}"
        self._threads.append(threading.Thread(target=work, args=ends, name=name, daemon=True))
        self._threads[-1].start()

    def _requests(self, client: socket.socket, server: socket.socket) -> None:
        """From client to server, with faults; ends both."""
        try:
            while piece := client.recv(_PIECE):
                self._throttle(len(piece))
                fault = self._strike(piece)
                if fault is None:
                    server.sendall(piece)
                    with self._lock:
                        self.sent += len(piece)
                elif fault.kind in _OF_UPLOADS:
                    server.sendall(_changed(fault.kind, piece, client))
                elif fault.kind in _OF_ANSWERS:
                    self._marked[client] = fault
                    server.sendall(piece)
                else:
                    self._break(fault, piece, client, server)
                    break
        except OSError:
            pass
        self._forget(client, server)

    def _answers(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while piece := server.recv(_PIECE):
                self._throttle(len(piece))
                fault = self._marked.pop(client, None)
                if fault and piece.startswith(b"HTTP/"):
                    fault = replace(fault, after=fault.after + piece.find(b"\r\n\r\n") + 4)
                if fault is None:
                    self._give(client, piece)
                elif fault.after >= len(piece):
                    self._give(client, piece)
                    self._marked[client] = replace(fault, after=fault.after - len(piece))
                elif fault.kind == "flip":
                    self._give(client, _flipped(piece, fault.after))
                else:
                    self._give(client, piece[: fault.after])
                    if fault.kind == "freeze":
                        self._ended.wait()
                    elif fault.kind == "end":
                        client.shutdown(socket.SHUT_WR)
                        return
                    _reset(client)
            client.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def _give(self, client: socket.socket, piece: bytes) -> None:
        with self._lock:
            self.given += len(piece)  # before: who got it may look at once
        client.sendall(piece)

    def _throttle(self, size: int) -> None:
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now) + size / self.rate
            pause = self._free_at - now
        self._ended.wait(pause)

    def _strike(self, piece: bytes) -> Fault | None:
        with self._lock:
            fault = self.fault
            if fault is None or fault.times == 0 or not piece.startswith(fault.method):
                return None
            if fault.path not in piece.partition(b"\r\n")[0]:
                return None
            self.fault = replace(fault, times=fault.times - 1)
            self.struck += 1
        fault.first()
        if fault.kind == "bad day":
            return replace(fault, kind="end" if self.struck % _SILENT else "freeze")
        return fault

    def _break(
        self, fault: Fault, piece: bytes, client: socket.socket, server: socket.socket
    ) -> None:
        passed = 0
        while passed < fault.after and piece:
            server.sendall(piece)
            passed += len(piece)
            piece = client.recv(_PIECE)
        if fault.kind == "reset":
            _reset(client)
        elif fault.kind == "stall":
            self._ended.wait()
        elif fault.kind in _ANSWERS:
            _answer(fault.kind, client)

    def _forget(self, *sockets: socket.socket) -> None:
        with self._lock:
            self._sockets -= set(sockets)
        for each in sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads the other way
            each.close()


def _answer(kind: str, client: socket.socket) -> None:
    """Answer at once, then swallow what is left of the request, so that the answer arrives."""
    status, code, headers = _ANSWERS[kind]
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No</Message></Error>"
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nConnection: close\r\n{headers}"
    client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    client.shutdown(socket.SHUT_WR)
    client.settimeout(1)
    while client.recv(_PIECE):
        pass


def _changed(kind: Kind, piece: bytes, client: socket.socket) -> bytes:
    """The request that begins with ``piece``, all of it read, with another body.

    It goes without its signature, which is of the length, too.
    """
    head, _, body = piece.partition(b"\r\n\r\n")
    length = int(re.findall(rb"(?im)^content-length: (\d+)", head)[0])
    while len(body) < length:
        body += client.recv(_PIECE)
    body = body[: length // 2] if kind == "half" else _flipped(body, length // 2)
    kept = [line for line in head.split(b"\r\n") if not re.match(_OF_LENGTH, line)]
    kept.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*kept, b"", body])


def _flipped(piece: bytes, at: int) -> bytes:
    return piece[:at] + bytes([piece[at] ^ 1]) + piece[at + 1 :]


def _reset(each: socket.socket) -> None:
    """Make the other side see a reset: linger for no time, then shut down."""
    with contextlib.suppress(OSError):  # it may have gone already
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        each.shutdown(socket.SHUT_RDWR)
