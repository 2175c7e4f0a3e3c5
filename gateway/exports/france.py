"""A file of sharing coefficients for a French grid operator, its columns as a template says.

The layout that Enedis wants was not found in public sources: nothing here is verified against it,
and every file says so. A coefficient is what a member was given of what the generators gave in the
step; what nobody was given has no line, so that they add up to 1 or less.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, tzinfo
from typing import Any

from cryptometer.errors import ConfigurationError
from cryptometer.local_calendar import LocalStep, local_steps
from cryptometer.readable import utc
from cryptometer.settings import read_settings, setting
from cryptometer.steps import step_start_ms
from gateway.exports.apportion import coefficients, decimal_text
from gateway.exports.source import Source, kwh_text, quoted, uwh_text

UNVERIFIED = "layout not verified: no public description of the grid operator's file was found"
DECIMALS_MAX = 9
VALUES = (
    "point",
    "member",
    "day",
    "position",
    "begin_local",
    "begin_utc",
    "step",
    "coefficient",
    "energy_uwh",
    "energy_kwh",
)
_COLUMNS = {
    "PRM": "point",
    "Jour": "day",
    "Position": "position",
    "Horodate": "begin_local",
    "Coefficient": "coefficient",
}


@dataclass(frozen=True, slots=True)
class Template:
    """A file's form. `columns` gives titles their values, in order: one of VALUES, or =TEXT for the
    same text in each line."""

    delimiter: str = setting("between two fields", ";")
    decimal_mark: str = setting("of coefficients and kilowatt-hours", ",")
    decimals: int = setting("of a coefficient, at most 9", 6)
    heading: bool = setting("whether a line of titles comes first", default=True)
    comments: bool = setting("whether lines with # name the checkpoint", default=True)
    columns: dict[str, Any] = field(
        default_factory=lambda: dict(_COLUMNS), metadata={"doc": "titles and their values"}
    )


def read_template(table: Mapping[str, object]) -> Template:
    """Reads a parsed TOML file.

    Raises:
        ConfigurationError: naming the setting.
    """
    template = read_settings(Template, table, "template")
    if len(template.delimiter) != 1 or template.delimiter in '"\r\n':
        raise ConfigurationError("template delimiter is one character, and no quotation mark")
    if template.decimal_mark not in (",", "."):
        raise ConfigurationError("template decimal_mark is a comma or a full stop")
    if not 1 <= template.decimals <= DECIMALS_MAX:
        raise ConfigurationError(f"template decimals is from 1 to {DECIMALS_MAX}")
    if not template.columns:
        raise ConfigurationError("template columns has none")
    for title, value in template.columns.items():
        if value not in VALUES and not (isinstance(value, str) and value.startswith("=")):
            raise ConfigurationError(
                f"template columns {title!r} is one of {', '.join(VALUES)}, or =TEXT, not {value!r}"
            )
    return template


def coefficients_fr(
    totals: Mapping[int, Mapping[str, int]],
    produced_uwh: Mapping[int, int],
    points: Mapping[str, str],
    days: tuple[date, date],
    zone: tzinfo,
    source: Source,
    template: Template,
) -> str:
    """A line for each step of these local days and each member. Where a step has no distribution,
    coefficient and energy are empty; where nothing was produced, the coefficient is.

    Args:
        totals: what each member was given, µWh, by step.
        produced_uwh: by step, what was distributed: to members, and as losses, fee and surplus.
        points: the number of every member's supply point.
        days: the first local day, and the one behind the last.

    Raises:
        ConfigurationError: a member has no supply point, or a step gives more than was produced.
    """
    members = sorted(points, key=lambda member: (points[member], member))
    delimiter = template.delimiter
    lines: list[str] = []
    if template.comments:
        lines += source.comments("sharing coefficients", UNVERIFIED)
    if template.heading:
        lines.append(delimiter.join(quoted(title, delimiter) for title in template.columns))
    for place in local_steps(*days, source.step_s, zone):
        given = totals.get(place.step)
        parts = _parts(place.step, given, produced_uwh, members, template.decimals)
        for member in members:
            known = _values(place, member, points[member], source.step_s)
            energy = None if given is None else given.get(member, 0)
            known["energy_uwh"] = uwh_text(energy)
            known["energy_kwh"] = kwh_text(energy).replace(".", template.decimal_mark)
            part = parts.get(member)
            known["coefficient"] = (
                "" if part is None else decimal_text(part, template.decimals, template.decimal_mark)
            )
            lines.append(
                delimiter.join(
                    quoted(value[1:] if value.startswith("=") else known[value], delimiter)
                    for value in template.columns.values()
                )
            )
    return "".join(f"{line}\n" for line in lines)


def _parts(
    step: int,
    given: Mapping[str, int] | None,
    produced_uwh: Mapping[int, int],
    members: list[str],
    decimals: int,
) -> dict[str, int]:
    """Each member's coefficient in units of the last decimal; none where there is none."""
    produced = produced_uwh.get(step, 0)
    if given is None or not produced:
        return {}
    for member, energy in given.items():
        if energy and member not in members:
            raise ConfigurationError(f"the member {member} was given energy and has no number")
    weights = [given.get(member, 0) for member in members]
    rest = produced - sum(weights)
    if rest < 0:
        raise ConfigurationError(f"step {step} gives more than was produced")
    return dict(zip(members, coefficients([*weights, rest], decimals), strict=False))


def _values(place: LocalStep, member: str, point: str, step_s: int) -> dict[str, str]:
    return {
        "point": point,
        "member": member,
        "day": place.day.isoformat(),
        "position": str(place.position),
        "begin_local": place.begins.isoformat(),
        "begin_utc": utc(step_start_ms(place.step, step_s)),
        "step": str(place.step),
    }
