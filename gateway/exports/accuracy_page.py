"""An accuracy report as one HTML file: no script, no address, nothing that is fetched. It prints,
is read on a phone, follows the reader's light or dark, and is the same bytes for the same ledger.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, tzinfo
from html import escape

from cryptometer.accuracy import Total, percent
from cryptometer.local_calendar import LocalStep, local_steps
from cryptometer.metrology import UWH_PER_KWH
from cryptometer.readable import mark_name, utc
from cryptometer.records import CountingSource
from gateway.exports.accuracy_table import marks_text
from gateway.exports.accuracy_words import is_good, sentences
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

ALL_STEPS_MAX = 300  # of one meter: three days; of more, days and the steps worth a look are shown
NOTED_MAX = 500  # steps worth a look of one meter; the CSV has them all
_LABELS_MAX = 16  # below a plot

_STYLE = """\
:root{--ink:#1b1f24;--soft:#57606a;--paper:#fff;--line:#d0d7de;--fill:#f3f5f7;--bar:#4b83c3;
--band:#cfe8d5;--good:#1a7f37;--wrong:#c4261d;--gap:#e4d9c3}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa4ae;--paper:#14181c;
--line:#3a424a;--fill:#1d2328;--bar:#6ea3dd;--band:#21452e;--good:#57c274;--wrong:#ff7b70;
--gap:#4a4130}}
*{box-sizing:border-box}
body{margin:0 auto;padding:1rem;max-width:72rem;color:var(--ink);background:var(--paper);
font:16px/1.45 system-ui,sans-serif}
h1{font-size:1.5rem;margin:0}h2{font-size:1.25rem;margin:2rem 0 .3rem}
h3{font-size:1rem;margin:1rem 0 .2rem}
p{margin:.3rem 0}.soft{color:var(--soft)}small,.soft{font-size:.875rem}
.said{border:1px solid var(--line);border-left:.5rem solid var(--soft);background:var(--fill);
padding:.6rem 1rem;margin:1rem 0}.said p:first-child{font-weight:600}
.said.good{border-left-color:var(--good)}.said.bad{border-left-color:var(--wrong)}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-size:.875rem;font-variant-numeric:tabular-nums;margin:.4rem 0}
th,td{padding:.15rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap;
vertical-align:top}
th{font-weight:600;text-align:right;background:var(--fill)}td.l,th.l{text-align:left}
td.wrap{white-space:normal;min-width:12rem}
.no{color:var(--wrong);font-weight:600}.yes{color:var(--good)}
dl{display:grid;grid-template-columns:max-content 1fr;
gap:.1rem 1rem;font-size:.875rem;margin:.4rem 0}
dt{color:var(--soft)}dd{margin:0}
code{overflow-wrap:anywhere}
svg{display:block;width:100%;min-width:34rem;height:auto}
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}
.grid{stroke:var(--line);stroke-width:.5}.axis{stroke:var(--soft);stroke-width:1}
.bar{fill:var(--bar)}.band{fill:var(--band)}.gap{fill:var(--gap)}
.dot{stroke:var(--bar);stroke-width:3.5;stroke-linecap:round;fill:none}
.wrong{stroke:var(--wrong);stroke-width:2;fill:none}
@media print{html{font-size:11px}body{max-width:none;padding:0;font-size:1rem}
.wide{overflow:visible}svg{min-width:0}
table{font-size:8px}th,td{padding:.05rem .25rem;white-space:normal}
td:first-child{white-space:nowrap}h2.meter{break-before:page}
tr,svg,.said{break-inside:avoid}thead{display:table-header-group}
*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""


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
    title = f"Accuracy of {name}, {period.text}"
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="soft">Energy in the blocks against the meters\' own indexes. Steps of'
            f" {source.step_s} s, local days of {escape(period.zone_name)}.</p>",
            *_said(measured),
            *_community(measured),
            *(line for meter in measured.meters for line in _meter(meter, span, places)),
            *_made_from(source, period),
            "</body>\n</html>\n",
        ]
    )


def _said(measured: Measured) -> Iterator[str]:
    good = is_good(measured)
    kind = "" if good is None else " good" if good else " bad"
    yield f'<div class="said{kind}">'
    yield from (f"<p>{escape(one)}</p>" for one in sentences(measured))
    yield "</div>"


# --- The community. ---


def _community(measured: Measured) -> Iterator[str]:
    meters = [(meter, summarise([meter])) for meter in measured.meters]
    is_several = len(meters) > 1
    yield "<h2>Against the meters' own indexes</h2>"
    rows = [
        [_link(meter.name), meter.details.accuracy_class, *_total(summary.compared)]
        for meter, summary in meters
    ]
    whole = [["all", "", *_total(measured.summary.compared)]] if is_several else []
    yield from _table(["meter", "class", *_COMPARED], [*rows, *whole])
    yield from _how_to_read()
    yield "<h2>Steps and energy</h2>"
    rows = [[_link(meter.name), *_sums(summary)] for meter, summary in meters]
    whole = [["all", *_sums(measured.summary)]] if is_several else []
    yield from _table(["meter", *_SUMS], [*rows, *whole])


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


def _how_to_read() -> Iterator[str]:
    yield (
        '<p class="soft">A <em>difference</em> is what was counted minus what the meter\'s own'
        " index grew by between the same two moments: above 0, more was counted. Its <em>bound</em>"
        " is the maximum permissible error of the meter's class at I<sub>min</sub>, the smallest"
        " the law permits, and what the last digits alone explain: one unit of the index, and one"
        " pulse. <em>Late</em>: closed in a later block than the step's own. <em>Not heard</em>:"
        " the ledger has no record of the step; silence is no zero. <em>Set aside</em>:"
        " registered by the meter's chain, not counted, and kept with its reason. Clock states: S"
        " synchronised, I synchronised with an error above 1 s, R carried on since, U unknown. In"
        " plots a shaded step has no close that counts, and a cross is a step that is late, or not"
        " within its bound.</p>"
    )


# --- A meter. ---


def _meter(meter: MeterReport, span: Span, places: dict[int, LocalStep]) -> Iterator[str]:
    name = escape(meter.name)
    summary = summarise([meter])
    yield f'<h2 class="meter" id="{name}">Meter {name}</h2>'
    yield from _facts(meter, summary, places)
    gaps = [step.step for step in meter.steps if step.energy_uwh is None]
    energies = [(step.step, step.energy_uwh) for step in meter.steps if step.energy_uwh is not None]
    yield "<h3>Energy of each step</h3>"
    yield _wide(energy_plot(f"{name}: energy of each step", span, energies, gaps))
    if meter.compared:
        yield "<h3>Difference from the meter's own index, and what is permitted</h3>"
        bands, dots = _differences(meter.steps)
        plot = difference_plot(f"{name}: difference and bound", span, bands, dots, gaps)
        yield _wide(plot)
    yield "<h3>From a step's end until its block was sealed</h3>"
    waits = [
        Dot(step.step, step.sealed_after_ms, step.state is StepState.LATE)
        for step in meter.steps
        if step.sealed_after_ms is not None
    ]
    yield _wide(wait_plot(f"{name}: lateness", span, waits, gaps))
    yield from _displays(meter)
    yield from _steps(meter.steps, places)


def _facts(meter: MeterReport, summary: Summary, places: dict[int, LocalStep]) -> Iterator[str]:
    details = meter.details
    index = details.source is CountingSource.INDEX
    facts = [
        ("serial number", escape(one_line(details.serial))),
        (
            "class",
            f"{details.accuracy_class}, MPE ±{percent(meter.mpe_ppm)[1:]} at I<sub>min</sub>",
        ),
        ("counts", "its own index" if index else f"pulses, {details.constant} per kWh"),
        ("use", details.use.value),
        ("coarse", "yes: a pulse alone reaches the bound of a lot" if details.coarse else "no"),
    ]
    states = summary.states
    facts.append(
        (
            "steps",
            ", ".join(f"{state.value} {states[state]}" for state in StepState if states.get(state)),
        )
    )
    if summary.several:
        facts.append(("several steps in one", str(summary.several)))
    clocks = ", ".join(
        f"{state.value} {number}" for state, number in sorted(summary.clocks.items())
    )
    if summary.worst_ms is not None and summary.worst_step is not None:
        clocks += f"; worst error bound {summary.worst_ms} ms, {_when(summary.worst_step, places)}"
    facts.append(("clock", clocks or "nothing was heard"))
    marks = ", ".join(
        f"{mark_name(code)} {amount} in {steps} step{'' if steps == 1 else 's'}"
        for code, steps, amount in summary.marks
    )
    facts.append(("marks", marks or "none"))
    aside = ", ".join(
        f"{one.reason} {_kwh(one.energy_uwh)} kWh in {_records(one.records)}"
        for one in summary.aside
    )
    facts.append(("set aside", aside or "nothing"))
    if summary.compared is not None:
        within = _yes(summary.compared.is_within)
        facts.append(
            (
                "against its index",
                f"{percent(summary.compared.difference_ppm)} of"
                f" {_kwh(summary.compared.index_uwh)} kWh, over all: within {within}",
            )
        )
    yield "<dl>"
    yield from (f"<dt>{what}</dt><dd>{said}</dd>" for what, said in facts)
    yield "</dl>"


def _differences(steps: Iterable[MeterStep]) -> tuple[list[Band], list[Dot]]:
    found = [one for step in steps for one in step.compared]
    bands = [Band(one.since_step, one.step, one.allowed_uwh + one.bound_uwh) for one in found]
    return bands, [Dot(one.step, one.difference_uwh, not one.is_within) for one in found]


def _displays(meter: MeterReport) -> Iterator[str]:
    if not meter.shown and not meter.unanswered:
        return
    yield "<h3>The display, as somebody read it</h3>"
    header = [
        "since", "read", "serial", "registered kWh", "display kWh", "difference µWh", "%",
        "bound ± µWh", "within",
    ]  # fmt: skip
    rows = [
        [
            "registration" if one.since_ms is None else _minute(one.since_ms),
            _minute(one.at_ms),
            escape(one_line(one.serial)),
            *_difference(one),
        ]
        for one in meter.shown
    ]
    yield from _table(header, rows, left=3)
    yield from (
        f'<p class="soft">Read {_minute(one.at_ms)}, {one.wh} Wh: the ledger does not tell what was'
        " registered just before and behind it.</p>"
        for one in meter.unanswered
    )


def _steps(steps: Sequence[MeterStep], places: dict[int, LocalStep]) -> Iterator[str]:
    if len(steps) <= ALL_STEPS_MAX:
        yield "<h3>Steps</h3>"
        yield from _step_table(steps, places)
        return
    yield "<h3>Days</h3>"
    days: dict[date, list[MeterStep]] = {}
    for step in steps:
        days.setdefault(places[step.step].day, []).append(step)
    rows = []
    for day, of in days.items():
        summary = summarise_steps(of)
        rows.append([day.isoformat(), *_sums(summary), *_total(summary.compared)])
    yield from _table(["day", *_SUMS, *_COMPARED], rows)
    noted = [step for step in steps if not step.is_plain]
    if not noted:
        yield '<p class="soft">No step is worth a look of its own. The CSV lists them all.</p>'
        return
    yield "<h3>Steps worth a look</h3>"
    yield from _step_table(noted[:NOTED_MAX], places)
    if len(noted) > NOTED_MAX:
        yield f"<p>and {len(noted) - NOTED_MAX} more: the CSV lists them all.</p>"


def _step_table(steps: Iterable[MeterStep], places: dict[int, LocalStep]) -> Iterator[str]:
    header = [
        "begins", "state", "energy kWh", "sealed after s", "steps late", "clock", "± ms",
        "watched s", "counted kWh", "index kWh", "difference µWh", "%", "bound ± µWh", "within",
        "notes",
    ]  # fmt: skip
    rows = [_step(step, places[step.step]) for step in steps]
    yield from _table(header, rows, left=2, notes=True)


def _step(step: MeterStep, place: LocalStep) -> list[str]:
    after_ms, clock, found = step.sealed_after_ms, step.clock, step.difference
    state = step.state.value
    notes = [] if not step.marks else [marks_text(step.marks)]
    if step.since_step is not None:
        notes.append(f"energy since step {step.since_step}")
    notes += [
        f"set aside: {one.reason}, {_kwh(one.energy_uwh)} kWh in {_records(one.records)}"
        for one in step.aside
    ]
    return [
        f"{place.begins:%Y-%m-%d %H:%M%z}",
        state if step.state is StepState.CLOSED else f'<span class="no">{state}</span>',
        "" if step.energy_uwh is None else _kwh(step.energy_uwh),
        _seconds(after_ms),
        _known(step.late_steps),
        "" if clock is None else clock.state.value,
        "" if clock is None else str(clock.error_ms),
        _seconds(step.watched_ms),
        *([""] * 6 if found is None else _difference(found)),
        escape("; ".join(notes)),
    ]


# --- What it was made from. ---


def _made_from(source: Source, period: Period) -> Iterator[str]:
    checkpoint = source.checkpoint
    yield "<h2>What this page was made from</h2>\n<dl>"
    for what, said in (
        ("community", source.community.hex()),
        ("checkpoint", f"size {checkpoint.size}, root {checkpoint.root.hex()}"),
        ("newest block", f"of step {source.step}"),
    ):
        yield f"<dt>{what}</dt><dd><code>{said}</code></dd>"
    yield "</dl>"
    yield (
        "<p>Every number follows from the leaves of the ledger under this checkpoint: signed by the"
        " meters' devices, and the same for whoever has them. <code>cryptometer audit</code> checks"
        " the ledger with nothing but the community's public keys. What a display showed was"
        " entered by hand and is in no ledger; it is marked as such. The same ledger"
        " and the same entries give this file again, byte for byte:</p>"
        f"<p><code>cryptometer-gateway report accuracy --period {escape(period.text)} --zone"
        f" {escape(period.zone_name)} --out FILE.html</code></p>"
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
    header: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1, notes: bool = False
) -> Iterator[str]:
    """A table of cells that are HTML already.

    Args:
        left: how many columns are text.
        notes: whether the last is, too, and may take several lines.
    """

    def kind(at: int) -> str:
        if at < left:
            return ' class="l"'
        return ' class="l wrap"' if notes and at == len(header) - 1 else ""

    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f"<th{kind(at)}>{cell}</th>" for at, cell in enumerate(header))
    yield "</tr></thead><tbody>"
    for row in rows:
        yield f"<tr>{''.join(f'<td{kind(at)}>{cell}</td>' for at, cell in enumerate(row))}</tr>"
    yield "</tbody></table></div>"


def _wide(plot: str) -> str:
    return f'<div class="wide">{plot}</div>'


def _link(name: str) -> str:
    return f'<a href="#{escape(name)}">{escape(name)}</a>'


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


def _yes(is_within: bool) -> str:
    return '<span class="yes">yes</span>' if is_within else '<span class="no">NO</span>'
