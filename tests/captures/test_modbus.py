"""Published Modbus frames: their checksums, and the values that the manual states for them."""

import struct
from pathlib import Path

import pytest
from pymodbus.framer.rtu import FramerRTU

from hal.index.modbus_frame import checksum, find_answer
from hal.index.modbus_map import Question
from tests.captures.place import CAPTURES
from tests.hal.modbus_end import crc, framed


@pytest.fixture(scope="session")
def modbus() -> Path:
    """The folder of frames."""
    folder = CAPTURES / "modbus"
    if not folder.is_dir():
        pytest.fail(f"no published frames in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def test_every_frame_has_the_checksum_of_three_implementations(modbus: Path) -> None:
    frames = sorted(modbus.glob("*.bin"))
    assert len(frames) >= 3
    for file in frames:
        raw = file.read_bytes()
        assert crc(raw[:-2]) == checksum(raw[:-2]) == raw[-2:], file.name
        assert FramerRTU.check_CRC(raw[:-2], int.from_bytes(raw[-2:], "big")), file.name


@pytest.mark.parametrize(
    ("name", "function", "value"),
    [("sdm_volt_response.bin", 4, 230.2), ("sdm_pulse_width_response.bin", 3, 100.0)],
)
def test_an_answer_is_found_among_noise_and_says_what_the_manual_says(
    name: str, function: int, value: float, modbus: Path
) -> None:
    raw = (modbus / name).read_bytes()
    question = Question(function, 0, 2)
    assert find_answer(b"\x00\x01" + raw + b"\xff", 1, question) == raw
    assert round(struct.unpack(">f", raw[3:7])[0], 3) == value
    assert find_answer(raw, 2, question) == b""
    assert find_answer(raw, 1, Question(function, 0, 4)) == b""
    for place in range(8 * len(raw)):
        hurt = bytearray(raw)
        hurt[place // 8] ^= 1 << place % 8
        assert find_answer(bytes(hurt), 1, question) == b""


def test_the_request_is_the_one_that_the_tests_far_end_understands(modbus: Path) -> None:
    raw = (modbus / "sdm_volt_request.bin").read_bytes()
    assert framed(bytes([1, 4, 0, 0, 0, 2])) == raw
