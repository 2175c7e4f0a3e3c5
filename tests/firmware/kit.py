"""What the tests of the firmware share: a chain of drafts to sign, and a gateway's word on it."""

from dataclasses import replace
from typing import Any

from cryptometer import records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.authority_records import MeterDetails
from cryptometer.chain_records import Ending
from cryptometer.enrolment import Broker, Bundle
from cryptometer.record_fields import ClockReading, Role
from cryptometer.records import Record
from cryptometer.steps import ClockSource, ClockState, step_start_ms
from firmware.chain import Chain
from firmware.drafts import BatchDraft, CloseDraft, Draft, RunDraft
from firmware.end import End
from tests.core.community import DETAILS, FIRST_STEP, STEP_S, Authority
from tests.keys import signer

CLOCK = ClockReading(ClockSource.SIMULATED, ClockState.SYNCHRONISED, 20)
COMMUNITY = bytes(range(32))
REGISTRATION = bytes(range(32, 64))
CHAIN = Chain("m0", COMMUNITY, ((0, REGISTRATION),), signer(10))


def run(register: int = 0, step: int = FIRST_STEP, later_ms: int = 0) -> RunDraft:
    at_ms = step_start_ms(step, STEP_S) + later_ms
    return RunDraft(register, step, CLOCK, (), at_ms, "test", Ending.FIRST, None)


def batch(register: int, *pulses: int, step: int = FIRST_STEP) -> BatchDraft:
    lots = tuple(part for at, lot in enumerate(pulses, 1) for part in (lot, at * 1_000))
    return BatchDraft(register, step, CLOCK, (), lots)


def close(register: int, register_after: int, step: int = FIRST_STEP) -> CloseDraft:
    return CloseDraft(register, step, CLOCK, (), register_after, (0, STEP_S * 1_000))


def steps(count: int, first: int = FIRST_STEP, register: int = 0) -> list[Draft]:
    """A batch of five pulses and a close for each step."""
    drafts: list[Draft] = []
    for step in range(first, first + count):
        drafts += [batch(register, 5, step=step), close(register, register + 5, step)]
        register += 5
    return drafts


def word(
    end: End, sequence: int | None = None, previous: bytes | None = None, **changes: Any
) -> Acknowledgement:
    """The gateway's word that it has the chain up to `sequence`, by default all of it."""
    at = end.sequence if sequence is None else sequence
    before = end.previous if previous is None else previous
    return replace(Acknowledgement("m0", 1, at, before, 0), **changes)


class Office:
    """An authority with one gateway, that registers meters and writes their bundles."""

    def __init__(self, **parameters: Any) -> None:
        self.authority = Authority(signer(1), **parameters)
        self.gateway = signer(2)
        self.gateway_registration = self.authority.register(Role.GATEWAY, "gw", self.gateway.public)

    @property
    def id(self) -> bytes:
        return self.authority.genesis.identity

    def register(
        self,
        name: str = "m0",
        key: int = 10,
        details: MeterDetails = DETAILS,
        from_step: int = FIRST_STEP,
    ) -> Record:
        return self.authority.register(Role.METER, name, signer(key).public, details, from_step)

    def bundle(self, *registered: Record, name: str = "m0", key: int = 1) -> bytes:
        body = Bundle(
            name,
            self.authority.genesis.raw,
            (self.gateway_registration.raw, *(record.raw for record in registered)),
            Broker("mqtt://127.0.0.1:1883"),
        )
        return records.seal(body, self.id, signer(key)).raw
