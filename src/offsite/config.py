"""The settings: config.env and the environment, checked once, then never changed.

Later sources win key by key: /etc/offsite/config.env, ~/.config/offsite/config.env
(OFFSITE_CONFIG names one file instead of both), the environment. Of the environment only known
keys count, and of ``*_REMOTE`` only RCLONE, BACKBLAZE, SCALEWAY and names that the files already
have: a stray FOO_REMOTE must not become a place to upload to.
"""

from __future__ import annotations

import difflib
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from offsite import envfile, values
from offsite.envfile import Setting
from offsite.errors import ConfigError
from offsite.providers import Provider, find_providers, provider_name, select

__all__ = ["Config", "Provider", "load"]

SYSTEM_FILE = Path("/etc/offsite/config.env")
USER_FILE = Path(".config/offsite/config.env")  # under HOME

_CHUNK_SIZES = (values.MIB, 256 * values.MIB)
_MEMORY_LIMITS = (256 * values.MIB, 1 << 40)
_TIGHT = 512 * values.MIB  # a memory limit below which chunks are small, unless SHARD_SIZE says
_USUAL, _SMALL = 32 * values.MIB, 8 * values.MIB

_KNOWN = (
    "AGE_PRIVATE_KEY_FILE", "AGE_PUBLIC_KEY_FILE", "ALLOWED_SIGNERS_FILE", "CATALOG_KEY_FILE",
    "CHUNK_SIZE", "COMPRESSION", "FULL_EVERY", "MAX_CHAIN", "MEMORY_LIMIT", "RCLONE_CONFIG_PATH",
    "RCLONE_FLAGS", "SEND_COMPRESSED", "SEND_RAW", "SHARD_SIZE", "SIGNING_KEY_FILE", "ZFS_COMMAND",
    "ZFS_RETENTION_DAYS", "ZFS_SNAP_PREFIX", "ZFS_SSH", "ZFS_SSH_OPTIONS",
)  # fmt: skip
_REMOTES = ("RCLONE_REMOTE", "BACKBLAZE_REMOTE", "SCALEWAY_REMOTE")
_ALIASES = {"CHUNK_SIZE": "SHARD_SIZE"}
# What the older tool's config.env holds and nobody needs any more.
_OBSOLETE = (
    "B2_APPLICATION_KEY", "B2_BUCKET_NAME", "B2_KEY_ID", "BACKUP_LOG_FILE", "SCW_ACCESS_KEY",
    "SCW_BUCKET_NAME", "SCW_SECRET_KEY", "TEMP_DIR", "ZFS_POOL",
)  # fmt: skip
_SECRET = re.compile(r"PASS|SECRET|APPLICATION_KEY|TOKEN")

T = TypeVar("T")


@dataclass(frozen=True)
class Config:
    """Sizes in bytes; ``compression`` is a zstd level. ``full_every`` (days) and ``max_chain``
    (increments) bound a chain; ``send_compressed`` None: as the dataset suggests. ``environment``
    is what rclone gets on top of ours (it may hold RCLONE_CONFIG_PASS). ``warnings`` are lines to
    be shown once."""

    providers: tuple[Provider, ...]
    aliases: Mapping[str, str]
    rclone_config: Path | None
    rclone_flags: tuple[str, ...]
    recipients_file: Path
    identity_file: Path
    catalog_key_file: Path
    signing_key_file: Path
    allowed_signers_file: Path
    snap_prefix: str
    retention_days: int | None
    full_every: int | None
    max_chain: int | None
    send_raw: bool
    send_compressed: bool | None
    chunk_size: int
    memory_limit: int
    zfs_command: tuple[str, ...]
    zfs_ssh: str | None
    zfs_ssh_options: tuple[str, ...]
    compression: int
    environment: Mapping[str, str] = field(repr=False)
    warnings: tuple[str, ...]

    @property
    def is_tight(self) -> bool:
        """Whether memory is so scarce that rclone, too, gets less than it likes."""
        return self.memory_limit < _TIGHT

    def select(self, names: str) -> tuple[Provider, ...]:
        """The providers for ``all`` or ``a,b``: any case, aliases too, each once.

        Raises ConfigError if none is configured at all, UsageError for an unknown name.
        """
        return select(names, self.providers, self.aliases)


def home_of(environ: Mapping[str, str]) -> Path:
    """The user's home folder. Raises ConfigError if nobody knows one."""
    try:
        return Path(environ.get("HOME") or Path.home())
    except RuntimeError as error:  # no such user, as in containers
        raise ConfigError(
            "this user has no home folder", hint="set HOME to the folder that has .config/offsite"
        ) from error


def load(environ: Mapping[str, str]) -> Config:
    """Read the files and the environment. Raises ConfigError with ``file:line`` for a bad value.

    To have neither file nor provider is no error here: ``select`` says so when one is needed.
    """
    home = home_of(environ)
    settings, warnings = _read_files(environ, home)
    settings |= _from_environment(environ, settings)
    for setting in settings.values():
        values.check_plain(setting)
    providers, aliases, doubles = find_providers(settings.values(), home)
    own = home / ".config/offsite"
    chunk_size, memory_limit, oversized = _sizes(settings)

    def get(key: str, parse: Callable[[Setting], T], default: T) -> T:
        setting = settings.get(key)
        return parse(setting) if setting is not None and setting.value.strip() else default

    def path(key: str, default: Path) -> Path:
        return get(key, lambda setting: Path(values.expand_home(setting.value, home)), default)

    return Config(
        providers=providers,
        aliases=aliases,
        rclone_config=get(
            "RCLONE_CONFIG_PATH", lambda setting: values.existing(setting, home), None
        ),
        rclone_flags=get("RCLONE_FLAGS", values.words, ()),
        recipients_file=path("AGE_PUBLIC_KEY_FILE", home / ".config/age/zfs-backup.pub"),
        identity_file=path("AGE_PRIVATE_KEY_FILE", home / ".config/age/zfs-backup.txt"),
        catalog_key_file=path("CATALOG_KEY_FILE", own / "catalog.key"),
        signing_key_file=path("SIGNING_KEY_FILE", own / "signing.key"),
        allowed_signers_file=path("ALLOWED_SIGNERS_FILE", own / "allowed_signers"),
        snap_prefix=get("ZFS_SNAP_PREFIX", values.snap_prefix, "auto"),
        retention_days=get("ZFS_RETENTION_DAYS", values.days, None),
        full_every=get("FULL_EVERY", values.days, None),
        max_chain=get("MAX_CHAIN", values.count, None),
        send_raw=get("SEND_RAW", values.yes_or_no, True),
        send_compressed=get("SEND_COMPRESSED", values.yes_or_no, None),
        chunk_size=chunk_size,
        memory_limit=memory_limit,
        zfs_command=get("ZFS_COMMAND", values.words, ("zfs",)),
        zfs_ssh=get("ZFS_SSH", values.ssh_host, None),
        zfs_ssh_options=get("ZFS_SSH_OPTIONS", lambda setting: values.options(setting, home), ()),
        compression=get("COMPRESSION", values.level, values.LEVELS["default"]),
        environment={
            key: setting.value
            for key, setting in settings.items()
            if _is_rclones(key) and key not in environ
        },
        warnings=(*warnings, *doubles, *oversized),
    )


def _sizes(settings: Mapping[str, Setting]) -> tuple[int, int, list[str]]:
    """Of a chunk, of the memory limit; and what is to be told.

    The older tool's shards were files and its own example has 1G: its settings shall go on working.
    """
    memory = settings.get("MEMORY_LIMIT")
    limit = values.size(memory, *_MEMORY_LIMITS) if memory and memory.value.strip() else 1 << 30
    usual = _SMALL if limit < _TIGHT else _USUAL
    shard = settings.get("SHARD_SIZE")
    if shard is None or not shard.value.strip():
        return usual, limit, []
    least, most = _CHUNK_SIZES
    size = values.size(shard, least, most, below=1 << 40)
    if size <= most:
        return size, limit, []
    told = f"SHARD_SIZE: {shard.value} is more than {most >> 20}M, the most that a chunk may have"
    return usual, limit, [f"{shard.origin}: {told}; {usual >> 20}M is used"]


def _read_files(environ: Mapping[str, str], home: Path) -> tuple[dict[str, Setting], list[str]]:
    settings: dict[str, Setting] = {}
    warnings: list[str] = []
    for file in _files(environ, home):
        parsed = envfile.read(file, {**environ, "HOME": str(home)})  # systemd sets none
        warnings += parsed.warnings
        for setting in parsed.settings:
            if _is_known(setting.key):
                settings[_ALIASES.get(setting.key, setting.key)] = setting
                warnings += _misspelled(setting)
            elif setting.key not in _OBSOLETE:
                warnings.append(_unknown(setting))
        if _exposes_secret(file, parsed):
            warnings.append(f"{file}: holds a secret and is readable by others; chmod 600 it")
    return settings, warnings


def _files(environ: Mapping[str, str], home: Path) -> list[Path]:
    if named := environ.get("OFFSITE_CONFIG"):
        return [Path(values.expand_home(named, home))]
    return [file for file in (SYSTEM_FILE, home / USER_FILE) if os.access(file, os.F_OK)]


def _from_environment(
    environ: Mapping[str, str], settings: Mapping[str, Setting]
) -> dict[str, Setting]:
    wanted = {*_KNOWN, *_REMOTES, *(key for key in settings if provider_name(key))}
    return {
        _ALIASES.get(key, key): Setting(key, environ[key], "environment")
        for key in sorted(wanted & environ.keys())
    }


def _is_known(key: str) -> bool:
    return key in _KNOWN or provider_name(key) is not None or _is_rclones(key)


def _is_rclones(key: str) -> bool:
    """Settings that rclone itself reads from its environment, such as RCLONE_CONFIG_PASS."""
    return key.startswith("RCLONE_") and key not in _KNOWN and provider_name(key) is None


def _misspelled(setting: Setting) -> list[str]:
    """One for rclone that is almost one of ours."""
    near = difflib.get_close_matches(setting.key, (*_KNOWN, *_REMOTES), n=1, cutoff=0.9)
    if not near or not _is_rclones(setting.key):
        return []
    return [f"{setting.origin}: {setting.key}: left to rclone; did you mean {near[0]}?"]


def _unknown(setting: Setting) -> str:
    key = setting.key.upper()
    known = (key,) if provider_name(key) else (*_KNOWN, *_REMOTES)
    near = difflib.get_close_matches(key, known, n=1)
    guess = f"; did you mean {near[0]}?" if near else ""
    return f"{setting.origin}: {setting.key}: unknown key, ignored{guess}"


def _exposes_secret(file: Path, parsed: envfile.EnvFile) -> bool:
    holds = any(_SECRET.search(setting.key) and setting.value for setting in parsed.settings)
    return holds and bool(file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))
