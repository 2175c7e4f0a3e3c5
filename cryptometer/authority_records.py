"""The authority's chain: sequence 0 is the genesis, each record names the one before. Agreements,
which stand in it too, are in `sharing_records`.
"""

from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import ClassVar

from cryptometer.keys import PublicKey
from cryptometer.metrology import Ratings, Side
from cryptometer.record_fields import DIGEST, LABEL, MS, NAME, REGISTER, STEP, Kind, Role
from cryptometer.wire import Choice, Flag, Key, Map, Rational, Row, Text, Uint, wire, wire_optional

STEP_S = Uint(60, 86_400)


class Use(StrEnum):
    """What a meter's energy is to the community; only generation is expected in every block."""

    GENERATION = "generation"
    CONSUMPTION = "consumption"
    STORAGE = "storage"


class CountingSource(StrEnum):
    """Which way of reading a meter counts: lots of pulses, or its own index."""

    PULSES = "pulses"
    INDEX = "index"


@dataclass(frozen=True, slots=True)
class Genesis:
    """Founds a community: its parameters and the authority's key. Its identity names it.

    Attributes:
        first_step: the step of the first block.
        step_s: length of a market step, seconds.
        grace_ms: how long after its end a step's block waits for closes, community time.
        late_steps: how many steps late a record may be and still count.
        token_uwh: energy of one voting token, µWh (paper A table IV).
        token_steps: validity of a token in steps, d of paper A table IV.
        quorum: approvals a block needs; 1 while one gateway makes blocks.
    """

    KIND: ClassVar[Kind] = Kind.GENESIS

    name: str = wire(0, LABEL)
    authority: PublicKey = wire(1, Key())
    created_ms: int = wire(2, MS)
    first_step: int = wire(3, STEP)
    step_s: int = wire(4, STEP_S)
    grace_ms: int = wire(5, MS)
    late_steps: int = wire(6, STEP)
    token_uwh: int = wire(7, Uint(1))
    token_steps: int = wire(8, Uint(1, 2**20))
    quorum: int = wire(9, Uint(1, 1000))


@dataclass(frozen=True, slots=True)
class MeterDetails:
    """A meter as the authority knows it; the sides and ratios are explained in `Ratings`.

    Attributes:
        serial: the manufacturer's number on the name plate.
        index_wh: what the display showed at enrolment, Wh.
        i_max_ma: I_max, mA: a faster pulse rate than U · I_max gives is declared a burst.
        constant: pulses per kWh; of an index, how many of its last digit make a kWh.
        lot_pulses: V as pulses per lot, the largest number a lot may hold; 1 for an index.
        coarse: one pulse alone reaches the bound, and that was accepted.
        exclusive: the meter counts in this community and no other.
    """

    serial: str = wire(0, LABEL)
    use: Use = wire(1, Choice(Use))
    source: CountingSource = wire(2, Choice(CountingSource))
    index_wh: int = wire(3, Uint())
    accuracy_class: str = wire(4, Text(1, "[ABC]"))
    phases: int = wire(5, Uint(1, 3))
    voltage_mv: int = wire(6, Uint(1, 10**9))
    i_min_ma: int = wire(7, Uint(1, 10**9))
    i_max_ma: int = wire(8, Uint(1, 10**9))
    ratings_side: Side = wire(9, Choice(Side))
    constant: Fraction = wire(10, Rational())
    constant_side: Side = wire(11, Choice(Side))
    ratio: Fraction = wire(12, Rational())
    guard: Fraction = wire(13, Rational())
    lot_pulses: int = wire(14, Uint(1, 2**32))
    coarse: bool = wire(15, Flag())
    exclusive: bool = wire(16, Flag())

    @property
    def register_unit(self) -> tuple[CountingSource, Fraction]:
        """What a register counts: its source and, of an index, how many make a kWh. A new constant
        of pulses says nothing of those that were counted."""
        is_index = self.source is CountingSource.INDEX
        return self.source, self.constant if is_index else Fraction(0)

    @property
    def ratings(self) -> Ratings:
        return Ratings(
            self.accuracy_class,
            self.phases,
            self.voltage_mv,
            self.i_min_ma,
            self.constant,
            self.ratings_side,
            self.constant_side,
            self.ratio,
            self.guard,
        )


@dataclass(frozen=True, slots=True)
class AuthorityRecord:
    """What every record of the authority after the genesis says first."""

    sequence: int = wire(0, Uint(1))
    previous: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Registration(AuthorityRecord):
    """Names a party, its key and what it is, from a step on. A later one of the same name and
    role replaces it. It acts from the block after the one that holds it."""

    KIND: ClassVar[Kind] = Kind.REGISTRATION

    role: Role = wire(2, Choice(Role))
    name: str = wire(3, NAME)
    key: PublicKey = wire(4, Key())
    from_step: int = wire(5, STEP)
    meter: MeterDetails | None = wire_optional(6, Map(MeterDetails))


@dataclass(frozen=True, slots=True)
class ChainPlace:
    """One record of a chain: its sequence number and its identity."""

    sequence: int = wire(0, Uint())
    identity: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Revocation(AuthorityRecord):
    """Ends a party's key. For a meter, `last` is the last valid record of its chain, or absent
    when none is valid: whatever comes later is refused."""

    KIND: ClassVar[Kind] = Kind.REVOCATION

    role: Role = wire(2, Choice(Role))
    name: str = wire(3, NAME)
    reason: str = wire(4, LABEL)
    last: ChainPlace | None = wire_optional(5, Row(ChainPlace))


@dataclass(frozen=True, slots=True)
class ReAnchor(AuthorityRecord):
    """Lets a meter's chain go on where it could not: its next record has sequence `at`, names
    this record as the one before, and starts from `register`."""

    KIND: ClassVar[Kind] = Kind.RE_ANCHOR

    meter: str = wire(2, NAME)
    at: int = wire(3, Uint())
    register: int = wire(4, REGISTER)
    reason: str = wire(5, LABEL)
