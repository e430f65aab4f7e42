"""The one question that is asked, and only of somebody who sits at a terminal."""

from __future__ import annotations

import sys

from offsite import process
from offsite.errors import OffsiteError, UsageError
from offsite.figures import printable


def about_replacing(target: str) -> None:
    """Ask whether ``target`` shall be replaced. Raises OffsiteError if not.

    Who sends our output elsewhere does not sit there and wait for a question: UsageError.
    """
    at_terminal = all(one.isatty() for one in (sys.stdin, sys.stdout, sys.stderr))
    if not at_terminal or not process.is_foreground(sys.stdin.fileno()):
        raise UsageError(
            f"--replace: nobody is at a terminal to be asked about {target}; nothing was changed",
            hint=f"say it beforehand: --replace --yes (it is kept as {target}-before-restore-DATE)",
        )
    question = (
        f"A restored dataset takes the place of {target}, which is kept as"
        f" {target}-before-restore-DATE. Go on? [y/N] "
    )
    sys.stderr.write(printable(question))
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise OffsiteError(f"{target} is not replaced; nothing was changed")
