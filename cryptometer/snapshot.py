"""The community's state as rows, so that who has applied a year of blocks need not do it again: a
gateway at its start, an auditor who comes back.

A cache of what the ledger says, never a second truth.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cryptometer import cbor, records
from cryptometer.block_header import Balance
from cryptometer.errors import Reason, Rejected
from cryptometer.governing import found
from cryptometer.merkle import Frontier
from cryptometer.meter import Meter
from cryptometer.record_fields import DIGEST, NAME, STEP, Role
from cryptometer.settlement import Agreed, Plant, Settlement
from cryptometer.state import Party, Place, State
from cryptometer.wire import Choice, Many, Row, Uint, decode_map, encode_map, wire, wire_optional

_MOST = 2**24


@dataclass(frozen=True, slots=True)
class _Owner:
    key_id: bytes = wire(0, DIGEST)
    role: Role = wire(1, Choice(Role))
    name: str = wire(2, NAME)


@dataclass(frozen=True, slots=True)
class _Account:
    member: str = wire(0, NAME)
    energy_uwh: int = wire(1, Uint())


@dataclass(frozen=True, slots=True)
class _Common:
    """All of a state but its meters, agreements and settlements, which have a row each."""

    step: int = wire(0, STEP)
    authority: Place = wire(1, Row(Place))
    size: int = wire(2, Uint())
    peaks: tuple[bytes, ...] = wire(3, Many(DIGEST, 0, 64))
    balance: Balance = wire(4, Row(Balance))
    parties: tuple[Party, ...] = wire(5, Many(Row(Party), 0, _MOST))
    owners: tuple[_Owner, ...] = wire(6, Many(Row(_Owner), 0, _MOST))
    plants: tuple[Plant, ...] | None = wire_optional(7, Many(Row(Plant), 1, _MOST))
    accounts: tuple[_Account, ...] | None = wire_optional(8, Many(Row(_Account), 1, _MOST))


@dataclass(frozen=True, slots=True)
class Rows:
    """A state as rows.

    Attributes:
        common: what every block changes; None before the first.
        meters: one for each.
        agreements: likewise, in their order.
        settlements: likewise.
    """

    common: bytes | None
    meters: Iterable[bytes] = ()
    agreements: Iterable[bytes] = ()
    settlements: Iterable[bytes] = ()


def encode_common(state: State) -> bytes:
    """The row that every block changes."""
    owners = tuple(_Owner(key, role, name) for key, (role, name) in sorted(state.keys.items()))
    common = _Common(
        state.step,
        state.authority,
        state.frontier.size,
        state.frontier.peaks,
        state.balance,
        tuple(state.parties.values()),
        owners,
        tuple(state.plants.values()) or None,
        tuple(_Account(*one) for one in state.accounts.items()) or None,
    )
    return cbor.encode(encode_map(common))


def encode_meter(meter: Meter) -> bytes:
    """A meter's row."""
    return cbor.encode(encode_map(meter))


def encode_agreement(agreed: Agreed) -> bytes:
    """An agreement's row."""
    return cbor.encode(encode_map(agreed))


def encode_settlement(settlement: Settlement) -> bytes:
    """A settlement's row."""
    return cbor.encode(encode_map(settlement))


def decode_state(genesis: bytes, rows: Rows) -> State:
    """The state that the rows hold; as the genesis founds it where there is no block yet.

    Raises:
        Rejected: they are not what a state was written as: they are damaged.
    """
    state = found(records.decode(genesis))
    common = rows.common
    if common is None:
        return state
    row = decode_map(_Common, cbor.decode(common))
    agreements = [decode_map(Agreed, cbor.decode(raw)) for raw in rows.agreements]
    settlements = [decode_map(Settlement, cbor.decode(raw)) for raw in rows.settlements]
    state = State(
        community=state.community,
        genesis=state.genesis,
        step=row.step,
        authority=row.authority,
        frontier=Frontier(row.size, row.peaks),
        balance=row.balance,
        parties={(party.role, party.name): party for party in row.parties},
        meters={meter.name: meter for meter in map(decode_meter, rows.meters)},
        keys={owner.key_id: (owner.role, owner.name) for owner in row.owners},
        agreements=tuple(agreements),
        settlements={settlement.step: settlement for settlement in settlements},
        plants={plant.name: plant for plant in row.plants or ()},
        accounts={account.member: account.energy_uwh for account in row.accounts or ()},
    )
    # A party or an owner that stands there twice, a tree without all its peaks, or an account of
    # other members than its agreement's would be found only where a block goes wrong.
    if (
        encode_common(state) != common
        or len(row.peaks) != row.size.bit_count()
        or len(state.settlements) != len(settlements)
        or not _are_of_their_agreements(state)
    ):
        raise Rejected(Reason.MALFORMED, "the rows are not those of a state")
    return state


def _are_of_their_agreements(state: State) -> bool:
    """Whether each settlement has given to as many members as its step's agreement has."""
    members = {one.identity: len(one.agreement.members) for one in state.agreements}
    for settlement in state.settlements.values():
        agreed = state.agreed(settlement.step)
        if agreed is None or settlement.members not in {0, members[agreed.identity]}:
            return False
    return True


def decode_meter(raw: bytes) -> Meter:
    """The meter that a row holds.

    Raises:
        Rejected: it is none: it is damaged.
    """
    return decode_map(Meter, cbor.decode(raw))
