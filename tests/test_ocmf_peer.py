"""What pyocmf says of the project's OCMF records: that they hold, what they say, and that no byte
of them can be changed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cryptometer.authority_records import Use
from cryptometer.steps import ClockState, step_start_ms
from gateway.exports.ocmf import Close, key_text, ocmf_container
from tests.gateway.exports.test_ocmf import CLOSE, KEY, STEP, record_of
from tests.keys import p256_signer
from tests.test_peers import ask

PUBLIC = key_text(KEY.public)
# A plate with nothing odd on it: any other name is a matter of JSON, and passes as well.
PLAIN = replace(CLOSE, serial="MID-0001")


def judge(*closes: Close) -> list[Any]:
    answers: list[Any] = ask("ocmf_peer.py", [[record_of(close), PUBLIC] for close in closes])
    assert len(answers) == len(closes) > 0
    return answers


def test_a_record_holds_and_says_what_the_close_said() -> None:
    [said] = judge(PLAIN)
    assert said["verdict"] == "VALID"
    assert said["algorithm"] == "ECDSA-secp256r1-SHA256"
    assert said["meter"] == "MID-0001"
    assert said["page"] == f"T{STEP}"
    assert said["readings"] == [
        ["2026-05-03T01:00:00,000+0000 S", "B", "123456789.000000001", "1-0:2.8.0", "kWh"],
        ["2026-05-03T01:15:00,000+0000 S", "E", "123456790.204000009", "1-0:2.8.0", "kWh"],
    ]
    assert said["extra"]["XI"] == PLAIN.identity.hex()


def test_only_a_generators_register_is_odd_to_rules_made_for_charging() -> None:
    """pyocmf reads strictly by the format, then by German law on charging, which knows imports."""
    taken, generated = judge(replace(PLAIN, use=Use.CONSUMPTION), PLAIN)
    assert taken["odd"] == []
    assert all(one.startswith("No law-relevant ") for one in generated["odd"])


def test_records_of_every_use_clock_and_name_hold() -> None:
    closes = [
        replace(CLOSE, use=use, state=state, begin_ms=step_start_ms(STEP - 3, 900) + 7, meter=name)
        for use in Use
        for state in ClockState
        for name in ("m0", "a-b")
    ]
    for close, said in zip(closes, judge(*closes), strict=True):
        assert said["verdict"] == "VALID", close
        assert said["meter"] == close.serial
        assert said["readings"][0][0].endswith(f":00,007+0000 {close.state.value}")


def test_no_changed_record_holds() -> None:
    record = record_of(PLAIN)
    _, payload, _ = record.split("|")
    changed = [
        record.replace("123456790.204000009", "123456790.204000010"),
        record.replace("T01:15", "T01:30"),
        record.replace(" S", " I"),
        record.replace("MID-0001", "MID-0002"),
        record.replace('"XL":17', '"XL":18'),
        record.replace(payload, payload.replace(",", ", ", 1)),
    ]
    assert all(one != record for one in changed)
    answers = ask("ocmf_peer.py", [[one, PUBLIC] for one in changed])
    assert [said["verdict"] for said in answers] == ["INVALID"] * len(changed)
    [other] = ask("ocmf_peer.py", [[record, key_text(p256_signer(61).public)]])
    assert other["verdict"] == "INVALID"


@pytest.mark.parametrize("tamper", [False, True])
def test_a_container_is_opened_and_each_record_judged(tmp_path: Path, tamper: bool) -> None:
    text = ocmf_container([record_of(PLAIN), record_of(CLOSE)], KEY.public)
    if tamper:
        text = text.replace("MID-0001", "MID-0003")
    file = tmp_path / "closes.xml"
    file.write_text(text)
    expected = ["INVALID" if tamper else "VALID", "VALID"]
    assert ask("ocmf_peer.py", ["xml", str(file)]) == [expected]
