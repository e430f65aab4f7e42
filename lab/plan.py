"""What to boot, and how: the words between a guest's recipe, its engine and its keeper."""

from dataclasses import dataclass
from pathlib import Path

from lab.recipe.build import Product


@dataclass(frozen=True)
class Spec:
    """What to boot: the files, memory in MiB, a disk image or none, the folder for logs.

    ``patience``: seconds from the start to the first answer, many times what a free machine takes.
    """

    product: Product
    memory: int
    disk: Path | None
    folder: Path
    patience: float = 120

    @property
    def serial(self) -> Path:
        """What the guest said on its console."""
        return self.folder / "serial.log"


@dataclass(frozen=True)
class Plan:
    """Command lines of the guest and of the network that it needs, with the socket to await."""

    guest: list[str]
    network: list[str]
    socket: str
    memory_in: str
    """Where a User-Mode Linux kernel keeps the guest's memory, in a file without a name."""
