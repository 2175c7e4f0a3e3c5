"""What the API answers about one member, as values that JSON holds. Reads only; energies are texts
of decimal digits, in µWh, and null where nothing is known: a "0" was measured or given."""

from collections.abc import Iterable, Mapping, Sequence

from cryptometer.community import Community
from cryptometer.explaining import explain_share
from cryptometer.openings import Openings, opened_needs
from cryptometer.readable import utc
from cryptometer.share_file import Share
from cryptometer.state import State
from cryptometer.steps import step_start_ms
from gateway.access import Grant
from gateway.answers import Json
from gateway.consumption import Known, Person, Value
from gateway.exports.allotments import Allotment

STEPS = 96  # told at once unless asked otherwise: a day of quarter hours
STEPS_MAX = 7 * 96


def holder(grant: Grant) -> dict[str, Json]:
    """Whose token it is."""
    return {
        "number": grant.number,
        "holder": grant.holder.value,
        "member": grant.member or None,
        "until": utc(grant.until_ms),
    }


def members(names: Sequence[str], state: State) -> dict[str, Json]:
    """All members, with the registers of their virtual generation meters."""
    return {
        "members": [
            {"member": name, "virtual_generation_uwh": str(state.accounts.get(name, 0))}
            for name in names
        ],
        "newest_step": state.step,
    }


def member(name: str, state: State, person: Person | None) -> dict[str, Json]:
    """A member's register and, where the asker may know it, who it is."""
    return {
        "member": name,
        "virtual_generation_uwh": str(state.accounts.get(name, 0)),
        "newest_step": state.step,
        "person": None
        if person is None
        else {
            "display_name": person.display_name,
            "address": person.address,
            "contact": person.contact,
        },
    }


def steps_asked(state: State, first: int | None, last: int | None) -> range:
    """The steps of a page: at most STEPS_MAX, the newest STEPS unless told otherwise.

    Args:
        first, last: both included.
    """
    lowest, newest = state.genesis.first_step, state.step
    end = newest if last is None else min(last, newest)
    begin = max(lowest, end - STEPS + 1) if first is None else max(lowest, first)
    return range(begin, min(end + 1, begin + STEPS_MAX))


def page(asked: range, state: State, last: int | None) -> dict[str, Json]:
    """What every page of steps says of itself; `next_from` is where the next one begins."""
    newest = state.step if last is None else min(last, state.step)
    more = asked.stop <= newest and len(asked) > 0
    return {
        "from": asked.start,
        "to": asked.stop - 1,
        "next_from": asked.stop if more else None,
        "newest_step": state.step,
    }


def meter_rows(allotments: Iterable[Allotment], step_s: int) -> list[Json]:
    """The virtual generation meter and, where consumption is known, the market-face meter."""
    return [_meter_row(one, step_s) for one in allotments]


def _meter_row(one: Allotment, step_s: int) -> Json:
    return {
        **_times(one.step, step_s),
        "first": None
        if one.first is None
        else {"block_step": one.first.block, "energy_uwh": str(one.first.energy_uwh)},
        "later": [
            {"block_step": given.block, "energy_uwh": str(given.energy_uwh)} for given in one.later
        ],
        "virtual_generation_uwh": _text(one.total_uwh),
        "consumption_uwh": _text(one.consumption_uwh),
        "market_face_uwh": _text(one.market_uwh),
    }


def consumption_rows(known: Iterable[Known], step_s: int) -> list[Json]:
    """What is known of consumption, with the values that were corrected, newest first."""
    return [
        {
            **_times(one.step, step_s),
            **_value(one.value),
            "earlier": [_value(value) for value in reversed(one.earlier)],
        }
        for one in known
    ]


def needs_known(share: Share, community: Community, openings: Openings) -> Mapping[str, int] | None:
    """What members consumed in a share's step, as far as who asks may know it; arguments as `why`
    has them."""
    newest = share.given[-1].whole
    own = None if share.used_uwh is None else {share.member: share.used_uwh}
    if openings and newest.commitments:
        return opened_needs(openings, community.id, newest) or own
    return own


def why(share: Share, community: Community, openings: Openings) -> dict[str, Json]:
    """Why a member got what he got, from a share that was verified.

    Args:
        openings: of all members' consumption, where the asker may know it; else none.
    """
    agreement = share.agreement
    needs = needs_known(share, community, openings)
    lines = explain_share(share, needs)
    known = needs or {}
    return {
        "member": share.member,
        **_times(share.step, community.parameters.step_s),
        "energy_uwh": str(share.energy_uwh),
        "consumption_uwh": _text(known.get(share.member)),
        "is_rule_recomputed": not agreement.needs_consumption
        or all(name in known for name in agreement.members),
        "distributions": [
            {
                "block_step": one.block_step,
                "supplement": one.whole.supplement,
                "energy_uwh": str(one.energy_uwh),
                "sources": [
                    {"meter": source.meter, "energy_uwh": str(source.energy_uwh)}
                    for source in one.sources
                ],
            }
            for one in share.given
        ],
        "lines": list(lines),
    }


def _value(value: Value) -> dict[str, Json]:
    return {
        "energy_uwh": str(value.energy_uwh),
        "is_spread": value.is_spread,
        "source": value.source,
        "received": utc(value.received_ms),
    }


def _times(step: int, step_s: int) -> dict[str, Json]:
    return {
        "step": step,
        "begins": utc(step_start_ms(step, step_s)),
        "ends": utc(step_start_ms(step + 1, step_s)),
    }


def _text(amount_uwh: int | None) -> Json:
    return None if amount_uwh is None else str(amount_uwh)
