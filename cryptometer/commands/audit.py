"""`cryptometer audit`: rebuilds a community's state from a ledger's files alone."""

import argparse
import json
from pathlib import Path

from cryptometer import audit as audits
from cryptometer.commands.readable import printable, utc
from cryptometer.commands.sources import (
    ledger_folder,
    ledger_reader,
    read_community,
    read_file,
)
from cryptometer.community import Community
from cryptometer.errors import Rejected
from cryptometer.metrology import kwh
from cryptometer.steps import step_start_ms


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `audit`."""
    parser = subparsers.add_parser(
        "audit",
        help="rebuild everything from a ledger's files",
        description="Checks every signature, chain, energy, total and hash of a ledger from its"
        " static files, against keys given from outside. Exit code 2: it does not hold; the"
        " message names the place.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="the ledger, or its gateway's")
    add_community(parser)
    parser.add_argument(
        "--since", type=Path, metavar="FILE", help="a checkpoint kept from an earlier visit"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.set_defaults(run=_run)


def add_community(parser: argparse.ArgumentParser) -> None:
    """The option `--community`: whom to trust, always from outside."""
    parser.add_argument(
        "--community",
        type=Path,
        required=True,
        metavar="PUB",
        help="community.pub, from the authority and not from the ledger's folder",
    )


def describe(report: audits.Report, community: Community) -> list[str]:
    """What an audit found, as lines for people."""
    parameters, state = community.parameters, report.state
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.kinds.items()))
    lines = [
        f"{printable(parameters.name)}  {community.id.hex()}",
        f"checkpoint     {report.checkpoint.size} leaves, root {report.checkpoint.root.hex()}",
        f"blocks         {report.blocks}, steps {parameters.first_step} to {state.step}"
        f" ({utc(step_start_ms(parameters.first_step, parameters.step_s))} to"
        f" {utc(step_start_ms(state.step + 1, parameters.step_s))})",
        f"               {report.caught_up} caught up, {report.unsynchronised} without a"
        " synchronised clock",
        f"leaves         {kinds}",
        f"late           {report.late} records",
    ]
    balance = state.balance
    lines += [
        f"registered     {kwh(balance.registered)}",
        f"  at the VPP   {kwh(balance.waiting)}",
        f"  open         {kwh(balance.untransferred)}",
        f"  quarantined  {kwh(balance.quarantined)}"
        + "".join(f", {reason} {count}" for reason, count in sorted(report.quarantined.items())),
    ]
    lines += [
        f"meter {name}: {meter.head.register or 0} pulses, {kwh(meter.registered_uwh)}"
        for name, meter in sorted(state.meters.items())
    ]
    lines += [f"note: {finding}" for finding in report.findings]
    lines.append("the ledger holds")
    return lines


def _run(arguments: argparse.Namespace) -> int:
    community = read_community(arguments.community)
    since = None
    if arguments.since is not None:
        try:
            since = community.open_checkpoint(read_file(arguments.since))
        except Rejected as refused:
            raise Rejected(refused.reason, f"{arguments.since}: {refused.detail}") from None
    read = ledger_reader(ledger_folder(arguments.folder))
    report = audits.audit(read, community, since=since)
    if arguments.json:
        print(json.dumps(_values(report, community)))
    else:
        print("\n".join(describe(report, community)))
    return 0


def _values(report: audits.Report, community: Community) -> dict[str, object]:
    return {
        "community": community.id.hex(),
        "size": report.checkpoint.size,
        "root": report.checkpoint.root.hex(),
        "step": report.state.step,
        "blocks": report.blocks,
        "caught_up": report.caught_up,
        "late": report.late,
        "kinds": dict(report.kinds),
        "quarantined": dict(report.quarantined),
        "energy_uwh": dict(report.energy_uwh),
        "registers": {
            name: meter.head.register or 0 for name, meter in sorted(report.state.meters.items())
        },
        "findings": report.findings,
    }
