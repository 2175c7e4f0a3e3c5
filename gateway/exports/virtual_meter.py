"""Virtual generation meters and computed market-face meters, a line for each member and step.

The first value and what came later stand apart: nothing that was given is ever changed, it is
added to, and the step of the block that added it says when.
"""

from collections.abc import Iterable, Sequence

from cryptometer.readable import utc
from cryptometer.steps import step_start_ms
from gateway.exports.allotments import Allotment
from gateway.exports.source import Source, kwh_text, to_csv, to_json, uwh_text

_HEADER = [
    "member",
    "step",
    "begin_utc",
    "end_utc",
    "first_uwh",
    "first_block",
    "later_uwh",
    "later_blocks",
    "virtual_generation_uwh",
    "virtual_generation_kwh",
    "consumption_uwh",
    "consumption_kwh",
    "market_face_uwh",
    "market_face_kwh",
]


def virtual_meter_csv(allotments: Iterable[Allotment], source: Source) -> str:
    """As CSV. `later_blocks` lists each supplement as BLOCK:ENERGY (µWh), with blanks between. A
    field is empty where nothing is known; a 0 was measured or given."""
    rows = []
    for one in in_order(allotments):
        first = one.first
        later = sum(given.energy_uwh for given in one.later) if one.given else None
        rows.append(
            [
                one.member,
                str(one.step),
                *_times(one.step, source.step_s),
                uwh_text(None if first is None else first.energy_uwh),
                "" if first is None else str(first.block),
                uwh_text(later),
                " ".join(f"{given.block}:{given.energy_uwh}" for given in one.later),
                uwh_text(one.total_uwh),
                kwh_text(one.total_uwh),
                uwh_text(one.consumption_uwh),
                kwh_text(one.consumption_uwh),
                uwh_text(one.market_uwh),
                kwh_text(one.market_uwh),
            ]
        )
    return to_csv(source.comments("virtual generation and market-face meters"), _HEADER, rows)


def virtual_meter_json(allotments: Iterable[Allotment], source: Source) -> str:
    """The same as JSON: energy in µWh as integers, in kWh as text with all its decimals."""
    return to_json(
        {
            "source": source.values(),
            "unit": "uWh",
            "rows": [_values(one, source.step_s) for one in in_order(allotments)],
        }
    )


def in_order(allotments: Iterable[Allotment]) -> Sequence[Allotment]:
    """By member, then by step: so that the order in which they were found changes no byte."""
    return sorted(allotments, key=lambda one: (one.member, one.step))


def _values(one: Allotment, step_s: int) -> dict[str, object]:
    begin, end = _times(one.step, step_s)
    first = one.first
    return {
        "member": one.member,
        "step": one.step,
        "begin_utc": begin,
        "end_utc": end,
        "first": None if first is None else {"block": first.block, "uwh": first.energy_uwh},
        "later": [{"block": given.block, "uwh": given.energy_uwh} for given in one.later],
        "virtual_generation_uwh": one.total_uwh,
        "virtual_generation_kwh": kwh_text(one.total_uwh) or None,
        "consumption_uwh": one.consumption_uwh,
        "consumption_kwh": kwh_text(one.consumption_uwh) or None,
        "market_face_uwh": one.market_uwh,
        "market_face_kwh": kwh_text(one.market_uwh) or None,
    }


def _times(step: int, step_s: int) -> tuple[str, str]:
    return utc(step_start_ms(step, step_s)), utc(step_start_ms(step + 1, step_s))
