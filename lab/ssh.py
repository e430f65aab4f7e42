"""Reach a guest: its ssh client configuration, and one shared connection."""

import shutil
import subprocess
import time
from pathlib import Path

from lab.errors import LabError
from lab.process import tail

ADDRESS = "127.0.0.1"
MASTER_TIMEOUT = 60  # seconds
POLL = 0.05  # seconds
CONFIG = """\
Host {address}
    Port {port}
    User root
    IdentityFile "{key}"
    IdentitiesOnly yes
    IdentityAgent none
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    GlobalKnownHostsFile /dev/null
    LogLevel ERROR
    BatchMode yes
    ConnectTimeout 60
    Compression no
    Ciphers {ciphers}
    KexAlgorithms {exchange}
    ControlPath "{control}"
    ControlMaster no
"""
# The cheapest for an emulated processor.
CIPHERS = "aes128-gcm@openssh.com,aes128-ctr"
EXCHANGE = "curve25519-sha256"


def config(folder: Path) -> Path:
    """Return where the client configuration of the guest with that folder is."""
    return folder / "ssh_config"


def write_config(folder: Path, port: int, key: Path) -> None:
    """Write the client configuration, with a copy of the key: the cache may be renewed."""
    copy = folder / "key"
    if not copy.exists():
        shutil.copy(key, copy)
    text = CONFIG.format(
        address=ADDRESS,
        port=port,
        key=copy,
        ciphers=CIPHERS,
        exchange=EXCHANGE,
        control=_control(folder),
    )
    config(folder).write_text(text)


def command(folder: Path, remote: str) -> list[str]:
    """Return the command line that runs a shell command on the guest."""
    return ["ssh", "-F", str(config(folder)), f"root@{ADDRESS}", remote]


def open_master(folder: Path) -> subprocess.Popen[bytes]:
    """Start the connection that later commands share, and wait until it is up.

    A server that is busy starting may refuse; that is tried again. Raises LabError.
    """
    deadline = time.monotonic() + MASTER_TIMEOUT
    master = _start_master(folder)
    while not _control(folder).exists():
        if time.monotonic() > deadline:
            close_master(folder, master)
            raise LabError(f"no ssh connection to the guest\n{tail(_log(folder))}")
        if master.poll() is not None:
            time.sleep(1)
            master = _start_master(folder)
        time.sleep(POLL)
    return master


def _start_master(folder: Path) -> subprocess.Popen[bytes]:
    words = ["setpriv", "--pdeathsig", "KILL", "ssh", "-F", str(config(folder))]
    words += ["-o", "ControlMaster=yes", "-N", f"root@{ADDRESS}"]
    with _log(folder).open("ab") as out:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )


def close_master(folder: Path, master: subprocess.Popen[bytes]) -> None:
    """End the shared connection."""
    master.kill()
    master.wait()
    _control(folder).unlink(missing_ok=True)


def _control(folder: Path) -> Path:
    return folder / "m"  # short: a socket's path has at most 108 bytes


def _log(folder: Path) -> Path:
    return folder / "ssh.log"
