"""Whom to trust: a community's genesis, its authority's key, and its gateway and VPP keys.

`community.pub` is all an outsider needs; it comes from outside, never from beside a ledger.
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from cryptometer import cbor, note, records
from cryptometer.authority_records import AuthorityRecord, Genesis, Registration, Revocation
from cryptometer.errors import Reason, Rejected
from cryptometer.governing import check_authority, found
from cryptometer.keys import Algorithm, PublicKey
from cryptometer.record_fields import Checkpoint, Role
from cryptometer.records import Record
from cryptometer.state import State

_BEGIN = "-----BEGIN CRYPTOMETER COMMUNITY-----"
_END = "-----END CRYPTOMETER COMMUNITY-----"
_LINE = 64


@dataclass(frozen=True, slots=True)
class Community:
    """A genesis and records of its authority, all signatures checked.

    Attributes:
        genesis: the founding record; its identity is the community's id.
        records: authority records in order of their sequence; usually not the whole chain.
        state: the community before its first block.
    """

    genesis: Record
    records: tuple[Record, ...]
    state: State

    @property
    def id(self) -> bytes:
        """The community's id, 32 bytes."""
        return self.genesis.identity

    @property
    def parameters(self) -> Genesis:
        return self.state.genesis

    @property
    def origin(self) -> str:
        """Name of the ledger and of the key that signs its checkpoints."""
        return f"cryptometer/1/{self.id.hex()}"

    def keys_of(self, role: Role, *, revoked: bool = False) -> list[PublicKey]:
        """Keys registered for a role, the newest first; replaced ones too, since what they signed
        stands. Those that a revocation has ended only with `revoked`."""
        found: list[tuple[str, PublicKey]] = []
        for record in self.records:
            match record.body:
                case Registration() as body if body.role is role:
                    found.append((body.name, body.key))
                case Revocation() as body if body.role is role and not revoked:
                    found = [one for one in found if one[0] != body.name]
        return [key for _, key in reversed(found)]

    def maker_keys(self) -> dict[bytes, PublicKey]:
        """The gateways' keys that makers of blocks signed their headers with, by the id that a
        header names; those that were replaced or revoked since, too: what they signed stands."""
        return {key.thumbprint: key for key in self.keys_of(Role.GATEWAY, revoked=True)}

    def open_checkpoint(self, signed: bytes, *, revoked: bool = False) -> Checkpoint:
        """Reads a checkpoint that one of the community's gateways has signed; one whose key a
        revocation has ended only with `revoked`.

        Raises:
            Rejected: why it is none.
        """
        reason = Reason.UNKNOWN_KEY
        detail = "the community names no gateway that signs checkpoints"
        for key in self.keys_of(Role.GATEWAY, revoked=revoked):
            if key.algorithm is not Algorithm.EDDSA:
                continue  # such a gateway makes blocks, but notes are Ed25519 only
            try:
                return note.open_checkpoint(signed, note.Verifier(self.origin, key))
            except Rejected as refused:
                # "Not signed by this key" says less than what another key's signature had wrong.
                if reason is Reason.UNKNOWN_KEY:
                    reason, detail = refused.reason, refused.detail
        raise Rejected(reason, detail)


def trust(genesis: bytes, others: Sequence[bytes]) -> Community:
    """Checks a genesis and authority records, in order of their sequence.

    Raises:
        Rejected: one of them is not signed by the authority, or they contradict one another.
    """
    founding = records.decode(genesis)
    state = found(founding)
    decoded = tuple(records.decode(raw) for raw in others)
    sequence = 0
    for record in decoded:
        body = record.body
        if not isinstance(body, AuthorityRecord) or body.sequence <= sequence:
            raise Rejected(Reason.WRONG_ORDER, "not authority records in order of sequence")
        check_authority(state, record)
        sequence = body.sequence
    return Community(founding, decoded, state)


def encode_community(community: Community) -> str:
    """The text of `community.pub`."""
    data = cbor.encode([community.genesis.raw, *(record.raw for record in community.records)])
    body = "\n".join(wrap(base64.b64encode(data).decode(), _LINE))
    return f"{community.parameters.name}\n{community.id.hex()}\n{_BEGIN}\n{body}\n{_END}\n"


def decode_community(text: str) -> Community:
    """Reads `community.pub`. Only what stands between the two marker lines is believed.

    Raises:
        Rejected: MALFORMED, or what `trust` raises.
    """
    _, begin, rest = text.partition(_BEGIN)
    body, end, _ = rest.partition(_END)
    if not begin or not end:
        raise Rejected(Reason.MALFORMED, "not a community.pub file: its marker lines are missing")
    try:
        data = base64.b64decode("".join(body.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(Reason.MALFORMED, "community.pub is not base64") from None
    match cbor.decode(data):
        case [bytes(genesis), *others] if all(isinstance(raw, bytes) for raw in others):
            return trust(genesis, others)  # type: ignore[arg-type]  # checked just above
        case _:
            raise Rejected(Reason.MALFORMED, "community.pub holds no records")
