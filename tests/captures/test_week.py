"""A day of the published community through real processes; `make week` takes the whole week."""

from pathlib import Path

import pytest

from tests.captures.place import CAPTURES
from tests.system.week import SERIES, SPEED, live, read_published

DAY_HOURS = 24
FEW, MORNING_HOURS = 4, 14  # who use less than the plant gives before noon


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


@pytest.mark.usefixtures("published")
def test_what_few_members_cannot_use_is_surplus(tmp_path: Path) -> None:
    morning = read_published(MORNING_HOURS, FEW)
    shared_wh = [morning.shared_wh(hour) for hour in range(MORNING_HOURS)]
    assert any(shared_wh[hour] < morning.produced_wh[hour] for hour in range(MORNING_HOURS))
    assert any(0 < shared_wh[hour] == morning.produced_wh[hour] for hour in range(MORNING_HOURS))
    assert live(tmp_path, MORNING_HOURS, SPEED, FEW).allotted_uwh == sum(shared_wh) * 10**6
