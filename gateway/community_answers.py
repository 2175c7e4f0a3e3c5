"""What the API answers about the community as a whole, as values that JSON holds: all of it stands
in the public ledger. Reads only; energies are texts of decimal digits, in µWh."""

from dataclasses import asdict

from cryptometer.agreed_terms import describe_terms
from cryptometer.meter import Meter
from cryptometer.readable import utc
from cryptometer.settlement import Agreed
from cryptometer.state import State
from cryptometer.steps import step_start_ms
from gateway.answers import Absent, Json, Site
from gateway.lacking import Cause, asked

WAITING_MAX = 1_000  # steps told at once


def community(site: Site, state: State) -> dict[str, Json]:
    """What it is called, and its parameters."""
    genesis = state.genesis
    return {
        "community": state.community.hex(),
        "name": genesis.name,
        "authority": genesis.authority.thumbprint.hex(),
        "first_step": genesis.first_step,
        "step_s": genesis.step_s,
        "grace_ms": genesis.grace_ms,
        "late_steps": genesis.late_steps,
        "token_uwh": str(genesis.token_uwh),
        "token_steps": genesis.token_steps,
        "quorum": genesis.quorum,
        **_where(site, state),
    }


def meters(site: Site, state: State) -> dict[str, Json]:
    """Every meter that was registered, by name."""
    found: list[Json] = [_meter(one) for _, one in sorted(state.meters.items())]
    return {"meters": found, **_where(site, state)}


def balance(site: Site, state: State) -> dict[str, Json]:
    """Where all energy ever registered is."""
    amounts: Json = {name: str(value) for name, value in asdict(state.balance).items()}
    return {"balance_uwh": amounts} | _where(site, state)


def agreement(site: Site, state: State, step: int | None) -> dict[str, Json]:
    """The agreement that holds in a step; without one, in the step after the newest block.

    Raises:
        Absent: none does.
    """
    of = state.step + 1 if step is None else step
    agreed = state.agreed(of)
    if agreed is None:
        raise Absent(f"no agreement holds in step {of}")
    return {"step": of, **_agreement(agreed)} | _where(site, state)


def waiting(site: Site, state: State, first: int | None) -> dict[str, Json]:
    """The energy that waits at the virtual power plant, by step, and what its rule asks for. At
    most WAITING_MAX steps, from the step `first` on; `next_from` is that of the rest."""
    since = 0 if first is None else first
    found = [one for _, one in sorted(state.settlements.items()) if one.waiting]
    rest = [one for one in found if one.step >= since]
    step_s = state.genesis.step_s
    return {
        "waiting_uwh": str(sum(one.waiting_uwh for one in found)),
        "steps": [
            {
                "step": one.step,
                "begins": utc(step_start_ms(one.step, step_s)),
                "ends": utc(step_start_ms(one.step + 1, step_s)),
                "energy_uwh": str(one.waiting_uwh),
                "closes": len(one.waiting),
                "asks": _asks(state.agreed(one.step)),
            }
            for one in rest[:WAITING_MAX]
        ],
        "next_from": rest[WAITING_MAX].step if len(rest) > WAITING_MAX else None,
        **_where(site, state),
    }


def _where(site: Site, state: State) -> dict[str, Json]:
    """The block that an answer is of."""
    head = state.checkpoint
    return {
        "newest_step": state.step if site.size else None,
        "checkpoint": {"size": head.size, "root": head.root.hex()},
    }


def _meter(meter: Meter) -> dict[str, Json]:
    newest = meter.terms[-1]
    return {
        "meter": meter.name,
        "serial": meter.serial,
        "use": newest.use.value,
        "counts": "index" if newest.is_index else "pulses",
        "from_step": meter.terms[0].from_step,
        "revoked": newest.valid_to is not None,
        "closed_step": meter.closed_step,
        "registered_uwh": str(meter.registered_uwh),
        "transferred_uwh": str(meter.transferred_uwh),
        "untransferred_uwh": str(meter.untransferred_uwh),
        "quarantined_uwh": str(meter.quarantined_uwh),
    }


def _agreement(agreed: Agreed) -> dict[str, Json]:
    terms = agreed.agreement
    return {
        "identity": agreed.identity.hex(),
        "from_step": terms.from_step,
        "vpp": terms.vpp,
        "method": terms.method.value,
        "capped": terms.capped,
        "rounds": terms.rounds,
        "claims": [
            {
                "member": claim.member,
                "weight": claim.weight,
                "priority": claim.priority,
                "producer": claim.producer,
            }
            for claim in terms.claims
        ],
        "losses": None if terms.losses is None else str(terms.losses),
        "losses_stated": terms.are_losses_stated,
        "fee": None if terms.fee is None else str(terms.fee),
        "fee_to": terms.fee_to,
        "surplus_to": terms.surplus_to,
        "readable": list(describe_terms(terms)),
    }


def _asks(agreed: Agreed | None) -> list[Json]:
    """What a rule needs to know that no ledger shows."""
    if agreed is None:
        return [Cause.NO_AGREEMENT.value]
    return [lack.cause.value for lack in asked(agreed.agreement)]
