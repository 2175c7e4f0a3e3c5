"""A gateway's community at its beginning: the authority's whole chain, and who this gateway is."""

from collections.abc import Sequence

from cryptometer import records
from cryptometer.authority_records import Registration
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.governing import found, govern
from cryptometer.keys import Signer
from cryptometer.record_fields import NAME, Role
from cryptometer.records import Record
from gateway.store import Changes, Store


def found_store(store: Store, raws: Sequence[bytes]) -> None:
    """Puts a community's founding records, its authority's whole chain so far, into an empty
    store.

    Raises:
        Rejected: they are not a whole chain.
    """
    store.commit(Changes(authority=tuple(whole_chain(raws))))


def whole_chain(raws: Sequence[bytes]) -> list[Record]:
    """An authority's chain, from its genesis on.

    Raises:
        Rejected: it is not one, or not whole.
    """
    chain = [records.decode(raw) for raw in raws]
    if not chain:
        raise Rejected(Reason.MALFORMED, "no authority records")
    state = found(chain[0])
    for record in chain:
        state = govern(state, record)
    return chain


def gateway_name(community: Community, signer: Signer) -> str | None:
    """The name a gateway's key is registered under, None if it is not."""
    for record in community.records:
        match record.body:
            case Registration(role=Role.GATEWAY, key=key, name=name) if key == signer.public:
                return NAME.decode(name)
    return None
