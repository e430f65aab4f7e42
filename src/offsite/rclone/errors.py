"""What rclone said went wrong: cleaned of secrets, told apart, with advice.

rclone answers a failed upload with a bare 500; the reason is on its stderr, one line per error, of
the form ``ERROR : <object>: <reason>`` (rclone: fs/log, cmd/serve/restic). Nothing in rclone's
interface says whether trying again can help, so the wording decides, and a wording that is not
known counts as passing.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from offsite.errors import ConfigError
from offsite.scrub import SECRETIVE, scrubbed

_LONGEST = 400  # characters of a reason
_SHORTEST_SECRET = 6  # shorter values would blot out ordinary words
_LEVEL = re.compile(
    r"^(?:(?:DEBUG|INFO|NOTICE|WARNING|ERROR|CRITICAL)\s*: |Error: |Fatal error: )+"
)
_WRAPPING = re.compile(r"(?:Post request (?:put|rcat) error|rc: \"[^\"]*\": error): ")
_NOISE = re.compile(
    r"exceeded maximum number of attempts, \d+, |"
    r"https response error StatusCode: 0, RequestID: , HostID: , |request send failed, "
)
# Go's durations, as in "try again after <time> (1h2m3.5s)", and plain seconds.
_TOLD_PAUSE = re.compile(
    r"(?:retry|try again).{0,60}?(?<![\w.])(?:(\d+)h)?(?:(\d+)m)?(\d+(?:\.\d+)?) ?s\b",
    re.IGNORECASE,
)
_SECRET_VARIABLE = re.compile(r"RCLONE_.*(?:PASS|SECRET|TOKEN|KEY|AUTH)", re.IGNORECASE)


@dataclass(frozen=True)
class _Fault:
    wording: re.Pattern[str]
    permanent: bool
    hint: str


def _fault(wording: str, *, permanent: bool, hint: str) -> _Fault:
    return _Fault(re.compile(wording, re.IGNORECASE), permanent, hint)


# The first that matches counts: throttling before the 403 that some providers dress it in, and what
# a wrong clock makes of requests and certificates before the tokens that run out.
_FAULTS = (
    _fault(
        r"certificate has expired or is not yet valid",
        permanent=True,
        hint="is this machine's clock right? If it is, the provider's certificate has run out",
    ),
    _fault(
        r"RequestTimeTooSkewed|RequestExpired|request has expired|date header too old|clock",
        permanent=True,
        hint="the clock of this machine is wrong: set it and try again",
    ),
    _fault(
        r"x509: ",
        permanent=True,
        hint="the provider's certificate is not trusted here: install ca-certificates, or correct"
        " the endpoint",
    ),
    _fault(
        r"too many open files",
        permanent=False,
        hint="this machine lets a process open too few files: raise the limit (ulimit -n)",
    ),
    _fault(
        r"rate.?limit|too ?many|slow ?down|throttl|\b(?:429|503)\b",
        permanent=False,
        hint="the provider asks for fewer requests: try later, or limit them with RCLONE_FLAGS",
    ),
    _fault(
        r"expired|\btoken.{0,20}invalid",
        permanent=False,
        hint="the provider's access token has run out: log in again with: rclone config reconnect",
    ),
    _fault(
        r"no space left|remaining disk space|quota|storage ?cap|insufficient ?storage|disk full"
        r"|\b507\b",
        permanent=True,
        hint="free space on the provider or raise its quota",
    ),
    _fault(
        r"NoSuchBucket|ContainerNotFound|bucket (?:does not|doesn't) exist|bucket not found",
        permanent=True,
        hint="create the bucket, or correct its name in config.env",
    ),
    _fault(
        r"\b40[13]\b|Access ?Denied|Forbidden|Unauthori[sz]ed|InvalidAccessKeyId|"
        r"SignatureDoesNotMatch|permission denied|invalid_grant|unable to authenticate|"
        r"read-only file system",
        permanent=True,
        hint="check the provider's credentials and that they may read, list and write there",
    ),
    _fault(
        r"is a file not a directory",
        permanent=True,
        hint="name a folder as the remote's path",
    ),
    _fault(
        r"no such host|name resolution|dial tcp|connection refused|unreachable|i/o timeout",
        permanent=False,
        hint="check the network and the provider's endpoint in rclone's configuration",
    ),
)


class Failure(Exception):  # noqa: N818 - not an error yet: it may be tried again
    """One failed try: why, whether another can help, and the pause rclone was told (seconds)."""

    def __init__(self, reason: str, *, permanent: bool | None = None) -> None:
        super().__init__(reason)
        fault = next((known for known in _FAULTS if known.wording.search(reason)), None)
        known_permanent = fault is not None and fault.permanent
        self.reason = reason
        self.permanent = known_permanent if permanent is None else permanent
        self.hint = fault.hint if fault else None
        told = _TOLD_PAUSE.search(reason)
        hours, minutes, seconds = map(float, told.groups("0")) if told else (0.0, 0.0, 0.0)
        self.pause = 3600 * hours + 60 * minutes + seconds


def known_secrets(environ: Mapping[str, str], remote: str) -> tuple[str, ...]:
    """Values in the environment and in a connection string that no message may show."""
    values = {value for name, value in environ.items() if _SECRET_VARIABLE.search(name)}
    if "," in remote:  # :sftp,host=…,pass=…:path
        values.update(re.findall(rf"{SECRETIVE}=['\"]?([^,:'\"]+)", remote, re.IGNORECASE))
    return tuple(
        sorted((value for value in values if len(value) >= _SHORTEST_SECRET), key=len, reverse=True)
    )


def clean(line: str, secrets: Collection[str]) -> str:
    """A line of rclone's, without its log level, its wrapping, and anything secret."""
    text = _NOISE.sub("", _WRAPPING.sub("", _LEVEL.sub("", line.strip())))
    for secret in secrets:
        text = text.replace(secret, "***")
    text = scrubbed(text)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def config_error(provider: str, reason: str, remotes: Collection[str]) -> ConfigError | None:
    """The ConfigError behind rclone's last words, if its configuration is what is wrong."""
    if match := re.search(r"didn't find section in config file \(\"(.*?)\"\)", reason):
        known = ", ".join(sorted(remotes)) or "none"
        return ConfigError(
            f"provider {provider}: rclone has no remote named {match[1]!r}",
            hint=f"rclone's configuration has: {known}; make one with: rclone config",
        )
    if re.search(r"unable to decrypt configuration|[Pp]assword.*config", reason):
        return ConfigError(
            f"provider {provider}: rclone's configuration is encrypted and cannot be opened",
            hint="set RCLONE_CONFIG_PASS, or RCLONE_PASSWORD_COMMAND",
        )
    if match := re.search(r"unknown (?:shorthand )?flag:.*|invalid argument .* for .*", reason):
        return ConfigError(
            f"RCLONE_FLAGS: {match[0]}", hint="correct RCLONE_FLAGS; see: rclone help flags"
        )
    if match := re.search(r"couldn't parse config item (\"\w+\" = \".*?\")", reason):
        return ConfigError(
            f"rclone does not take the setting {match[1]}",
            hint="correct that RCLONE_… variable, in the environment or in config.env",
        )
    return None
