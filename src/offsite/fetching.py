"""A restore's providers, keys and workers, and the chain of the backup that it wants."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

from offsite import budget, connect, keys, links, pipeline
from offsite.catalog import Catalog
from offsite.config import Config, Provider
from offsite.links import Link, Wanted
from offsite.pipeline import Engine, OpenJob
from offsite.progress import Progress
from offsite.remote import Remote, Retry
from offsite.repository import Keyring


@dataclass(frozen=True)
class Depot:
    """The providers at hand, what is ``known`` of them, and an engine that opens it."""

    engine: Engine[OpenJob, None]
    remotes: Sequence[Remote]
    keyring: Keyring
    known: Catalog

    @contextmanager
    def chain(
        self, wanted: Wanted, halt: threading.Event, progress: Progress
    ) -> Iterator[tuple[Link, ...]]:
        """The backups to restore, full one first, with connections that ``halt`` ends."""
        with ExitStack() as stack:
            own = [remote.share(halt, progress.retry) for remote in self.remotes]
            for remote in own:
                stack.callback(remote.close)
            yield links.find(wanted, self.known, own, self.keyring, progress)


@contextmanager
def opened(
    config: Config, wanted: Wanted, stop: threading.Event, progress: Progress
) -> Iterator[Depot]:
    """The providers that ``wanted`` names."""
    providers = chosen(config, wanted)
    identities = keys.load_identities(config)
    keyring = Keyring(identities, keys.load_trust(config, wanted.trust))
    with (
        pipeline.opening(budget.share(config, len(providers)), identities, stop) as engine,
        connect.remotes(config, providers, stop, progress, patience(providers)) as (remotes, lost),
    ):
        known = links.read(remotes, keyring, progress)
        known = replace(known, problems={**lost, **known.problems})
        yield Depot(engine, remotes, keyring, known)


@contextmanager
def reading(
    config: Config, wanted: Wanted, stop: threading.Event, progress: Progress
) -> Iterator[tuple[Engine[OpenJob, None], tuple[Link, ...]]]:
    """The backups to restore, full one first, and what opens them; providers are at hand inside."""
    with (
        opened(config, wanted, stop, progress) as depot,
        depot.chain(wanted, stop, progress) as chain,
    ):
        yield depot.engine, chain


def chosen(config: Config, wanted: Wanted) -> tuple[Provider, ...]:
    """The providers that it names. Raises ConfigError, UsageError."""
    return config.select("all" if wanted.provider == "auto" else wanted.provider)


def patience(providers: Sequence[Provider]) -> Retry:
    """With another provider at hand, try that one rather than this one six times."""
    return Retry() if len(providers) == 1 else Retry(tries=2)
