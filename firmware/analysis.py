"""What a recorded line says: which protocol, which meter, what is damaged, and what to do about it.

Every decoder reads the line as if it were its own; the one whose good messages cover most of it
has it. Where none is good, it is told by marks that no other protocol makes. Bytes in, findings
out: no file is opened here, and no more than LINE_BYTES_MAX of a line are read.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from fractions import Fraction
from functools import partial

from cryptometer.metrology import number
from cryptometer.steps import NS_PER_S
from firmware.checkup import Finding, fine, note, wrong
from firmware.marks import SEVEN_BITS, Bus, marks_in, modbus_in
from firmware.recording import Recording
from hal.index.choice import is_index_source
from hal.index.ciphering import GENERAL_GLO, TITLE_SIZE, Keys
from hal.index.d0 import D0Decoder
from hal.index.dlms_push import Framing, PushDecoder, PushSettings, framing_of
from hal.index.hdlc import Frame, HdlcReceiver
from hal.index.linky import LinkyDecoder
from hal.index.objects import LIST_FIELD
from hal.index.p1 import P1Decoder
from hal.index.reading import (
    Caveat,
    Index,
    IndexDecoder,
    Reading,
    Refusal,
    Refused,
    Register,
)
from hal.index.sml import SmlDecoder

TELL_BYTES = 65_536  # by which the protocol is told
_LOOKS = 8_192  # in which bytes without times are read: that is how well a place is known
_PASSED_NS = 3_600 * NS_PER_S  # behind the last byte: whatever waits for more is over
_CHARACTER_BITS = 10
_IDENTITIES_MAX = 8
_FIELDS_MAX = 40  # lines of a message; a Linky has 60, most of them of other days
_FIELD_CHARACTERS = 60
_ABOUT = "line"
_PAGE = "see docs/operations.md, section"


@dataclass(frozen=True, slots=True)
class Example:
    """Messages that were refused for one reason.

    Attributes:
        count: how many.
        detail: of the first.
        place: where in the line's bytes the first ended, nearly.
    """

    count: int
    detail: str
    place: int


@dataclass(frozen=True, slots=True)
class Analysis:
    """What a line says.

    Attributes:
        driver: of a table `[source]` that reads it; empty if nobody knows the line.
        protocol: for people.
        size: bytes that were read.
        good: messages.
        refused: by reason.
        identities: of the meters, as they state them.
        newest: message.
        findings: all of it in plain words.
    """

    driver: str
    protocol: str
    size: int
    good: int
    refused: dict[Refused, Example]
    identities: tuple[str, ...]
    newest: Reading | None
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, object]:
        """For programs."""
        newest = self.newest
        return {
            "driver": self.driver,
            "protocol": self.protocol,
            "bytes": self.size,
            "good": self.good,
            "refused": {
                str(reason): {"count": one.count, "detail": one.detail, "place": one.place}
                for reason, one in self.refused.items()
            },
            "identities": list(self.identities),
            "newest": None
            if newest is None
            else {
                "identity": newest.identity,
                "import_kwh": _kwh_or_none(newest.imported),
                "export_kwh": _kwh_or_none(newest.exported),
                "meter_time_s": newest.meter_time_s,
                "caveats": sorted(newest.caveats),
                "fields": [list(pair) for pair in newest.fields],
            },
        }


# --- Protocols. ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A protocol that a line may speak.

    Attributes:
        driver: of a table `[source]`.
        protocol: for people.
        make: its decoder.
        baud: of its line: how fast bytes came whose times nobody wrote down.
        rest: what such a table says besides.
        is_sealed: messages are ciphered, ...
        has_keys: ... and its decoder was given keys.
    """

    driver: str
    protocol: str
    make: Callable[[], IndexDecoder]
    baud: int
    rest: str = ""
    is_sealed: bool = False
    has_keys: bool = False


_CANDIDATES = (
    _Candidate("linky", "Linky (TIC)", LinkyDecoder, 9_600),
    _Candidate("p1", "P1 port (DSMR, e-MUCS)", P1Decoder, 115_200),
    _Candidate(
        "p1",
        "P1 port, of a meter that does not name itself",
        partial(P1Decoder, is_unnamed=True),
        115_200,
        ", unnamed = true",
    ),
    _Candidate("sml", "SML", SmlDecoder, 9_600),
    _Candidate("d0", "D0 (IEC 62056-21)", D0Decoder, 2_400),
)
_FRAMED = {
    Framing.HDLC: "in HDLC frames",
    Framing.WRAPPER: "in the TCP wrapper",
    Framing.MBUS: "in M-Bus frames",
    Framing.BARE: "without frames",
}


def _push(framing: Framing, keys: Keys | None, *, is_sealed: bool) -> _Candidate:
    # Without keys the decoder looks for no ciphered message between others: any key will do for it
    # to be found, and refused.
    is_found = framing is Framing.BARE and is_sealed
    settings = PushSettings(framing, Keys(bytes(16)) if is_found and keys is None else keys)
    rest = f', framing = "{framing}"'
    if keys is not None:
        rest += ', encryption_key_source = "file:/PATH"'
        rest += ', authentication_key_source = "file:/PATH"' if keys.authentication else ""
        rest += ', counter_file = "/PATH"'
    return _Candidate(
        "dlms-push",
        f"DLMS/COSEM that the meter sends by itself, {_FRAMED[framing]}",
        lambda: PushDecoder(settings),
        2_400,
        rest,
        is_sealed,
        keys is not None,
    )


def _candidates(data: bytes, keys: Keys | None) -> list[_Candidate]:
    framing = framing_of(data[:TELL_BYTES])
    if framing is None:
        return list(_CANDIDATES)
    is_sealed = bytes((GENERAL_GLO, TITLE_SIZE)) in data
    found = [*_CANDIDATES, _push(framing, None, is_sealed=is_sealed)]
    # First: it is the one to be told of where none of its messages is good.
    return found if keys is None else [_push(framing, keys, is_sealed=is_sealed), *found]


@dataclass(slots=True)
class _Heard:
    """What a decoder made of a line."""

    good: int = 0
    covered: int = 0  # bytes of good messages
    refused: dict[Refused, Example] = field(default_factory=dict)
    identities: list[str] = field(default_factory=list)
    first: Reading | None = None
    newest: Reading | None = None
    backwards: int = 0  # readings with an index below that of the one before
    caveats: dict[Caveat, int] = field(default_factory=dict)

    def add(self, one: Reading | Refusal, began: int, place: int) -> None:
        """
        Args:
            began, place: where in the line's bytes it began, and ended.
        """
        if isinstance(one, Refusal):
            before = self.refused.get(one.reason, Example(0, one.detail, place))
            self.refused[one.reason] = Example(before.count + 1, before.detail, before.place)
            return
        self.good += 1
        self.covered += place - began
        if one.identity not in self.identities and len(self.identities) < _IDENTITIES_MAX:
            self.identities.append(one.identity)
        for caveat in one.caveats:
            self.caveats[caveat] = self.caveats.get(caveat, 0) + 1
        newest = self.newest
        if newest is not None and newest.identity == one.identity:
            self.backwards += any(
                _is_less(one.index_of(which), newest.index_of(which)) for which in Register
            )
        self.first, self.newest = self.first or one, one

    @property
    def refusals(self) -> int:
        return sum(one.count for one in self.refused.values())


def _is_less(index: Index | None, before: Index | None) -> bool:
    return index is not None and before is not None and _wh(index) < _wh(before)


def _wh(index: Index) -> Fraction:
    return index.value * Fraction(10) ** index.exponent


def _listen(candidate: _Candidate, recording: Recording, most: int) -> _Heard:
    """Lets a decoder read the first `most` bytes."""
    decoder, heard = candidate.make(), _Heard()
    ends, times_ns = [0], [-1]
    for end, at_ns in _looks(recording, candidate.baud):
        piece = recording.data[ends[-1] : min(end, most)]
        ends.append(min(end, most))
        times_ns.append(at_ns)
        for one in decoder.receive(piece, at_ns):
            _add(heard, one, ends, times_ns)
        if end >= most:
            break
    for passed in (1, 2):
        for one in decoder.receive(b"", times_ns[-1] + passed * _PASSED_NS):
            # A recording ends where it was ended: that is no fault of the line.
            if isinstance(one, Reading) or one.reason is not Refused.INCOMPLETE or not heard.good:
                _add(heard, one, ends, times_ns)
    return heard


def _add(heard: _Heard, one: Reading | Refusal, ends: list[int], times_ns: list[int]) -> None:
    def place_of(at_ns: int) -> int:
        return min(bisect_left(times_ns, at_ns), len(ends) - 1)

    if isinstance(one, Refusal):
        heard.add(one, 0, ends[place_of(one.at_ns)])
    else:
        began, ended = place_of(one.began_ns), place_of(one.ended_ns)
        heard.add(one, ends[max(0, began - 1)], ends[ended])


def _looks(recording: Recording, baud: int) -> Iterator[tuple[int, int]]:
    """Where each look ended, and when it was; bytes without times came one behind the other."""
    if recording.looks:
        yield from recording.looks
        return
    size = len(recording.data)
    part = max(1, size // _LOOKS)
    byte_ns = _CHARACTER_BITS * NS_PER_S // baud
    for end in range(part, size + part, part):
        yield min(end, size), min(end, size) * byte_ns


# --- The verdict. --------------------------------------------------------------------------------


def analyse(recording: Recording, keys: Keys | None = None) -> Analysis:
    """What a recorded line says.

    Args:
        recording: of the line.
        keys: of the meter, where its messages are ciphered and somebody has them.
    """
    if not recording.data:
        return _of_said(recording)
    told = recording.data[:TELL_BYTES]
    heard = {one: _listen(one, recording, TELL_BYTES) for one in _candidates(recording.data, keys)}
    # Of two that cover as much the first one: what is in frames may be read without them, too.
    best = max(heard, key=lambda one: heard[one].covered)
    if heard[best].covered:
        return _of_candidate(best, recording, heard[best])
    if any(isinstance(one, Reading) for one in recording.said):
        return _of_said(recording)
    bus = modbus_in(told)
    if 2 * bus.covered > len(told):
        return _of_bus(bus, recording)
    frames = [one for one in HdlcReceiver().receive(told, 0) if isinstance(one, Frame)]
    push = [one for one in heard if one.driver == "dlms-push"]
    if frames and all(heard[one].refused.keys() <= {Refused.UNSUPPORTED} for one in push):
        return _of_frames(frames, recording)
    driver, many = marks_in(told)
    # What is in frames is no ciphered P1 telegram, though it begins as one does.
    if push and (framing_of(told) is not Framing.BARE or not many):
        return _of_candidate(push[0], recording, heard[push[0]])
    if many:
        marked = next(one for one in _CANDIDATES if one.driver == driver)
        return _of_candidate(marked, recording, heard[marked])
    return _of_nobody(recording)


def _of_candidate(candidate: _Candidate, recording: Recording, heard: _Heard) -> Analysis:
    """
    Args:
        heard: what it made of the first TELL_BYTES.
    """
    if len(recording.data) > TELL_BYTES:
        heard = _listen(candidate, recording, len(recording.data))
    protocol = candidate.protocol
    if candidate.driver == "linky":
        protocol += ", standard mode" if b"\t" in recording.data else ", historic mode"
    elif candidate.driver == "d0":
        # Between STX and ETX a meter answers; what it pushes has neither.
        mode = "asked" if b"\x02" in recording.data.translate(SEVEN_BITS) else "pushed"
        protocol += f", {mode}"
        candidate = replace(candidate, rest=f', mode = "{mode}"')
    return _analysis(recording, candidate, protocol, heard)


def _of_said(recording: Recording) -> Analysis:
    """A tape whose line shows no bytes: what the driver said then."""
    heard = _Heard()
    for one in recording.said:
        heard.add(one, 0, 0)
    driver = str(recording.source.get("driver", ""))
    if recording.said:
        candidate = _Candidate(driver, f"as the driver {driver!r} read it", SmlDecoder, 9_600)
        return _analysis(recording, candidate, candidate.protocol, heard)
    what = "the tape holds nothing that a meter said" if recording.is_tape else "there is no byte"
    do = (
        "a pulse line is looked at with cryptometer-firmware replay; else the meter was silent:"
        f" cable, power, is its port switched on? {_PAGE} 13"
    )
    return Analysis("", "", 0, 0, {}, (), None, (wrong(_ABOUT, what, do),))


def _of_bus(bus: Bus, recording: Recording) -> Analysis:
    findings = [_told("Modbus RTU", recording)]
    for (address, kind), many in sorted(bus.frames.items()):
        findings.append(fine("meter", f"address {address}: {many} {kind}"))
    errors = sum(many for (_, kind), many in bus.frames.items() if kind == "errors")
    if errors:
        findings.append(
            note("messages", f"{errors} times a meter said that it cannot", "is the map its own?")
        )
    stray = len(recording.data[:TELL_BYTES]) - bus.covered
    if stray:
        do = "a few are spikes at the turn of the line; many: speed, parity, two masters on the bus"
        findings.append(note("messages", f"{stray} bytes belong to no frame that reads", do))
    do = "cryptometer-firmware scan finds the meters of a bus, and writes their tables [source]"
    findings.append(note("index", "which register is the index, says the meter's map", do))
    findings += _against_settings("modbus", recording)
    good = sum(bus.frames.values())
    return Analysis(
        "modbus", "Modbus RTU", len(recording.data), good, {}, (), None, tuple(findings)
    )


def _of_frames(frames: Sequence[Frame], recording: Recording) -> Analysis:
    protocol = "DLMS/COSEM, a conversation in HDLC frames"
    says = f"{len(frames)} whole frames of a meter that is asked: what it says follows from both"
    findings = [
        _told(protocol, recording),
        note("messages", says, 'driver = "dlms"; a tape of capture or run --capture says more'),
        *_against_settings("dlms", recording),
    ]
    size = len(recording.data)
    return Analysis("dlms", protocol, size, len(frames), {}, (), None, tuple(findings))


def _of_nobody(recording: Recording) -> Analysis:
    data = recording.data
    size = len(data)
    if recording.source and not is_index_source(recording.source):
        says = f"{size} characters of a pulse line: no meter speaks there"
        do = "cryptometer-firmware replay says what was counted of them"
        return Analysis("", "", size, 0, {}, (), None, (wrong(_ABOUT, says, do),))
    marks = sum(byte in (0x00, 0xFF) for byte in data)
    high = sum(byte > 0x7F for byte in data)
    says = f"{size} bytes, and no message of any protocol that is known here"
    if 10 * marks > 9 * size:
        why = "nearly all of them 00 or FF: a line that is inverted, unconnected, or far too slow"
        do = f"check polarity, ground and supply of the port or head; then the speed: {_PAGE} 13"
    elif 20 * high < size:
        why = "mostly text: another kind of device, or a log that was not written as received"
        do = "record the bytes as they come (cryptometer-firmware capture, or cat of a raw port)"
    else:
        why = "no text, no frames: most likely another speed or parity than the meter's"
        do = (
            "Linky has 1200 or 9600 baud, P1 115200, D0 300, 2400 or 9600, SML 9600, DLMS push"
            f" mostly 2400; then look at polarity: {_PAGE} 13"
        )
    findings = (wrong(_ABOUT, says, do), note(_ABOUT, why))
    return Analysis("", "", size, 0, {}, (), None, findings)


def _analysis(
    recording: Recording, candidate: _Candidate, protocol: str, heard: _Heard
) -> Analysis:
    findings = [_told(protocol, recording)]
    findings += _of_meter(candidate, heard)
    findings += _of_messages(candidate, heard, recording)
    findings += _against_settings(candidate.driver, recording)
    findings += _of_fields(heard.newest)
    return Analysis(
        candidate.driver,
        protocol,
        len(recording.data),
        heard.good,
        heard.refused,
        tuple(heard.identities),
        heard.newest,
        tuple(findings),
    )


def _told(protocol: str, recording: Recording) -> Finding:
    size = f"{len(recording.data)} bytes" + (", the first ones" if recording.is_cut else "")
    return fine(_ABOUT, f"{protocol}; {size}" if recording.data else protocol)


def _of_meter(candidate: _Candidate, heard: _Heard) -> list[Finding]:
    first, newest = heard.first, heard.newest
    if first is None or newest is None:
        return []
    found: list[Finding] = []
    if len(heard.identities) > 1:
        named = ", ".join(one or "none" for one in heard.identities)
        do = (
            "several meters on one line, or messages merged: give [source] the identity that counts"
        )
        found.append(wrong("meter", f"messages of several identities: {named}", do))
    elif newest.identity:
        found.append(fine("meter", f"identity {newest.identity}"))
    else:
        do = "leave identity out of [source]; an exchanged meter is then seen by its index alone"
        found.append(note("meter", "its messages do not say which meter it is", do))
    for register in Register:
        index, began = newest.index_of(register), first.index_of(register)
        if index is not None:
            grown = f", {_grown(began, index)}" if began is not None and heard.good > 1 else ""
            found.append(fine("index", f"{register} {kwh_text(index)}{grown}"))
    unnamed = sum(name == LIST_FIELD for name, _ in newest.fields)
    if unnamed > 2 and newest.imported is None and newest.exported is None:
        says = (
            f"the meter's list has {unnamed} values without OBIS codes: none is known as a register"
        )
        do = (
            "the grid operator's paper says what stands where: list_order in [source] repeats it;"
            f" {_PAGE} 7"
        )
        found.append(wrong("index", says, do))
    if newest.meter_time_s is not None:
        found.append(fine("clock", f"the meter's own: {_moment(newest.meter_time_s)}"))
    if heard.backwards:
        says = f"{heard.backwards} messages have a smaller index than the one before"
        do = "weakly checked ones may be damaged; otherwise two meters, or a meter that was reset"
        found.append(wrong("index", says, do))
    found += _of_caveats(heard)
    named = f', identity = "{newest.identity}"' if newest.identity else ""
    gives_only = newest.imported is None and newest.exported is not None
    counted = f', register = "{Register.EXPORT}"' if gives_only else ""
    table = f'[source] driver = "{candidate.driver}"{candidate.rest}{counted}{named}'
    found.append(fine("settings", table))
    return found


def _of_caveats(heard: _Heard) -> list[Finding]:
    said = {
        Caveat.UNIT_ASSUMED: (
            "index",
            "the meter states no unit; what is shown is assumed",
            "compare it with the display",
        ),
        Caveat.WEAK_CHECK: (
            "messages",
            "their check is weak: a reading counts once the next one agrees",
            "",
        ),
        Caveat.CLOCK_DEGRADED: ("clock", "the meter itself doubts its clock", ""),
        Caveat.NOT_AUTHENTICATED: (
            "messages",
            "they carry a tag that nobody could check",
            "give the authentication key, too (--auth-key)",
        ),
    }
    return [note(*said[caveat]) for caveat in said if caveat in heard.caveats]


def _of_messages(candidate: _Candidate, heard: _Heard, recording: Recording) -> list[Finding]:
    found: list[Finding] = []
    if heard.good:
        found.append(fine("messages", f"{heard.good} good"))
    is_bad = heard.refusals > heard.good
    for reason, one in sorted(heard.refused.items(), key=lambda item: -item[1].count):
        where = f", first near byte {one.place}" if recording.data else ""
        says = f"{one.count} refused, {reason}{where}: {one.detail}"
        do = _remedy(reason, candidate, recording) if is_bad else ""
        found.append(wrong("messages", says, do) if is_bad and do else note("messages", says))
    if not heard.good and not heard.refused:
        says = "it looks like this protocol, and no message is whole"
        do = "record longer, some messages of the meter at least"
        found.append(wrong("messages", says, do))
    if not heard.good and candidate.has_keys:
        if Refused.NOT_AUTHENTIC in heard.refused:
            says = "no message opens with the key that was given, or passes with the other one"
            do = "are they this meter's, not another's or an older one's? ask the grid operator"
            found.append(wrong("messages", says, do))
    elif not heard.good and candidate.is_sealed:
        says = "the meter's messages are ciphered: without its keys nothing of them is known"
        do = (
            "ask the grid operator for the keys, and give them as encryption_key_source and"
            " authentication_key_source in [source], here as --key and --auth-key"
        )
        found.append(wrong("messages", says, do))
    return found


def _remedy(reason: Refused, candidate: _Candidate, recording: Recording) -> str:
    if reason is Refused.NOT_AUTHENTIC and (candidate.is_sealed or candidate.has_keys):
        return ""  # told apart
    is_text = candidate.driver in ("linky", "p1", "d0")
    if is_text and b"\r" not in recording.data.translate(SEVEN_BITS) and b"\n" in recording.data:
        return "its line ends were changed: no carriage return is left; record it as it comes"
    if candidate.driver == "linky" and _has_lost_tabs(recording.data):
        return "its tabulators were changed: none is left; record it as it comes"
    match reason:
        case Refused.CHECKSUM | Refused.FORM | Refused.TOO_LONG:
            return "bytes are damaged: parity and speed of the line, its length, its screen"
        case Refused.INCOMPLETE:
            return "bytes are missing: does another program read the line, too? else record longer"
        case Refused.NO_IDENTITY | Refused.NO_INDEX:
            return "the meter sends a short list: have its grid operator set it to the full one"
        case Refused.UNSUPPORTED if candidate.driver == "linky":
            return "another kind of meter, or labels that this version does not know"
        case Refused.UNSUPPORTED:
            return "decrypt it before, or ask for this kind of message"
        case Refused.SILENT:
            return "the meter does not answer: address, speed, wiring"
        case _:
            return f"{_PAGE} 13"


def _has_lost_tabs(data: bytes) -> bool:
    """Whether a Linky's standard frames have gone through what makes spaces of tabulators."""
    text = data.translate(SEVEN_BITS)
    return b"\nADSC " in text and b"\t" not in text


def _against_settings(driver: str, recording: Recording) -> list[Finding]:
    """Whether it was recorded under a driver that reads it."""
    stated = recording.source.get("driver")
    if stated in (None, driver) or not driver:
        return []
    says = f"recorded with driver = {stated!r}, and the line speaks another protocol"
    return [wrong("settings", says, f'set driver = "{driver}" in [source]')]


def _of_fields(newest: Reading | None) -> list[Finding]:
    if newest is None:
        return []
    fields = newest.fields[:_FIELDS_MAX]
    found = [fine("says", f"{name}: {text[:_FIELD_CHARACTERS]}") for name, text in fields]
    more = len(newest.fields) - len(fields)
    return [*found, *([fine("says", f"and {more} more")] if more else [])]


def _moment(at_s: int) -> str:
    try:
        return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%d %H:%M:%S}Z"
    except (ValueError, OverflowError, OSError):
        return f"{at_s} s of unix time"


def kwh_text(index: Index) -> str:
    """An index for people, with the digits that the meter gave."""
    decimals = max(0, 3 - index.exponent)
    value = index.value * 10 ** max(0, index.exponent - 3)
    if not decimals:
        return f"{value} kWh"
    digits = f"{value:0{decimals + 1}}"
    return f"{digits[:-decimals]}.{digits[-decimals:]} kWh"


def _kwh_or_none(index: Index | None) -> str | None:
    return None if index is None else kwh_text(index).removesuffix(" kWh")


def _grown(before: Index, index: Index) -> str:
    return f"{number(_wh(index) - _wh(before))} Wh more than in the first message"
