"""A small machine with OpenZFS: boot it, use it, and never leave it behind."""

import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lab import engine, ssh
from lab.disk import make_disk
from lab.errors import DeadlineError, LabError
from lab.machine import Completed, Machine
from lab.plan import Spec
from lab.process import tail
from lab.recipe import hosttools
from lab.recipe.build import ensure
from lab.recipe.release import LATEST

MEMORY = 3072  # MiB, of which a guest takes what it uses; pools may take three quarters of it
FOLDER_PREFIX = "offsite-lab-"
SSH_FAILED = 255


class Guest(Machine):
    """A running guest. `folder` has its logs and ssh configuration."""

    pool_folder = "/pools"

    def __init__(self, spec: Spec, running: engine.Running) -> None:
        self.version = spec.product.version
        self.spec = spec
        self.folder = spec.folder
        self.running = running
        self._master: subprocess.Popen[bytes] | None = None

    @property
    def disk(self) -> str:
        """The partition on the disk image, if there is one."""
        return "/dev/vda1" if self.spec.product.emulated else "/dev/ubda1"

    def connect(self) -> None:
        """Open the ssh connection that all commands share: ten times faster per command."""
        self._master = ssh.open_master(self.folder)

    def command(self, *argv: str) -> list[str]:
        """Return the host's command line that runs `argv` on the guest."""
        return ssh.command(self.folder, shlex.join(argv))

    def zfs_settings(self) -> dict[str, str]:
        """Return Offsite's settings that let it reach this guest."""
        return {
            "ZFS_SSH": f"root@{ssh.ADDRESS}",
            "ZFS_SSH_OPTIONS": f"-F {ssh.config(self.folder)}",
        }

    def run(
        self,
        *argv: str,
        check: bool = True,
        stdin: bytes | None = None,
        timeout: float = 120,
    ) -> Completed:
        """Run a program on the guest; see Machine.run.

        Raises LabError also when the guest is gone.
        """
        done = super().run(*argv, check=False, stdin=stdin, timeout=timeout)
        if done.status == SSH_FAILED and not self.running.alive():
            raise LabError(f"the guest is gone; end of its console:\n{tail(self.spec.serial)}")
        return self.checked(argv, done) if check else done

    def given_up(self, argv: Sequence[str], timeout: float) -> DeadlineError:
        """Cut the power of a guest that hangs; return the error that says so."""
        self.power_off()
        return DeadlineError(
            f"{shlex.join(argv)[:200]} did not end within {timeout:g} s and the guest did not "
            f"kill it: guest ended; end of its console:\n{tail(self.spec.serial)}"
        )

    def answers(self, patience: float = 20) -> bool:
        """Tell whether it runs a command within so many seconds; a guest that hangs is ended."""
        try:
            return self.run("true", check=False, timeout=patience).status == 0
        except LabError:
            return False

    def power_off(self) -> None:
        """Cut the power: nothing is written or unmounted."""
        if self._master:
            ssh.close_master(self.folder, self._master)
            self._master = None
        self.running.kill()

    def reboot(self) -> None:
        """Cut the power and boot again; pools on the disk image survive, those in memory do not.

        The configuration file of `zfs_settings` stays valid, the ssh port in it may change.
        """
        shared = self._master is not None
        self.power_off()
        self.running = engine.start(self.spec, owned=True)
        ssh.write_config(self.folder, self.running.port, self.spec.product.key)
        if shared:
            self.connect()

    reset = reboot


@contextmanager
def boot(branch: str = LATEST, memory: int = MEMORY, disk: Path | None = None) -> Iterator[Guest]:
    """Boot a guest (building it first if need be) and lend it; it ends with the context.

    `memory` is in MiB; a missing `disk` image is created with 1 GiB. Raises LabError.
    """
    guest = launch(branch, memory, disk, owned=True)
    try:
        guest.connect()
        yield guest
    finally:
        guest.power_off()
        shutil.rmtree(guest.folder, ignore_errors=True)


def launch(branch: str, memory: int, disk: Path | None, *, owned: bool) -> Guest:
    """Start a guest; the caller ends it, unless it is owned and dies with us. Raises LabError."""
    product = ensure(branch)
    hosttools.need(hosttools.BOOT | (hosttools.EMULATOR if product.emulated else {}))
    if disk and not disk.exists():
        make_disk(disk)
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=FOLDER_PREFIX))
    (folder / "owner").write_text(str(os.getpid()))
    spec = Spec(product, memory, disk, folder)
    try:
        running = engine.start(spec, owned=owned)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if not owned:
        (folder / "owner").write_text(str(running.pid))
    ssh.write_config(folder, running.port, product.key)
    return Guest(spec, running)


def _sweep() -> None:
    """Remove the folders of guests whose owner was killed."""
    for owner in Path(tempfile.gettempdir()).glob(f"{FOLDER_PREFIX}*/owner"):
        try:
            pid = int(owner.read_text())
        except (OSError, ValueError):
            continue  # being made or removed right now
        if not Path(f"/proc/{pid}").exists():
            shutil.rmtree(owner.parent, ignore_errors=True)
