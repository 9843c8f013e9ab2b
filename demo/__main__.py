"""`python -m demo`, which `make demo` calls: tells the story, cleans up whatever happens, and ends with an exit code.

It starts nothing by itself and shows nothing but why it ended.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import signal
import sys

from demo.story import DemoFailed, tell

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Someone wants it to end; a BaseException, so that it unwinds everything like KeyboardInterrupt."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def interrupt(number: int, frame: object) -> None:
    """Unwind once; further signals would only disturb the cleaning up."""
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Interrupted(number)


def main() -> int:
    """Return 0 if every published event was landed once and in order, else 1, and 128 + n after signal n."""
    parser = argparse.ArgumentParser(
        prog="python -m demo",
        description="Capture live traffic of an emulated org into Azurite, and count what landed.",
    )
    parser.add_argument(
        "--seconds", type=float, default=20.0, help="how long to capture in all, at least 6 (default: 20)"
    )
    parser.add_argument(
        "--rate", type=float, default=40.0, help="events per second on all channels together (default: 40)"
    )
    options = parser.parse_args()
    if options.seconds < 6 or options.rate <= 0:
        parser.error("--seconds must be 6 or more, --rate more than 0")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
    for number in SIGNALS:
        signal.signal(number, interrupt)
    try:
        tell(options.seconds, options.rate)
    except DemoFailed as error:
        print(f"\nFAILED  {error}", file=sys.stderr)
        return 1
    except Interrupted as error:
        with contextlib.suppress(BrokenPipeError):
            print("\nInterrupted. Everything that was started is stopped.", file=sys.stderr)
        return 128 + error.number
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads on: no complaint at exit either
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
