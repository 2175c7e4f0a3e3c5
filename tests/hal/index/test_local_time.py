"""A meter's local time and UTC."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal.index.local_time import read_local_time, write_local_time


@pytest.mark.parametrize(
    ("utc", "digits", "is_summer"),
    [
        ("2026-03-29T00:59:59", "260329015959", False),
        ("2026-03-29T01:00:00", "260329030000", True),
        ("2026-10-25T00:30:00", "261025023000", True),
        ("2026-10-25T01:30:00", "261025023000", False),
    ],
)
def test_the_nights_of_the_change_have_one_time_each(
    utc: str, digits: str, is_summer: bool
) -> None:
    at_s = int(datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp())
    assert write_local_time(at_s) == (digits, is_summer)
    assert read_local_time(digits, is_summer=is_summer) == at_s


@given(st.integers(946_684_800 + 3_600, 4_102_444_800 - 7_201))
def test_what_is_written_is_read_again(at_s: int) -> None:
    digits, is_summer = write_local_time(at_s)
    assert read_local_time(digits, is_summer=is_summer) == at_s


@pytest.mark.parametrize("digits", ["250229120000", "251301120000", "250101240000", "000000000000"])
def test_what_no_calendar_has_is_no_time(digits: str) -> None:
    assert read_local_time(digits, is_summer=False) is None
