"""The last leaf of a block: what moved in it, and where all energy is after it."""

from dataclasses import dataclass
from typing import ClassVar

from cryptometer.chain_records import _pairs
from cryptometer.record_fields import MS, STEP, Checkpoint, ClockReading, Kind
from cryptometer.wire import Flag, Flat, Row, Uint, wire, wire_optional

BLOCK_LEAVES_MAX = 2**24
ASIDE_MAX = 4_096  # runs of distributions that move nothing in one block: none is of honest plants


@dataclass(frozen=True, slots=True)
class Flow:
    """Energy that moved in one block, µWh; `registered` = `counted` + `quarantined`.

    Attributes:
        registered: what the chains' registers advanced by.
        counted: of it, what passed the energy verdict.
        quarantined: of it, what did not.
        transferred: what step closes moved to the virtual power plant.
        tokens: voting tokens minted with that.
    """

    registered: int = wire(0, Uint())
    counted: int = wire(1, Uint())
    quarantined: int = wire(2, Uint())
    transferred: int = wire(3, Uint())
    tokens: int = wire(4, Uint())


@dataclass(frozen=True, slots=True)
class Balance:
    """Where all energy ever registered is after a block, µWh (promise F): `registered` equals the
    sum of the other seven."""

    registered: int = wire(0, Uint())
    untransferred: int = wire(1, Uint())
    waiting: int = wire(2, Uint())
    allocated: int = wire(3, Uint())
    losses: int = wire(4, Uint())
    fees: int = wire(5, Uint())
    surplus: int = wire(6, Uint())
    quarantined: int = wire(7, Uint())


@dataclass(frozen=True, slots=True)
class Header:
    """The last leaf of a block, signed by its maker. Map keys 10 to 12 are reserved for round,
    winner and ranking.

    Attributes:
        sealed_ms: the maker's clock when the block was made: what it holds is not after.
        leaves: number of leaves before the header.
        late: flat: records of earlier steps, and the most steps one of them is late.
        meters: flat: meters registered as generating for the step, and those that closed it.
        caught_up: made after a restart, later than its time.
        aside: flat: runs of records of distributions that move nothing, by the place of the first
            among the block's leaves, counted from 0, and how many; absent where there is none. So
            whoever has a block's header and one of its distributions knows whether it had effect.
    """

    KIND: ClassVar[Kind] = Kind.HEADER

    step: int = wire(0, STEP)
    previous: Checkpoint = wire(1, Row(Checkpoint))
    sealed_ms: int = wire(2, MS)
    clock: ClockReading = wire(3, Row(ClockReading))
    leaves: int = wire(4, Uint(high=BLOCK_LEAVES_MAX))
    flow: Flow = wire(5, Row(Flow))
    balance: Balance = wire(6, Row(Balance))
    late: tuple[int, ...] = wire(7, Flat(2, 1))
    meters: tuple[int, ...] = wire(8, Flat(2, 1))
    caught_up: bool = wire(9, Flag())
    aside: tuple[int, ...] | None = wire_optional(13, Flat(2, ASIDE_MAX))

    def is_aside(self, place: int) -> bool:
        """Whether the leaf at this place of the block is a distribution that moves nothing."""
        return any(first <= place < first + count for first, count in _pairs(self.aside or ()))
