"""What meters send at their optical port: SML files, messages of IEC 62056-21, and the answers of
a meter that is asked.
"""

import re
from collections.abc import Iterator
from decimal import Decimal
from itertools import product

from cryptometer.errors import Reason, Rejected
from hal.index.d0 import MESSAGE_MAX, D0Decoder
from hal.index.d0_asked import QUIET_TRIES_NS, Asking, D0Asked
from hal.index.d0_meter import data_message, pushed_message, with_parity
from hal.index.reading import Reading, Refusal
from hal.index.sml import FILE_MAX, SmlDecoder
from hal.index.sml_meter import SmlMeter, TimeForm, Value
from tests.fuzz.customer_ports import readings
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.sums import block, divide, x25
from tests.fuzz.target import Target

_JUDGED_MAX = 1_500  # bytes: several files or messages
_ESCAPE, _BEGIN = b"\x1b" * 4, b"\x01" * 4


def _read_sml(data: bytes) -> None:
    """What was read stands in a file whose sum is right, by the book's own arithmetic."""
    found = readings(data, SmlDecoder, FILE_MAX)
    if len(data) > _JUDGED_MAX:
        return
    files = [file.replace(_ESCAPE * 2, _ESCAPE) for file in _files(data)]
    for one in found:
        said = [bytes.fromhex(one.identity)]
        for group, index in ((1, one.imported), (2, one.exported)):
            if index is not None and f"1-0:{group}.8.0*255" in dict(one.fields):
                said.append(index.value.to_bytes((index.value.bit_length() + 7) // 8, "big"))
        if not any(all(part in file for part in said) for file in files):
            raise FalseAcceptance(f"{one.identity} was not said by a whole file")


def _files(data: bytes) -> list[bytes]:
    """Every stretch from a start to an end whose sum is right, of either kind."""
    found = []
    for begin in _places(data, _ESCAPE + _BEGIN):
        for end in _places(data[begin:], _ESCAPE + b"\x1a"):
            file = data[begin : begin + end + 8]
            if file[-2:] in _sums(file[:-2]):
                found.append(file)
    return found


def _places(data: bytes, what: bytes) -> list[int]:
    return [at for at in range(len(data)) if data.startswith(what, at)]


def _sums(data: bytes) -> tuple[bytes, bytes]:
    """X-25 and Kermit, as each is sent."""
    return x25(data), divide(data, 0).to_bytes(2, "big")


def _read_d0(data: bytes) -> None:
    _check_said([data], readings(data, D0Decoder, MESSAGE_MAX))


def _check_said(lines: list[bytes], found: list[Reading]) -> None:
    """What was read stands in one message as it was told, with even parity if any byte has its
    bit, and under its block check."""
    if sum(map(len, lines)) > _JUDGED_MAX:
        return
    messages = [message for line in lines for message in _messages(line)]
    for one in found:
        if not any(_says(text, one) for text in messages):
            raise FalseAcceptance(f"{one.identity} was not said by a whole message")
        for group, index in (("1", one.imported), ("2", one.exported)):
            if index is not None and index.uwh not in _energies(one, group):
                raise FalseAcceptance(f"{one.fields} are not {index}")


def _messages(data: bytes) -> Iterator[str]:
    """Every stretch from a start to an end mark that parity and block check allow."""
    bare = bytes(byte & 0x7F for byte in data)
    for end in _places(bare, b"!\r\n"):
        after = end + 3
        for begin in _places(bare[:end], b"/") + _places(bare[:end], b"\x02"):
            text = bare[begin:end]
            if b"!" in text or b"/" in _WITHIN.sub(b"", text[1:]):
                continue
            over = after
            if b"\x02" in text and bare[after : after + 1] == b"\x03":
                over = after + 2
                if (
                    block(bare[begin + text.index(b"\x02") + 1 : after + 1])
                    not in bare[over - 1 : over]
                ):
                    continue
            sent = data[begin:over]
            if sent.isascii() or all(byte.bit_count() % 2 == 0 for byte in sent):
                yield text.decode("ascii")


_WITHIN = re.compile(rb"/(?=[^()\r\n\x02]*\))")  # a slash of a value


def _says(text: str, one: Reading) -> bool:
    # Values may hold spaces, which the fields do not tell from two values.
    spaced = text.replace(" ", ")(")
    told = [
        f"{name}({value.replace(' ', ')(')})"
        for name, value in one.fields
        if name != "identification"
    ]
    return one.identity in text and all(value in spaced for value in told)


def _energies(one: Reading, group: str) -> set[int]:
    """What a register may be by what was told of it, micro-watt-hours: the total, or the sum."""
    found: dict[str, set[int]] = {}
    for name, value in one.fields:
        # A second word may be the unit or, in brackets of its own, another value.
        words = value.split(" ")
        for said in {words[0], "*".join(words[:2])}:
            written = _COUNT.fullmatch(f"{name} {said}")
            if written is not None and written[1] == group:
                _, tariff, number, unit = written.groups()
                scale = Decimal(10) ** (6 + _UNITS[unit or "kWh"])
                uwh = Decimal(number.replace(",", ".")) * scale
                found.setdefault(tariff.lstrip("0") or "0", set()).add(int(uwh))
    tariffs = [values for tariff, values in found.items() if tariff != "0"]
    sums = {sum(chosen) for chosen in product(*tariffs)} if tariffs else set()
    return found.get("0", sums)


_COUNT = re.compile(
    r"(?:(?:0-0|1-[01]):)?([12])\.8\.([0-9]{1,2})(?:\*255|\*00)? ([0-9.,]+)(?:\*(k?Wh|MWh))?"
)
_UNITS = {"Wh": 0, "kWh": 3, "MWh": 6}


def _read_answers(data: bytes) -> None:
    """Answers to a question, cut at zero bytes; whatever comes, it asks again."""
    conversation, now_ns = D0Asked(Asking(_PERIOD_NS)), 0
    asked, due_ns, found = 0, conversation.due_ns, []
    for answer in [*data.split(b"\0"), *[b""] * 40]:
        now_ns = now_ns + 10**6 if answer else max(now_ns + 10**6, due_ns or 0)
        found += conversation.receive(answer, now_ns)
        asked += conversation.speak(now_ns).count(b"?")
        due_ns = conversation.due_ns
        if due_ns is None or due_ns > now_ns + _PERIOD_NS + QUIET_TRIES_NS:
            raise FalseAcceptance("it asks no more")
    if any(len(one.detail) > 200 for one in found if isinstance(one, Refusal)):
        raise FalseAcceptance("a refusal without a bound")
    if len(found) > asked + 1:
        raise FalseAcceptance("more outcomes than questions")
    if len(data) <= _JUDGED_MAX:
        _check_said(_heard(data), [one for one in found if isinstance(one, Reading)])
    if not any(isinstance(one, Reading) for one in found):
        raise Rejected(Reason.MALFORMED, "no reading")


def _heard(data: bytes) -> list[bytes]:
    """All answers, one behind the other; and up to each end mark behind which the line fell silent,
    since what came later was no block check of it. The mark's own end may be missing there."""
    heard, found = b"", []
    for answer in data.split(b"\0"):
        heard += answer
        for rest in (b"", b"\n", b"\r\n", b"\x8d\n"):
            whole = heard + rest
            if answer and bytes(byte & 0x7F for byte in whole[-3:]) == b"!\r\n":
                found.append(whole)
    return [*found, heard]


_PERIOD_NS = 60 * 10**9
_SERVER = b"\x0a\x01TST\0\0\x12\xd6\x87"
_LINES = ("F.F(00)", "C.1.0(7)", "1.8.0(012345.678*kWh)", "2.8.1(1*kWh)", "2.8.2(20.5*kWh)(3)")
_ODD_LINES = ("1.6.0,5(26)", "0.3.3(250*imp/kWh)", "0.0(  7)", "1.8.0(45,6 kWh)", "2.8.0(1 Wh)(2)")


def _sml_files() -> list[bytes]:
    values = [
        Value(b"\1\0\1\x08\0\xff", 22_462_413, 30, -1, 8, status=0x182),
        Value(b"\1\0\2\x08\1\xff", 7, 30, 3),
        Value(b"\1\0\x10\7\0\xff", -21_599, 27, -2, signed=True),
    ]
    meters = [
        SmlMeter(_SERVER, form is TimeForm.BARE, form, dates_values=True, signature=b"\x1b" * 20)
        for form in TimeForm
    ]
    meters.append(SmlMeter(_SERVER, four_fills=True, opens_for_zeros=True))
    files = [meter.file(5, values, 1_700_000_000) for meter in meters]
    return [*files, files[0][40:] + files[1] + files[2]]


def _d0_messages() -> list[bytes]:
    pushed = pushed_message("TST5\\@V1", _LINES)
    checked = data_message(_LINES)
    odd = data_message(_ODD_LINES)
    return [pushed, checked, with_parity(checked), b"\x02\0" + pushed * 2, odd, odd[30:] + odd]


def _answers() -> list[bytes]:
    data = data_message(_LINES)
    chosen = [b"/TST5METER\r\n", b"", b"", data[:30], data[30:]]
    cut = data_message(_LINES, is_checked=False)[:-2]
    ended = [b"", b"/TST5METER\r\n", b"", b"", cut, *[b""] * 9]
    lines = [b"\0".join([b"", *chosen]), b"\0".join(ended)]
    return [*lines, b"\0/?!\r\n/TST-METER\r\n" + data]


OPTICAL_PORTS: tuple[Target, ...] = (
    Target("sml", ("hal.index.sml.SmlDecoder.receive",), _read_sml, _sml_files),
    Target("d0", ("hal.index.d0.D0Decoder.receive",), _read_d0, _d0_messages),
    Target("d0-asked", ("hal.index.d0_asked.D0Asked.receive",), _read_answers, _answers),
)
