"""Virtual generation and market-face meters: first value, what came later, total, exact."""

import csv
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exports.allotments import Allotment, Given, sum_of_steps, totals_by_step
from gateway.exports.source import kwh_text
from gateway.exports.virtual_meter import virtual_meter_csv, virtual_meter_json
from tests.gateway.exports.golden import SOURCE, is_golden

STEP = 1_975_300
ROWS = [
    Allotment("zoe", STEP, (Given(STEP, 8_000_000_000),), 9_500_000_001),
    Allotment("ann", STEP + 1, (Given(STEP + 1, 0),), 0),
    # Given once, added to twice.
    Allotment(
        "ann",
        STEP,
        (Given(STEP + 2, 1_204_000_000), Given(STEP + 96, 7), Given(STEP + 300, 1)),
        1_000_000_000,
    ),
    # Waits for its distribution; and a member whose consumption nobody knows.
    Allotment("ann", STEP + 2, (), 5),
    Allotment("max", STEP, (Given(STEP, 3),)),
]


def rows_of(text: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return list(csv.DictReader(lines))


def test_the_files_are_the_golden_ones() -> None:
    assert is_golden("virtual-meter.csv", virtual_meter_csv(ROWS, SOURCE))
    assert is_golden("virtual-meter.json", virtual_meter_json(ROWS, SOURCE))


def test_late_energy_stands_apart_with_the_block_that_gave_it() -> None:
    row = rows_of(virtual_meter_csv(ROWS, SOURCE))[0]
    assert row["member"] == "ann"
    assert (row["first_uwh"], row["first_block"]) == ("1204000000", str(STEP + 2))
    assert row["later_blocks"] == f"{STEP + 96}:7 {STEP + 300}:1"
    assert row["later_uwh"] == "8"
    assert row["virtual_generation_kwh"] == "1.204000008"


def test_what_a_rule_without_a_cap_gave_above_consumption_is_negative() -> None:
    row = rows_of(virtual_meter_csv(ROWS, SOURCE))[0]
    assert row["market_face_uwh"] == "-204000008"
    assert row["market_face_kwh"] == "-0.204000008"


def test_what_is_not_known_is_empty_and_a_zero_is_a_zero() -> None:
    _, zero, waiting, unknown, _ = rows_of(virtual_meter_csv(ROWS, SOURCE))
    assert zero["virtual_generation_uwh"] == zero["market_face_uwh"] == "0"
    assert waiting["virtual_generation_uwh"] == waiting["market_face_kwh"] == ""
    assert waiting["consumption_uwh"] == "5"
    assert unknown["consumption_uwh"] == unknown["market_face_uwh"] == ""
    values = json.loads(virtual_meter_json(ROWS, SOURCE))["rows"]
    assert values[2]["virtual_generation_uwh"] is None
    assert values[1]["market_face_uwh"] == 0


def test_both_files_name_the_checkpoint() -> None:
    root = SOURCE.checkpoint.root.hex()
    assert f"# checkpoint size 4711 root {root}" in virtual_meter_csv(ROWS, SOURCE).splitlines()
    source = json.loads(virtual_meter_json(ROWS, SOURCE))["source"]
    assert source["checkpoint"] == {"size": 4711, "root": root}


@given(st.permutations(ROWS))
def test_the_order_in_which_rows_are_found_changes_no_byte(rows: list[Allotment]) -> None:
    assert virtual_meter_csv(rows, SOURCE) == virtual_meter_csv(ROWS, SOURCE)
    assert virtual_meter_json(rows, SOURCE) == virtual_meter_json(ROWS, SOURCE)


@given(st.integers(-(2**63), 2**63))
def test_kilowatt_hours_are_exact(uwh: int) -> None:
    text = kwh_text(uwh)
    assert Decimal(text) * 10**9 == uwh
    assert len(text.partition(".")[2]) == 9


def test_totals_hold_what_was_given_and_hours_need_every_step() -> None:
    totals = totals_by_step(ROWS)
    assert totals[STEP] == {"zoe": 8_000_000_000, "ann": 1_204_000_008, "max": 3}
    assert STEP + 2 not in totals
    assert sum_of_steps(totals, range(STEP, STEP + 2)) == totals[STEP]
    assert sum_of_steps(totals, range(STEP, STEP + 3)) is None


@pytest.mark.parametrize("name", ["a\nb", "a\r# b", "a\x00b"])
def test_no_name_breaks_a_line_of_comments(name: str) -> None:
    from dataclasses import replace

    text = virtual_meter_csv([], replace(SOURCE, name=name))
    assert len(text.splitlines()) == 5
