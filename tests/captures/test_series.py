"""The published power series as pulses: every row is read, and not a pulse too many or too few."""

import csv
import json
import select
import subprocess
import sys
import time
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_S
from firmware.series import Level, duration_ns, pulse_count, pulse_times, read_series
from hal.ports import LineLost
from hal.serial_line import SerialLine, SerialSettings
from tests.captures.place import CAPTURES

HOUSEHOLD = "household_be_1min_3d.csv"
PLANT = "pv_serf_east_1min_2022-03-18.csv"
COMMUNITY = "community_week_2016-07-04.csv"
PATIENCE_S = 60.0
HOUR_NS = 3600 * NS_PER_S
MINUTE_NS = 60 * NS_PER_S


@pytest.fixture(scope="session")
def series() -> Path:
    """The folder of series."""
    folder = CAPTURES / "series"
    if not folder.is_dir():
        pytest.fail(f"no published series in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def read(series: Path, name: str, column: str | None = None) -> list[Level]:
    with (series / name).open(encoding="utf-8", newline="") as file:
        return read_series(file, column)


def expected(series: Path, name: str) -> dict[str, Any]:
    stated: dict[str, Any] = json.loads((series / f"{name}.expect.json").read_bytes())
    return stated


def energy_wh(levels: list[Level]) -> Fraction:
    return sum((one.watts * (one.duration_ns or 0) for one in levels), Fraction(0)) / HOUR_NS


def cells_wh(series: Path, name: str, column: str, rows_per_hour: int) -> Fraction:
    """The positive energy of a column, summed from its cells by another reader."""
    with (series / name).open(encoding="utf-8", newline="") as file:
        cells = [Fraction(Decimal(row[column])) for row in csv.DictReader(file)]
    return sum((cell for cell in cells if cell > 0), Fraction(0)) / rows_per_hour


def test_the_household_has_its_stated_rows_and_energy(series: Path) -> None:
    levels = read(series, HOUSEHOLD)
    stated = expected(series, HOUSEHOLD)
    assert len(levels) == stated["rows"]
    assert {one.duration_ns for one in levels} == {MINUTE_NS}
    assert duration_ns(levels) == 3 * 24 * HOUR_NS
    assert round(float(energy_wh(levels)), 2) == stated["wh"]
    watts = [float(one.watts) for one in levels]
    assert (min(watts), max(watts)) == (stated["min_w"], stated["max_w"])


def test_the_plants_night_draw_gives_no_pulse(series: Path) -> None:
    levels = read(series, PLANT)
    stated = expected(series, PLANT)
    assert len(levels) == stated["rows"]
    assert round(float(energy_wh(levels)), 2) == stated["wh_positive"]
    assert float(max(one.watts for one in levels)) == stated["max_w"]
    night = [one for one in levels if one.start_ns < 30 * MINUTE_NS]
    assert {one.watts for one in night} == {0}


def test_every_member_of_the_community_has_its_stated_energy(series: Path) -> None:
    stated = expected(series, COMMUNITY)
    for member, wh in stated["wh"].items():
        levels = read(series, COMMUNITY, f"c_{member}")
        assert len(levels) == stated["steps"]
        assert {one.duration_ns for one in levels} == {HOUR_NS}
        assert energy_wh(levels) == wh
    assert len(stated["wh"]) == 18


def test_a_community_needs_its_column_named(series: Path) -> None:
    with pytest.raises(ConfigurationError, match="choose one with --column"):
        read(series, COMMUNITY)


@pytest.mark.parametrize(
    ("name", "column", "rows_per_hour"),
    [
        (HOUSEHOLD, "power_w", 60),
        (PLANT, "ac_power_w", 60),
        (COMMUNITY, "pv_w", 1),
        (COMMUNITY, "c_3aa4", 1),
    ],
)
@pytest.mark.parametrize("constant", [Fraction(1000), Fraction(800, 3), Fraction(10_000)])
def test_a_series_gives_its_energy_times_the_constant_in_pulses(
    series: Path, name: str, column: str, rows_per_hour: int, constant: Fraction
) -> None:
    levels = read(series, name, column)
    whole = int(cells_wh(series, name, column, rows_per_hour) * constant / 1000)
    assert pulse_count(levels, constant) == whole
    count, latest_ns = 0, 0
    for at_ns in pulse_times(levels, constant):
        assert at_ns >= latest_ns
        count, latest_ns = count + 1, at_ns
    assert count == whole
    last_ns = duration_ns(levels)
    assert last_ns is not None
    assert latest_ns <= last_ns


def test_a_day_of_the_plant_runs_through_the_simulator_to_the_last_pulse(
    series: Path, tmp_path: Path
) -> None:
    """19.5 hours in 4 s: 33,695.06 Wh at 300 pulses in a kWh."""
    link, log = tmp_path / "meter", tmp_path / "log"
    expected_pulses = int(cells_wh(series, PLANT, "ac_power_w", 60) * 300 / 1000)
    with subprocess.Popen(
        [
            sys.executable, "-m", "firmware.main", "simulate", "--tty", str(link),
            "--series", str(series / PLANT), "--constant", "300", "--speed", "17505",
            "--log", str(log),
        ],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:  # fmt: skip
        try:
            until_s = time.monotonic() + PATIENCE_S
            while not link.is_symlink():
                assert time.monotonic() < until_s
                time.sleep(0.005)
            line = SerialLine(SerialSettings(str(link)))
            counted = 0
            while time.monotonic() < until_s:
                select.select([line], [], [], max(0, until_s - time.monotonic()))
                try:
                    counted += line.take().pulses
                except LineLost:
                    break
            line.close()
            out, _ = process.communicate(timeout=PATIENCE_S)
        finally:
            process.kill()
    assert counted == expected_pulses == 10_108
    assert out == f"emitted {expected_pulses}\n"
    assert log.read_text().splitlines()[-1] == f"# emitted {expected_pulses}"
