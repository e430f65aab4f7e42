"""The one door to programs on the host: argument lists only, never a shell."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab.errors import CommandError, LabError

LAST_LINES = 25


def say(text: str) -> None:
    """Tell the person at the terminal what happens; standard output stays for results."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def end_all_on_sigterm() -> None:
    """From now on SIGTERM, as timeout(1) sends it, ends what we run, too; our status is 143."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def tail(path: Path, lines: int = LAST_LINES) -> str:
    """Return the last lines of a log, or a note that there is none."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return "(no log)"
    return "\n".join(text.splitlines()[-lines:])


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout: float = 600,
) -> str:
    """Run a program to its end and return its standard output.

    `env` is added to our environment; `timeout` is in seconds.
    Raises CommandError with the program's last words when it fails, LabError with them when it does
    not end.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            cwd=cwd,
            env=_environment(env),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )
    except OSError as error:
        raise LabError(f"cannot start {words[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        what = f"{' '.join(words)} did not end within {timeout:.0f} s"
        # Bytes, whatever was asked for.
        out, err = (
            bytes(said or b"").decode(errors="replace") for said in (error.stdout, error.stderr)
        )
        raise LabError(f"{what}\n{_last_words(out, err)}") from error
    if done.returncode:
        told = _last_words(done.stdout, done.stderr)
        raise CommandError(f"{' '.join(words)}: status {done.returncode}\n{told}")
    return done.stdout


def _last_words(out: str, err: str) -> str:
    """Errors last: they must not be lost to what was printed."""
    return "\n".join((out + err).splitlines()[-LAST_LINES:])


def run_logged(
    argv: Sequence[str | Path],
    log: Path,
    *,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    timeout: float,
) -> None:
    """Run a talkative program, appending all it says to `log`.

    Raises LabError that names the log and shows its last lines; says so, too, if we are ended.
    """
    words = [str(word) for word in argv]
    with log.open("a") as out:
        print("$", *words, file=out, flush=True)
        try:
            running = subprocess.Popen(
                words,
                cwd=cwd,
                env=_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that all of it can be ended
            )
        except OSError as error:
            raise LabError(f"cannot start {words[0]}: {error.strerror}") from error
    try:
        status = running.wait(timeout)
    except subprocess.TimeoutExpired as error:
        what = f"did not end within {timeout:.0f} s"
        raise LabError(f"{words[0]} {what}, see {log}:\n{tail(log)}") from error
    except (KeyboardInterrupt, SystemExit):
        say(f"ended while {words[0]} ran, see {log}:\n{tail(log)}")
        raise
    finally:
        _end_group(running)
    if status:
        raise LabError(f"{words[0]} failed (status {status}), see {log}:\n{tail(log)}")


def _end_group(running: subprocess.Popen[bytes]) -> None:
    """End it and all that it started, if there is any left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(running.pid, signal.SIGKILL)
    running.wait()


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    # C locale: we read what programs print.
    return {**os.environ, "LC_ALL": "C", **(extra or {})}
