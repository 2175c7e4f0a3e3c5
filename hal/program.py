"""How a program ends: what it tells people, and its exit code. Each command goes through here."""

import argparse
import os
import select
import sys
from collections.abc import Callable

from cryptometer import __version__
from cryptometer.errors import ConfigurationError, Rejected

EXIT_CONFIGURATION = 2  # what was given cannot work, and a person must act; argparse uses it too
EXIT_FAILED = 75  # EX_TEMPFAIL: the service manager starts us again, and recovery decides


def add_version(parser: argparse.ArgumentParser) -> None:
    """Gives a program the option `--version`."""
    said = f"{parser.prog} {__version__}"
    parser.add_argument("--version", action="version", version=said, help="say which this is")


def run(program: str, act: Callable[[], int], *ends: tuple[type[Exception], int]) -> int:
    """Does a command's work and returns the exit code.

    Args:
        program: its name, before every message.
        act: the work; returns an exit code.
        ends: exceptions that are told and not a fault of ours, besides the two kinds that every
            program knows, each with its exit code. The first that fits counts.
    """
    known = ((ConfigurationError, EXIT_CONFIGURATION), (Rejected, EXIT_CONFIGURATION), *ends)
    try:
        code = act()
        sys.stdout.flush()
        return code
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _is_output_closed():
            # Who reads (`| head`) has seen enough: the rest goes nowhere, also at the exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_FAILED
        found = next((code for kind, code in known if isinstance(error, kind)), None)
        if found is None:
            raise
        said = f"stopping: {error}" if found == EXIT_FAILED else str(error)
        if isinstance(error, PermissionError):
            said += f"; a service's files are its user's: sudo -u USER {program}"
        print(f"{program}: {said}", file=sys.stderr)  # noqa: T201 - a command line's last word
        return found


def _is_output_closed() -> bool:
    """Whether nobody reads standard output any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))
