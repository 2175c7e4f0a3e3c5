"""The read API of version 1: its paths, what they may be asked, what they answer, who may ask. Both
web sides make their routes from these values, read questions by them, and serve the OpenAPI
document that they make: none of the three can say what the others do not. Pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeAlias

from cryptometer import __version__
from cryptometer.note import decimal
from gateway.answers import NEWEST, NEWEST_MAX
from gateway.community_answers import WAITING_MAX
from gateway.lacking import Cause
from gateway.member_answers import STEPS, STEPS_MAX

ROOT = "/api/1"
JSON = "application/json"
PROBLEM = "application/problem+json"
CSV = "text/csv; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"
SHARE = "application/vnd.cryptometer.share"
BYTES = "application/octet-stream"
STEP_MAX = 2**40

Schema: TypeAlias = dict[str, Any]
Asked: TypeAlias = Mapping[str, str | int]


class Audience(Enum):
    """Who may ask."""

    ANYBODY = "anybody"
    HOLDER = "whoever has a token"
    MEMBER = "the member, the operator, the DSO"
    OFFICE = "the operator, the DSO"


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


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path.

    Attributes:
        name: of the operation; a handler answers under it.
        schema: of the answer, where it is JSON.
        is_long: it may take many seconds, so that one of its kind is answered at a time.
    """

    name: str
    path: str
    said: str
    kind: str = JSON
    schema: Schema | None = None
    queries: tuple[Query, ...] = ()
    audience: Audience = Audience.ANYBODY
    is_long: bool = False

    @property
    def places(self) -> tuple[Query, ...]:
        """The values in its path."""
        return tuple(_PLACES[name] for name in re.findall(r"\{(\w+)\}", self.path))

    def read(self, places: Mapping[str, str], queries: Mapping[str, str]) -> Asked:
        """What a question asks.

        Raises:
            WronglyAsked: naming what is wrong and what may be asked.
        """
        known = {one.name: one for one in self.queries}
        for name in queries:
            if name not in known:
                listed = ", ".join(known) or "nothing"
                raise WronglyAsked(f"{name[:40]!r} cannot be asked here; {listed} can")
        for one in self.queries:
            if one.is_required and one.name not in queries:
                raise WronglyAsked(f"{one.name} lacks: {one.said}")
        found = {name: known[name].read(text) for name, text in queries.items()}
        return found | {one.name: one.read(places[one.name]) for one in self.places}


# --- What may be asked. --------------------------------------------------------------------------


def _number(name: str, said: str, low: int, high: int) -> Query:
    return Query(name, said, {"type": "integer", "minimum": low, "maximum": high})


_NAME = {"type": "string", "pattern": "^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$"}
_PLACES = {
    one.name: one
    for one in (
        Query("member", "a member's name, as registered", _NAME, is_required=True),
        Query("meter", "a meter's name, as registered", _NAME, is_required=True),
        _number("step", "a market step: Unix seconds divided by its length", 0, STEP_MAX),
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
_NEWEST = _number("newest", f"how many, latest first; {NEWEST} unless asked", 1, NEWEST_MAX)
_FROM = _number("from", "the first step; without it the newest day", 0, STEP_MAX)
_TO = _number("to", f"the last step, included; at most {STEPS_MAX} are told at once", 0, STEP_MAX)
_PERIOD = Query(
    "period",
    "a local day or month: 2026-03-29 or 2026-03",
    {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?$"},
    is_required=True,
)
_ZONE = Query(
    "zone",
    "time zone of the local days, an IANA name as Europe/Brussels; UTC unless asked",
    {"type": "string", "pattern": "^[A-Za-z0-9_+/-]{1,63}$"},
)
_FORM = Query(
    "form",
    "UTC (the default), or local days of 92, 96 or 100 quarter hours",
    {"type": "string", "enum": ["utc", "local"]},
)
_STORAGE = (
    Query("storage", "the member as which it charges", _NAME, is_required=True),
    Query("meter", "the meter by which it discharges", _NAME, is_required=True),
    Query(
        "efficiency",
        "the part of what goes in that comes out, as 0.9 or 9/10; 1 unless asked",
        {"type": "string", "pattern": "^[0-9]{1,9}(?:[./][0-9]{1,9})?$"},
    ),
)
_SPAIN = (
    Query(
        "period",
        "a local month: 2026-03",
        {"type": "string", "pattern": "^[0-9]{4}-[0-9]{2}$"},
        is_required=True,
    ),
    _ZONE,
    _number("first_hour", "the number of a year's first hour; 1 unless asked", 0, 1),
    _number("hour_digits", "digits of an hour at least; 1 unless asked", 1, 4),
    Query(
        "missing",
        "what becomes of hours that are not distributed yet: they stop the file (refuse, the"
        " default), or are shared alike",
        {"type": "string", "enum": ["refuse", "alike"]},
    ),
)

# --- What is answered. ---------------------------------------------------------------------------


def _object(**parts: Schema) -> Schema:
    return {
        "type": "object",
        "properties": parts,
        "required": list(parts),
        "additionalProperties": False,
    }


def _list(of: Schema) -> Schema:
    return {"type": "array", "items": of}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


_INT: Schema = {"type": "integer", "minimum": 0}
_BOOL: Schema = {"type": "boolean"}
_STR: Schema = {"type": "string"}
_HEX: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
_ENERGY = _ref("Energy")
_TIME: Schema = {"type": "string", "format": "date-time"}
_TIMES: Schema = {"step": _INT, "begins": _TIME, "ends": _TIME}
_WHERE: Schema = {"newest_step": _or_null(_INT), "checkpoint": _ref("Head")}
_PAGE: Schema = {"from": _INT, "to": _INT, "next_from": _or_null(_INT), "newest_step": _INT}
_BALANCE = (
    "registered",
    "untransferred",
    "waiting",
    "allocated",
    "losses",
    "fees",
    "surplus",
    "quarantined",
)
_FLOW = ("registered", "counted", "quarantined", "transferred")
_ROW: Schema = {
    **_TIMES,
    "first_leaf": _INT,
    "size": _INT,
    "sealed_ms": _INT,
    "records": _INT,
    "late": _INT,
    "meters": _object(expected=_INT, heard=_INT),
    "caught_up": _BOOL,
    "punctuality_ms": _or_null(_INT),
}
_COMPARED: Schema = {
    "counted_uwh": _ENERGY,
    "index_uwh": _ENERGY,
    "difference_uwh": _ENERGY,
    "difference_ppm": _or_null({"type": "integer"}),
    "bound_uwh": _ENERGY,
}
_GIVEN = _object(block_step=_INT, energy_uwh=_ENERGY)
_VALUE: Schema = {"energy_uwh": _ENERGY, "is_spread": _BOOL, "source": _STR, "received": _TIME}

SCHEMAS: dict[str, Schema] = {
    "Energy": {
        "type": "string",
        "pattern": "^-?[0-9]+$",
        "description": "Micro-watt-hours in decimal digits: they may pass what many readers of JSON"
        " hold exactly.",
    },
    "Head": _object(size=_INT, root=_HEX),
    "Problem": {
        "type": "object",
        "description": "RFC 9457",
        "properties": {"type": _STR, "title": _STR, "status": _INT, "detail": _STR},
        "required": ["type", "title", "status", "detail"],
        "additionalProperties": False,
    },
    "Community": _object(
        community=_HEX,
        name=_STR,
        authority=_HEX,
        first_step=_INT,
        step_s=_INT,
        grace_ms=_INT,
        late_steps=_INT,
        token_uwh=_ENERGY,
        token_steps=_INT,
        quorum=_INT,
        **_WHERE,
    ),
    "BlockRow": _object(**_ROW),
    "Block": _object(
        **_ROW,
        header=_HEX,
        maker=_HEX,
        clock={"type": "object"},
        late_steps_max=_INT,
        previous=_ref("Head"),
        flow_uwh=_object(**dict.fromkeys(_FLOW, _ENERGY)),
        balance_uwh=_object(**dict.fromkeys(_BALANCE, _ENERGY)),
        tokens=_INT,
        kinds=_or_null({"type": "object", "additionalProperties": _INT}),
        checkpoint=_or_null(_STR),
    ),
    "Meter": _object(
        meter=_STR,
        serial=_STR,
        use={"type": "string"},
        counts={"type": "string", "enum": ["index", "pulses"]},
        from_step=_INT,
        revoked=_BOOL,
        closed_step=_or_null(_INT),
        registered_uwh=_ENERGY,
        transferred_uwh=_ENERGY,
        untransferred_uwh=_ENERGY,
        quarantined_uwh=_ENERGY,
    ),
    "Comparison": _object(
        **_COMPARED,
        step=_INT,
        since_step=_INT,
        ends=_TIME,
        since_ms=_INT,
        at_ms=_INT,
        source=_STR,
        mpe_ppm=_INT,
        within=_BOOL,
    ),
    "Comparisons": _object(
        meter=_STR,
        total=_or_null(
            _object(**_COMPARED, comparisons=_INT, outside=_INT, allowed_uwh=_ENERGY, within=_BOOL)
        ),
        comparisons=_list(_ref("Comparison")),
    ),
    "Agreement": _object(
        step=_INT,
        identity=_HEX,
        from_step=_INT,
        vpp=_STR,
        method={"type": "string", "enum": ["equal", "keys", "pro-rata", "coefficients"]},
        capped=_BOOL,
        rounds=_INT,
        claims=_list(
            _object(member=_STR, weight=_INT, priority=_INT, producer=_or_null(_STR)),
        ),
        losses=_or_null(_STR),
        losses_stated=_BOOL,
        fee=_or_null(_STR),
        fee_to=_or_null(_STR),
        surplus_to=_STR,
        readable=_list(_STR),
        **_WHERE,
    ),
    "Waiting": _object(
        waiting_uwh=_ENERGY,
        steps=_list(
            _object(
                **_TIMES,
                energy_uwh=_ENERGY,
                closes=_INT,
                asks=_list({"type": "string", "enum": [cause.value for cause in Cause]}),
            )
        ),
        next_from=_or_null(_INT),
        **_WHERE,
    ),
    "Holder": _object(
        number=_STR,
        holder={"type": "string", "enum": ["member", "operator", "dso"]},
        member=_or_null(_STR),
        until=_TIME,
    ),
    "Member": _object(
        member=_STR,
        virtual_generation_uwh=_ENERGY,
        newest_step=_INT,
        person=_or_null(_object(display_name=_STR, address=_STR, contact=_STR)),
    ),
    "MeterRow": _object(
        **_TIMES,
        first=_or_null(_GIVEN),
        later=_list(_GIVEN),
        virtual_generation_uwh=_or_null(_ENERGY),
        consumption_uwh=_or_null(_ENERGY),
        market_face_uwh=_or_null(_ENERGY),
    ),
    "ConsumptionRow": _object(**_TIMES, **_VALUE, earlier=_list(_object(**_VALUE))),
    "Why": _object(
        member=_STR,
        **_TIMES,
        energy_uwh=_ENERGY,
        consumption_uwh=_or_null(_ENERGY),
        is_rule_recomputed=_BOOL,
        distributions=_list(
            _object(
                block_step=_INT,
                supplement=_INT,
                energy_uwh=_ENERGY,
                sources=_list(_object(meter=_STR, energy_uwh=_ENERGY)),
            )
        ),
        lines=_list(_STR),
    ),
}
PUBLIC: tuple[Endpoint, ...] = (
    Endpoint("openapi", f"{ROOT}/openapi.json", "This document.", schema={"type": "object"}),
    Endpoint(
        "community", f"{ROOT}/community", "The community's parameters.", schema=_ref("Community")
    ),
    Endpoint("checkpoint", f"{ROOT}/checkpoint", "The newest signed tree head.", TEXT),
    Endpoint(
        "blocks",
        f"{ROOT}/blocks",
        "The newest blocks, latest first.",
        schema=_object(blocks=_list(_ref("BlockRow"))),
        queries=(_NEWEST,),
    ),
    Endpoint("block", f"{ROOT}/blocks/{{step}}", "The block of a step.", schema=_ref("Block")),
    Endpoint(
        "meters",
        f"{ROOT}/meters",
        "Every meter that was registered.",
        schema=_object(meters=_list(_ref("Meter")), **_WHERE),
    ),
    Endpoint(
        "comparisons",
        f"{ROOT}/meters/{{meter}}/comparisons",
        "What was counted of a meter against the index of its second source, latest first.",
        schema=_ref("Comparisons"),
        queries=(_NEWEST,),
    ),
    Endpoint(
        "balance",
        f"{ROOT}/balance",
        "Where all energy ever registered is: the first amount is the sum of the others.",
        schema=_object(balance_uwh=_object(**dict.fromkeys(_BALANCE, _ENERGY)), **_WHERE),
    ),
    Endpoint(
        "agreement",
        f"{ROOT}/agreement",
        "The agreement by which a step is shared.",
        schema=_ref("Agreement"),
        queries=(_number("step", "of which step; without it the next one", 0, STEP_MAX),),
    ),
    Endpoint(
        "waiting",
        f"{ROOT}/waiting",
        "Energy that waits at the virtual power plant, by step, and what its agreement asks for; at"
        f" most {WAITING_MAX} steps at once.",
        schema=_ref("Waiting"),
        queries=(_number("from", "the first step", 0, STEP_MAX),),
    ),
)

_OWN = f"{ROOT}/members/{{member}}"

MEMBERS: tuple[Endpoint, ...] = (
    Endpoint(
        "me",
        f"{ROOT}/me",
        "Whose token it is.",
        schema=_ref("Holder"),
        audience=Audience.HOLDER,
    ),
    Endpoint(
        "members",
        f"{ROOT}/members",
        "All members, with the registers of their virtual generation meters.",
        schema=_object(
            members=_list(_object(member=_STR, virtual_generation_uwh=_ENERGY)), newest_step=_INT
        ),
        audience=Audience.OFFICE,
    ),
    Endpoint(
        "member",
        _OWN,
        "A member's register, and who it is as far as somebody has said; the DSO is not told who.",
        schema=_ref("Member"),
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "meter",
        f"{_OWN}/meter",
        "The virtual generation meter and, where consumption is known, the computed market-face"
        f" meter, step by step; {STEPS} steps unless asked.",
        schema=_object(member=_STR, **_PAGE, rows=_list(_ref("MeterRow"))),
        queries=(_FROM, _TO),
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "consumption",
        f"{_OWN}/consumption",
        "What is known of the member's consumption, with what was corrected. A step that is not"
        " listed is not known.",
        schema=_object(member=_STR, **_PAGE, rows=_list(_ref("ConsumptionRow"))),
        queries=(_FROM, _TO),
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "share",
        f"{_OWN}/steps/{{step}}/share",
        "The file that proves the member's share of a step offline: cryptometer verify.",
        SHARE,
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "why",
        f"{_OWN}/steps/{{step}}/why",
        "Why the member got what he got, in plain words. A member is told what follows from his own"
        " consumption; operator and DSO have the rule recomputed.",
        schema=_ref("Why"),
        audience=Audience.MEMBER,
    ),
    Endpoint(
        "own_virtual_meter_csv",
        f"{_OWN}/exports/virtual-meter.csv",
        "The member's meters of a local day or month.",
        CSV,
        queries=(_PERIOD, _ZONE),
        audience=Audience.MEMBER,
        is_long=True,
    ),
    Endpoint(
        "own_virtual_meter_json",
        f"{_OWN}/exports/virtual-meter.json",
        "The same as JSON.",
        schema={"type": "object"},
        queries=(_PERIOD, _ZONE),
        audience=Audience.MEMBER,
        is_long=True,
    ),
    Endpoint(
        "own_load_curve",
        f"{_OWN}/exports/load-curve.csv",
        "What the member was given in a local day or month, as a load curve.",
        CSV,
        queries=(_PERIOD, _ZONE, _FORM),
        audience=Audience.MEMBER,
        is_long=True,
    ),
    Endpoint(
        "virtual_meters_csv",
        f"{ROOT}/exports/virtual-meter.csv",
        "All members' meters of a local day or month.",
        CSV,
        queries=(_PERIOD, _ZONE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "virtual_meters_json",
        f"{ROOT}/exports/virtual-meter.json",
        "The same as JSON.",
        schema={"type": "object"},
        queries=(_PERIOD, _ZONE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "meter_load_curve",
        f"{ROOT}/exports/meters/{{meter}}/load-curve.csv",
        "What a meter's step closes transferred in a local day or month. It goes through all"
        " blocks: seconds for a month of ten meters.",
        CSV,
        queries=(_PERIOD, _ZONE, _FORM),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "accuracy_page",
        f"{ROOT}/reports/accuracy.html",
        "The accuracy report of a local day or month, as a page. It goes through all blocks.",
        HTML,
        queries=(_PERIOD, _ZONE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "accuracy_csv",
        f"{ROOT}/reports/accuracy.csv",
        "The same as a table: a line for each meter and step.",
        CSV,
        queries=(_PERIOD, _ZONE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "accuracy_json",
        f"{ROOT}/reports/accuracy.json",
        "The same as JSON.",
        schema={"type": "object"},
        queries=(_PERIOD, _ZONE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "settlement",
        f"{ROOT}/exports/settlement.csv",
        "Where the energy of each step of a local day or month went: to members, losses, the fee's"
        " beneficiary, and the account that has the surplus.",
        CSV,
        queries=(_PERIOD, _ZONE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "storage",
        f"{ROOT}/exports/storage.csv",
        "Whose energy a storage holds, and each movement of a local day or month. It goes through"
        " all blocks.",
        CSV,
        queries=(_PERIOD, _ZONE, *_STORAGE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "coefficients_es",
        f"{ROOT}/exports/coefficients-es.txt",
        "The Spanish file of coefficients of a month: CUPS;hour;coefficient.",
        TEXT,
        queries=_SPAIN,
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "coefficients_es_source",
        f"{ROOT}/exports/coefficients-es.source.json",
        "What that file was made from, and which of its hours were idle or missing.",
        schema={"type": "object"},
        queries=_SPAIN,
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "coefficients_fr",
        f"{ROOT}/exports/coefficients-fr.csv",
        "Coefficients for a French grid operator, by the configured template; its layout is not"
        " verified.",
        CSV,
        queries=(_PERIOD, _ZONE),
        audience=Audience.OFFICE,
        is_long=True,
    ),
    Endpoint(
        "files",
        f"{ROOT}/files",
        "Files that the operator has laid out, as OCMF records and reports.",
        schema=_object(files=_list(_object(file=_STR, bytes=_INT))),
        audience=Audience.OFFICE,
    ),
    Endpoint(
        "file",
        f"{ROOT}/files/{{file}}",
        "One of them.",
        BYTES,
        audience=Audience.OFFICE,
    ),
)

# --- The document. -------------------------------------------------------------------------------


def document() -> Schema:
    """The OpenAPI document (3.1) of both web sides."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cryptometer read API",
            "version": f"1 ({__version__})",
            "description": "An energy community's blocks, shares and files. What the ledger"
            " holds is public; what is a member's needs a token. Paths, questions and fields may be"
            " added within version 1; those that are there keep their meaning.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [],
        "paths": {one.path: {"get": _operation(one)} for one in (*PUBLIC, *MEMBERS)},
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {
                    "description": "It is not told; `detail` says why.",
                    "content": {PROBLEM: {"schema": _ref("Problem")}},
                }
            },
        },
    }


def _operation(one: Endpoint) -> Schema:
    content = {"schema": one.schema} if one.schema is not None else {}
    needs_token = one.audience is not Audience.ANYBODY
    refusals = ["304", "400", "404", "503"] + (["401", "403", "429"] if needs_token else [])
    made: Schema = {
        "operationId": one.name,
        "summary": one.said,
        "description": f"For {one.audience.value}.",
        "parameters": [_parameter(each, "path") for each in one.places]
        + [_parameter(each, "query") for each in one.queries],
        "responses": {
            "200": {"description": one.said, "content": {one.kind: content}},
            **{
                status: {"description": "What you have is the newest."}
                if status == "304"
                else {"$ref": "#/components/responses/Problem"}
                for status in sorted(refusals)
            },
        },
    }
    return made | ({"security": [{"token": []}]} if needs_token else {})


def _parameter(one: Query, where: str) -> Schema:
    return {
        "name": one.name,
        "in": where,
        "description": one.said,
        "required": one.is_required or where == "path",
        "schema": one.schema,
    }
