"""What a recorded line is told as: streams of every simulated meter, clean and damaged, tapes, and
what is no meter at all."""

import json
import re
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer import cbor
from cryptometer.steps import NS_PER_S
from firmware.analysis import Analysis, analyse
from firmware.checkup import Verdict, as_lines, worst
from firmware.main import main
from firmware.recording import LINE_BYTES_MAX, Recording, recording_of, recording_of_tape
from firmware.segments import HEAD_BYTES
from firmware.series import Level
from firmware.simulating import Kind
from firmware.speaking import HABITS, Plan, message_of
from firmware.tape import Answer, Tape, encode_said
from hal.index.axdr import Datum, Tag, encode_data
from hal.index.ciphering import Keys
from hal.index.dlms_answering import AnsweringMeter, MeterSettings
from hal.index.dlms_client import ClientSettings, DlmsClient, Transport
from hal.index.dlms_meter import Layout, Style, Told, telegram
from hal.index.dlms_push import Framing
from hal.index.hdlc import Address, Control, Frame
from hal.index.linky import Mode
from hal.index.linky_meter import pack as tic_pack
from hal.index.modbus_frame import checksum
from hal.index.p1_meter import pack
from hal.index.reading import Index, Reading, Refusal, Refused
from hal.index.sml_meter import SmlMeter, Value
from hal.program import EXIT_CONFIGURATION
from tests.hal.index.damage import damaged

BEGAN_S = 1_790_000_000
PUSHED = [Kind.LINKY, Kind.LINKY_HISTORIC, Kind.P1, Kind.D0, Kind.SML, Kind.DLMS_PUSH]
PLANS = {kind: Plan(kind, [Level(0, None, Fraction(3_600))]) for kind in PUSHED}


def messages(kind: Kind, number: int) -> list[bytes]:
    return [
        message_of(PLANS[kind], Told(1_234_000 + at, 5_000, 3_600, BEGAN_S + at), at)
        for at in range(number)
    ]


def line(kind: Kind, number: int = 12) -> bytes:
    return b"".join(messages(kind, number))


def told(data: bytes) -> Analysis:
    return analyse(recording_of(data))


def says(found: Analysis, *words: str) -> bool:
    return any(all(word in line for word in words) for line in as_lines(found.findings))


@pytest.mark.parametrize("kind", PUSHED)
def test_a_clean_line_is_told_with_its_meter_and_its_index(kind: Kind) -> None:
    found = told(line(kind)[37:])  # joined within a message
    assert found.driver == kind.partition("-historic")[0]
    assert found.good == 11
    assert found.identities == (HABITS[kind].identity,)
    assert found.newest is not None
    assert found.newest.imported is not None
    assert found.newest.imported.uwh == 1_234_011 * 10**6
    assert says(found, "ok", "import 1234.011", "10 Wh more")
    assert says(found, f'driver = "{found.driver}"', f'identity = "{HABITS[kind].identity}"')
    assert worst(found.findings) is not Verdict.WRONG


def test_the_register_that_counts_is_told_of_a_meter_that_has_the_export_only() -> None:
    meter = SmlMeter(bytes.fromhex("0a01545354000012d687"))
    exported = Value(bytes.fromhex("0100020800ff"), 437_300, 30, -1)
    found = told(b"".join(meter.file(number, [exported]) for number in range(3)))
    assert says(found, 'driver = "sml", register = "export", identity = ')


@pytest.mark.parametrize("share", [0.3, 0.6])
@pytest.mark.parametrize("kind", PUSHED)
def test_a_damaged_line_is_told_all_the_same_and_what_was_refused(kind: Kind, share: float) -> None:
    came = list(damaged(messages(kind, 40), share, Random(3)))
    found = told(b"".join(message for message, _ in came))
    assert found.driver == kind.partition("-historic")[0]
    assert found.good >= 5
    refused = found.refused.values()
    assert sum(one.count for one in refused) >= 5
    assert all(0 <= one.place <= found.size for one in refused)
    assert says(found, "refused", "near byte")


@pytest.mark.parametrize("kind", PUSHED[:-1])  # the marks of the last are the sums of its frames
def test_a_line_without_a_whole_message_is_told_by_its_marks(kind: Kind) -> None:
    hurt = b"".join(one[: len(one) * 2 // 3] for one in messages(kind, 9))
    found = told(hurt)
    assert (found.driver, found.good) == (kind.partition("-historic")[0], 0)
    assert worst(found.findings) is Verdict.WRONG


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("layout", [Layout.OBJECTS, Layout.PAIRS])
def test_every_framing_of_a_push_is_told(framing: Framing, layout: Layout) -> None:
    style = Style(layout=layout, framing=framing)
    data = b"".join(telegram(Told(1_000 + at, 7, 500, BEGAN_S), style, at) for at in range(5))
    found = told(data)
    assert (found.driver, found.good) == ("dlms-push", 5)
    assert says(found, f'framing = "{framing}"')


def test_a_list_without_codes_is_told_with_what_to_do() -> None:
    values = tuple(Datum(Tag.DOUBLE_LONG_UNSIGNED, value) for value in (222_813, 13_818, 10_442))
    message = b"\x0f" + bytes(5) + encode_data(Datum(Tag.STRUCTURE, values))
    frame = Frame(Address(16), Address(1), Control.UI, b"\xe6\xe7\x00" + message)
    found = told(frame.encode() * 3)
    assert (found.driver, found.good) == ("dlms-push", 3)
    assert says(found, "wrong", "3 values without OBIS codes")
    assert says(found, "list_order")


KEYS = Keys(bytes(range(16)), bytes(range(16, 32)))


def sealed_line(framing: Framing) -> bytes:
    style = Style(framing=framing, keys=KEYS)
    return b"".join(telegram(Told(1_000, 7, 500, BEGAN_S), style, at) for at in range(5))


@pytest.mark.parametrize("framing", Framing)
def test_a_ciphered_push_is_read_with_its_keys(framing: Framing) -> None:
    found = analyse(recording_of(sealed_line(framing)), KEYS)
    assert (found.driver, found.good, found.refused) == ("dlms-push", 5, {})
    assert found.newest is not None
    assert found.newest.imported == Index(1_000)
    assert says(found, f'framing = "{framing}", encryption_key_source')
    assert not says(found, "nobody could check")
    assert KEYS.encryption.hex() not in str(found)


def test_without_the_authentication_key_it_is_said_that_no_tag_was_checked() -> None:
    found = analyse(recording_of(sealed_line(Framing.HDLC)), Keys(KEYS.encryption))
    assert found.good == 5
    assert says(found, "note", "nobody could check")


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize(
    "keys", [Keys(bytes(16), KEYS.authentication), Keys(KEYS.encryption, bytes(16))]
)
def test_that_keys_are_those_of_another_meter_is_said(framing: Framing, keys: Keys) -> None:
    found = analyse(recording_of(sealed_line(framing)), keys)
    assert (found.driver, found.good) == ("dlms-push", 0)
    assert says(found, "wrong", "no message opens with the key")
    assert not says(found, "without its keys")


def test_keys_do_no_harm_to_a_line_in_clear() -> None:
    data = b"".join(telegram(Told(1_000, 7, 500, BEGAN_S), Style(), at) for at in range(5))
    assert analyse(recording_of(data), KEYS) == told(data)


def test_a_capture_is_read_with_keys_from_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, key, other = (tmp_path / name for name in ("line.bin", "key", "auth"))
    line.write_bytes(sealed_line(Framing.MBUS))
    assert KEYS.authentication is not None
    for path, one in ((key, KEYS.encryption), (other, KEYS.authentication)):
        path.write_text(one.hex() + "\n")
        path.chmod(0o600)

    def run(*words: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["cryptometer-firmware", "analyze", *map(str, words)])
        code = main()
        said = capsys.readouterr()
        return code, said.out + said.err

    monkeypatch.chdir(tmp_path)
    code, text = run("--json", "--key", "key", "--auth-key", other, line)
    assert (code, json.loads(text)["good"]) == (0, 5)
    code, text = run(line, "--auth-key", other)
    assert (code, "--key opens" in text) == (EXIT_CONFIGURATION, True)
    key.chmod(0o644)
    code, text = run(line, "--key", key)
    assert (code, "readable by others" in text) == (EXIT_CONFIGURATION, True)
    key.chmod(0o600)
    key.write_text("0x12\n")
    code, text = run(line, "--key", key)
    assert (code, "there are not 32 hexadecimal digits in" in text) == (EXIT_CONFIGURATION, True)
    assert "0x12" not in text


@pytest.mark.parametrize("framing", [Framing.HDLC, Framing.WRAPPER, Framing.MBUS])
def test_a_long_ciphered_push_in_frames_is_not_taken_for_a_p1_port(framing: Framing) -> None:
    style = Style(number="9" * 110, framing=framing, keys=KEYS)
    line = telegram(Told(1_000, 7, 500, BEGAN_S), style, 1)
    assert GENERAL_GLO_LONG.search(line)
    assert told(line).driver == "dlms-push"
    if framing is Framing.HDLC:
        damaged_line = line[:-4] + bytes([line[-4] ^ 1]) + line[-3:]
        assert told(damaged_line).driver == "dlms-push"
        assert set(told(damaged_line).refused) == {Refused.CHECKSUM}


GENERAL_GLO_LONG = re.compile(rb"\xdb\x08.{8}\x82", re.DOTALL)  # as a ciphered P1 telegram begins


@pytest.mark.parametrize("framing", Framing)
def test_a_ciphered_push_is_told_with_what_it_needs(framing: Framing) -> None:
    found = told(sealed_line(framing))
    assert (found.driver, found.good) == ("dlms-push", 0)
    assert set(found.refused) == {Refused.NOT_AUTHENTIC}
    assert says(found, "wrong", "ciphered")
    assert says(found, "encryption_key_source")


def test_a_dlms_conversation_is_told_by_its_frames() -> None:
    random = Random(2)
    client = DlmsClient(ClientSettings(Transport.HDLC), random.randbytes)
    meter = AnsweringMeter(
        MeterSettings(), lambda _: Told(5_000, 6_000, 7, BEGAN_S), random.randbytes
    )
    came, heard = b"", b""
    for at_ns in range(0, NS_PER_S // 2, NS_PER_S // 100):
        client.receive(came, at_ns)
        came = meter.receive(client.speak(at_ns), at_ns)
        heard += came
    found = told(heard)
    assert found.driver == "dlms"
    assert says(found, "HDLC")


def modbus_answer(address: int, registers: bytes) -> bytes:
    frame = bytes((address, 4, len(registers))) + registers
    return frame + checksum(frame)


def test_answers_on_a_modbus_bus_are_told_with_their_addresses() -> None:
    random = Random(1)
    data = b"".join(
        modbus_answer(address, random.randbytes(8)) + b"\0" * random.randrange(2)
        for _ in range(50)
        for address in (1, 17)
    )
    found = told(data)
    assert (found.driver, found.good) == ("modbus", 100)
    assert says(found, "address 17: 50 answers")
    assert says(found, "scan")


# --- What is wrong. ------------------------------------------------------------------------------


def test_line_ends_that_an_editor_changed_are_named() -> None:
    found = told(line(Kind.P1).replace(b"\r", b""))
    assert (found.driver, found.good) == ("p1", 0)
    assert says(found, "carriage return")


def test_tabulators_that_became_spaces_are_named() -> None:
    bare = bytes(byte & 0x7F for byte in line(Kind.LINKY))
    found = told(bare.replace(b"\t", b" "))
    assert (found.driver, found.good) == ("linky", 0)
    assert says(found, "tabulators were changed")
    assert not says(told(bare), "tabulators")


def test_another_meters_customer_output_is_told_as_such() -> None:
    groups = [("ADS", "041376123456"), ("MESURES1", "BT"), ("PAPP", "00123")]
    found = told(tic_pack(groups, Mode.HISTORIC) * 12)
    assert (found.driver, found.good) == ("linky", 0)
    assert says(found, "another kind of meter")


def test_a_p1_meter_that_does_not_name_itself_is_told_with_the_key_it_needs() -> None:
    lines = ("0-0:1.0.0(260701020000S)", "1-0:1.8.0(00001234.011*kWh)")
    found = told(pack("/CME5", iter(lines)) * 12)
    assert (found.driver, found.good, found.identities) == ("p1", 12, ("",))
    assert says(found, "settings", 'driver = "p1", unnamed = true')
    assert says(found, "do not say which meter it is")
    assert not any("unnamed" in one.says for one in told(line(Kind.P1)).findings)


def test_a_meter_that_states_no_unit_is_to_be_compared_with_its_display() -> None:
    bare = bytes(byte & 0x7F for byte in line(Kind.D0)).replace(b"*kWh", b"")
    found = told(bare)
    assert found.driver == "d0"
    assert says(found, "states no unit")
    assert says(found, "display")


def test_two_meters_on_one_line_are_told() -> None:
    other = replace(PLANS[Kind.P1], identity="E0099000000000999")
    one = message_of(other, Told(9, 9, 9, BEGAN_S), 0)
    found = told(b"".join(part + one for part in messages(Kind.P1, 4)))
    assert len(found.identities) == 2
    assert says(found, "wrong", "several identities")


def test_an_index_that_goes_back_is_told() -> None:
    found = told(line(Kind.P1, 5) + line(Kind.P1, 5))
    assert says(found, "wrong", "1 messages have a smaller index")


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no byte"),
        (bytes(5_000), "00 or FF"),
        (b"Linux login: " * 400, "mostly text"),
        (Random(4).randbytes(5_000), "another speed"),
    ],
)
def test_what_is_no_meter_is_said_to_be_none_with_what_to_look_at(data: bytes, word: str) -> None:
    found = told(data)
    assert found.driver == ""
    assert says(found, word)
    assert worst(found.findings) is Verdict.WRONG


def test_of_a_long_line_the_first_part_is_read_and_that_is_said() -> None:
    one = line(Kind.LINKY_HISTORIC, 50)
    found = analyse(recording_of(one * (LINE_BYTES_MAX // len(one) + 2)))
    assert found.size == LINE_BYTES_MAX
    assert says(found, "the first ones")


def test_programs_are_told_the_same() -> None:
    found = json.loads(json.dumps(told(line(Kind.SML)).as_json()))
    assert found["driver"] == "sml"
    assert found["newest"]["import_kwh"] == "1234.0110"


# --- Tapes. --------------------------------------------------------------------------------------


def tape_of(
    source: dict[str, object], looks: list[tuple[bytes, list[Reading | Refusal]]]
) -> Recording:
    written: list[bytes] = []
    tape = Tape(written.append)
    head = cbor.encode({2: json.dumps({"source": source})})
    for number, (raw, said) in enumerate(looks):
        tape.put_machine((number + 1) * NS_PER_S)
        tape.put(Answer.SPOKE, raw, *map(encode_said, said))
    tape.flush()
    return recording_of_tape([head, *(one[HEAD_BYTES:] for one in written)])


def test_a_tape_gives_the_line_and_the_driver_it_was_recorded_with() -> None:
    looks: list[tuple[bytes, list[Reading | Refusal]]] = [
        (one, []) for one in messages(Kind.SML, 9)
    ]
    found = analyse(tape_of({"driver": "sml"}, looks))
    assert (found.driver, found.good) == ("sml", 9)
    assert worst(found.findings) is not Verdict.WRONG
    found = analyse(tape_of({"driver": "p1"}, looks))
    assert found.driver == "sml"
    assert says(found, "wrong", "driver = 'p1'")


def test_a_tape_of_a_line_without_bytes_gives_what_was_said() -> None:
    readings = [Reading("19210043", Index(1_000 + at), None, at, at) for at in range(4)]
    refusal = Refusal(Refused.SILENT, "no answer", 5)
    found = analyse(tape_of({"driver": "modbus"}, [(b"", [*readings, refusal])]))
    assert (found.driver, found.good) == ("modbus", 4)
    assert says(found, "import 1.003 kWh", "3 Wh more")
    assert says(found, "1 refused, silent")


def test_a_tape_of_a_pulse_line_is_told_as_one() -> None:
    found = analyse(tape_of({"driver": "serial"}, [(b"\0\0\0", [])]))
    assert found.driver == ""
    assert says(found, "wrong", "pulse line")
    assert says(found, "replay")


def test_what_a_tape_says_may_be_beyond_what_any_meter_counts() -> None:
    odd = [
        Reading("1", Index(5, -18), Index(7, 18), 0, 0, meter_time_s=2**62),
        Reading("1", Index(4, -18), Index(7, 18), 0, 0, meter_time_s=-(10**12)),
    ]
    found = analyse(tape_of({"driver": "modbus"}, [(b"", [*odd])]))
    assert found.good == 2
    assert says(found, "wrong", "smaller index")


@given(st.lists(st.binary(max_size=64), max_size=6))
def test_no_payload_of_a_tape_ends_it_otherwise_than_in_order(payloads: list[bytes]) -> None:
    analyse(recording_of_tape(payloads))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=400), st.sampled_from(PUSHED), st.integers(0, 400))
def test_no_bytes_raise_and_what_is_said_is_bounded(noise: bytes, kind: Kind, at: int) -> None:
    one = line(kind, 1)
    found = told(one[:at] + noise + one[at:])
    assert len(found.findings) < 120
    assert all(len(finding.says) < 400 for finding in found.findings)
