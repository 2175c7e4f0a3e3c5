"""What a community is after a block: parties, chains, energy. Derived by applying blocks, never
stored as a truth of its own; gateway, node and auditor hold the same values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptometer.authority_records import Genesis
from cryptometer.block_header import Balance
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.merkle import Frontier
from cryptometer.meter import Meter
from cryptometer.record_fields import DIGEST, NAME, Checkpoint, Role
from cryptometer.settlement import Agreed, Plant, Settlement, in_force
from cryptometer.wire import Choice, Flag, Key, Uint, wire


@dataclass(frozen=True, slots=True)
class Place:
    """Where the authority's chain stands: the next sequence number, and what that record names."""

    sequence: int = wire(0, Uint())
    previous: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Party:
    """A registered key that is no meter's."""

    role: Role = wire(0, Choice(Role))
    name: str = wire(1, NAME)
    key: PublicKey = wire(2, Key())
    revoked: bool = wire(3, Flag())


@dataclass(frozen=True, slots=True)
class State:
    """A community after the block of `step`.

    Attributes:
        community: identity of the genesis record.
        genesis: the parameters.
        step: of the newest block; first_step - 1 before the first.
        authority: where the authority's chain stands.
        frontier: of the ledger's tree, headers included.
        balance: where all energy is.
        parties: by role and name; meters are in `meters`.
        meters: by name.
        keys: key id to role and name, for parties and meters.
        agreements: those that act, in the order of the authority's chain.
        settlements: the virtual power plant's account of each step whose energy waits there, or
            may still be followed by some.
        plants: where the chain of each virtual power plant stands that has written one.
        accounts: all energy that members were ever given, µWh: the registers of their virtual
            generation meters.
    """

    community: bytes
    genesis: Genesis
    step: int
    authority: Place
    frontier: Frontier
    balance: Balance
    parties: Mapping[tuple[Role, str], Party] = field(default_factory=dict)
    meters: Mapping[str, Meter] = field(default_factory=dict)
    keys: Mapping[bytes, tuple[Role, str]] = field(default_factory=dict)
    agreements: tuple[Agreed, ...] = ()
    settlements: dict[int, Settlement] = field(default_factory=dict)
    plants: Mapping[str, Plant] = field(default_factory=dict)
    accounts: Mapping[str, int] = field(default_factory=dict)

    @property
    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.frontier.size, self.frontier.root)

    def meter_of(self, key_id: bytes) -> Meter:
        """The meter a key is registered for.

        Raises:
            Rejected: UNKNOWN_KEY or WRONG_ROLE.
        """
        role, name = self._owner(key_id)
        if role is not Role.METER:
            raise Rejected(Reason.WRONG_ROLE, f"the key belongs to the {role} {name}")
        return self.meters[name]

    def party_of(self, key_id: bytes, role: Role) -> Party:
        """The party of `role` a key is registered for.

        Raises:
            Rejected: UNKNOWN_KEY, WRONG_ROLE or REVOKED.
        """
        actual, name = self._owner(key_id)
        if actual is not role:
            raise Rejected(Reason.WRONG_ROLE, f"the key belongs to the {actual} {name}")
        party = self.parties[role, name]
        if party.revoked or party.key.thumbprint != key_id:
            raise Rejected(Reason.REVOKED, f"the key of the {role} {name} is no longer valid")
        return party

    def agreed(self, step: int) -> Agreed | None:
        """The agreement that holds in a step."""
        return in_force(self.agreements, step)

    def plant(self, name: str) -> Plant:
        """Where the chain of a virtual power plant stands; it begins behind the genesis."""
        return self.plants.get(name) or Plant(name, 0, self.community)

    def _owner(self, key_id: bytes) -> tuple[Role, str]:
        owner = self.keys.get(key_id)
        if owner is None:
            raise Rejected(Reason.UNKNOWN_KEY, f"no one is registered with key {key_id.hex()}")
        return owner
