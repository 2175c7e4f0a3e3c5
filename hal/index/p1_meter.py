"""A simulated meter with a P1 port: its telegrams, as bytes, from what it has counted. No clock, no
port.

The twin of hal.index.p1; forms as there.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from hal.index.local_time import write_local_time
from hal.index.p1 import checksum

_VOLTS = 230
_DAY_S = 86_400
_MONTH_S = 30 * _DAY_S


class Country(StrEnum):
    NETHERLANDS = "nl"  # DSMR 5
    BELGIUM = "be"  # e-MUCS 1.7
    LUXEMBOURG = "lu"


@dataclass(frozen=True, slots=True)
class P1Meter:
    """What a meter knows when it sends a telegram.

    Attributes:
        imported_wh: of its two tariffs.
        exported_wh: of its two tariffs.
        at_s: its clock, unix seconds.
        power_w: taken from the grid; negative: given to it.
        mbus: devices it reads on its M-Bus.
        months: of the history of peaks, in Belgium.
        failures: of power, in the log.
    """

    country: Country = Country.NETHERLANDS
    identity: str = "E0099000000000123"
    imported_wh: tuple[int, int] = (0, 0)
    exported_wh: tuple[int, int] = (0, 0)
    at_s: int = 1_767_225_600
    power_w: int = 0
    mbus: int = 1
    months: int = 3
    failures: int = 1


_HEADS = {
    Country.NETHERLANDS: r"/CME5\T100-SIM",
    Country.BELGIUM: r"/CME5\000000001_A",
    Country.LUXEMBOURG: r"/Cme5\000000002_D",
}


def telegram(meter: P1Meter) -> bytes:
    """One telegram."""
    lines = {
        Country.NETHERLANDS: _dutch,
        Country.BELGIUM: _belgian,
        Country.LUXEMBOURG: _luxembourgish,
    }[meter.country](meter)
    return pack(_HEADS[meter.country], lines)


def pack(head: str, lines: Iterator[str]) -> bytes:
    """A telegram of these lines, with its checksum."""
    text = "\r\n".join((head, "", *lines, "!")).encode("ascii")
    return b"%b%04X\r\n" % (text, checksum(text))


def _time(at_s: int) -> str:
    digits, is_summer = write_local_time(at_s)
    return digits + ("S" if is_summer else "W")


def _hex(characters: str) -> str:
    return characters.encode("ascii").hex().upper()


def _kwh(wh: int) -> str:
    return f"({wh // 1000:06}.{wh % 1000:03}*kWh)"


def _kw(watts: int) -> str:
    return f"({watts // 1000:02}.{watts % 1000:03}*kW)"


def _tariffs(meter: P1Meter) -> Iterator[str]:
    for code, registers in (("1.8", meter.imported_wh), ("2.8", meter.exported_wh)):
        for tariff, wh in enumerate(registers, 1):
            yield f"1-0:{code}.{tariff}{_kwh(wh)}"


def _powers(meter: P1Meter) -> Iterator[str]:
    taken, given = max(0, meter.power_w), max(0, -meter.power_w)
    yield f"1-0:1.7.0{_kw(taken)}"
    yield f"1-0:2.7.0{_kw(given)}"
    for phase in (21, 41, 61):
        yield f"1-0:{phase}.7.0{_kw(taken // 3)}"
    for phase in (22, 42, 62):
        yield f"1-0:{phase}.7.0{_kw(given // 3)}"


def _voltages() -> Iterator[str]:
    for phase in (32, 52, 72):
        yield f"1-0:{phase}.7.0({_VOLTS}.{phase % 10}*V)"


def _mbus(meter: P1Meter, identity: str, volume: str) -> Iterator[str]:
    for channel in range(1, meter.mbus + 1):
        yield f"0-{channel}:24.1.0({3 if channel == 1 else 7:03})"
        yield f"0-{channel}:{identity}({_hex(f'7CME{channel:09}')})"
        at_s = meter.at_s // 300 * 300
        yield f"0-{channel}:{volume}({_time(at_s)})({at_s // 10_000 % 100_000:05}.{channel:03}*m3)"


def _dutch(meter: P1Meter) -> Iterator[str]:
    yield "1-3:0.2.8(50)"
    yield f"0-0:1.0.0({_time(meter.at_s)})"
    yield f"0-0:96.1.1({_hex(meter.identity)})"
    yield from _tariffs(meter)
    yield "0-0:96.14.0(0002)"
    yield from _powers(meter)
    yield "0-0:96.7.21(00013)"
    yield f"0-0:96.7.9({meter.failures:05})"
    log = "".join(
        f"({_time(meter.at_s - days * _DAY_S)})({days * 100:010}*s)"
        for days in range(1, meter.failures + 1)
    )
    yield f"1-0:99.97.0({meter.failures})(0-0:96.7.19){log}"
    for phase in (32, 52, 72):
        yield f"1-0:{phase}.32.0(00001)"
        yield f"1-0:{phase}.36.0(00000)"
    yield "0-0:96.13.0()"
    yield from _voltages()
    for phase in (31, 51, 71):
        yield f"1-0:{phase}.7.0({abs(meter.power_w) // 3 // _VOLTS:03}*A)"
    yield from _mbus(meter, "96.1.0", "24.2.1")


def _belgian(meter: P1Meter) -> Iterator[str]:
    yield "0-0:96.1.4(50217)"
    yield f"0-0:96.1.1({_hex(meter.identity)})"
    yield f"0-0:1.0.0({_time(meter.at_s)})"
    yield from _tariffs(meter)
    yield "0-0:96.14.0(0001)"
    yield f"1-0:1.4.0{_kw(max(0, meter.power_w))}"
    yield f"1-0:1.6.0({_time(meter.at_s - _DAY_S)})(03.064*kW)"
    history = "".join(
        f"({_time(meter.at_s - month * _MONTH_S)})({_time(meter.at_s - month * _MONTH_S - _DAY_S)})"
        f"({month:02}.695*kW)"
        for month in range(meter.months, 0, -1)
    )
    yield f"0-0:98.1.0({meter.months})(1-0:1.6.0)(1-0:1.6.0){history}"
    yield from _powers(meter)
    yield from _voltages()
    for phase in (31, 51, 71):
        yield f"1-0:{phase}.7.0({abs(meter.power_w) // 3 // _VOLTS:03}.00*A)"
    yield "0-0:96.3.10(1)"
    yield "0-0:17.0.0(999.9*kW)"
    yield "1-0:31.4.0(999*A)"
    yield "0-0:96.13.0()"
    yield from _mbus(meter, "96.1.1", "24.2.3")


def _luxembourgish(meter: P1Meter) -> Iterator[str]:
    yield "1-3:0.2.8(42)"
    yield f"0-0:1.0.0({_time(meter.at_s)})"
    yield f"0-0:42.0.0({_hex(meter.identity)})"
    yield f"1-0:1.8.0{_kwh(sum(meter.imported_wh))}"
    yield f"1-0:2.8.0{_kwh(sum(meter.exported_wh))}"
    yield "1-0:3.8.0(000120.721*kvarh)"
    yield "1-0:4.8.0(000697.336*kvarh)"
    yield from _powers(meter)
    yield "0-0:17.0.0(27.600*kVA)"
    yield "0-0:96.3.10(1)"
    for text in ("0", "2", "3", "4", "5"):
        yield f"0-0:96.13.{text}()"
