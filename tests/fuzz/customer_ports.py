"""What meters send to their customers unasked: Linky's frames, the P1 port's telegrams."""

from binascii import crc32
from collections.abc import Callable
from dataclasses import replace

from cryptometer.errors import Reason, Rejected
from hal.index.linky import FRAME_MAX, LinkyDecoder, Mode
from hal.index.linky_meter import LinkyMeter, frame, short_frame
from hal.index.local_time import read_local_time, write_local_time
from hal.index.p1 import TELEGRAM_MAX, P1Decoder
from hal.index.p1_meter import Country, P1Meter, telegram
from hal.index.reading import IndexDecoder, Reading, Refusal
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import Target

_SAMPLE_NS = 10**9


def readings(data: bytes, make: Callable[[], IndexDecoder], most: int) -> list[Reading]:
    """What comes of it at once, which must be what comes of it in pieces."""
    at_once = make().receive(data, _SAMPLE_NS)
    decoder, pieces = make(), []
    size = 1 + crc32(data) % 97  # any, and the same one for the same bytes
    for at in range(0, len(data), size):
        pieces += decoder.receive(data[at : at + size], _SAMPLE_NS)
    if pieces != at_once:
        raise FalseAcceptance("it matters how the bytes are cut")
    if any(len(one.detail) > 200 for one in at_once if isinstance(one, Refusal)):
        raise FalseAcceptance("a refusal without a bound")
    found = [one for one in at_once if isinstance(one, Reading)]
    if len(at_once) > len(data) or len(found) > 1 + len(data) // 50:
        raise FalseAcceptance("more than the bytes can say")
    if sum(len(text) for one in found for _, text in one.fields) > 20 * max(most, len(data)):
        raise FalseAcceptance("more text than there was")
    if not found:
        raise Rejected(Reason.MALFORMED, "no reading")
    return found


def _read_linky(data: bytes) -> None:
    """Every reading's registers stand in the bytes as they are written."""
    bare = bytes(byte & 0x7F for byte in data)
    for one in readings(data, LinkyDecoder, FRAME_MAX):
        fields = dict(one.fields)
        written = [
            (label, f"{index.value:09}")
            for label, index in (("EAST", one.imported), ("EAIT", one.exported))
            if index is not None and "OPTARIF" not in fields
        ]
        written += [item for item in fields.items() if item[0].startswith(("BASE", "HC", "BBR"))]
        for label, digits in written:
            if not any(f"\n{label}{sep}{digits}{sep}".encode() in bare for sep in "\t "):
                raise FalseAcceptance(f"{label} {digits} was not said")
        if f"{one.identity}".encode() not in bare:
            raise FalseAcceptance(f"{one.identity} was not said")


def _read_p1(data: bytes) -> None:
    for one in readings(data, P1Decoder, TELEGRAM_MAX):
        if any(f"{code}({text})".encode() not in data for code, text in one.fields
               if not text.startswith("(") and code != "/"):  # fmt: skip
            raise FalseAcceptance("a line that was not said")
        if any(code.startswith(("0-1:", "0-2:")) for code, _ in one.fields):
            raise FalseAcceptance("another device's line")
    _check_times(data)


def _check_times(data: bytes) -> None:
    digits = bytes(48 + byte % 10 for byte in data[:12].ljust(12, b"0")).decode()
    at_s = read_local_time(digits, is_summer=bool(data[:1] > b"\x7f"))
    if at_s is not None and at_s > 946_688_400:
        again, is_summer = write_local_time(at_s)
        if read_local_time(again, is_summer=is_summer) != at_s:
            raise FalseAcceptance(f"{digits} is {again}")


def _frames() -> list[bytes]:
    standard = LinkyMeter(imported_wh=(1_200, 34_000), power_va=700)
    historic = LinkyMeter(Mode.HISTORIC, imported_wh=(5, 6), option="HC..")
    producer = replace(standard, exported_wh=32_781, phases=3, power_va=-1_253)
    return [
        frame(standard),
        bytes(byte & 0x7F for byte in frame(producer)),
        frame(historic) + short_frame(historic) + frame(historic),
    ]


def _telegrams() -> list[bytes]:
    return [
        telegram(P1Meter(country, imported_wh=(4_426, 2_399), exported_wh=(2_444, 0)))
        for country in Country
    ]


CUSTOMER_PORTS: tuple[Target, ...] = (
    Target("linky", ("hal.index.linky.LinkyDecoder.receive",), _read_linky, _frames),
    Target(
        "p1",
        ("hal.index.p1.P1Decoder.receive", "hal.index.local_time.read_local_time"),
        _read_p1,
        _telegrams,
    ),
)
