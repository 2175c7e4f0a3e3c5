"""IEC 62056-21 (D0) with a meter that must be asked: modes A, B and C, over an optical head or a
current loop.

    we  /?!            300 baud, 7E1; with a device address where several meters share a line
    it  /XYZ5name      its maker, the speed it offers, its name
    we  ACK 0 5 0      mode C: a data readout at that speed; in the modes A and B nothing
    it  STX data ! ETX and the block check, at the speed that was chosen

The speed changes only after what was sent has left the line. A meter that offers mode E (HDLC)
gives its data in mode C, too, if it is asked to; where it shall not be, it is refused as
unsupported.
"""

import re
from dataclasses import dataclass, replace
from enum import Enum, auto

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index.d0 import IDENTIFICATION, MESSAGE_MAX, SEVEN_BITS, D0Decoder
from hal.index.reading import LineForm, Parity, Reading, Refusal, Refused

FIRST_BAUD = 300
TRIES = 3  # of one period; the last one without a change of speed
ANSWER_DELAY_NS = 250 * NS_PER_MS  # a meter may need 200 ms to turn round, and waits for 1.5 s
PATIENCE_NS = 2500 * NS_PER_MS  # for an answer, which must begin within 1.5 s
QUIET_NS = 2 * NS_PER_S  # of a line before a question: what a meter takes for an end
QUIET_TRIES_NS = 60 * NS_PER_S  # a line that never gets quiet is asked all the same
WAKING_NS = 2200 * NS_PER_MS  # of zero bytes, for meters whose optical port sleeps, ...
WOKEN_NS = 1600 * NS_PER_MS  # ... and the pause behind them
# What a driver and an adapter hold back of what was sent. A meter answers after 200 ms at least.
LEAVING_NS = 20 * NS_PER_MS

_CHARACTER_BITS = 10  # start, seven bits and parity or eight bits, stop
_IDENTIFICATION_MAX = 128
_SPEEDS_B = dict(zip("ABCDEF", (600, 1200, 2400, 4800, 9600, 19200), strict=True))
_SPEEDS_C = dict(zip("0123456", (300, *_SPEEDS_B.values()), strict=True))
_RESERVED = "GHI789"
_MODE_E = rb"\2"
_BREAK = b"\x01B0\x03q"  # SOH B0 ETX and its block check
_ADDRESS = re.compile(r"[0-9A-Za-z ]{0,32}")
_WITH_PARITY = bytes(value | (value.bit_count() & 1) << 7 for value in range(128)) + bytes(128)


@dataclass(frozen=True, slots=True)
class Asking:
    """How a meter is asked.

    Attributes:
        period_ns: from one question to the next.
        address: its device address; empty: whichever meter is there. It is the identity of a meter
            whose data have none, as some short readouts.
        baud_max: the fastest that the head can do; 0: whatever the meter offers.
        reads_mode_e: a meter that offers mode E is asked for its data in mode C.
        wakes: zero bytes are sent before each question.
        is_7e1: parity bits are the line's own affair. Without it they are made here, and checked
            by the decoder: a line of eight bits without parity is as long, and shows them.
    """

    period_ns: int
    address: str = ""
    baud_max: int = 0
    reads_mode_e: bool = True
    wakes: bool = False
    is_7e1: bool = False


class _Doing(Enum):
    RESTING = auto()  # until the next question is due
    WAKING = auto()  # zero bytes are being sent
    ASKED = auto()  # an identification is awaited
    CHOOSING = auto()  # the choice of a speed waits to be sent
    LEAVING = auto()  # it was sent, and has not left yet
    READING = auto()  # data are awaited
    BREAKING = auto()  # an end is to be sent at the data's speed, ...
    BROKEN = auto()  # ... was sent, and has not left yet


class D0Asked:
    """A conversation with one meter, again and again."""

    def __init__(self, asking: Asking) -> None:
        """
        Raises:
            ValueError: no meter has such an address.
        """
        if not _ADDRESS.fullmatch(asking.address):
            raise ValueError(f"no device address: {asking.address!r}")
        self._asking = asking
        self._decoder = D0Decoder(asking.address)
        self._doing = _Doing.RESTING
        self._baud = FIRST_BAUD
        self._data_baud = FIRST_BAUD
        self._choice = b""
        self._heard = b""  # in search of an identification
        self._tries = 0  # that failed in this period
        self._period_ns = 0  # when the period's first question was due
        self._asked_ns = 0
        self._due_ns = 0
        self._latest_ns = 0  # beyond it no noise puts off what is due

    @property
    def form(self) -> LineForm:
        if self._asking.is_7e1:
            return LineForm(self._baud, 7, Parity.EVEN)
        return LineForm(self._baud)

    @property
    def due_ns(self) -> int | None:
        return self._due_ns

    @property
    def is_busy(self) -> bool:
        """See `TakingTurns`."""
        return self._doing is not _Doing.RESTING

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        if self._doing is _Doing.ASKED:
            return self._receive_identification(data, at_ns)
        if self._doing is _Doing.READING:
            return self._receive_data(data, at_ns)
        if self._doing is _Doing.RESTING and data:
            self._due_ns = max(self._due_ns, min(at_ns + QUIET_NS, self._latest_ns))
        return []

    def speak(self, now_ns: int) -> bytes:
        if now_ns < self._due_ns:
            return b""
        sent = self._say(now_ns)
        return sent if self._asking.is_7e1 else sent.translate(_WITH_PARITY)

    def _say(self, now_ns: int) -> bytes:
        """What is said now that the time for it has come, and how it goes on."""
        match self._doing:
            case _Doing.RESTING if self._asking.wakes:
                return self._wake(now_ns)
            case _Doing.RESTING | _Doing.WAKING:
                return self._ask(now_ns)
            case _Doing.CHOOSING:
                self._go_on(_Doing.LEAVING, now_ns + self._leaves_ns(self._choice))
                return self._choice
            case _Doing.LEAVING:
                self._read(now_ns)
            case _Doing.BREAKING:
                self._go_on(_Doing.BROKEN, now_ns + self._leaves_ns(_BREAK))
                return _BREAK
            case _Doing.BROKEN:
                self._rest(now_ns)
        return b""

    def _wake(self, now_ns: int) -> bytes:
        zeros = bytes(WAKING_NS * FIRST_BAUD // (_CHARACTER_BITS * NS_PER_S))
        self._begin_question(now_ns)
        self._go_on(_Doing.WAKING, now_ns + self._leaves_ns(zeros) + WOKEN_NS)
        return zeros

    def _ask(self, now_ns: int) -> bytes:
        if self._doing is _Doing.RESTING:
            self._begin_question(now_ns)
        question = f"/?{self._asking.address}!\r\n".encode("ascii")
        self._asked_ns, self._heard = now_ns, b""
        self._await(_Doing.ASKED, now_ns + self._leaves_ns(question), _IDENTIFICATION_MAX)
        return question

    def _begin_question(self, now_ns: int) -> None:
        if not self._tries:
            self._period_ns = now_ns

    def _read(self, now_ns: int) -> None:
        """Data are awaited from now on, at the speed that was chosen."""
        self._baud = self._data_baud
        self._decoder.begin_anew()
        self._await(_Doing.READING, now_ns, MESSAGE_MAX)

    def _go_on(self, doing: _Doing, due_ns: int) -> None:
        self._doing, self._due_ns = doing, due_ns

    def _await(self, doing: _Doing, now_ns: int, bytes_max: int) -> None:
        self._go_on(doing, now_ns + PATIENCE_NS)
        self._latest_ns = self._due_ns + bytes_max * _CHARACTER_BITS * NS_PER_S // self._baud

    def _be_patient(self, at_ns: int) -> None:
        self._due_ns = min(at_ns + PATIENCE_NS, self._latest_ns)

    def _leaves_ns(self, sent: bytes) -> int:
        """How long it takes for all of it to be on its way."""
        return len(sent) * _CHARACTER_BITS * NS_PER_S // self._baud + LEAVING_NS

    # --- The identification. ---------------------------------------------------------------------

    def _receive_identification(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        self._heard += data
        text = self._heard.translate(SEVEN_BITS)
        begin = text.rfind(b"/")
        if begin >= 0 and text[begin:].startswith(b"/?"):
            begin = -1  # the head returns what it sends
        end = text.find(b"\r\n", begin) if begin >= 0 else -1
        if end >= 0:
            # What follows keeps its parity bits, by which it is judged.
            return self._identified(text[begin:end], self._heard[end + 2 :], at_ns)
        self._heard = self._heard[-_IDENTIFICATION_MAX:]
        if at_ns < self._due_ns:
            if data and begin >= 0:  # it is being sent
                self._be_patient(at_ns)
            return []
        return [self._fail(Refused.SILENT, "the meter does not say who it is", at_ns)]

    def _identified(self, line: bytes, rest: bytes, at_ns: int) -> list[Reading | Refusal]:
        found = IDENTIFICATION.fullmatch(line)
        if found is None:
            return [self._fail(Refused.FORM, "an identification that is none", at_ns)]
        speed = found[2].decode("ascii")
        if speed in _RESERVED or (_MODE_E in found[3] and not self._asking.reads_mode_e):
            return [self._give_up(f"the meter offers {line.decode('ascii')}", at_ns)]
        if speed in _SPEEDS_C:
            self._choose(speed, at_ns)
            return []
        self._data_baud = _SPEEDS_B.get(speed, FIRST_BAUD)
        self._read(at_ns)
        return self._receive_data(rest, at_ns) if rest else []

    def _choose(self, speed: str, at_ns: int) -> None:
        most = self._asking.baud_max or _SPEEDS_C[speed]
        if _SPEEDS_C[speed] > most or self._tries == TRIES - 1:
            speed = "0"
        self._data_baud = _SPEEDS_C[speed]
        self._choice = f"\x060{speed}0\r\n".encode("ascii")
        self._go_on(_Doing.CHOOSING, at_ns + ANSWER_DELAY_NS)

    # --- The data. -------------------------------------------------------------------------------

    def _receive_data(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        outcome = self._decoder.receive(data, at_ns)
        if outcome:
            readings = [one for one in outcome if isinstance(one, Reading)]
            return self._finish([*readings, *outcome][0], at_ns)
        if at_ns < self._due_ns:
            if data and self._decoder.is_within:
                self._be_patient(at_ns)
            return []
        return [self._fail(Refused.SILENT, "the meter gives no data", at_ns)]

    def _finish(self, outcome: Reading | Refusal, at_ns: int) -> list[Reading | Refusal]:
        if isinstance(outcome, Refusal):
            self._fail(outcome.reason, outcome.detail, at_ns)
            return [outcome]
        self._tries = 0
        self._rest(at_ns)
        return [replace(outcome, began_ns=self._asked_ns)]

    # --- The end, good or bad. -------------------------------------------------------------------

    def _fail(self, reason: Refused, detail: str, at_ns: int) -> Refusal:
        """One try is over. A meter that may still be sending is told that it is."""
        self._tries = (self._tries + 1) % TRIES
        if self._doing is _Doing.READING:
            self._go_on(_Doing.BREAKING, at_ns)
        else:
            self._rest(at_ns)
        return Refusal(reason, detail, at_ns)

    def _give_up(self, detail: str, at_ns: int) -> Refusal:
        self._tries = 0
        self._rest(at_ns)
        return Refusal(Refused.UNSUPPORTED, detail, at_ns)

    def _rest(self, at_ns: int) -> None:
        """Until the next try or the next period, and until the line is quiet."""
        self._baud = FIRST_BAUD
        next_ns = at_ns if self._tries else self._period_ns + self._asking.period_ns
        self._latest_ns = max(next_ns, at_ns + QUIET_TRIES_NS)
        self._go_on(_Doing.RESTING, max(next_ns, at_ns + QUIET_NS))
