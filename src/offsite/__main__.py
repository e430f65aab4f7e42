"""Where Python enters: the command ``offsite``, and ``python -m offsite``."""

import gc
import sys

from offsite.errors import StoppedError


def main() -> int:
    """Run the command line and return the exit status, also of a ^C while it is still loaded."""
    try:
        gc.disable()  # what is loaded stays: to look for garbage in it only takes time
        from offsite import cli  # noqa: PLC0415 - a good half second in which one may think again

        gc.freeze()
        gc.enable()
        return cli.main()
    except KeyboardInterrupt:
        print("ERROR: interrupted", file=sys.stderr)  # noqa: T201 - offsite.console may be missing
        return StoppedError.exit_status


if __name__ == "__main__":
    sys.exit(main())
