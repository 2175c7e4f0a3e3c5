"""Load curves and their templates."""

import tomllib
from dataclasses import replace
from datetime import UTC, datetime

from cryptometer.curve_template import GENERIC, Stamp, Template, Unit, read_template
from cryptometer.errors import ConfigurationError
from cryptometer.load_curve import INTERVAL_UWH_MAX, LoadCurve, read_load_curve
from hal.zone import zone_named
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import BY_MESSAGE, Target, text_of

_STEP_S = 900
_LONG = Template(
    time="Horodate",
    value="Valeur",
    zone="Europe/Paris",
    stamp=Stamp.END,
    interval_minutes=30,
    unit=Unit.W,
)
_OF_SEVERAL = replace(_LONG, member="PRM", decimal_comma=True, interval_minutes=60)
_PLAIN = replace(GENERIC, unit=Unit.WH)


def _read_curve(data: bytes) -> None:
    """As any of three templates; refused if all refuse."""
    refused: Exception | None = None
    for template, member in ((GENERIC, ""), (_LONG, "alice"), (_OF_SEVERAL, "")):
        zone = zone_named(template.zone)
        try:
            curve = read_load_curve([data], template, zone, _STEP_S, member)
        except BY_MESSAGE as error:
            refused = error
        else:
            _judge(curve)
            if read_load_curve(_pieces(data), template, zone, _STEP_S, member) != curve:
                raise FalseAcceptance("another curve where the file comes in pieces")
            return
    assert refused is not None
    raise refused


def _pieces(data: bytes) -> list[bytes]:
    size = 1 + len(data) // 7
    return [data[at : at + size] for at in range(0, len(data), size)]


def _judge(curve: LoadCurve) -> None:
    """What was let through is written as plainly as can be, and must say the same again."""
    for name, series in curve.members.items():
        lines = [f"time,{name}"]
        for step, energy_uwh in series.energies_uwh.items():
            if not series.first <= step <= series.last:
                raise FalseAcceptance(f"step {step} is not within the file's")
            if not 0 <= energy_uwh <= INTERVAL_UWH_MAX:
                raise FalseAcceptance(f"an energy of {energy_uwh} µWh")
            at = datetime.fromtimestamp(step * _STEP_S, UTC)
            lines.append(f"{at.isoformat()},{energy_uwh // 10**6}.{energy_uwh % 10**6:06}")
        if len(lines) > 1:
            text = "\n".join(lines).encode()
            again = read_load_curve([text], _PLAIN, UTC, _STEP_S).members[name]
            if again.energies_uwh != series.energies_uwh:
                raise FalseAcceptance("another curve when it is written again")


def _read_template(data: bytes) -> None:
    try:
        table = tomllib.loads(text_of(data))
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigurationError(f"not TOML: {error}") from None
    template = read_template(table, "curve.toml")
    zone_named(template.zone)


_CURVES = (
    b"time,alice,bob\n2026-03-29T01:00Z,0.125,0.3\n2026-03-29T01:15Z,,7\n",
    b"\xef\xbb\xbfPRM;x\r\n1;2\r\n\r\nHorodate;Valeur\r\n"
    b"2026-10-25T02:00;1\r\n2026-10-25T02:30;2\r\n2026-10-25T02:00;3\r\n"
    b'2026-10-25T02:30;"4"\r\n2026-10-25T03:00:00+01:00;5\r\n2026-10-25T03:30;\r\n',
    b"Horodate;PRM;Valeur\n2026-03-29T01:00;a;0,5\n2026-03-29T03:00;b;12\n",
)
_TEMPLATES = (
    b"""time = "Horodate"
value = "Valeur"
zone = "Europe/Paris"
stamp = "end"
interval_minutes = 30
unit = "W"
time_format = "%d/%m/%Y %H:%M"
member = "PRM"
decimal_comma = true
[members]
3001 = "alice"
[only]
Sens = "in"
""",
)

CURVES: tuple[Target, ...] = (
    Target(
        "load-curve",
        ("cryptometer.load_curve.read_load_curve", "cryptometer.curve_times.read_moment"),
        _read_curve,
        lambda: list(_CURVES),
        BY_MESSAGE,
    ),
    Target(
        "curve-template",
        ("cryptometer.curve_template.read_template",),
        _read_template,
        lambda: list(_TEMPLATES),
        BY_MESSAGE,
    ),
)
