"""Real storage servers on loopback ports, each ended for sure when its owner ends.

    server = start_seaweed(folder)
    server.remote        # "seaweed:offsite-test", as config.env would say
    server.conf          # rclone.conf with its section, mode 0600
    write_conf(path, server, other)

All of them are started through process.Child, so the kernel ends them if the tests are killed.
Only the main thread should start them (see process.py). Each function takes an empty folder for
the server's files and raises Unavailable if the server's program cannot be had, TimeoutError if
it does not come up.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from offsite import process
from offsite.process import Child
from offsite.rclone.launch import find_program
from tests.storage import provision

BUCKET = "offsite-test"
_DEADLINE = 90.0
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Server:
    """A running server; ``settings`` is its section of an rclone.conf, ``port`` 0 if none."""

    remote: str
    conf: Path
    port: int = 0
    settings: Mapping[str, str] = field(default_factory=dict, repr=False)
    child: Child | None = None
    folders: Sequence[Path] = ()

    @property
    def name(self) -> str:
        name, colon, _ = self.remote.partition(":")
        return name if colon else "local"

    def stop(self) -> None:
        """End the server and remove the folders it made for itself."""
        if self.child is not None:
            self.child.stop(grace=3)
        for folder in self.folders:
            shutil.rmtree(folder, ignore_errors=True)


def write_conf(path: Path, *servers: Server) -> Path:
    """Write one rclone.conf, mode 0600, that knows all these servers."""
    lines = []
    for server in servers:
        if server.settings:
            lines += [f"[{server.name}]", *(f"{k} = {v}" for k, v in server.settings.items()), ""]
    path.touch(mode=0o600)
    path.write_text("\n".join(lines))
    return path


def start_local(folder: Path) -> Server:
    """A local path, which needs no server."""
    (folder / "store").mkdir(parents=True)
    server = Server(str(folder / "store"), folder / "rclone.conf")
    write_conf(server.conf, server)
    return server


def start_seaweed(folder: Path) -> Server:
    """SeaweedFS with its S3 gateway."""
    program = provision.weed()
    chosen = free_ports(8)
    ports = dict(zip(("master", "volume", "filer", "s3"), chosen[:4], strict=True))
    grpc = dict(zip(ports, chosen[4:], strict=True))
    sockets = Path(tempfile.mkdtemp(prefix="offsite-weed-", dir="/tmp"))
    (folder / "data").mkdir(parents=True)
    keys = folder / "s3.json"
    keys.touch(mode=0o600)
    keys.write_text(
        '{"identities": [{"name": "test", "actions": ["Admin", "Read", "Write", "List"], '
        '"credentials": [{"accessKey": "test-access", "secretKey": "test-secret"}]}, '
        '{"name": "anonymous", "actions": ["Write"]}]}'  # what a proxy has made of ours
    )
    argv = [str(program), "-logtostderr=true", "-v=0", "server", f"-dir={folder / 'data'}"]
    argv += ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={keys}"]
    argv += [f"-{kind}.port={port}" for kind, port in ports.items()]
    argv += [f"-{kind}.port.grpc={port}" for kind, port in grpc.items()]
    argv += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false"]
    argv += ["-master.volumeSizeLimitMB=512", "-volume.max=64", "-volume.preStopSeconds=0"]
    argv += [f"-{kind}.localSocket={sockets / kind}" for kind in ("filer", "s3")]
    settings = {
        "type": "s3",
        "provider": "SeaweedFS",
        "access_key_id": "test-access",
        "secret_access_key": "test-secret",
        "endpoint": f"http://127.0.0.1:{ports['s3']}",
        "force_path_style": "true",
    }
    server = Server(f"seaweed:{BUCKET}", folder / "rclone.conf", ports["s3"], settings, Child(argv))
    return _started(replace(server, folders=[sockets]))


def start_azurite(folder: Path) -> Server:
    """Azurite's blob service, in memory."""
    program = provision.azurite()
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    argv = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(port), "--silent"]
    argv += ["--inMemoryPersistence", "--extentMemoryLimit", "2048"]
    argv += ["--skipApiVersionCheck", "--disableTelemetry"]
    settings = {
        "type": "azureblob",
        "use_emulator": "true",
        "endpoint": f"http://127.0.0.1:{port}/devstoreaccount1",
    }
    return _started(
        Server(f"azurite:{BUCKET}", folder / "rclone.conf", port, settings, Child(argv))
    )


def start_fake_gcs(folder: Path) -> Server:
    """fake-gcs-server, in memory."""
    program = provision.fake_gcs()
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    argv = [str(program), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1"]
    argv += ["-port", str(port), "-external-url", url, "-public-host", f"127.0.0.1:{port}"]
    settings = {
        "type": "google cloud storage",
        "anonymous": "true",
        "endpoint": f"{url}/storage/v1/",
        "project_number": "1",
        "bucket_policy_only": "true",
    }
    return _started(Server(f"gcs:{BUCKET}", folder / "rclone.conf", port, settings, Child(argv)))


# That user has a shell only in the sight of this process.
_WITH_SHELL = 'mount --bind "$1" /etc/passwd; shift; exec "$@"'


def start_sftp(folder: Path, *, has_shell: bool = False) -> Server:
    """OpenSSH's sshd serving sftp to us; started by root, it runs as ``daemon`` instead.

    As root it would want a user and a folder of its own on the host (sshd(8), privilege
    separation); as any other user it serves just that user. ``has_shell``: rclone finds one,
    and has the hashes computed there.
    """
    program = provision.sshd()
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    as_root = os.geteuid() == 0
    # Not nobody: nss-systemd calls that account locked.
    user = pwd.getpwnam("daemon") if as_root else pwd.getpwuid(os.geteuid())
    home = Path(tempfile.mkdtemp(prefix="offsite-sftp-", dir="/var/tmp"))
    for key in (home / "host_key", folder / "client_key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(key)]
        assert process.run(argv).status == 0
    shutil.copy(folder / "client_key.pub", home / "authorized_keys")
    host_key = (home / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
    (home / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {home}/host_key\nPidFile none\nUsePAM no\n"
        f"AuthorizedKeysFile {home}/authorized_keys\nStrictModes no\nAllowUsers {user.pw_name}\n"
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nMaxStartups 100\n"
        "Subsystem sftp internal-sftp\n"
    )
    shutil.copy(program, home / "sshd")  # root's cache is closed to others
    for library in program.parents[2].glob("usr/lib/*-linux-gnu/libwrap.so.0"):
        shutil.copy(library, home)
    argv = [f"{home}/sshd", "-D", "-e", "-f", str(home / "sshd_config")]
    if as_root:
        for path in (home, *home.iterdir()):
            os.chown(path, user.pw_uid, user.pw_gid)
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        argv = ["setpriv", "--pdeathsig=KILL", *ids, *argv]
        if has_shell:
            users = Path("/etc/passwd").read_text()
            passwd = home / "passwd"
            passwd.write_text(users.replace(user.pw_shell, "/bin/sh"))
            argv = ["unshare", "--mount", "sh", "-ec", _WITH_SHELL, "sh", str(passwd), *argv]
    settings = {
        "type": "sftp",
        "host": "127.0.0.1",
        "port": str(port),
        "user": user.pw_name,
        "key_file": str(folder / "client_key"),
        "known_hosts_file": str(folder / "known_hosts"),
    }
    if not has_shell:
        settings["shell_type"] = "none"
    child = Child(argv, env={**os.environ, "LD_LIBRARY_PATH": str(home)})
    server = Server(f"sftp:{home}/store", folder / "rclone.conf", port, settings, child)
    return _started(replace(server, folders=[home]))


def start_sftp_shell(folder: Path) -> Server:
    """The same, where ssh gives a shell, too."""
    return start_sftp(folder, has_shell=True)


def free_ports(count: int) -> list[int]:
    """Loopback ports nobody listens on now; no other tests get them while this process lives.

    A server takes a while to listen. The kernel gives none of these to whoever asks for any port,
    as all clients do; other tests are kept away by a name each, which ends with us.
    """
    ports: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket(socket.AF_UNIX) as claim, contextlib.suppress(OSError):
            claim.bind(f"\0offsite-test-port-{port}")
            socket.create_server(("127.0.0.1", port)).close()
            claim.detach()
            ports.append(port)
        if len(ports) == count:
            return ports
    raise OSError("no port is free")


def wait_until(ready: Callable[[], bool], child: Child, deadline: float = _DEADLINE) -> None:
    """Return when ``ready`` says so; TimeoutError with the server's last words otherwise."""
    limit = time.monotonic() + deadline
    while not ready():
        if child.poll() is not None or time.monotonic() > limit:
            child.stop(grace=1)
            raise TimeoutError(f"{child.argv[0]} did not come up: {child.stderr_tail()[-2000:]}")
        time.sleep(0.1)


def _started(server: Server) -> Server:
    """The server, once it stores an object; ended if it does not."""
    assert server.child is not None
    write_conf(server.conf, server)
    try:
        wait_until(lambda: _listens(server.port), server.child)
        wait_until(lambda: _stores(server), server.child)
    except TimeoutError:
        server.stop()
        raise
    return server


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def _stores(server: Server) -> bool:
    rclone = find_program(os.environ.get("PATH"))
    argv = [rclone, "--config", str(server.conf), "--retries=1", "--low-level-retries=1"]
    made = process.run([*argv, "mkdir", server.remote])
    done = process.run([*argv, "rcat", f"{server.remote}/ready"], stdin=b"yes")
    return made.status == 0 and done.status == 0
