"""A load curve: a line for each step, in UTC or by local days of 92, 96 or 100 quarter hours.

A step that nothing is known of has a line and no value. Silence is an outage, zero is a reading.
"""

from collections.abc import Mapping
from datetime import date, tzinfo

from cryptometer.local_calendar import local_steps, steps_of_day
from cryptometer.readable import utc
from cryptometer.steps import step_start_ms
from gateway.exports.source import Source, kwh_text, to_csv, uwh_text


def load_curve_utc(
    what: str,
    energy_uwh: Mapping[int, int],
    days: tuple[date, date],
    zone: tzinfo,
    source: Source,
    since: Mapping[int, int] | None = None,
) -> str:
    """The curve in UTC, for the steps of these local days.

    Args:
        what: whose energy it is, for the comments.
        energy_uwh: by step; steps without a value are absent.
        days: the first local day, and the one behind the last.
        since: of a meter, the steps that have the energy of several, and the one closed before each
            of them; None leaves the column out.

    Raises:
        ConfigurationError: the steps do not begin with the local day.
    """
    first = steps_of_day(days[0], source.step_s, zone).start
    end = steps_of_day(days[1], source.step_s, zone).start
    rows = [
        [
            str(step),
            utc(step_start_ms(step, source.step_s)),
            utc(step_start_ms(step + 1, source.step_s)),
            uwh_text(energy_uwh.get(step)),
            kwh_text(energy_uwh.get(step)),
            *_since(since, step),
        ]
        for step in range(first, end)
    ]
    return to_csv(
        source.comments(f"load curve of {what} in UTC"),
        ["step", "begin_utc", "end_utc", "energy_uwh", "energy_kwh", *_column(since)],
        rows,
    )


def load_curve_local(
    what: str,
    energy_uwh: Mapping[int, int],
    days: tuple[date, date],
    zone: tzinfo,
    source: Source,
    since: Mapping[int, int] | None = None,
) -> str:
    """The curve by local days, each position counted from 1; arguments as `load_curve_utc`.

    Raises:
        ConfigurationError: the steps do not begin with the local day.
    """
    rows = [
        [
            place.day.isoformat(),
            str(place.position),
            place.begins.isoformat(),
            str(place.step),
            uwh_text(energy_uwh.get(place.step)),
            kwh_text(energy_uwh.get(place.step)),
            *_since(since, place.step),
        ]
        for place in local_steps(*days, source.step_s, zone)
    ]
    return to_csv(
        source.comments(f"load curve of {what} in local time, zone {zone}"),
        ["day", "position", "begin_local", "step", "energy_uwh", "energy_kwh", *_column(since)],
        rows,
    )


def _column(since: Mapping[int, int] | None) -> list[str]:
    return [] if since is None else ["since_step"]


def _since(since: Mapping[int, int] | None, step: int) -> list[str]:
    return [] if since is None else [str(since.get(step, ""))]
