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

INTERVALS_MINUTES = (5, 10, 15, 30, 60)


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


class Twice(StrEnum):
    """How rows follow one another in an hour that local clocks show twice."""

    ORDER = "order"
    PAIRS = "pairs"


class LongerDay(StrEnum):
    """Where the intervals of a local day are numbered: how they are on the day that has an hour
    twice."""

    REFUSED = "refused"
    PASSED = "passed"
    LAST = "last"


class Encoding(StrEnum):
    """Of the file's text."""

    UTF_8 = "utf-8"
    CP1252 = "cp1252"


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """How one kind of file is to be read. Columns are named as in the file's own heading; a name
    that begins with a star is that of the one column that ends so."""

    time: str = setting("column of the times, or of the dates where the time stands elsewhere")
    zone: str = setting('"UTC", or the IANA name of local time, as "Europe/Paris"')
    stamp: Stamp = setting('what a time names of its interval: its "begin" or its "end"')
    interval_minutes: int = setting("5, 10, 15, 30 or 60")
    unit: Unit = setting('of the values: "W", "kW", "Wh" or "kWh"')
    value: str = setting("column of the values; without it each other column is a member's", "")
    member: str = setting("column that names the member; without it --member does", "")
    time_of_day: str = setting("column of the time of day, where it stands apart", "")
    position: str = setting(
        "column of the interval's number in its local day, in place of a time", ""
    )
    across: bool = setting(
        "a row is a local day: each column headed by a time, or a number, is an interval of it",
        default=False,
    )
    time_format: str = setting("as %d/%m/%Y %H:%M; without it ISO 8601", "")
    first_suffix: str = setting("behind a time of the hour that comes twice: the first one", "")
    second_suffix: str = setting("the second one", "")
    twice: Twice = setting(
        'without suffixes: "order", first one hour and then the other, or "pairs", each time of it'
        " twice in succession",
        Twice.ORDER,
    )
    longer_day: LongerDay = setting(
        'numbers on the day of 25 hours: "passed", in order of time; "last", the second hour behind'
        ' all others; "refused"',
        LongerDay.REFUSED,
    )
    until: str = setting("column of the interval's end, which must be so long after it began", "")
    until_time_of_day: str = setting("column of the end's time of day, where it stands apart", "")
    register: str = setting(
        "column of a meter's registers: what they say of one interval adds up", ""
    )
    separator: str = setting("between cells", ";")
    decimal_comma: bool = setting("values have a decimal comma", default=False)
    encoding: Encoding = setting('"utf-8" or "cp1252"', Encoding.UTF_8)
    members: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "the member for each column or cell; what is not listed is left out"},
    )
    only: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "column and the text, or texts, it may hold; other rows are left out"},
    )
    must: dict[str, Any] = field(
        default_factory=dict,
        metadata={"doc": "column and the text, or texts, it may hold; other rows refuse the file"},
    )
    columns: list[str] = field(
        default_factory=list,
        metadata={"doc": "names of the columns, in order, where no line of the file has them"},
    )

    @property
    def interval_s(self) -> int:
        return self.interval_minutes * 60

    @property
    def names_days(self) -> bool:
        """Whether `time` is the column of local days."""
        return self.across or bool(self.position)

    @property
    def names_members(self) -> bool:
        """Whether the file says whose its values are."""
        return bool(self.member) or not (self.value or self.across)


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
            f"{where} interval_minutes is 5, 10, 15, 30 or 60, not {template.interval_minutes}"
        )
    if len(template.separator) != 1 or template.separator in '"\r\n0123456789':
        raise ConfigurationError(f'{where} separator is one character, as ";" or "\\t"')
    if template.member and not (template.value or template.across):
        raise ConfigurationError(f"{where} has a column of members: name that of the values, too")
    if bool(template.first_suffix) != bool(template.second_suffix) or (
        template.first_suffix and template.first_suffix == template.second_suffix
    ):
        raise ConfigurationError(f"{where} needs two suffixes that differ, or none")
    _check_columns(template, where)
    _check_days(template, where)
    _check_format(template, where)
    _check_members(template, where)
    _check_cells(template.only, f"{where} only")
    _check_cells(template.must, f"{where} must")
    return template


def check_whose(template: Template, member: str) -> None:
    """That it is said once whose curve a file holds: by the file, or by `member`.

    Raises:
        ConfigurationError: by neither or by both, or it is no member's name.
    """
    if template.names_members and member:
        raise ConfigurationError("the file names its members by itself: leave --member out")
    if not template.names_members and not member:
        raise ConfigurationError("the file names no member: say whose it is with --member NAME")
    if member:
        _check_name(member, "--member")


def texts(wanted: Any) -> tuple[str, ...]:
    """What a column may hold, as `only` and `must` have it: a text, or a list of texts."""
    return (wanted,) if isinstance(wanted, str) else tuple(wanted)


def _check_columns(template: Template, where: str) -> None:
    own = [template.time, template.time_of_day, template.position, template.value, template.member]
    own += [template.until, template.until_time_of_day, template.register]
    own = [one for one in own if one]
    if not template.time or len(set(own)) != len(own):
        raise ConfigurationError(f"{where}: time, value and member are columns of their own")
    if not all(isinstance(name, str) for name in template.columns):
        raise ConfigurationError(f"{where} columns are texts: the name of each, in order")
    if template.register and not template.value:
        raise ConfigurationError(f"{where} has a column of registers: name that of the values, too")
    if template.until_time_of_day and not template.until:
        raise ConfigurationError(f"{where} until_time_of_day stands beside `until`")


def _check_days(template: Template, where: str) -> None:
    if template.across and (template.value or template.columns):
        raise ConfigurationError(
            f"{where} across has values in many columns, which the file's own heading names: leave"
            " `value` and `columns` out"
        )
    if template.names_days and (
        template.time_of_day or template.until or (template.across and template.position)
    ):
        raise ConfigurationError(
            f"{where} position, or across, says when an interval is: leave the other one,"
            " `time_of_day` and `until` out"
        )


def _check_cells(wanted: Mapping[str, object], where: str) -> None:
    for column, text in wanted.items():
        several = text if isinstance(text, list) else [text]
        if not several or not all(isinstance(one, str) for one in several):
            raise ConfigurationError(
                f"{where}: what {column!r} must hold is a text, or a list of them"
            )


def _check_format(template: Template, where: str) -> None:
    if not template.time_format:
        return
    sample = datetime(2026, 11, 23, 21, 45, tzinfo=UTC)
    said = "year, month, day, hour and minute: as %d/%m/%Y %H:%M"
    if template.names_days:
        sample, said = sample.replace(hour=0, minute=0), "year, month and day: as %d/%m/%Y"
    try:
        again = datetime.strptime(  # noqa: DTZ007 - a format may leave the zone to the template
            sample.strftime(template.time_format), template.time_format
        )
    except (ValueError, re.error) as error:  # the latter where a part is named twice
        raise ConfigurationError(f"{where} time_format cannot be used: {error}") from None
    if again.replace(tzinfo=UTC) != sample:
        raise ConfigurationError(f"{where} time_format does not say {said}")


def _check_members(template: Template, where: str) -> None:
    names: set[str] = set()
    for column, name in template.members.items():
        if not isinstance(name, str):
            raise ConfigurationError(f"{where} members: {column!r} is given a name, as a text")
        _check_name(name, f"{where} members")
        if name in names:
            raise ConfigurationError(f"{where} members: {name!r} is named twice")
        names.add(name)
    if template.members and not template.names_members:
        raise ConfigurationError(f"{where} members: name the column `member` that they stand in")


def _check_name(name: str, where: str) -> None:
    try:
        NAME.encode(name)
    except Rejected:
        raise ConfigurationError(
            f"{where}: {name!r} is no member's name; it has a to z, 0 to 9 and hyphens, as it was"
            " registered"
        ) from None
