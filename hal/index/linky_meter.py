"""A simulated Linky: its frames, as bytes, from what it has counted. No clock, no port.

The twin of hal.index.linky; forms as there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hal.index.linky import EOT, ETX, HT, OPTIONS, STX, Mode, checksum
from hal.index.local_time import write_local_time

_EVEN = bytes(byte | (byte.bit_count() % 2) << 7 for byte in range(128)) + bytes(range(128, 256))
_VOLTS = 230
_DAY_S, _HALF_HOUR_S, _TEN_MINUTES_S = 86_400, 1_800, 600
_STATUS = 0x003A_0001  # standard, euridis on and secured, registered; contact open
_STATUS_PRODUCER, _STATUS_INJECTING, _STATUS_DEGRADED = 1 << 8, 1 << 9, 1 << 16
_NO_MESSAGE = "PAS DE          MESSAGE         "
_DAY_PLAN = " ".join(["00004001", "06004002", "22004001", *["NONUTILE"] * 8])


@dataclass(frozen=True, slots=True)
class LinkyMeter:
    """What a Linky knows when it sends a frame.

    Attributes:
        imported_wh: what each register of its contract has counted; the first ten in standard mode.
        exported_wh: None of a consumer.
        at_s: its clock, unix seconds.
        power_va: taken from the grid; negative: given to it.
        option: of a historic contract, as OPTARIF says it.
        has_clock: not after a long absence of the grid.
    """

    mode: Mode = Mode.STANDARD
    identity: str = "031976123456"
    imported_wh: tuple[int, ...] = (0,)
    exported_wh: int | None = None
    at_s: int = 1_767_225_600
    power_va: int = 0
    phases: int = 1
    option: str = "BASE"
    has_clock: bool = True


def frame(meter: LinkyMeter) -> bytes:
    """One frame, each character with its parity, as a port of eight bits receives it."""
    groups = _standard(meter) if meter.mode is Mode.STANDARD else _historic(meter)
    return with_parity(pack(groups, meter.mode))


def short_frame(meter: LinkyMeter) -> bytes:
    """What a three-phase meter sends in historic mode while a phase is above its limit."""
    amperes = f"{abs(meter.power_va) // _VOLTS:03}"
    groups = [("ADIR1", amperes), ("ADCO", meter.identity), ("IINST1", amperes)]
    return with_parity(pack([*groups, ("IINST2", "001"), ("IINST3", "001")], Mode.HISTORIC))


def broken_off(whole: bytes, at: int) -> bytes:
    """A frame that the meter ends with EOT, to attend to something else."""
    return whole[:at] + with_parity(EOT)


def with_parity(characters: bytes) -> bytes:
    """Characters of seven bits, the eighth makes their ones even."""
    return characters.translate(_EVEN)


def pack(groups: Iterable[tuple[str, ...]], mode: Mode) -> bytes:
    """A frame of these groups: label, perhaps a time stamp, data."""
    separator = HT if mode is Mode.STANDARD else b" "
    lines = []
    for group in groups:
        text = separator.join(part.encode("ascii") for part in group)
        summed = text + separator if mode is Mode.STANDARD else text
        lines.append(b"\n%b%b%c\r" % (text, separator, checksum(summed)))
    return STX + b"".join(lines) + ETX


def _standard(meter: LinkyMeter) -> Iterator[tuple[str, ...]]:
    def stamp(before_s: int, period_s: int = 1) -> str:
        digits, is_summer = write_local_time((meter.at_s - before_s) // period_s * period_s)
        season = "E" if is_summer else "H"
        return (season if meter.has_clock else season.lower()) + digits

    def registers(label: str, values: Iterable[int]) -> Iterator[tuple[str, ...]]:
        return ((f"{label}{place:02}", f"{wh:09}") for place, wh in enumerate(values, 1))

    producer = meter.exported_wh is not None
    phases = range(1, meter.phases + 1)
    taken = f"{max(0, meter.power_va):05}"
    given = f"{max(0, -meter.power_va):05}"
    each_va = abs(meter.power_va) // meter.phases
    used = meter.imported_wh
    total_wh = sum(used)
    yield "ADSC", meter.identity
    yield "VTIC", "02"
    yield "DATE", stamp(0), ""
    yield "NGTF", f"{'PRODUCTEUR' if producer else 'BASE':^16}"
    yield "LTARF", f"{'INDEX NON CONSO' if producer else 'BASE':^16}"
    yield "EAST", f"{total_wh:09}"
    yield from registers("EASF", (*used, *[0] * (10 - len(used))))
    yield from registers("EASD", (total_wh, 0, 0, 0))
    if meter.exported_wh is not None:
        yield "EAIT", f"{meter.exported_wh:09}"
        for quadrant in range(1, 5):
            yield f"ERQ{quadrant}", f"{meter.exported_wh // (10 * quadrant):09}"
    yield from ((f"IRMS{phase}", f"{each_va // _VOLTS:03}") for phase in phases)
    yield from ((f"URMS{phase}", f"{_VOLTS + phase:03}") for phase in phases)
    yield "PREF", "09"
    yield "PCOUP", "09"
    suffixes = ["", *([str(phase) for phase in phases] if meter.phases > 1 else [])]
    yield "SINSTS", taken
    if meter.phases > 1:
        yield from ((f"SINSTS{phase}", f"{each_va:05}") for phase in phases)
    for day, before_s in (("", 0), ("-1", _DAY_S)):
        for suffix in suffixes:
            yield f"SMAXSN{suffix}{day}", stamp(before_s, _HALF_HOUR_S), "04321"
    if producer:
        yield "SINSTI", given
        yield "SMAXIN", stamp(0, _HALF_HOUR_S), "03210"
        yield "SMAXIN-1", stamp(_DAY_S, _HALF_HOUR_S), "02100"
    yield "CCASN", stamp(0, _HALF_HOUR_S), taken
    yield "CCASN-1", stamp(_HALF_HOUR_S, _HALF_HOUR_S), taken
    if producer:
        yield "CCAIN", stamp(0, _HALF_HOUR_S), given
        yield "CCAIN-1", stamp(_HALF_HOUR_S, _HALF_HOUR_S), given
    for phase in phases:
        yield f"UMOY{phase}", stamp(0, _TEN_MINUTES_S), f"{_VOLTS + phase:03}"
    status = _STATUS | producer * _STATUS_PRODUCER | (meter.power_va < 0) * _STATUS_INJECTING
    yield "STGE", f"{status | (not meter.has_clock) * _STATUS_DEGRADED:08X}"
    yield "MSG1", _NO_MESSAGE
    yield "PRM", "30001234567890"
    yield "RELAIS", "000"
    yield "NTARF", "01"
    yield "NJOURF", "00"
    yield "NJOURF+1", "00"
    yield "PJOURF+1", _DAY_PLAN


def _historic(meter: LinkyMeter) -> Iterator[tuple[str, ...]]:
    amperes = f"{abs(meter.power_va) // meter.phases // _VOLTS:03}"
    suffixes = [""] if meter.phases == 1 else [str(phase) for phase in range(1, meter.phases + 1)]
    yield "ADCO", meter.identity
    yield "OPTARIF", meter.option
    yield "ISOUSC", "30"
    labels = OPTIONS[meter.option[:3]]
    yield from zip(labels, (f"{wh:09}" for wh in meter.imported_wh), strict=True)
    yield "PTEC", "TH.."
    yield from ((f"IINST{suffix}", amperes) for suffix in suffixes)
    yield from ((f"IMAX{suffix}", "040") for suffix in suffixes)
    if meter.phases > 1:
        yield "PMAX", "08000"
    yield "PAPP", f"{max(0, meter.power_va) // 10 * 10:05}"
    yield "HHPHC", "A"
    yield "MOTDETAT", "000000"
    if meter.phases > 1:
        yield "PPOT", "00"
