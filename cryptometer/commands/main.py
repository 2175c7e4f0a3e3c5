"""`cryptometer`: one program, one module for each command, imported when it is named."""

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module

from hal.program import add_version, run

COMMANDS = ("bound", "request", "authority", "verify", "audit", "equivocation", "inspect", "demo")
"""Each is a module of this package with `add_commands(subparsers)`, whose parsers set `run`."""

EXIT_MACHINE = 1  # the machine failed: a full disk, a file that may not be written


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A name may hold letters this terminal cannot show: escaped, and no failure.
        sys.stdout.reconfigure(errors="backslashreplace")
    chosen = _parser(words).parse_args(words)
    return run("cryptometer", lambda: int(chosen.run(chosen)), (OSError, EXIT_MACHINE))


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="cryptometer", description="From meter pulse to signed block, and back again."
    )
    add_version(parser)
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    # Only the named command's module: signing needs libraries that `bound` does without.
    named = [word for word in words[:1] if word in COMMANDS]
    for command in named or COMMANDS:
        import_module(f"cryptometer.commands.{command}").add_commands(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
