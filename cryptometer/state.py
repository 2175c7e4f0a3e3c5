"""What a community is after a block: parties, chains, energy. Derived by applying blocks, never
stored as a truth of its own; gateway, node and auditor hold the same values.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from cryptometer import records
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.merkle import Frontier
from cryptometer.metrology import pulse_worth
from cryptometer.records import (
    DIGEST,
    MS,
    NAME,
    STEP,
    Agreement,
    Balance,
    Batch,
    Checkpoint,
    CountingSource,
    Genesis,
    Reading,
    Record,
    Registration,
    Role,
    Use,
)
from cryptometer.settlement import Agreed, Plant, Settlement, in_force
from cryptometer.wire import (
    UINT_MAX,
    Choice,
    Flag,
    Key,
    Many,
    Map,
    Rational,
    Text,
    Uint,
    wire,
    wire_optional,
)

REGISTRATIONS_MAX = 1_000  # of one meter; each is kept, since late records may name it
SEQUENCE_MAX = 2**61  # a chain anchored there still has room, in 63 bits, for all it may ever say
# Five years of greatest power are thirty of a generator on a roof, more than a meter's verification
# lasts. Longer would leave less room for meters in 63 bits: see Head.allowance_uwh.
LIFETIME_H = 5 * 8766


@dataclass(frozen=True, slots=True)
class Place:
    """Where the authority's chain stands: the next sequence number, and what that record names."""

    sequence: int = wire(0, Uint())
    previous: bytes = wire(1, DIGEST)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain stands.

    Attributes:
        sequence: of the record expected next.
        previous: identity that record must name; the newest registration's while the chain has no
            record, which may then name an older one of its key as well.
        register: where it must start; None while the chain has no record: its first one, a run
            start, sets the register.
        allowance_uwh: energy the chain may still register. It begins with what the meter's
            greatest power gives in LIFETIME_H, so that no device can drive a sum out of 63 bits.
        signer: which of the meter's registrations, counted from 0, names the key that signed last:
            keys of earlier ones have been replaced. None is 0.
    """

    sequence: int = wire(0, Uint())
    previous: bytes = wire(1, DIGEST)
    allowance_uwh: int = wire(2, Uint())
    register: int | None = wire_optional(3, Uint())
    signer: int | None = wire_optional(4, Uint(1))


@dataclass(frozen=True, slots=False)  # a place for what is worked out once
class Terms:
    """One registration of a meter, as far as verdicts need it.

    Attributes:
        ratio: r if the constant is a secondary one, else 1.
        valid_to: after a revocation, the first sequence number that is refused.
        latch_ms: of an index, how old the newest reading of a step may be at its end, the clock's
            error included, for the step to be closed; None where pulses are counted.
    """

    registration: bytes = wire(0, DIGEST)
    key: PublicKey = wire(1, Key())
    from_step: int = wire(2, STEP)
    constant: Fraction = wire(3, Rational())
    ratio: Fraction = wire(4, Rational())
    lot_pulses: int = wire(5, Uint(1))
    use: Use = wire(6, Choice(Use))
    valid_to: int | None = wire_optional(7, Uint())
    latch_ms: int | None = wire_optional(8, MS)

    @property
    def is_index(self) -> bool:
        """Whether the meter's own index counts, and not its pulses."""
        return self.latch_ms is not None

    def energy_uwh(self, before: int, after: int) -> int:
        """Energy between two registers in µWh: the difference of what `register_uwh` says of each,
        so that rounding never adds up."""
        worth_uwh, per_pulses = self._pulse_worth
        return after * worth_uwh // per_pulses - before * worth_uwh // per_pulses

    @cached_property
    def _pulse_worth(self) -> tuple[int, int]:
        return pulse_worth(self.constant, self.ratio)

    def counts_like(self, other: "Terms") -> bool:
        """Whether a register goes on from one to the other: both count pulses, of whatever worth,
        or the same last digit of an index."""
        if self.is_index or other.is_index:
            return self.is_index == other.is_index and self.constant == other.constant
        return True

    def is_worth(self, other: "Terms") -> bool:
        """Whether a unit of the register holds as much energy as by the other."""
        return self.constant * other.ratio == other.constant * self.ratio

    def lot_limit(self, newest: "Terms") -> Fraction | int:
        """The most pulses of a lot made under these terms that satisfies the newest as well: by
        its energy, since a pulse may be worth less in them."""
        if newest is self:
            return self.lot_pulses
        worth = (newest.ratio * self.constant) / (newest.constant * self.ratio)
        return min(Fraction(self.lot_pulses), newest.lot_pulses * worth)


@dataclass(frozen=True, slots=True)
class Meter:
    """One meter after a block.

    Attributes:
        terms: every registration, the newest last.
        head: where its chain stands.
        last_step: the newest step a counted record belongs to.
        closed_step: the newest step it closed, or None.
        closed_register: the register at its newest close, which the next one starts from, whether
            that close transferred anything or was set aside.
        open_uwh: counted energy of `last_step` that no close has transferred yet.
        untransferred_uwh: all counted energy that no close has transferred yet.
        transferred_uwh: all energy its closes have transferred.
        quarantined_uwh: all energy the energy verdict set aside.
        lifetime_uwh: what its greatest power gives in LIFETIME_H: the most it may ever register.
        index_wh: what the display showed when this device was registered, or read anew, Wh.
        index_from_uwh: what the chain had registered by then.
        read_ms: when its newest counted reading was taken, ms since the Unix epoch; None where lots
            have counted since.
        anchored: which registration, counted from 0, was the newest when the chain's newest
            re-anchor acted or, without one, the one that it began with: the register is in that
            one's unit. None is 0.
    """

    name: str = wire(0, NAME)
    serial: str = wire(1, Text(120))
    terms: tuple[Terms, ...] = wire(2, Many(Map(Terms), 1, REGISTRATIONS_MAX))
    head: Head = wire(3, Map(Head))
    last_step: int = wire(4, STEP)
    closed_register: int = wire(5, Uint())
    open_uwh: int = wire(6, Uint())
    untransferred_uwh: int = wire(7, Uint())
    transferred_uwh: int = wire(8, Uint())
    quarantined_uwh: int = wire(9, Uint())
    lifetime_uwh: int = wire(10, Uint())
    index_wh: int = wire(11, Uint())
    index_from_uwh: int = wire(12, Uint())
    closed_step: int | None = wire_optional(13, STEP)
    read_ms: int | None = wire_optional(14, MS)
    anchored: int | None = wire_optional(15, Uint(1))

    @property
    def is_private(self) -> bool:
        """Whether it tells what a member consumes: its records then stand in no ledger, and what is
        said here of its chain is that of a chain without records. The same for its whole life."""
        return self.terms[-1].use is Use.CONSUMPTION

    @property
    def registered_uwh(self) -> int:
        """All energy its chain has registered, µWh."""
        return self.untransferred_uwh + self.transferred_uwh + self.quarantined_uwh

    def signed_by(self, key_id: bytes) -> Terms:
        """The newest terms with this key.

        Raises:
            Rejected: UNKNOWN_KEY.
        """
        for terms in reversed(self.terms):
            if terms.key.thumbprint == key_id:
                return terms
        raise Rejected(Reason.UNKNOWN_KEY, f"the key is not registered for {self.name}")

    def place_of(self, key_id: bytes) -> int:
        """Which registration, counted from 0, is the newest with this key.

        Raises:
            Rejected: UNKNOWN_KEY.
        """
        return self.terms.index(self.signed_by(key_id))

    def made_under(self, registration: bytes) -> Terms | None:
        for terms in self.terms:
            if terms.registration == registration:
                return terms
        return None

    def may_go_on(self, terms: Terms, anchored: int | None) -> bool:
        """Whether a chain whose register is in the unit of the registration `anchored` may go on
        under these terms: in the same unit, or since that registration came behind them."""
        began = anchored or 0
        return terms.counts_like(self.terms[began]) or self.terms.index(terms) <= began

    def terms_of(self, body: Batch | Reading) -> Terms:
        """What the energy of a batch or a reading is reckoned by: the newest terms, when it names
        none of this meter's."""
        return self.made_under(body.registration) or self.terms[-1]

    def in_force(self, step: int) -> Terms | None:
        """The newest terms that hold in a step."""
        for terms in reversed(self.terms):
            if terms.from_step <= step:
                return terms
        return None

    def expected_at(self, step: int) -> bool:
        """Whether the block of `step` should wait for this meter's close."""
        newest = self.terms[-1]
        return (
            newest.use is Use.GENERATION
            and newest.valid_to is None
            and self.terms[0].from_step <= step
        )


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
    settlements: Mapping[int, Settlement] = field(default_factory=dict)
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


def found(genesis: Record) -> State:
    """The state before the first block.

    Raises:
        Rejected: the record is no genesis, or not signed by the key it names.
    """
    body = genesis.body
    if not isinstance(body, Genesis):
        raise Rejected(Reason.UNKNOWN_KIND, "not a genesis record")
    if genesis.key_id != body.authority.thumbprint:
        raise Rejected(Reason.UNKNOWN_KEY, "a genesis is signed by the authority it names")
    genesis.envelope.verify(body.authority)
    if body.first_step == 0:
        raise Rejected(Reason.MALFORMED, "the first step lies before all time")
    return State(
        community=genesis.identity,
        genesis=body,
        step=body.first_step - 1,
        authority=Place(0, genesis.identity),
        frontier=Frontier(),
        balance=Balance(0, 0, 0, 0, 0, 0, 0, 0),
    )


def check_authority(state: State, record: Record) -> None:
    """Whether a record is of this community's authority; its place in the chain is for `govern`.

    Raises:
        Rejected: OTHER_COMMUNITY, UNKNOWN_KEY, or as `Envelope.verify`.
    """
    authority = state.genesis.authority
    if record.community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "an authority record of another community")
    if record.key_id != authority.thumbprint:
        raise Rejected(Reason.UNKNOWN_KEY, "not signed by the community's authority")
    record.envelope.verify(authority)


def govern(state: State, record: Record) -> State:
    """The state with `record` as the newest of the authority's chain, not acting yet.

    Raises:
        Rejected: it is not the authority's next record.
    """
    body = record.body
    at = state.authority.sequence
    check_authority(state, record)
    match body:
        case Genesis():
            sequence, previous = 0, state.community
        case records.AuthorityRecord():
            sequence, previous = body.sequence, body.previous
        case _:
            raise Rejected(Reason.UNKNOWN_KIND, f"the authority writes no {body.KIND}")
    if sequence != at or previous != state.authority.previous:
        reason = Reason.GAP if sequence > at else Reason.FORK
        raise Rejected(reason, f"authority record {sequence} where {at} is expected")
    return replace(state, authority=Place(at + 1, record.identity))


def act(state: State, record: Record) -> State:
    """The state once an authority record acts: after the block that holds it.

    Raises:
        Rejected: it contradicts what is registered. It stands in the ledger then, without effect.
    """
    match record.body:
        case Registration(role=Role.METER) as body:
            return _register_meter(state, body, record.identity)
        case Registration() as body:
            return _register_party(state, body)
        case records.Revocation() as body:
            return _revoke(state, body)
        case records.ReAnchor() as body:
            return _re_anchor(state, body, record.identity)
        case Agreement() as body:
            return _agree(state, body, record.identity)
        case _:
            return state


def _register_meter(state: State, body: Registration, identity: bytes) -> State:
    details = body.meter
    if details is None:
        raise Rejected(Reason.MALFORMED, f"the registration of {body.name} describes no meter")
    if details.guard > 1 or details.ratio < 1:
        raise Rejected(Reason.MALFORMED, f"{body.name} has a guard above 1 or a ratio below 1")
    ratings, step_s = details.ratings, state.genesis.step_s
    latch_ms = ratings.latch_ms(step_s) if details.source is CountingSource.INDEX else None
    limit = ratings.pulses_per_lot(step_s) if latch_ms is None else 1
    if details.lot_pulses > (max(limit, 1) if details.coarse else limit):
        raise Rejected(Reason.LOT_ABOVE_V, f"the registration of {body.name} allows lots above V")
    terms = Terms(
        identity,
        body.key,
        body.from_step,
        details.constant,
        ratings.constant_ratio,
        details.lot_pulses,
        details.use,
        latch_ms=latch_ms,
    )
    lifetime_uwh = int(ratings.power_w(details.i_max_ma) * LIFETIME_H * 10**6)
    known = state.meters.get(body.name)
    if known is not None and known.is_private is not (details.use is Use.CONSUMPTION):
        raise Rejected(
            Reason.PRIVATE,
            f"{body.name} is for {known.terms[-1].use}: no chain goes on from a ledger into privacy"
            " or out of it. Register the meter under another name",
        )
    if known is not None and len(known.terms) >= REGISTRATIONS_MAX:
        raise Rejected(Reason.TOO_MANY, f"{body.name} has {REGISTRATIONS_MAX} registrations")
    spent_uwh = 0 if known is None else known.registered_uwh
    fresh = Head(0, identity, max(0, lifetime_uwh - spent_uwh))
    if known is None:
        nothing = (0, 0, 0, 0, 0, 0)
        meter = Meter(
            body.name, details.serial, (terms,), fresh, *nothing, lifetime_uwh, details.index_wh, 0
        )
    else:
        # Another device on the wall, or the same one read anew, begins at what it shows.
        is_reread = (details.serial, details.index_wh) != (known.serial, known.index_wh)
        started = known.head.register is not None
        meter = replace(
            known,
            serial=details.serial,
            terms=(*known.terms, terms),
            head=replace(known.head, allowance_uwh=fresh.allowance_uwh) if started else fresh,
            lifetime_uwh=max(lifetime_uwh, known.lifetime_uwh),
            index_wh=details.index_wh,
            index_from_uwh=spent_uwh if is_reread else known.index_from_uwh,
        )
    meters = {**state.meters, body.name: meter}
    if sum(one.lifetime_uwh for one in meters.values()) > UINT_MAX:
        raise Rejected(Reason.TOO_MANY, f"with {body.name}, energies could leave 63 bits")
    return replace(state, meters=meters, keys=_with_key(state, body.key, (Role.METER, body.name)))


def _register_party(state: State, body: Registration) -> State:
    if body.meter is not None:
        raise Rejected(Reason.MALFORMED, f"the {body.role} {body.name} is no meter")
    owner = (body.role, body.name)
    return replace(
        state,
        parties={**state.parties, owner: Party(body.role, body.name, body.key, revoked=False)},
        keys=_with_key(state, body.key, owner),
    )


def _with_key(
    state: State, key: PublicKey, owner: tuple[Role, str]
) -> Mapping[bytes, tuple[Role, str]]:
    if state.keys.get(key.thumbprint, owner) != owner:
        taken = " ".join(state.keys[key.thumbprint])
        raise Rejected(Reason.WRONG_ROLE, f"the key is registered already, for the {taken}")
    return {**state.keys, key.thumbprint: owner}


def _revoke(state: State, body: records.Revocation) -> State:
    if body.role is not Role.METER:
        owner = (body.role, body.name)
        if owner not in state.parties:
            raise Rejected(Reason.UNKNOWN_KEY, f"no {body.role} {body.name} is registered")
        revoked = replace(state.parties[owner], revoked=True)
        return replace(state, parties={**state.parties, owner: revoked})
    meter = _known_meter(state, body.name)
    # No chain comes so far that the limit of the integers would let a record through.
    valid_to = 0 if body.last is None else min(body.last.sequence + 1, UINT_MAX)
    terms = tuple(
        replace(one, valid_to=valid_to if one.valid_to is None else min(valid_to, one.valid_to))
        for one in meter.terms
    )
    return replace(state, meters={**state.meters, meter.name: replace(meter, terms=terms)})


def _re_anchor(state: State, body: records.ReAnchor, identity: bytes) -> State:
    meter = _known_meter(state, body.meter)
    if body.at < meter.head.sequence:
        raise Rejected(
            Reason.FORK, f"{body.meter} has {meter.head.sequence} records; its chain cannot go back"
        )
    if body.at > SEQUENCE_MAX:
        raise Rejected(Reason.IMPLAUSIBLE, f"{body.meter} cannot go on from record {body.at}")
    head = replace(meter.head, sequence=body.at, previous=identity, register=body.register)
    # A register that was set anew must not be taken for energy by the next close.
    newest = len(meter.terms) - 1
    anchored = replace(meter, head=head, closed_register=body.register, anchored=newest or None)
    return replace(state, meters={**state.meters, meter.name: anchored})


def _agree(state: State, body: Agreement, identity: bytes) -> State:
    if body.from_step <= state.step:
        raise Rejected(
            Reason.NOT_VALID_AT_STEP,
            f"an agreement from step {body.from_step} on, in the block of step {state.step}: it may"
            " be of steps to come only",
        )
    parts = [part for part in (body.losses, body.fee) if part is not None]
    if sum(parts) > 1 or (body.fee is None) != (body.fee_to is None):
        raise Rejected(Reason.MALFORMED, "losses and fee are more than all, or the fee is nobody's")
    if body.are_losses_stated and body.losses is not None:
        raise Rejected(Reason.MALFORMED, "losses are stated in each step, or a factor, not both")
    claims = {(claim.member, claim.priority, claim.producer) for claim in body.claims}
    if len(claims) < len(body.claims):
        raise Rejected(Reason.MALFORMED, "it holds a claim twice")
    owners = {(Role.VPP, body.vpp), *((Role.MEMBER, claim.member) for claim in body.claims)}
    for role, name in sorted(owners):
        party = state.parties.get((role, name))
        if party is None or party.revoked:
            raise Rejected(Reason.UNKNOWN_KEY, f"no {role} {name} is registered")
    for claim in body.claims:
        if claim.producer is not None:
            _known_meter(state, claim.producer)
    return replace(state, agreements=(*state.agreements, Agreed(identity, body)))


def _known_meter(state: State, name: str) -> Meter:
    meter = state.meters.get(name)
    if meter is None:
        raise Rejected(Reason.UNKNOWN_KEY, f"no meter {name} is registered")
    return meter
