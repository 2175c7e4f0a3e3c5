"""A share file made by whoever likes to look richer: what the ledger set aside is not taken for
energy that was given, as far as a file without the rest of the ledger can tell."""

from collections.abc import Callable, Container
from dataclasses import replace

import pytest

from cryptometer import records, settlement
from cryptometer.errors import Reason
from cryptometer.records import Agreement, ChainRecord, Distribution, Header, Registration
from cryptometer.settlement import split
from cryptometer.share_file import Share, encode_share, verify_share
from cryptometer.tiles import node_from_tiles
from tests.core.community import Village
from tests.core.refusing import refusing
from tests.core.test_distribution import agreed, create, honest, reasons


def shown(
    village: Village, step: int, is_shown: Callable[[Distribution], bool] = lambda _: True
) -> Share:
    """What a file says that holds all of the ledger but what it had better not show."""
    leaves: dict[int, bytes] = {}
    authority: list[bytes] = []
    for index, raw in enumerate(village.leaves):
        body = records.decode(raw).body
        if isinstance(body, Agreement | Registration):
            authority.append(raw)
        elif isinstance(body, Distribution):
            if body.step == step and is_shown(body):
                leaves[index] = raw
        elif isinstance(body, ChainRecord | Header):
            leaves[index] = raw
    node = node_from_tiles(len(village.leaves), village.files().get)
    data = encode_share("ana", step, village.checkpoint(), authority, leaves, node)
    return verify_share(data, village.community())


def _given(village: Village) -> int:
    return village.state.accounts.get("ana", 0)


def test_what_the_ledger_gave_is_shown() -> None:
    village = agreed()
    create(village, 15, 10)
    step = village.next_step
    village.share()
    village.block()
    assert shown(village, step).energy_uwh == _given(village) > 0


def test_a_close_that_was_spent_is_not_shown_as_energy_again() -> None:
    village = agreed()
    create(village, 15, 10)
    step, whole = village.next_step, honest(village)
    village.distribute(whole, replace(whole, supplement=1))
    assert reasons(village.block()) == [None, Reason.NO_SUCH_INPUT]
    with refusing(Reason.NO_SUCH_INPUT, "spent before"):
        shown(village, step)
    assert shown(village, step, lambda one: one.supplement == 0).energy_uwh == _given(village)


def test_a_meter_that_closed_its_step_twice_has_brought_its_energy_once() -> None:
    """The second close moved nothing; behind it stand the same lots. Another meter's energy keeps
    the headers from telling."""
    village = agreed()
    step = village.next_step
    create(village, 8, 8)
    _, close, *_ = village.pending
    again = village.devices[0].close(step)
    village.send(again)
    whole = honest(village)
    twice = replace(
        whole, inputs=tuple(replace(whole.inputs[0], close=one.identity) for one in (close, again))
    )
    village.distribute(whole, twice)
    assert reasons(village.block()) == [None, Reason.REPEAT]
    with refusing(Reason.NO_SUCH_INPUT, "spent before"):
        shown(village, step, _of([1]))


def test_distributions_of_one_block_gave_no_more_together_than_its_headers_say() -> None:
    """Signed lots that the ledger set aside, in a supplement that moved nothing."""
    village = agreed()
    step = village.next_step
    create(village, 9)
    device = village.devices[1]
    village.send(device.batch(step, 9), device.close(step))
    whole = honest(village)
    more = replace(
        whole,
        supplement=1,
        inputs=(replace(whole.inputs[0], close=village.pending[-1].identity),),
    )
    village.distribute(whole, more)
    assert reasons(village.block()) == [None, Reason.NO_SUCH_INPUT]
    with refusing(Reason.WRONG_TOTALS, "had no effect"):
        shown(village, step)
    assert shown(village, step, _of([0])).energy_uwh == _given(village)


def test_parts_of_two_distributions_are_not_one(monkeypatch: pytest.MonkeyPatch) -> None:
    village = agreed()
    create(village, 15, 10)
    step, whole = village.next_step, honest(village)
    monkeypatch.setattr(settlement, "_PART_BYTES", 100)
    parts = split(whole, village.plant)
    assert len(parts) > 1
    # The first part once more, and the second behind another record of the plant.
    village.distribute(*parts, parts[0], replace(parts[0], supplement=7), *parts[1:])
    assert reasons(village.block())[: len(parts)] == [None] * len(parts)
    assert shown(village, step, _of(range(len(parts)))).energy_uwh == _given(village)
    swapped = [0, *range(len(parts) + 2, 2 * len(parts) + 1)]
    with refusing(Reason.INCOMPLETE):
        shown(village, step, _of(swapped))


def _of(places: Container[int]) -> Callable[[Distribution], bool]:
    """Those in these places of the plant's chain."""
    return lambda one: one.sequence in places
