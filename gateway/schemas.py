"""What the read API answers, where it is JSON: the shapes, as JSON Schema. Pure."""

from gateway.lacking import Cause
from gateway.questions import Schema


def object_of(**parts: Schema) -> Schema:
    """An object with all of these parts, and no others."""
    return {
        "type": "object",
        "properties": parts,
        "required": list(parts),
        "additionalProperties": False,
    }


def list_of(of: Schema) -> Schema:
    """A list of values of one kind."""
    return {"type": "array", "items": of}


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def ref(name: str) -> Schema:
    """One of `SCHEMAS`, by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


INT: Schema = {"type": "integer", "minimum": 0}
_BOOL: Schema = {"type": "boolean"}
STR: Schema = {"type": "string"}
_HEX: Schema = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
ENERGY = ref("Energy")
_TIME: Schema = {"type": "string", "format": "date-time"}
_TIMES: Schema = {"step": INT, "begins": _TIME, "ends": _TIME}
WHERE: Schema = {"newest_step": _or_null(INT), "checkpoint": ref("Head")}
PAGE: Schema = {"from": INT, "to": INT, "next_from": _or_null(INT), "newest_step": INT}
BALANCE: Schema = dict.fromkeys(
    (
        "registered",
        "untransferred",
        "waiting",
        "allocated",
        "losses",
        "fees",
        "surplus",
        "quarantined",
    ),
    ENERGY,
)
_FLOW: Schema = dict.fromkeys(("registered", "counted", "quarantined", "transferred"), ENERGY)
_ROW: Schema = {
    **_TIMES,
    "first_leaf": INT,
    "size": INT,
    "sealed_ms": INT,
    "records": INT,
    "late": INT,
    "meters": object_of(expected=INT, heard=INT),
    "caught_up": _BOOL,
    "punctuality_ms": _or_null(INT),
}
_COMPARED: Schema = {
    "counted_uwh": ENERGY,
    "index_uwh": ENERGY,
    "difference_uwh": ENERGY,
    "difference_ppm": _or_null({"type": "integer"}),
    "bound_uwh": ENERGY,
}
_GIVEN = object_of(block_step=INT, energy_uwh=ENERGY)
_VALUE: Schema = {"energy_uwh": ENERGY, "is_spread": _BOOL, "source": STR, "received": _TIME}

SCHEMAS: dict[str, Schema] = {
    "Energy": {
        "type": "string",
        "pattern": "^-?[0-9]+$",
        "description": "Micro-watt-hours in decimal digits: they may pass what many readers of JSON"
        " hold exactly.",
    },
    "Head": object_of(size=INT, root=_HEX),
    "Problem": {
        "type": "object",
        "description": "RFC 9457",
        "properties": {"type": STR, "title": STR, "status": INT, "detail": STR},
        "required": ["type", "title", "status", "detail"],
        "additionalProperties": False,
    },
    "Community": object_of(
        community=_HEX,
        name=STR,
        authority=_HEX,
        first_step=INT,
        step_s=INT,
        grace_ms=INT,
        late_steps=INT,
        token_uwh=ENERGY,
        token_steps=INT,
        quorum=INT,
        **WHERE,
    ),
    "BlockRow": object_of(**_ROW),
    "Block": object_of(
        **_ROW,
        header=_HEX,
        maker=_HEX,
        clock={"type": "object"},
        late_steps_max=INT,
        previous=ref("Head"),
        flow_uwh=object_of(**_FLOW),
        balance_uwh=object_of(**BALANCE),
        tokens=INT,
        kinds=_or_null({"type": "object", "additionalProperties": INT}),
        checkpoint=_or_null(STR),
    ),
    "Meter": object_of(
        meter=STR,
        serial=STR,
        use={"type": "string"},
        counts={"type": "string", "enum": ["index", "pulses"]},
        from_step=INT,
        revoked=_BOOL,
        closed_step=_or_null(INT),
        registered_uwh=ENERGY,
        transferred_uwh=ENERGY,
        untransferred_uwh=ENERGY,
        quarantined_uwh=ENERGY,
    ),
    "Comparison": object_of(
        **_COMPARED,
        step=INT,
        since_step=INT,
        ends=_TIME,
        since_ms=INT,
        at_ms=INT,
        source=STR,
        mpe_ppm=INT,
        within=_BOOL,
    ),
    "Comparisons": object_of(
        meter=STR,
        total=_or_null(
            object_of(**_COMPARED, comparisons=INT, outside=INT, allowed_uwh=ENERGY, within=_BOOL)
        ),
        comparisons=list_of(ref("Comparison")),
    ),
    "Agreement": object_of(
        step=INT,
        identity=_HEX,
        from_step=INT,
        vpp=STR,
        method={"type": "string", "enum": ["equal", "keys", "pro-rata", "coefficients"]},
        capped=_BOOL,
        rounds=INT,
        claims=list_of(
            object_of(member=STR, weight=INT, priority=INT, producer=_or_null(STR)),
        ),
        losses=_or_null(STR),
        losses_stated=_BOOL,
        fee=_or_null(STR),
        fee_to=_or_null(STR),
        surplus_to=STR,
        readable=list_of(STR),
        **WHERE,
    ),
    "Waiting": object_of(
        waiting_uwh=ENERGY,
        steps=list_of(
            object_of(
                **_TIMES,
                energy_uwh=ENERGY,
                closes=INT,
                asks=list_of({"type": "string", "enum": [cause.value for cause in Cause]}),
            )
        ),
        next_from=_or_null(INT),
        **WHERE,
    ),
    "Holder": object_of(
        number=STR,
        holder={"type": "string", "enum": ["member", "operator", "dso"]},
        member=_or_null(STR),
        until=_TIME,
    ),
    "Member": object_of(
        member=STR,
        virtual_generation_uwh=ENERGY,
        newest_step=INT,
        person=_or_null(object_of(display_name=STR, address=STR, contact=STR)),
    ),
    "MeterRow": object_of(
        **_TIMES,
        first=_or_null(_GIVEN),
        later=list_of(_GIVEN),
        virtual_generation_uwh=_or_null(ENERGY),
        consumption_uwh=_or_null(ENERGY),
        market_face_uwh=_or_null(ENERGY),
    ),
    "ConsumptionRow": object_of(**_TIMES, **_VALUE, earlier=list_of(object_of(**_VALUE))),
    "Why": object_of(
        member=STR,
        **_TIMES,
        energy_uwh=ENERGY,
        consumption_uwh=_or_null(ENERGY),
        is_rule_recomputed=_BOOL,
        distributions=list_of(
            object_of(
                block_step=INT,
                supplement=INT,
                energy_uwh=ENERGY,
                sources=list_of(object_of(meter=STR, energy_uwh=ENERGY)),
            )
        ),
        lines=list_of(STR),
    ),
}
