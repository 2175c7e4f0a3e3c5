"""`cryptometer equivocation`: checks, offline, that one key signed two different records for one
place."""

import argparse
from pathlib import Path

from cryptometer import records
from cryptometer.commands.audit import add_community
from cryptometer.commands.sources import read_community, read_file
from cryptometer.equivocation import Equivocation, equivocation
from cryptometer.errors import Rejected
from cryptometer.proof import carried_records
from cryptometer.readable import summarise_record
from cryptometer.records import Record

_PROOF = b"c2sp.org/tlog-proof@"


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `equivocation`."""
    parser = subparsers.add_parser(
        "equivocation",
        help="check that somebody signed two records for one place",
        description="Shows that one key signed two different records for one place: of a virtual"
        " power plant's, a meter's or the authority's chain, or for the block of one step. Each"
        " FILE is a record as it was signed, or a .tlog-proof, which carries the registration of a"
        " meter's key. Exit code 0: they are evidence; 2: they are not, and the message says why.",
    )
    parser.add_argument("first", type=Path, metavar="FILE", help="a record, or a .tlog-proof")
    parser.add_argument("second", type=Path, metavar="FILE", help="another one")
    add_community(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    community = read_community(arguments.community)
    first, *some = _read(arguments.first)
    second, *others = _read(arguments.second)
    print("\n".join(describe(equivocation(first, second, [*some, *others], community))))
    return 0


def _read(path: Path) -> list[Record]:
    """The record in a file, and the registration that it carries."""
    data = read_file(path)
    try:
        if data.startswith(_PROOF):
            return carried_records(data.decode(errors="replace"))
        return [records.decode(data)]
    except Rejected as refused:
        raise Rejected(refused.reason, f"{path}: {refused.detail}") from None


def describe(found: Equivocation) -> list[str]:
    """The evidence in words."""
    lines = [f"{found.signer} signed two different records for {found.place}"]
    lines.append(f"with key {found.first.key_id.hex()}:")
    lines += [
        f"  {record.identity.hex()}  {summarise_record(record)}"
        for record in (found.first, found.second)
    ]
    return [
        *lines,
        "Both signatures hold: whoever has community.pub can check them.",
        "This refutes neither of the two. Which one the ledger holds, audit and proofs say.",
    ]
