"""How a party comes to take part: its request, and the authority's answer. No ledger holds them."""

from dataclasses import dataclass
from typing import ClassVar

from cryptometer import cose
from cryptometer.keys import PublicKey
from cryptometer.record_fields import LABEL, MS, NAME, Kind, Role
from cryptometer.wire import Bytes, Choice, Key, Many, Map, Text, wire, wire_optional

AUTHORITY_RECORDS_MAX = 64


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """A device or program asks to be registered; signed by the key it names."""

    KIND: ClassVar[Kind] = Kind.ENROLMENT_REQUEST

    role: Role = wire(0, Choice(Role))
    key: PublicKey = wire(1, Key())
    host: str = wire(2, LABEL)
    software: str = wire(3, LABEL)
    created_ms: int = wire(4, MS)


@dataclass(frozen=True, slots=True)
class Broker:
    """How a party reaches the broker: mqtt://host:port or mqtts://host:port, and its credential:
    a user name with a password, or a client certificate with its key (PEM)."""

    url: str = wire(0, Text(255, r"mqtts?://[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}"))
    ca: bytes | None = wire_optional(1, Bytes(1, 16_384))
    username: str | None = wire_optional(2, LABEL)
    password: str | None = wire_optional(3, LABEL)
    certificate: bytes | None = wire_optional(4, Bytes(1, 16_384))
    key: bytes | None = wire_optional(5, Bytes(1, 4_096))


@dataclass(frozen=True, slots=True)
class Bundle:
    """The authority's answer to an enrolment request: all a party needs to take part.

    Attributes:
        genesis: the genesis record.
        records: the registrations of gateway and VPP, then the party's own records, as signed.
    """

    KIND: ClassVar[Kind] = Kind.BUNDLE

    name: str = wire(0, NAME)
    genesis: bytes = wire(1, Bytes(1, cose.RECORD_MAX))
    records: tuple[bytes, ...] = wire(2, Many(Bytes(1, cose.RECORD_MAX), 0, AUTHORITY_RECORDS_MAX))
    broker: Broker = wire(3, Map(Broker))
