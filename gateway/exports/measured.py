"""What a ledger shows of how each meter was counted, step by step: energy, lateness, silence,
clocks, marks, what was set aside and why, and what a second source says. From leaves and verdicts
to rows, in integers: anyone who has the ledger comes to the same.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from cryptometer.accuracy import PPM, Comparison, Pair, Total, compare, known_of, pair_of, total
from cryptometer.authority_records import MeterDetails, ReAnchor, Registration
from cryptometer.block import Checked
from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, ChainRecord, Mark, Reading, RunStart, StepClose
from cryptometer.energy_verdict import Verdict
from cryptometer.meter import Meter, Terms
from cryptometer.metrology import MPE_AT_I_MIN
from cryptometer.record_fields import ClockReading
from cryptometer.records import Record
from cryptometer.state import State
from cryptometer.steps import ClockState, step_of, step_start_ms
from gateway.exports.displays import Dial, Seen, Shown, device_of, shown, unanswered


class StepState(StrEnum):
    """What became of a meter's step."""

    CLOSED = "closed"  # by a close in the step's own block
    LATE = "late"  # by one in a later block
    SET_ASIDE = "set-aside"  # its close stands in the ledger without effect
    NOT_CLOSED = "not-closed"  # something was heard of it, and no close
    NOT_HEARD = "not-heard"  # its block is there, and nothing of this meter


@dataclass(frozen=True, slots=True)
class Aside:
    """Records of one step that the energy verdict set aside for one reason."""

    reason: str
    records: int
    energy_uwh: int


@dataclass(frozen=True, slots=True)
class MeterStep:
    """One step of one meter.

    Attributes:
        energy_uwh: what its close transferred, µWh; None without one that counts.
        counted_uwh: what counted of its lots or readings, µWh.
        aside: by reason, in order of reasons.
        block: step of the block that holds the close, or None.
        sealed_after_ms: how long after the step's end that block was sealed, ms.
        since_step: of a multi-step close, the step that its energy is counted since.
        watched_ms: how much of the step the device watched the meter, ms; None without a close
            that counts.
        clock: the one with the greatest error bound that dated anything of it; None unheard.
        marks: flat pairs of a `Mark` and its amount, in order of marks.
        compared: with a second source; those that end in the step.
    """

    meter: str
    step: int
    state: StepState
    energy_uwh: int | None
    counted_uwh: int
    aside: tuple[Aside, ...]
    block: int | None
    sealed_after_ms: int | None
    since_step: int | None
    watched_ms: int | None
    clock: ClockReading | None
    marks: tuple[int, ...]
    compared: tuple[Comparison, ...]

    @property
    def late_steps(self) -> int | None:
        """How many steps later than its own the block of its close is."""
        return None if self.block is None else self.block - self.step

    @property
    def aside_uwh(self) -> int:
        return sum(one.energy_uwh for one in self.aside)

    @property
    def difference(self) -> Total | None:
        """What was counted against the second source, or None."""
        return total(self.compared) if self.compared else None

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing about it that somebody should look at."""
        found = self.difference
        return (
            self.state is StepState.CLOSED
            and not self.aside
            and self.since_step is None
            and not set(self.marks[::2]) - {Mark.COARSE, Mark.STRADDLE}
            and self.clock is not None
            and self.clock.state is ClockState.SYNCHRONISED
            and (found is None or (found.is_within and not found.outside))
        )


@dataclass(frozen=True, slots=True)
class MeterReport:
    """One meter over the period.

    Attributes:
        details: what the authority registered, of the newest registration in force.
        steps: those it was expected or heard in, in order.
        shown: its display, as somebody read it.
        unanswered: readings of the display that nothing can be compared with yet.
    """

    name: str
    details: MeterDetails
    steps: tuple[MeterStep, ...]
    shown: tuple[Shown, ...] = ()
    unanswered: tuple[Seen, ...] = ()

    @property
    def mpe_ppm(self) -> int:
        return int(MPE_AT_I_MIN[self.details.accuracy_class] * PPM)

    @property
    def compared(self) -> list[Comparison]:
        return [one for step in self.steps for one in step.compared]


@dataclass(frozen=True, slots=True)
class Summary:
    """Steps of one meter, or of several, added up.

    Attributes:
        states: how many steps by what became of them.
        several: of those closed, how many have energy of several steps.
        aside: by reason, records and energy set aside.
        clocks: how many steps by the state of the clock that dated them.
        worst_ms: the greatest error bound of those clocks, ms; None where nothing was heard.
        worst_step: the step it was in.
        marks: by mark, the steps that have it and the sum of its amounts; of *clock-doubtful* the
            greatest.
        latest_ms: how long after its end the last close of a step was sealed, ms.
        compared: None without a comparison.
    """

    steps: int
    states: Mapping[StepState, int]
    several: int
    energy_uwh: int
    aside: tuple[Aside, ...]
    clocks: Mapping[ClockState, int]
    worst_ms: int | None
    worst_step: int | None
    marks: tuple[tuple[int, int, int], ...]
    latest_ms: int | None
    compared: Total | None

    @property
    def aside_uwh(self) -> int:
        return sum(one.energy_uwh for one in self.aside)


@dataclass(frozen=True, slots=True)
class Measured:
    """A period of a community.

    Attributes:
        steps: those of the period.
        meters: in the order of names.
        without_block: how many steps of the period have no block yet.
    """

    steps: range
    meters: tuple[MeterReport, ...]
    without_block: int

    @property
    def summary(self) -> Summary:
        return summarise(self.meters)


def summarise(meters: Sequence[MeterReport]) -> Summary:
    """The sum over some meters."""
    totals = [total(meter.compared) for meter in meters if meter.compared]
    return _summary([step for meter in meters for step in meter.steps], totals)


def summarise_steps(steps: Sequence[MeterStep]) -> Summary:
    """The sum over some steps of one meter, in order."""
    compared = [one for step in steps for one in step.compared]
    return _summary(steps, [total(compared)] if compared else [])


def _summary(steps: Sequence[MeterStep], totals: Sequence[Total]) -> Summary:
    heard = [step for step in steps if step.clock is not None]
    worst = max(heard, key=_error_ms, default=None)
    waits = [step.sealed_after_ms for step in steps if step.sealed_after_ms is not None]
    energies = [step.energy_uwh for step in steps if step.energy_uwh is not None]
    return Summary(
        len(steps),
        Counter(step.state for step in steps),
        sum(step.since_step is not None and step.energy_uwh is not None for step in steps),
        sum(energies),
        _asides(one for step in steps for one in step.aside),
        Counter(step.clock.state for step in heard if step.clock is not None),
        None if worst is None else _error_ms(worst),
        None if worst is None else worst.step,
        _marks_of(steps),
        max(waits, default=None),
        _sum_totals(totals) if totals else None,
    )


def _error_ms(step: MeterStep) -> int:
    return 0 if step.clock is None else step.clock.error_ms


def _marks_of(steps: Iterable[MeterStep]) -> tuple[tuple[int, int, int], ...]:
    counts: Counter[int] = Counter()
    amounts: dict[int, int] = {}
    for step in steps:
        counts.update(set(step.marks[::2]))
        for code, amount in zip(step.marks[::2], step.marks[1::2], strict=True):
            _add_mark(amounts, code, amount)
    return tuple((code, counts[code], amounts[code]) for code in sorted(counts))


def _add_mark(amounts: dict[int, int], code: int, amount: int) -> None:
    before = amounts.get(code, 0)
    # An error bound is no quantity: of several the greatest says it.
    amounts[code] = max(before, amount) if code == Mark.CLOCK_DOUBTFUL else before + amount


def _asides(found: Iterable[Aside]) -> tuple[Aside, ...]:
    records: Counter[str] = Counter()
    energy: Counter[str] = Counter()
    for one in found:
        records[one.reason] += one.records
        energy[one.reason] += one.energy_uwh
    return tuple(Aside(reason, records[reason], energy[reason]) for reason in sorted(records))


def _sum_totals(totals: Sequence[Total]) -> Total:
    return Total(
        sum(one.comparisons for one in totals),
        sum(one.outside for one in totals),
        sum(one.counted_uwh for one in totals),
        sum(one.index_uwh for one in totals),
        sum(one.bound_uwh for one in totals),
        sum(one.allowed_uwh for one in totals),
    )


# --- Out of the blocks. ---


@dataclass(slots=True)
class _Open:
    """What is known of a step while blocks are gone through."""

    closed: bool = False
    energy_uwh: int | None = None
    counted_uwh: int = 0
    block: int | None = None
    sealed_after_ms: int | None = None
    since_step: int | None = None
    watched_ms: int | None = None
    clock: ClockReading | None = None
    marks: dict[int, int] = field(default_factory=dict)
    aside: list[Aside] = field(default_factory=list)

    def finish(self, meter: str, step: int, compared: Iterable[Comparison]) -> MeterStep:
        return MeterStep(
            meter,
            step,
            self._state(step),
            self.energy_uwh,
            self.counted_uwh,
            _asides(self.aside),
            self.block,
            self.sealed_after_ms,
            self.since_step,
            self.watched_ms,
            self.clock,
            tuple(part for pair in sorted(self.marks.items()) for part in pair),
            tuple(compared),
        )

    def _state(self, step: int) -> StepState:
        if self.energy_uwh is not None:
            return StepState.CLOSED if self.block == step else StepState.LATE
        if self.closed:
            return StepState.SET_ASIDE
        return StepState.NOT_HEARD if self.clock is None else StepState.NOT_CLOSED


class Measuring:
    """Takes a ledger's blocks, in order and from its beginning, for the steps asked for."""

    def __init__(self, steps: range, step_s: int, seen: Iterable[Seen] = ()) -> None:
        """
        Args:
            steps: those asked for.
            step_s: length of a step, seconds.
            seen: what people read off displays, of any time.
        """
        self._steps = steps
        self._step_s = step_s
        self._rows: dict[str, dict[int, _Open]] = {}
        self._pairs: dict[str, list[Pair]] = {}
        self._authority: list[Record] = []
        self._dials: dict[str, list[Dial]] = {}
        self._totals: Counter[str] = Counter()
        self._begun: dict[str, dict[tuple[str, int], int]] = {}
        self._before: State | None = None
        for one in sorted(seen):
            self._dials.setdefault(one.meter, []).append(Dial(one))

    def take(self, checked: Checked) -> None:
        """Takes the next block."""
        header = checked.header.body
        assert isinstance(header, Header)  # noqa: S101 - `check_block` has seen to it
        if header.step in self._steps and self._before is not None:
            self._expect(self._before, header.step)
        for verdict in checked.verdicts:
            body = verdict.record.body
            if isinstance(body, ChainRecord):
                self._take(checked.state, header, verdict, body)
            elif isinstance(body, Registration | ReAnchor) and verdict.reason is None:
                self._authority.append(verdict.record)
        for name in self._dials.keys() & checked.state.meters.keys():
            self._begin(checked.state.meters[name])
        self._before = checked.state

    def finish(self) -> Measured:
        """What the blocks so far come to."""
        known = known_of(self._authority)
        compared: dict[tuple[str, int], list[Comparison]] = {}
        pairs = [pair for found in self._pairs.values() for pair in found]
        for row in compare(pairs, known):
            if row.step in self._steps:
                compared.setdefault((row.meter, row.step), []).append(row)
        meters = [
            self._report(meter, known.meters, compared)
            for _, meter in sorted(self._meters.items())
            if meter.name in self._rows
        ]
        newest = self._before.step if self._before is not None else self._steps.start - 1
        without = max(0, self._steps.stop - max(newest + 1, self._steps.start))
        return Measured(self._steps, tuple(meters), without)

    @property
    def _meters(self) -> Mapping[str, Meter]:
        return {} if self._before is None else self._before.meters

    def _report(
        self,
        meter: Meter,
        details: Mapping[tuple[str, bytes], MeterDetails],
        compared: Mapping[tuple[str, int], Sequence[Comparison]],
    ) -> MeterReport:
        name = meter.name
        rows = [
            found.finish(name, step, compared.get((name, step), ()))
            for step, found in sorted(self._rows[name].items())
        ]
        dials = [
            (dial, device_of(details[name, terms.registration], self._begun.get(name, {})))
            for dial in self._dials.get(name, ())
            for terms in [self._terms(meter, step_of(dial.seen.at_ms, self._step_s))]
        ]
        bounds = (self._start_ms(self._steps.start), self._start_ms(self._steps.stop))
        newest = self._terms(meter, self._steps.stop - 1)
        return MeterReport(
            name,
            details[name, newest.registration],
            tuple(rows),
            tuple(shown(dials, *bounds)),
            tuple(unanswered(dials, *bounds)),
        )

    def _start_ms(self, step: int) -> int:
        return step_start_ms(step, self._step_s)

    @staticmethod
    def _terms(meter: Meter, step: int) -> Terms:
        return meter.in_force(step) or meter.terms[0]

    def _expect(self, before: State, step: int) -> None:
        """Who could have been heard in a step has a row, even if nobody heard him. Of meters that
        tell what members consume nothing stands in a ledger."""
        for name, meter in before.meters.items():
            is_silent = meter.is_private or meter.terms[-1].valid_to is not None
            if not is_silent and meter.terms[0].from_step <= step:
                self._open(name, step)

    def _open(self, meter: str, step: int) -> _Open:
        return self._rows.setdefault(meter, {}).setdefault(step, _Open())

    def _take(self, state: State, header: Header, verdict: Verdict, body: ChainRecord) -> None:
        if body.meter in self._dials:
            self._turn(state.meters[body.meter], body, verdict.energy_uwh)
        pair = pair_of(verdict.record) if verdict.reason is None else None
        if pair is not None:
            self._keep(pair)
        if body.step in self._steps:
            self._note(self._open(body.meter, body.step), header, verdict, body)

    def _keep(self, pair: Pair) -> None:
        kept = self._pairs.setdefault(pair.meter, [])
        if pair.step < self._steps.start:
            kept[:] = [pair]  # only the newest before the period is compared with what is in it
        elif pair.step in self._steps:
            kept.append(pair)

    def _note(self, row: _Open, header: Header, verdict: Verdict, body: ChainRecord) -> None:
        if row.clock is None or body.clock.error_ms >= row.clock.error_ms:
            row.clock = body.clock
        for code, amount in zip(body.marks[::2], body.marks[1::2], strict=True):
            _add_mark(row.marks, code, amount)
        if verdict.reason is not None:
            is_close = isinstance(body, StepClose)
            row.closed = row.closed or is_close
            moved = 0 if is_close else verdict.energy_uwh
            row.aside.append(Aside(verdict.reason.value, 1, moved))
        elif isinstance(body, StepClose):
            row.closed = True
            row.energy_uwh = verdict.energy_uwh
            # What a device says of its readings does not tell of a step without a close.
            row.since_step = row.since_step if verdict.since_step is None else verdict.since_step
            row.block = header.step
            row.sealed_after_ms = header.sealed_ms - self._start_ms(body.step + 1)
            row.watched_ms = sum(body.watched[1::2]) - sum(body.watched[::2])
        elif isinstance(body, Batch) or (isinstance(body, Reading) and body.counting):
            row.counted_uwh += verdict.energy_uwh
            if isinstance(body, Reading) and body.since_step is not None:
                row.since_step = body.since_step

    def _begin(self, meter: Meter) -> None:
        """Notes from what a device on the wall has been registered."""
        key = (meter.serial, meter.index_wh)
        self._begun.setdefault(meter.name, {}).setdefault(key, meter.index_from_uwh)

    def _turn(self, meter: Meter, body: ChainRecord, energy_uwh: int) -> None:
        """Turns the dials of a meter by one record."""
        error_ms = body.clock.error_ms
        for at_ms, total_uwh, is_whole in self._points(meter, body, energy_uwh):
            for dial in self._dials[meter.name]:
                dial.note(at_ms, error_ms, total_uwh, is_whole=is_whole)

    def _points(
        self, meter: Meter, body: ChainRecord, energy_uwh: int
    ) -> list[tuple[int, int, bool]]:
        """When the chain had registered how much, by one record."""
        before = self._totals[meter.name]
        match body:
            case RunStart():
                return [(body.at_ms, before, False)]
            case Batch():
                self._totals[meter.name] += energy_uwh
                return self._lots(meter.terms_of(body), body, before)
            case Reading(counting=True):
                self._totals[meter.name] += energy_uwh
                return [(body.at_ms, before + energy_uwh, True)]
            case StepClose():
                # At a step's end every pulse before it is in a lot; an index was read before.
                terms = meter.in_force(body.step)
                is_whole = terms is not None and not terms.is_index
                return [(self._start_ms(body.step + 1), before, is_whole)]
            case _:
                return []

    def _lots(self, terms: Terms, body: Batch, before_uwh: int) -> list[tuple[int, int, bool]]:
        start_ms, register = self._start_ms(body.step), body.register
        points = []
        for pulses, closed_ms in zip(body.pulses, body.closed_ms, strict=True):
            register += pulses
            total_uwh = before_uwh + terms.energy_uwh(body.register, register)
            points.append((start_ms + closed_ms, total_uwh, True))
        return points
