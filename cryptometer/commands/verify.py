"""`cryptometer verify`: checks, offline, the proof that a record or block stands in the ledger, or
that a member was given a share of a step's energy."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from cryptometer.commands.audit import add_community
from cryptometer.commands.sources import read_community, read_file
from cryptometer.community import Community
from cryptometer.errors import Rejected
from cryptometer.explaining import explain_share
from cryptometer.metrology import kwh
from cryptometer.proof import verify_proof
from cryptometer.readable import describe_record, printable, utc
from cryptometer.share_file import MAGIC, SHARE_MAX, Given, Share, Source, verify_share
from cryptometer.sharing_records import Agreement, Method
from cryptometer.steps import step_start_ms


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `verify`."""
    parser = subparsers.add_parser(
        "verify",
        help="check a proof or a share offline",
        description="Checks that a record is signed by a key the community's authority registered"
        " and stands in the ledger; or the way of the energy that a member was given, back to the"
        " signed lots. Exit code 2: it does not hold; the message says what.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a .tlog-proof or a .share file")
    add_community(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    community = read_community(arguments.community)
    data = read_file(arguments.file, SHARE_MAX)
    try:
        if data.startswith(MAGIC):
            lines = describe_share(verify_share(data, community), community)
        else:
            lines = _describe_proven(data, community)
    except Rejected as refused:
        raise Rejected(refused.reason, f"{arguments.file}: {refused.detail}") from None
    print("\n".join(lines))
    return 0


def _describe_proven(data: bytes, community: Community) -> list[str]:
    # What is no UTF-8 is no proof, and the message says so.
    proven = verify_proof(data.decode(errors="replace"), community)
    name, head = printable(community.parameters.name), proven.checkpoint
    return [
        *describe_record(proven.record, community.parameters.step_s),
        "",
        f"this record is leaf {proven.index} of the ledger of {name} with {head.size} leaves,"
        f" root {head.root.hex()}",
    ]


def describe_share(share: Share, community: Community) -> list[str]:
    """The way of the energy to the member, and what the file proves of it."""
    parameters, head = community.parameters, share.checkpoint
    start = utc(step_start_ms(share.step, parameters.step_s))
    tokens = sum(one.tokens for one in share.given)
    lines = [
        f"{printable(parameters.name)}: what {share.member} was given of step {share.step}"
        f" ({start}): {kwh(share.energy_uwh)}, and {tokens} voting tokens",
    ]
    for given in share.given:
        lines += ["", *_way(given, share)]
    used = None if share.used_uwh is None else {share.member: share.used_uwh}
    lines += ["", *explain_share(share, used), ""]
    lines.append(
        "proven: the energy comes from the signed counts of these meters, each distribution gives"
        " out what goes in, and all of it stands in the ledger of"
        f" {head.size} leaves, root {head.root.hex()}"
    )
    if share.is_rule_recomputed:
        lines.append(
            "rule recomputed: the agreement gives just these shares" + _stated(share.agreement)
        )
    else:
        lines.append(
            "rule not recomputed: it asks what others consumed, which the ledger hides; whoever is"
            " given that can do it"
        )
    lines.append(
        f"the gateway's word: agreement {share.given[0].whole.agreement.hex()[:16]}…, of step"
        f" {share.agreement.from_step} and on, was the one in force, for the header of the block"
        " lets what was given by it count. That no newer one held, that no other distribution of"
        f" the step gave more, and what the ledger has gained behind its {head.size} leaves, is"
        " proven by cryptometer audit, not by a file"
    )
    return lines


def _stated(agreement: Agreement) -> str:
    """What the rule was recomputed with, and is the plant's word."""
    said = ["coefficients"] if agreement.method is Method.COEFFICIENTS else []
    said += ["losses"] if agreement.are_losses_stated else []
    return f", with the {' and the '.join(said)} that the plant has signed" if said else ""


def _way(given: Given, share: Share) -> Iterator[str]:
    whole = given.whole
    outputs = sum(one.energy_uwh for one in whole.outputs)
    what = "distribution" if whole.supplement == 0 else f"supplement {whole.supplement}"
    yield (
        f"{what}, by {whole.vpp}, in the block of step {given.block_step}, sealed by"
        f" {utc(given.sealed_ms)}:"
    )
    for source in given.sources:
        yield _source(source)
    if whole.from_surplus_uwh:
        yield f"  from the step's surplus  {kwh(whole.from_surplus_uwh)}"
    yield f"  to members  {kwh(outputs)}, of it to {share.member} {kwh(given.energy_uwh)}"
    for name, amount in (
        ("losses", whole.losses_uwh),
        (f"fee to {share.agreement.fee_to}", whole.fee_uwh),
        (f"surplus to {share.agreement.surplus_to}", whole.surplus_uwh),
    ):
        if amount:
            yield f"  {name}  {kwh(amount)}"


def _source(source: Source) -> str:
    kind = f"{source.lots} signed lots" if source.lots else "signed readings"
    text = (
        f"  from {source.meter} (serial {printable(source.serial)})  {kwh(source.energy_uwh)}, by"
        f" {kind} in {source.records} record{'' if source.records == 1 else 's'}"
    )
    if source.since_step is not None:
        text += f"; of several steps in one, since step {source.since_step}"
    more = source.signed_uwh - source.energy_uwh
    return text + (f"; {kwh(more)} more are signed, and set aside" if more else "")
