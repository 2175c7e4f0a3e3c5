"""Every record of format version 1: which there are, signed and decoded.

`records.cddl` states the same for strangers. A record is one signed statement; `Record` is a
record decoded once, at the door: its envelope and the statement inside.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cryptometer import cbor, cose
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.authority_records import Genesis, ReAnchor, Registration, Revocation
from cryptometer.block_header import Header
from cryptometer.chain_records import Batch, Reading, RunStart, StepClose
from cryptometer.enrolment import Bundle, EnrolmentRequest
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import Signer
from cryptometer.record_fields import Kind
from cryptometer.sharing_records import Agreement, Distribution
from cryptometer.wire import decode_map, encode_map

Body: TypeAlias = (
    Genesis
    | Registration
    | Revocation
    | ReAnchor
    | Agreement
    | RunStart
    | Batch
    | Reading
    | StepClose
    | Distribution
    | Header
    | Acknowledgement
    | EnrolmentRequest
    | Bundle
)


_BODIES: Mapping[str, type[Body]] = {
    body.KIND.value: body
    for body in (
        Genesis,
        Registration,
        Revocation,
        ReAnchor,
        Agreement,
        RunStart,
        Batch,
        Reading,
        StepClose,
        Distribution,
        Header,
        Acknowledgement,
        EnrolmentRequest,
        Bundle,
    )
}


_WITHOUT_COMMUNITY = {Kind.GENESIS.value, Kind.ENROLMENT_REQUEST.value}


@dataclass(frozen=True, slots=True)
class Record:
    """A record decoded once: the envelope with its exact bytes, and what it says."""

    envelope: cose.Envelope
    body: Body

    @property
    def raw(self) -> bytes:
        return self.envelope.raw

    @property
    def identity(self) -> bytes:
        return self.envelope.identity

    @property
    def key_id(self) -> bytes:
        return self.envelope.header.key_id

    @property
    def community(self) -> bytes:
        """The community the record belongs to; a genesis belongs to the one it founds."""
        return self.envelope.header.community or self.identity


def seal(body: Body, community: bytes | None, signer: Signer) -> Record:
    """Signs `body` as a record of `community` (None for a genesis or an enrolment request).

    Raises:
        ValueError: the record would exceed RECORD_MAX.
        Rejected: a field is out of range; a fault of the caller.
    """
    return decode(sign(body, community, signer))


def sign(body: Body, community: bytes | None, signer: Signer) -> bytes:
    """As `seal`, for who only sends it: the record's bytes."""
    return cose.seal(body.KIND, community, cbor.encode(encode_map(body)), signer)


def decode(raw: bytes) -> Record:
    """Reads one record whole. The signature is NOT checked: see `Envelope.verify`.

    Raises:
        Rejected: whatever makes the bytes no canonical record of a known kind.
    """
    return decode_body(cose.open_seal(raw))


def decode_body(envelope: cose.Envelope) -> Record:
    """Reads the statement in an envelope; the door calls it once the signature has verified.

    Raises:
        Rejected: UNKNOWN_KIND, MALFORMED or NOT_CANONICAL.
    """
    header = envelope.header
    body = _BODIES.get(header.kind)
    if body is None:
        raise Rejected(Reason.UNKNOWN_KIND, f"kind {header.kind!r} is not of this version")
    if (header.community is None) != (header.kind in _WITHOUT_COMMUNITY):
        raise Rejected(Reason.MALFORMED, "only a genesis or a request stands outside a community")
    return Record(envelope, decode_map(body, cbor.decode(envelope.payload)))
