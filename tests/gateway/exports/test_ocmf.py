"""OCMF records of step closes: what they say, and what has none. tests/test_ocmf_peer verifies."""

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cryptometer.authority_records import Use
from cryptometer.errors import ConfigurationError
from cryptometer.keys import PublicKey
from cryptometer.steps import ClockState, step_start_ms
from gateway.exports.ocmf import Close, key_text, ocmf_container, ocmf_record
from tests.gateway.exports.golden import QUARTER_S, SOURCE, is_golden
from tests.keys import p256_signer, signer

KEY = p256_signer(60)
STEP = 1_975_300
SOFTWARE = ("cryptometer-gateway", "0.1.0")
CLOSE = Close(
    meter="m0",
    serial='MID "1" | é',
    use=Use.GENERATION,
    step=STEP,
    identity=bytes(32),
    device=bytes([1]) * 32,
    leaf=17,
    begin_ms=step_start_ms(STEP, QUARTER_S),
    end_ms=step_start_ms(STEP + 1, QUARTER_S),
    before_uwh=123_456_789_000_000_001,
    after_uwh=123_456_790_204_000_009,
    transferred_uwh=1_204_000_008,
    state=ClockState.SYNCHRONISED,
    error_ms=20,
)


def record_of(close: Close, key: Any = KEY) -> str:
    return ocmf_record(close, SOURCE, key.public, key.sign, SOFTWARE)


def payload_of(record: str) -> dict[str, Any]:
    head, payload, _ = record.split("|")
    assert head == "OCMF"
    found: dict[str, Any] = json.loads(payload, parse_float=str)
    return found


def test_the_payload_is_the_golden_one() -> None:
    assert is_golden("ocmf-payload.json", record_of(CLOSE).split("|")[1] + "\n")


def test_registers_pass_through_no_float() -> None:
    readings = payload_of(record_of(CLOSE))["RD"]
    assert [one["RV"] for one in readings] == ["123456789.000000001", "123456790.204000009"]


def test_a_record_names_the_close_the_devices_key_and_the_checkpoint() -> None:
    payload = payload_of(record_of(CLOSE))
    assert (payload["XI"], payload["XK"]) == (CLOSE.identity.hex(), CLOSE.device.hex())
    assert (payload["XS"], payload["XR"]) == (4_711, SOURCE.checkpoint.root.hex())
    assert payload["GS"] == KEY.public.thumbprint.hex()
    assert payload["PG"] == f"T{STEP}"


@pytest.mark.parametrize("state", ClockState)
def test_the_state_of_the_clock_is_told_letter_by_letter(state: ClockState) -> None:
    readings = payload_of(record_of(replace(CLOSE, state=state)))["RD"]
    assert all(one["TM"].endswith(f"+0000 {state.value}") for one in readings)
    assert all(one["EF"] == ("t" if state is ClockState.UNKNOWN else "") for one in readings)


def test_a_clock_that_may_be_wrong_by_more_than_five_seconds_is_flagged() -> None:
    readings = payload_of(record_of(replace(CLOSE, error_ms=5_001)))["RD"]
    assert [one["EF"] for one in readings] == ["t", "t"]


@pytest.mark.parametrize("use", Use)
def test_what_members_take_is_import_and_what_generators_give_is_export(use: Use) -> None:
    readings = payload_of(record_of(replace(CLOSE, use=use)))["RD"]
    code = "1-0:1.8.0" if use is Use.CONSUMPTION else "1-0:2.8.0"
    assert [one["RI"] for one in readings] == [code, code]


@given(st.text(max_size=120))
@example('","RD":[]|{"SD":"00"}')
def test_no_name_plate_breaks_the_sections(serial: str) -> None:
    record = record_of(replace(CLOSE, serial=serial))
    assert record.isascii()
    assert record.count("|") == 2
    payload = payload_of(record)
    assert payload["MS"] == serial
    assert len(payload["RD"]) == 2


def test_an_ed25519_key_is_refused_and_told_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="export ocmf-key"):
        record_of(CLOSE, signer(1))
    with pytest.raises(ConfigurationError, match="P-256"):
        key_text(signer(1).public)


def test_registers_that_differ_from_what_counted_give_no_record() -> None:
    with pytest.raises(ConfigurationError, match="cannot say that"):
        record_of(replace(CLOSE, transferred_uwh=CLOSE.transferred_uwh - 1))


def test_a_container_holds_each_record_and_the_key() -> None:
    from xml.etree.ElementTree import fromstring

    records = [record_of(CLOSE), record_of(replace(CLOSE, meter="m1"))]
    found = fromstring(ocmf_container(records, KEY.public))  # noqa: S314 - our own
    assert [one.text for one in found.iter("signedData")] == records
    assert {one.text for one in found.iter("publicKey")} == {key_text(KEY.public)}


def test_the_key_is_the_one_that_the_library_reads() -> None:
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    from cryptometer.keys import from_library

    read: PublicKey = from_library(load_der_public_key(bytes.fromhex(key_text(KEY.public))))
    assert read == KEY.public
