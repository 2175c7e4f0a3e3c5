"""The state as rows: what was written is read again, and nothing else is."""

from dataclasses import replace

import pytest

from cryptometer import cbor
from cryptometer.errors import Reason
from cryptometer.settlement import Settlement
from cryptometer.snapshot import (
    Rows,
    decode_state,
    encode_agreement,
    encode_common,
    encode_meter,
    encode_settlement,
)
from tests.core.community import Village
from tests.core.refusing import refusing
from tests.core.test_distribution import agreed, create


@pytest.fixture(name="village", scope="module")
def _village() -> Village:
    village = Village(meters=2)
    village.run([8, 3])
    return village


def rows(village: Village) -> list[bytes]:
    return list(map(encode_meter, village.state.meters.values()))


def test_a_state_is_read_as_it_was_written(village: Village) -> None:
    genesis, common = village.leaves[0], encode_common(village.state)
    assert decode_state(genesis, Rows(common, rows(village))) == village.state


@pytest.mark.parametrize("field", [5, 6], ids=["a party", "an owner of a key"])
def test_a_row_in_which_something_stands_twice_is_refused(village: Village, field: int) -> None:
    common = cbor.decode(encode_common(village.state))
    assert isinstance(common, dict)
    common[field] = [*common[field], common[field][-1]]
    with refusing(Reason.MALFORMED, "rows"):
        decode_state(village.leaves[0], Rows(cbor.encode(common), rows(village)))


def test_a_tree_without_one_of_its_peaks_is_refused(village: Village) -> None:
    frontier = replace(village.state.frontier, peaks=village.state.frontier.peaks[1:])
    common = encode_common(replace(village.state, frontier=frontier))
    with refusing(Reason.MALFORMED, "rows"):
        decode_state(village.leaves[0], Rows(common, rows(village)))


# --- Agreements and what was given by them. ------------------------------------------------------


@pytest.fixture(name="sharing", scope="module")
def _sharing() -> Village:
    village = agreed()
    create(village, 8, 3)
    village.share()
    village.block()
    create(village, 5)
    village.block()
    return village


def all_rows(village: Village, *settlements: Settlement) -> Rows:
    state = village.state
    return Rows(
        encode_common(state),
        rows(village),
        list(map(encode_agreement, state.agreements)),
        list(map(encode_settlement, settlements or state.settlements.values())),
    )


def test_agreements_accounts_and_chains_of_plants_are_read_as_they_were_written(
    sharing: Village,
) -> None:
    assert sharing.state.accounts
    assert sharing.state.plants
    assert decode_state(sharing.leaves[0], all_rows(sharing)) == sharing.state


def test_a_settlement_that_stands_twice_or_gave_to_others_is_refused(sharing: Village) -> None:
    first, second = sharing.state.settlements.values()
    assert (len(first.packed), len(second.packed)) == (16, 0)
    for wrong in (
        (first, first),
        (replace(first, packed=first.packed[8:]), second),
        (replace(first, packed=first.packed[1:]), second),
        (first, replace(second, step=sharing.state.genesis.first_step)),  # before any agreement
    ):
        with refusing(Reason.MALFORMED, "rows"):
            decode_state(sharing.leaves[0], all_rows(sharing, *wrong))
