"""What the read API may be asked: the values in its paths and behind their ?, and how each is read.
Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from cryptometer.note import decimal
from gateway.answers import NEWEST as NEWEST_UNASKED
from gateway.answers import NEWEST_MAX
from gateway.member_answers import STEPS_MAX

STEP_MAX = 2**40

Schema: TypeAlias = dict[str, Any]
Asked: TypeAlias = Mapping[str, str | int]


class WronglyAsked(ValueError):  # noqa: N818 - an answer
    """A question that has no answer of the kind asked for; the message says what may be asked."""


@dataclass(frozen=True, slots=True)
class Query:
    """A value that a question may have: behind the ?, or in its path."""

    name: str
    said: str
    schema: Schema
    is_required: bool = False

    def read(self, text: str) -> str | int:
        """The value of a text.

        Raises:
            WronglyAsked: it is none.
        """
        if self.schema["type"] == "integer":
            number = decimal(text)
            low, high = self.schema["minimum"], self.schema["maximum"]
            if number is None or not low <= number <= high:
                raise WronglyAsked(f"{self.name} is a number from {low} to {high}")
            return number
        choices = self.schema.get("enum")
        if choices is not None and text not in choices:
            raise WronglyAsked(f"{self.name} is one of {', '.join(choices)}")
        pattern = self.schema.get("pattern")
        if pattern is not None and not re.fullmatch(pattern.strip("^$"), text):
            raise WronglyAsked(f"{self.name}: {self.said}")
        return text


def number(name: str, said: str, low: int, high: int) -> Query:
    """A question for a whole number within bounds."""
    return Query(name, said, {"type": "integer", "minimum": low, "maximum": high})


_NAME = {"type": "string", "pattern": "^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"}
PLACES = {
    one.name: one
    for one in (
        Query("member", "a member's name, as registered", _NAME, is_required=True),
        Query("meter", "a meter's name, as registered", _NAME, is_required=True),
        number("step", "a market step: Unix seconds divided by its length", 0, STEP_MAX),
        Query(
            "day",
            "a local day: 2026-03-29",
            {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}$"},
            is_required=True,
        ),
        Query(
            "month",
            "a local month: 2026-03",
            {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
            is_required=True,
        ),
        Query(
            "file",
            "a file's name, as /files lists it",
            {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"},
            is_required=True,
        ),
    )
}
NEWEST = number("newest", f"how many, latest first; {NEWEST_UNASKED} unless asked", 1, NEWEST_MAX)
FROM = number("from", "the first step; without it the newest day", 0, STEP_MAX)
TO = number("to", f"the last step, included; at most {STEPS_MAX} are told at once", 0, STEP_MAX)
PERIOD = Query(
    "period",
    "a local day or month: 2026-03-29 or 2026-03",
    {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?$"},
    is_required=True,
)
ZONE = Query(
    "zone",
    "time zone of the local days, an IANA name as Europe/Brussels; UTC unless asked",
    {"type": "string", "pattern": "^[A-Za-z0-9_+/-]{1,63}$"},
)
FORM = Query(
    "form",
    "UTC (the default), or local days of 92, 96 or 100 quarter hours",
    {"type": "string", "enum": ["utc", "local"]},
)
STORAGE = (
    Query("storage", "the member as which it charges", _NAME, is_required=True),
    Query("meter", "the meter by which it discharges", _NAME, is_required=True),
    Query(
        "efficiency",
        "the part of what goes in that comes out, as 0.9 or 9/10; 1 unless asked",
        {"type": "string", "pattern": "^[0-9]{1,9}(?:[./][0-9]{1,9})?$"},
    ),
)
SPAIN = (
    Query(
        "period",
        "a local month: 2026-03",
        {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
        is_required=True,
    ),
    ZONE,
    number("first_hour", "the number of a year's first hour; 1 unless asked", 0, 1),
    number("hour_digits", "digits of an hour at least; 1 unless asked", 1, 4),
    Query(
        "missing",
        "what becomes of hours that are not distributed yet: they stop the file (refuse, the"
        " default), or are shared alike",
        {"type": "string", "enum": ["refuse", "alike"]},
    ),
)
