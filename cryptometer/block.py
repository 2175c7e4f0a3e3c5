"""What a block must be: `check_block` is the same pure function for maker, node and auditor, and
depends on nothing private.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from cryptometer import cose
from cryptometer.block_header import Header
from cryptometer.chain_records import ChainRecord
from cryptometer.distribution import distributor
from cryptometer.energy_verdict import Verdict
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.merkle import leaf_hash
from cryptometer.openings import Openings
from cryptometer.proposal import Applied, Slot, apply_leaves
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Distribution
from cryptometer.state import State
from cryptometer.steps import step_start_ms


@dataclass(frozen=True, slots=True)
class Checked:
    """A block that holds.

    Attributes:
        state: the community after it.
        verdicts: on each leaf before the header.
        leaf_hashes: of every leaf, header last.
    """

    state: State
    header: Record
    verdicts: tuple[Verdict, ...]
    leaf_hashes: tuple[bytes, ...]


def check_block(
    state: State,
    leaves: Sequence[Record],
    *,
    verified: Container[bytes] = (),
    applied: Applied | None = None,
    openings: Openings | None = None,
) -> Checked:
    """Checks a whole block, its header last, against the state after the block before.

    Args:
        state: the community after the previous block.
        leaves: every leaf, in the ledger's order.
        verified: device records, as bytes, whose signature the caller has itself verified with the
            key they name. Whether that key may speak for the meter is looked at here in any case.
        applied: what `apply_leaves` made of these leaves in this state, if the caller has it; of
            any others it is not believed, and they are applied here.
        openings: as for `Proposal`; they change no verdict but that on a rule.

    Raises:
        Rejected: the first thing that is wrong, naming the leaf; the ledger must not go on so.
    """
    if not leaves or not isinstance(leaves[-1].body, Header):
        raise Rejected(Reason.WRONG_ORDER, "a block ends with its header")
    *content, last = leaves
    header = leaves[-1].body
    # All signatures in one go: between other work each takes longer, by the processor's cache.
    faults = _faults(state, content, verified)
    if faults or applied is None or not applied.is_of(state, header.step, content):
        applied = apply_leaves(state, header.step, content, openings=openings, faults=faults)
    try:
        _check_header(applied, last, header)
    except Rejected as refused:
        raise Rejected(refused.reason, f"header of step {header.step}: {refused.detail}") from None
    hashes = (*applied.leaf_hashes, leaf_hash(last.raw))
    after = replace(applied.after, frontier=state.frontier.extended(hashes))
    return Checked(after, last, applied.verdicts, hashes)


def _faults(
    state: State, leaves: Sequence[Record], verified: Container[bytes]
) -> dict[int, Rejected]:
    """What keeps records of devices from being their meters', whatever block they stand in; by
    their place."""
    faults: dict[int, Rejected] = {}
    header: cose.Header | None = None  # those of one meter stand together, and share them
    name = ""
    key: PublicKey | None = None
    for index, record in enumerate(leaves):
        body, envelope = record.body, record.envelope
        if isinstance(body, Distribution):
            try:
                party = distributor(state, record, body)
                if envelope.raw not in verified:
                    envelope.verify(party.key)
            except Rejected as refused:
                faults[index] = refused
        if not isinstance(body, ChainRecord):
            continue
        try:
            if key is None or envelope.header is not header or body.meter != name:
                key, header, name = None, envelope.header, body.meter
                key = _speaker(state, record.community, record.key_id, name)
            if envelope.raw not in verified:
                envelope.verify(key)
        except Rejected as refused:
            faults[index] = refused
    return faults


def _speaker(state: State, community: bytes, key_id: bytes, name: str) -> PublicKey:
    """The key with this id, if it may speak for the meter of this name."""
    if community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
    meter = state.meter_of(key_id)
    if meter.name != name:
        raise Rejected(Reason.WRONG_ROLE, f"the key of {meter.name} does not speak for others")
    return meter.signed_by(key_id).key


def _check_header(applied: Applied, record: Record, header: Header) -> None:
    state, after = applied.before, applied.after
    if record.community != state.community:
        raise Rejected(Reason.OTHER_COMMUNITY, "a header of another community")
    # The first block's maker is registered by that block itself; later ones by an earlier block.
    makers = after if state.frontier.size == 0 else state
    maker = makers.party_of(record.key_id, Role.GATEWAY)
    record.envelope.verify(maker.key)
    if header.step != state.step + 1:
        raise Rejected(Reason.WRONG_STEP, f"the block before is of step {state.step}")
    if header.previous != state.checkpoint:
        raise Rejected(Reason.WRONG_PREVIOUS, "it names another tree as the one before")
    if header.sealed_ms < step_start_ms(header.step + 1, state.genesis.step_s):
        raise Rejected(Reason.WRONG_STEP, "sealed before its step had ended")
    slot = Slot(header.step, header.sealed_ms, header.clock, header.caught_up)
    expected = applied.header(slot)
    if header != expected:
        wrong = [
            name
            for name in ("leaves", "flow", "balance", "late", "meters", "aside")
            if getattr(header, name) != getattr(expected, name)
        ]
        raise Rejected(
            Reason.WRONG_TOTALS,
            f"{', '.join(wrong)}: "
            + "; ".join(
                f"{getattr(header, w)} recomputed as {getattr(expected, w)}" for w in wrong
            ),
        )
