"""For which providers a run that left others out made a bookmark of ours.

A later run that reads just these may destroy it. What is not told here (a run to all providers made
it, or another machine) stays until a run reads all; so does everything if this gets lost.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import platformdirs


def note(mark: str, providers: Collection[str], *, is_new: bool) -> None:
    """These get what the bookmark is made for, or, if it is not new, was made for.

    ``mark`` is the short id in its name. Raises nothing: see above.
    """
    known = recall(mark)
    if known is None and not is_new:
        return
    forget(mark)  # first: half of the names would be worse than none
    names = sorted((known or frozenset()).union(providers))
    with suppress(OSError):
        _path(mark).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _path(mark).write_text("".join(f"{name}\n" for name in names))


def recall(mark: str) -> frozenset[str] | None:
    """None if it is not known."""
    try:
        lines = _path(mark).read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return frozenset(lines[:-1]) or None


def forget(mark: str) -> None:
    with suppress(OSError):
        _path(mark).unlink(missing_ok=True)


def _path(mark: str) -> Path:
    return platformdirs.user_state_path("offsite", appauthor=False) / "marks" / mark
