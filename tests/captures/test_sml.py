"""Recorded SML files of real meters, each with its stated result."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hal.index.reading import Index, Reading, Refusal, Refused
from hal.index.sml import SmlDecoder
from tests.captures.place import CAPTURES

NAMES = {
    "ISKRA_MT175_eHZ": "1ISK0067362659",
    "EMH_eHZ-HW8E2A5L0EK2P": None,
    "DZG_DVS-7420.2V.G2_mtr0": "1DZG0060694612",
    "EMH_eHZ-IW8E2AWL0EK2P": None,
}


@pytest.fixture(scope="session")
def sml() -> Path:
    """The folder of recorded files."""
    folder = CAPTURES / "sml"
    if not folder.is_dir():
        pytest.fail(f"no recorded files in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def stated(sml: Path, name: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((sml / f"{name}.bin.expect.json").read_bytes())
    return expected


def heard(data: bytes) -> tuple[list[Reading], list[Refusal]]:
    outcome = SmlDecoder().receive(data, 0)
    readings = [one for one in outcome if isinstance(one, Reading)]
    return readings, [one for one in outcome if isinstance(one, Refusal)]


def wh(index: Index | None) -> Decimal | None:
    return None if index is None else Decimal(index.value).scaleb(index.exponent)


def decimal(value: float | None) -> Decimal | None:
    return None if value is None else Decimal(str(value))


def check(reading: Reading, expected: dict[str, float]) -> None:
    """All registers that the file's publisher read, by the name that he gave them."""
    assert wh(reading.imported) == decimal(expected["1.8.0"])
    assert wh(reading.exported) == decimal(expected.get("2.8.0"))
    said = dict(reading.fields)
    for name, value in expected.items():
        text, _, unit = said[f"1-0:{name}*255"].partition(" ")
        assert Decimal(text) == decimal(value)
        assert unit == ("W" if name == "16.7.0" else "Wh")


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_gives_the_stated_files_and_indexes(name: str, sml: Path) -> None:
    expected = stated(sml, name)
    readings, refusals = heard((sml / f"{name}.bin").read_bytes())
    assert len(readings) == expected["frames_ok"]
    # One of them begins with the end of another file.
    assert len(refusals) == expected["frames_bad"] + (name == "EMH_eHZ-IW8E2AWL0EK2P")
    assert {one.reason for one in refusals} <= {Refused.INCOMPLETE}
    check(readings[0], expected["first"])
    check(readings[-1], expected["last"])
    indexes = [wh(one.imported) or Decimal(0) for one in readings]
    assert indexes == sorted(indexes)
    [identity] = {one.identity for one in readings}
    assert bytes.fromhex(identity)
    assert {dict(one.fields).get("number") for one in readings} == {NAMES[name]}


def test_every_folder_of_recordings_is_read_whole(sml: Path) -> None:
    assert {file.stem for file in sml.glob("*.bin")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_recording_without_any_one_byte_gives_no_wrong_index(name: str, sml: Path) -> None:
    data = (sml / f"{name}.bin").read_bytes()[:1500]
    whole = {(one.imported, one.exported) for one in heard(data)[0]}
    for place in range(0, len(data), 7):
        readings, _ = heard(data[:place] + data[place + 1 :])
        assert {(one.imported, one.exported) for one in readings} <= whole
