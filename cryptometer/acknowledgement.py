"""A gateway's word to a device on where its chain stands. No ledger holds it."""

from dataclasses import dataclass
from typing import ClassVar

from cryptometer.errors import Reason
from cryptometer.record_fields import DIGEST, NAME, REGISTER, Kind
from cryptometer.wire import Choice, Row, Uint, wire, wire_optional


@dataclass(frozen=True, slots=True)
class Stop:
    """A chain cannot go on: the sequence number that was refused, and why."""

    sequence: int = wire(0, Uint())
    reason: Reason = wire(1, Choice(Reason))


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """A gateway's word that a chain is durable with it up to, not including, `sequence`.

    Attributes:
        epoch: grows when a gateway's store was restored; an older epoch's word is void.
        sequence: of the record expected next.
        previous: what that record must name as the one before.
        register: where that record must start from; 0 for a chain without records.
        stop: present when what the device sends cannot continue the chain.
    """

    KIND: ClassVar[Kind] = Kind.ACKNOWLEDGEMENT

    meter: str = wire(0, NAME)
    epoch: int = wire(1, Uint())
    sequence: int = wire(2, Uint())
    previous: bytes = wire(3, DIGEST)
    register: int = wire(4, REGISTER)
    stop: Stop | None = wire_optional(5, Row(Stop))
