"""`cryptometer verify`: checks, offline, the proof that a record or block stands in the ledger."""

import argparse
from pathlib import Path

from cryptometer.commands.audit import add_community
from cryptometer.commands.sources import read_community, read_text
from cryptometer.errors import Rejected
from cryptometer.proof import verify_proof
from cryptometer.readable import describe_record, printable


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `verify`."""
    parser = subparsers.add_parser(
        "verify",
        help="check a proof offline",
        description="Checks that a record is signed by a key the community's authority registered"
        " and stands in the ledger. Exit code 2: it does not hold; the message says what.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a .tlog-proof file")
    add_community(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    community = read_community(arguments.community)
    try:
        proven = verify_proof(read_text(arguments.file), community)
    except Rejected as refused:
        raise Rejected(refused.reason, f"{arguments.file}: {refused.detail}") from None
    print("\n".join(describe_record(proven.record, community.parameters.step_s)))
    name, head = printable(community.parameters.name), proven.checkpoint
    print(
        f"\nthis record is leaf {proven.index} of the ledger of {name} with {head.size} leaves,"
        f" root {head.root.hex()}"
    )
    return 0
