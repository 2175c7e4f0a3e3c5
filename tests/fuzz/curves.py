"""Load curves and their templates."""

import tomllib
from dataclasses import replace
from datetime import UTC, datetime

from cryptometer.curve_sheet import INTERVAL_UWH_MAX
from cryptometer.curve_template import (
    GENERIC,
    LongerDay,
    Stamp,
    Template,
    Twice,
    Unit,
    read_template,
)
from cryptometer.errors import ConfigurationError
from cryptometer.load_curve import LoadCurve, read_load_curve
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
_REGISTERS = Template(
    time="Van",
    time_of_day="Om",
    time_format="%d-%m-%Y %H:%M",
    until="Tot",
    value="Volume",
    member="EAN",
    members={"541448": "alice", "541449": "bob"},
    register="Register",
    only={"Register": ["Dag", "Nacht"]},
    must={"Eenheid": "kWh"},
    zone="Europe/Brussels",
    stamp=Stamp.BEGIN,
    twice=Twice.PAIRS,
    interval_minutes=15,
    unit=Unit.KWH,
    decimal_comma=True,
)
_NUMBERED = Template(
    time="Fecha",
    position="Hora",
    time_format="%d/%m/%Y",
    value="*kWh",
    zone="Europe/Madrid",
    stamp=Stamp.END,
    longer_day=LongerDay.LAST,
    interval_minutes=60,
    unit=Unit.KWH,
    decimal_comma=True,
)
_ACROSS = Template(
    time="Giorno",
    across=True,
    time_format="%d/%m/%Y",
    zone="Europe/Rome",
    stamp=Stamp.BEGIN,
    longer_day=LongerDay.PASSED,
    interval_minutes=60,
    unit=Unit.KWH,
    decimal_comma=True,
)
_BARE = replace(_LONG, columns=["Horodate", "Valeur"], interval_minutes=10, zone="UTC")
_FORMS = (
    (GENERIC, ""),
    (_LONG, "alice"),
    (_OF_SEVERAL, ""),
    (_REGISTERS, ""),
    (_NUMBERED, "alice"),
    (_ACROSS, "alice"),
    (_BARE, "alice"),
)


def _read_curve(data: bytes) -> None:
    """As any of some templates; refused if all refuse."""
    refused: Exception | None = None
    for template, member in _FORMS:
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
            # Intervals of five minutes are three to a step.
            if not 0 <= energy_uwh <= 3 * INTERVAL_UWH_MAX:
                raise FalseAcceptance(f"an energy of {energy_uwh} µWh")
            lines.append(f"{_begin(step)},{energy_uwh // 10**6}.{energy_uwh % 10**6:06}")
            # Known steps may be steadily apart, which alone would be longer intervals.
            if step + 1 not in series.energies_uwh:
                lines.append(f"{_begin(step + 1)},")
        if len(lines) > 1 and max(series.energies_uwh.values()) <= INTERVAL_UWH_MAX:
            text = "\n".join(lines).encode()
            again = read_load_curve([text], _PLAIN, UTC, _STEP_S).members[name]
            if again.energies_uwh != series.energies_uwh:
                raise FalseAcceptance("another curve when it is written again")


def _begin(step: int) -> str:
    return datetime.fromtimestamp(step * _STEP_S, UTC).isoformat()


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
    b"Van;Om;Tot;EAN;Register;Volume;Eenheid\n"
    b'26-10-2025;01:45;26-10-2025 02:00;="541448";Dag;0,5;kWh\n'
    b'26-10-2025;02:45;26-10-2025 02:00;="541448";Dag;1,057;kWh\n'
    b'26-10-2025;02:45;26-10-2025 03:00;="541448";Dag;0,166;kWh\n'
    b'26-10-2025;03:00;26-10-2025 03:15;="541448";Dag;0,2;kWh\n'
    b'26-10-2025;03:00;26-10-2025 03:15;="541448";Nacht;;kWh\n'
    b'26-10-2025;03:00;26-10-2025 03:15;="541449";In;9;kWh\n',
    b"Fecha;Hora;AE_kWh\n25/10/2025;1;0,5\n25/10/2025;24;0,25\n25/10/2025;02:00;\n",
    b"Fecha;Hora;AE_kWh\n" + b"".join(b"26/10/2025;%d;1\n" % hour for hour in range(1, 26)),
    b"Giorno;00:00-01:00;01:00-02:00;02:00-03:00;02:00-03:00;03:00-04:00\n"
    b"29/03/2026;1;2;;;3\n25/10/2026;1;2;3;4;5\n26/10/2026;1;;3;;5\n",
    b"Giorno;H0;H1;H22;H23\n28/03/2026;1;2;3;4\n",
    b"2026-06-01T00:10;6\n2026-06-01T00:20;7\n2026-06-01T00:30;8\n",
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
    b"""time = "Van"
time_of_day = "Om"
time_format = "%d-%m-%Y %H:%M"
until = "Tot"
value = "Volume"
register = "Register"
columns = ["Van", "Om", "Tot", "Volume", "Register"]
zone = "Europe/Brussels"
stamp = "begin"
twice = "pairs"
interval_minutes = 10
unit = "kWh"
[only]
Register = ["Dag", "Nacht"]
[must]
Eenheid = "kWh"
""",
    b"""time = "Giorno"
across = true
time_format = "%d/%m/%Y"
zone = "Europe/Rome"
stamp = "end"
longer_day = "last"
interval_minutes = 60
unit = "kW"
""",
)

CURVES: tuple[Target, ...] = (
    Target(
        "load-curve",
        (
            "cryptometer.load_curve.read_load_curve",
            "cryptometer.curve_times.read_moment",
            "cryptometer.curve_times.read_time",
            "cryptometer.curve_days.read_day",
            "cryptometer.curve_days.read_position",
        ),
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
