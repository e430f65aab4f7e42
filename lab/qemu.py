"""A guest in an emulator: slower by ten and more, for the OpenZFS that cannot be built in."""

from lab.plan import Plan, Spec

CORES = 1  # a second one gains nothing, and two guests on two cores would wait for each other


def plan(spec: Spec, port: int) -> Plan:
    """Return the command line of a guest whose ssh server answers at this loopback port."""
    words = {
        # Not KVM: where the device exists inside a virtual machine, guests may hang.
        "-accel": "tcg,thread=multi",
        # Without what costs an emulator most, a fifth of its time: with ERMS the kernel clears and
        # copies byte by byte, LA57 is a fifth level of page tables, SMAP ends translated blocks.
        "-cpu": "max,erms=off,la57=off,smap=off,smep=off",
        "-smp": str(CORES),
        "-m": str(spec.memory),
        "-display": "none",
        "-serial": "stdio",
        "-netdev": f"user,id=n0,hostfwd=tcp:127.0.0.1:{port}-:22",
        "-device": "virtio-net-pci,netdev=n0,romfile=",
        "-kernel": str(spec.product.kernel),
        "-initrd": str(spec.product.initramfs),
        # norandmaps: else QEMU 7.2 translates every program anew each time it is started, which
        # makes a zfs command take three times as long.
        "-append": "console=ttyS0 panic=-1 quiet mitigations=off norandmaps",
    }
    if spec.disk:
        words["-drive"] = f"file={spec.disk},format=raw,if=virtio,cache=unsafe"
    options = [word for option in words.items() for word in option]
    qemu = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", *options]
    return Plan(qemu, [], "", str(spec.folder))
