"""How a grid operator's file of load curves is to be read: a template, from parsed TOML."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.record_fields import NAME
from cryptometer.settings import read_settings, setting

INTERVALS_MINUTES = (15, 30, 60)


class Unit(StrEnum):
    """Of the values; of a power the mean over the interval."""

    W = "W"
    KW = "kW"
    WH = "Wh"
    KWH = "kWh"


class Stamp(StrEnum):
    """What a row's time says of its interval."""

    BEGIN = "begin"
    END = "end"


class Encoding(StrEnum):
    """Of the file's text."""

    UTF_8 = "utf-8"
    CP1252 = "cp1252"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How one kind of file is to be read. Columns are named as in the file's own heading."""

    time: str = setting("column of the times, or of the dates beside `time_of_day`")
    zone: str = setting('"UTC", or the IANA name of local time, as "Europe/Paris"')
    stamp: Stamp = setting('what a time names of its interval: its "begin" or its "end"')
    interval_minutes: int = setting("15, 30 or 60")
    unit: Unit = setting('of the values: "W", "kW", "Wh" or "kWh"')
    value: str = setting("column of the values; without it each other column is a member's", "")
    member: str = setting("column that names the member; without it --member does", "")
    time_of_day: str = setting("column of the time of day, where it stands apart", "")
    time_format: str = setting("as %d/%m/%Y %H:%M; without it ISO 8601", "")
    first_suffix: str = setting("behind a time of the hour that comes twice: the first one", "")
    second_suffix: str = setting("the second one", "")
    separator: str = setting("between cells", ";")
    decimal_comma: bool = setting("values have a decimal comma", default=False)
    encoding: Encoding = setting('"utf-8" or "cp1252"', Encoding.UTF_8)
    members: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "the member for each column or cell; what is not listed is left out"},
    )
    only: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "column and the text it must hold; other rows are left out"},
    )

    @property
    def interval_s(self) -> int:
        return self.interval_minutes * 60


GENERIC = Template(
    time="time",
    zone="UTC",
    stamp=Stamp.BEGIN,
    interval_minutes=15,
    unit=Unit.KWH,
    separator=",",
)


def read_template(table: Mapping[str, object], where: str) -> Template:
    """Reads a parsed template.

    Raises:
        ConfigurationError: naming the setting, and what to do.
    """
    template = read_settings(Template, table, where)
    if template.interval_minutes not in INTERVALS_MINUTES:
        raise ConfigurationError(
            f"{where} interval_minutes is 15, 30 or 60, not {template.interval_minutes}"
        )
    if len(template.separator) != 1 or template.separator in '"\r\n0123456789':
        raise ConfigurationError(f'{where} separator is one character, as ";" or "\\t"')
    if template.member and not template.value:
        raise ConfigurationError(f"{where} has a column of members: name that of the values, too")
    if bool(template.first_suffix) != bool(template.second_suffix) or (
        template.first_suffix and template.first_suffix == template.second_suffix
    ):
        raise ConfigurationError(f"{where} needs two suffixes that differ, or none")
    own = [one for one in (template.time, template.time_of_day, template.value) if one]
    own += [template.member] if template.member else []
    if not template.time or len(set(own)) != len(own):
        raise ConfigurationError(f"{where}: time, value and member are columns of their own")
    _check_format(template, where)
    _check_members(template, where)
    for column, wanted in template.only.items():
        if not isinstance(wanted, str):
            raise ConfigurationError(f"{where} only: what {column!r} must hold is a text")
    return template


def check_whose(template: Template, member: str) -> None:
    """That it is said once whose curve a file holds: by the file, or by `member`.

    Raises:
        ConfigurationError: by neither or by both, or it is no member's name.
    """
    from_file = bool(template.member) or not template.value
    if from_file and member:
        raise ConfigurationError("the file names its members by itself: leave --member out")
    if not from_file and not member:
        raise ConfigurationError("the file names no member: say whose it is with --member NAME")
    if member:
        _check_name(member, "--member")


def _check_format(template: Template, where: str) -> None:
    if not template.time_format:
        return
    sample = datetime(2026, 11, 23, 21, 45, tzinfo=UTC)
    try:
        again = datetime.strptime(  # noqa: DTZ007 - a format may leave the zone to the template
            sample.strftime(template.time_format), template.time_format
        )
    except (ValueError, re.error) as error:  # the latter where a part is named twice
        raise ConfigurationError(f"{where} time_format cannot be used: {error}") from None
    if again.replace(tzinfo=UTC) != sample:
        raise ConfigurationError(
            f"{where} time_format does not say year, month, day, hour and minute: as %d/%m/%Y %H:%M"
        )


def _check_members(template: Template, where: str) -> None:
    names: set[str] = set()
    for column, name in template.members.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"{where} members: {column!r} is given a name, as a text")
        _check_name(name, f"{where} members")
        if name in names:
            raise ConfigurationError(f"{where} members: {name!r} is named twice")
        names.add(name)
    if template.value and not template.member and template.members:
        raise ConfigurationError(f"{where} members: name the column `member` that they stand in")


def _check_name(name: str, where: str) -> None:
    try:
        NAME.encode(name)
    except Rejected:
        raise ConfigurationError(
            f"{where}: {name!r} is no member's name; it has a to z, 0 to 9 and hyphens, as it was"
            " registered"
        ) from None
