"""One private ``rclone serve restic`` process: found, started, watched, restarted, stopped.

One process serves two planes, each on a unix socket in a folder only we may enter:
``--addr``, where ``POST /path`` with a Content-Length stores an object and ``GET`` reads it
(rclone: cmd/serve/restic; not only restic's own layout, except that ``data/xyz`` is rewritten), and
``--rc-addr``, rclone's remote control in JSON (rclone: fs/rc, ``operations/…``).
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from offsite import process
from offsite.errors import ConfigError, ProviderError, StoppedError
from offsite.rclone import folder
from offsite.rclone.errors import Failure, clean, config_error, known_secrets
from offsite.rclone.http import Plane
from offsite.rclone.launch import (
    MISSING,
    TARGET,
    Launch,
    check_launch,
    environment,
    find_program,
)

_RESTARTS = 3  # in so many seconds; a run may last for weeks, and not every death is like the last
_REMEMBERED = 3600.0
_AFTERTHOUGHT = 0.5  # seconds
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL: uploads in flight are not worth waiting for


@dataclass(frozen=True)
class Planes:
    data: Plane
    control: Plane


class Server:
    """The running rclone of one provider.

    It is forked by a thread that lives as long as the server, since the kernel ties a child's life
    to the thread that forked it (process.py); so any thread may find it dead and have it restarted.
    """

    def __init__(self, launch: Launch, stop: threading.Event) -> None:
        """Raises ConfigError. Nothing runs before ``planes`` is called."""
        check_launch(launch)
        self._launch = launch
        self._stop = stop
        self._program = find_program(launch.environ.get("PATH"), stop=stop)
        self._secrets = known_secrets(launch.environ, launch.remote)
        self._environ = environment(launch)
        self._folder = folder.make(launch.environ)
        self._forker = ThreadPoolExecutor(1, thread_name_prefix=f"rclone-{launch.provider}")
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._child: process.Child | None = None
        self._planes: Planes | None = None
        self._starts = 0
        self._deaths: list[float] = []

    def planes(self) -> Planes:
        """The planes of the living rclone, started if need be.

        Raises Failure if it does not start, ConfigError if it never will, ProviderError if it was
        closed or died too often.
        """
        with self._lock:
            if self._closing.is_set():
                kind = StoppedError if self._stop.is_set() else ProviderError
                raise kind(f"{self._launch.provider}: its rclone is closed already")
            if self._planes is not None and self._child is not None:
                if self._child.poll() is None:
                    return self._planes
                self._bury(self._child, self._planes)
            self._planes = self._start()
            return self._planes

    def reason(self, path: str, otherwise: str) -> str:
        """Why a request about ``path`` failed: what rclone's stderr says of it, or how rclone died.

        Either may come to light just after the answer or its absence; ``otherwise`` stands if
        neither does.
        """
        limit = time.monotonic() + _AFTERTHOUGHT
        child = self._child
        while child is not None and time.monotonic() < limit:
            if (status := child.poll()) is not None:
                return _ended(status)
            for line in reversed(child.stderr_tail().splitlines()):
                if path and f" {path}: " in line:
                    return self.cleaned(line).removeprefix(f"{path}: ")
            time.sleep(0.02)
        return otherwise

    def explain(self, error: Exception, path: str) -> str:
        """Why a request about ``path`` got no answer."""
        if isinstance(error, TimeoutError):
            return "rclone gave no answer in time"
        broke = f"the connection to rclone broke ({error or type(error).__name__})"
        return self.reason(path, broke)

    def cleaned(self, line: str) -> str:
        """A line of rclone's, fit to be shown."""
        return clean(line, self._secrets).replace(TARGET, f"{self._launch.provider}:")

    def close(self) -> None:
        """Stop rclone, which ends every request in flight, and remove the sockets."""
        self._closing.set()
        with self._lock:
            if self._planes is not None:
                self._planes.data.close()
                self._planes.control.close()
            if self._child is not None:
                self._child.stop(grace=_GRACE)
        self._forker.shutdown()
        self._folder.remove()

    def _bury(self, child: process.Child, planes: Planes) -> None:
        planes.data.close()
        planes.control.close()
        now = time.monotonic()
        self._deaths = [one for one in self._deaths if now - one < _REMEMBERED]
        if len(self._deaths) == _RESTARTS:
            raise ProviderError(
                f"{self._launch.provider}: rclone died {_RESTARTS + 1} times within an hour, "
                f"at last: {_ended(child.wait())}",
                hint="the system's log may say why; often memory has run out",
            )
        self._deaths.append(now)
        self._planes = None

    def _start(self) -> Planes:
        if self._child is not None:
            self._child.stop(grace=_GRACE)
        self._starts += 1
        data, control = (f"{self._folder.path}/{kind}{self._starts}" for kind in "dc")
        argv = [
            self._program,
            "serve",
            "restic",
            "--addr",
            f"unix://{data}",
            "--rc",
            "--rc-no-auth",
        ]
        argv += ["--rc-addr", f"unix://{control}", "--cache-objects=false", *self._options()]
        self._child = self._forker.submit(
            process.Child, [*argv, TARGET], env=self._environ, missing=MISSING
        ).result()
        planes = Planes(Plane(data), Plane(control))
        self._await_ready(self._child, planes)
        return planes

    def _await_ready(self, child: process.Child, planes: Planes) -> None:
        limit = time.monotonic() + self._launch.deadline
        while not (planes.data.answers() and planes.control.answers()):
            if self._stop.is_set() or self._closing.is_set():
                raise StoppedError(f"{self._launch.provider}: stopped before rclone was ready")
            if child.poll() is not None:
                raise self._stillborn(child.wait(), child.stderr_tail())
            if time.monotonic() > limit:
                child.stop(grace=_GRACE)
                last = child.stderr_tail().splitlines()[-1:]
                said = self.cleaned(last[0]) if last else "and it said nothing"
                raise Failure(f"rclone was not ready in {self._launch.deadline:.0f} s: {said}")
            time.sleep(0.01)

    def _stillborn(self, status: int, stderr: str) -> Failure | ConfigError:
        """What rclone said before it ended: its CRITICAL line, else the last one."""
        lines = [line for line in stderr.splitlines() if line.strip()]
        telling = [line for line in lines if line.startswith(("CRITICAL", "Error", "Fatal"))]
        if not lines:
            return Failure(_ended(status))
        reason = self.cleaned((telling or lines)[-1])
        return config_error(self._launch.provider, reason, self._remotes()) or Failure(reason)

    def _remotes(self) -> list[str]:
        argv = [self._program, "listremotes", *self._options()]
        said = process.run(argv, env=self._environ, timeout=30, stop=self._stop)
        names = (line.strip() for line in said.stdout.splitlines())
        return [name for name in names if name != TARGET]

    def _options(self) -> list[str]:
        config = self._launch.config
        return [*(["--config", str(config)] if config else []), *self._launch.flags]


class Lease:
    """One work's own connections to a server that several works share.

    Closing it ends this work's requests and leaves rclone to the others.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._closed = False
        self._shared: Planes | None = None
        self._own: Planes | None = None

    def planes(self) -> Planes:
        """Our own planes of the living rclone. Raises as Server's, and once it is closed."""
        shared = self._server.planes()
        with self._lock:
            if self._closed:
                raise ProviderError("this work's connections to rclone are closed already")
            if self._own is None or shared is not self._shared:
                if self._own is not None:  # of an rclone that died
                    self._own.data.close()
                    self._own.control.close()
                self._shared = shared
                self._own = Planes(Plane(shared.data.path), Plane(shared.control.path))
            return self._own

    def close(self) -> None:
        """End every request in flight."""
        with self._lock:
            self._closed = True
            if self._own is not None:
                self._own.data.abort()
                self._own.control.abort()


def _ended(status: int) -> str:
    return f"rclone was killed by signal {-status}" if status < 0 else f"rclone ended ({status})"
