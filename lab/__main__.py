"""`python3 -m lab`: build, boot and use the lab's guests from the command line."""

import argparse
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from lab import daemon
from lab.errors import LabError
from lab.guest import MEMORY, Guest, boot
from lab.host import usable
from lab.process import end_all_on_sigterm, say
from lab.recipe.build import ensure, product
from lab.recipe.release import RELEASES
from lab.ssh import config

VERSIONS = tuple(release.branch for release in RELEASES)


class Options(argparse.Namespace):
    """The command line, typed."""

    verb: str
    zfs: str
    memory: int
    disk: Path | None
    timeout: float
    argv: list[str]


def main() -> int:
    """Run one verb; return the exit status: 1 for a known error, a command's own for `run`."""
    options = _parser().parse_args(namespace=Options())
    end_all_on_sigterm()
    verbs = {
        "build": _build,
        "boot": _boot,
        "stop": _stop,
        "run": _run,
        "status": _status,
        "own": _own,
    }
    try:
        return verbs[options.verb](options)
    except LabError as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m lab", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--zfs", choices=VERSIONS, default=VERSIONS[0], help="OpenZFS version")
    sized = argparse.ArgumentParser(add_help=False)
    sized.add_argument("--memory", type=int, default=MEMORY, metavar="MIB", help="guest memory")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("build", parents=[common], help="build the guest (once, 5 to 17 minutes)")
    text = "boot a guest, print how to reach it, keep it until `stop`"
    booting = verbs.add_parser("boot", parents=[common, sized], help=text)
    booting.add_argument("--disk", type=Path, help="disk image; made with 1 GiB if missing")
    verbs.add_parser("stop", parents=[common], help="end the guest that `boot` left running")
    text = "run a command on the running guest, or on one booted for it"
    running = verbs.add_parser("run", parents=[common, sized], help=text)
    running.add_argument("--timeout", type=float, default=120, metavar="S", help="in seconds")
    running.add_argument("argv", nargs="+", metavar="CMD", help="after `--`")
    verbs.add_parser("status", help="show what is built and what runs")
    verbs.add_parser("own", help="end with 0 if the host itself has OpenZFS for tests, else 1")
    return parser


def _build(options: Options) -> int:
    print(ensure(options.zfs).folder)
    return 0


def _boot(options: Options) -> int:
    guest = daemon.start(options.zfs, options.memory, options.disk)
    print(f"ssh -F {config(guest.folder)} root@127.0.0.1")
    for name, value in guest.zfs_settings().items():
        print(f"{name}={value}")
    print(f"pid {guest.running.pid}, port {guest.running.port}, logs in {guest.folder}")
    return 0


def _stop(options: Options) -> int:
    if daemon.stop(options.zfs):
        say(f"the guest with OpenZFS {options.zfs} is ended")
    else:
        say(f"no guest with OpenZFS {options.zfs} runs")
    return 0


def _run(options: Options) -> int:
    running = daemon.attach(options.zfs)
    lent: AbstractContextManager[Guest] = (
        nullcontext(running) if running else boot(options.zfs, options.memory)
    )
    with lent as guest:
        done = guest.run(*options.argv, check=False, timeout=options.timeout)
    sys.stdout.write(done.stdout)
    sys.stderr.write(done.stderr)
    return done.status


def _status(_options: Options) -> int:
    for version in VERSIONS:
        folder = product(version).folder
        guest = daemon.attach(version)
        running = f"runs, pid {guest.running.pid}, {config(guest.folder)}" if guest else "stopped"
        print(f"{version}\t{folder if folder.is_dir() else 'not built'}\t{running}")
    return 0


def _own(_options: Options) -> int:
    return 0 if usable() else 1


if __name__ == "__main__":
    sys.exit(main())
