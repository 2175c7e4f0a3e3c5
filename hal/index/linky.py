"""Linky's customer output (TIC), historic and standard, whichever the meter speaks.

Forms: Enedis-NOI-CPT_54E for the standard mode, Enedis-MOP-CPT_007E (formerly NOI-CPT_02E) for the
historic one. A group's checksum has six bits: it does not see an even number of lost spaces, nor
swapped digits. So a group counts only if its label is known and its data have that label's length
and characters; each character's parity is checked where the line still brings it; and each reading
has the caveat of a weak check, until the next one agrees.

The sums of the supplier's and of the distributor's registers are not held against EAST: a frame is
no snapshot, and real ones differ by a watt-hour.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from cryptometer.steps import NS_PER_S
from hal.index.local_time import read_local_time
from hal.index.reading import Caveat, Index, LineForm, Reading, Refusal, Refused

# A frame with every label of the list at once has 1,727 bytes, a three-phase producer's 1,442.
FRAME_MAX = 2_048
# The longest lasts 2.6 s at 1200 baud; what is open for longer is two halves.
FRAME_NS_MAX = 5 * NS_PER_S
# Joined in its middle, a frame of 2.6 s is whole after 5.2 s at the latest.
DETECT_NS = 8 * NS_PER_S

STX, ETX, EOT, HT = b"\x02", b"\x03", b"\x04", b"\t"


class Mode(StrEnum):
    HISTORIC = "historic"
    STANDARD = "standard"


# The meter sends seven bits and even parity, which has the length of eight bits without parity. So
# it is read: parity is checked here, also where a port has none (a Raspberry Pi's mini UART).
FORMS = {Mode.STANDARD: LineForm(9_600), Mode.HISTORIC: LineForm(1_200)}

_DAMAGED = 0xFF
_MARK = re.compile(rb"[\x02-\x04\x82-\x84]")
_WITH_PARITY = bytes(byte & 0x7F if byte.bit_count() % 2 == 0 else _DAMAGED for byte in range(256))
_WITHOUT_PARITY = bytes(byte if byte < 0x80 else _DAMAGED for byte in range(256))

# --- What a group may say. -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rule:
    """How a label's group is written.

    Attributes:
        data: what its data match.
        dated: a time stamp precedes them (standard mode).
    """

    data: re.Pattern[str]
    dated: bool = False


def _digits(length: int) -> re.Pattern[str]:
    return re.compile(f"[0-9]{{{length}}}")


def _text(least: int, most: int) -> re.Pattern[str]:
    return re.compile(f"[ -~]{{{least},{most}}}")


# Also of other meters' customer outputs (PME-PMI: EApP, MESURES1).
_LABEL = re.compile("[A-Z][A-Za-z0-9+_-]{1,8}")
_HORODATE = re.compile("[EHeh ][0-9]{12}")
_ADDRESS = re.compile("[0-9A-Z]{12}")  # digits, but that publishers of frames write X for them
_PHASES = ("", "1", "2", "3")

STANDARD: Mapping[str, Rule] = {
    "ADSC": Rule(_ADDRESS),
    "VTIC": Rule(_digits(2)),
    "DATE": Rule(re.compile(""), dated=True),
    "NGTF": Rule(_text(0, 16)),
    "LTARF": Rule(_text(0, 16)),
    "EAST": Rule(_digits(9)),
    **{f"EASF{number:02}": Rule(_digits(9)) for number in range(1, 11)},
    **{f"EASD{number:02}": Rule(_digits(9)) for number in range(1, 5)},
    "EAIT": Rule(_digits(9)),
    **{f"ERQ{number}": Rule(_digits(9)) for number in range(1, 5)},
    **{f"IRMS{phase}": Rule(_digits(3)) for phase in (1, 2, 3)},
    **{f"URMS{phase}": Rule(_digits(3)) for phase in (1, 2, 3)},
    "PREF": Rule(_digits(2)),
    "PCOUP": Rule(_digits(2)),
    **{f"SINSTS{phase}": Rule(_digits(5)) for phase in _PHASES},
    **{
        f"SMAXSN{phase}{day}": Rule(_digits(5), dated=True)
        for phase in _PHASES
        for day in ("", "-1")
    },
    "SINSTI": Rule(_digits(5)),
    **{
        f"{label}{before}": Rule(_digits(5), dated=True)
        for label in ("SMAXIN", "CCASN", "CCAIN")
        for before in ("", "-1")
    },
    **{f"UMOY{phase}": Rule(_digits(3), dated=True) for phase in (1, 2, 3)},
    "STGE": Rule(re.compile("[0-9A-F]{8}")),
    **{f"DPM{number}": Rule(_digits(2), dated=True) for number in (1, 2, 3)},
    **{f"FPM{number}": Rule(_digits(2), dated=True) for number in (1, 2, 3)},
    "MSG1": Rule(_text(0, 32)),
    "MSG2": Rule(_text(0, 16)),
    "PRM": Rule(_digits(14)),
    "RELAIS": Rule(_digits(3)),
    "NTARF": Rule(_digits(2)),
    "NJOURF": Rule(_digits(2)),
    "NJOURF+1": Rule(_digits(2)),
    "PJOURF+1": Rule(re.compile("[0-9A-Z ]{98}")),
    "PPOINTE": Rule(re.compile("[0-9A-Z ]{98}")),
}

# Which registers are the index, by the first three characters of the contract's option.
OPTIONS: Mapping[str, tuple[str, ...]] = {
    "BAS": ("BASE",),
    "HC.": ("HCHC", "HCHP"),
    "EJP": ("EJPHN", "EJPHPM"),
    "BBR": ("BBRHCJB", "BBRHPJB", "BBRHCJW", "BBRHPJW", "BBRHCJR", "BBRHPJR"),
}
_REGISTERS = frozenset(label for labels in OPTIONS.values() for label in labels)

HISTORIC: Mapping[str, Rule] = {
    "ADCO": Rule(_ADDRESS),
    "OPTARIF": Rule(re.compile(r"BASE|HC\.\.|EJP\.|BBR[!-~]")),
    "ISOUSC": Rule(_digits(2)),
    **{label: Rule(_digits(9)) for label in sorted(_REGISTERS)},
    "PEJP": Rule(_digits(2)),
    "PTEC": Rule(_text(4, 4)),
    "DEMAIN": Rule(_text(4, 4)),
    **{f"IINST{phase}": Rule(_digits(3)) for phase in _PHASES},
    "ADPS": Rule(_digits(3)),
    **{f"ADIR{phase}": Rule(_digits(3)) for phase in (1, 2, 3)},
    **{f"IMAX{phase}": Rule(_digits(3)) for phase in _PHASES},
    "PMAX": Rule(_digits(5)),
    "PAPP": Rule(_digits(5)),
    "HHPHC": Rule(re.compile("[A-Z]")),
    "MOTDETAT": Rule(re.compile("[0-9A-F]{6}|[0-9A-F]{10}")),
    "PPOT": Rule(re.compile("[0-9A-F]{2}")),
}
_OVERLOAD = frozenset({"ADIR1", "ADIR2", "ADIR3"})
# A phase above its limit: twenty such frames, then a whole one (MOP-CPT_007E).
_SHORT = _OVERLOAD | {"ADCO", "IINST1", "IINST2", "IINST3"}

_IDENTITY = {Mode.STANDARD: "ADSC", Mode.HISTORIC: "ADCO"}
_COUNTING = {
    Mode.STANDARD: frozenset({"ADSC", "EAST", "EAIT"}),
    Mode.HISTORIC: _REGISTERS | {"ADCO", "OPTARIF"},
}
_RULES = {Mode.STANDARD: STANDARD, Mode.HISTORIC: HISTORIC}


@dataclass(frozen=True, slots=True)
class StatusField:
    """Some bits of STGE.

    Attributes:
        bit: the lowest of them.
        meanings: of their values from 0 on; one without a meaning is shown as its number.
    """

    name: str
    bit: int
    width: int
    meanings: tuple[str, ...] = ()


_NO_YES = ("no", "yes")
_COLOURS = ("none", "blue", "white", "red")
STATUS = (
    StatusField("contact", 0, 1, ("closed", "open")),
    StatusField(
        "breaker",
        1,
        3,
        (
            "closed",
            "open: power",
            "open: voltage",
            "open: load shedding",
            "open: ordered",
            "open: overheated above the breaking current",
            "open: overheated below the breaking current",
        ),
    ),
    StatusField("terminal cover", 4, 1, ("closed", "open")),
    StatusField("overvoltage", 6, 1, _NO_YES),
    StatusField("above reference power", 7, 1, _NO_YES),
    StatusField("producer", 8, 1, _NO_YES),
    StatusField("active energy", 9, 1, ("positive", "negative")),
    StatusField("supplier index", 10, 4, tuple(str(index) for index in range(1, 17))),
    StatusField("distributor index", 14, 2, tuple(str(index) for index in range(1, 5))),
    StatusField("clock", 16, 1, ("good", "degraded")),
    StatusField("output", 17, 1, ("historic", "standard")),
    StatusField("euridis", 19, 2, ("off", "on, not secured", "2", "on, secured")),
    StatusField("power line", 21, 2, ("new, unlocked", "new, locked", "registered")),
    StatusField("power line synchronised", 23, 1, _NO_YES),
    StatusField("tempo today", 24, 2, _COLOURS),
    StatusField("tempo tomorrow", 26, 2, _COLOURS),
    StatusField("mobile peak announced", 28, 2, ("none", "1", "2", "3")),
    StatusField("mobile peak", 30, 2, ("none", "1", "2", "3")),
)
_CLOCK_BIT = 1 << 16


def status_fields(stge: str) -> Iterable[tuple[str, str]]:
    """What the eight hexadecimal digits of STGE say, bit by bit."""
    value = int(stge, 16)
    for field in STATUS:
        found = value >> field.bit & (1 << field.width) - 1
        meanings = field.meanings
        yield f"STGE {field.name}", meanings[found] if found < len(meanings) else str(found)


# --- A frame. ------------------------------------------------------------------------------------


def checksum(summed: bytes) -> int:
    """The character that stands for these: of a group from its label to its data, in standard mode
    with the separator behind them."""
    return (sum(summed) & 0x3F) + 0x20


@dataclass(frozen=True, slots=True)
class Group:
    """One line of a frame; `horodate` is empty where it has no time stamp."""

    label: str
    data: str
    horodate: str = ""

    @property
    def text(self) -> str:
        return f"{self.horodate} {self.data}".strip() if self.horodate else self.data


@dataclass(frozen=True, slots=True)
class _Bad:
    """A group that does not count; `label` is what stands where a label does."""

    label: str
    reason: Refused


def _read_group(line: bytes, mode: Mode) -> Group | _Bad:
    """One line between LF and CR."""
    separator = HT if mode is Mode.STANDARD else b" "
    label = line.partition(separator)[0].decode("ascii", "replace")
    if len(line) < 2 or line[-2:-1] != separator:
        return _Bad(label, Refused.FORM)
    # The historic sum leaves the last separator out.
    if line[-1] != checksum(line[: -1 if mode is Mode.STANDARD else -2]):
        return _Bad(label, Refused.CHECKSUM)
    rule = _RULES[mode].get(label)
    if rule is None or not line.isascii():
        is_label = _LABEL.fullmatch(label) is not None
        return _Bad(label, Refused.UNSUPPORTED if is_label else Refused.FORM)
    rest = line[len(label) + 1 : -2].decode("ascii")
    horodate = ""
    if rule.dated:
        horodate, tab, rest = rest.partition("\t")
        if not tab or not _HORODATE.fullmatch(horodate):
            return _Bad(label, Refused.FORM)
    if not rule.data.fullmatch(rest):
        return _Bad(label, Refused.FORM)
    return Group(label, rest, horodate)


class _Frame:
    """What one frame says, as far as it can be used."""

    def __init__(self, body: bytes) -> None:
        """
        Args:
            body: what stands between STX and ETX, each damaged character as 0xFF.
        """
        self.mode = Mode.STANDARD if HT in body else Mode.HISTORIC
        self.groups: dict[str, Group] = {}
        self.bad: list[_Bad] = []
        self.doubled = ""
        head, *lines = body.split(b"\n")
        if head:
            self.bad.append(_Bad("", Refused.FORM))
        for line in lines:
            self._add(line)

    def _add(self, line: bytes) -> None:
        if line[-1:] != b"\r" or b"\r" in line[:-1]:
            group: Group | _Bad = _Bad("", Refused.FORM)
        else:
            group = _read_group(line[:-1], self.mode)
        if isinstance(group, _Bad):
            self.bad.append(group)
        elif group.label in self.groups:
            self.doubled = group.label
        else:
            self.groups[group.label] = group

    def data(self, label: str) -> str | None:
        group = self.groups.get(label)
        return None if group is None else group.data

    @property
    def reason(self) -> Refused:
        """The worst of what is wrong with its bad groups: least bad is an unknown label."""
        reasons = [bad.reason for bad in self.bad]
        return next((one for one in reasons if one is not Refused.UNSUPPORTED), reasons[0])

    @property
    def is_short(self) -> bool:
        return self.groups.keys() <= _SHORT and bool(self.groups.keys() & _OVERLOAD)

    def read(self, began_ns: int, ended_ns: int) -> Reading | Refusal | None:
        """What counts; None for a good frame that has no index by its nature."""

        def refuse(reason: Refused, detail: str) -> Refusal:
            # What is not there may be what was damaged.
            if self.bad and reason in (Refused.NO_IDENTITY, Refused.NO_INDEX):
                reason, detail = self.reason, f"{detail}; {self.complaint}"
            return Refusal(reason, detail, ended_ns)

        for bad in self.bad:
            if bad.label in _COUNTING[self.mode]:
                return Refusal(bad.reason, self.complaint, ended_ns)
        if self.doubled:
            return refuse(Refused.FORM, f"the frame has {self.doubled} twice")
        identity = self.data(_IDENTITY[self.mode])
        if identity is None:
            return refuse(Refused.NO_IDENTITY, f"the frame has no {_IDENTITY[self.mode]}")
        if self.mode is Mode.HISTORIC and self.is_short and not self.bad:
            return None
        try:
            imported, exported = self._indexes()
        except _NoIndexError as why:
            return refuse(why.reason, str(why))
        meter_time_s, is_doubted = self._clock()
        caveats = {Caveat.WEAK_CHECK} | ({Caveat.CLOCK_DEGRADED} if is_doubted else set())
        return Reading(
            identity,
            imported,
            exported,
            began_ns,
            ended_ns,
            meter_time_s,
            frozenset(caveats),
            tuple(self._fields()),
        )

    @property
    def complaint(self) -> str:
        """Which groups do not count, in a sentence of bounded length."""
        named = [f"{bad.label[:8]!r} ({bad.reason})" for bad in self.bad[:3]]
        more = len(self.bad) - len(named)
        return f"groups that do not count: {', '.join(named)}" + (f", {more} more" if more else "")

    def _indexes(self) -> tuple[Index | None, Index | None]:
        """Import and export."""
        if self.mode is Mode.STANDARD:
            imported, exported = (
                None if text is None else Index(int(text))
                for text in (self.data("EAST"), self.data("EAIT"))
            )
            if imported is None and exported is None:
                raise _NoIndexError(Refused.NO_INDEX, "the frame has neither EAST nor EAIT")
            return imported, exported
        option = self.data("OPTARIF")
        if option is None:
            raise _NoIndexError(Refused.NO_INDEX, "the frame has no OPTARIF")
        labels = OPTIONS[option[:3]]
        if self.groups.keys() & _REGISTERS - set(labels):
            raise _NoIndexError(Refused.FORM, f"the frame has registers that {option} has not")
        found = [text for label in labels if (text := self.data(label)) is not None]
        if len(found) < len(labels):
            raise _NoIndexError(Refused.NO_INDEX, f"the frame lacks a register of {option}")
        return Index(sum(int(text) for text in found)), None

    def _clock(self) -> tuple[int | None, bool]:
        """Its time, unix seconds, and whether the meter doubts it. Mainland France."""
        date, stge = self.groups.get("DATE"), self.data("STGE")
        is_doubted = stge is not None and bool(int(stge, 16) & _CLOCK_BIT)
        if date is None:
            return None, is_doubted
        season = date.horodate[0]
        at_s = read_local_time(date.horodate[1:], is_summer=season == "E")
        if is_doubted or season not in "EH" or at_s is None:
            return None, True
        return at_s, False

    def _fields(self) -> Iterable[tuple[str, str]]:
        said = {_IDENTITY[self.mode], "EAST", "EAIT"}
        for label, group in self.groups.items():
            if label not in said:
                yield label, group.text
            if label == "STGE":
                yield from status_fields(group.data)


class _NoIndexError(Exception):
    def __init__(self, reason: Refused, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


# --- The line. -----------------------------------------------------------------------------------


class LinkyDecoder:
    """Finds frames, and the speed at which there are any.

    A frame with some bad groups may give a reading all the same, of its good ones; a refusal beside
    it names the others.
    """

    def __init__(self, mode: Mode = Mode.STANDARD) -> None:
        """
        Args:
            mode: what to try first.
        """
        self._mode = mode
        self._since_ns: int | None = None  # when a good group came, or the speed was changed
        self._frame: bytearray | None = None
        self._began_ns = 0
        self._is_between = False  # frames follow each other: what comes now is of one

    @property
    def form(self) -> LineForm:
        return FORMS[self._mode]

    @property
    def due_ns(self) -> int | None:
        return 0 if self._since_ns is None else self._since_ns + DETECT_NS

    def speak(self, now_ns: int) -> bytes:  # noqa: ARG002 - a Linky is only listened to
        return b""

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        found: list[Reading | Refusal] = []
        if self._since_ns is None:
            self._since_ns = at_ns
        if self._frame is not None and at_ns - self._began_ns > FRAME_NS_MAX:
            found.append(self._break_off(Refused.INCOMPLETE, "a frame without an end", at_ns))
        start = 0
        for mark in _MARK.finditer(data):
            found += self._extend(data[start : mark.start()], at_ns)
            found += self._meet(mark[0], at_ns)
            start = mark.end()
        found += self._extend(data[start:], at_ns)
        if at_ns - self._since_ns >= DETECT_NS:
            self._change_speed(at_ns)
        return found

    def _change_speed(self, at_ns: int) -> None:
        self._mode = Mode.HISTORIC if self._mode is Mode.STANDARD else Mode.STANDARD
        self._since_ns, self._frame, self._is_between = at_ns, None, False

    def _break_off(self, reason: Refused, detail: str, at_ns: int) -> Refusal:
        self._frame, self._is_between = None, False
        return Refusal(reason, detail, at_ns)

    def _extend(self, data: bytes, at_ns: int) -> list[Refusal]:
        if self._frame is None:
            return []
        if len(self._frame) + len(data) >= FRAME_MAX:
            detail = f"a frame of more than {FRAME_MAX} bytes"
            return [self._break_off(Refused.TOO_LONG, detail, at_ns)]
        self._frame += data
        return []

    def _meet(self, mark: bytes, at_ns: int) -> list[Reading | Refusal]:
        """What a character that bounds frames makes of what came before it."""
        bare = bytes([mark[0] & 0x7F])
        found: list[Reading | Refusal] = []
        if bare == STX:
            if self._frame is not None:
                detail = "a frame began before the one before it had ended"
                found.append(self._break_off(Refused.INCOMPLETE, detail, at_ns))
            self._frame, self._began_ns = bytearray(mark), at_ns
        elif bare == EOT:
            if self._frame is not None:
                detail = "the meter broke the frame off (EOT)"
                found.append(self._break_off(Refused.INCOMPLETE, detail, at_ns))
        elif self._frame is not None:
            found = self._finish(bytes(self._frame), mark, at_ns)
            self._frame, self._is_between = None, True
        elif self._is_between:
            found.append(Refusal(Refused.INCOMPLETE, "the end of a frame without its start", at_ns))
        else:
            self._is_between = True  # the first one, joined in its middle
        return found

    def _finish(self, begun: bytes, end: bytes, at_ns: int) -> list[Reading | Refusal]:
        table = _WITH_PARITY if begun[:1] > b"\x7f" else _WITHOUT_PARITY
        text = (begun + end).translate(table)
        frame = _Frame(text[1:-1])
        if frame.groups:
            self._since_ns = at_ns
        if text[-1] == _DAMAGED:
            frame.bad.append(_Bad("", Refused.FORM))
        read = frame.read(self._began_ns, at_ns)
        found: list[Reading | Refusal] = [] if read is None else [read]
        if frame.bad and not isinstance(read, Refusal):
            found.append(Refusal(frame.reason, frame.complaint, at_ns))
        return found
