"""The community's state as rows, so that who has applied a year of blocks need not do it again: a
gateway at its start, an auditor who comes back.

A cache of what the ledger says, never a second truth.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from cryptometer import cbor, records
from cryptometer.errors import Reason, Rejected
from cryptometer.merkle import Frontier
from cryptometer.records import DIGEST, NAME, STEP, Balance, Role
from cryptometer.state import Meter, Party, Place, State, found
from cryptometer.wire import Choice, Many, Row, Uint, decode_map, encode_map, wire

_MOST = 2**24


@dataclass(frozen=True, slots=True)
class _Owner:
    key_id: bytes = wire(0, DIGEST)
    role: Role = wire(1, Choice(Role))
    name: str = wire(2, NAME)


@dataclass(frozen=True, slots=True)
class _Common:
    """All of a state but its meters, which have a row each."""

    step: int = wire(0, STEP)
    authority: Place = wire(1, Row(Place))
    size: int = wire(2, Uint())
    peaks: tuple[bytes, ...] = wire(3, Many(DIGEST, 0, 64))
    balance: Balance = wire(4, Row(Balance))
    parties: tuple[Party, ...] = wire(5, Many(Row(Party), 0, _MOST))
    owners: tuple[_Owner, ...] = wire(6, Many(Row(_Owner), 0, _MOST))


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
    )
    return cbor.encode(encode_map(common))


def encode_meter(meter: Meter) -> bytes:
    """A meter's row."""
    return cbor.encode(encode_map(meter))


def decode_state(genesis: bytes, common: bytes | None, meters: Iterable[bytes]) -> State:
    """The state that the rows hold, one for each meter; as the genesis founds it where there is no
    block yet.

    Raises:
        Rejected: they are not what a state was written as: they are damaged.
    """
    state = found(records.decode(genesis))
    if common is None:
        return state
    row = decode_map(_Common, cbor.decode(common))
    state = State(
        community=state.community,
        genesis=state.genesis,
        step=row.step,
        authority=row.authority,
        frontier=Frontier(row.size, row.peaks),
        balance=row.balance,
        parties={(party.role, party.name): party for party in row.parties},
        meters={meter.name: meter for meter in map(_decode_meter, meters)},
        keys={owner.key_id: (owner.role, owner.name) for owner in row.owners},
    )
    # A party or an owner that stands there twice, or a tree without all its peaks, would be found
    # only where a block goes wrong.
    if encode_common(state) != common or len(row.peaks) != row.size.bit_count():
        raise Rejected(Reason.MALFORMED, "the rows are not those of a state")
    return state


def _decode_meter(raw: bytes) -> Meter:
    return decode_map(Meter, cbor.decode(raw))
