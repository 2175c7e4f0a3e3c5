"""A distribution as records, and the records as one distribution."""

from dataclasses import replace
from typing import Any

import pytest

from cryptometer.errors import Reason
from cryptometer.parts import join, split
from cryptometer.sharing_records import PARTS_MAX, Distribution, Part
from tests.core.refusing import refusing
from tests.core.settling import LATE, PLANT, private


def large(monkeypatch: pytest.MonkeyPatch, most: int) -> Distribution:
    """Two inputs of 56 bytes, two outputs of 27, two commitments of 43, two coefficients of 9."""
    monkeypatch.setattr("cryptometer.parts._PART_BYTES", most)
    _, whole = private()
    return replace(whole, coefficients=(1, 2), from_surplus_uwh=9)


@pytest.mark.parametrize(
    ("most", "counts"),
    [
        (270, [(2, 2, 2, 2)]),
        (269, [(2, 2, 2, 1), (0, 0, 0, 1)]),
        (252, [(2, 2, 2, 0), (0, 0, 0, 2)]),
        (251, [(2, 2, 1, 0), (0, 0, 1, 2)]),
        (166, [(2, 2, 0, 0), (0, 0, 2, 2)]),
        (165, [(2, 1, 0, 0), (0, 1, 2, 2)]),
        (112, [(2, 0, 0, 0), (0, 2, 1, 0), (0, 0, 1, 2)]),
        (111, [(1, 0, 0, 0), (1, 2, 0, 0), (0, 0, 2, 2)]),
    ],
)
def test_a_part_lists_what_fits_and_the_last_one_says_the_rest(
    monkeypatch: pytest.MonkeyPatch, most: int, counts: list[tuple[int, int, int, int]]
) -> None:
    whole = large(monkeypatch, most)
    parts = split(whole, PLANT)
    lists = [(one.inputs, one.outputs, one.commitments, one.coefficients) for one in parts]
    assert [tuple(len(one) for one in each) for each in lists] == counts
    assert [one.part for one in parts] == [Part(n, len(parts)) for n in range(1, len(parts) + 1)]
    assert [one.sequence for one in parts] == list(range(5, 5 + len(parts)))
    assert {one.previous for one in parts} == {PLANT.previous}
    amounts = [(p.losses_uwh, p.fee_uwh, p.surplus_uwh, p.from_surplus_uwh) for p in parts]
    assert amounts == [(0, 0, 0, 0)] * (len(parts) - 1) + [(250, 25, 1125, 9)]
    assert join(parts) == replace(whole, sequence=5, previous=PLANT.previous)


def test_a_distribution_has_no_more_parts_than_a_record_can_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = large(monkeypatch, 1)
    inputs = (LATE.as_input,) * PARTS_MAX
    bare = replace(whole, inputs=inputs, outputs=(), commitments=(), coefficients=())
    # The first of it lists nothing: not even one input fits.
    assert len(split(replace(bare, inputs=inputs[1:]), PLANT)) == PARTS_MAX
    with pytest.raises(ValueError, match="parts"):
        split(bare, PLANT)


@pytest.mark.parametrize(
    "change",
    [
        {"vpp": "other"}, {"step": 8}, {"supplement": 1}, {"agreement": bytes(32)},
        {"part": Part(2, 4)}, {"part": Part(3, 3)}, {"part": Part(1, 3)}, {"losses_uwh": 1},
        {"fee_uwh": 1}, {"surplus_uwh": 1}, {"from_surplus_uwh": 1},
    ],
    ids="".join,
)  # fmt: skip
def test_parts_of_different_distributions_are_no_whole(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    first, second, third = split(large(monkeypatch, 111), PLANT)
    with refusing(Reason.INCOMPLETE):
        join([first, replace(second, **change), third])
    for some in ([first, second], [second, third], [first, third, second]):
        with refusing(Reason.INCOMPLETE):
            join(some)
    assert join([first, second, third]).part == Part(1, 1)


def test_a_whole_names_what_the_first_of_its_parts_follows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part names the one before it."""
    parts = split(large(monkeypatch, 111), PLANT)
    chained = [replace(one, previous=bytes([at] * 32)) for at, one in enumerate(parts)]
    assert join(chained).previous == bytes(32)
    assert join(chained).sequence == PLANT.sequence
