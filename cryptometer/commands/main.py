"""`cryptometer`: one program, one module for each command, imported when it is named."""

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from cryptometer.errors import ConfigurationError, Rejected

COMMANDS = ("bound", "authority", "verify", "audit", "inspect", "demo")
"""Each is a module of this package with `add_commands(subparsers)`, whose parsers set `run`."""

EXIT_FAILED = 1  # the machine failed: a full disk, a file that may not be written
EXIT_REFUSED = 2  # what was given cannot work; argparse uses the same code


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name may hold letters this terminal cannot show: escaped, and no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    chosen = _parser(words).parse_args(words)
    try:
        code = int(chosen.run(chosen))
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Who reads (`| head`) has seen enough: the rest goes nowhere, also at the exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except (ConfigurationError, Rejected) as error:
        print(f"cryptometer: {error}", file=sys.stderr)
        return EXIT_REFUSED
    except OSError as error:
        print(f"cryptometer: {error}", file=sys.stderr)
        return EXIT_FAILED


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cryptometer", description="From meter pulse to signed block, and back again."
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    # Only the named command's module: signing needs libraries that `bound` does without.
    named = [word for word in words[:1] if word in COMMANDS]
    for command in named or COMMANDS:
        import_module(f"cryptometer.commands.{command}").add_commands(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
