"""What is to be signed: records as the counter drafts them, in its own registers. Place in the
chain, registration and signature come with `firmware.chain`.
"""

from dataclasses import dataclass
from typing import TypeAlias

from cryptometer.chain_records import UNIT_UWH, Ending
from cryptometer.record_fields import MS, REGISTER, ClockReading
from cryptometer.wire import wire


@dataclass(frozen=True, slots=True)
class RunDraft:
    """A run start to be signed; fields as in the record."""

    register: int
    step: int
    clock: ClockReading
    marks: tuple[int, ...]
    at_ms: int
    software: str
    ending: Ending
    unwatched_ms: int | None


@dataclass(frozen=True, slots=True)
class BatchDraft:
    """A batch to be signed; fields as in the record."""

    register: int
    step: int
    clock: ClockReading
    marks: tuple[int, ...]
    lots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ReadingDraft:
    """A counting reading to be signed; fields as in the record."""

    register: int
    step: int
    clock: ClockReading
    marks: tuple[int, ...]
    index: int
    at_ms: int
    since_step: int | None
    registration: bytes | None = None  # of one signed before: its index is in that one's unit


@dataclass(frozen=True, slots=True)
class Comparison:
    """An index of another source of the same meter, that is only compared.

    Attributes:
        index: in its own unit.
        unit_uwh: what that is worth, micro-watt-hours, on the primary side.
        counted: where the counter's register stood when it was taken.
        at_ms: when that was, ms since the Unix epoch.
    """

    index: int = wire(0, REGISTER)
    unit_uwh: int = wire(1, UNIT_UWH)
    counted: int = wire(2, REGISTER)
    at_ms: int = wire(3, MS)


@dataclass(frozen=True, slots=True)
class ComparedDraft:
    """A reading that does not count, to be signed; fields as in the record."""

    register: int
    step: int
    clock: ClockReading
    marks: tuple[int, ...]
    compared: Comparison


@dataclass(frozen=True, slots=True)
class CloseDraft:
    """A step close to be signed; fields as in the record."""

    register: int
    step: int
    clock: ClockReading
    marks: tuple[int, ...]
    register_after: int
    watched: tuple[int, ...]


Draft: TypeAlias = RunDraft | BatchDraft | ReadingDraft | ComparedDraft | CloseDraft
