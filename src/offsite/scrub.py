"""No secret in what is shown: command lines, and what other programs say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

SECRETIVE = r"[\w-]*(?:secret|token|pass|credential|signature|\bsig\b|key)[\w-]*"
_LONGEST = 400  # characters of a command line: a resume token alone may have 2000
_SCRUB = (
    (r"(https?://[^\s?\"]+)\?[^\s\"]+", r"\1"),  # a query may be signed
    (r"://[^/\s@\"]+@", "://"),
    (rf"({SECRETIVE})(\"?\s*=\s*\"?|\"\s*:\s*\")[^\s&,;\"]+", r"\1\2***"),
    (r"(authorization|bearer)(:? )(?:(?:bearer|basic) )?\S+", r"\1\2***"),
)
_HEADER = re.compile(r"(--[\w-]*headers?(?:-\w+)?)(?:=|$)")


def scrubbed(text: str) -> str:
    """The text without what looks like a secret."""
    for pattern, replacement in _SCRUB:
        text = re.sub(pattern, replacement, text, flags=re.IGNORECASE)
    return text


def command_line(argv: Sequence[str]) -> str:
    """As one would type it; what a header says is nobody's business, and secrets neither."""
    shown: list[str] = []
    hidden = False  # this word is the value of the one before
    for word in argv:
        header = _HEADER.match(word)
        if header and not hidden:
            hidden = "=" not in word
            shown.append(word if hidden else f"{header[1]}=***")
        else:
            shown.append("***" if hidden else scrubbed(word))
            hidden = False
    line = shlex.join(shown)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"
