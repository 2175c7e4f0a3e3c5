"""Two different records that one key signed for one place: evidence against who signed, which
anyone can check offline. No clock, no ledger.

It refutes neither of the two. It shows that the signer told two stories.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cryptometer.authority_records import AuthorityRecord, Registration
from cryptometer.block_header import Header
from cryptometer.chain_records import ChainRecord
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Distribution


@dataclass(frozen=True, slots=True)
class Equivocation:
    """Evidence, both signatures verified.

    Attributes:
        signer: who, in words.
        place: what may be said once, in words.
        first, second: the two records.
    """

    signer: str
    place: str
    first: Record
    second: Record


@dataclass(frozen=True, slots=True)
class _Place:
    """Whose statement, and which of his: a key signs one record for it."""

    role: Role | None  # None: the authority
    name: str
    number: int


def equivocation(
    first: Record, second: Record, registrations: Sequence[Record], community: Community
) -> Equivocation:
    """What two records show of the one who signed both.

    Args:
        registrations: of meters' keys, as proofs carry them; others are not looked at.
        community: whom to trust; keys that were revoked or replaced since count, too.

    Raises:
        Rejected: BAD_PROOF: they are no evidence, and why; or one of them is not of this community,
            or not signed by who should have.
    """
    place, other = _place(first), _place(second)
    for record in (first, second):
        if record.community != community.id:
            raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
        _key(record, _place(record), registrations, community)
    if first.identity == second.identity:
        raise Rejected(Reason.BAD_PROOF, "no evidence: both say the same")
    if first.key_id != second.key_id:
        raise Rejected(Reason.BAD_PROOF, "no evidence: they are not signed by the same key")
    if place != other:
        raise Rejected(Reason.BAD_PROOF, "no evidence: each has a place of its own")
    if (
        isinstance(first.body, ChainRecord)
        and isinstance(second.body, ChainRecord)
        and first.body.previous != second.body.previous
    ):
        raise Rejected(
            Reason.BAD_PROOF,
            "no evidence: they name different records as the one before, and a meter's chain may"
            " have gone on behind a re-anchor; compare those two",
        )
    return Equivocation(_who(place), _what(place), first, second)


def _place(record: Record) -> _Place:
    match record.body:
        case ChainRecord() as body:
            return _Place(Role.METER, body.meter, body.sequence)
        case Distribution() as body:
            return _Place(Role.VPP, body.vpp, body.sequence)
        case AuthorityRecord() as body:
            return _Place(None, "", body.sequence)
        case Header() as body:
            return _Place(Role.GATEWAY, "", body.step)
        case _:
            raise Rejected(
                Reason.BAD_PROOF, f"no evidence: a {record.body.KIND} stands at no place of a chain"
            )


def _key(
    record: Record, place: _Place, registrations: Sequence[Record], community: Community
) -> PublicKey:
    """The key with which `record` had to be signed, and was."""
    match place.role:
        case None:
            known = [community.parameters.authority]
        case Role.METER:
            known = _meter_keys(place.name, registrations, community)
        case role:
            known = community.keys_of(role, revoked=True)
    for key in known:
        if key.thumbprint == record.key_id:
            record.envelope.verify(key)
            return key
    where = (
        "no registration of it is given: a proof of a meter's record carries one"
        if place.role is Role.METER
        else "community.pub does not have it"
    )
    raise Rejected(
        Reason.UNKNOWN_KEY, f"key {record.key_id.hex()} is not known as {_who(place)}'s: {where}"
    )


def _meter_keys(
    name: str, registrations: Sequence[Record], community: Community
) -> list[PublicKey]:
    found = []
    for record in registrations:
        body = record.body
        if isinstance(body, Registration) and (body.role, body.name) == (Role.METER, name):
            if record.community != community.id:
                raise Rejected(Reason.OTHER_COMMUNITY, "a registration of another community")
            record.envelope.verify(community.parameters.authority)
            found.append(body.key)
    return found


def _who(place: _Place) -> str:
    match place.role:
        case None:
            return "the authority"
        case Role.VPP:
            return f"the virtual power plant {place.name}"
        case Role.METER:
            return f"the meter {place.name}"
        case _:
            return "a gateway"


def _what(place: _Place) -> str:
    if place.role is Role.GATEWAY:
        return f"the block of step {place.number}"
    return f"record {place.number} of its chain"
