"""Named places to store backups: the ``*_REMOTE`` settings and the names the user may type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from offsite import values
from offsite.envfile import Setting
from offsite.errors import ConfigError, UsageError

DEFAULT = "default"
_KEY = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,40})_REMOTE")
_RESERVED = frozenset({"all", "auto", DEFAULT})
_BACKBLAZE = ("backblaze", "bb")
_SCALEWAY = ("scaleway", "scw")


@dataclass(frozen=True)
class Provider:
    """``name`` is what the user types; ``remote`` is rclone's ``remote:path`` or ``/path``."""

    name: str
    remote: str


def provider_name(key: str) -> str | None:
    """The provider a setting defines: RCLONE_REMOTE is ``default``, NAME_REMOTE is ``name``.

    Other RCLONE_…_REMOTE are rclone's own settings.
    """
    if key == "RCLONE_REMOTE":
        return DEFAULT
    match = _KEY.fullmatch(key)
    return match[1].lower() if match and not key.startswith("RCLONE_") else None


def find_providers(
    settings: Iterable[Setting], home: Path
) -> tuple[tuple[Provider, ...], dict[str, str], list[str]]:
    """Providers in the order of the settings (``default`` first), aliases to them, and warnings.

    Raises ConfigError for a remote or a name that cannot be used.
    """
    by_name: dict[str, str] = {}
    by_remote: dict[str, str] = {}
    aliases: dict[str, str] = {}
    warnings: list[str] = []
    for setting in sorted(settings, key=lambda setting: setting.key != "RCLONE_REMOTE"):
        name = provider_name(setting.key)
        if name is None or not setting.value.strip():
            continue
        if name in by_name or (name in _RESERVED and setting.key != "RCLONE_REMOTE"):
            raise ConfigError(f"{setting.origin}: {setting.key}: the name {name} is taken")
        remote = _check_remote(setting, home)
        if remote in by_remote:
            aliases[name] = by_remote[remote]
            warnings.append(
                f"{setting.origin}: {setting.key}: the same place as {by_remote[remote]}; "
                "used once, under both names"
            )
            continue
        by_name[name] = remote
        by_remote[remote] = name
    _add_customary(by_name, aliases)
    return tuple(Provider(name, remote) for name, remote in by_name.items()), aliases, warnings


def select(
    names: str, providers: tuple[Provider, ...], aliases: Mapping[str, str]
) -> tuple[Provider, ...]:
    """The providers for ``all`` or ``a,b``: any case, aliases too, each once, in the order typed.

    Raises ConfigError if there is no provider at all, UsageError for an unknown name.
    """
    if not providers:
        raise ConfigError(
            "no storage provider is configured",
            hint='set RCLONE_REMOTE="remote:bucket/path" in ~/.config/offsite/config.env'
            " (./setup.sh writes a commented one)",
        )
    by_name = {provider.name: provider for provider in providers}
    chosen: dict[str, Provider] = {}
    for typed in names.split(","):
        name = typed.strip().lower().replace("-", "_")
        if name == "all":
            chosen |= by_name
            continue
        name = aliases.get(name, name)
        if name not in by_name:
            raise _unknown_provider(typed.strip(), [*by_name, *aliases])
        chosen[name] = by_name[name]
    return tuple(chosen.values())


def _check_remote(setting: Setting, home: Path) -> str:
    remote = values.expand_home(setting.value.strip(), home)
    if remote.startswith("-") or not (remote.startswith("/") or ":" in remote):
        raise ConfigError(
            f"{setting.origin}: {setting.key}: not a place rclone knows; "
            "allowed: remote:path, or an absolute path"
        )
    return remote if remote == "/" else remote.rstrip("/")


def _add_customary(by_name: Mapping[str, str], aliases: dict[str, str]) -> None:
    """The short names, and the older tool's name for its only provider."""
    known = {**{name: name for name in by_name}, **aliases}
    for family in (_BACKBLAZE, _SCALEWAY):
        owner = next((known[name] for name in family if name in known), None)
        if owner is None and family is _BACKBLAZE:
            owner = known.get(DEFAULT)
        if owner is not None:
            aliases.update({name: owner for name in family if name not in known})


def _unknown_provider(typed: str, known: list[str]) -> UsageError:
    near = difflib.get_close_matches(typed.lower(), known, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"unknown provider {typed!r}", hint=f"{guess}configured: {', '.join(sorted(set(known)))}"
    )
