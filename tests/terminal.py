"""A program on a terminal of its own, with somebody who types."""

from __future__ import annotations

import contextlib
import os
import pty
import select


def on_terminal(argv: list[str], answers: list[bytes]) -> tuple[int, str]:
    """Run a program on a terminal, typing an answer at each prompt; its status and output."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvp(argv[0], argv)  # noqa: S606 - no shell is what we want
    output = bytearray()
    with contextlib.suppress(OSError):  # EIO: the program has closed its terminal
        while select.select([terminal], [], [], 120)[0] and (data := os.read(terminal, 4096)):
            output += data
            if answers and output.rstrip().endswith((b":", b"]")):
                output += b"\n"
                os.write(terminal, answers.pop(0) + b"\n")
    os.close(terminal)  # whoever still waits for an answer gets SIGHUP
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), output.decode()
