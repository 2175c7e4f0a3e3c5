"""Every recorded line is told as what it is, without a word of where it comes from."""

from json import loads
from pathlib import Path

import pytest

from firmware.analysis import Analysis, analyse
from firmware.checkup import Verdict, worst
from firmware.recording import recording_of
from hal.index.ciphering import Keys
from hal.index.reading import Index, Refused
from tests.captures.place import CAPTURES

# Which driver reads it, what else must be told of it, and how many messages are good.
LINES = {
    "linky/hist_enedis.bin": ("linky", "historic", 1),
    "linky/hist_mono_tempo_10frames.bin": ("linky", "historic", 10),
    "linky/std_mono_enedis.bin": ("linky", "standard", 1),
    "linky/std_mono_enedis_bad_pcoup.bin": ("linky", "standard", 1),
    "linky/std_mono_producer.bin": ("linky", "standard", 1),
    "p1/dsmr42_kaifa.txt": ("p1", "P1", 1),
    "p1/dsmr5_isk5_spec.txt": ("p1", "P1", 1),
    "p1/dsmr5_two_mbus.txt": ("p1", "P1", 1),
    "p1/fluvius_v171.txt": ("p1", "P1", 1),
    "p1/isk5_recording_first.txt": ("p1", "P1", 52),
    "sml/DZG_DVS-7420.2V.G2_mtr0.bin": ("sml", "SML", 1),
    "sml/EMH_eHZ-HW8E2A5L0EK2P.bin": ("sml", "SML", 12),
    "sml/EMH_eHZ-IW8E2AWL0EK2P.bin": ("sml", "SML", 12),
    "sml/ISKRA_MT175_eHZ.bin": ("sml", "SML", 10),
    "iec62056_21/emh_ehz_push_mode_d.bin": ("d0", "pushed", 2),
    "iec62056_21/mode_e_short.bin": ("d0", "asked", 1),
    "dlms/aarq_public.bin": ("dlms", "HDLC", 1),
    "dlms/snrm.bin": ("dlms", "HDLC", 1),
    "dlms/ua.bin": ("dlms", "HDLC", 1),
    "dlms/hdlc_kaifa_ma304h3e.bin": ("dlms-push", "HDLC", 1),
    "dlms/hdlc_norway_han_3phase.bin": ("dlms-push", "HDLC", 1),
    "dlms/hdlc_landis_gyr_e450.bin": ("dlms-push", "HDLC", 0),  # ciphered
    "dlms/raw_salzburg_netz.bin": ("dlms-push", "without frames", 1),
    "modbus/sdm_pulse_width_response.bin": ("modbus", "Modbus RTU", 1),
    "modbus/sdm_volt_request.bin": ("modbus", "Modbus RTU", 1),
    "modbus/sdm_volt_response.bin": ("modbus", "Modbus RTU", 1),
}
FOLDERS = {name.partition("/")[0] for name in LINES}


@pytest.fixture(scope="session")
def captures() -> Path:
    """The folder of recorded lines."""
    for folder in FOLDERS:
        if not (CAPTURES / folder).is_dir():
            pytest.fail(f"no recorded lines in {CAPTURES / folder}: set CRYPTOMETER_CAPTURES")
    return CAPTURES


def told(captures: Path, name: str) -> Analysis:
    return analyse(recording_of((captures / name).read_bytes()))


@pytest.mark.parametrize("name", LINES)
def test_a_recorded_line_is_told_as_what_it_is(captures: Path, name: str) -> None:
    driver, part, good = LINES[name]
    found = told(captures, name)
    assert (found.driver, found.good) == (driver, good)
    assert part in found.protocol
    assert (worst(found.findings) is Verdict.WRONG) == (good == 0)


@pytest.mark.parametrize("name", [name for name in LINES if not name.startswith("modbus")])
def test_a_line_written_down_in_hexadecimal_digits_is_told_as_well(
    captures: Path, name: str
) -> None:
    dump = (captures / name).read_bytes().hex(" ").upper().encode()
    assert analyse(recording_of(dump)) == told(captures, name)


def test_that_a_line_is_ciphered_is_told_with_what_it_needs(captures: Path) -> None:
    found = told(captures, "dlms/hdlc_landis_gyr_e450.bin")
    assert set(found.refused) == {Refused.NOT_AUTHENTIC}
    assert any("ciphered" in one.says and "keys" in one.do for one in found.findings)


def test_a_ciphered_line_is_read_with_its_keys(captures: Path) -> None:
    name = "dlms/hdlc_landis_gyr_e450.bin"
    stated = loads((captures / f"{name}.expect.json").read_bytes())
    keys = Keys(bytes.fromhex(stated["key_hex"]), bytes.fromhex(stated["auth_key_hex"]))
    found = analyse(recording_of((captures / name).read_bytes()), keys)
    assert (found.good, found.refused) == (1, {})
    assert found.newest is not None
    assert found.newest.imported == Index(4_408_736)


def test_no_recorded_line_is_left_out(captures: Path) -> None:
    there = {
        f"{folder}/{file.name}"
        for folder in FOLDERS
        for file in (captures / folder).iterdir()
        if file.suffix != ".json"
    }
    assert there == set(LINES)
