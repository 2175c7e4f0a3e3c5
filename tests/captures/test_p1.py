"""Telegrams that P1 ports sent: each file gives what its publisher states, and no more."""

import json
from pathlib import Path
from typing import Any

import pytest

from hal.index.p1 import P1Decoder
from hal.index.reading import Index, Reading, Refusal
from tests.captures.place import CAPTURES

# With the sums of their tariffs, Wh, and what stands for people in the hexadecimal number.
FILES = {
    "dsmr42_kaifa.txt": (3_016_829, 0, "3960221976967177082151037881335713"),
    "dsmr5_isk5_spec.txt": (6_825, 2_444, "K8EG004046395507"),
    "dsmr5_two_mbus.txt": (2_375_582, 0, "E0044007382246019"),
    "fluvius_v171.txt": (15_792, 11, "1SAG3101021605"),
    "isk5_recording_first.txt": (6_657_459, 0, "E0044007131650618"),
}


@pytest.fixture(scope="module")
def p1() -> Path:
    """The folder of telegrams."""
    folder = CAPTURES / "p1"
    if not folder.is_dir():
        pytest.fail(f"no captured telegrams in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def receive(file: Path, size: int = 1 << 20) -> list[Reading | Refusal]:
    data, decoder = file.read_bytes(), P1Decoder()
    return [
        one
        for at in range(0, len(data), size)
        for one in decoder.receive(data[at : at + size], at_ns=at)
    ]


def read(file: Path, size: int = 1 << 20) -> list[Reading]:
    readings = [one for one in receive(file, size) if isinstance(one, Reading)]
    assert receive(file, size) == readings
    return readings


def stated(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(f"{file}.expect.json").read_bytes())
    return found


@pytest.mark.parametrize("name", FILES)
def test_every_telegram_is_read_and_says_what_is_stated(p1: Path, name: str) -> None:
    expected = stated(p1 / name)
    readings = read(p1 / name)
    assert len(readings) == expected["telegrams"]
    said, first = dict(readings[0].fields), expected["first"]
    for code in ("1.8.1", "1.8.2", "2.8.1", "2.8.2", "1.7.0", "2.7.0"):
        assert said[f"1-0:{code}"] == first[code].replace(" ", "*")
    assert said["0-0:1.0.0"] == first["time"]
    assert said["0-0:96.1.1"] == first["id"]
    imported, exported, identity = FILES[name]
    assert readings[0].imported == Index(imported)
    assert readings[0].exported == Index(exported)
    assert {one.identity for one in readings} == {identity}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("size", [1, 7, 100])
def test_it_does_not_matter_how_a_telegram_is_cut(p1: Path, name: str, size: int) -> None:
    assert [(one.imported, one.fields) for one in read(p1 / name, size)] == [
        (one.imported, one.fields) for one in read(p1 / name)
    ]


def test_devices_on_the_mbus_are_left_out(p1: Path) -> None:
    for name in FILES:
        assert not [
            code for code, _ in read(p1 / name)[0].fields if code.startswith(("0-1", "0-2"))
        ]


def test_the_power_failures_are_kept_as_they_are(p1: Path) -> None:
    [one] = read(p1 / "dsmr42_kaifa.txt")
    assert dict(one.fields)["1-0:99.97.0"].count("*s)") == 3


def test_summer_and_winter_are_told_apart(p1: Path) -> None:
    [winter], [summer] = read(p1 / "dsmr5_isk5_spec.txt"), read(p1 / "fluvius_v171.txt")
    assert winter.meter_time_s == 1_483_381_202  # 2017-01-02 18:20:02 UTC
    assert summer.meter_time_s == 1_589_284_449  # 2020-05-12 11:54:09 UTC


def test_the_recording_is_a_telegram_a_second(p1: Path) -> None:
    readings = read(p1 / "isk5_recording_first.txt")
    times = [one.meter_time_s for one in readings]
    assert all(time is not None for time in times)
    assert times == sorted(times, key=lambda time: time or 0)
    wh = [one.imported.value for one in readings if one.imported is not None]
    assert wh == sorted(wh)
