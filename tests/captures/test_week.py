"""A day of the published community through real processes; `make week` takes the whole week."""

from pathlib import Path

import pytest

from tests.captures.place import CAPTURES
from tests.system.week import SERIES, SPEED, live, read_published

DAY_HOURS = 24


@pytest.fixture
def published() -> None:
    """There is a published week."""
    if not (CAPTURES / "series" / SERIES).is_file():
        pytest.fail(f"no {SERIES} in {CAPTURES}/series: set CRYPTOMETER_CAPTURES to the folder")


@pytest.mark.usefixtures("published")
def test_a_day_of_the_community_ends_at_its_members_to_the_watt_hour(tmp_path: Path) -> None:
    shared = live(tmp_path, DAY_HOURS, SPEED)
    day = read_published(DAY_HOURS)
    assert shared.allotted_uwh == sum(map(day.shared_wh, range(DAY_HOURS))) * 10**6
    assert shared.waited > 1, "half of the consumption came late"
