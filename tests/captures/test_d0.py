"""Recorded messages of IEC 62056-21, each with its stated result."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hal.index.d0 import SILENCE_NS, D0Decoder
from hal.index.reading import Caveat, Index, Reading
from tests.captures.place import CAPTURES


@pytest.fixture(scope="session")
def messages() -> Path:
    """The folder of recorded messages."""
    folder = CAPTURES / "iec62056_21"
    if not folder.is_dir():
        pytest.fail(f"no recorded messages in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def stated(messages: Path, name: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((messages / f"{name}.expect.json").read_bytes())
    return expected


def heard(messages: Path, name: str) -> list[Reading]:
    decoder = D0Decoder()
    outcome = decoder.receive((messages / name).read_bytes(), 0)
    outcome += decoder.receive(b"", SILENCE_NS)
    readings = [one for one in outcome if isinstance(one, Reading)]
    assert readings == outcome
    return readings


def kwh(index: Index | None) -> Decimal | None:
    return None if index is None else Decimal(index.value).scaleb(index.exponent - 3)


def test_two_pushed_messages_give_the_stated_indexes_and_say_that_the_unit_is_assumed(
    messages: Path,
) -> None:
    name = "emh_ehz_push_mode_d.bin"
    readings = heard(messages, name)
    assert [str(kwh(one.imported)) for one in readings] == stated(messages, name)["values"]
    for one in readings:
        assert one.identity == "0000680476"
        assert one.exported is None
        assert one.caveats == {Caveat.UNIT_ASSUMED, Caveat.WEAK_CHECK}


def test_an_answer_without_a_block_check_gives_the_stated_indexes_and_is_weak(
    messages: Path,
) -> None:
    name = "mode_e_short.bin"
    [reading] = heard(messages, name)
    expected = stated(messages, name)
    assert expected["bcc"] is None
    assert reading.caveats == {Caveat.WEAK_CHECK}
    assert reading.identity == "1234567890123456"
    registers = {"1.8.0": reading.imported, "2.8.0": reading.exported}
    assert {code: f"{kwh(one)} kWh" for code, one in registers.items()} == expected["values"]


def test_the_folder_of_recordings_is_read_whole(messages: Path) -> None:
    assert {file.name for file in messages.glob("*.bin")} == {
        "emh_ehz_push_mode_d.bin",
        "mode_e_short.bin",
    }
