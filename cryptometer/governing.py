"""What the authority's records do to a community: one founds it; each continues their chain, and
acts from the block after the one that holds it.
"""

from collections.abc import Mapping
from dataclasses import replace

from cryptometer.authority_records import (
    AuthorityRecord,
    CountingSource,
    Genesis,
    ReAnchor,
    Registration,
    Revocation,
    Use,
)
from cryptometer.block_header import Balance
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.merkle import Frontier
from cryptometer.meter import LIFETIME_H, REGISTRATIONS_MAX, Head, Meter, Terms
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.settlement import Agreed
from cryptometer.sharing_records import Agreement
from cryptometer.state import Party, Place, State
from cryptometer.wire import UINT_MAX

SEQUENCE_MAX = 2**61  # a chain anchored there still has room, in 63 bits, for all it may ever say


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
        case AuthorityRecord():
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
        case Revocation() as body:
            return _revoke(state, body)
        case ReAnchor() as body:
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


def _revoke(state: State, body: Revocation) -> State:
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


def _re_anchor(state: State, body: ReAnchor, identity: bytes) -> State:
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
    anchored = replace(
        meter,
        head=head,
        closed_register=body.register,
        anchored=newest or None,
        # It may have moved the index, by what only the board knows.
        floor=None,
    )
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
