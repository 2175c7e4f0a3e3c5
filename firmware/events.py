"""What happens at a meter's line, in the order it is journalled. The counter's only input.

Registers are absolute: an event that is applied twice, or after a record that already covers it,
adds nothing.
"""

from dataclasses import dataclass
from typing import TypeAlias

from cryptometer import cbor
from cryptometer.chain_records import UNIT_UWH, Ending, Mark
from cryptometer.errors import Reason, Rejected
from cryptometer.record_fields import LABEL, MS, REGISTER
from cryptometer.wire import Bytes, Choice, Map, Row, Uint, wire
from firmware.end import End
from firmware.timekeeping import Dating
from hal.ports import BESIDE_MODULUS

BOOT = Bytes(16, 16)
EVENT_MAX = 256  # bytes; the longest, a beginning with a long software name, has 180


@dataclass(frozen=True, slots=True)
class Began:
    """The program began to watch the line.

    Attributes:
        boot: the machine's boot; monotonic times compare only within one.
        cut: bytes of the journal that were found damaged.
    """

    boot: bytes = wire(0, BOOT)
    mono_ns: int = wire(1, Uint())
    software: str = wire(2, LABEL)
    cut: int = wire(3, Uint())


@dataclass(frozen=True, slots=True)
class Dated:
    """A dating of this boot was adopted."""

    dating: Dating = wire(0, Row(Dating))


@dataclass(frozen=True, slots=True)
class Pulses:
    """Pulses were taken from the line.

    Attributes:
        register: the register with them.
        from_ns: monotonic time of the look before; they came after it.
        to_ns: monotonic time of this look. Equal to `from_ns` where the kernel gave the time.
        waited: 1 if they waited in the line's buffer since before the run began.
    """

    register: int = wire(0, REGISTER)
    from_ns: int = wire(1, Uint())
    to_ns: int = wire(2, Uint())
    waited: int = wire(3, Uint(0, 1))


@dataclass(frozen=True, slots=True)
class Watched:
    """Every pulse given before this monotonic time has been journalled."""

    mono_ns: int = wire(0, Uint())


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something to declare: a `Mark` and its amount."""

    mark: int = wire(0, Uint(1, 255))
    amount: int = wire(1, Uint())

    @classmethod
    def of(cls, mark: Mark, amount: int) -> "Noticed":
        return cls(int(mark), amount)  # the journal holds plain integers only


@dataclass(frozen=True, slots=True)
class Ended:
    """The run ended, and in which way."""

    mono_ns: int = wire(0, Uint())
    ending: Ending = wire(1, Choice(Ending))


@dataclass(frozen=True, slots=True)
class Passed:
    """It was this monotonic time, and the line was still gone."""

    mono_ns: int = wire(0, Uint())


@dataclass(frozen=True, slots=True)
class Kept:
    """The outbox holds, durably, what was signed up to this end; only then is it published. The
    count does not depend on it: it is there for an outbox that damage takes."""

    end: End = wire(0, Map(End))


@dataclass(frozen=True, slots=True)
class Anchored:
    """At this monotonic time a re-anchor acted. A chain that a wrong clock has led far ahead comes
    back to the present with it."""

    mono_ns: int = wire(0, Uint())


@dataclass(frozen=True, slots=True)
class Aligned:
    """Another counter of the same pulses stands this much above the register.

    Attributes:
        ahead: modulo BESIDE_MODULUS.
    """

    ahead: int = wire(0, Uint(0, BESIDE_MODULUS - 1))


@dataclass(frozen=True, slots=True)
class Read:
    """A meter's own index was read, and believed.

    Attributes:
        register: the index, in units of the registration's constant; with what `Rebased` has added.
        at_ns: monotonic time of the reading.
    """

    register: int = wire(0, REGISTER)
    at_ns: int = wire(1, Uint())


@dataclass(frozen=True, slots=True)
class Rebased:
    """The meter's index begins elsewhere, with the authority's leave: so much is added to it, or
    taken off."""

    base: int = wire(0, REGISTER)
    less: int = wire(1, REGISTER)


@dataclass(frozen=True, slots=True)
class Excused:
    """A re-anchor is taken up: the next index that the meter states is believed, whatever it is.
    Holds until one is journalled, through any number of runs."""


@dataclass(frozen=True, slots=True)
class Recalled:
    """The meter's own load profile says where its index stood at a step's end that nobody read.

    Attributes:
        register: as in `Read`.
        at_ms: when, ms since the Unix epoch, UTC.
        error_ms: bound on the error of the meter's clock.
    """

    register: int = wire(0, REGISTER)
    at_ms: int = wire(1, MS)
    error_ms: int = wire(2, MS)


@dataclass(frozen=True, slots=True)
class Compared:
    """A source that is only compared was read, and believed; the other fields as in `Comparison`.

    Attributes:
        at_ns: monotonic time of the reading.
    """

    index: int = wire(0, REGISTER)
    unit_uwh: int = wire(1, UNIT_UWH)
    counted: int = wire(2, REGISTER)
    at_ns: int = wire(3, Uint())


Event: TypeAlias = (
    Began
    | Dated
    | Pulses
    | Watched
    | Noticed
    | Ended
    | Passed
    | Kept
    | Anchored
    | Aligned
    | Read
    | Rebased
    | Recalled
    | Excused
    | Compared
)

_KINDS: tuple[type[Event], ...] = (
    Began,
    Dated,
    Pulses,
    Watched,
    Noticed,
    Ended,
    Passed,
    Kept,
    Anchored,
    Aligned,
    Read,
    Rebased,
    Recalled,
    Excused,
    Compared,
)
_CODECS = {kind: (number, Row(kind)) for number, kind in enumerate(_KINDS)}


def encode_event(event: Event) -> bytes:
    """The journal's entry for an event: [kind, [fields]]."""
    number, codec = _CODECS[type(event)]
    return cbor.encode([number, codec.encode(event)])


def decode_event(data: bytes) -> Event:
    """Reads an entry.

    Raises:
        Rejected: it is none.
    """
    match cbor.decode(data):
        case [int(number), fields] if 0 <= number < len(_KINDS):
            return Row(_KINDS[number]).decode(fields)
        case _:
            raise Rejected(Reason.MALFORMED, "not an event of this version")
