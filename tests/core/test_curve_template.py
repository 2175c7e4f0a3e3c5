"""Templates of load curves: what can work is taken as it is, what cannot is refused in words."""

from dataclasses import replace
from typing import Any

import pytest

from cryptometer.curve_template import Stamp, Template, Unit, read_template
from cryptometer.errors import ConfigurationError

BASE = {
    "time": "t",
    "zone": "UTC",
    "stamp": "begin",
    "interval_minutes": 15,
    "unit": "kWh",
}


def test_a_template_needs_five_settings() -> None:
    template = read_template(BASE, "t.toml")
    assert template == Template(
        time="t", zone="UTC", stamp=Stamp.BEGIN, interval_minutes=15, unit=Unit.KWH
    )
    for name in BASE:
        with pytest.raises(ConfigurationError, match=f"t.toml lacks '{name}'"):
            read_template({key: value for key, value in BASE.items() if key != name}, "t.toml")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"interval_minutes": 20}, "interval_minutes is 5, 10, 15, 30 or 60, not 20"),
        ({"separator": ""}, "separator is one character"),
        ({"separator": '"'}, "separator is one character"),
        ({"separator": ";;"}, "separator is one character"),
        ({"unit": "MWh"}, "unit is one of W, kW, Wh, kWh"),
        ({"member": "m"}, "name that of the values, too"),
        ({"value": "t"}, "are columns of their own"),
        ({"value": "v", "member": "t"}, "are columns of their own"),
        ({"value": "v", "member": "v"}, "are columns of their own"),
        ({"time": ""}, "are columns of their own"),
        ({"first_suffix": "A"}, "two suffixes that differ, or none"),
        ({"first_suffix": "A", "second_suffix": "A"}, "two suffixes that differ, or none"),
        ({"time_format": "%d/%m/%Y %H"}, "does not say year, month, day, hour and minute"),
        ({"time_format": "%H:%M"}, "does not say year, month, day, hour and minute"),
        ({"time_format": "%d/%m/%Y %H:%M %Q"}, "time_format cannot be used"),
        ({"time_format": "%d/%m/%Y %H:%M %Y"}, "time_format cannot be used"),
        ({"members": {"a": 1}}, "'a' is given a name, as a text"),
        ({"members": {"a": "Alice"}}, "'Alice' is no member's name"),
        ({"members": {"a": "alice", "b": "alice"}}, "'alice' is named twice"),
        ({"value": "v", "members": {"a": "alice"}}, "name the column `member`"),
        ({"only": {"a": 1}}, "must hold is a text"),
        ({"only": {"a": []}}, "must hold is a text, or a list"),
        ({"only": {"a": ["b", 1]}}, "must hold is a text, or a list"),
        ({"must": {"a": 1}}, "t.toml must: what 'a' must hold is a text"),
        ({"value": "v", "register": "v"}, "are columns of their own"),
        ({"register": "r"}, "column of registers: name that of the values, too"),
        ({"until": "t"}, "are columns of their own"),
        ({"until_time_of_day": "u"}, "until_time_of_day stands beside `until`"),
        ({"columns": ["t", 1]}, "columns are texts"),
        ({"across": True, "value": "v"}, "leave `value` and `columns` out"),
        ({"across": True, "columns": ["t"]}, "leave `value` and `columns` out"),
        ({"across": True, "position": "p"}, "says when an interval is"),
        ({"across": True, "until": "u"}, "says when an interval is"),
        ({"value": "v", "position": "p", "time_of_day": "d"}, "says when an interval is"),
        ({"value": "v", "position": "v"}, "are columns of their own"),
        ({"across": True, "time_format": "%m/%Y"}, "does not say year, month and day: as %d/%m/%Y"),
        ({"across": True, "members": {"a": "alice"}}, "name the column `member`"),
        ({"twice": "first"}, "twice is one of order, pairs"),
        ({"longer_day": "25"}, "longer_day is one of refused, passed, last"),
        ({"seperator": ";"}, "did you mean 'separator'?"),
    ],
)
def test_a_template_that_cannot_work_is_said(changed: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_template({**BASE, **changed}, "t.toml")
    assert str(caught.value).startswith("t.toml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"first_suffix": "A", "second_suffix": "B"},
        {"members": {"a": "alice", "b": "bob"}},
        {"value": "v", "member": "m"},
        {"value": "v", "member": "m", "members": {"1": "alice"}},
        {"time_format": "%d/%m/%Y %H:%M"},
        {"time_format": "%d/%m/%y %I:%M %p"},
        {"separator": "\t", "only": {"kind": "taken"}},
        {"value": "v", "only": {"kind": ["a", "b"]}, "must": {"unit": "kWh", "of": ["a", "b"]}},
        {"value": "v", "register": "r", "until": "u", "until_time_of_day": "d"},
        {"value": "v", "position": "p", "time_format": "%d/%m/%Y"},
        {"across": True, "member": "m", "members": {"1": "alice"}},
        {"across": True, "time_format": "%d/%m/%Y"},
        {"columns": ["t", "v"], "value": "v"},
        {"interval_minutes": 5},
        {"interval_minutes": 10},
    ],
    ids=str,
)
def test_a_template_that_can_work_is_taken_as_it_is(changed: dict[str, Any]) -> None:
    plain = read_template(BASE, "t.toml")
    assert read_template({**BASE, **changed}, "t.toml") == replace(plain, **changed)
