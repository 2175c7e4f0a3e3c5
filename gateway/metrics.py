"""The gateway's figures in Prometheus' text format: values in, text out. The names are stable and
stand in docs/operations.md with what to alert on.

Times are community time: with the system's clock that is UTC.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cryptometer.steps import NS_PER_S, ClockState
from gateway.health import Facts, reasons
from gateway.lacking import Cause
from gateway.report import MeterReport, Report
from gateway.store import BlockRow, Depths

__all__ = ["CONTENT_TYPE_LATEST", "Figures", "exposition"]

_MS_PER_S = 1000
_UWH_PER_WH = 10**6
_PLACES = (
    "registered",
    "waiting",
    "untransferred",
    "allocated",
    "losses",
    "fees",
    "surplus",
    "quarantined",
)


@dataclass(frozen=True, slots=True)
class Figures:
    """All that is measured, of one moment.

    Attributes:
        newest: the newest block, None before the first.
        set_aside: leaves without effect, by reason.
    """

    facts: Facts
    report: Report | None
    newest: BlockRow | None
    set_aside: dict[str, int]
    depths: Depths


def exposition(figures: Figures) -> bytes:
    """The answer to a scrape."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*_service(figures), *_community(figures)]))
    return generate_latest(registry)


class _Collected:
    """Metrics that stand already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics

    def describe(self) -> Iterable[Metric]:
        return []


def _service(figures: Figures) -> Iterable[Metric]:
    facts = figures.facts
    yield _gauge("healthy", "1 when /healthz has no reason against it.", not reasons(facts))
    yield _gauge(
        "private_store_damaged",
        "1 when the gateway works without its private store.",
        facts.is_private_damaged,
    )
    yield _gauge(
        "clock_synchronised",
        "1 when this machine's clock is synchronised within 1 s.",
        facts.now.state is ClockState.SYNCHRONISED,
    )
    yield _gauge(
        "clock_error_seconds",
        "Bound on the error of this machine's clock.",
        facts.now.error_ns / NS_PER_S,
    )
    yield _gauge(
        "block_overdue_seconds",
        "How long the next block has been due; negative while it is not.",
        facts.overdue_ms / _MS_PER_S,
    )
    free = GaugeMetricFamily(
        "cryptometer_free_bytes", "Room on the disk of a folder.", labels=["folder"]
    )
    for name, size in facts.free_bytes.items():
        free.add_metric([name], size)
    yield free
    yield _gauge("records_pending", "Device records that no block holds.", figures.depths.pending)
    yield _gauge(
        "leaves_staged",
        "Leaves that the store keeps: until their bundle of 256 is full and durable.",
        figures.depths.staged,
    )
    yield _gauge(
        "evidence_records", "Refused records that are kept as evidence.", figures.depths.evidence
    )


def _community(figures: Figures) -> Iterable[Metric]:
    report, newest = figures.report, figures.newest
    if report is None or newest is None:
        return
    yield from _blocks(figures, report, newest)
    yield _records(figures, report)
    energy = GaugeMetricFamily(
        "cryptometer_energy_watt_hours", "Where all energy is.", labels=["place"]
    )
    for place in _PLACES:
        energy.add_metric([place], getattr(report, f"{place}_uwh") / _UWH_PER_WH)
    yield energy
    yield from _sharing(report)
    yield from _meters(report.meters)


def _blocks(figures: Figures, report: Report, newest: BlockRow) -> Iterable[Metric]:
    yield _counter("blocks", "Blocks made.", report.blocks)
    yield _gauge("block_step", "Step of the newest block.", newest.step)
    yield _gauge(
        "block_sealed_timestamp_seconds",
        "When the newest block was sealed.",
        newest.sealed_ms / _MS_PER_S,
    )
    yield _gauge("block_records", "Records in the newest block.", newest.records)
    yield _gauge("block_late_records", "Late records in the newest block.", newest.late)
    yield _gauge("block_meters_expected", "Meters the newest block waited for.", newest.expected)
    yield _gauge("block_meters_heard", "Of them, those that closed the step.", newest.heard)
    yield _gauge(
        "blocks_caught_up_recently",
        "Of the newest 96 blocks, those made late after an absence.",
        report.caught_up,
    )
    punctuality = GaugeMetricFamily(
        "cryptometer_block_punctuality_seconds",
        "From the later of step end and last close to the published checkpoint, newest 96 blocks.",
        labels=["quantile"],
    )
    ordered = sorted(report.punctuality_ms)
    for quantile in (0.5, 0.99, 1.0):
        if ordered:
            at = min(len(ordered) - 1, int(quantile * len(ordered)))
            punctuality.add_metric([f"{quantile:g}"], ordered[at] / _MS_PER_S)
    yield punctuality
    yield _gauge("ledger_leaves", "Leaves of the tree in the store.", figures.facts.size)
    yield _gauge(
        "ledger_published_leaves", "Leaves of the tree that is published.", figures.facts.published
    )


def _records(figures: Figures, report: Report) -> Metric:
    """Device records by both verdicts: each is counted, quarantined or refused."""
    family = CounterMetricFamily(
        "cryptometer_records",
        "Records by verdict and reason; the two of the ledger also hold the authority's.",
        labels=["verdict", "reason"],
    )
    aside = sum(figures.set_aside.values())
    leaves = report.size - report.blocks - aside
    family.add_metric(["counted", ""], leaves)
    for reason, count in figures.set_aside.items():
        family.add_metric(["quarantined", reason], count)
    refused: dict[str, int] = dict(report.strangers)
    for meter in report.meters:
        for reason, count in meter.refused.items():
            refused[reason] = refused.get(reason, 0) + count
    for reason, count in sorted(refused.items()):
        family.add_metric(["refused", reason], count)
    return family


def _sharing(report: Report) -> Iterable[Metric]:
    """No figure says what anyone consumed: what agreements ask is in the ledger, and so are the
    accounts of members."""
    steps = GaugeMetricFamily(
        "cryptometer_waiting_steps",
        "Steps whose energy waits at the virtual power plant, by what their agreement asks.",
        labels=["cause"],
    )
    causes = Counter(lack.cause for one in report.waiting for lack in one.lacks)
    for cause in Cause:
        steps.add_metric([cause], causes[cause])
    yield steps
    oldest = report.waiting[0].step if report.waiting else None
    yield _gauge("waiting_oldest_step", "The oldest of these steps, if there is one.", oldest)
    newest = None if report.shared is None else report.shared.step
    yield _gauge("shared_step", "Newest step whose energy was shared, if there is one.", newest)
    members = CounterMetricFamily(
        "cryptometer_member_energy_watt_hours",
        "All that a member was given: the virtual generation meter.",
        labels=["member"],
    )
    for member in report.members:
        members.add_metric([member.name], member.energy_uwh / _UWH_PER_WH)
    yield members


def _meters(meters: list[MeterReport]) -> Iterable[Metric]:
    heard = _by_meter("last_heard_timestamp_seconds", "When its newest record came.")
    error = _by_meter("clock_error_seconds", "Bound on its clock's error, as it says.")
    synchronised = _by_meter("clock_synchronised", "1 when its clock is synchronised within 1 s.")
    closed = _by_meter("closed_step", "The newest step it closed in a block.")
    revoked = _by_meter("revoked", "1 when its key is revoked.")
    late = _by_meter_counter("late_records", "Records that came after their step's block.")
    aside = _by_meter_counter("quarantined_records", "Records whose energy was set aside.")
    gaps = _by_meter_counter("gaps", "Steps it did not close between its first and newest close.")
    pulses = _by_meter("register_pulses", "Its pulse count as signed, in blocks.")
    energy = _by_meter_counter("energy_watt_hours", "Energy its chain has registered.")
    compared = GaugeMetricFamily(
        "cryptometer_meter_compared_watt_hours",
        "Over its newest 96 comparisons: counted, and by its own index.",
        labels=["meter", "by"],
    )
    within = _by_meter("compared_within", "1 when the two differ by no more than its class allows.")
    for meter in meters:
        label = [meter.name]
        if meter.last_heard_ms is not None:
            heard.add_metric(label, meter.last_heard_ms / _MS_PER_S)
            error.add_metric(label, meter.clock_error_ms / _MS_PER_S)
            synchronised.add_metric(label, meter.clock_state == ClockState.SYNCHRONISED)
        if meter.last_step is not None:
            closed.add_metric(label, meter.last_step)
        revoked.add_metric(label, meter.revoked)
        late.add_metric(label, meter.late)
        aside.add_metric(label, meter.quarantined)
        gaps.add_metric(label, max(0, meter.gaps))
        pulses.add_metric(label, meter.register)
        energy.add_metric(label, meter.registered_uwh / _UWH_PER_WH)
        if meter.compared is not None:
            compared.add_metric([meter.name, "counted"], meter.compared.counted_uwh / _UWH_PER_WH)
            compared.add_metric([meter.name, "index"], meter.compared.index_uwh / _UWH_PER_WH)
            within.add_metric(label, meter.compared.is_within)
    known = (heard, error, synchronised, closed, revoked, late, aside, gaps, pulses, energy)
    return (*known, compared, within)


def _gauge(name: str, says: str, value: float | None) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cryptometer_{name}", says, value=value)


def _counter(name: str, says: str, value: float) -> CounterMetricFamily:
    return CounterMetricFamily(f"cryptometer_{name}", says, value=value)


def _by_meter(name: str, says: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"cryptometer_meter_{name}", says, labels=["meter"])


def _by_meter_counter(name: str, says: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"cryptometer_meter_{name}", says, labels=["meter"])
