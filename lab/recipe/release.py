"""The OpenZFS branches that the lab can build, and where Debian keeps them."""

from dataclasses import dataclass

from lab.errors import LabError

LATEST = "2.3"


@dataclass(frozen=True)
class Release:
    """One OpenZFS branch: the suites to look in, the one that has it, the suite of the kernel.

    ``source`` names the package of the kernel's source, in which OpenZFS is built for a User-Mode
    Linux process. Without one it is built as modules of Debian's own kernel, for an emulator: what
    is older than 2.3 cannot be built in.
    """

    branch: str
    suites: tuple[str, ...]
    suite: str
    kernel_suite: str
    source: str | None = None

    @property
    def emulated(self) -> bool:
        """Whether the guest needs an emulator."""
        return self.source is None


RELEASES = (
    Release(
        branch="2.3",
        suites=("bookworm", "bookworm-backports"),
        suite="bookworm-backports",
        kernel_suite="trixie",
        source="linux-source-6.12",
    ),
    Release(
        branch="2.4",
        suites=("trixie", "trixie-backports"),
        suite="trixie-backports",
        kernel_suite="trixie",
        source="linux-source-6.12",
    ),
    Release(branch="2.1", suites=("bookworm",), suite="bookworm", kernel_suite="bookworm"),
)


def find(branch: str) -> Release:
    """Return the release of that branch; raises LabError that names the known ones."""
    for release in RELEASES:
        if release.branch == branch:
            return release
    known = ", ".join(release.branch for release in RELEASES)
    raise LabError(f"no recipe for OpenZFS {branch}; there are {known}")
