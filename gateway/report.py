"""What a gateway knows of its meters and blocks: values for programs, lines for people."""

from dataclasses import dataclass

from cryptometer import records
from cryptometer.accuracy import Comparison, Total, compare, known_of, percent, total
from cryptometer.metrology import kwh
from cryptometer.readable import utc
from cryptometer.state import State
from cryptometer.steps import step_start_ms
from gateway.health import PRIVATE_DAMAGED
from gateway.lacking import Facts
from gateway.shares_report import (
    AgreementReport,
    MemberReport,
    SharedReport,
    WaitingReport,
    agreement_reports,
    describe_sharing,
    member_reports,
    newest_shared,
    waiting_steps,
)
from gateway.store import Store

UWH_PER_WH = 10**6
BLOCKS_SHOWN = 96  # a day of quarter hours


@dataclass(frozen=True, slots=True)
class MeterReport:
    """One meter.

    Attributes:
        last_step: newest step closed in a block.
        gaps: steps between its first and newest close that it did not close.
        late: records that came after their step's block.
        quarantined: records whose energy was set aside.
        last_heard_ms: when its newest record came, UTC ms.
        index_wh: what the display showed at enrolment, or when it was exchanged or read anew, Wh.
        registered_uwh: all energy its chain has registered.
        expected_index_wh: what has been registered since, added: to be compared with the display.
        register: its pulse count as signed, in blocks.
        sequence: of the record its chain in blocks goes on with; what a re-anchor is given.
        refused: records or bytes refused, by reason.
        is_private: for consumption: of its records this report knows nothing but when they came.
        compared: what was counted against a second source, over the newest comparisons, a day of
            quarter hours; None where nothing was compared.
    """

    name: str
    serial: str
    last_step: int | None
    gaps: int
    late: int
    quarantined: int
    quarantined_uwh: int
    clock_state: str
    clock_error_ms: int
    last_heard_ms: int | None
    index_wh: int
    registered_uwh: int
    expected_index_wh: int
    register: int
    sequence: int
    revoked: bool
    refused: dict[str, int]
    compared: Total | None = None
    is_private: bool = False


@dataclass(frozen=True, slots=True)
class Report:
    """The whole community as this gateway holds it."""

    community: str
    name: str
    step: int
    size: int
    root: str
    epoch: int
    step_s: int
    registered_uwh: int
    waiting_uwh: int
    untransferred_uwh: int
    allocated_uwh: int
    losses_uwh: int
    fees_uwh: int
    surplus_uwh: int
    quarantined_uwh: int
    blocks: int
    caught_up: int
    punctuality_ms: list[int]
    strangers: dict[str, int]
    agreements: list[AgreementReport]
    waiting: list[WaitingReport]
    shared: SharedReport | None
    members: list[MemberReport]
    meters: list[MeterReport]
    is_private_damaged: bool = False


def make_report(store: Store, state: State, facts: Facts | None = None) -> Report:
    """Gathers a report; reads only.

    Args:
        facts: None for who must not know what members consumed.

    Raises:
        OSError: the facts cannot be read now.
    """
    newest = store.blocks(BLOCKS_SHOWN)
    refused: dict[str, dict[str, int]] = {}
    for one in store.refusals():
        refused.setdefault(one.meter, {})[one.reason] = one.count
    balance = state.balance
    return Report(
        community=state.community.hex(),
        name=state.genesis.name,
        step=state.step,
        size=state.frontier.size,
        root=state.frontier.root.hex(),
        epoch=store.epoch,
        step_s=state.genesis.step_s,
        registered_uwh=balance.registered,
        waiting_uwh=balance.waiting,
        untransferred_uwh=balance.untransferred,
        allocated_uwh=balance.allocated,
        losses_uwh=balance.losses,
        fees_uwh=balance.fees,
        surplus_uwh=balance.surplus,
        quarantined_uwh=balance.quarantined,
        blocks=state.step - state.genesis.first_step + 1,
        caught_up=sum(row.caught_up for row in newest),
        punctuality_ms=[
            row.punctuality_ms for row in reversed(newest) if row.punctuality_ms is not None
        ],
        strangers=refused.get("", {}),
        agreements=agreement_reports(state),
        waiting=waiting_steps(state, facts),
        shared=newest_shared(state),
        members=member_reports(state),
        meters=_meter_reports(store, state, refused),
        is_private_damaged=store.is_private_damaged(),
    )


def comparisons_of(store: Store, meter: str, newest: int) -> list[Comparison]:
    """The newest comparisons of a meter with its second source, in order."""
    pairs = store.compared(meter, newest + 1)
    if len(pairs) < 2:
        return []
    return compare(pairs, known_of(records.decode(raw) for raw in store.authority()))


def _meter_reports(
    store: Store, state: State, refused: dict[str, dict[str, int]]
) -> list[MeterReport]:
    contacts = {one.meter: one for one in store.contacts()}
    tallies = {one.meter: one for one in store.tallies()}
    reports = []
    for name, meter in sorted(state.meters.items()):
        contact, tally = contacts.get(name), tallies.get(name)
        gaps = 0
        if tally is not None and tally.first_step is not None and meter.closed_step is not None:
            gaps = meter.closed_step - tally.first_step + 1 - tally.closes
        registered = meter.registered_uwh
        compared = comparisons_of(store, name, BLOCKS_SHOWN)
        reports.append(
            MeterReport(
                name=name,
                serial=meter.serial,
                last_step=meter.closed_step,
                gaps=gaps,
                late=tally.late if tally is not None else 0,
                quarantined=tally.quarantined if tally is not None else 0,
                quarantined_uwh=meter.quarantined_uwh,
                clock_state=contact.clock_state if contact is not None else "-",
                clock_error_ms=contact.clock_error_ms if contact is not None else 0,
                last_heard_ms=contact.at_ms if contact is not None else None,
                index_wh=meter.index_wh,
                registered_uwh=registered,
                expected_index_wh=meter.index_wh
                + (registered - meter.index_from_uwh) // UWH_PER_WH,
                register=meter.head.register or 0,
                sequence=meter.head.sequence,
                revoked=meter.terms[-1].valid_to is not None,
                refused=refused.get(name, {}),
                compared=total(compared) if compared else None,
                is_private=meter.is_private,
            )
        )
    return reports


def describe(report: Report) -> list[str]:
    """The report as lines for people."""
    lines = [
        f"{report.name}  {report.community[:16]}…",
        _newest(report),
        f"blocks         {report.blocks}; {report.caught_up} of the last {BLOCKS_SHOWN} caught up",
        f"punctuality    {_punctuality(report.punctuality_ms)}",
        f"energy         registered {kwh(report.registered_uwh)}: at the VPP"
        f" {kwh(report.waiting_uwh)}, not yet transferred {kwh(report.untransferred_uwh)},"
        f" quarantined {kwh(report.quarantined_uwh)}",
    ]
    if report.allocated_uwh or report.losses_uwh or report.fees_uwh or report.surplus_uwh:
        lines.append(
            f"               members {kwh(report.allocated_uwh)}, losses {kwh(report.losses_uwh)},"
            f" fees {kwh(report.fees_uwh)}, surplus {kwh(report.surplus_uwh)}"
        )
    lines += describe_sharing(
        report.agreements, report.waiting, report.shared, report.members, report.step_s
    )
    if report.is_private_damaged:
        lines.append(f"private store  DAMAGED: {PRIVATE_DAMAGED}")
    if report.strangers:
        lines.append(f"refused        from the unregistered: {_counts(report.strangers)}")
    for meter in report.meters:
        lines += ["", *_describe_meter(meter)]
    return lines


def _newest(report: Report) -> str:
    if not report.size:
        ends = utc(step_start_ms(report.step + 2, report.step_s))[:16]
        return f"newest block   none yet; the first one is due at {ends}Z"
    begins = utc(step_start_ms(report.step, report.step_s))[:16]
    return (
        f"newest block   step {report.step} ({begins}Z), {report.size} leaves,"
        f" root {report.root[:16]}…"
    )


def _describe_meter(meter: MeterReport) -> list[str]:
    if meter.is_private:
        return _describe_private(meter)
    step = "none" if meter.last_step is None else str(meter.last_step)
    lines = [
        f"meter {meter.name}  serial {meter.serial}" + ("  REVOKED" if meter.revoked else ""),
        f"  last step    {step}, gaps {meter.gaps}, late {meter.late},"
        f" quarantined {meter.quarantined} ({kwh(meter.quarantined_uwh)})",
        f"  clock        {meter.clock_state}, error {meter.clock_error_ms} ms",
        f"  register     {meter.register} pulses, {kwh(meter.registered_uwh)},"
        f" next record {meter.sequence}",
        f"  display      {kwh(meter.index_wh * UWH_PER_WH)} when registered; it should now show"
        " about"
        f" {kwh(meter.expected_index_wh * UWH_PER_WH)}",
    ]
    if meter.compared is not None:
        lines.append(f"  compared     {_compared(meter.compared)}")
    if meter.refused:
        lines.append(f"  refused      {_counts(meter.refused)}")
    return lines


def _describe_private(meter: MeterReport) -> list[str]:
    lines = [
        f"meter {meter.name}  serial {meter.serial}" + ("  REVOKED" if meter.revoked else ""),
        "  consumption  in no ledger: cryptometer-gateway consumption meters",
        f"  clock        {meter.clock_state}, error {meter.clock_error_ms} ms",
    ]
    if meter.refused:
        lines.append(f"  refused      {_counts(meter.refused)}")
    return lines


def _compared(found: Total) -> str:
    verdict = "within the class" if found.is_within else "NOT within the class"
    return (
        f"{kwh(found.counted_uwh)} counted, {kwh(found.index_uwh)} by its index:"
        f" {percent(found.difference_ppm)}, {verdict}; {found.comparisons} comparisons,"
        f" {found.outside} of them outside; last digits explain {kwh(found.bound_uwh)}"
    )


def _punctuality(milliseconds: list[int]) -> str:
    if not milliseconds:
        return "not measured yet"
    ordered = sorted(milliseconds)
    middle, worst = ordered[len(ordered) // 2], ordered[-1]
    return f"median {middle} ms, worst {worst} ms of {len(ordered)} blocks (community time)"


def _counts(reasons: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
