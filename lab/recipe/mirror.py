"""Find a Debian mirror without naming one: the host's own configuration knows it."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lab.errors import LabError
from lab.recipe import hosttools

APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")
DEBOOTSTRAP = Path("/usr/sbin/debootstrap")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def mirror() -> str:
    """Return the URI of a Debian archive.

    OFFSITE_LAB_MIRROR; else, on Debian, the archive that the host's apt uses; else the
    default of the debootstrap package. Raises LabError when none of them tells.
    """
    hosttools.need_file(KEYRING, "debian-archive-keyring")
    found = os.environ.get("OFFSITE_LAB_MIRROR") or _from_apt() or _from_debootstrap()
    if not found:
        raise LabError(
            "no Debian mirror found in the apt configuration or in debootstrap: "
            "set OFFSITE_LAB_MIRROR to the URI of one"
        )
    return found.rstrip("/")


def _from_apt() -> str | None:
    facts = dict(line.split("=", 1) for line in OS_RELEASE.read_text().splitlines() if "=" in line)
    if facts.get("ID") != "debian":
        return None
    codename = facts.get("VERSION_CODENAME", "sid").strip('"')
    for path in [APT / "sources.list", *sorted((APT / "sources.list.d").glob("*"))]:
        if not path.is_file():
            continue
        entries = {".list": one_line_entries, ".sources": deb822_entries}.get(path.suffix)
        if entries:
            for uri, suite in entries(path.read_text(errors="replace")):
                if suite == codename:
                    return uri
    return None


def one_line_entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield (URI, suite) of each `deb` line in the old format of sources.list(5)."""
    for line in text.splitlines():
        match = re.match(r"deb\s+(?:\[[^]]*\]\s+)?(\S+)\s+(\S+)", line.strip())
        if match:
            yield match[1], match[2]


def deb822_entries(text: str) -> Iterator[tuple[str, str]]:
    """Yield (URI, suite) of each enabled `deb` stanza in deb822 format."""
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    for stanza in re.split(r"\n\s*\n", "\n".join(lines)):
        joined = re.sub(r"\n[ \t]+", " ", stanza)
        fields = {
            name.strip().lower(): value.split()
            for name, colon, value in (line.partition(":") for line in joined.splitlines())
            if colon
        }
        if "deb" in fields.get("types", []) and fields.get("enabled") != ["no"]:
            for uri in fields.get("uris", []):
                for suite in fields.get("suites", []):
                    yield uri, suite


def _from_debootstrap() -> str | None:
    """Its default is Debian's own archive, also where it is Ubuntu's package; the scripts of other
    archives say so themselves."""
    hosttools.need_file(DEBOOTSTRAP, "debootstrap")
    match = re.search(r'^DEF_MIRROR="([^"$]+)"', DEBOOTSTRAP.read_text(), re.MULTILINE)
    return match[1] if match else None
