"""Manifests as the providers gave them, kept here so that no run fetches them twice.

What is kept is the sealed object. It is opened, and its signature looked at, every time: who can
write here can make nobody believe anything, and who can read here learns no more than a provider.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from offsite.config import Provider


@dataclass(frozen=True)
class Shelf:
    """The manifests that one provider is known to have, a file for each id. Losing it costs time.

    Nothing here raises: a disk that is full or read-only keeps nothing.
    """

    folder: Path

    def read(self, backup_id: str) -> bytes | None:
        """The sealed manifest, if it was kept."""
        with suppress(OSError):
            return (self.folder / backup_id).read_bytes()
        return None

    def keep(self, backup_id: str, sealed: bytes) -> None:
        with suppress(OSError):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            part = self.folder / f"{backup_id}.part"
            part.write_bytes(sealed)
            part.rename(self.folder / backup_id)

    def drop_all_but(self, ids: Collection[str]) -> None:
        """The provider has no others any more."""
        with suppress(OSError):
            for path in self.folder.iterdir():
                if path.name not in ids:
                    path.unlink(missing_ok=True)


def shelf(provider: Provider) -> Shelf:
    """For this name and this place: who lets the name mean another bucket begins anew."""
    which = hashlib.sha256(f"{provider.name}\0{provider.remote}".encode()).hexdigest()[:16]
    folder = platformdirs.user_cache_path("offsite", appauthor=False) / "manifests"
    return Shelf(folder / which)
