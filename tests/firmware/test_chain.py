"""Drafts into signed records: sequence, previous hash, registers, and what a re-anchor changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import records
from cryptometer.authority_records import ReAnchor
from cryptometer.chain_records import Batch, ChainRecord, RunStart, StepClose
from cryptometer.record_fields import Checkpoint
from cryptometer.records import Record
from firmware.chain import (
    aligned,
    anchored,
    draft_of,
    first_refused,
    is_acting,
    may_take_back,
    signed_so_far,
)
from firmware.drafts import Draft
from firmware.end import Anew, End, chain_start, follow
from firmware.lots import Signed
from tests.core.community import FIRST_STEP
from tests.core.strategies import examples
from tests.firmware.kit import CHAIN, COMMUNITY, REGISTRATION, batch, close, run, steps, word
from tests.keys import signer

CHECKPOINT = Checkpoint(3, bytes(32))


def sign(drafts: list[Draft], end: End | None = None) -> tuple[list[Record], End]:
    end = end or chain_start(REGISTRATION)
    signed = list(CHAIN.sign(drafts, end, CHECKPOINT))
    for record in signed:
        end = follow(end, record)
    return signed, end


def anchor(at: int, register: int) -> Record:
    body = ReAnchor(1, bytes(32), "m0", at, register, "board lost")
    return records.seal(body, COMMUNITY, signer(1))


def registers(signed: list[Record], start: int) -> int:
    """Follows the registers of a chain as a gateway would; returns the last."""
    for record in signed:
        body = record.body
        match body:
            case RunStart():
                assert body.register == start
            case Batch():
                assert body.register == start
                start = body.register_after
            case StepClose():
                assert body.register_after == start
    return start


def test_each_record_carries_the_next_number_and_names_the_one_before() -> None:
    signed, end = sign([run(), *steps(3)])
    previous = REGISTRATION
    for number, record in enumerate(signed):
        body = record.body
        assert isinstance(body, ChainRecord)
        assert (body.sequence, body.previous) == (number, previous)
        assert (body.meter, record.community) == ("m0", COMMUNITY)
        record.envelope.verify(signer(10).public)
        previous = record.identity
    assert (end.sequence, end.previous) == (7, previous)


def test_a_draft_is_signed_as_it_is() -> None:
    one, two, three = (record.body for record in sign([run(), batch(0, 8, 5), close(0, 13)])[0])
    assert isinstance(one, RunStart)
    draft = run()
    assert (one.register, one.step, one.at_ms) == (0, draft.step, draft.at_ms)
    assert (one.software, one.ending, one.unwatched_ms) == ("test", draft.ending, None)
    assert isinstance(two, Batch)
    assert (two.register, two.lots, two.registration) == (0, (8, 1_000, 5, 2_000), REGISTRATION)
    assert isinstance(three, StepClose)
    assert (three.register, three.register_after, three.watched) == (0, 13, (0, 900_000))
    assert three.checkpoint == CHECKPOINT
    assert {body.clock for body in (one, two, three)} == {draft.clock}


@pytest.mark.parametrize("offset", [-20, 0, 1_000])
def test_a_record_gives_its_draft_back_whatever_the_chain_is_ahead_of_the_counter(
    offset: int,
) -> None:
    start = chain_start(REGISTRATION)
    end = replace(start, shift=start.shift + offset)
    drafts: list[Draft] = [replace(run(20), unwatched_ms=7_000), batch(20, 8, 5), close(20, 33)]
    assert [draft_of(record, offset) for record in sign(drafts, end)[0]] == drafts


def test_what_stands_in_no_meters_chain_was_signed_from_no_draft() -> None:
    with pytest.raises(TypeError, match="re-anchor"):
        draft_of(anchor(5, 1_000), 0)


def test_a_batch_names_the_newest_registration_that_covers_its_step() -> None:
    one, two, three = (bytes([number]) * 32 for number in (1, 2, 3))
    registered = ((FIRST_STEP + 1, one), (FIRST_STEP + 5, two), (FIRST_STEP + 3, three))
    chain = replace(CHAIN, registrations=registered)
    drafts: list[Draft] = [run(), *steps(7)]
    signed = list(chain.sign(drafts, chain_start(REGISTRATION), None))
    named = [one.body.registration for one in signed if isinstance(one.body, Batch)]
    assert named == [one, one, one, three, three, three, three]


def test_the_same_drafts_give_the_same_bytes() -> None:
    drafts: list[Draft] = [run(), *steps(2)]
    assert [one.raw for one in sign(drafts)[0]] == [one.raw for one in sign(drafts)[0]]


def test_a_chain_signed_in_parts_is_the_chain_signed_at_once() -> None:
    drafts: list[Draft] = [run(), *steps(3)]
    whole, end = sign(drafts)
    first, middle = sign(drafts[:3])
    second, after = sign(drafts[3:], middle)
    assert [one.raw for one in first + second] == [one.raw for one in whole]
    assert after == end


def test_what_is_signed_so_far_is_told_in_the_counters_registers() -> None:
    _, end = sign([run(20), batch(20, 5), close(20, 25), batch(25, 3, step=FIRST_STEP + 1)])
    run_ms = run().at_ms
    assert signed_so_far(end) == Signed(28, FIRST_STEP, 25, run_ms, FIRST_STEP + 1)
    assert signed_so_far(chain_start(REGISTRATION)) == Signed(0, None, 0, 0)


def test_a_close_looks_back_to_the_first_run_and_not_to_a_later_one() -> None:
    signed, _ = sign([run(20), batch(20, 5), run(25, later_ms=9_000), close(20, 25)])
    body = signed[-1].body
    assert isinstance(body, StepClose)
    assert (body.register, body.register_after) == (20, 25)


def test_a_run_of_an_earlier_step_than_one_closed_has_the_steps_begin_anew() -> None:
    """Only behind a re-anchor, when a wrong clock had led the chain into the far future."""
    _, end = sign([run(), *steps(1, FIRST_STEP + 9_000)])
    assert end.closed_step == FIRST_STEP + 9_000
    _, end = sign([run(5, FIRST_STEP + 1)], end)
    assert (end.closed_step, end.step) == (None, FIRST_STEP + 1)
    assert (end.run_ms, end.closed_from) == (run(5, FIRST_STEP + 1).at_ms, 5)


# --- Re-anchors ----------------------------------------------------------------------------------


def act(
    end: End, unsigned_from: int, anchors: list[Record], unheard: list[Record]
) -> tuple[End, list[Draft]]:
    """Acts on the newest of the re-anchors, as a device does with what nobody acknowledged."""
    newest = anchors[-1].body
    assert isinstance(newest, ReAnchor)
    at = first_refused(end, newest, len(anchors) - end.anchors)
    bodies = [one.body for one in unheard]
    refused = [
        one
        for one, body in zip(unheard, bodies, strict=True)
        if isinstance(body, ChainRecord) and body.sequence >= at
    ]
    fresh = anchored(end, unsigned_from, anchors, refused[0] if refused else None)
    return fresh, [draft_of(one, end.offset) for one in refused]


def test_what_the_gateway_refused_is_signed_anew_behind_the_re_anchor() -> None:
    signed, end = sign([run(), *steps(4)])  # 9 records; the gateway waits at 5
    record = anchor(5, 1_000)
    fresh, drafts = act(replace(end, acknowledged=5), 20, [record], signed[5:])
    assert len(drafts) == 4
    assert (fresh.sequence, fresh.previous, fresh.register) == (5, record.identity, 1_000)
    assert (fresh.acknowledged, fresh.anchors) == (5, 1)
    assert fresh.anew == Anew(5, 9, end.shift, 20, 0)
    anew, after = sign(drafts, fresh)
    assert registers(anew, 1_000) == 1_010
    assert [one.body.KIND for one in anew] == [one.body.KIND for one in signed[5:]]
    assert signed_so_far(after).register == 20  # the counter goes on as before
    assert after.anew is None


def test_what_the_gateway_has_is_not_signed_anew_even_if_it_was_not_heard_of() -> None:
    signed, end = sign([run(), *steps(4)])
    # The gateway has records 0 to 4, register 10; its words for 1 to 5 were lost.
    fresh, drafts = act(replace(end, acknowledged=1), 20, [anchor(5, 10)], signed[1:])
    anew, _ = sign(drafts, fresh)
    assert registers(anew, 10) == 20
    assert len(anew) == 4


def test_if_the_gateway_has_everything_nothing_is_signed_anew() -> None:
    signed, end = sign([run(), *steps(4)])
    fresh, drafts = act(replace(end, acknowledged=1), 20, [anchor(9, 20)], signed[1:])
    assert drafts == []
    assert fresh.anew is None
    more, _ = sign(steps(1, FIRST_STEP + 4, 20), fresh)
    assert registers(more, 20) == 25


@pytest.mark.parametrize(("forked", "anew_pulses"), [(None, 0), (3, 5), (2, 0), (40, 0)])
def test_what_may_be_the_gateways_is_signed_anew_only_where_its_words_show_that_it_is_not(
    forked: int | None, anew_pulses: int
) -> None:
    signed, end = sign([run(), *steps(2)])
    known = replace(end, acknowledged=3, forked=forked)
    fresh, drafts = act(known, 10, [anchor(30, 500)], signed[3:])
    anew, after = sign(drafts, fresh)
    assert registers(anew, 500) == 500 + anew_pulses
    assert (after.forked, after.torn, signed_so_far(after).register) == (None, None, 10)


def test_from_where_the_gateway_has_others_everything_is_signed_anew() -> None:
    signed, end = sign([run(), *steps(2)])  # five records; the gateway has nine, register 20
    forked = replace(end, acknowledged=1, forked=5)
    restarted, end = sign([run(20, FIRST_STEP + 4), *steps(1, FIRST_STEP + 4, 20)], forked)
    unheard = [*signed[1:], *restarted]
    fresh, drafts = act(end, 25, [anchor(9, 20)], unheard)
    anew, after = sign(drafts, fresh)
    assert [one.body.KIND for one in anew] == [one.body.KIND for one in restarted]
    assert registers(anew, 20) == 25
    assert (after.forked, signed_so_far(after).register) == (None, 25)
    # A gateway that waits before that place does not have what lies between.
    _, drafts = act(end, 25, [anchor(3, 5)], unheard)
    assert len(drafts) == len(unheard) - 2


def test_behind_more_than_one_re_anchor_a_fork_proves_nothing() -> None:
    """Damage may have taken our word that we acted on the earlier one."""
    signed, end = sign([run(), *steps(2)])
    known = replace(end, forked=0)
    assert act(known, 10, [anchor(30, 500)], signed)[1]
    assert act(known, 10, [anchor(30, 500), anchor(31, 600)], signed)[1] == []


def test_what_was_acknowledged_is_taken_back_unless_it_may_be_signed_anew_already() -> None:
    """Behind more than one re-anchor, and damage that may have taken our word on the earlier."""
    _, end = sign([run(), *steps(2)])
    torn = replace(end, torn=end.sequence)
    assert may_take_back(end, 1)
    assert may_take_back(end, 2)
    assert may_take_back(torn, 1)
    assert not may_take_back(torn, 2)


def test_a_re_anchor_acts_once_the_gateways_word_stands_on_it() -> None:
    record = anchor(5, 10)
    _, end = sign([run(), *steps(2)])
    assert is_acting(record, word(end, 5, record.identity))
    assert not is_acting(record, word(end, 6, record.identity))
    assert not is_acting(record, word(end, 5))


def test_a_second_re_anchor_starts_from_the_first() -> None:
    signed, end = sign([run(), *steps(2)])
    fresh, drafts = act(end, 10, [anchor(3, 100)], signed[3:])
    anew, end = sign(drafts, fresh)
    newest = anchor(4, 2_000)
    again, drafts = act(end, 10, [anchor(3, 100), newest], anew[1:])
    assert (again.anchors, again.previous) == (2, newest.identity)
    after, end = sign(drafts, again)
    assert registers(after, 2_000) == 2_000  # only the close is left, which adds nothing
    assert isinstance(after[0].body, StepClose)
    assert after[0].body.register == 2_000  # and looks back to the re-anchor
    assert signed_so_far(end).register == 10


def test_a_new_board_goes_on_from_the_re_anchor() -> None:
    fresh = anchored(None, 0, [anchor(40, 7_000)], None)
    assert (fresh.anew, fresh.suspect) == (None, 40)
    assert (fresh.sequence, fresh.register, fresh.acknowledged) == (40, 7_000, 40)
    signed, end = sign([run(), *steps(1)], fresh)
    assert registers(signed, 7_000) == 7_005
    assert signed_so_far(end) == Signed(5, FIRST_STEP, 5, run().at_ms, FIRST_STEP)


def test_a_new_board_that_counted_before_its_first_step_goes_on_without_those_pulses() -> None:
    fresh = anchored(None, 0, [anchor(40, 7_000)], None)
    drafts: list[Draft] = [run(30), *steps(1, register=30)]
    where = aligned(fresh, drafts)
    assert where == aligned(fresh, drafts[:1])  # the run alone says from where on
    signed, end = sign(drafts, where)
    assert registers(signed, 7_000) == 7_005
    assert signed_so_far(end).register == 35
    assert aligned(end, [run(35)]) == end


def test_a_chain_of_its_own_starts_from_its_own_register() -> None:
    start = chain_start(REGISTRATION)
    assert aligned(start, [run(30)]) == start
    signed, _ = sign([run(30), *steps(1, register=30)], start)
    assert registers(signed, 30) == 35


@examples(60)
@given(
    st.integers(0, 2**40),
    st.integers(0, 10),
    st.integers(0, 8),
    st.booleans(),
)
def test_behind_any_re_anchor_the_registers_continue_and_no_refused_pulse_is_lost(
    register: int, at: int, heard: int, is_ours: bool
) -> None:
    signed, end = sign([run(), *steps(4)])
    heard = min(heard, at)
    before = sum(5 for one in signed[:at] if isinstance(one.body, Batch))
    record = anchor(at, before if is_ours and at <= 9 else register)
    start = record.body.register if isinstance(record.body, ReAnchor) else 0
    fresh, drafts = act(replace(end, acknowledged=heard), 20, [record], signed[heard:])
    anew, after = sign(drafts, fresh)
    refused = sum(5 for one in signed[at:] if isinstance(one.body, Batch))
    assert registers(anew, start) == start + refused
    assert after.anew is None
    assert signed_so_far(after).register == 20
    more, _ = sign(steps(1, FIRST_STEP + 9, 20), after)
    assert registers(more, after.register) == after.register + 5


@pytest.mark.parametrize("offset", [-(2**40), -1, 0, 1, 2**40])
def test_offsets_in_both_directions_are_kept_in_the_files(offset: int) -> None:
    end = replace(chain_start(REGISTRATION), shift=2**62 + offset)
    assert end.offset == offset
