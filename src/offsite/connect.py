"""From settings to living things: the zfs at the other end, the remotes, the keys."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from typing import Literal

from offsite import budget, keys, sshsig
from offsite.age import Identities, Recipients
from offsite.config import Config, Provider
from offsite.errors import ConfigError, ProviderError
from offsite.ordered import crew_of, waking
from offsite.progress import Progress
from offsite.remote import RcloneRemote, Remote, Retry
from offsite.repository import Author, Keyring
from offsite.zfs import abilities
from offsite.zfs.command import Zfs


def zfs(config: Config, stop: threading.Event) -> Zfs:
    """The zfs command of the settings, here or over ssh; ``stop`` ends what it runs."""
    return Zfs(config.zfs_command, config.zfs_ssh, config.zfs_ssh_options, stop)


def zfs_to(
    do: Literal["send", "receive"], config: Config, progress: Progress, stop: threading.Event
) -> Zfs:
    """The zfs of the settings, looked at: what it lacks is told. ConfigError if it is too old."""
    found = zfs(config, stop)
    abilities.check(found)
    for line in abilities.lacking(found, do):
        progress.info(line)
    return found


def host(config: Config) -> str:
    """The label of the machine whose datasets these are."""
    if config.zfs_ssh is not None:
        return config.zfs_ssh.rpartition("@")[2]
    return socket.gethostname()


def author(config: Config) -> Author:
    """The public and signing keys a backup needs. Raises KeysError if any is missing."""
    recipients = keys.load_recipients(config)
    documents = Recipients((*recipients.lines, keys.catalog_recipient(config)))
    signing_key = keys.load_signing_key(config)
    public = sshsig.public_line(signing_key)
    keys.refuse_revoked(config, public)
    vouchers = keys.load_vouchers(config, public)
    return Author(recipients, documents, signing_key, tuple(one.mac for one in vouchers))


def catalog_keyring(config: Config) -> Keyring:
    """What opens documents here: the catalog key and the identity. Raises KeysError if neither.

    An identity behind a passphrase is asked for only where there is no catalog key. Both, because
    the backups of a machine that is gone were made with another catalog key.
    """
    catalog = keys.load_catalog(config)
    if catalog is None:
        return Keyring(keys.load_identities(config), keys.load_trust(config))
    if keys.identity_at_hand(config):
        catalog = Identities.of(catalog, keys.load_identities(config))
    return Keyring(catalog, keys.load_trust(config))


@contextmanager
def remotes(
    config: Config,
    providers: Sequence[Provider],
    stop: threading.Event,
    progress: Progress,
    retry: Retry | None = None,
) -> Iterator[tuple[list[Remote], dict[str, str]]]:
    """Start one rclone a provider, all at once: those that started, and why the others did not.

    Raises ProviderError, ConfigError if all the reasons are, or the only provider's own error, if
    none started.
    """

    def start(provider: Provider) -> RcloneRemote:
        return RcloneRemote.start(
            provider,
            rclone_config=config.rclone_config,
            rclone_flags=config.rclone_flags,
            stop=stop,
            on_retry=progress.retry,
            environ={**budget.rclone_settings(config), **config.environment, **os.environ},
            retry=retry,
        )

    with ExitStack() as stack:
        with crew_of(len(providers)) as crew:
            starts = [(provider.name, crew.submit(start, provider)) for provider in providers]
            wait([done for _, done in starts])  # the crew's end would cancel what has not begun
        for _, done in starts:
            if done.exception() is None:
                stack.callback(done.result().close)
        started: list[Remote] = []
        errors: dict[str, ProviderError | ConfigError] = {}
        for name, done in starts:
            try:
                started.append(done.result())
            except (ProviderError, ConfigError) as error:
                if len(providers) == 1:
                    raise
                errors[name] = error
                progress.dropped(name, str(error))
        failed = {name: str(error) for name, error in errors.items()}
        if not started:
            reasons = "; ".join(f"{name}: {why}" for name, why in failed.items())
            settings = all(isinstance(error, ConfigError) for error in errors.values())
            hint = next((error.hint for error in errors.values() if error.hint), None)
            kind = ConfigError if settings else ProviderError
            raise kind(f"no provider can be reached: {reasons}", hint=hint)
        # Whatever is asked of them, ^C ends it: a request to a silent server would last minutes.
        stack.enter_context(waking(stop, *(remote.close for remote in started)))
        yield started, failed
