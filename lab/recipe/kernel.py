"""The kernel of a guest, with OpenZFS: a program, or Debian's own for an emulator."""

import shutil
from pathlib import Path

from lab.process import say
from lab.recipe import module, umlinux
from lab.recipe.packages import closure, open_archive, unpack, version_of
from lab.recipe.release import Release

# What the compiled kernels depend on.
SOURCES = ("kernel.py", "module.py", "packages.py", "uml.config", "umlinux.py")
KERNEL = "kernel"
VERSION = "version"

# In the order of their dependencies: the packages bring no modules.dep.
VIRTIO_MODULES = (
    "virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci",
    "virtio_blk", "failover", "net_failover", "virtio_net",
)  # fmt: skip


def build(release: Release, scratch: Path, log: Path) -> Path:
    """Return a folder with the kernel, the OpenZFS version, and modules in load order, if any."""
    out = scratch / "kernel"
    out.mkdir()
    tree = scratch / "kernel-tree"
    say("fetching kernel and OpenZFS sources (45 to 160 MB, 20 s and more)")
    archive = open_archive(scratch / "apt-module", release.suites)
    (out / VERSION).write_text(version_of(archive, "zfs-dkms", release.suite))
    unpack(archive, [f"zfs-dkms/{release.suite}"], tree)
    debian = open_archive(scratch / "apt-kernel", (release.kernel_suite,))
    if release.source:
        unpack(debian, [release.source], tree)
        shutil.copy(umlinux.compile_kernel(tree, log), out / KERNEL)
    else:
        headers = closure(debian, ["linux-headers-cloud-amd64"])
        image = closure(debian, ["linux-image-cloud-amd64"])
        wanted = [n for n in headers if n.startswith("linux-headers-6") or "kbuild" in n]
        wanted += [n for n in image if n.startswith("linux-image-6")]
        unpack(debian, wanted, tree)
        shutil.copy(next((tree / "boot").glob("vmlinuz-*")), out / KERNEL)
        modules = [next((tree / "lib/modules").rglob(f"{name}.ko")) for name in VIRTIO_MODULES]
        modules += module.compile_modules(tree, log)
        for number, path in enumerate(modules):
            shutil.copy(path, out / f"{number:02}-{path.name}")
    shutil.rmtree(tree)  # up to two gigabytes that the next step does not need
    return out
