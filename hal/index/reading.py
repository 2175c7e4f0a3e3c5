"""What a meter says of itself in an index protocol, as values; and what a decoder of one is."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

UWH_EXPONENT = -6  # of ten, in Wh: what energy is counted in everywhere else


class Register(StrEnum):
    """Which of a meter's cumulative registers: active energy, all tariffs and phases together."""

    IMPORT = "import"  # taken from the grid
    EXPORT = "export"  # given to the grid


class Caveat(StrEnum):
    """What a reading lacks, though it may be used."""

    WEAK_CHECK = "weak-check"  # a checksum that common damage passes, or none
    UNIT_ASSUMED = "unit-assumed"  # the meter states none
    CLOCK_DEGRADED = "clock-degraded"  # the meter itself doubts its clock
    NOT_AUTHENTICATED = "not-authenticated"  # it carries a tag that nobody could check


class Refused(StrEnum):
    """Why bytes gave no reading: stable in counters and logs."""

    INCOMPLETE = "incomplete"  # it began in the middle, or was broken off
    TOO_LONG = "too-long"
    CHECKSUM = "checksum"
    FORM = "form"  # a field that the standard does not write like this
    NO_IDENTITY = "no-identity"  # the message does not say which meter it is of
    OTHER_METER = "other-meter"
    NO_INDEX = "no-index"  # a good message without the register that counts
    NOT_AUTHENTIC = "not-authentic"  # the authentication tag, or the key
    UNSUPPORTED = "unsupported"  # whole, and of a kind this program does not read
    METER_ERROR = "meter-error"  # the meter answered that it cannot
    SILENT = "silent"  # a question was not answered in time
    WENT_BACK = "went-back"
    TOO_FAST = "too-fast"  # more energy than the meter's greatest current gives
    BELOW_REGISTERED = "below-registered"  # a first index that the meter had passed before
    ABOVE_REGISTERED = "above-registered"  # a first index that it cannot have reached since
    UNCONFIRMED = "unconfirmed"  # the message after it contradicts it


@dataclass(frozen=True, slots=True)
class Index:
    """A cumulative index of active energy: `value` x 10**`exponent` Wh, as fine as it was given."""

    value: int
    exponent: int = 0

    @property
    def uwh(self) -> int:
        """In micro-watt-hours.

        Raises:
            ValueError: it is given finer than that.
        """
        if self.exponent < UWH_EXPONENT:
            raise ValueError(f"10**{self.exponent} Wh is finer than a micro-watt-hour")
        return self.value * self.unit_uwh

    @property
    def unit_uwh(self) -> int:
        """What its last digit is worth, micro-watt-hours."""
        return int(10 ** (self.exponent - UWH_EXPONENT))


@dataclass(frozen=True, slots=True)
class Reading:
    """One whole message of a meter that passed every check of its protocol.

    Attributes:
        identity: the meter's own number, as this message states it; empty where it states none.
        imported: the register of energy taken from the grid; None if the message has none.
        exported: the register of energy given to the grid; None if the message has none.
        began_ns: monotonic time of the look that brought its first byte: the index is not younger.
            For a meter that is asked: when the question was sent, and the index is not older.
        ended_ns: monotonic time of the look that brought its last byte.
        meter_time_s: the meter's own time stamp, unix seconds UTC; None where it has none, or one
            that cannot be placed in UTC.
        caveats: what it lacks.
        fields: everything else it says, as name and text in the protocol's own terms; for people.
    """

    identity: str
    imported: Index | None
    exported: Index | None
    began_ns: int
    ended_ns: int
    meter_time_s: int | None = None
    caveats: frozenset[Caveat] = frozenset()
    fields: tuple[tuple[str, str], ...] = ()

    def index_of(self, register: Register) -> Index | None:
        return self.imported if register is Register.IMPORT else self.exported


@dataclass(frozen=True, slots=True)
class Refusal:
    """Bytes that gave no reading.

    Attributes:
        reason: the code to count.
        detail: one sentence for people: what was found, and where.
        at_ns: monotonic time of the look that brought the last of them.
    """

    reason: Refused
    detail: str
    at_ns: int


class IndexDecoder(Protocol):
    """One protocol, from bytes as they come. It holds a bounded number of them, finds the next
    message after any damage, and never raises."""

    def receive(self, data: bytes, at_ns: int) -> list[Reading | Refusal]:
        """What these bytes complete.

        Args:
            data: the bytes that followed those of the call before; none when the line was looked
                at and nothing waited, which ends what a silence ends.
            at_ns: monotonic time of the look that brought them; never less than before.
        """
        ...


class Parity(StrEnum):
    NONE = "none"
    EVEN = "even"
    ODD = "odd"


@dataclass(frozen=True, slots=True)
class LineForm:
    """How a serial line is set: bits a second, data bits, parity; one stop bit."""

    baud: int
    bits: int = 8
    parity: Parity = Parity.NONE


class Conversation(IndexDecoder, Protocol):
    """A decoder that needs more of its line than to listen: another speed, or to ask.

    Whoever has the line sets it to `form`, sends what `speak` gives, hands over what came, and does
    the same again when bytes come or `due_ns` has passed.
    """

    @property
    def form(self) -> LineForm:
        """How the line must be set now. What was sent before a change has left by then: the
        conversation itself waits as long as that takes."""
        ...

    @property
    def due_ns(self) -> int | None:
        """Monotonic time at which it wants to be called though nothing came; None: never."""
        ...

    def speak(self, now_ns: int) -> bytes:
        """What to send now; called after every `receive`. Empty: nothing."""
        ...


@dataclass(frozen=True, slots=True)
class Past:
    """One row of a meter's own load profile: its indexes as they stood at an earlier moment.

    Attributes:
        identity: the meter's own number.
        imported, exported: the registers; None if the profile has none.
        at_s: when, by the meter's clock, unix seconds UTC.
        caveats: what the row lacks.
    """

    identity: str
    imported: Index | None
    exported: Index | None
    at_s: int
    caveats: frozenset[Caveat] = frozenset()

    def index_of(self, register: Register) -> Index | None:
        return self.imported if register is Register.IMPORT else self.exported


class Remembering(Conversation, Protocol):
    """A conversation that can also ask for what a meter kept while nobody listened."""

    def ask_past(self, from_s: int, to_s: int) -> None:
        """Asks for the rows from one moment up to another one, unix seconds, when the line is free
        next."""
        ...

    def take_past(self) -> list[Past | Refusal]:
        """The rows that came since, in order of time; a refusal for each question that gave
        none."""
        ...


class TakingTurns(Conversation, Protocol):
    """A conversation with a meter that may be one of several on a line: it is called in its turn
    only, and lets the line go after each reading."""

    @property
    def is_busy(self) -> bool:
        """Whether an answer is awaited, or a question is to follow at once: nobody else may use the
        line now."""
        ...
