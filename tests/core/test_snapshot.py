"""The state as rows: what was written is read again, and nothing else is."""

from dataclasses import replace

import pytest

from cryptometer import cbor
from cryptometer.errors import Reason
from cryptometer.snapshot import Rows, decode_state, encode_common, encode_meter
from tests.core.community import Village
from tests.core.refusing import refusing


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
