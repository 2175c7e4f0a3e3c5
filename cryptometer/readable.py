"""Records as lines for people: every field, with its unit in its name. Values in, lines out."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from enum import Enum, IntEnum
from fractions import Fraction

from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, Mark, Reading, StepClose
from cryptometer.keys import PublicKey
from cryptometer.metrology import kwh
from cryptometer.records import Record
from cryptometer.sharing_records import Agreement, Distribution
from cryptometer.steps import MS_PER_S, step_start_ms

_COLUMN = 20
_FLAT = {"marks", "lots", "watched", "late", "meters", "aside"}  # printed as what their pairs say
_MOMENTS = {"created_ms", "at_ms", "unwatched_ms", "sealed_ms"}
_IN_UWH = {"flow.", "balance."}  # share one unit, and do not repeat it in their fields' names
_LISTS = {"claims", "inputs", "outputs", "commitments"}
_SECRETS = {"password", "key"}
_STEPS = {"step", "first_step", "from_step"}


def describe_record(record: Record, step_s: int | None = None) -> list[str]:
    """All that a record says.

    Args:
        record: any record; its signature need not be checked.
        step_s: length of the community's step, seconds; None where it is not known, so that steps
            are shown without their times.
    """
    header = record.envelope.header
    lines = [
        _line("record", record.body.KIND.value),
        _line("identity", record.identity.hex()),
        _line("community", record.community.hex()),
        _line("signed by", f"{record.key_id.hex()} ({header.algorithm.name})"),
        _line("size", f"{len(record.raw)} bytes"),
    ]
    return lines + list(_fields(record.body, step_s, ""))


def summarise_record(record: Record) -> str:
    """A record in one line: its kind, whose it is, and what it is about."""
    body = record.body
    words = [f"{body.KIND.value:17}"]
    for name in ("meter", "name", "vpp", "sequence", "step"):
        value = getattr(body, name, None)
        if value is not None and not is_dataclass(value):
            words.append(str(value) if name in {"meter", "name", "vpp"} else f"{name}={value}")
    if isinstance(body, Batch):
        words.append(f"lots={len(body.pulses)} pulses={sum(body.pulses)}")
    elif isinstance(body, Reading):
        words.append(f"index={body.index} from={body.register}")
    elif isinstance(body, StepClose):
        words.append(f"pulses={body.register_after - body.register}")
    elif isinstance(body, Agreement):
        words.append(f"{body.vpp} from={body.from_step} {body.method} members={len(body.members)}")
    elif isinstance(body, Distribution):
        given_uwh = sum(one.energy_uwh for one in body.outputs)
        words.append(
            f"supplement={body.supplement} inputs={len(body.inputs)} given_uwh={given_uwh}"
        )
    elif isinstance(body, Header):
        words.append(f"leaves={body.leaves} registered_uwh={body.flow.registered}")
    return printable(" ".join(words))


def printable(text: str) -> str:
    """`text` without what a terminal would obey or hide: control characters, also those above
    ASCII, and marks that turn the direction of writing are shown as their codes."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in text
    )


def utc(ms: int) -> str:
    """A moment as ISO 8601 with milliseconds, or its number where no calendar has it."""
    try:
        moment = datetime.fromtimestamp(ms // MS_PER_S, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{ms} ms after 1970"
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{ms % MS_PER_S:03d}Z"


def _fields(value: object, step_s: int | None, before: str) -> Iterator[str]:
    for field in fields(value):  # type: ignore[arg-type]  # callers give dataclasses
        inner = getattr(value, field.name)
        name = f"{before}{field.name}"
        if inner is None:
            continue
        if field.name in _FLAT:
            yield from _flat(name, field.name, inner)
        elif is_dataclass(inner) and not isinstance(inner, PublicKey):
            yield from _fields(inner, step_s, f"{name}.")
        elif field.name == "coefficients":
            yield _line(name, " ".join(map(str, inner)) or "none")
        elif field.name in _LISTS:
            yield from _list(name, inner)
        elif field.name == "records":
            yield _line(name, f"{len(inner)} records")
        elif before.startswith("broker.") and field.name in _SECRETS:
            yield _line(name, "(not shown)")
        else:
            in_uwh = before in _IN_UWH and field.name != "tokens"
            yield _line(name, _value(field.name, inner, step_s, in_uwh=in_uwh))


def _list(name: str, items: tuple[object, ...]) -> Iterator[str]:
    """Each item on a line of its own, field by field."""
    yield _line(name, str(len(items)) if items else "none")
    for item in items:
        said = [(one.name, getattr(item, one.name)) for one in fields(item)]  # type: ignore[arg-type]  # as above
        words = [f"{part}={_value(part, value, None)}" for part, value in said if value is not None]
        yield printable(f"{'':{_COLUMN}}  {', '.join(words)}")


def _value(name: str, value: object, step_s: int | None, *, in_uwh: bool = False) -> str:
    match value:
        case PublicKey():
            return f"{value.thumbprint.hex()} ({value.algorithm.name})"
        case bytes():
            return value.hex() if len(value) <= 32 else f"{len(value)} bytes"
        case Enum():
            return str(value.value)
        case tuple():
            return ", ".join(map(str, value)) or "none"
        case Fraction():
            return str(value)
        case int() if name in _MOMENTS:
            return f"{value}  {utc(value)}"
        case int() if name in _STEPS and step_s is not None:
            return f"{value}  begins {utc(step_start_ms(value, step_s))}"
        case int() if in_uwh or name.endswith("_uwh"):
            return f"{value}  {kwh(value)}"
        case _:
            return str(value)


def _flat(name: str, kind: str, flat: tuple[int, ...]) -> Iterator[str]:
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if kind == "late":
        yield _line(name, f"{flat[0]} records, at most {flat[1]} steps late")
    elif kind == "meters":
        yield _line(name, f"{flat[0]} expected, {flat[1]} heard")
    elif not pairs:
        yield _line(name, "none")
    elif kind == "aside":
        runs = ", ".join(f"{count} from leaf {first} of the block on" for first, count in pairs)
        yield _line(name, f"distributions that move nothing: {runs}")
    elif kind == "lots":
        yield _line(name, f"{len(pairs)} lots, {sum(flat[::2])} pulses")
        yield from (f"{'':{_COLUMN}}  {pulses} pulses by {ms} ms" for pulses, ms in pairs)
    elif kind == "watched":
        yield _line(name, ", ".join(f"{start} to {end} ms" for start, end in pairs))
    else:
        yield _line(name, ", ".join(f"{mark_name(code)}={amount}" for code, amount in pairs))


def mark_name(code: int) -> str:
    """A mark as documents and commands name it, also one that is not known here."""
    known: list[IntEnum] = [mark for mark in Mark if mark == code]
    return known[0].name.lower().replace("_", "-") if known else f"mark-{code}"


def _line(name: str, value: str) -> str:
    return f"{name:{_COLUMN}}  {printable(value)}"
