"""What an accuracy report says in sentences: for whoever reads nothing but these."""

from collections.abc import Iterator
from fractions import Fraction

from cryptometer.accuracy import Comparison, percent
from cryptometer.authority_records import CountingSource
from cryptometer.metrology import kwh, number
from cryptometer.readable import utc
from gateway.exports.measured import Measured, MeterReport, StepState, Summary


def is_good(measured: Measured) -> bool | None:
    """Whether everything compared is within; None where nothing was."""
    rows = [one.is_within for meter in measured.meters for one in meter.shown]
    rows += [one.is_within for meter in measured.meters for one in meter.compared]
    return all(rows) if rows else None


def sentences(measured: Measured) -> Iterator[str]:
    """The verdict first, then what it rests on."""
    yield _verdict(measured)
    yield from _widest(measured)
    yield from _beside(measured)
    yield _steps(measured.summary)
    summary = measured.summary
    if summary.aside:
        reasons = ", ".join(
            f"{one.reason} {kwh(one.energy_uwh)} in {_count(one.records, 'record')}"
            for one in summary.aside
        )
        yield f"Set aside (quarantined): {kwh(summary.aside_uwh)}: {reasons}."
    else:
        yield "No energy was set aside (quarantined)."
    if summary.worst_ms is not None:
        yield f"The worst error bound of any clock was {summary.worst_ms} ms."
    if measured.without_block:
        yield (
            f"The period is not over: {measured.without_block} of its {len(measured.steps)} steps"
            " have no block yet."
        )


def figures(measured: Measured) -> Iterator[tuple[str, str, bool]]:
    """What is seen at a glance: of what, how much, and whether that is as it should be."""
    summary = measured.summary
    compared, states = summary.compared, summary.states
    if compared is not None:
        inside = compared.comparisons - compared.outside
        yield (
            "compared, within the MPE",
            f"{inside} of {compared.comparisons}",
            not compared.outside,
        )
    widest = _widest_of(measured)
    if widest is not None:
        yield "widest, of what is permitted", f"{_used(widest)} %", widest.is_within
    closed, not_heard = (states.get(one, 0) for one in (StepState.CLOSED, StepState.NOT_HEARD))
    yield "closed in their own block", f"{closed} of {summary.steps}", closed == summary.steps
    yield "not heard", _count(not_heard, "step"), not not_heard
    yield "set aside", kwh(summary.aside_uwh), not summary.aside


def _widest_of(measured: Measured) -> Comparison | None:
    """The comparison that takes most of what is permitted."""
    found = [one for meter in measured.meters for one in meter.compared]
    return max(found, key=_part_of_bound, default=None)


def _part_of_bound(one: Comparison) -> Fraction:
    return Fraction(abs(one.difference_uwh), max(1, one.allowed_uwh + one.bound_uwh))


def _used(one: Comparison) -> str:
    """Percent of what is permitted, rounded up: what is outside never reads as 100."""
    return str(-(-100 * _part_of_bound(one) // 1))


def _widest(measured: Measured) -> Iterator[str]:
    widest = _widest_of(measured)
    if widest is None:
        return
    yield (
        f"The widest difference takes {_used(widest)} % of what is permitted: {widest.meter},"
        f" {utc(widest.at_ms)[:16]}Z, {'+' if widest.difference_uwh > 0 else ''}"
        f"{number(Fraction(widest.difference_uwh, 10**6))} Wh of"
        f" ±{number(Fraction(widest.allowed_uwh + widest.bound_uwh, 10**6))} Wh."
    )


def _verdict(measured: Measured) -> str:
    outside = {
        meter.name: sum(not one.is_within for one in meter.compared)
        for meter in measured.meters
        if meter.compared
    }
    total = measured.summary.compared
    if total is None:
        return "No step was compared: no meter has a second source in this period."
    mpe = "the maximum permissible error (MPE) of the meter's class, but for the last digits"
    meters = _count(len(outside), "meter")
    if not total.outside:
        all_of = (
            "The one compared step"
            if total.comparisons == 1
            else (f"All {total.comparisons} compared steps")
        )
        return f"{all_of} of {meters} {_is(total.comparisons)} within {mpe}."
    named = ", ".join(f"{name} {number}" for name, number in outside.items() if number)
    return (
        f"{total.outside} of {_count(total.comparisons, 'compared step')} of {meters}"
        f" {_is(total.outside)} NOT within {mpe}: {named}."
    )


def _beside(measured: Measured) -> Iterator[str]:
    """Meters that no second source is read of."""
    for meter in measured.meters:
        if meter.compared:
            continue
        if meter.shown:
            yield _by_display(meter)
        elif meter.details.source is CountingSource.INDEX:
            yield (
                f"{meter.name} is counted by its own index: what its blocks hold is the difference"
                " of its readings."
            )
        else:
            yield f"{meter.name} has no second source, and nobody has entered what it shows."


def _by_display(meter: MeterReport) -> str:
    outside = sum(not one.is_within for one in meter.shown)
    widest = max(meter.shown, key=lambda one: abs(one.shown_uwh))
    how = f"NOT within the MPE in {outside} of them" if outside else "within the MPE in each"
    return (
        f"{meter.name} was compared with its display,"
        f" {_count(len(meter.shown), 'time')}, and is {how}; over {kwh(abs(widest.shown_uwh))} the"
        f" difference is {percent(widest.difference_ppm)}."
    )


def _steps(summary: Summary) -> str:
    states = summary.states
    parts = [
        f"{states[state]} {said}"
        for state, said in (
            (StepState.LATE, "late"),
            (StepState.SET_ASIDE, "with a close that was set aside"),
            (StepState.NOT_CLOSED, "heard of and not closed"),
            (StepState.NOT_HEARD, "not heard of"),
        )
        if states.get(state)
    ]
    if summary.several:
        parts.append(f"{summary.several} with the energy of several steps in one")
    closed = states.get(StepState.CLOSED, 0)
    rest = f"; {', '.join(parts)}" if parts else ""
    return f"{closed} of {_count(summary.steps, 'step')} were closed in their own block{rest}."


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"
