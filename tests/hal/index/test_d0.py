"""IEC 62056-21: what is read, what is refused, the conversation with a meter, and a bad line."""

import os
from collections.abc import Callable, Sequence
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_S
from hal.index.d0 import MESSAGE_MAX, SILENCE_NS, D0Decoder
from hal.index.d0_meter import data_message, pushed_message, with_parity
from hal.index.plausible import Limits
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused, Register
from tests.hal.index.damage import WAYS, Way, damaged, pieces, swap
from tests.hal.index.day import Lived, live

IDENTIFICATION = "TST5\\@V1.00"
LINES = [
    "F.F(00)",
    "0.3.3(00250*imp/kWh)",
    "C.1.0(10020030)",
    "1.8.0(012345.678*kWh)",
    "1.8.1(012000.000*kWh)",
    "1.8.2(000345.678*kWh)",
    "1.8.0*01(011111.111*kWh)",
    "2.8.0(000000.120*MWh)",
    "1.6.1(01.500*kW)(26-01-31 17:15)",
]
PUSHED = pushed_message(IDENTIFICATION, LINES)
CHECKED = data_message(LINES)


def decode(data: bytes, decoder: D0Decoder | None = None) -> list[Reading | Refusal]:
    return (decoder or D0Decoder()).receive(data, 5)


def within(decoder: D0Decoder) -> bool:
    return decoder.is_within


def read(*lines: str) -> Reading:
    [outcome] = decode(data_message(["C.1.0(7)", *lines]))
    assert isinstance(outcome, Reading), outcome
    return outcome


def reasons(outcome: Sequence[Reading | Refusal]) -> list[Refused | str]:
    return [one.reason if isinstance(one, Refusal) else "reading" for one in outcome]


def refused(*lines: str) -> Refused:
    [outcome] = decode(data_message(lines))
    assert isinstance(outcome, Refusal), outcome
    return outcome.reason


# --- What is read. -------------------------------------------------------------------------------


@pytest.mark.parametrize("message", [PUSHED, CHECKED, with_parity(PUSHED), with_parity(CHECKED)])
def test_a_message_says_which_meter_both_registers_and_all_else_as_text(message: bytes) -> None:
    [reading] = decode(message)
    assert isinstance(reading, Reading)
    assert reading.identity == "10020030"
    assert reading.imported == Index(12_345_678)
    assert reading.exported == Index(120, 3)
    assert reading.meter_time_s is None
    assert reading.caveats == {Caveat.WEAK_CHECK}
    fields = dict(reading.fields)
    assert fields["1.8.0*01"] == "011111.111*kWh"
    assert fields["1.6.1"] == "01.500*kW 26-01-31 17:15"
    is_pushed = len(message) == len(PUSHED)
    assert fields.get("identification") == (IDENTIFICATION if is_pushed else None)


@pytest.mark.parametrize(
    ("line", "index"),
    [
        ("1.8.0(1*Wh)", Index(1)),
        ("1-0:1.8.0*255(000012.3*kWh)", Index(123, 2)),
        ("1-1:1.8.0(12*MWh)", Index(12, 6)),
        ("1.8.0(000012,3*kWh)", Index(123, 2)),
        ("1.8.0(000000.4 kWh)", Index(4, 2)),
        ("1.8.0(007459.78471652*kWh)", Index(745_978_471_652, -5)),
        ("1.8.0*00(000783.16)(000783.16)", Index(78_316, 1)),
        ("0.9.2(260101)0.9.1(120000)1.8.0(5*kWh)(26-01-01)", Index(5, 3)),
        ("1.8.1(1.5*kWh)\r\n1.8.2(20*Wh)\r\n1.8.0*01(7*kWh)\r\n1.8.0&02(8*kWh)", Index(1_520)),
        ("1.8.0(9*kWh)\r\n1.8.1(1*kWh)\r\n1.8.0(9*kWh)", Index(9, 3)),
        ("1.8.0(5*kWh)\r\n1.8.0*00(7*kWh)", Index(5, 3)),
        ("1.8.1(1.5*kWh)\r\n1.8.2(20*kWh)", Index(215, 2)),
        ("1.8.0(1.123456789*kWh)", Index(1_123_456_789, -6)),
        ("1.8.0(9*kWh)\r\nP.01(260101)(00)\r\n(12)(13)", Index(9, 3)),
        ("1.8.0(9*kWh)\r\n0-0:96.13.0(" + "3F" * 1024 + ")", Index(9, 3)),
        ("1.6.0,5(2601)\r\n1.8.0(9*kWh)\r\n0.3.0(10000*imp/kWh)", Index(9, 3)),
    ],
)
def test_registers_are_read_in_every_way_they_are_written(line: str, index: Index) -> None:
    assert read(line).imported == index


def test_an_index_without_a_unit_is_taken_as_kilowatt_hours_and_says_so() -> None:
    reading = read("1.8.0(000012.3)")
    assert reading.imported == Index(123, 2)
    assert reading.caveats == {Caveat.WEAK_CHECK, Caveat.UNIT_ASSUMED}


@pytest.mark.parametrize(
    ("lines", "identity"),
    [
        (["0.0.0(1)", "C.1.0(2)", "96.1.0(3)", "0.0.9(1TST0001)"], "1TST0001"),
        (["0.0.0(1)", "C.1.0(2)", "0-0:96.1.0*255(3)"], "3"),
        (["0.0.0(1)", "C.1.0(2)", "96.1.0()"], "2"),
        (["C.1.0(X0)"], "X0"),
        (["1-0:0.0.0*255(1)", "0-0:96.1.255*255(2)", "C.1.0(0000)"], "2"),
        (["0.0.0(1)", "0-1:96.1.0(gas)", "C.1( 000 )"], "1"),
        (["0.0(        18438636)", "C.1.1(        )"], "18438636"),
        (["0-0:96.1.1(4b3834)", "0-1:96.1.1(gas)"], "4b3834"),
    ],
)
def test_the_makers_number_names_the_meter_before_one_that_others_set(
    lines: list[str], identity: str
) -> None:
    [outcome] = decode(data_message([*lines, "1.8.0(1*kWh)"]))
    assert isinstance(outcome, Reading)
    assert outcome.identity == identity


def test_the_last_line_may_end_with_the_end_mark() -> None:
    [reading] = decode(pushed_message("PAF5EC3", LINES).replace(b"\r\n!", b"!"))
    assert isinstance(reading, Reading)
    assert reading.imported == Index(12_345_678)


def test_a_meter_that_does_not_name_itself_has_the_name_it_was_called_by() -> None:
    [reading] = decode(data_message(["1.8.0(5*kWh)"]), D0Decoder("12345678"))
    assert isinstance(reading, Reading)
    assert reading.identity == "12345678"


def test_a_data_message_without_its_check_counts_once_the_line_is_silent() -> None:
    decoder = D0Decoder()
    assert decoder.receive(data_message(LINES, is_checked=False), 0) == []
    assert decoder.receive(b"", SILENCE_NS - 1) == []
    assert reasons(decoder.receive(b"", SILENCE_NS)) == ["reading"]


@pytest.mark.parametrize("message", [PUSHED, data_message(LINES, is_checked=False)])
@pytest.mark.parametrize("lost", [1, 2])
def test_an_end_mark_before_a_silence_is_an_end(message: bytes, lost: int) -> None:
    decoder = D0Decoder()
    assert decoder.receive(message[:-lost], 0) == []
    assert reasons(decoder.receive(b"", SILENCE_NS)) == ["reading"]
    assert decoder.receive(message[:-2] + b" ", 3 * SILENCE_NS) == []
    assert reasons(decoder.receive(b"", 4 * SILENCE_NS)) == [Refused.INCOMPLETE]


def test_blanks_without_end_are_not_kept() -> None:
    decoder = D0Decoder()
    assert reasons(decoder.receive(data_message(LINES, is_checked=False) + b"\0" * 9, 0)) == [
        "reading",
    ]  # fmt: skip
    for _ in range(10):
        assert decoder.receive(b" \r\n\0" * MESSAGE_MAX, 0) == []
        assert not decoder._text


def test_the_looks_that_brought_its_ends_bound_a_reading() -> None:
    decoder = D0Decoder()
    assert decoder.receive(b"\r\n\0" + CHECKED[:1], 10) == []
    assert decoder.receive(CHECKED[1:-1], 20) == []
    [reading] = decoder.receive(CHECKED[-1:], 30)
    assert isinstance(reading, Reading)
    assert (reading.began_ns, reading.ended_ns) == (10, 30)


def test_a_request_that_an_optical_head_returns_is_no_message() -> None:
    assert reasons(decode(b"/?10020030!\r\n" + PUSHED)) == ["reading"]


# --- What is refused. ----------------------------------------------------------------------------


@pytest.mark.parametrize("message", [PUSHED, CHECKED])
def test_what_begins_in_the_middle_is_incomplete_and_the_next_message_is_read(
    message: bytes,
) -> None:
    assert reasons(decode(message[30:] + message)) == [Refused.INCOMPLETE, "reading"]


@pytest.mark.parametrize("message", [PUSHED, CHECKED])
def test_a_message_that_is_broken_off_is_refused_and_the_next_one_is_read(message: bytes) -> None:
    for cut in range(1, len(message) - 4):
        outcome = reasons(decode(message[:cut] + message))
        assert outcome[-1] == "reading"
        assert outcome.count("reading") == 1


def test_a_message_that_is_never_ended_is_given_up_once_the_line_is_silent() -> None:
    decoder = D0Decoder()
    assert decoder.receive(CHECKED[:-1], 0) == []
    assert reasons(decoder.receive(b"", SILENCE_NS)) == [Refused.INCOMPLETE]
    assert reasons(decode(CHECKED, decoder)) == ["reading"]


def test_a_line_is_silent_by_the_time_since_its_newest_byte() -> None:
    decoder = D0Decoder()
    assert decoder.receive(CHECKED[:9], 10 * SILENCE_NS) == []
    assert decoder.receive(CHECKED[9:10], 11 * SILENCE_NS - 1) == []
    assert decoder.receive(b"", 11 * SILENCE_NS) == []
    assert within(decoder)
    assert reasons(decoder.receive(b"", 12 * SILENCE_NS)) == [Refused.INCOMPLETE]
    assert not within(decoder)


def test_data_may_follow_an_identification_with_their_own_start() -> None:
    assert reasons(decode(b"/TST5X\r\n\r\n" + CHECKED)) == ["reading"]


def test_an_identification_without_its_data_ends_where_the_next_message_begins() -> None:
    cut = b"/TST5X\r\n\r\n" + CHECKED[:30]
    assert reasons(decode(cut + CHECKED)) == [Refused.INCOMPLETE, "reading"]
    assert reasons(decode(cut + CHECKED + CHECKED)) == [Refused.INCOMPLETE, *["reading"] * 2]
    assert reasons(decode(cut + PUSHED + CHECKED)) == [Refused.INCOMPLETE, *["reading"] * 2]


def test_a_message_right_behind_a_broken_end_is_read() -> None:
    hurt = b"\x02C.1(7)\r\n1.8.0(1)!"
    assert reasons(decode(hurt + PUSHED)) == [Refused.FORM, "reading"]


def test_a_message_right_behind_data_that_have_no_place_is_read() -> None:
    bare = data_message(LINES, is_checked=False)
    assert reasons(decode(bare + b"more" + PUSHED)) == [Refused.FORM, "reading"]


@pytest.mark.parametrize("message", [PUSHED, CHECKED])
def test_a_slash_within_a_value_begins_no_message(message: bytes) -> None:
    for begin in range(message.index(b"imp/"), message.index(b"imp/") + 4):
        assert reasons(decode(message[begin:] + message)) == [Refused.INCOMPLETE, "reading"]


def test_a_slash_at_the_end_of_what_came_waits_for_what_follows() -> None:
    decoder = D0Decoder()
    assert decoder.receive(b"00250*imp/", 0) == [
        Refusal(Refused.INCOMPLETE, "bytes outside of a message", 0)
    ]
    assert decoder.receive(b"kWh)\r\n!\r\n", 0) == []
    assert not within(decoder)
    assert decoder.receive(b"/TST", 1) == []
    assert reasons(decoder.receive(b"", 1 + SILENCE_NS)) == [Refused.INCOMPLETE]


def test_between_two_messages_may_be_blank_lines() -> None:
    bare = data_message(LINES, is_checked=False)
    assert reasons(decode(bare + b"\r\n\0" + PUSHED)) == ["reading", "reading"]


def test_of_the_messages_behind_a_broken_one_none_is_lost() -> None:
    broken = PUSHED[:30]
    assert reasons(decode(broken + PUSHED + PUSHED)) == [Refused.INCOMPLETE, *["reading"] * 2]
    broken = b"/TST5X\r\n\r\n\x02"
    assert reasons(decode(broken + CHECKED)) == [Refused.INCOMPLETE, "reading"]


def test_before_the_answer_to_another_question_all_is_forgotten() -> None:
    decoder = D0Decoder()
    decode(CHECKED[:30], decoder)
    assert within(decoder)
    decoder.begin_anew()
    assert not within(decoder)
    assert reasons(decode(b"the rest" + CHECKED, decoder)) == ["reading"]


def test_a_message_without_end_is_too_long() -> None:
    decoder = D0Decoder()
    assert decode(b"/" + b"1" * (MESSAGE_MAX - 1), decoder) == []
    assert reasons(decode(b"1", decoder)) == [Refused.TOO_LONG]
    assert not decoder._text, "and all of it is let go"


def test_a_wrong_block_check_is_refused() -> None:
    hurt = CHECKED.replace(b"345.678", b"345.679", 1)
    assert reasons(decode(hurt)) == [Refused.CHECKSUM]


def test_a_block_check_that_is_missing_is_refused_once_the_meter_has_sent_one() -> None:
    decoder = D0Decoder()
    bare = data_message(LINES, is_checked=False)
    assert reasons(decode(CHECKED + bare + CHECKED, decoder)) == [
        "reading", Refused.INCOMPLETE, "reading",
    ]  # fmt: skip


def test_bytes_of_odd_parity_are_refused() -> None:
    for message in (with_parity(PUSHED), with_parity(CHECKED)):
        for place in range(len(message)):
            hurt = bytearray(message)
            hurt[place] ^= 1 << place % 8
            outcome = reasons(decode(message + bytes(hurt) + b"\x0c"))
            assert outcome.count("reading") == 1


@pytest.mark.parametrize(
    "line",
    [
        "1.8.0(12a*kWh)",
        "1.8.0(-12*kWh)",
        "1.8.0(1.2.3*kWh)",
        "1.8.0(1,234.5*kWh)",
        "1.8.0(12 )",
        "1.8.0(12 *kWh)",
        "1.8.0(12kWh)",
        "1.8.0(12*kvarh)",
        "1.8.0(12*KWH)",
        "1.8.0(1234567890123*kWh)",
        "1.8.0(1.1234567*Wh)",
        "1.8.0(1.1234567891*kWh)",
        "1.8.0()",
        "1.8.0(12*kWh",
        "1.8.0 12*kWh)",
        "1.8.0(1*kWh)\r\n1.8.0(2*kWh)",
        "1.8.0(1*kWh)\n",
        "1.8.0(1*kWh)hello",
        "1.8.0(1*kWh)\r\n0.2.0(" + "x" * 2049 + ")",
        "1.8.0(1*kWh)\x7f",
    ],
)
def test_a_line_that_is_not_written_as_the_standard_says_is_a_bad_form(line: str) -> None:
    assert refused("C.1.0(7)", line) is Refused.FORM


def test_an_end_mark_within_a_line_and_a_bad_identification_are_bad_forms() -> None:
    assert reasons(decode(b"\x02C.1(7)\r\n1.8.0(1!2)\r\n!\r\n")) == [Refused.FORM]
    assert reasons(decode(b"\x02C.1(7)\r\n1.8.0(12)!\r\n\x03")) == []
    assert reasons(decode(CHECKED.replace(b"1.8.1", b"!\r\n.1"))) == [Refused.FORM]
    assert reasons(decode(b"/12\r\n\r\nC.1(7)\r\n1.8.0(12)\r\n!\r\n")) == [Refused.FORM]


def test_a_message_that_names_no_meter_or_no_register_gives_no_reading() -> None:
    assert refused("0.0.0(0000)", "1.8.0(1*kWh)") is Refused.NO_IDENTITY
    assert refused("C.1.0(7)", "3.8.0(1*kvarh)", "1.8.0*01(1*kWh)") is Refused.NO_INDEX
    assert refused("C.1.0(7)", "1-2:1.8.0(1*kWh)") is Refused.NO_INDEX
    assert refused("C.1.0(7)", "1.8.1(1*kWh)", "1.8.3(1*kWh)") is Refused.NO_INDEX


def test_a_message_laid_out_otherwise_counts_once_it_comes_again() -> None:
    decoder = D0Decoder()
    other = data_message([line.replace("12345.678", "12345.67") for line in LINES])
    stream = CHECKED + other + CHECKED + other + other + other
    assert reasons(decode(stream, decoder)) == [
        "reading", Refused.FORM, "reading", Refused.FORM, "reading", "reading",
    ]  # fmt: skip
    assert reasons(decode(CHECKED, decoder)) == [Refused.FORM]


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (CHECKED[30:] + b"/", Refused.INCOMPLETE, "bytes outside of a message"),
        (CHECKED[:30] + CHECKED, Refused.INCOMPLETE, "a message begins within one"),
        (PUSHED[:30] + PUSHED, Refused.INCOMPLETE, "a message begins within one"),
        (b"/" + b"1" * MESSAGE_MAX, Refused.TOO_LONG, f"{MESSAGE_MAX} bytes without an end"),
        (CHECKED.replace(b"1.8.1", b"!\r.1"), Refused.FORM, "an end mark within a line"),
        (CHECKED.replace(b"1.8.1", b"!\r\n.1"), Refused.FORM, "data behind the end mark"),
        (
            CHECKED.replace(b"345.678", b"345.679", 1),
            Refused.CHECKSUM,
            f"the block check is {CHECKED[-1]:02x}, not {CHECKED[-1] ^ 1:02x}",
        ),
        (b"\x82" + CHECKED[1:], Refused.CHECKSUM, "bytes of odd parity"),
        (b"/12\r\n\r\n!\r\n", Refused.FORM, "an identification that is none"),
        (data_message(["?"]), Refused.FORM, "a line that is no data: '?'"),
        (data_message(["1.8.0(x)"]), Refused.FORM, "1.8.0 is no energy: 'x'"),
        (data_message(["1.8.0(1)", "1.8.0(2)"]), Refused.FORM, "two values of 1.8.0"),
        (
            data_message(["1.8.0(1.1234567*Wh)"]),
            Refused.FORM,
            "1.8.0 is finer than energy is counted: 1.1234567*Wh",
        ),
        (data_message(["C.1.0(7)"]), Refused.NO_INDEX, "the message has no register of energy"),
        (
            data_message(["1.8.0(1)"]),
            Refused.NO_IDENTITY,
            "the message does not say which meter it is of",
        ),
    ],
)
def test_a_refusal_tells_what_is_wrong_and_when(data: bytes, reason: Refused, detail: str) -> None:
    assert decode(data)[0] == Refusal(reason, detail, 5)


def test_what_is_refused_for_the_messages_before_it_is_told_with_its_time() -> None:
    decoder = D0Decoder()
    decode(CHECKED, decoder)
    bare = data_message(LINES, is_checked=False)
    missing = Refusal(Refused.INCOMPLETE, "the block check is missing", 6)
    assert decoder.receive(bare + CHECKED[:1], 6) == [missing]
    detail = "it is laid out otherwise than the messages before it"
    other = data_message(LINES[:-1])
    assert decoder.receive(CHECKED[1:] + other, 7)[1:] == [Refusal(Refused.FORM, detail, 7)]
    decoder.receive(CHECKED[:9], 8)
    silent = Refusal(Refused.INCOMPLETE, "the line fell silent", 8)
    assert decoder.receive(b"", 8 + SILENCE_NS) == [silent]


# --- Any bytes, in any pieces. -------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([PUSHED, CHECKED, with_parity(CHECKED)]))
def test_any_pieces_give_the_same_readings_and_refusals(seed: int, message: bytes) -> None:
    draw = Random(seed)
    data = b"".join(came for came, _ in damaged([message] * 12, 0.5, draw))
    whole, decoder = decode(data), D0Decoder()
    assert [one for part in pieces(data, draw) for one in decode(part, decoder)] == whole


@settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.sampled_from([PUSHED, CHECKED, b"/", b"!\r\n", b"\x02", b"\x03", b"/?"]),
        ),
        max_size=40,
    )
)
def test_no_bytes_make_it_raise_or_keep_more_than_a_message(parts: list[bytes]) -> None:
    decoder = D0Decoder()
    for number, part in enumerate(parts):
        for outcome in decoder.receive(part, number):
            if isinstance(outcome, Reading):
                assert outcome.identity
        assert len(decoder._text) == len(decoder._came.data) <= MESSAGE_MAX
    decoder.receive(b"\x55" * 40_000, len(parts))
    assert len(decoder._text) == len(decoder._came.data) <= MESSAGE_MAX
    assert reasons(decoder.receive(b"!\r\n" + CHECKED * 3, len(parts)))[-1] == "reading"


# --- A day on a bad line. ------------------------------------------------------------------------

# A day has 28,800 of them: so many in an ordinary run.
MESSAGES = int(os.environ.get("CRYPTOMETER_FRAMES") or 3_000)
PERIOD_S = 3  # 150 bytes at 2400 baud, and a pause
POWER_W = 20_000


def lines_at(wh: int) -> list[str]:
    return [
        "1-0:0.0.0*255(331200-5009810)",
        f"1-0:1.8.0*255({wh // 1000:06}.{wh % 1000:03}*kWh)",
        "1-0:96.5.5*255(80)",
        "0-0:96.1.255*255(0000680476)",
    ]


def pushed(wh: int) -> bytes:
    return pushed_message("TST5--D0-E0018E", lines_at(wh))


def checked(wh: int) -> bytes:
    return data_message(lines_at(wh))


def a_day(message: Callable[[int], bytes], share: float, ways: Sequence[Way]) -> Lived:
    lived = live(
        D0Decoder(),
        Limits("0000680476", Register.IMPORT, POWER_W),
        lambda wh, *_: message(wh),
        messages=MESSAGES,
        period_ns=PERIOD_S * NS_PER_S,
        share=share,
        seed=1,
        ways=ways,
    )
    assert lived.whole < (1 - share) * 1.05 * lived.messages
    assert lived.believed >= 0.95 * lived.whole
    return lived


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize("message", [pushed, checked])
def test_a_day_of_damage_gives_no_wrong_index_and_keeps_what_is_whole(
    message: Callable[[int], bytes], share: float
) -> None:
    """Read with its parity. Bytes that change places are another matter: see below."""
    ways = [way for way in WAYS if way is not swap]
    lived = a_day(lambda wh: with_parity(message(wh)), share, ways)
    assert lived.wrong == ()


@pytest.mark.parametrize("message", [pushed, checked])
def test_what_no_check_of_this_protocol_sees_is_rare_and_hardly_wrong(
    message: Callable[[int], bytes],
) -> None:
    """Digits that change places; and, where the line was read without parity, pairs of flips or,
    without a block check, any flip of a digit. Of a whole day of damage a few readings count that
    are wrong by some watt-hours: the index believed before and the next one bound them."""
    lived = a_day(message, 0.5, ())
    assert len(lived.wrong) <= 0.001 * lived.believed
