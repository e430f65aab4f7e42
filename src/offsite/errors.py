"""Everything that can go wrong, and the exit status that tells it apart.

OffsiteError 1
├── UsageError 2          the command line cannot be carried out as typed
│   └── NoBackupError 2   no signed backup answers to what was typed
├── ConfigError 2         config.env, the environment, or a missing program
├── KeysError 2           a key is missing, unreadable, or readable by others
│   └── NoKeyError 2      none of the identities at hand opens this object
├── ZfsError 1            zfs said no, died, or ended early
├── ProviderError 1       a storage provider failed, after all retries
├── IntegrityError 1      stored bytes are not what was signed
├── LockedError 4         another offsite works on the same dataset and provider
└── StoppedError 130     SIGINT or SIGTERM

Status 3, some providers or datasets failed, is not an error's but a result's (cli).

Every message is one line that says what is wrong and what was kept; ``hint`` is one line that says
what to do next.
"""

from __future__ import annotations


class OffsiteError(Exception):
    """A failure that the user is told of in one line, without a traceback."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(OffsiteError):
    exit_status = 2


class NoBackupError(UsageError):
    pass


class ConfigError(OffsiteError):
    exit_status = 2


class KeysError(OffsiteError):
    exit_status = 2


class NoKeyError(KeysError):
    pass


class ZfsError(OffsiteError):
    pass


class ProviderError(OffsiteError):
    pass


class IntegrityError(OffsiteError):
    pass


class LockedError(OffsiteError):
    exit_status = 4


class StoppedError(OffsiteError):
    exit_status = 130
