"""`cryptometer audit`: rebuilds a community's state from a ledger's files alone, in a folder or
behind an address; whole, or what it has gained since the last visit."""

import argparse
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptometer import audit as audits
from cryptometer.audit_state import decode_report, encode_report
from cryptometer.commands.http_ledger import HttpLedger
from cryptometer.commands.sources import (
    ledger_folder,
    ledger_reader,
    read_community,
    read_file,
    read_text,
)
from cryptometer.commands.verifiers import Verifiers, cores
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.judging import Rule
from cryptometer.metrology import kwh
from cryptometer.openings import OPENINGS_MAX, decode_openings
from cryptometer.readable import printable, utc
from cryptometer.sharing_records import Distribution
from cryptometer.steps import step_start_ms
from cryptometer.tiles import Read
from hal.files import put_file
from hal.memory import collect_seldom

JOBS_MAX = 256
# Why a distribution moves nothing; for no other record is it one of these.
_SET_ASIDE = {
    Reason.WRONG_AGREEMENT,
    Reason.NO_SUCH_INPUT,
    Reason.REPEAT,
    Reason.GAP,
    Reason.WRONG_SUMS,
    Reason.NOT_AS_AGREED,
    Reason.INCOMPLETE,
}
STATE_MAX = 2**27  # bytes: 40 for each block, so that a century of quarter hours has room


def add_commands(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Registers `audit`."""
    parser = subparsers.add_parser(
        "audit",
        help="rebuild everything from a ledger's files",
        description="Checks every signature, chain, energy, total and hash of a ledger from its"
        " static files, against keys given from outside. Exit code 2: it does not hold; the"
        " message names the place. Exit code 1: it could not be read.",
    )
    parser.add_argument(
        "ledger",
        metavar="DIR|URL",
        help="the ledger's folder, its gateway's, or the http(s) address of either's files",
    )
    add_community(parser)
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="what this audit found is kept here, and the next one goes on from it; only for your"
        " own eyes and hands, since it is believed",
    )
    parser.add_argument(
        "--since", type=Path, metavar="FILE", help="a checkpoint kept from an earlier visit"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=cores(),
        metavar="N",
        help="processes that verify the signatures of a large ledger; default: one for each core",
    )
    parser.add_argument(
        "--openings",
        type=Path,
        metavar="FILE",
        help="what members consumed, from cryptometer-gateway consumption openings: the rule of"
        " distributions that ask for it is recomputed",
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
        + _counts(
            {name: count for name, count in report.quarantined.items() if name not in _SET_ASIDE}
        ),
        *_describe_sharing(report),
    ]
    lines += [
        f"meter {name}: {meter.head.register or 0} pulses, {kwh(meter.registered_uwh)}"
        for name, meter in sorted(state.meters.items())
    ]
    lines += [f"member {name}: {kwh(energy)}" for name, energy in sorted(state.accounts.items())]
    lines += [f"note: {finding}" for finding in report.findings]
    lines.append("the ledger holds")
    return lines


def _describe_sharing(report: audits.Report) -> Iterator[str]:
    """Where distributions have moved energy, and what is proven of them; nothing where none is."""
    balance, kind = report.state.balance, Distribution.KIND.value
    if not report.kinds[kind]:
        return
    for place, energy_uwh in (
        ("members", balance.allocated),
        ("losses", balance.losses),
        ("fees", balance.fees),
        ("surplus", balance.surplus),
    ):
        yield f"  {place:11}  {kwh(energy_uwh)}"
    rules = report.rules
    yield (
        f"distributions  the sums of {rules.total()} are proven; the rule was recomputed of"
        f" {rules[Rule.RECOMPUTED]}"
        + (f", not of {rules[Rule.SUMS_ONLY]}" if rules[Rule.SUMS_ONLY] else "")
        + (f", broken in {rules[Rule.BROKEN]}" if rules[Rule.BROKEN] else "")
    )
    if aside := _aside(report):
        yield f"               set aside, and nothing moved{_counts(aside)}"


def _aside(report: audits.Report) -> dict[str, int]:
    """Records of distributions that moved nothing, by reason."""
    return {name: count for name, count in report.quarantined.items() if name in _SET_ASIDE}


def _counts(counts: Mapping[str, int]) -> str:
    return "".join(f", {name} {count}" for name, count in sorted(counts.items()))


def _run(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.jobs <= JOBS_MAX:
        raise ConfigurationError(f"--jobs is from 1 to {JOBS_MAX}")
    collect_seldom()
    community = read_community(arguments.community)
    since = None
    if arguments.since is not None:
        try:
            since = community.open_checkpoint(read_file(arguments.since))
        except Rejected as refused:
            raise Rejected(refused.reason, f"{arguments.since}: {refused.detail}") from None
    resume = _read_state(arguments.state, community)
    openings = None
    if arguments.openings is not None:
        try:
            openings = decode_openings(read_text(arguments.openings, OPENINGS_MAX))
        except Rejected as refused:
            raise Rejected(refused.reason, f"{arguments.openings}: {refused.detail}") from None
    with _reader(arguments.ledger) as read, Verifiers(arguments.jobs) as verify:
        report = audits.audit(
            read, community, since=since, resume=resume, verify=verify, openings=openings
        )
    if arguments.json:
        print(json.dumps(_values(report, community)))
    else:
        lines = describe(report, community)
        if resume is not None:
            lines.insert(-1, _gained(resume, report))
        print("\n".join(lines))
    if arguments.state is not None:
        put_file(arguments.state, encode_report(report))
    return 0


@contextmanager
def _reader(ledger: str) -> Iterator[Read]:
    if ledger.startswith(("http://", "https://")):
        with HttpLedger(ledger) as server:
            yield server.read
    else:
        yield ledger_reader(ledger_folder(Path(ledger)))


def _read_state(path: Path | None, community: Community) -> audits.Report | None:
    """What the last audit kept; None where there was none."""
    if path is None or not path.exists():
        return None
    try:
        return decode_report(read_file(path, STATE_MAX), community)
    except Rejected as refused:
        raise Rejected(
            refused.reason,
            f"{path}: {refused.detail}; without this file the whole ledger is audited anew",
        ) from None


def _gained(before: audits.Report, after: audits.Report) -> str:
    leaves = after.checkpoint.size - before.checkpoint.size
    return (
        f"since last     {after.blocks - before.blocks} blocks, {leaves} leaves checked now; those"
        " before them when they came"
    )


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
        "accounts_uwh": dict(sorted(report.state.accounts.items())),
        "distributions": dict(report.rules),
        "distributions_set_aside": _aside(report),
        "findings": report.findings,
    }
