"""Shows a text again and again: redrawn in place on a terminal, as plain blocks elsewhere.

For `status --watch`. Ends in order on SIGINT and SIGTERM. What is shown comes from the caller.
"""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable
from math import isfinite

from cryptometer.errors import ConfigurationError

EVERY_S = 2.0
_ENDS = (signal.SIGINT, signal.SIGTERM)
_HOME, _TO_LINE_END, _TO_SCREEN_END = "\x1b[H", "\x1b[K", "\x1b[J"


def add_watch(parser: argparse.ArgumentParser) -> None:
    """Gives a command the option `--watch [SECONDS]`; without it `watch` is None."""
    parser.add_argument(
        "--watch",
        type=_interval,
        nargs="?",
        const=EVERY_S,
        metavar="SECONDS",
        help=f"show it again every so many seconds ({EVERY_S:g}) until Ctrl-C",
    )


def show(describe: Callable[[], str], every_s: float | None = None) -> int:
    """Shows what `describe` returns, once, or every so many seconds until the program is told to
    end; returns the exit code.

    The first time all that `describe` raises is passed on. Later a file that cannot be read at a
    moment (the running program has just replaced it) is shown as such, and looked at again.
    """
    if every_s is None:
        sys.stdout.write(f"{describe()}\n")
        return 0
    screen = _Terminal() if _is_terminal() else _Blocks()
    # Blocked, not handled: a signal is taken between two looks, and nowhere else.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        text = describe()
        while True:
            screen.draw(text)
            if signal.sigtimedwait(_ENDS, every_s) is not None:
                return 0
            text = _look_again(describe)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _look_again(describe: Callable[[], str]) -> str:
    try:
        return describe()
    except (OSError, ConfigurationError) as error:
        return f"cannot look now: {error}"


class _Blocks:
    """One block of lines each time, with an empty line between two."""

    def __init__(self) -> None:
        self._between = ""

    def draw(self, text: str) -> None:
        sys.stdout.write(f"{self._between}{text}\n")
        sys.stdout.flush()
        self._between = "\n"


class _Terminal:
    """Each time over what was drawn before, without a flicker; what does not fit is cut off."""

    def draw(self, text: str) -> None:
        columns, rows = shutil.get_terminal_size()
        lines = [_printable(line)[: max(1, columns)] for line in text.split("\n")]
        shown = f"{_TO_LINE_END}\n".join(lines[: max(1, rows - 1)])
        sys.stdout.write(f"{_HOME}{shown}{_TO_LINE_END}\n{_TO_SCREEN_END}")
        sys.stdout.flush()


def _is_terminal() -> bool:
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"


def _printable(line: str) -> str:
    # A name from outside must not move the cursor.
    return "".join(sign if sign.isprintable() else "�" for sign in line)


def _interval(text: str) -> float:
    seconds = float(text)
    if not (isfinite(seconds) and 0.1 <= seconds <= 86_400):
        raise argparse.ArgumentTypeError("from 0.1 seconds to a day")
    return seconds
