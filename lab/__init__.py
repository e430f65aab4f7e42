"""The lab: a small machine with real OpenZFS, built and driven by this package.

from lab import boot
with boot("2.3") as guest:
    guest.make_pool("tank")
    print(guest.run("zfs", "list").stdout)
"""

from lab.errors import CommandError, DeadlineError, GuestLostError, LabError
from lab.guest import Guest, boot
from lab.host import Host
from lab.machine import Completed, Machine

__all__ = [
    "CommandError",
    "Completed",
    "DeadlineError",
    "Guest",
    "GuestLostError",
    "Host",
    "LabError",
    "Machine",
    "boot",
]
