"""Build a guest: the one entry to this folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from lab import cache
from lab.process import run, say
from lab.recipe import hosttools, kernel, userland
from lab.recipe.initramfs import Keys, write_initramfs
from lab.recipe.release import Release, find


@dataclass(frozen=True)
class Product:
    """The finished files of one branch's guest."""

    folder: Path
    emulated: bool

    @property
    def version(self) -> str:
        """The OpenZFS version that Debian had of the branch, as ``2.3.2``."""
        return (self.folder / kernel.VERSION).read_text()

    @property
    def kernel(self) -> Path:
        """The kernel: an image for an emulator, or a program."""
        return self.folder / kernel.KERNEL

    @property
    def initramfs(self) -> Path:
        """Everything the guest has as files."""
        return self.folder / "initramfs.cpio"

    @property
    def network(self) -> Path:
        """The folder of slirp4netns with its libraries, where the guest is no emulator's."""
        return self.folder / userland.NETWORK

    @property
    def key(self) -> Path:
        """The private ssh key that opens the guest."""
        return self.folder / "id_ed25519"


def product(branch: str) -> Product:
    """Return where this recipe's product of a branch is, or will be."""
    release = find(branch)
    name = f"{branch}-{cache.recipe_hash(repr(release))}"
    return Product(cache.root() / "guests" / name, release.emulated)


def ensure(branch: str) -> Product:
    """Return the guest of an OpenZFS branch, building what is missing (5 to 17 minutes).

    Raises LabError that names the log when a step fails.
    """
    made = product(branch)
    if made.folder.is_dir():
        return made
    say(f"building the guest with OpenZFS {branch}, once (5 to 17 minutes on two cores)")
    with cache.building(branch) as scratch:
        if not made.folder.is_dir():  # another process may have built it while we waited
            release = find(branch)
            hosttools.need_for_build(emulated=release.emulated)
            _finish(_assemble(release, _ensure_kernel(release, scratch), scratch), made.folder)
    say(f"built {made.folder}")
    return made


def _ensure_kernel(release: Release, scratch: Path) -> Path:
    # Apart from the rest: a change of the initramfs must not cost a compilation.
    name = f"{release.branch}-{cache.recipe_hash(repr(release), kernel.SOURCES)}"
    final = cache.root() / "kernels" / name
    if not final.is_dir():
        log = cache.root() / f"build-{release.branch}.log"
        log.unlink(missing_ok=True)
        _finish(kernel.build(release, scratch, log), final)
    return final


def _assemble(release: Release, built: Path, scratch: Path) -> Path:
    tree = userland.unpack_userland(release, scratch)
    made = Product(scratch / "guest", release.emulated)
    made.folder.mkdir()
    keys = Keys(user=made.key.with_suffix(".pub"), host=scratch / "host_key")
    for path in (made.key, keys.host):
        run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "offsite-lab", "-f", path])
    say("writing the initramfs (a few seconds)")
    write_initramfs(made.initramfs, built, tree, keys)
    for name in (kernel.KERNEL, kernel.VERSION):
        shutil.copy(built / name, made.folder / name)
    if not release.emulated:
        userland.copy_network(tree, made.network)
    return made.folder


def _finish(scratch: Path, final: Path) -> None:
    final.parent.mkdir(exist_ok=True)
    scratch.rename(final)
    cache.prune(final)
