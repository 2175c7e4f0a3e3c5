"""An accuracy report as one HTML file: no script, no address, nothing that is fetched; the same
bytes for the same ledger."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo

from cryptometer.accuracy import Total, percent
from cryptometer.authority_records import CountingSource
from cryptometer.local_calendar import LocalStep, local_steps
from cryptometer.metrology import UWH_PER_KWH
from cryptometer.readable import mark_name, utc
from gateway.exports.accuracy_table import marks_text
from gateway.exports.accuracy_words import figures, is_good, sentences
from gateway.exports.displays import Shown
from gateway.exports.measured import (
    Measured,
    MeterReport,
    MeterStep,
    StepState,
    Summary,
    summarise,
    summarise_steps,
)
from gateway.exports.plots import Band, Dot, Span, difference_plot, energy_plot, wait_plot
from gateway.exports.source import Source, one_line
from gateway.pages.document import document
from gateway.pages.markup import Markup, aligned, facts, figure, markup, name_of, table, tag

ALL_STEPS_MAX = 300  # of one meter: three days; of more, days and the steps worth a look are shown
NOTED_MAX = 500  # steps worth a look of one meter; the CSV has them all
_LABELS_MAX = 16  # below a plot


@dataclass(frozen=True, slots=True)
class Period:
    """What was asked for.

    Attributes:
        text: as it was written: 2026-10, or 2026-10-25.
        zone_name: of the local days.
        days: the first of them, and the one behind the last.
    """

    text: str
    zone_name: str
    zone: tzinfo
    days: tuple[date, date]


def accuracy_html(measured: Measured, source: Source, period: Period) -> str:
    """The whole page."""
    places = {one.step: one for one in local_steps(*period.days, source.step_s, period.zone)}
    span = Span(measured.steps, tuple(_ticks(list(places.values()))))
    name = one_line(source.name)
    return document(
        f"Accuracy of {name}, {period.text}",
        tag("h1", "Accuracy of ", name_of(name), f", {period.text}"),
        _lead(source, period),
        *_said(measured),
        *_community(measured),
        *(part for meter in measured.meters for part in _meter(meter, span, places, period)),
        *_made_from(measured, source, period),
    )


def _lead(source: Source, period: Period) -> Markup:
    return tag(
        "p",
        f"Energy in the blocks against the meters' own indexes. Steps of {source.step_s} s, local"
        f" days of {period.zone_name}. Made from the ledger's checkpoint of size"
        f" {source.checkpoint.size}, root ",
        tag("code", f"{source.checkpoint.root.hex()[:16]}…"),
        ": ",
        tag("a", "how to check it", href="#made-from"),
        ".",
        class_="soft",
    )


def _said(measured: Measured) -> Iterator[Markup]:
    good = is_good(measured)
    kind = "" if good is None else " good" if good else " bad"
    yield tag("div", *(tag("p", one) for one in sentences(measured)), class_=f"said{kind}")
    yield tag(
        "dl",
        *(
            tag("div", tag("dt", what), tag("dd", said, class_="fine" if fine else "no"))
            for what, said, fine in figures(measured)
        ),
        class_="figures",
    )


# --- The community. ---


def _community(measured: Measured) -> Iterator[Markup]:
    meters = [(meter, summarise([meter])) for meter in measured.meters]
    is_several = len(meters) > 1
    title = "Against the meters' own indexes"
    yield tag("h2", title)
    rows = [
        [_link(meter.name), meter.details.accuracy_class, *_total(summary.compared)]
        for meter, summary in meters
    ]
    whole = [["all", "", *_total(measured.summary.compared)]] if is_several else []
    yield _table(title, ["meter", "class", *_COMPARED], [*rows, *whole])
    yield _how_to_read()
    title = "Steps and energy"
    yield tag("h2", title)
    rows = [[_link(meter.name), *_sums(summary)] for meter, summary in meters]
    whole = [["all", *_sums(measured.summary)]] if is_several else []
    yield _table(title, ["meter", *_SUMS], [*rows, *whole])


_DIFFERENCE = ("counted kWh", "index kWh", "difference µWh", "%", "bound ± µWh", "within")
_COMPARED = ("compared", "outside", *_DIFFERENCE)
_SUMS = (
    "steps",
    "in time",
    "late",
    "not closed",
    "not heard",
    "energy kWh",
    "set aside kWh",
    "latest s",
    "worst clock ms",
)


def _sums(summary: Summary) -> list[str]:
    states = summary.states
    not_closed = states.get(StepState.NOT_CLOSED, 0) + states.get(StepState.SET_ASIDE, 0)
    return [
        str(summary.steps),
        str(states.get(StepState.CLOSED, 0)),
        str(states.get(StepState.LATE, 0)),
        str(not_closed),
        str(states.get(StepState.NOT_HEARD, 0)),
        _kwh(summary.energy_uwh),
        _kwh(summary.aside_uwh),
        _seconds(summary.latest_ms),
        _known(summary.worst_ms),
    ]


def _total(total: Total | None) -> list[str]:
    if total is None:
        return ["0", *[""] * (len(_COMPARED) - 1)]
    return [str(total.comparisons), str(total.outside), *_difference(total)]


def _difference(one: Total | Shown) -> list[str]:
    """Both energies, their difference, its bound, and whether that holds."""
    counted = one.registered_uwh if isinstance(one, Shown) else one.counted_uwh
    index = one.shown_uwh if isinstance(one, Shown) else one.index_uwh
    return [
        _kwh(counted),
        _kwh(index),
        _grouped(one.difference_uwh, signed=True),
        percent(one.difference_ppm).removesuffix(" %"),
        _grouped(one.allowed_uwh + one.bound_uwh),
        _yes(one.is_within),
    ]


def _how_to_read() -> Markup:
    return tag(
        "p",
        "A ",
        tag("em", "difference"),
        " is what was counted minus what the meter's own index grew by between the same two"
        " moments: above 0, more was counted. Its ",
        tag("em", "bound"),
        " is the maximum permissible error of the meter's class at I",
        tag("sub", "min"),
        ", the smallest the law permits, and what the last digits alone explain: one unit of the"
        " index, and one pulse. ",
        tag("em", "Late"),
        ": closed in a later block than the step's own. ",
        tag("em", "Not heard"),
        ": the ledger has no record of the step; silence is no zero. ",
        tag("em", "Set aside"),
        ": registered by the meter's chain, not counted, and kept with its reason. Clock states: S"
        " synchronised, I synchronised with an error above 1 s, R carried on since, U unknown.",
        class_="soft",
    )


# --- A meter. ---


def _meter(
    meter: MeterReport, span: Span, places: dict[int, LocalStep], period: Period
) -> Iterator[Markup]:
    name, summary = meter.name, summarise([meter])
    yield tag("h2", "Meter ", name_of(name), class_="meter", id=name)
    yield _facts(meter, summary, places)
    gaps = [step.step for step in meter.steps if step.energy_uwh is None]
    energies = [(step.step, step.energy_uwh) for step in meter.steps if step.energy_uwh is not None]
    at = f"Local time, {period.zone_name}."
    shaded = f" Shaded: no close that counts, {_count(gaps)}." if gaps else ""
    yield tag("h3", "Energy of each step")
    title = f"{name}: energy of each step"
    plot = energy_plot(title, span, energies, gaps)
    yield figure(plot, title, f"{_count(energies)} of {name}. {at}{shaded}")
    if meter.compared:
        yield tag("h3", "Difference from the meter's own index, and what is permitted")
        title = f"{name}: difference and bound"
        bands, dots = _differences(meter.steps)
        plot = difference_plot(title, span, bands, dots, gaps)
        said = f"{len(dots)} differences of {name}, over the band that is permitted. {at}"
        yield figure(plot, title, f"{said}{_crosses(dots, 'not within it')}{shaded}")
    yield tag("h3", "From a step's end until its block was sealed")
    waits = [
        Dot(step.step, step.sealed_after_ms, step.state is StepState.LATE)
        for step in meter.steps
        if step.sealed_after_ms is not None
    ]
    title = f"{name}: lateness"
    plot = wait_plot(title, span, waits, gaps)
    said = f"{_count(waits)} of {name}. {at}{_crosses(waits, 'late')}{shaded}"
    yield figure(plot, title, said)
    yield from _displays(meter)
    yield from _steps(meter, places)


def _crosses(dots: Sequence[Dot], why: str) -> str:
    crosses = [dot for dot in dots if dot.wrong]
    return f" Cross: {why}, {_count(crosses)}." if crosses else ""


def _count(steps: Sequence[object]) -> str:
    return f"{len(steps)} step{'' if len(steps) == 1 else 's'}"


def _facts(meter: MeterReport, summary: Summary, places: dict[int, LocalStep]) -> Markup:
    details = meter.details
    index = details.source is CountingSource.INDEX
    found: list[tuple[str, str]] = [
        ("serial number", name_of(one_line(details.serial))),
        (
            "class",
            markup(
                f"{details.accuracy_class}, MPE ±{percent(meter.mpe_ppm)[1:]} at I",
                tag("sub", "min"),
            ),
        ),
        ("counts", "its own index" if index else f"pulses, {details.constant} per kWh"),
        ("use", details.use.value),
        ("coarse", "yes: a pulse alone reaches the bound of a lot" if details.coarse else "no"),
    ]
    states = summary.states
    found.append(
        (
            "steps",
            ", ".join(f"{state.value} {states[state]}" for state in StepState if states.get(state)),
        )
    )
    if summary.several:
        found.append(("several steps in one", str(summary.several)))
    clocks = ", ".join(
        f"{state.value} {number}" for state, number in sorted(summary.clocks.items())
    )
    if summary.worst_ms is not None and summary.worst_step is not None:
        clocks += f"; worst error bound {summary.worst_ms} ms, {_when(summary.worst_step, places)}"
    found.append(("clock", clocks or "nothing was heard"))
    marks = ", ".join(
        f"{mark_name(code)} {amount} in {steps} step{'' if steps == 1 else 's'}"
        for code, steps, amount in summary.marks
    )
    found.append(("marks", marks or "none"))
    aside = ", ".join(
        f"{one.reason} {_kwh(one.energy_uwh)} kWh in {_records(one.records)}"
        for one in summary.aside
    )
    found.append(("set aside", aside or "nothing"))
    if summary.compared is not None:
        found.append(
            (
                "against its index",
                markup(
                    f"{percent(summary.compared.difference_ppm)} of"
                    f" {_kwh(summary.compared.index_uwh)} kWh, over all: within ",
                    _yes(summary.compared.is_within),
                ),
            )
        )
    return facts(found)


def _differences(steps: Iterable[MeterStep]) -> tuple[list[Band], list[Dot]]:
    found = [one for step in steps for one in step.compared]
    bands = [Band(one.since_step, one.step, one.allowed_uwh + one.bound_uwh) for one in found]
    return bands, [Dot(one.step, one.difference_uwh, not one.is_within) for one in found]


def _displays(meter: MeterReport) -> Iterator[Markup]:
    if not meter.shown and not meter.unanswered:
        return
    title = "The display, as somebody read it"
    yield tag("h3", title)
    header = [
        "since", "read", "serial", "registered kWh", "display kWh", "difference µWh", "%",
        "bound ± µWh", "within",
    ]  # fmt: skip
    rows = [
        [
            "registration" if one.since_ms is None else _minute(one.since_ms),
            _minute(one.at_ms),
            name_of(one_line(one.serial)),
            *_difference(one),
        ]
        for one in meter.shown
    ]
    yield _table(f"{meter.name}: {title}", header, rows, left=3)
    yield from (
        tag(
            "p",
            f"Read {_minute(one.at_ms)}, {one.wh} Wh: the ledger does not tell what was registered"
            " just before and behind it.",
            class_="soft",
        )
        for one in meter.unanswered
    )


def _steps(meter: MeterReport, places: dict[int, LocalStep]) -> Iterator[Markup]:
    steps, name, is_compared = meter.steps, meter.name, bool(meter.compared)
    if len(steps) <= ALL_STEPS_MAX:
        yield tag("h3", "Steps")
        yield _step_table(f"{name}: steps", steps, places, is_compared)
        return
    yield tag("h3", "Days")
    days: dict[date, list[MeterStep]] = {}
    for step in steps:
        days.setdefault(places[step.step].day, []).append(step)
    rows = []
    for day, of in days.items():
        summary = summarise_steps(of)
        compared = _total(summary.compared) if is_compared else []
        rows.append([day.isoformat(), *_sums(summary), *compared])
    header = ["day", *_SUMS, *(_COMPARED if is_compared else ())]
    yield _table(f"{name}: days", header, rows)
    noted = [step for step in steps if not step.is_plain]
    if not noted:
        said = "No step is worth a look of its own. The CSV lists them all."
        yield tag("p", said, class_="soft")
        return
    yield tag("h3", "Steps worth a look")
    yield _step_table(f"{name}: steps worth a look", noted[:NOTED_MAX], places, is_compared)
    if len(noted) > NOTED_MAX:
        yield tag("p", f"and {len(noted) - NOTED_MAX} more: the CSV lists them all.")


def _step_table(
    caption: str, steps: Iterable[MeterStep], places: dict[int, LocalStep], is_compared: bool
) -> Markup:
    header = [
        "begins", "state", "energy kWh", "sealed after s", "steps late", "clock", "± ms",
        "watched s", *(_DIFFERENCE if is_compared else ()), "notes",
    ]  # fmt: skip
    rows = [_step(step, places[step.step], is_compared) for step in steps]
    return _table(caption, header, rows, left=2, notes=True)


def _step(step: MeterStep, place: LocalStep, is_compared: bool) -> list[str]:
    after_ms, clock, found = step.sealed_after_ms, step.clock, step.difference
    state = step.state.value
    notes = [] if not step.marks else [marks_text(step.marks)]
    if step.since_step is not None:
        notes.append(f"energy since step {step.since_step}")
    notes += [
        f"set aside: {one.reason}, {_kwh(one.energy_uwh)} kWh in {_records(one.records)}"
        for one in step.aside
    ]
    nothing = [""] * len(_DIFFERENCE)
    return [
        f"{place.begins:%Y-%m-%d %H:%M%z}",
        state if step.state is StepState.CLOSED else tag("span", state, class_="no"),
        "" if step.energy_uwh is None else _kwh(step.energy_uwh),
        _seconds(after_ms),
        _known(step.late_steps),
        "" if clock is None else clock.state.value,
        "" if clock is None else str(clock.error_ms),
        _seconds(step.watched_ms),
        *((nothing if found is None else _difference(found)) if is_compared else []),
        "; ".join(notes),
    ]


# --- What it was made from. ---


def _made_from(measured: Measured, source: Source, period: Period) -> Iterator[Markup]:
    checkpoint = source.checkpoint
    has_readings = any(meter.shown or meter.unanswered for meter in measured.meters)
    readings = " --readings readings.csv" if has_readings else ""
    yield tag("h2", "What this page was made from, and how to check it", id="made-from")
    yield facts(
        [
            ("community", tag("code", source.community.hex())),
            ("checkpoint", tag("code", f"size {checkpoint.size}, root {checkpoint.root.hex()}")),
            ("newest block", tag("code", f"of step {source.step}")),
        ]
    )
    yield tag(
        "p",
        "Every number follows from the leaves of the ledger under this checkpoint: signed by the"
        " meters' devices, and the same for whoever has them. What a display showed was entered by"
        " hand and is in no ledger; it is marked as such.",
    )
    yield tag(
        "ol",
        tag(
            "li",
            "Copy the ledger's files to a machine of your own: the gateway serves them, or hands"
            " out the folder. Take ",
            tag("code", "community.pub"),
            " from the authority, not from the gateway.",
        ),
        tag(
            "li",
            "Have every signature, chain, energy, total and hash checked. It must name this"
            " community, this size and this root: ",
            tag("pre", tag("code", "cryptometer audit LEDGER --community community.pub")),
        ),
        tag(
            "li",
            "Make this page anew from the same files; it is the same, byte for byte: ",
            tag(
                "pre",
                tag(
                    "code",
                    f"cryptometer-gateway report accuracy --period {period.text} --zone"
                    f" {period.zone_name} --ledger LEDGER --community community.pub"
                    f"{readings} --out FILE.html",
                ),
            ),
        ),
    )


# --- Small parts. ---


def _ticks(places: Sequence[LocalStep]) -> Iterator[tuple[int, str]]:
    """Hours of a day or two, days of a month, months of a year."""
    days = sorted({place.day for place in places})
    if len(days) <= 2:
        hours = [place for place in places if _is_hour(place.begins, 3 * len(days))]
        yield from ((place.step, f"{place.begins:%H:%M}") for place in hours)
        return
    starts = [place for place in places if place.position == 1]
    if len(days) <= 31:
        every = -(-len(starts) // _LABELS_MAX)
        yield from ((place.step, f"{place.day.day}") for place in starts[::every])
        return
    yield from ((place.step, f"{place.day:%Y-%m}") for place in starts if place.day.day == 1)


def _is_hour(begins: datetime, every: int) -> bool:
    return begins.minute == 0 and begins.hour % every == 0


def _table(
    caption: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    left: int = 1,
    notes: bool = False,
) -> Markup:
    return table(caption, header, aligned(header, rows, "kWh"), left=left, notes=notes)


def _link(name: str) -> Markup:
    return tag("a", name, href=f"#{name}")


def _when(step: int, places: dict[int, LocalStep]) -> str:
    return f"{places[step].begins:%Y-%m-%d %H:%M%z}"


def _minute(ms: int) -> str:
    return f"{utc(ms)[:16]}Z"


def _records(number: int) -> str:
    return f"{number} record{'' if number == 1 else 's'}"


def _known(value: int | None) -> str:
    return "" if value is None else str(value)


def _seconds(ms: int | None) -> str:
    """Seconds, to the tenth below; nothing where nothing is known."""
    if ms is None:
        return ""
    tenths = ms // 100
    return f"{tenths // 10}.{tenths % 10}"


def _kwh(uwh: int) -> str:
    """Kilowatt-hours, exact, with three decimals at least."""
    whole, rest = divmod(abs(uwh), UWH_PER_KWH)
    return f"{'-' if uwh < 0 else ''}{whole}.{f'{rest:09d}'.rstrip('0'):0<3}"


def _grouped(value: int, *, signed: bool = False) -> str:
    """A whole number in groups of three, narrow blanks between."""
    return f"{value:{'+' if signed and value else ''},}".replace(",", "\u202f")


def _yes(is_within: bool) -> Markup:
    return tag("span", "yes", class_="yes") if is_within else tag("span", "NO", class_="no")
