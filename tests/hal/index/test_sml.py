"""SML push: what is read, what is refused, and what a bad line does to it."""

import os
from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_S
from hal.index.crc16 import x25
from hal.index.plausible import Limits
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused, Register
from hal.index.sml import DEPTH_MAX, FILE_MAX, SILENCE_NS, SmlDecoder
from hal.index.sml_meter import SmlMeter, TimeForm, Value, encode_item
from tests.hal.index.damage import damaged, pieces
from tests.hal.index.day import live

SERVER = bytes.fromhex("0a01545354000012d687")  # 1TST0001234567
IDENTITY = "0A01545354000012D687"
IMPORTED, EXPORTED = bytes.fromhex("0100010800ff"), bytes.fromhex("0100020800ff")
POWER = bytes.fromhex("0100100700ff")
METER = SmlMeter(SERVER)
PLAIN = [
    Value(bytes.fromhex("010060320101"), b"TST"),
    Value(bytes.fromhex("0100600100ff"), SERVER),
    Value(IMPORTED, 22_462_413_6, 30, -1, status=0x1C0104),
    Value(EXPORTED, 1_266, 30, 0, width=8),
    Value(POWER, -215_99, 27, -2, signed=True),
]


def of_tariff(code: bytes, tariff: int) -> bytes:
    return code[:4] + bytes((tariff, 0xFF))


def decode(data: bytes, decoder: SmlDecoder | None = None) -> list[Reading | Refusal]:
    return (decoder or SmlDecoder()).receive(data, 5)


def read(data: bytes) -> Reading:
    [outcome] = decode(data)
    assert isinstance(outcome, Reading), outcome
    return outcome


def reasons(outcome: Sequence[Reading | Refusal]) -> list[Refused | str]:
    return [one.reason if isinstance(one, Refusal) else "reading" for one in outcome]


def refusal(data: bytes) -> Refusal:
    [outcome] = decode(data)
    assert isinstance(outcome, Refusal), outcome
    return outcome


# --- What is read. -------------------------------------------------------------------------------


def test_a_file_says_which_meter_both_registers_and_all_else_as_text() -> None:
    reading = read(METER.file(1, PLAIN, 77))
    assert reading.identity == IDENTITY
    assert reading.imported == Index(224_624_136, -1)
    assert reading.exported == Index(1_266)
    assert reading.meter_time_s is None
    assert not reading.caveats
    assert dict(reading.fields) == {
        "number": "1TST0001234567",
        "list": "1-0:98.10.255*255",
        "time": "77 s",
        "1-0:96.50.1*1": "TST",
        "1-0:96.1.0*255": IDENTITY.lower(),
        "1-0:1.8.0*255": "22462413.6 Wh",
        "1-0:1.8.0*255 status": "1c0104",
        "1-0:2.8.0*255": "1266 Wh",
        "1-0:16.7.0*255": "-215.99 W",
    }


@pytest.mark.parametrize("is_kermit", [False, True])
@pytest.mark.parametrize("dates_values", [False, True])
@pytest.mark.parametrize("wide_tags", [False, True])
@pytest.mark.parametrize("form", TimeForm)
def test_every_layout_that_meters_use_gives_the_same_registers(
    form: TimeForm, is_kermit: bool, dates_values: bool, wide_tags: bool
) -> None:
    meter = SmlMeter(
        SERVER, is_kermit, form, dates_values, b"", bytes(300), wide_tags, public_key=bytes(48)
    )
    reading = read(meter.file(3, PLAIN, 1_700_000_000))
    assert (reading.imported, reading.exported) == (Index(224_624_136, -1), Index(1_266))
    is_utc = form in (TimeForm.UNIX, TimeForm.LOCAL)
    assert reading.meter_time_s == (1_700_000_000 if is_utc else None)
    assert ("signature", "00" * 300) in reading.fields
    assert ("129-129:199.130.5*255", "00" * 48) in reading.fields


def test_a_sum_whose_leading_zero_is_left_out_is_that_sum() -> None:
    meter = replace(METER, short_sums=True)
    files = [meter.file(number, PLAIN) for number in range(600)]
    assert any(b"\x01\x01\x62" in file for file in files)
    assert all(isinstance(one, Reading) for file in files for one in decode(file))


@given(st.integers(0, 2**64 - 1), st.integers(0, 8), st.integers(0, 40))
def test_numbers_of_every_width_and_escapes_within_are_read(
    value: int, width: int, spread: int
) -> None:
    value &= (1 << 8 * (width or 8)) - 1
    noise = Value(bytes.fromhex("0100600100ff"), b"\x1b" * spread + b"\x01" * 4)
    file = METER.file(1, [noise, Value(IMPORTED, value, 30, -6, width)])
    [outcome] = decode(file)
    if value < 10**18:
        assert isinstance(outcome, Reading)
        assert outcome.imported == Index(value, -6)
    else:
        assert reasons([outcome]) == [Refused.FORM]


def test_the_sum_of_the_tariffs_stands_for_a_total_that_is_missing() -> None:
    tariffs = [
        Value(of_tariff(IMPORTED, 1), 147_981_129, 30, -1),
        Value(of_tariff(IMPORTED, 2), 20_124, 30, 0),
        Value(of_tariff(EXPORTED, 1), 7, 30, 3),
    ]
    reading = read(METER.file(1, tariffs))
    assert (reading.imported, reading.exported) == (Index(148_182_369, -1), Index(7, 3))
    assert read(METER.file(1, [*tariffs, *PLAIN])).imported == Index(224_624_136, -1)
    assert read(METER.file(1, tariffs[1:])).imported is None


def test_a_register_that_is_named_and_has_no_value_is_missing() -> None:
    reading = read(METER.file(1, [Value(IMPORTED, None, 30, -1), Value(EXPORTED, 5, 30)]))
    assert (reading.imported, reading.exported) == (None, Index(5))


def test_an_index_without_a_unit_is_taken_as_watt_hours_and_says_so() -> None:
    assert read(METER.file(1, [Value(IMPORTED, 5)])).caveats == {Caveat.UNIT_ASSUMED}


@pytest.mark.parametrize(("number", "power"), [(42_082_910, "356.24 W"), (60_694_612, "-299.12 W")])
def test_a_power_that_dzg_meters_sign_wrongly_is_positive(number: int, power: str) -> None:
    meter = SmlMeter(b"\x0a\x01DZG\x00" + number.to_bytes(4, "big"))
    values = [*PLAIN[:3], Value(POWER, 35_624 - 65_536, 27, -2, width=2, signed=True)]
    assert dict(read(meter.file(1, values)).fields)["1-0:16.7.0*255"] == power


def test_the_looks_that_brought_its_ends_bound_a_reading() -> None:
    decoder, file = SmlDecoder(), METER.file(1, PLAIN)
    assert decoder.receive(b"\0\0" + file[:1], 10) == []
    assert decoder.receive(file[1:-1], 20) == []
    [reading] = decoder.receive(file[-1:] + file, 30)[:1]
    assert isinstance(reading, Reading)
    assert (reading.began_ns, reading.ended_ns) == (10, 30)


# --- What is refused. ----------------------------------------------------------------------------


def test_what_begins_in_the_middle_is_incomplete_and_the_next_file_is_read() -> None:
    file = METER.file(1, PLAIN)
    assert reasons(decode(file[100:] + file)) == [Refused.INCOMPLETE, "reading"]


def test_a_file_that_is_broken_off_is_incomplete_and_the_next_one_is_read() -> None:
    file = METER.file(1, PLAIN)
    for cut in range(8, len(file)):
        assert reasons(decode(file[:cut] + file)) in (
            [Refused.INCOMPLETE, "reading"],
            [Refused.FORM, "reading"],  # its end was taken for an escape
            [Refused.CHECKSUM, "reading"],
        )


def test_a_file_that_is_never_ended_is_given_up_once_the_line_is_silent() -> None:
    decoder = SmlDecoder()
    assert decoder.receive(METER.file(1, PLAIN)[:-1], 0) == []
    assert decoder.receive(b"", SILENCE_NS - 1) == []
    assert reasons(decoder.receive(b"", SILENCE_NS)) == [Refused.INCOMPLETE]
    assert reasons(decode(METER.file(1, PLAIN), decoder)) == ["reading"]


def test_a_file_without_end_is_too_long() -> None:
    start = METER.file(1, PLAIN)[:8]
    assert reasons(decode(start + b"\x76" * FILE_MAX)) == [Refused.TOO_LONG]


def test_a_changed_byte_anywhere_gives_no_reading() -> None:
    file = METER.file(1, PLAIN)
    for place in range(len(file)):
        hurt = bytearray(file)
        hurt[place] ^= 1 << place % 8
        decoder = SmlDecoder()
        assert "reading" not in reasons(decode(bytes(hurt), decoder))
        assert reasons(decode(file + file, decoder))[-1] == "reading"


def test_a_wrong_sum_is_refused() -> None:
    file = METER.file(1, PLAIN)
    assert refusal(file[:-2] + bytes((file[-2] ^ 1, file[-1]))).reason is Refused.CHECKSUM


def test_a_wrong_sum_of_a_message_is_refused_though_that_of_the_file_is_right() -> None:
    message = bytearray(METER.message(1, 1, 0x0201, [None]))
    message[2] ^= 1
    outcome = refusal(METER.transport(bytes(message)))
    assert (outcome.reason, outcome.detail) == (
        Refused.CHECKSUM, "the sum of a message is another",
    )  # fmt: skip


def entry(*changes: tuple[int, object]) -> list[object]:
    made: list[object] = [IMPORTED, None, None, None, None, b"\1", None]
    for place, value in changes:
        made[place] = value
    return made


def nested(depth: int) -> object:
    return b"1" if not depth else [nested(depth - 1)]


def a_list(entries: object, *, server: bytes = SERVER, time: object = None) -> bytes:
    return METER.transport(
        METER.message(1, 1, 0x0701, [None, server, None, time, entries, None, None])
    )


BAD_FORMS = {
    "a list that is none": a_list(b"no"),
    "an entry of six": a_list([entry()[:6]]),
    "a name of five bytes": a_list([entry((0, b"12345"))]),
    "an index that is text": a_list([entry()]),
    "a unit that is text": a_list([entry((3, b"W"))]),
    "a time of four": a_list([], time=[None, None, None, None]),
    "a time without its choice": a_list([], time=[None, b"1"]),
    "lists within lists": a_list([entry((5, nested(DEPTH_MAX)))]),
    "an index below zero": METER.file(1, [Value(IMPORTED, -1, 30, signed=True)]),
    "an index in reactive units": METER.file(1, [Value(IMPORTED, 1, 32)]),
    "an index finer than is counted": METER.file(1, [Value(IMPORTED, 1, 30, -7)]),
    "an index no meter has": METER.file(1, [Value(IMPORTED, 2**64 - 1, 30, -1)]),
    "two values of one register": METER.file(1, [PLAIN[2], replace(PLAIN[2], value=1)]),
    "a list of another server": METER.transport(
        METER.message(1, 0, 0x0101, [None, None, b"1", b"other", None, None])
        + METER.message(1, 1, 0x0701, [None, SERVER, None, None, [], None, None])
    ),
    "no message": METER.transport(encode_item(b"hello")),
    "a message of another shape": METER.transport(METER.message(1, 0, 0x0201, [None, None])),
    "a message that ends too early": METER.transport(METER.message(1, 0, 0x0201, [None])[:-1]),
}


@pytest.mark.parametrize("file", BAD_FORMS.values(), ids=BAD_FORMS.keys())
def test_what_is_not_written_as_sml_is_a_bad_form(file: bytes) -> None:
    assert refusal(file).reason is Refused.FORM


def test_more_fill_bytes_than_there_can_be_are_a_bad_form() -> None:
    file = METER.file(1, PLAIN)[:-3] + b"\x05"
    outcome = refusal(file + x25(file).to_bytes(2, "little"))
    assert (outcome.reason, outcome.detail) == (Refused.FORM, "5 fill bytes")


def test_four_fill_bytes_where_none_are_needed_are_read() -> None:
    meter = replace(METER, four_fills=True)
    files = [meter.file(1, [*PLAIN, Value(POWER, b"1" * more)]) for more in range(4)]
    assert sorted(file[-3] for file in files) == [1, 2, 3, 4]
    assert {read(file).imported for file in files} == {Index(224_624_136, -1)}


def test_an_escape_that_means_nothing_is_a_bad_form() -> None:
    start = METER.file(1, PLAIN)[:8]
    assert refusal(start + b"\x1b\x1b\x1b\x1b\x02\x02\x02\x02").reason is Refused.FORM


def test_a_file_opened_for_a_server_of_zeros_is_opened_for_none() -> None:
    meter = replace(METER, opens_for_zeros=True)
    assert read(meter.file(1, PLAIN)).identity == IDENTITY


def test_a_list_of_no_server_has_no_identity() -> None:
    assert refusal(a_list([entry()], server=b"")).reason is Refused.NO_IDENTITY


def test_files_without_a_register_have_no_index() -> None:
    assert refusal(METER.file(1, PLAIN[:2])).reason is Refused.NO_INDEX
    assert refusal(METER.transport(METER.message(1, 0, 0x0201, [None]))).reason is Refused.NO_INDEX
    request = METER.transport(METER.message(1, 0, 0x0100, [None]))
    assert refusal(request).reason is Refused.NO_INDEX


def test_an_attention_is_the_meters_own_error() -> None:
    body = [SERVER, bytes.fromhex("8181c7c7fe00"), b"no such list", None]
    outcome = refusal(METER.transport(METER.message(1, 0, 0xFF01, body)))
    assert outcome.reason is Refused.METER_ERROR


def test_a_file_behind_escapes_that_hide_its_start_is_found() -> None:
    file = METER.file(1, PLAIN)
    for stray in (b"\x1b" * count for count in range(1, 9)):
        assert reasons(decode(file[:-8] + stray + file))[-1] == "reading"
        assert reasons(decode(file[:8] + stray + file))[-1] == "reading"


# --- Any bytes, in any pieces. -------------------------------------------------------------------


def stream(draw: Random, count: int) -> bytes:
    files = [METER.file(number, PLAIN) for number in range(count)]
    return b"".join(came for came, _ in damaged(files, 0.5, draw))


@settings(deadline=None)
@given(st.integers(0, 2**32))
def test_any_pieces_give_the_same_readings_and_refusals(seed: int) -> None:
    draw = Random(seed)
    data = stream(draw, 12)
    whole, decoder = decode(data), SmlDecoder()
    assert [one for part in pieces(data, draw) for one in decode(part, decoder)] == whole


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.sampled_from([METER.file(1, PLAIN)[:8], METER.file(1, PLAIN), b"\x1b" * 9, b"\x1a"]),
            st.integers(1, 5).map(lambda count: b"\x1b\x1b\x1b\x1b\x01\x01\x01\x01" * count),
        ),
        max_size=40,
    )
)
def test_no_bytes_make_it_raise_or_keep_more_than_a_file(parts: list[bytes]) -> None:
    decoder = SmlDecoder()
    for number, part in enumerate(parts):
        for outcome in decoder.receive(part, number):
            if isinstance(outcome, Reading):
                assert outcome.identity == IDENTITY
        assert len(decoder._came.data) <= FILE_MAX
        assert len(decoder._came._ends) <= FILE_MAX
    decoder.receive(b"\xff" * 20_000, len(parts))
    assert len(decoder._came.data) <= FILE_MAX
    assert reasons(decoder.receive(b"\x1b" + METER.file(1, PLAIN), len(parts)))[-1] == "reading"


# --- A day on a bad line. ------------------------------------------------------------------------

# A day has 21,600 of them: so many in an ordinary run.
MESSAGES = int(os.environ.get("CRYPTOMETER_FRAMES") or 3_000)
PERIOD_S = 4  # between two files; meters take one to four seconds
POWER_W = 20_000


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_a_day_of_damage_gives_no_wrong_index_and_keeps_what_is_whole(share: float) -> None:
    def file(wh: int, power_w: int, passed_s: int) -> bytes:
        values = [*PLAIN[:2], Value(IMPORTED, wh * 10, 30, -1, 8), Value(POWER, power_w, 27)]
        return METER.file(passed_s, values, passed_s)

    lived = live(
        SmlDecoder(),
        Limits(IDENTITY, Register.IMPORT, POWER_W),
        file,
        messages=MESSAGES,
        period_ns=PERIOD_S * NS_PER_S,
        share=share,
        seed=1,
    )
    assert lived.wrong == ()
    assert lived.whole < (1 - share) * 1.05 * lived.messages
    assert lived.believed >= 0.95 * lived.whole
