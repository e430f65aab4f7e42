"""Start and end the program that a guest is: a User-Mode Linux kernel, or an emulator."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from lab import keeper, qemu, uml
from lab.errors import LabError
from lab.plan import Plan, Spec
from lab.process import tail

POLL = 0.02  # seconds
READY = b"lab: ready"  # printed by the guest's recipe/rc
GREETING_TIMEOUT = 5  # seconds
END_TIMEOUT = 20  # seconds
KEEPER = Path(keeper.__file__)
ENDED = "the guest ended before it answered"
PORT_TRIES = 5


@dataclass(frozen=True)
class Running:
    """A guest that runs: with a keeper that is our child, or one that an earlier process left."""

    pid: int
    port: int
    keeper: subprocess.Popen[bytes] | None = None

    def alive(self) -> bool:
        """Tell whether the guest's own process still runs."""
        if self.keeper and self.keeper.poll() is not None:
            return False
        return Path(f"/proc/{self.pid}").exists()

    def kill(self) -> None:
        """End it as a power cut would, by its own pid, and wait until all of it is gone."""
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
        if self.keeper:
            _await_end(self.keeper)
        deadline = time.monotonic() + END_TIMEOUT
        while self.alive() and time.monotonic() < deadline:
            time.sleep(POLL)


def start(spec: Spec, *, owned: bool) -> Running:
    """Boot a guest and wait until its ssh server answers.

    An owned guest dies with the process that started it, even if that is killed.
    Raises LabError with the ends of the guest's logs.
    """
    for _ in range(PORT_TRIES):
        running = _launch(spec, owned=owned)
        try:
            if _answers(spec, running):
                return running
        except BaseException:
            running.kill()
            raise
        # Another process may take the port between our look and the emulator's bind.
        died = not running.alive()
        running.kill()
        if not (died and "host forwarding" in tail(spec.serial)):
            break
    raise _failed(spec, ENDED if died else f"the guest did not answer within {spec.patience:g} s")


def _launch(spec: Spec, *, owned: bool) -> Running:
    for name in (spec.serial.name, "network.log", "guest.pid", "bess", "api"):
        (spec.folder / name).unlink(missing_ok=True)  # of an earlier boot
    port = free_port()
    plan = qemu.plan(spec, port) if spec.product.emulated else uml.plan(spec)
    child = _keep(spec.folder, plan, owned=owned)
    try:
        pid = _guest_pid(spec, child)
        if not spec.product.emulated:
            port = uml.forward(spec.folder, free_port)
    except LabError as error:
        _await_end(child)
        raise _failed(spec, str(error)) from error
    except BaseException:
        _await_end(child)
        raise
    return Running(pid, port, child)


def _keep(folder: Path, plan: Plan, *, owned: bool) -> subprocess.Popen[bytes]:
    told = json.dumps(asdict(plan) | {"owned": owned})
    with (folder / "keeper.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-I", str(KEEPER), told],
            cwd=folder,
            env=os.environ | {"TMPDIR": plan.memory_in},
            stdin=subprocess.PIPE if owned else subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # ^C is for us: we end the guest in order
        )


def _guest_pid(spec: Spec, child: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + spec.patience
    while time.monotonic() < deadline and child.poll() is None:
        try:
            return int((spec.folder / "guest.pid").read_text())
        except FileNotFoundError:
            time.sleep(POLL)
    ended = child.poll() is not None
    raise LabError(ENDED if ended else f"the guest did not start within {spec.patience:g} s")


def _answers(spec: Spec, running: Running) -> bool:
    """Wait until the guest says that it is up, then for the ssh server's greeting.

    No knocking before: connections are accepted and kept that the guest is not ready for, and the
    ssh server refuses when many of them arrive at once.
    """
    deadline = time.monotonic() + spec.patience
    ready = False
    while time.monotonic() < deadline and running.alive():
        ready = ready or (spec.serial.exists() and READY in spec.serial.read_bytes())
        if ready and _greets(running.port):
            return True
        time.sleep(POLL)
    return False


def _greets(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), GREETING_TIMEOUT) as probe:
            return probe.recv(4) == b"SSH-"
    except OSError:
        return False


def free_port() -> int:
    """Return a loopback port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _await_end(child: subprocess.Popen[bytes]) -> None:
    """Let the keeper see that nobody wants the guest any more; end it if it does not."""
    if child.stdin:
        child.stdin.close()
    try:
        child.wait(END_TIMEOUT)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _failed(spec: Spec, what: str) -> LabError:
    logs = [spec.folder / name for name in ("keeper.log", "network.log", spec.serial.name)]
    told = "\n".join(f"{log.name}: {tail(log)}" for log in logs if log.exists())
    return LabError(f"{what}\n{told}")
