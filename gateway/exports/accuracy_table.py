"""An accuracy report as CSV and as JSON: a line for each meter and step, and one for each time that
a display was compared."""

from collections.abc import Iterator

from cryptometer.accuracy import percent
from cryptometer.authority_records import Use
from cryptometer.readable import mark_name, utc
from cryptometer.steps import step_start_ms
from gateway.exports.accuracy_words import sentences
from gateway.exports.displays import Shown
from gateway.exports.measured import Measured, MeterReport, MeterStep
from gateway.exports.source import Source, kwh_text, no_formula, to_csv, to_json, uwh_text


def accuracy_csv(measured: Measured, source: Source) -> str:
    """As CSV, the verdict among the comments. `kind` is *step* or *display*. Differences are what
    was counted minus what the index says; `bound_uwh` is how far apart the two may be: the MPE of
    the index's energy, and what the last digits alone explain. A field is empty where nothing is
    known; a 0 was measured."""
    rows = [
        # The one text that a device chooses.
        row | {"compared_source": no_formula(str(row.get("compared_source", "")))}
        for row in _values(measured, source.step_s)
    ]
    header = list(_FIELDS)
    lines = [[_text(row.get(name)) for name in header] for row in rows]
    return to_csv(source.comments("accuracy", *sentences(measured)), header, lines)


def accuracy_json(measured: Measured, source: Source) -> str:
    """The same as JSON; energies in µWh as integers, kWh as text with all decimals."""
    return to_json(
        {
            "source": source.values(),
            "said": list(sentences(measured)),
            "rows": [
                {name: row[name] for name in _FIELDS if row.get(name) is not None}
                for row in _values(measured, source.step_s)
            ],
        }
    )


_FIELDS = (
    "kind",
    "meter",
    "class",
    "use",
    "step",
    "begin_utc",
    "end_utc",
    "state",
    "energy_uwh",
    "energy_kwh",
    "counted_uwh",
    "quarantined_uwh",
    "quarantined_why",
    "block",
    "late_steps",
    "sealed_after_ms",
    "since_step",
    "watched_ms",
    "clock_source",
    "clock_state",
    "clock_error_ms",
    "marks",
    "coarse",
    "compared_source",
    "compared_since_utc",
    "compared_counted_uwh",
    "compared_index_uwh",
    "difference_uwh",
    "difference_percent",
    "mpe_percent",
    "bound_uwh",
    "within",
)


def _values(measured: Measured, step_s: int) -> Iterator[dict[str, object]]:
    for meter in measured.meters:
        for step in meter.steps:
            yield _step(meter, step, step_s)
        for one in meter.shown:
            yield _display(meter, one)


def _head(kind: str, meter: MeterReport) -> dict[str, object]:
    details = meter.details
    return {
        "kind": kind,
        "meter": meter.name,
        "class": details.accuracy_class,
        "use": Use(details.use).value,
        "coarse": details.coarse,
        "mpe_percent": percent_text(meter.mpe_ppm),
    }


def _step(meter: MeterReport, step: MeterStep, step_s: int) -> dict[str, object]:
    row = _head("step", meter) | {
        "step": step.step,
        "begin_utc": utc(step_start_ms(step.step, step_s)),
        "end_utc": utc(step_start_ms(step.step + 1, step_s)),
        "state": step.state.value,
        "energy_uwh": step.energy_uwh,
        "energy_kwh": kwh_text(step.energy_uwh) or None,
        "counted_uwh": step.counted_uwh,
        "quarantined_uwh": step.aside_uwh,
        "quarantined_why": " ".join(
            f"{one.reason}:{one.records}:{one.energy_uwh}" for one in step.aside
        ),
        "block": step.block,
        "late_steps": step.late_steps,
        "sealed_after_ms": step.sealed_after_ms,
        "since_step": step.since_step,
        "watched_ms": step.watched_ms,
        "marks": marks_text(step.marks),
    }
    if step.clock is not None:
        row |= {
            "clock_source": step.clock.source.value,
            "clock_state": step.clock.state.value,
            "clock_error_ms": step.clock.error_ms,
        }
    found = step.difference
    if found is not None:
        row |= {
            "compared_source": step.compared[0].source,
            "compared_since_utc": utc(step.compared[0].since_ms),
            "compared_counted_uwh": found.counted_uwh,
            "compared_index_uwh": found.index_uwh,
            "difference_uwh": found.difference_uwh,
            "difference_percent": percent_text(found.difference_ppm),
            "bound_uwh": found.allowed_uwh + found.bound_uwh,
            "within": found.is_within,
        }
    return row


def _display(meter: MeterReport, one: Shown) -> dict[str, object]:
    return _head("display", meter) | {
        "end_utc": utc(one.at_ms),
        "compared_source": "display",
        "compared_since_utc": "registration" if one.since_ms is None else utc(one.since_ms),
        "compared_counted_uwh": one.registered_uwh,
        "compared_index_uwh": one.shown_uwh,
        "difference_uwh": one.difference_uwh,
        "difference_percent": percent_text(one.difference_ppm),
        "bound_uwh": one.allowed_uwh + one.bound_uwh,
        "within": one.is_within,
    }


def percent_text(ppm: int | None) -> str | None:
    """A percentage as programs read it, with four decimals; None of nothing."""
    return None if ppm is None else percent(ppm).removesuffix(" %").removeprefix("+")


def marks_text(marks: tuple[int, ...]) -> str:
    """MARK:AMOUNT, with blanks between."""
    pairs = zip(marks[::2], marks[1::2], strict=True)
    return " ".join(f"{mark_name(code)}:{amount}" for code, amount in pairs)


def _text(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case int():
            return uwh_text(value)
        case _:
            return str(value)
