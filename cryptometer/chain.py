"""The chain verdict: may this record of a meter become a leaf? Taken once at the gateway's door and
again, by the same functions, whenever a block is checked. It says nothing about energy.
"""

from cryptometer import cose, records
from cryptometer.chain_records import Batch, ChainRecord, Reading, RunStart, StepClose
from cryptometer.errors import Reason, Rejected
from cryptometer.meter import Head, Meter
from cryptometer.record_fields import REGISTER
from cryptometer.records import Record
from cryptometer.state import State

_CHAIN_KINDS = {body.KIND.value for body in (RunStart, Batch, Reading, StepClose)}
_SAY_WHERE_IT_ENDS = (Batch, Reading, StepClose)


def open_record(state: State, raw: bytes) -> tuple[Record, ChainRecord, Meter]:
    """Reads a meter's record from a stranger's bytes: form, community, key, signature, statement.

    Whether it continues its meter's chain is for `follow`.

    Raises:
        Rejected: with the first thing that is wrong; nothing was changed.
    """
    envelope, meter = open_envelope(state, raw)
    # The signature comes before the payload is decoded: the decoder sees no stranger's bytes.
    verify(envelope, meter)
    return (*read_statement(envelope, meter), meter)


def open_envelope(state: State, raw: bytes) -> tuple[cose.Envelope, Meter]:
    """The first of the three parts of `open_record`: form, community, and whose key it names."""
    envelope = cose.open_seal(raw)
    header = envelope.header
    if header.community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
    if header.kind not in _CHAIN_KINDS:
        raise Rejected(Reason.UNKNOWN_KIND, f"a meter sends no {header.kind!r}")
    return envelope, state.meter_of(header.key_id)


def verify(envelope: cose.Envelope, meter: Meter) -> None:
    """The second part: the signature, by the key of the meter that the envelope names."""
    envelope.verify(meter.signed_by(envelope.header.key_id).key)


def read_statement(envelope: cose.Envelope, meter: Meter) -> tuple[Record, ChainRecord]:
    """The third part, for an envelope that has been verified: what it says, and of whom."""
    record = records.decode_body(envelope)
    body = record.body
    if not isinstance(body, ChainRecord) or body.meter != meter.name:
        raise Rejected(Reason.WRONG_ROLE, f"the key of {meter.name} does not speak for others")
    return record, body


def follow(meter: Meter, head: Head, record: Record, body: ChainRecord) -> Head:
    """The chain's head once `record` has been added to it.

    `head` may be ahead of `meter.head` by records that are not yet in a block.

    Raises:
        Rejected: REVOKED, also for a key that another one has taken the place of; REPEAT for a
            place that is taken (whether by the same record, the caller can tell); GAP; FORK when it
            names another record as the one before, or, as the chain's first, no registration of its
            key; REGISTER_MISMATCH; IMPLAUSIBLE when it registers more than the meter can give.
    """
    place = meter.place_of(record.key_id)
    valid_to = meter.terms[place].valid_to
    # Before its place is looked at: what a revoked key says is evidence of nothing.
    if valid_to is not None and body.sequence >= valid_to:
        raise Rejected(Reason.REVOKED, f"the key of {meter.name} is revoked")
    if body.sequence < head.sequence:
        raise Rejected(Reason.REPEAT, f"sequence {body.sequence} is taken")
    if body.sequence > head.sequence:
        raise Rejected(Reason.GAP, f"sequence {body.sequence}, expected {head.sequence}")
    if place < (head.signer or 0):
        raise Rejected(Reason.REVOKED, f"another key of {meter.name} has taken over")
    if not _continues(meter, head, record, body):
        raise Rejected(Reason.FORK, f"sequence {body.sequence} continues another chain")
    if head.register is None:
        if not isinstance(body, RunStart):
            raise Rejected(Reason.REGISTER_MISMATCH, "a chain begins with a run start")
    elif _starts_from(body) != head.register:
        raise Rejected(
            Reason.REGISTER_MISMATCH, f"register {body.register}, expected {head.register}"
        )
    after = register_after(body)
    if after < body.register and isinstance(body, Reading):
        raise Rejected(Reason.REGISTER_MISMATCH, f"index {after} is below {body.register}")
    energy = 0
    if isinstance(body, Batch | Reading):
        energy = meter.terms_of(body).energy_uwh(body.register, after)
    # Beyond REGISTER.high no record could say where the chain goes on, nor an acknowledgement.
    if energy > head.allowance_uwh or after > REGISTER.high:
        raise Rejected(
            Reason.IMPLAUSIBLE,
            f"{after - body.register} pulses more than {meter.name} can give in its life",
        )
    allowance_uwh = head.allowance_uwh - energy
    return Head(body.sequence + 1, record.identity, allowance_uwh, after, place or None)


def _continues(meter: Meter, head: Head, record: Record, body: ChainRecord) -> bool:
    if head.register is not None:
        return body.previous == head.previous
    # A device signs its first record before it can hear of a newer registration: each of its key
    # begins the chain, and whichever record comes first has begun it.
    registration = meter.made_under(body.previous)
    return registration is not None and registration.key.thumbprint == record.key_id


def register_after(body: ChainRecord) -> int:
    """The register once a record of a chain has been added."""
    return body.register_after if isinstance(body, _SAY_WHERE_IT_ENDS) else body.register


def _starts_from(body: ChainRecord) -> int:
    # A close adds nothing: its `register` looks back to the close before, and is judged there.
    return body.register_after if isinstance(body, StepClose) else body.register
