"""What members were given in some steps, found by the store's index of distributions: the same as
an export gathers from all blocks, without going through them."""

from collections.abc import Iterator, Mapping

from cryptometer import cose, records
from cryptometer.authority_records import Use
from cryptometer.chain_records import StepClose
from cryptometer.sharing_records import Distribution
from cryptometer.state import State
from cryptometer.tiles import Entries
from gateway.answers import Site
from gateway.exports.allotments import Allotment
from gateway.exports.gathering import Gathered
from gateway.exports.source import Source

# Blocks' leaves that are looked at for closes that came late and brought nothing: some seconds.
LOOKED_AT_MAX = 200_000

_STEP_CLOSE = StepClose.KIND.value.encode()


class TooMuch(Exception):  # noqa: N818 - an answer
    """It would take too long to tell; the message says what to ask in its place."""


class NotYet(Exception):  # noqa: N818 - an answer
    """The store is ahead of the published ledger for a moment."""


def state_of(site: Site) -> State:
    """The community after the newest published block.

    Raises:
        NotYet: a block is just being published.
    """
    state = site.store.state()
    if state is None or state.frontier.size != site.size:
        raise NotYet
    return state


def source_of(site: Site, state: State) -> Source:
    """What files made of it name as their source."""
    parameters = site.community.parameters
    return Source(
        site.community.id, parameters.name, state.checkpoint, state.step, parameters.step_s
    )


def gather(site: Site, state: State, steps: range) -> Gathered:
    """What the ledger holds of what members were given in these steps.

    Args:
        state: as `state_of` has it.

    Raises:
        TooMuch: too many blocks would have to be searched.
        Rejected: the ledger's files are damaged.
    """
    found = Gathered(steps, {})
    leaves = Entries(site.size, site.read)
    silent: set[int] = set()
    for step in steps:
        row = site.store.block(step)
        if row is None:
            continue
        if row.heard:
            found.take_heard(step, step)
        elif not (step in state.settlements and state.settlements[step].waiting):
            silent.add(step)
        for leaf in site.store.distributions(step):
            if site.store.verdict(leaf) is not None:
                continue
            body = records.decode(leaves.raw(leaf)).body
            if isinstance(body, Distribution):
                silent.discard(step)
                found.take_distribution(state, site.store.block_of(leaf).step, body)
    for step, block in _heard_late(site, state, leaves, silent):
        found.take_heard(step, block)
    return found


def allotments(
    site: Site, state: State, steps: range, consumption_uwh: Mapping[int, Mapping[str, int]]
) -> list[Allotment]:
    """Of every step that has its block, one for each member of the agreement that held in it.
    Arguments and errors as `gather` has them; `consumption_uwh` by step and member, as far as it
    is known."""
    return list(gather(site, state, steps).allotments(state, consumption_uwh))


def _heard_late(
    site: Site, state: State, leaves: Entries, silent: set[int]
) -> Iterator[tuple[int, int]]:
    """Of steps in whose block no meter was heard that was waited for: the first close of whoever
    generates, and the block that holds it."""
    if not silent:
        return
    newest = min(max(silent) + state.genesis.late_steps, state.step)
    looked_at = 0
    missing = set(silent)
    for block in range(min(silent), newest + 1):
        row = site.store.block(block)
        if row is None or not (row.late or block in silent):
            continue
        looked_at += row.size - row.first
        if looked_at > LOOKED_AT_MAX:
            raise TooMuch("that many silent steps take too long: ask for fewer at once")
        for leaf in range(row.first, row.size - 1):
            raw = leaves.raw(leaf)
            # A look at the bytes spares thousands of records from being decoded.
            if _STEP_CLOSE not in raw[: cose.HEADER_MAX]:
                continue
            body = records.decode(raw).body
            if not isinstance(body, StepClose) or body.step not in missing:
                continue
            if _generates(state, body) and site.store.verdict(leaf) is None:
                missing.discard(body.step)
                yield body.step, block
        if not missing:
            return


def _generates(state: State, close: StepClose) -> bool:
    meter = state.meters[close.meter]
    return (meter.in_force(close.step) or meter.terms[-1]).use is not Use.CONSUMPTION
