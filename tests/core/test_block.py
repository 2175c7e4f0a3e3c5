"""Blocks: the order of leaves, the header, who makes it, and device records once more."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import pytest

from cryptometer import block as making
from cryptometer import records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.block import check_block
from cryptometer.block_header import Balance, Flow, Header
from cryptometer.chain_records import ChainRecord
from cryptometer.enrolment import Broker, Bundle, EnrolmentRequest
from cryptometer.errors import Reason
from cryptometer.merkle import leaf_hash
from cryptometer.proposal import Proposal, apply_leaves, propose
from cryptometer.record_fields import Checkpoint, ClockReading, Role
from cryptometer.records import Record
from cryptometer.steps import ClockSource, ClockState, step_start_ms
from tests.core.community import STEP_S, Device, Village, due, flip, header_of, reseal
from tests.core.refusing import refusing
from tests.keys import p256_signer, signer


@pytest.fixture
def village() -> Village:
    """One meter, which has a run start, a batch of 8 pulses and a close in the newest block."""
    made = Village()
    made.run((8,))
    return made


# --- Order, and one block for each step. ---------------------------------------------------------


def pieces(village: Village) -> tuple[list[Record], Header]:
    """The leaves of the next block, and the header it should have."""
    leaves, _ = due(village.state, village.next_step, village.pending)
    return leaves, propose(village.state, leaves, village.slot())


@pytest.fixture
def full() -> Village:
    """Authority records and two meters wait for a block."""
    made = Village(meters=2)
    made.govern(made.authority.register(Role.MEMBER, "a", signer(30).public))
    made.govern(made.authority.register(Role.MEMBER, "b", signer(31).public))
    for device in made.devices:
        made.send(device.run_start(made.next_step), *device.step(made.next_step, 2))
    return made


def test_leaves_stand_in_one_order_however_they_came(full: Village) -> None:
    leaves, header = pieces(full)
    full.pending.reverse()
    again, same = pieces(full)
    assert [one.identity for one in again] == [one.identity for one in leaves]
    assert same == header
    kinds = [one.body.KIND.value for one in leaves]
    chain = ["run-start", "batch", "step-close"]
    assert kinds == ["registration", "registration", *chain, *chain]
    assert [getattr(one.body, "meter", None) for one in leaves[2:]] == ["m0"] * 3 + ["m1"] * 3


def test_every_other_order_is_refused(full: Village) -> None:
    leaves, header = pieces(full)
    for at in range(len(leaves) - 1):
        swapped = [*leaves[:at], leaves[at + 1], leaves[at], *leaves[at + 2 :]]
        first, second = (getattr(one.body, "meter", None) for one in leaves[at : at + 2])
        # Inside one chain the sequence already tells; elsewhere the order of the block does.
        within = first is not None and first == second
        place = full.state.frontier.size + at + (0 if within else 1)
        with refusing(Reason.GAP if within else Reason.WRONG_ORDER, f"leaf {place}"):
            check_block(full.state, full.seal(swapped, header))
        with refusing(Reason.WRONG_ORDER):
            check_block(full.state, full.seal([*leaves, leaves[at]], header))
    with refusing(Reason.WRONG_ORDER, f"leaf {full.state.frontier.size + 1}"):
        check_block(full.state, full.seal([leaves[0], *leaves], header))


def test_a_block_without_one_of_its_leaves_is_refused(full: Village) -> None:
    leaves, header = pieces(full)
    for at in range(len(leaves)):
        with refusing_any("leaf", "header of step"):
            check_block(full.state, full.seal(leaves[:at] + leaves[at + 1 :], header))


class refusing_any:  # noqa: N801 - reads as a statement
    """What is inside is refused, and one of these words says where."""

    def __init__(self, *places: str) -> None:
        self.places = places

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: Any, _: Any) -> bool:
        assert error is not None, "nothing was refused"
        return kind.__name__ == "Rejected" and any(one in error.detail for one in self.places)


def test_a_block_ends_with_its_header(full: Village) -> None:
    leaves, header = pieces(full)
    block = full.seal(leaves, header)
    for wrong in ([], block[:-1], [block[-1], *block[:-1]]):
        with refusing(Reason.WRONG_ORDER):
            check_block(full.state, wrong)
    with refusing(Reason.WRONG_ORDER, "no header stands inside"):
        check_block(full.state, [*block, block[-1]])


@pytest.mark.parametrize("kind", ["bundle", "acknowledgement", "enrolment-request"])
def test_what_is_no_record_of_the_ledger_is_refused(village: Village, kind: str) -> None:
    key = signer(1)
    bodies: dict[str, tuple[records.Body, bytes | None]] = {
        "bundle": (Bundle("m0", b"x", (), Broker("mqtt://a:1")), village.id),
        "acknowledgement": (Acknowledgement("m0", 1, 1, bytes(32), 0), village.id),
        "enrolment-request": (
            EnrolmentRequest(Role.METER, key.public, "h", "s", 1), None
        ),
    }  # fmt: skip
    stray = records.seal(*bodies[kind], key)
    _, header = pieces(village)
    with refusing(Reason.WRONG_ORDER, kind):
        check_block(village.state, village.seal([stray], header))


@pytest.mark.parametrize("off", [-1, 1, 2])
def test_each_step_has_exactly_one_block(village: Village, off: int) -> None:
    """Not the newest again, none left out."""
    _, header = pieces(village)
    step = header.step + off
    sealed_ms = step_start_ms(step + 1, STEP_S)
    wrong = replace(header, step=step, sealed_ms=sealed_ms)
    with refusing(Reason.WRONG_STEP, f"header of step {step}"):
        check_block(village.state, village.seal([], wrong))


def test_a_block_that_was_committed_is_not_taken_again(village: Village) -> None:
    with refusing_any("leaf", "header of step"):
        check_block(village.state, village.blocks[-1])


def test_a_block_is_not_sealed_before_its_step_is_over(village: Village) -> None:
    _, header = pieces(village)
    end_ms = step_start_ms(header.step + 1, STEP_S)
    check_block(village.state, village.seal([], replace(header, sealed_ms=end_ms)))
    with refusing(Reason.WRONG_STEP, "before its step had ended"):
        check_block(village.state, village.seal([], replace(header, sealed_ms=end_ms - 1)))


@pytest.mark.parametrize("part", ["size", "root"])
def test_a_header_names_the_tree_before(village: Village, part: str) -> None:
    _, header = pieces(village)
    before = header.previous
    wrong = {
        "size": Checkpoint(before.size + 1, before.root),
        "root": Checkpoint(before.size, bytes(32)),
    }
    with refusing(Reason.WRONG_PREVIOUS):
        check_block(village.state, village.seal([], replace(header, previous=wrong[part])))


# --- The header's totals, signed by the maker itself. --------------------------------------------

TOTALS = (
    [("leaves", None)]
    + [("flow", name) for name in Flow.__slots__]
    + [("balance", name) for name in Balance.__slots__]
    + [("late", 0), ("late", 1), ("meters", 0), ("meters", 1)]
)


@pytest.mark.parametrize(("name", "part"), TOTALS)
@pytest.mark.parametrize("off", [1, 2**20])
def test_every_total_is_recomputed(full: Village, name: str, part: Any, off: int) -> None:
    leaves, header = pieces(full)
    stated = getattr(header, name)
    wrong: Any
    match part:
        case None:
            wrong = stated + off
        case int():
            wrong = tuple(value + off * (at == part) for at, value in enumerate(stated))
        case _:
            wrong = replace(stated, **{part: getattr(stated, part) + off})
    with refusing(Reason.WRONG_TOTALS, f"header of step {header.step}: {name}"):
        check_block(full.state, full.seal(leaves, replace(header, **{name: wrong})))


def test_a_total_that_is_left_empty_is_refused(full: Village) -> None:
    leaves, header = pieces(full)
    for name, wrong in (
        ("late", replace(header, late=())),
        ("meters", replace(header, meters=())),
    ):
        with refusing(Reason.WRONG_TOTALS, name):
            check_block(full.state, full.seal(leaves, wrong))


def test_clock_time_and_catching_up_are_the_maker_s_word(full: Village) -> None:
    leaves, header = pieces(full)
    clock = ClockReading(ClockSource.SYSTEM, ClockState.UNKNOWN, 99_999)
    later = replace(header, clock=clock, caught_up=True, sealed_ms=header.sealed_ms + 10**9)
    assert header_of(check_block(full.state, full.seal(leaves, later))).clock == clock


# --- Who makes it. -------------------------------------------------------------------------------


def test_a_header_is_signed_by_a_registered_gateway(full: Village) -> None:
    leaves, header = pieces(full)
    for key, reason in (
        (signer(99), Reason.UNKNOWN_KEY),
        (signer(3), Reason.WRONG_ROLE),
        (signer(10), Reason.WRONG_ROLE),
        (signer(1), Reason.UNKNOWN_KEY),
    ):
        with refusing(reason, "header of step"):
            check_block(full.state, full.seal(leaves, header, key))


def test_a_header_of_another_community_is_refused(full: Village) -> None:
    leaves, header = pieces(full)
    other = records.seal(header, bytes(32), full.gateway)
    with refusing(Reason.OTHER_COMMUNITY):
        check_block(full.state, [*leaves, other])


def test_a_header_with_a_false_signature_is_refused(full: Village) -> None:
    leaves, header = pieces(full)
    block = full.seal(leaves, header)
    raw = block[-1].raw
    broken = records.decode(flip(raw, 8 * len(raw) - 1))
    with refusing(Reason.BAD_SIGNATURE, "header of step"):
        check_block(full.state, [*leaves, broken])


def test_a_revoked_gateway_makes_no_more_blocks(village: Village) -> None:
    village.govern(village.authority.revoke(Role.GATEWAY, "gw"))
    village.block()  # it acts from the next one on
    with refusing(Reason.REVOKED, "header of step"):
        village.block()


def test_a_new_gateway_makes_blocks_after_the_one_that_registers_it(village: Village) -> None:
    new = p256_signer(8)
    village.govern(village.authority.register(Role.GATEWAY, "gw2", new.public))
    leaves, header = pieces(village)
    with refusing(Reason.UNKNOWN_KEY):
        check_block(village.state, village.seal(leaves, header, new))
    village.block()
    village.gateway = new
    village.block()


def test_the_first_block_s_maker_is_registered_by_it() -> None:
    village = Village()
    assert header_of(village.checked[0]).previous.size == 0
    block = village.blocks[0]
    kept = [one for one in block[:-1] if getattr(one.body, "name", "") != "gw"]
    with refusing(Reason.GAP):
        check_block(village.community().state, [*kept, block[-1]])


# --- Device records, once more. ------------------------------------------------------------------


def test_a_signature_that_the_caller_has_verified_is_not_verified_twice(full: Village) -> None:
    leaves, header = pieces(full)
    raw = leaves[3].raw
    broken = records.decode(flip(raw, 8 * len(raw) - 1))
    assert broken.identity == leaves[3].identity
    block = full.seal([*leaves[:3], broken, *leaves[4:]], header)
    with refusing(Reason.BAD_SIGNATURE, f"leaf {full.state.frontier.size + 3}"):
        check_block(full.state, block)
    with refusing(Reason.BAD_SIGNATURE, f"leaf {full.state.frontier.size + 3}"):
        # Of the same content and identity; but these are not the bytes that were verified.
        check_block(full.state, block, verified={leaves[3].raw, leaves[3].identity})
    check_block(full.state, block, verified={broken.raw})


def test_what_leaves_come_to_is_believed_for_these_leaves_in_this_state_alone(
    full: Village,
) -> None:
    leaves, header = pieces(full)
    applied = apply_leaves(full.state, header.step, leaves)
    assert applied.header(full.slot()) == header
    block = full.seal(leaves, header)
    checked = check_block(full.state, block)
    with patch.object(making, "apply_leaves", side_effect=AssertionError):
        assert check_block(full.state, block, applied=applied) == checked
    # Stated of a block that lacks the last leaf, or of another state: applied anew, and refused.
    shorter = apply_leaves(full.state, header.step, leaves[:-1])
    lacking = full.seal(leaves, shorter.header(full.slot()))
    with refusing(Reason.WRONG_TOTALS):
        check_block(full.state, lacking, applied=shorter)
    balance = replace(full.state.balance, registered=1, waiting=1)
    elsewhere = apply_leaves(replace(full.state, balance=balance), header.step, leaves)
    richer = full.seal(leaves, elsewhere.header(full.slot()))
    with refusing(Reason.WRONG_TOTALS, "balance"):
        check_block(full.state, richer, applied=elsewhere)
    later = apply_leaves(full.state, header.step + 1, leaves)
    late = full.seal(leaves, later.header(full.slot()))
    with refusing(Reason.WRONG_TOTALS, "late"):
        check_block(full.state, late, applied=later)


def test_a_proposal_knows_how_many_leaves_of_a_meter_it_has(village: Village) -> None:
    proposal = Proposal(village.state, village.next_step)
    assert proposal.count("m0") == 0
    for number, record in enumerate(village.device.step(village.next_step, 3), 1):
        body = record.body
        assert isinstance(body, ChainRecord)
        proposal.add(record, body)
        assert (proposal.count("m0"), proposal.count("m1")) == (number, 0)


def test_a_signature_is_looked_at_whatever_its_record_came_to(full: Village) -> None:
    leaves, header = pieces(full)
    raw = leaves[3].raw
    broken = [*leaves[:3], records.decode(flip(raw, 8 * len(raw) - 1)), *leaves[4:]]
    applied = apply_leaves(full.state, header.step, broken)
    with refusing(Reason.BAD_SIGNATURE, f"leaf {full.state.frontier.size + 3}"):
        check_block(full.state, full.seal(broken, header), applied=applied)


@pytest.mark.parametrize(
    ("number", "reason"),
    [(99, Reason.UNKNOWN_KEY), (2, Reason.WRONG_ROLE), (11, Reason.WRONG_ROLE)],
    ids=["nobody", "gateway", "other-meter"],
)
def test_a_leaf_signed_by_another_is_refused(full: Village, number: int, reason: Reason) -> None:
    leaves, header = pieces(full)
    stolen = reseal(leaves[2], signer(number))
    block = full.seal([*leaves[:2], stolen, *leaves[3:]], header)
    for verified in ((), {stolen.raw}):  # whose key it is, is never taken on trust
        with refusing(reason, f"leaf {full.state.frontier.size + 2}"):
            check_block(full.state, block, verified=verified)


@pytest.mark.parametrize("same", ["key", "meter"])
def test_whose_key_it_is_is_looked_at_behind_a_record_of_the_same_key_or_meter(
    full: Village, same: str
) -> None:
    """It is looked up once for the records of one kind, key and meter that stand together."""
    leaves, header = pieces(full)
    begun, batch, other_begun = leaves[2], leaves[3], leaves[5]
    m0, m1 = (device.signer for device in full.devices)
    stolen = reseal(other_begun, m0) if same == "key" else reseal(batch, m1)
    assert (stolen.envelope.header is begun.envelope.header) == (same == "key")
    block = full.seal([*leaves[:2], begun, stolen], header)
    for verified in ((), {begun.raw, stolen.raw}):
        with refusing(Reason.WRONG_ROLE, f"leaf {full.state.frontier.size + 3}"):
            check_block(full.state, block, verified=verified)


def test_behind_a_key_of_nobody_the_next_record_is_looked_at_as_well(full: Village) -> None:
    leaves, header = pieces(full)
    strange = reseal(leaves[2], signer(99))
    block = full.seal([*leaves[:2], strange, strange, *leaves[3:]], header)
    with refusing(Reason.UNKNOWN_KEY, f"leaf {full.state.frontier.size + 2}"):
        check_block(full.state, block)


def test_a_leaf_of_another_community_is_refused(full: Village) -> None:
    leaves, header = pieces(full)
    foreign = records.seal(leaves[2].body, bytes(32), full.device.signer)
    with refusing(Reason.OTHER_COMMUNITY, "leaf"):
        check_block(full.state, full.seal([*leaves[:2], foreign, *leaves[3:]], header))


def test_a_proposal_takes_no_meter_that_nobody_registered(village: Village) -> None:
    stranger = Device(village.id, "m9", signer(77), village.authority.genesis)
    with refusing(Reason.UNKNOWN_KEY, "m9"):
        propose(village.state, [stranger.run_start(village.next_step)], village.slot())


def test_a_false_authority_record_breaks_the_block_and_is_named(village: Village) -> None:
    true = village.authority.register(Role.MEMBER, "x", signer(40).public)
    _, header = pieces(village)
    for forged, reason in (
        (reseal(true, signer(2)), Reason.UNKNOWN_KEY),
        (reseal(true, signer(1), sequence=9), Reason.GAP),
        (reseal(true, signer(1), previous=bytes(32)), Reason.FORK),
        (records.decode(flip(true.raw, 8 * len(true.raw) - 1)), Reason.BAD_SIGNATURE),
    ):
        with refusing(reason, f"leaf {village.state.frontier.size}"):
            check_block(village.state, village.seal([forged], header))


def test_checking_changes_nothing(full: Village) -> None:
    before = full.state
    leaves, header = pieces(full)
    block = full.seal(leaves, header)
    first = check_block(full.state, block)
    assert first.leaf_hashes == tuple(leaf_hash(record.raw) for record in block)
    second = check_block(full.state, full.seal(leaves, header))
    assert full.state == before
    assert first.state == second.state != before
