"""`cryptometer equivocation`: checks, offline, that one key signed two different records for one
place, or that a community's gateways signed two ledgers."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptometer import records
from cryptometer.commands.audit import add_community
from cryptometer.commands.sources import read_community, read_file
from cryptometer.community import Community
from cryptometer.equivocation import Equivocation, equivocation
from cryptometer.errors import Rejected
from cryptometer.proof import carried_records, is_proof
from cryptometer.readable import summarise_record
from cryptometer.records import Record
from cryptometer.share_file import MAGIC, SHARE_MAX
from cryptometer.split_view import SplitView, signed_heads, split_view


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `equivocation`."""
    parser = subparsers.add_parser(
        "equivocation",
        help="check that somebody signed two records for one place, or two ledgers",
        description="Shows that one key signed two different records for one place: of a virtual"
        " power plant's, a meter's or the authority's chain, or for the block of one step. Or that"
        " the community's gateways signed two ledgers of one size with different content. Each FILE"
        " is a record as it was signed, a .tlog-proof, which carries the registration of a meter's"
        " key, a .share file or a checkpoint. Exit code 0: they are evidence; 2: they are not, and"
        " the message says why.",
    )
    parser.add_argument(
        "first", type=Path, metavar="FILE", help="a record, proof, share or checkpoint"
    )
    parser.add_argument("second", type=Path, metavar="FILE", help="another one")
    add_community(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    community = read_community(arguments.community)
    paths: tuple[Path, Path] = (arguments.first, arguments.second)
    first, second = (_File(path, read_file(path, SHARE_MAX)) for path in paths)
    print("\n".join(_found(first, second, community)))
    return 0


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    data: bytes

    def records(self, community: Community) -> list[Record]:
        """The record in it and the registration that it carries; nothing where it is of a ledger
        only."""
        if self.data.startswith((MAGIC, community.origin.encode())):
            return []
        with self._named():
            if is_proof(self.data):
                return carried_records(self.data.decode(errors="replace"))
            return [records.decode(self.data)]

    def heads(self, community: Community) -> dict[int, bytes]:
        """What it says of the ledger it is of."""
        with self._named():
            return signed_heads(self.data, community)

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except Rejected as refused:
            raise Rejected(refused.reason, f"{self.path}: {refused.detail}") from None


def _found(first: _File, second: _File, community: Community) -> list[str]:
    """The evidence in words: of records, or of the ledgers that they are of."""
    one, other = (file.records(community) for file in (first, second))
    no_evidence = None
    if one and other:
        try:
            registrations = [*one[1:], *other[1:]]
            return describe(equivocation(one[0], other[0], registrations, community))
        except Rejected as refused:
            no_evidence = refused
    try:
        return describe_ledgers(split_view(first.heads(community), second.heads(community)))
    except Rejected:
        if no_evidence is not None:
            raise no_evidence from None
        raise


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


def describe_ledgers(found: SplitView) -> list[str]:
    """The evidence in words."""
    return [
        f"gateways of this community signed two different ledgers of {found.size} leaves:",
        f"  root {found.first.hex()}",
        f"  root {found.second.hex()}",
        "All signatures hold: whoever has community.pub can check them.",
        "Not everyone is shown the same ledger. Which one is true, this does not say.",
    ]
