"""Recorded telegrams and published frames of DLMS meters, each with its stated result."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from hal.index.ciphering import Keys
from hal.index.dlms_push import Framing, PushDecoder, PushSettings, framing_of
from hal.index.hdlc import Address, Control, Frame, HdlcReceiver, Parameters, decode_parameters
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused
from tests.captures.place import CAPTURES

AT_NS, LATER_NS = 1, 60 * 10**9
TELEGRAMS = {
    "hdlc_kaifa_ma304h3e.bin": Framing.HDLC,
    "hdlc_norway_han_3phase.bin": Framing.HDLC,
    "hdlc_landis_gyr_e450.bin": Framing.HDLC,
    "raw_salzburg_netz.bin": Framing.BARE,
}


@pytest.fixture(scope="session")
def dlms() -> Path:
    """The folder of recorded telegrams."""
    folder = CAPTURES / "dlms"
    if not folder.is_dir():
        pytest.fail(f"no recorded telegrams in {folder}: set CRYPTOMETER_CAPTURES to their folder")
    return folder


def stated(dlms: Path, name: str) -> dict[str, Any]:
    expected: dict[str, Any] = json.loads((dlms / f"{name}.expect.json").read_bytes())
    return expected


def keys_of(expected: dict[str, Any]) -> Keys | None:
    if "key_hex" not in expected:
        return None
    return Keys(bytes.fromhex(expected["key_hex"]), bytes.fromhex(expected["auth_key_hex"]))


def heard(data: bytes, settings: PushSettings) -> list[Reading | Refusal]:
    decoder = PushDecoder(settings)
    return [*decoder.receive(data, AT_NS), *decoder.receive(b"", LATER_NS)]


def only(data: bytes, settings: PushSettings) -> Reading:
    [reading] = heard(data, settings)
    assert isinstance(reading, Reading)
    return reading


def frames_of(data: bytes) -> list[Frame]:
    receiver = HdlcReceiver()
    found = [*receiver.receive(data, AT_NS), *receiver.receive(b"", LATER_NS)]
    assert all(isinstance(one, Frame) for one in found)
    return [one for one in found if isinstance(one, Frame)]


@pytest.mark.parametrize("name", TELEGRAMS)
def test_a_telegram_says_what_is_stated(dlms: Path, name: str) -> None:
    expected = stated(dlms, name)
    reading = only((dlms / name).read_bytes(), PushSettings(TELEGRAMS[name], keys_of(expected)))
    fields = dict(reading.fields)
    for code, value in expected["values"].items():
        assert Decimal(fields[code].split()[0]) == Decimal(str(value)), code
    for code, text in expected["strings"].items():
        assert fields["clock" if code == "0.0.0.0.0.0" else code] == text
    for code, index in (("1.0.1.8.0.255", reading.imported), ("1.0.2.8.0.255", reading.exported)):
        value = expected["values"].get(code)
        assert index == (None if value is None else Index(int(value)))


@pytest.mark.parametrize(
    "name", [name for name, framing in TELEGRAMS.items() if framing is Framing.HDLC]
)
def test_every_frame_of_a_telegram_is_whole(dlms: Path, name: str) -> None:
    data, expected = (dlms / name).read_bytes(), stated(dlms, name)
    frames = frames_of(data)
    assert len(frames) == expected["hdlc_frames_good_fcs"]
    assert sum(len(one.encode()) for one in frames) == len(data)


@pytest.mark.parametrize(("name", "framing"), list(TELEGRAMS.items()))
def test_the_framing_of_a_telegram_is_told_without_its_keys(
    dlms: Path, name: str, framing: Framing
) -> None:
    assert framing_of((dlms / name).read_bytes()) is framing


def test_who_each_meter_is_and_what_its_telegram_lacks(dlms: Path) -> None:
    found = {}
    for name, framing in TELEGRAMS.items():
        settings = PushSettings(framing, keys_of(stated(dlms, name)))
        reading = only((dlms / name).read_bytes(), settings)
        found[name] = reading.identity, reading.caveats, reading.meter_time_s
    salzburg = int(datetime(2022, 11, 12, 15, 54, tzinfo=UTC).timestamp())
    assert found == {
        "hdlc_kaifa_ma304h3e.bin": ("6970631401753985", frozenset(), None),
        "hdlc_norway_han_3phase.bin": ("", frozenset(), None),
        "hdlc_landis_gyr_e450.bin": (
            "LGZ677370B177",
            frozenset({Caveat.UNIT_ASSUMED}),
            None,
        ),
        "raw_salzburg_netz.bin": ("1KFM0200234804", frozenset({Caveat.WEAK_CHECK}), salzburg),
    }


def test_kaifas_list_says_its_power_and_its_meter(dlms: Path) -> None:
    reading = only((dlms / "hdlc_kaifa_ma304h3e.bin").read_bytes(), PushSettings())
    fields = dict(reading.fields)
    assert fields["1.0.1.7.0.255"].split()[0] == "948"
    assert fields["0.0.96.1.7.255"] == "MA304H3E"
    assert fields["clock"] == "2017-09-15 05:33:40"


def test_the_tariffs_of_the_e450_add_up(dlms: Path) -> None:
    name = "hdlc_landis_gyr_e450.bin"
    settings = PushSettings(keys=keys_of(stated(dlms, name)))
    fields = dict(only((dlms / name).read_bytes(), settings).fields)
    total, first, second = (int(fields[f"1.0.1.8.{tariff}.255"]) for tariff in range(3))
    assert first + second == total


def test_the_e450_is_refused_under_another_key_and_when_any_byte_is_altered(dlms: Path) -> None:
    name = "hdlc_landis_gyr_e450.bin"
    data, keys = (dlms / name).read_bytes(), keys_of(stated(dlms, name))
    assert keys is not None
    assert keys.authentication is not None
    for wrong in (
        Keys(keys.authentication, keys.encryption),
        Keys(keys.encryption, keys.encryption),
        Keys(keys.authentication, keys.authentication),
        Keys(keys.authentication),
        None,
    ):
        [refusal] = heard(data, PushSettings(keys=wrong))
        assert isinstance(refusal, Refusal)
        assert refusal.reason is Refused.NOT_AUTHENTIC
    # The sealed bytes of the blocks, with frames whose sums are right again.
    sealed = [one.information for one in frames_of(data)]
    for number, information in enumerate(sealed):
        for at in range(20, len(information), 3):
            altered = information[:at] + bytes([information[at] ^ 1]) + information[at + 1 :]
            line = b"".join(
                Frame(
                    one.destination,
                    one.source,
                    one.control,
                    altered if which == number else one.information,
                ).encode()
                for which, one in enumerate(frames_of(data))
            )
            found = heard(line, PushSettings(keys=keys))
            assert found
            assert all(isinstance(one, Refusal) for one in found), (number, at)


@pytest.mark.parametrize("name", ["snrm.bin", "ua.bin", "aarq_public.bin"])
def test_a_published_frame_is_whole_and_written_to_the_same_bytes(dlms: Path, name: str) -> None:
    data = (dlms / name).read_bytes()
    frames = frames_of(data)
    assert len(frames) == stated(dlms, name)["hdlc_good"]
    assert frames[0].encode() == data


def test_published_frames_set_up_a_link(dlms: Path) -> None:
    [snrm] = frames_of((dlms / "snrm.bin").read_bytes())
    [ua] = frames_of((dlms / "ua.bin").read_bytes())
    [aarq] = frames_of((dlms / "aarq_public.bin").read_bytes())
    assert (snrm.destination, snrm.source) == (Address(1, 17, 2), Address(16))
    assert (snrm.control, ua.control) == (Control.SNRM, Control.UA)
    # Sizes are written with their length: 0x01 0x9a is one byte, 154.
    assert decode_parameters(ua.information) == Parameters(154, 154, 1, 1)
    assert aarq.numbered
    assert aarq.information[:4] == bytes((0xE6, 0xE6, 0x00, 0x60))
