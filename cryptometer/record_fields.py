"""What records of every kind are made of: their kinds, the roles of who signs them, and fields that
several have.
"""

from dataclasses import dataclass
from enum import StrEnum

from cryptometer.steps import ClockSource, ClockState
from cryptometer.wire import Bytes, Choice, Text, Uint, wire

DIGEST = Bytes(32, 32)
NAME = Text(63, "[a-z0-9]([a-z0-9-]*[a-z0-9])?")  # fits a DNS label, an MQTT level, a file name
LABEL = Text(120)
STEP = Uint(high=2**40)
MS = Uint(high=2**50)
REGISTER = Uint(high=2**61)  # pulses; leaves room to add a batch without leaving 63 bits


class Kind(StrEnum):
    """The kinds of format version 1. Reserved for later, and refused until then: candidate, winner,
    vote, evidence, market."""

    GENESIS = "genesis"
    REGISTRATION = "registration"
    REVOCATION = "revocation"
    RE_ANCHOR = "re-anchor"
    AGREEMENT = "agreement"
    RUN_START = "run-start"
    BATCH = "batch"
    READING = "reading"
    STEP_CLOSE = "step-close"
    DISTRIBUTION = "distribution"
    HEADER = "header"
    ACKNOWLEDGEMENT = "acknowledgement"
    ENROLMENT_REQUEST = "enrolment-request"
    BUNDLE = "bundle"


class Role(StrEnum):
    """What a registered party is to the community."""

    METER = "meter"
    GATEWAY = "gateway"
    VPP = "vpp"
    MEMBER = "member"
    NODE = "node"


@dataclass(frozen=True, slots=True)
class ClockReading:
    """The clock behind a record: its source, its state and its error bound in milliseconds."""

    source: ClockSource = wire(0, Choice(ClockSource))
    state: ClockState = wire(1, Choice(ClockState))
    error_ms: int = wire(2, MS)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A tree head: number of leaves and RFC 6962 root (32 bytes)."""

    size: int = wire(0, Uint())
    root: bytes = wire(1, DIGEST)
