"""What meters send to their customers unasked: Linky's frames, the P1 port's telegrams."""

import re
from binascii import crc32
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

from cryptometer.errors import Reason, Rejected
from hal.index.linky import FRAME_MAX, LinkyDecoder, Mode
from hal.index.linky_meter import LinkyMeter, frame, short_frame
from hal.index.local_time import read_local_time, write_local_time
from hal.index.p1 import TELEGRAM_MAX, P1Decoder
from hal.index.p1_meter import Country, P1Meter, pack, telegram
from hal.index.reading import Index, IndexDecoder, Reading, Refusal
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.sums import ARC, divide, tic
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
    """Everything that a reading says stands in one frame, each group under its sum."""
    frames = [_groups(text) for text in _between_marks(data)]
    for one in readings(data, LinkyDecoder, FRAME_MAX):
        fields = [field for field in one.fields if not field[0].startswith("STGE ")]
        named = dict(fields)
        is_historic = "OPTARIF" in named
        said = {("ADCO" if is_historic else "ADSC", one.identity)}
        said |= {(label, text.strip()) for label, text in fields}
        for label, index in (("EAST", one.imported), ("EAIT", one.exported)):
            if index is not None and not is_historic:
                said.add((label, f"{index.value:09}"))
        if not any(said <= set(frame) for frame in frames):
            raise FalseAcceptance(f"{one.identity} was not said by one frame")
        if is_historic:
            parts = [
                text for label, text in fields if label.startswith(("BASE", "HCH", "EJPH", "BBRH"))
            ]
            if one.imported != Index(sum(map(int, parts))) or any(len(text) != 9 for text in parts):
                raise FalseAcceptance(f"{parts} are not {one.imported}")


def _between_marks(data: bytes) -> list[bytes]:
    """Every frame, without parity bits; bytes that are damaged by theirs as 0xFF."""
    found, marks = [], [at for at, byte in enumerate(data) if byte & 0x7F in (2, 3, 4)]
    for begin, end in pairwise(marks):
        if data[begin] & 0x7F == 2 and data[end] & 0x7F == 3:
            has_parity = data[begin] > 0x7F
            found.append(
                bytes(
                    0xFF if (byte.bit_count() % 2 if has_parity else byte > 0x7F) else byte & 0x7F
                    for byte in data[begin + 1 : end]
                )
            )
    return found


def _groups(text: bytes) -> list[tuple[str, str]]:
    """Label and data of each group whose sum is right."""
    found, separator = [], b"\t" if b"\t" in text else b" "
    for line in text.split(b"\n"):
        group, end = line[:-3], line[-3:]
        summed = group + separator if separator == b"\t" else group
        if end[:1] == separator and end[2:] == b"\r" and end[1] == tic(summed):
            label, _, rest = group.partition(separator)
            found.append(
                (label.decode("latin-1"), rest.decode("latin-1").replace("\t", " ").strip())
            )
    return found


def _read_p1(data: bytes) -> None:
    """Everything that a reading says stands in one telegram, whose sum is right."""
    telegrams = [
        found[1].decode("latin-1").split("\r\n")
        for found in _TELEGRAM.finditer(data)
        if int(found[2], 16) == divide(found[1], 0, ARC)
    ]
    is_unnamed = not any(code in data for code in (b"0-0:96.1", b"0-0:42.0"))
    for one in readings(data, partial(P1Decoder, is_unnamed=is_unnamed), TELEGRAM_MAX):
        if not any(_says(lines, one) for lines in telegrams):
            raise FalseAcceptance(f"{one.identity} was not said by one telegram")
        if any(code.startswith(("0-1:", "0-2:")) for code, _ in one.fields):
            raise FalseAcceptance("another device's line")
        if is_unnamed == bool(one.identity):
            raise FalseAcceptance("a meter without a number where one is expected, or with one")
    _check_times(data)


_TELEGRAM = re.compile(rb"(?s)(?=(/[^!]*!)([0-9A-Fa-f]{1,4})\r\n)")
_COUNT = re.compile(
    r"1-([01]):([12])[.:]8[.:]([0-9])(?:[.*]255)?\(0*([0-9]+)(?:\.([0-9]{3}))?\*?(?i:k?Wh)\)"
)


def _says(lines: list[str], one: Reading) -> bool:
    counts = [found.groups("") for line in lines if (found := _COUNT.fullmatch(line))]
    for group, index in (("1", one.imported), ("2", one.exported)):
        of_channel = [
            {tariff: int(whole + part) for which, way, tariff, whole, part in counts
             if (which, way) == (channel, group)}
            for channel in "01"
        ]  # fmt: skip
        totals = [of.get("0", sum(of.values())) for of in of_channel if "0" in of or len(of) > 1]
        if index != (Index(totals[0]) if totals else None):
            return False
    values = [line.partition("(")[2][:-1] for line in lines]
    known = {one.identity, one.identity.encode("latin-1").hex()}
    is_said = any(value in known or value.lower() in known for value in values)
    return (is_said or not one.identity) and all(
        f"({text})" in lines or any(line.endswith((f"({text})", text)) for line in lines)
        for code, text in one.fields
        if code != "/"
    )


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
    unnamed = ("1-1:1.8.1(000001.000kWh)", "1-1:1.8.2.255(000002.000*kWh)", "0-1:1.0.0(1)", "(2)")
    return [
        *(
            telegram(P1Meter(country, imported_wh=(4_426, 2_399), exported_wh=(2_444, 0)))
            for country in Country
        ),
        pack("/CME5/1", iter(unnamed)),
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
