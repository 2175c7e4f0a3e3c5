"""The meters an authority registers, as a TOML file lists them: text in, registrations out.

Every number is read exactly: TOML's floats arrive as the text they were written with.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from cryptometer.authority_records import CountingSource, MeterDetails, Use
from cryptometer.commands.bound import check_ratings
from cryptometer.commands.quantities import moment_ms, rational, thousandths
from cryptometer.errors import ConfigurationError
from cryptometer.metrology import Side, lot_limit
from cryptometer.settings import read_settings, setting

LOT_PULSES_MAX = 2**32  # what a registration can state


class AccuracyClass(StrEnum):
    """Accuracy class of MID MI-003."""

    A = "A"
    B = "B"
    C = "C"


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """One table `[[meter]]`. Numbers are integers, decimals, or texts like "2500/3"."""

    name: str = setting("how the community calls the meter; lower case, digits and hyphens")
    request: str = setting("the device's enrolment request, relative to this file; or its text")
    serial: str = setting("the manufacturer's number on the name plate")
    use: Use = setting("generation, consumption or storage")
    class_: AccuracyClass = setting("MID accuracy class: A, B or C")
    phases: int = setting("measured phases, 1 to 3")
    voltage_v: str = setting("U_n phase to neutral, volts")
    i_min_a: str = setting("I_min, amperes")
    i_max_a: str = setting("I_max, amperes")
    index_kwh: str = setting("what the display shows at enrolment, kWh")
    source: CountingSource = setting(
        "what counts: pulses, or the index that the meter says itself", CountingSource.PULSES
    )
    constant: str = setting("pulses per kWh", "")
    resolution_wh: str = setting("of an index: what its last digit is worth, Wh", "")
    kwh_per_pulse: str = setting("instead of the constant, where the plate says it so", "")
    ratio: str = setting("transformer ratio, CT times VT; needed when a side is secondary", "")
    ratings_side: Side = setting("side that U and I are stated for", Side.PRIMARY)
    constant_side: Side = setting("side that the constant is stated for", Side.PRIMARY)
    guard: str = setting("part of the MPE that lots may use", "1")
    from_: str = setting(
        'the first step that counts: the one that holds this time, or "now"', "now"
    )
    accept_coarse: bool = setting("register a meter of which one pulse reaches the bound", False)
    exclusive: bool = setting("the meter counts in this community and no other", True)


_KEYWORDS = {"class": "class_", "from": "from_"}  # words that Python keeps for itself
_NUMBERS = (
    "voltage_v",
    "i_min_a",
    "i_max_a",
    "index_kwh",
    "constant",
    "kwh_per_pulse",
    "resolution_wh",
    "ratio",
    "guard",
)


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """One meter to register.

    Attributes:
        request: the path of its enrolment request, as written in the file.
        from_ms: a moment in its first step, ms since the Unix epoch.
    """

    name: str
    request: str
    from_ms: int
    details: MeterDetails


def read_meters(text: str, where: str, step_s: int, now_ms: int) -> list[MeterEntry]:
    """Reads the tables `[[meter]]` of a TOML file.

    Args:
        text: the file's content.
        where: the file's name, for messages.
        step_s: the community's market step, seconds: the bound on a lot depends on it.
        now_ms: what "now" means, ms since the Unix epoch.

    Raises:
        ConfigurationError: the first thing that is wrong, naming the meter; a meter too coarse for
            the step is refused with the bound and the constant it would need.
    """
    try:
        document = tomllib.loads(text, parse_float=str)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is not TOML: {error}") from None
    tables = document.pop("meter", None)
    if document or not isinstance(tables, list) or not tables:
        raise ConfigurationError(f"{where} holds tables [[meter]] and nothing else")
    entries: list[MeterEntry] = []
    for number, table in enumerate(tables, 1):
        if not isinstance(table, dict):
            raise ConfigurationError(f"{where}: meter {number} is not a table [[meter]]")
        named = f"{where}: meter {table.get('name', number)!r}"
        entry = _read_meter(table, named, step_s, now_ms)
        if any(entry.name == other.name for other in entries):
            raise ConfigurationError(f"{named} stands there twice")
        entries.append(entry)
    return entries


def _read_meter(table: Mapping[str, object], where: str, step_s: int, now_ms: int) -> MeterEntry:
    settings = _read_table(table, where)
    details = _details(settings, where)
    ratings = details.ratings
    try:
        check_ratings(ratings)
        if details.source is CountingSource.INDEX:
            lot, coarse = 1, False  # it has no lots: a step is the difference of two readings
        else:
            lot = lot_limit(ratings, step_s, accept_coarse=settings.accept_coarse)
            coarse = ratings.pulses_per_lot(step_s) == 0
    except ConfigurationError as error:
        raise ConfigurationError(f"{where}: {error}") from None
    return MeterEntry(
        settings.name,
        settings.request,
        moment_ms(settings.from_, f"{where} from", now_ms),
        replace(details, lot_pulses=min(lot, LOT_PULSES_MAX), coarse=coarse),
    )


def _read_table(table: Mapping[str, object], where: str) -> MeterSettings:
    plain: dict[str, object] = {}
    for key, value in table.items():
        if key in _NUMBERS and type(value) is int:
            plain[key] = str(value)
        elif key == "from" and hasattr(value, "isoformat"):
            plain["from_"] = value.isoformat()  # TOML has times of its own
        else:
            plain[_KEYWORDS.get(key, key)] = value
    try:
        return read_settings(MeterSettings, plain, where)
    except ConfigurationError as error:
        message = str(error)
        for word, field in _KEYWORDS.items():
            message = message.replace(field, word)
        raise ConfigurationError(message) from None


def _details(settings: MeterSettings, where: str) -> MeterDetails:
    """What the name plate says; what a lot may hold is still open."""
    secondary = Side.SECONDARY in (settings.ratings_side, settings.constant_side)
    if secondary and not settings.ratio:
        raise ConfigurationError(f"{where}: a secondary side needs the ratio of the transformers")
    i_min_ma = thousandths(settings.i_min_a, f"{where} i_min_a", "amperes")
    i_max_ma = thousandths(settings.i_max_a, f"{where} i_max_a", "amperes")
    if i_max_ma < i_min_ma:
        raise ConfigurationError(f"{where}: I_max is below I_min")
    if not 1 <= settings.phases <= 3:
        raise ConfigurationError(f"{where} phases is from 1 to 3, not {settings.phases}")
    return MeterDetails(
        serial=settings.serial,
        use=settings.use,
        source=settings.source,
        index_wh=thousandths(settings.index_kwh, f"{where} index_kwh", "kWh"),
        accuracy_class=settings.class_.value,
        phases=settings.phases,
        voltage_mv=thousandths(settings.voltage_v, f"{where} voltage_v", "volts"),
        i_min_ma=i_min_ma,
        i_max_ma=i_max_ma,
        ratings_side=settings.ratings_side,
        constant=_constant(settings, where),
        constant_side=settings.constant_side,
        ratio=rational(settings.ratio or "1", f"{where} ratio"),
        guard=rational(settings.guard, f"{where} guard"),
        lot_pulses=0,
        coarse=False,
        exclusive=settings.exclusive,
    )


def _constant(settings: MeterSettings, where: str) -> Fraction:
    if settings.source is CountingSource.INDEX:
        if settings.constant or settings.kwh_per_pulse or not settings.resolution_wh:
            raise ConfigurationError(
                f"{where} counts its index: it needs resolution_wh, what the last digit is worth,"
                " in place of a constant"
            )
        return 1_000 / rational(settings.resolution_wh, f"{where} resolution_wh")
    if settings.resolution_wh:
        raise ConfigurationError(f"{where} resolution_wh goes with source = 'index'")
    match settings.constant, settings.kwh_per_pulse:
        case constant, "" if constant:
            return rational(constant, f"{where} constant")
        case "", inverse if inverse:
            return 1 / rational(inverse, f"{where} kwh_per_pulse")
        case _:
            raise ConfigurationError(f"{where} needs either constant or kwh_per_pulse")
