"""A guest as an ordinary process: the User-Mode Linux kernel and its network, slirp4netns."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

from lab.errors import LabError
from lab.plan import Plan, Spec

SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - the kernel's file there has no name
# Bytes; not more, such as 65,520: slirp4netns knows no window scaling, so a window is about one
# such packet, and sender and receiver each wait for the other to move a whole one. 4 MiB into a
# guest took 6 to 13 s; with 4,000 to 16,384 bytes 0.7 to 1.8 s, with 1,500 0.3 to 0.4 s.
MTU = 1500
# Where the guest's kernel (6.12) sizes the buffer of what it receives, it tells of a full window of
# a new connection only when its timer for that runs out, 40 to 200 ms later: 8 MiB over one of its
# own took 3 to 9 s, and with a buffer of one size mostly 0.3 to 1 s.
FIXED_BUFFER = "tcp_moderate_rcvbuf=0"
FORWARD_TRIES = 20
API_TIMEOUT = 20  # seconds


def plan(spec: Spec) -> Plan:
    """Return the command lines of a guest that runs in ``spec.folder``."""
    network = spec.product.network
    slirp = [str(network / "ld-linux-x86-64.so.2"), "--library-path", str(network)]
    slirp += [str(network / "slirp4netns"), "--target-type=bess", f"--mtu={MTU}"]
    slirp += ["--api-socket=api", "bess"]
    guest = ["taskset", "-c", str(_processor(spec.folder)), str(spec.product.kernel)]
    guest += [f"mem={spec.memory}M", f"initrd={spec.product.initramfs}"]
    guest += [f"uml_dir={spec.folder}/", "umid=uml"]
    guest += [f"vec0:transport=bess,dst=bess,depth=128,gro=0,mtu={MTU}"]
    guest += ["con=null", "con0=null,fd:1", "ssl=null", "quiet"]
    guest.append(f"sysctl.net.ipv4.{FIXED_BUFFER}")
    # A failed VERIFY in ZFS ends the guest at once, instead of a hang.
    guest += ["panic=-1", "spl.spl_panic_halt=1"]
    if spec.disk:
        guest.append(f"ubd0={spec.disk}")
    return Plan(guest, slirp, "bess", _memory_folder(spec))


def forward(folder: Path, free_port: Callable[[], int]) -> int:
    """Lead a loopback port of the host to the guest's ssh server; return it.

    Raises LabError. The socket appears when the guest's card has connected.
    """
    deadline = time.monotonic() + API_TIMEOUT
    for _ in range(FORWARD_TRIES):
        port = free_port()
        wanted = {"proto": "tcp", "host_addr": "127.0.0.1", "host_port": port}
        wanted |= {"guest_addr": "10.0.2.15", "guest_port": 22}
        told = _ask(folder, {"execute": "add_hostfwd", "arguments": wanted}, deadline)
        if "error" not in told:
            return port
    raise LabError(f"no port leads to the guest: {told}")


def _ask(folder: Path, request: object, deadline: float) -> dict[str, object]:
    # By way of the folder's descriptor: a socket's path has at most 108 bytes.
    opened = os.open(folder, os.O_PATH)
    try:
        while True:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(API_TIMEOUT)
                try:
                    asking.connect(f"/proc/self/fd/{opened}/api")
                except OSError as error:
                    if time.monotonic() > deadline:
                        raise LabError(f"the guest's network does not start: {error}") from error
                    time.sleep(0.02)
                    continue
                asking.sendall(json.dumps(request).encode())
                asking.shutdown(socket.SHUT_WR)
                answer = asking.makefile("rb").read()
                told: dict[str, object] = json.loads(answer) if answer else {"error": "no answer"}
                return told
    finally:
        os.close(opened)


def _processor(folder: Path) -> int:
    """The processor that the fewest guests are pinned to.

    Pinned, for every system call in the guest is a handover between two processes of the host;
    that takes half the time where both share a processor.
    """
    mine = sorted(os.sched_getaffinity(0))
    taken = [path.read_text() for path in folder.parent.glob("offsite-lab-*/processor")]
    choice = min(mine, key=lambda number: taken.count(str(number)))
    (folder / "processor").write_text(str(choice))
    return choice


def _memory_folder(spec: Spec) -> str:
    try:
        room = os.statvfs(SHARED_MEMORY)
    except OSError:
        return str(spec.folder)
    enough = room.f_bavail * room.f_frsize > spec.memory * (1 << 20) * 1.1
    return str(SHARED_MEMORY if enough else spec.folder)
