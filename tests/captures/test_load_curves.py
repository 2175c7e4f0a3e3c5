"""The published week of a community as a load curve: every value is read, and no energy is lost."""

import json
from dataclasses import replace
from datetime import UTC
from pathlib import Path

import pytest

from cryptometer.curve_template import GENERIC, Template, Unit
from cryptometer.load_curve import LoadCurve, read_load_curve
from cryptometer.steps import MS_PER_S, step_start_ms
from tests.captures.place import CAPTURES

COMMUNITY = "community_week_2016-07-04.csv"
STEP_S = 900


@pytest.fixture(scope="session")
def series() -> Path:
    """The folder of series."""
    folder = CAPTURES / "series"
    if not folder.is_dir():
        pytest.fail(f"no published series in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def stated_wh(series: Path) -> dict[str, int]:
    stated: dict[str, int] = json.loads((series / f"{COMMUNITY}.expect.json").read_bytes())["wh"]
    return stated


def read(series: Path, template: Template) -> LoadCurve:
    return read_load_curve([(series / COMMUNITY).read_bytes()], template, UTC, STEP_S)


def template(names: dict[str, int]) -> Template:
    members = {f"c_{name}": name for name in names}
    return replace(GENERIC, time="utc", interval_minutes=60, unit=Unit.W, members=members)


def test_a_week_of_hourly_powers_of_18_consumers_keeps_each_ones_energy(series: Path) -> None:
    wh = stated_wh(series)
    curve = read(series, template(wh))
    assert curve.left_out == ("pv_w",)
    assert curve.is_spread
    totals = {name: sum(one.energies_uwh.values()) for name, one in curve.members.items()}
    assert totals == {name: energy * 10**6 for name, energy in wh.items()}
    for one in curve.members.values():
        assert (one.last - one.first + 1, one.gaps()) == (168 * 4, [])
        assert step_start_ms(one.first, STEP_S) == 1_467_583_200 * MS_PER_S  # 2016-07-03T22:00Z


def test_the_plants_draw_at_night_is_no_consumption_of_a_member(series: Path) -> None:
    from cryptometer.errors import Rejected

    members = {"pv_w": "plant"}
    with pytest.raises(Rejected, match="line 2 of the load curve: -3 is negative"):
        read(series, replace(template({}), members=members))
