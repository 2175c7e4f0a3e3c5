"""What meters send at their optical port: SML files, messages of IEC 62056-21, and the answers of
a meter that is asked.
"""

from cryptometer.errors import Reason, Rejected
from hal.index.d0 import MESSAGE_MAX, D0Decoder
from hal.index.d0_asked import QUIET_TRIES_NS, Asking, D0Asked
from hal.index.d0_meter import data_message, pushed_message, with_parity
from hal.index.reading import Reading, Refusal
from hal.index.sml import FILE_MAX, SmlDecoder
from hal.index.sml_meter import SmlMeter, TimeForm, Value
from tests.fuzz.customer_ports import readings
from tests.fuzz.scene import FalseAcceptance
from tests.fuzz.target import Target

_JUDGED_MAX = 1_500  # bytes: several files, bit by bit
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
    """X-25 and Kermit, bit by bit, as each is sent."""
    return (
        (_divide(data, 0xFFFF) ^ 0xFFFF).to_bytes(2, "little"),
        _divide(data, 0).to_bytes(2, "big"),
    )


def _divide(data: bytes, preset: int) -> int:
    rest = preset
    for byte in data:
        rest ^= byte
        for _ in range(8):
            rest = rest >> 1 ^ (0x8408 if rest & 1 else 0)
    return rest


def _read_d0(data: bytes) -> None:
    """What was read stands there as it was told, and under its block check."""
    bare = bytes(byte & 0x7F for byte in data)
    for one in readings(data, D0Decoder, MESSAGE_MAX):
        for name, text in one.fields:
            if name != "identification" and f"{name}({text.replace(' ', ')(')})" not in _spaced(
                bare
            ):
                raise FalseAcceptance(f"{name} was not said")
        if one.identity.encode() not in bare:
            raise FalseAcceptance(f"{one.identity} was not said")
    block, mark, check = bare.partition(b"!\r\n\x03")
    if mark and b"/" not in block and block.count(b"\x02") == 1 and b"!" not in check:
        left = 0
        for byte in block[block.index(b"\x02") + 1 :] + mark + check[:1]:
            left ^= byte
        if left:
            raise FalseAcceptance("a block check that is wrong")


def _spaced(bare: bytes) -> str:
    """Values may hold spaces, which the fields do not tell from two values."""
    return bare.decode("ascii").replace(" ", ")(")


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
    if not any(isinstance(one, Reading) for one in found):
        raise Rejected(Reason.MALFORMED, "no reading")


_PERIOD_NS = 60 * 10**9
_SERVER = b"\x0a\x01TST\0\0\x12\xd6\x87"
_LINES = ("F.F(00)", "C.1.0(7)", "1.8.0(012345.678*kWh)", "2.8.1(1*kWh)", "2.8.2(20.5*kWh)(3)")


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
    files = [meter.file(5, values, 1_700_000_000) for meter in meters]
    return [*files, files[0][40:] + files[1] + files[2]]


def _d0_messages() -> list[bytes]:
    pushed = pushed_message("TST5\\@V1", _LINES)
    return [pushed, data_message(_LINES), with_parity(data_message(_LINES)), b"\x02\0" + pushed * 2]


def _answers() -> list[bytes]:
    data = data_message(_LINES)
    chosen = [b"/TST5METER\r\n", b"", b"", data[:30], data[30:]]
    return [b"\0".join([b"", *chosen]), b"\0/?!\r\n/TST-METER\r\n" + data]


OPTICAL_PORTS: tuple[Target, ...] = (
    Target("sml", ("hal.index.sml.SmlDecoder.receive",), _read_sml, _sml_files),
    Target("d0", ("hal.index.d0.D0Decoder.receive",), _read_d0, _d0_messages),
    Target("d0-asked", ("hal.index.d0_asked.D0Asked.receive",), _read_answers, _answers),
)
