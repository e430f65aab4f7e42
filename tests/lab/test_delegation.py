"""A user who is not root, with the rights that setup.sh gives by zfs allow, and no others."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lab.world import World

SETUP = Path(__file__).parents[2] / "setup.sh"
COMMAND = "/tmp/zfs-as-alice"
# As udev does it elsewhere, everybody may open /dev/zfs; what he may do there zfs decides.
ALICE = f"""
chmod 666 /dev/zfs
grep -q ^alice: /etc/passwd || echo 'alice:x:1000:1000::/tmp:/bin/sh' >> /etc/passwd
cat > {COMMAND} << 'END'
#!/bin/sh
exec su -s /bin/sh -- alice -c 'PATH=/usr/sbin:/sbin:/usr/bin:/bin exec zfs "$@"' zfs "$@"
END
chmod 755 {COMMAND}
"""


def test_what_setup_allows_is_enough_for_backups_and_restores(world: World, pool: str) -> None:
    if not world.machine.zfs_settings():
        pytest.skip("OpenZFS is this machine's own: it gets no new user")
    (allowed,) = re.findall(r"^permissions=(\S+)$", SETUP.read_text(), re.MULTILINE)
    data, target = f"{pool}/data", f"{pool}/back"
    create = f"zfs create -o org:note=kept {data}"
    world.machine.script(f"{ALICE}\nzfs allow -u alice {allowed} {pool}\n{create}")
    world.fill(data, noise=1)
    assert world.machine.run(COMMAND, "destroy", data, check=False).status != 0
    full = world.offsite("--backup", f"{data}@full", "--json", ZFS_COMMAND=COMMAND).json["backup"]
    world.machine.script(f"cd /{data}; echo more > more; rm noise")
    more = world.offsite("--backup", f"{data}@more", "--json", ZFS_COMMAND=COMMAND).json["backup"]
    assert [full["type"], more["type"]] == ["full", "incremental"]
    world.offsite("--restore", data, "--as", target, ZFS_COMMAND=COMMAND)
    assert world.facts(target) == world.facts(data)
    get = ("zfs", "get", "-Ho", "value", "org:note,offsite:restoring", target)
    assert world.machine.run(*get).stdout == "kept\n-\n"
    assert "#offsite-" in world.machine.run("zfs", "list", "-t", "bookmark", "-r", data).stdout
    assert world.machine.run("zfs", "holds", f"{data}@more").stdout.count("offsite") == 0
