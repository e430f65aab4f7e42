"""One dataset's part of a run: what the user wants of it, and what all steps need to know."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from offsite import connect, tasks
from offsite.bases import Policy
from offsite.catalog import Backup
from offsite.chain import Names
from offsite.config import Config
from offsite.elsewhere import NOWHERE, Elsewhere
from offsite.manifest import SetFacts, Unchanged
from offsite.marks import Reach
from offsite.progress import Progress
from offsite.remote import Remote
from offsite.repository import Author
from offsite.standing import Standing
from offsite.subject import sends_raw
from offsite.tasks import Source, Task
from offsite.zfs import abilities
from offsite.zfs.command import Zfs
from offsite.zfs.datasets import Dataset

IN_FLIGHT = 4  # requests at a time to each provider; the budget counts with so many


@dataclass(frozen=True)
class Wish:
    """What the user wants of every dataset. ``base`` with @ or #; ``anew``: a snapshot that is not
    there yet (--as); the rest are options' names."""

    anew: bool = False
    restart: bool = False
    full: bool = False
    base: str | None = None
    intermediate: bool = False


@dataclass(frozen=True)
class Member:
    """What is to be done with one dataset.

    ``everywhere``: all providers of the settings. ``in_flight``: requests at a time to each.
    ``set``: it is one of those, at a moment that was not the user's choice if ``fresh``; its
    manifest is to tell which of the others are ``unchanged``. ``same``: see alike.guids.
    ``elsewhere``: what the providers have that the run leaves out.
    """

    config: Config
    wish: Wish
    zfs: Zfs
    dataset: Dataset
    author: Author
    names: Names
    everywhere: frozenset[str]
    progress: Progress
    stop: threading.Event
    set: SetFacts | None = None
    in_flight: int = IN_FLIGHT
    fresh: bool = False
    elsewhere: Elsewhere = NOWHERE
    unchanged: tuple[Unchanged, ...] = ()
    same: Mapping[int, frozenset[int]] = field(default_factory=dict)

    @property
    def policy(self) -> Policy:
        return Policy(
            recipients=self.author.documents.fingerprint,
            raw=sends_raw(self.dataset, self.config),
            full=self.wish.full,
            named=self.wish.base,
            full_every=self.config.full_every,
            max_chain=self.config.max_chain,
            lacks=abilities.missing_flags(self.zfs),
        )

    @property
    def named(self) -> bool:
        """Whether it was the user who named the snapshot."""
        return self.names.given and not self.fresh

    def divide(self, known: Standing, source: Source, remotes: Sequence[Remote]) -> list[Task]:
        source = replace(source, same=self.same)
        return tasks.divide(known, source, remotes, self.policy, self.progress)

    def reach(self, remotes: Sequence[Remote]) -> Reach:
        """These of all providers, as bookmarks and holds tell of them."""
        names = tuple(remote.name for remote in remotes)
        return Reach(connect.host(self.config), names, self.everywhere)

    def standing(self, backups: Sequence[Backup]) -> Standing:
        known = self.elsewhere.corrected(backups)
        return Standing.of(known, self.dataset, self.author.documents.fingerprint)
