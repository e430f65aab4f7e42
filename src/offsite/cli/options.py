"""What a command line asks for, one frozen class per verb."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from offsite.console import Output
from offsite.properties import Which


@dataclass(frozen=True)
class Backup:
    """``snapshot`` without its @, ``base`` with its @ or #.

    ``bare``: the verb was guessed. ``recursive``: None if the user did not say. ``anew``: the
    snapshot is one that is not there yet.
    """

    dataset: str
    snapshot: str | None
    providers: str | None
    dry_run: bool
    restart: bool
    full: bool
    base: str | None
    intermediate: bool
    bare: bool
    recursive: bool | None = None
    exclude: tuple[str, ...] = ()
    jobs: int | None = None
    anew: bool = False


@dataclass(frozen=True)
class Restore:
    """``point`` without its @: a snapshot, ``latest``, ``latest-full`` or None.

    ``yes``: the user is not to be asked. ``moment``: ``at`` in words. ``file``: ``-`` is stdout.
    """

    dataset: str
    point: str | None
    target: str | None
    provider: str
    host: str | None
    trust: tuple[str, ...]
    dry_run: bool
    restart: bool
    bare: bool
    update: bool = False
    replace: bool = False
    yes: bool = False
    at: datetime | None = None
    moment: str = ""
    file: str | None = None
    properties: Which = "local"
    recursive: bool | None = None
    unsigned: bool = False


@dataclass(frozen=True)
class List:
    dataset: str | None
    providers: str | None
    host: str | None


@dataclass(frozen=True)
class Keys:
    action: str  # "init", "vouch", "show" or "check"


@dataclass(frozen=True)
class Help:
    """Something to print; nothing to do."""

    text: str


Command = Backup | Restore | List | Keys | Help


@dataclass(frozen=True)
class Options:
    command: Command
    output: Output
