"""A meter's chain: what a device says of its counts and of how it watched."""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import ClassVar

from cryptometer.record_fields import (
    DIGEST,
    LABEL,
    MS,
    NAME,
    REGISTER,
    STEP,
    Checkpoint,
    ClockReading,
    Kind,
)
from cryptometer.wire import Choice, Flag, Flat, Row, Uint, wire, wire_optional

LOTS_MAX = 4_096  # keeps a batch below RECORD_MAX: a lot takes 2 to 14 bytes
MARKS_MAX = 64
WATCHED_MAX = 512  # intervals of one step: more restarts than that are merged by the device
UNIT_UWH = Uint(1, 10**15)  # of an index's last digit, up to a GWh


class Mark(IntEnum):
    """What a device declares beside its counts, each with an amount. Unknown marks are kept."""

    COARSE = 1  # amount: pulses; one pulse alone reaches the bound, accepted by configuration
    UNDATED = 2  # pulses of an earlier boot that never knew the time
    CLOCK_DOUBTFUL = 3  # milliseconds: largest error bound, above 5 s
    CLOCK_STEPPED = 4  # milliseconds: the synchronised clock jumped by this much
    BURST = 5  # pulses that came faster than the meter can give them, or waited before the start
    STRADDLE = 6  # pulses whose capture interval spans the start of their step
    LOST = 7  # pulses or edges the kernel says it dropped
    NOISE = 8  # received bytes that were no pulse
    OVERSIZE = 9  # pulses in lots above V: the last resort of a full disk
    CUT = 10  # bytes of the device's journal found damaged and set aside
    RECOVERED = 11  # pulses that another counter counted while nobody watched the line
    REFUSED = 12  # messages of a meter that speaks, damaged or not as they should be
    INDEX_FAULT = 13  # its readings that went back, or grew faster than I_max allows
    RECALLED = 14  # steps that nobody read, told by the meter's own load profile
    COMPARED_FAULT = 15  # messages of a source that is only compared, refused or not to be believed


class Ending(StrEnum):
    """Why the run before this one ended, as far as the device knows."""

    FIRST = "first"  # there was no run before
    STOPPED = "stopped"  # ended in order
    UNKNOWN = "unknown"  # killed, crashed or power cut
    LINE_LOST = "line-lost"  # the pulse line was gone for a while


@dataclass(frozen=True, slots=True)
class ChainRecord:
    """What every record of a meter's chain says first.

    Attributes:
        sequence: 0 for the first record; without gaps.
        previous: identity of the record before; for the first, of the meter's registration;
            after a re-anchor, of that.
        clock: of a run start, the one that dated it; of a batch or close, the one with the
            greatest error that has dated anything of its step so far.
        marks: flat pairs of a `Mark` and its amount.
        register: pulses counted before what this record adds.
        step: the market step the record belongs to.
    """

    meter: str = wire(0, NAME)
    sequence: int = wire(1, Uint())
    previous: bytes = wire(2, DIGEST)
    clock: ClockReading = wire(3, Row(ClockReading))
    marks: tuple[int, ...] = wire(4, Flat(2, MARKS_MAX))
    register: int = wire(5, REGISTER)
    step: int = wire(6, STEP)

    def declared(self, mark: Mark) -> int | None:
        """The amount declared with `mark`, or None. A mark that occurs twice adds up."""
        amounts = [amount for code, amount in _pairs(self.marks) if code == mark]
        return sum(amounts) if amounts else None


@dataclass(frozen=True, slots=True)
class RunStart(ChainRecord):
    """The program began to watch the meter.

    Attributes:
        at_ms: when watching began, ms since the Unix epoch.
        unwatched_ms: since when nobody watched, ms since the Unix epoch; absent in a first run.
            Pulses given between the two are lost, or found waiting in the line's buffer.
        software: name and version of the program.
        ending: how the run before ended.
    """

    KIND: ClassVar[Kind] = Kind.RUN_START

    at_ms: int = wire(7, MS)
    software: str = wire(8, LABEL)
    ending: Ending = wire(9, Choice(Ending))
    unwatched_ms: int | None = wire_optional(10, MS)


@dataclass(frozen=True, slots=True)
class Batch(ChainRecord):
    """Consecutive lots within one step: the energy of paper A's "create" transactions.

    Attributes:
        registration: identity of the registration the lots were made under.
        lots: flat pairs: pulses of a lot, and when it was closed in ms since the step began.
    """

    KIND: ClassVar[Kind] = Kind.BATCH

    registration: bytes = wire(7, DIGEST)
    lots: tuple[int, ...] = wire(8, Flat(2, LOTS_MAX))

    @property
    def pulses(self) -> tuple[int, ...]:
        """Pulses of each lot, in order."""
        return self.lots[::2]

    @property
    def closed_ms(self) -> tuple[int, ...]:
        """When each lot was closed, ms since the step began."""
        return self.lots[1::2]

    @property
    def register_after(self) -> int:
        return self.register + sum(self.pulses)


@dataclass(frozen=True, slots=True)
class Reading(ChainRecord):
    """A meter's own index: what it has grown by since the counting reading before is counted in the
    step it was taken in. Nothing is interpolated.

    Attributes:
        registration: identity of the registration it was made under, whose constant says what the
            last digit of `register` and, of one that counts, of `index` is worth.
        index: as the meter says it, but for what a re-anchor has moved.
        at_ms: when it was taken, ms since the Unix epoch: the index is not younger than a message
            that came by itself, and not older than the question that was answered.
        source: the protocol.
        counting: whether it counts; another source is compared only, and moves no register.
        since_step: of the counting reading before, when steps were missed between the two.
        unit_uwh: of one that is compared only, what the last digit of `index` is worth, µWh, on the
            primary side.
        counted: likewise, where the register of what counts stood when the index was taken.
    """

    KIND: ClassVar[Kind] = Kind.READING

    registration: bytes = wire(7, DIGEST)
    index: int = wire(8, REGISTER)
    at_ms: int = wire(9, MS)
    source: str = wire(10, NAME)
    counting: bool = wire(11, Flag())
    since_step: int | None = wire_optional(12, STEP)
    unit_uwh: int | None = wire_optional(13, UNIT_UWH)
    counted: int | None = wire_optional(14, REGISTER)

    @property
    def register_after(self) -> int:
        return self.index if self.counting else self.register


@dataclass(frozen=True, slots=True)
class StepClose(ChainRecord):
    """Transfers a step's energy to the virtual power plant (paper A table I). `register` is that
    at the close before; what it transfers is what `check_block` counted between the two.

    Attributes:
        register_after: the register at the end of the step.
        watched: flat pairs: intervals watched, ms since the step began.
        checkpoint: the newest checkpoint the device has verified: not before.
    """

    KIND: ClassVar[Kind] = Kind.STEP_CLOSE

    register_after: int = wire(7, REGISTER)
    watched: tuple[int, ...] = wire(8, Flat(2, WATCHED_MAX))
    checkpoint: Checkpoint | None = wire_optional(9, Row(Checkpoint))


def _pairs(flat: tuple[int, ...]) -> list[tuple[int, int]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
