"""`cryptometer demo`: a whole community on one machine, each part in a process of its own."""

import argparse
from pathlib import Path

from cryptometer.errors import ConfigurationError


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `demo`. What it needs beyond the other commands is imported when it runs."""
    parser = subparsers.add_parser(
        "demo",
        help="a whole community on this machine, from pulse to audited block",
        description="Starts a broker, simulated meters whose pulses come over pseudo-terminals,"
        " their firmware and a gateway, each a process of its own, on a clock that runs faster."
        " After some blocks it stops the meters, waits for the last block, audits the ledger and"
        " compares. Exit code 0: every pulse emitted stands in a block, once.",
    )
    parser.add_argument("--meters", type=int, default=2, metavar="N", help="default: 2")
    parser.add_argument("--blocks", type=int, default=3, metavar="N", help="default: 3")
    parser.add_argument(
        "--speed", type=int, default=45, metavar="X", help="default: 45, a step in 20 s"
    )
    parser.add_argument(
        "--broker",
        choices=("auto", "mosquitto", "embedded"),
        default="auto",
        help="default: auto, Mosquitto where it is installed, and otherwise the embedded one",
    )
    parser.add_argument(
        "--keep",
        type=Path,
        metavar="DIR",
        help="an empty folder for all of it (default: a new one among the temporary files)",
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    try:
        from cryptometer.commands.demo.command import demonstrate  # noqa: PLC0415 - see `add_commands`
    except ModuleNotFoundError as missing:
        raise ConfigurationError(
            f"the demonstration needs {missing.name}: pip install 'cryptometer[demo]'"
        ) from None
    return demonstrate(arguments)
