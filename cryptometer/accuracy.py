"""The measured proof of accuracy: what was counted, against what a second source of the same meter
says. From signed readings that do not count to rows, in integers; a pure function of the ledger's
leaves, so that anyone comes to the same. It judges no energy: nothing here counts or sets aside.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise

from cryptometer.authority_records import MeterDetails, ReAnchor, Registration
from cryptometer.chain_records import Reading
from cryptometer.energy_verdict import Verdict
from cryptometer.metrology import MPE_AT_I_MIN, register_uwh
from cryptometer.record_fields import Role
from cryptometer.records import Record

PPM = 10**6


@dataclass(frozen=True, slots=True)
class Pair:
    """What a reading that is only compared says, as far as rows need it.

    Attributes:
        registration: whose constant says what a unit of `counted` is worth.
        index: in its own unit.
        unit_uwh: what that is worth, µWh.
        counted: the register of what counts when the index was taken.
    """

    meter: str
    sequence: int
    step: int
    at_ms: int
    source: str
    registration: bytes
    index: int
    unit_uwh: int
    counted: int

    @property
    def index_uwh(self) -> int:
        return self.index * self.unit_uwh


@dataclass(frozen=True, slots=True)
class Known:
    """What the authority's records say that rows depend on.

    Attributes:
        meters: by name and the registration's identity.
        anchors: by meter: from which sequence number on its chain went on anew.
    """

    meters: Mapping[tuple[str, bytes], MeterDetails] = field(default_factory=dict)
    anchors: Mapping[str, Sequence[int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was counted between two readings of a second source, against what its index grew by.

    Attributes:
        step: of the later reading.
        since_step: of the earlier one.
        since_ms, at_ms: when the two were taken, ms since the Unix epoch.
        source: the protocol of what is compared.
        counted_uwh: energy by the source that counts, µWh.
        index_uwh: energy by the index, µWh.
        bound_uwh: how far apart the last digits alone can hold the two: one unit of the index, and
            one pulse, or one unit, of what counts.
        mpe_ppm: the maximum permissible error of the meter's class at I_min, in millionths.
    """

    meter: str
    step: int
    since_step: int
    since_ms: int
    at_ms: int
    source: str
    counted_uwh: int
    index_uwh: int
    bound_uwh: int
    mpe_ppm: int

    @property
    def difference_uwh(self) -> int:
        """Above 0: more was counted than the index says."""
        return self.counted_uwh - self.index_uwh

    @property
    def allowed_uwh(self) -> int:
        """The MPE of the index's energy, µWh."""
        return self.index_uwh * self.mpe_ppm // PPM

    @property
    def difference_ppm(self) -> int | None:
        """Of what the index says, towards 0; None where it has not grown."""
        return relative_ppm(self.difference_uwh, self.index_uwh)

    @property
    def is_within(self) -> bool:
        """Whether the difference is within the MPE, but for what the last digits explain."""
        return abs(self.difference_uwh) <= self.allowed_uwh + self.bound_uwh


@dataclass(frozen=True, slots=True)
class Total:
    """Several comparisons of one meter added; the fields are as in `Comparison`.

    Attributes:
        comparisons: how many there are.
        outside: of them, those that are not within.
        bound_uwh: once for each run of comparisons that follow on one another: within a run the
            last digits of its ends alone matter.
    """

    comparisons: int
    outside: int
    counted_uwh: int
    index_uwh: int
    bound_uwh: int
    allowed_uwh: int

    @property
    def difference_uwh(self) -> int:
        return self.counted_uwh - self.index_uwh

    @property
    def difference_ppm(self) -> int | None:
        return relative_ppm(self.difference_uwh, self.index_uwh)

    @property
    def is_within(self) -> bool:
        return abs(self.difference_uwh) <= self.allowed_uwh + self.bound_uwh


def pair_of(record: Record) -> Pair | None:
    """What a record says for a comparison; None if it says nothing."""
    match record.body:
        case Reading(counting=False, unit_uwh=int(unit_uwh), counted=int(counted)) as body:
            # Once it is told, all that had been counted when it was taken is told, too.
            if counted > body.register:
                return None
            return Pair(
                body.meter,
                body.sequence,
                body.step,
                body.at_ms,
                body.source,
                body.registration,
                body.index,
                unit_uwh,
                counted,
            )
        case _:
            return None


def known_of(authority: Iterable[Record]) -> Known:
    """What the authority's records say; others are passed over."""
    meters: dict[tuple[str, bytes], MeterDetails] = {}
    anchors: dict[str, list[int]] = {}
    for record in authority:
        match record.body:
            case Registration(role=Role.METER, name=name, meter=MeterDetails() as details):
                meters[name, record.identity] = details
            case ReAnchor(meter=name, at=at):
                anchors.setdefault(name, []).append(at)
    return Known(meters, anchors)


def compare(pairs: Iterable[Pair], known: Known) -> list[Comparison]:
    """Each two readings that follow on one another, by meter and in order.

    Nothing is compared across what makes the two no longer one measurement: a re-anchor, another
    device on the wall, another constant or second source, an index that went back.
    """
    ordered = sorted(pairs, key=lambda one: (one.meter, one.sequence))
    found = (_row(before, after, known) for before, after in pairwise(ordered))
    return [one for one in found if one is not None]


def compare_verdicts(verdicts: Iterable[Verdict]) -> list[Comparison]:
    """The comparisons that a ledger's leaves hold, with their verdicts, from its beginning."""
    effective = [verdict.record for verdict in verdicts if verdict.reason is None]
    pairs = (pair_of(record) for record in effective)
    return compare((one for one in pairs if one is not None), known_of(effective))


def total(comparisons: Iterable[Comparison]) -> Total:
    """Comparisons of one meter, in order, added."""
    rows = list(comparisons)
    starts = [row for before, row in pairwise([None, *rows]) if row and not _goes_on(before, row)]
    return Total(
        len(rows),
        sum(not row.is_within for row in rows),
        sum(row.counted_uwh for row in rows),
        sum(row.index_uwh for row in rows),
        sum(row.bound_uwh for row in starts),
        sum(row.allowed_uwh for row in rows),
    )


def relative_ppm(difference_uwh: int, of_uwh: int) -> int | None:
    """A difference in millionths, towards 0; None of nothing."""
    if not of_uwh:
        return None
    parts = abs(difference_uwh) * PPM // of_uwh
    return parts if difference_uwh >= 0 else -parts


def percent(ppm: int | None) -> str:
    """Millionths for people: a percentage with its sign and four decimals."""
    if ppm is None:
        return "-"
    whole, rest = divmod(abs(ppm), PPM // 100)
    return f"{'-' if ppm < 0 else '+'}{whole}.{rest:04d} %"


def _goes_on(before: Comparison | None, row: Comparison | None) -> bool:
    return before is not None and row is not None and before.at_ms == row.since_ms


def _row(before: Pair, after: Pair, known: Known) -> Comparison | None:
    if (before.meter, before.source) != (after.meter, after.source):
        return None
    anchors = known.anchors.get(after.meter, ())
    if any(before.sequence < at <= after.sequence for at in anchors):
        return None
    earlier = known.meters.get((before.meter, before.registration))
    details = known.meters.get((after.meter, after.registration))
    if earlier is None or details is None or _measure(earlier) != _measure(details):
        return None
    grown_uwh = after.index_uwh - before.index_uwh
    if grown_uwh < 0 or after.counted < before.counted:
        return None
    constant, ratio = details.constant, details.ratings.constant_ratio
    counted_uwh = register_uwh(after.counted, constant, ratio) - register_uwh(
        before.counted, constant, ratio
    )
    pulse = details.ratings.pulse_uwh
    return Comparison(
        after.meter,
        after.step,
        before.step,
        before.at_ms,
        after.at_ms,
        after.source,
        counted_uwh,
        grown_uwh,
        max(before.unit_uwh, after.unit_uwh) - (-pulse.numerator // pulse.denominator),
        int(MPE_AT_I_MIN[details.accuracy_class] * PPM),
    )


def _measure(details: MeterDetails) -> tuple[str, Fraction, Fraction]:
    """The device on the wall, and what its register is worth."""
    return details.serial, details.constant, details.ratings.constant_ratio
