"""A simulated DLMS/COSEM meter that answers: registers, clock, load profile, over an HDLC link, an
optical port or TCP, in clear or with keys. Pure: bytes and values in, bytes out.

It is written from the standard as a meter is, without the client's library, and answers only what
the client asks: no SET, no access by entry, one association at a time.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptometer.steps import NS_PER_S
from hal.index.axdr import (
    WH,
    Datum,
    Malformed,
    Tag,
    decode_clock,
    decode_data,
    encode_clock,
    encode_data,
    encode_length,
)
from hal.index.ciphering import (
    AUTHENTICATED,
    ENCRYPTED,
    GENERAL_GLO,
    Keys,
    NotAuthentic,
    OtherProtection,
    Protected,
    decode_protected,
    encode_protected,
    open_protected,
    seal_protected,
)
from hal.index.dlms_association import Authentication
from hal.index.dlms_client import Transport
from hal.index.dlms_meter import Told
from hal.index.hdlc import (
    POLL,
    Address,
    Control,
    Frame,
    HdlcReceiver,
    Parameters,
    decode_parameters,
)
from hal.index.objects import CLOCK

_LLC_RECEIVE, _LLC_SEND = bytes((0xE6, 0xE6, 0x00)), bytes((0xE6, 0xE7, 0x00))
_NUMBER, _COUNTER = bytes((0, 0, 96, 1, 0, 255)), bytes((0, 0, 43, 1, 0, 255))
_IMPORTED, _EXPORTED = bytes((1, 0, 1, 8, 0, 255)), bytes((1, 0, 2, 8, 0, 255))
_PROFILE = bytes((1, 0, 99, 1, 0, 255))
_COLUMNS = ((8, CLOCK), (3, _IMPORTED), (3, _EXPORTED))
_UNDEFINED, _DENIED, _NO_BLOCK = 4, 3, 19
_PUBLIC_CLIENT = 16
_SPECIFIC = {0xC8: 0xC0, 0xCB: 0xC3, 0xC4: 0xCC, 0xC7: 0xCF}
_OBJECT_ID = bytes((0x60, 0x85, 0x74, 0x05, 0x08))
_MECHANISMS = {1: Authentication.LLS, 5: Authentication.HLS_GMAC}
_CENTRAL_EUROPE_MIN = -60
_INACTIVITY_NS = 120 * NS_PER_S  # after which a link is over (IEC 62056-46 §6.4.4.3)
_REQUEST, _IDENTIFICATION = b"/?!\r\n", b"/SIM5\\2DLMS\r\n"


@dataclass(frozen=True, slots=True)
class MeterSettings:
    """A meter.

    Attributes:
        number: its own.
        transport: the way to it.
        logical, physical: its addresses on a bus; without a physical one they have one byte.
        authentication: what it asks of all but the public client.
        password: for LLS.
        keys: None: in clear.
        title: its system title.
        pdu_max: bytes of a message; longer answers come in blocks.
        information_max: bytes in an HDLC frame.
        period_s: of its load profile.
    """

    number: str = "1KFM0200"
    transport: Transport = Transport.HDLC
    logical: int = 1
    physical: int | None = None
    authentication: Authentication = Authentication.NONE
    password: bytes = field(default=b"", repr=False)
    keys: Keys | None = None
    title: bytes = b"SIM\x00\x00\x00\x00\x07"
    pdu_max: int = 512
    information_max: int = 128
    period_s: int = 900


class AnsweringMeter:
    """Answers what is asked."""

    def __init__(
        self,
        settings: MeterSettings,
        tell: Callable[[int | None], Told],
        draw: Callable[[int], bytes],
    ) -> None:
        """
        Args:
            settings: of the meter.
            tell: what it knows now, or knew at a moment, unix seconds.
            draw: gives so many random bytes.
        """
        self._settings = settings
        self._application = _Application(settings, tell, draw)
        self._receiver = HdlcReceiver()
        self._held = bytearray()
        self._signed_on = settings.transport is not Transport.OPTICAL
        self._server = Address(settings.logical)
        if settings.physical is not None:
            self._server = Address(settings.logical, settings.physical, 2)
        self._client = Address(0)
        self._latest_ns = 0
        self._clear_link()

    def _clear_link(self) -> None:
        self._up = False
        self._sent = self._received = 0
        self._send_max = 128
        self._question = bytearray()
        self._segments: list[bytes] = []
        self._last = b""

    def receive(self, data: bytes, at_ns: int) -> bytes:
        """What it answers to these bytes."""
        if self._settings.transport is Transport.WRAPPER:
            return self._receive_wrapped(data)
        if at_ns - self._latest_ns >= _INACTIVITY_NS:
            self._clear_link()
            self._signed_on = self._settings.transport is not Transport.OPTICAL
        self._latest_ns = at_ns
        if not self._signed_on:
            return self._sign_on(data)
        out = b""
        for one in self._receiver.receive(data, at_ns):
            if isinstance(one, Frame) and one.destination == self._server:
                out += self._take(one)
        return out

    def _sign_on(self, data: bytes) -> bytes:
        self._held += data
        del self._held[:-32]
        if _REQUEST in self._held:
            self._held.clear()
            return _IDENTIFICATION
        at = self._held.find(b"\x062")
        if at >= 0 and len(self._held) >= at + 6:
            self._signed_on = True
            return bytes(self._held[at : at + 6])
        return b""

    # --- HDLC. -----------------------------------------------------------------------------------

    def _take(self, frame: Frame) -> bytes:
        kind = frame.control & ~POLL
        if kind == Control.SNRM & ~POLL:
            return self._set_up(frame)
        if frame.source != self._client or not self._up:
            return self._frame(Control.DM) if kind == Control.DISC & ~POLL else b""
        if kind == Control.DISC & ~POLL:
            self._clear_link()
            self._signed_on = self._settings.transport is not Transport.OPTICAL
            return self._frame(Control.UA)
        if frame.numbered:
            return self._take_information(frame)
        if kind & 0x0F == Control.RR & 0x0F:
            if frame.expected != self._sent:
                return self._last
            return self._send() if self._segments else self._ready()
        return b""

    def _set_up(self, frame: Frame) -> bytes:
        self._clear_link()
        self._client, self._up = frame.source, True
        self._application.begin(frame.source.upper)
        try:
            asked = decode_parameters(frame.information)
        except ValueError:
            return self._frame(Control.DM)
        most = self._settings.information_max
        self._send_max = min(most, asked.receive_max)
        granted = Parameters(self._send_max, min(most, asked.send_max))
        return self._frame(Control.UA, granted.encode())

    def _take_information(self, frame: Frame) -> bytes:
        if frame.sent != self._received:
            return self._last or self._ready()  # it was here: the answer was lost
        self._received = (self._received + 1) % 8
        self._question += frame.information
        if frame.segmented:
            self._last = b""
            return self._ready()
        question, self._question = bytes(self._question), bytearray()
        if question[:3] != _LLC_RECEIVE:
            return b""
        answer = self._application.answer(question[3:])
        if not answer:
            return b""
        data = _LLC_SEND + answer
        self._segments = [
            data[at : at + self._send_max] for at in range(0, len(data), self._send_max)
        ]
        return self._send()

    def _send(self) -> bytes:
        part = self._segments.pop(0)
        control = self._received << 5 | POLL | self._sent << 1
        self._sent = (self._sent + 1) % 8
        self._last = self._frame(control, part, segmented=bool(self._segments))
        return self._last

    def _ready(self) -> bytes:
        return self._frame(Control.RR | self._received << 5)

    def _frame(self, control: int, information: bytes = b"", *, segmented: bool = False) -> bytes:
        return Frame(self._client, self._server, control, information, segmented).encode()

    # --- TCP. ------------------------------------------------------------------------------------

    def _receive_wrapped(self, data: bytes) -> bytes:
        self._held += data
        out = b""
        while len(self._held) >= 8:
            size = 8 + int.from_bytes(self._held[6:8], "big")
            if len(self._held) < size:
                break
            client, message = bytes(self._held[2:4]), bytes(self._held[8:size])
            server = bytes(self._held[4:6])
            del self._held[:size]
            if message[:1] == b"\x60":
                self._application.begin(int.from_bytes(client, "big"))
            answer = self._application.answer(message)
            if answer:
                out += b"\0\1" + server + client + len(answer).to_bytes(2, "big") + answer
        return out


class _Application:
    """Associations and objects."""

    def __init__(
        self,
        settings: MeterSettings,
        tell: Callable[[int | None], Told],
        draw: Callable[[int], bytes],
    ) -> None:
        self._settings, self._tell, self._draw = settings, tell, draw
        self._counter = 0  # of what is sent
        self._heard = -1  # the greatest that came
        self.begin(0)

    def begin(self, client: int) -> None:
        """Another client, without an association."""
        public = client == _PUBLIC_CLIENT
        self._asked = Authentication.NONE if public else self._settings.authentication
        self._keys = None if public else self._settings.keys
        self._client_title = b""
        self._theirs = self._ours = b""  # challenges
        self._pending = self._associated = False
        self._rest = b""  # of a value that is sent in blocks
        self._block = 0

    def answer(self, message: bytes) -> bytes:
        """The answer; empty: none."""
        tag = message[0] if message else 0
        if tag == 0x60:
            return self._associate(message)
        if tag == 0x62:
            self.begin(_PUBLIC_CLIENT)
            return bytes((0x63, 3, 0x80, 1, 0))
        if self._keys is None:
            return self._serve(message)
        if tag != GENERAL_GLO and tag not in _SPECIFIC:
            return bytes((0xD8, 1, 5))
        try:
            protected, _ = decode_protected(message, 1, general=tag == GENERAL_GLO)
            clear = open_protected(protected, self._client_title, self._keys)
        except (Malformed, NotAuthentic, OtherProtection):
            return bytes((0xD8, 1, 5))  # deciphering error
        if protected.counter <= self._heard:
            return bytes((0xD8, 1, 6)) + self._heard.to_bytes(4, "big")
        self._heard = protected.counter
        said = self._serve(clear)
        answered = GENERAL_GLO if tag == GENERAL_GLO else _SPECIFIC.get(said[0], GENERAL_GLO)
        return encode_protected(self._seal(said), answered)

    def _seal(self, message: bytes) -> Protected:
        assert self._keys is not None  # noqa: S101 - the callers see to it
        counter, self._counter = self._counter, self._counter + 1
        title = self._settings.title
        return seal_protected(message, AUTHENTICATED | ENCRYPTED, counter, title, self._keys)

    # --- Associations. ---------------------------------------------------------------------------

    def _associate(self, message: bytes) -> bytes:
        fields = dict(_fields(message[2:] if message[1] < 0x80 else message[3:]))
        ciphered = fields.get(0xA1, b"")[-1:] == b"\3"
        self._client_title = fields.get(0xA6, b"")[2:]
        mechanism = _MECHANISMS.get(fields.get(0x8B, b"\0")[-1], Authentication.NONE)
        said = fields.get(0xBE, b"")[2:]
        if ciphered != (self._keys is not None) or mechanism is not self._asked:
            return self._refuse(11 if mechanism is self._asked else 12)
        value = fields.get(0xAC, b"")[2:]
        if self._keys is not None and not self._opens(said):
            return self._refuse(13)
        if mechanism is Authentication.LLS and value != self._settings.password:
            return self._refuse(13)
        granted = bytes((8, 0, 6, 0x5F, 0x1F, 4, 0, 0x40, 0x10, 0x15))
        granted += self._settings.pdu_max.to_bytes(2, "big") + bytes((0, 7))
        if self._keys is not None:
            granted = encode_protected(self._seal(granted), 0x28)
        self._pending = mechanism is Authentication.HLS_GMAC
        self._associated = not self._pending
        self._theirs = value
        self._ours = self._draw(16)
        return self._aare(0, 14 if self._pending else 0, _ber(0xBE, _ber(4, granted)))

    def _opens(self, said: bytes) -> bool:
        keys = self._keys
        try:
            protected, _ = decode_protected(said, 1, general=False)
            assert keys is not None  # noqa: S101 - the caller sees to it
            open_protected(protected, self._client_title, keys)
        except (Malformed, NotAuthentic, OtherProtection):
            return False
        if said[0] != 0x21 or protected.counter <= self._heard:
            return False
        self._heard = protected.counter
        return True

    def _refuse(self, diagnostic: int) -> bytes:
        return self._aare(1, diagnostic, b"")

    def _aare(self, result: int, diagnostic: int, said: bytes) -> bytes:
        context = 1 if self._keys is None else 3
        fields = _ber(0xA1, _ber(6, _OBJECT_ID + bytes((1, context))))
        fields += _ber(0xA2, bytes((2, 1, result)))
        fields += _ber(0xA3, _ber(0xA1, bytes((2, 1, diagnostic))))
        if self._keys is not None:
            fields += _ber(0xA4, _ber(4, self._settings.title))
        if self._pending:
            fields += bytes((0x88, 2, 7, 0x80)) + _ber(0x89, _OBJECT_ID + bytes((2, 5)))
            fields += _ber(0xAA, _ber(0x80, self._ours))
        return _ber(0x61, fields + said)

    def _reply(self, invoke: int, given: bytes) -> bytes:
        """The client's reply to our challenge, and ours to its own."""
        keys, title = self._keys, self._settings.title
        counter = int.from_bytes(given[1:5], "big")
        right = keys is not None and given == _gmac(self._ours, counter, self._client_title, keys)
        if not (self._pending and right) or keys is None:
            return bytes((0xC7, 1, invoke, _DENIED, 0))
        self._pending, self._associated = False, True
        reply = _gmac(self._theirs, self._counter, title, keys)
        self._counter += 1
        return bytes((0xC7, 1, invoke, 0, 1, 0, 9, len(reply))) + reply

    # --- Services. -------------------------------------------------------------------------------

    def _serve(self, message: bytes) -> bytes:
        kind, invoke = message[:2], message[2] if len(message) > 2 else 0
        if kind == bytes((0xC3, 1)) and message[3:12] == bytes((0, 15, 0, 0, 40, 0, 0, 255, 1)):
            return self._reply(invoke, message[15:])
        if not self._associated:
            return bytes((0xD8, 1, 1))
        if kind == bytes((0xC0, 1)) and len(message) >= 13:
            return self._get(invoke, message)
        if kind == bytes((0xC0, 2)) and len(message) == 7:
            return self._get_next(invoke, int.from_bytes(message[3:], "big"))
        return bytes((0xD8, 2, 2))

    def _get(self, invoke: int, message: bytes) -> bytes:
        interface, code, number = int.from_bytes(message[3:5], "big"), message[5:11], message[11]
        selection = message[13:] if message[12] else b""
        value = self._value(interface, code, number, selection)
        if isinstance(value, int):
            return bytes((0xC4, 1, invoke, 1, value))
        data = encode_data(value)
        if len(data) <= self._settings.pdu_max - 16:
            return bytes((0xC4, 1, invoke, 0)) + data
        self._rest, self._block = data, 0
        return self._next_block(invoke)

    def _get_next(self, invoke: int, block: int) -> bytes:
        if not self._rest or block != self._block:
            return bytes((0xC4, 2, invoke, 1)) + block.to_bytes(4, "big") + bytes((1, _NO_BLOCK))
        return self._next_block(invoke)

    def _next_block(self, invoke: int) -> bytes:
        size = self._settings.pdu_max - 32
        part, self._rest = self._rest[:size], self._rest[size:]
        self._block += 1
        head = bytes((0xC4, 2, invoke, not self._rest)) + self._block.to_bytes(4, "big")
        return head + b"\0" + encode_length(len(part)) + part

    def _value(self, interface: int, code: bytes, number: int, selection: bytes) -> Datum | int:
        """An attribute's value, or why there is none."""
        told = self._tell(None)
        registers = {_IMPORTED: told.imported_wh, _EXPORTED: told.exported_wh}
        match interface, number:
            case 1, 2 if code == _NUMBER:
                return Datum(Tag.OCTET_STRING, self._settings.number.encode())
            case 1, 2 if code == _COUNTER:
                return Datum(Tag.DOUBLE_LONG_UNSIGNED, max(0, self._heard))
            case 3, 2 if code in registers:
                return Datum(Tag.DOUBLE_LONG_UNSIGNED, registers[code])
            case 3, 3 if code in registers:
                return Datum(Tag.STRUCTURE, (Datum(Tag.INTEGER, 0), Datum(Tag.ENUM, WH)))
            case 8, 2 if code == CLOCK:
                return _clock(told.unix_s)
            case 7, 2 if code == _PROFILE:
                return self._rows(selection)
            case 7, 3 if code == _PROFILE:
                return Datum(Tag.ARRAY, tuple(_column(*column) for column in _COLUMNS))
            case 7, 4 if code == _PROFILE:
                return Datum(Tag.DOUBLE_LONG_UNSIGNED, self._settings.period_s)
        return _UNDEFINED

    def _rows(self, selection: bytes) -> Datum | int:
        try:
            asked, _ = decode_data(selection, 1)
            first, last = (decode_clock(one.octets).unix_s for one in asked.elements[1:3])
        except (Malformed, ValueError):
            return _DENIED
        if selection[:1] != b"\1" or first is None or last is None:
            return _DENIED
        period_s = self._settings.period_s
        rows: list[Datum] = []
        at_s = -(-first // period_s) * period_s
        while at_s <= last and len(rows) < 500:
            told = self._tell(at_s)
            counts = (told.imported_wh, told.exported_wh)
            cells = (_clock(at_s), *(Datum(Tag.DOUBLE_LONG_UNSIGNED, one) for one in counts))
            rows.append(Datum(Tag.STRUCTURE, cells))
            at_s += period_s
        return Datum(Tag.ARRAY, tuple(rows))


def _clock(at_s: int) -> Datum:
    return Datum(Tag.OCTET_STRING, encode_clock(at_s, _CENTRAL_EUROPE_MIN))


def _column(interface: int, code: bytes) -> Datum:
    return Datum(
        Tag.STRUCTURE,
        (
            Datum(Tag.LONG_UNSIGNED, interface),
            Datum(Tag.OCTET_STRING, code),
            Datum(Tag.INTEGER, 2),
            Datum(Tag.LONG_UNSIGNED, 0),
        ),
    )


def _gmac(challenge: bytes, counter: int, title: bytes, keys: Keys) -> bytes:
    """A reply to a challenge: security control, counter, tag over both keys' data."""
    sealed = seal_protected(challenge, AUTHENTICATED, counter, title, keys)
    tag = sealed.content[len(challenge) :]
    return bytes([AUTHENTICATED]) + counter.to_bytes(4, "big") + tag


def _ber(tag: int, content: bytes) -> bytes:
    return bytes([tag]) + encode_length(len(content)) + content


def _fields(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and contents, of lengths of one byte."""
    found, at = [], 0
    while at + 2 <= len(data):
        size = data[at + 1]
        found.append((data[at], data[at + 2 : at + 2 + size]))
        at += 2 + size
    return found
