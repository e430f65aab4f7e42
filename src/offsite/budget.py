"""How the one memory limit is spent: stream buffers, worker processes, rclone, ourselves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from offsite import seal
from offsite.config import Config
from offsite.errors import ConfigError

# Measured peaks (PSS), rounded up; bench/ prints what a run really took. rclone takes 70 MiB for S3
# and local folders, 176 for backends that buffer their uploads (Azure, Google); less where a tight
# limit lets it buffer no more than 32.
_MAIN = 64 << 20
_WORKER = 24 << 20
_RCLONE, _LEAN_RCLONE = 176 << 20, 104 << 20
_LEAN_SETTINGS = {"GOMEMLIMIT": "64MiB", "RCLONE_MAX_BUFFER_MEMORY": "32Mi"}
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Budget:
    """``workers`` processes and an arena of ``arena`` bytes for slots."""

    workers: int
    arena: int
    limit: int

    def pairs(self, pair: int) -> int:
        """How many pairs of a plain and a sealed slot fit, each of ``pair`` bytes.

        Raises ConfigError when not even one does.
        """
        if self.arena < pair:
            raise ConfigError(
                f"MEMORY_LIMIT ({self.limit >> 20}M) is too small for chunks of this size",
                hint=f"it takes at least {-(-(self.limit - self.arena + pair) >> 20)}M; or, for"
                " backups, a smaller SHARD_SIZE",
            )
        return self.arena // pair


def rclone_settings(config: Config) -> Mapping[str, str]:
    """What rclone's environment says of memory, on top of its defaults here."""
    return _LEAN_SETTINGS if config.is_tight else {}


def share(config: Config, providers: int) -> Budget:
    """Divide MEMORY_LIMIT between us, workers (a core each) and one rclone a provider.

    Many cores must not leave too little for the chunks: workers give way to two pairs of slots.
    Raises ConfigError if nothing is left for the chunks.
    """
    worker = _WORKER + seal.working_memory(config.chunk_size, config.compression)
    rclone = _LEAN_RCLONE if config.is_tight else _RCLONE
    room = config.memory_limit - _MAIN - providers * rclone
    most = min(config.memory_limit // 4, room - 2 * _pair(config.chunk_size)) // worker
    workers = max(min(len(os.sched_getaffinity(0)), _MOST_WORKERS, most), 1)
    arena = room - workers * worker
    if arena <= 0:
        raise ConfigError(
            f"MEMORY_LIMIT ({config.memory_limit >> 20}M) is too small for"
            f" {providers} {'provider' if providers == 1 else 'providers'}",
            hint=f"it takes more than {(config.memory_limit - arena) >> 20}M; or name fewer:"
            " --provider NAME",
        )
    return Budget(workers, arena, config.memory_limit)


def _pair(chunk_size: int) -> int:
    """About what a plain and a sealed slot take."""
    return 2 * chunk_size + (1 << 20)
