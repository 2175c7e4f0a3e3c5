"""Telegrams that DLMS meters send by themselves."""

import tracemalloc
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_S
from hal.index.axdr import Datum, Tag, encode_clock, encode_data
from hal.index.ciphering import (
    AUTHENTICATED,
    ENCRYPTED,
    GENERAL_GLO,
    Keys,
    encode_protected,
    seal_protected,
)
from hal.index.dlms_meter import Layout, Style, Told, notification, telegram
from hal.index.dlms_push import QUIET_NS, Framing, PushDecoder, PushSettings, framing_of
from hal.index.hdlc import Address, Control, Frame, HdlcReceiver
from hal.index.plausible import Limits, Plausible
from hal.index.reading import Caveat, Index, IndexDecoder, Reading, Refusal, Refused, Register
from tests.hal.index.damage import damaged

KEYS = Keys(bytes(range(16)), bytes(range(16, 32)))
TITLE = b"SIM\x00\x00\x00\x00\x07"
TOLD = Told(imported_wh=123_450, exported_wh=98_760, power_w=-1_500, unix_s=1_790_000_000)
AT_NS, LATER_NS = 5 * NS_PER_S, 30 * NS_PER_S
Outcome = list[Reading | Refusal]

STYLES = [
    Style(layout=layout, framing=framing, keys=keys, part=part, block=block)
    for layout in Layout
    for framing in Framing
    for keys in (None, KEYS, Keys(KEYS.encryption))
    for part, block in ((1_024, 0), (70, 0), (1_024, 60))
    if not (block and framing in (Framing.WRAPPER, Framing.MBUS))
]


def named(style: Style) -> str:
    protection = "clear"
    if style.keys is not None:
        protection = "encrypted" if style.keys.authentication is None else "authenticated"
    return f"{style.layout}-{style.framing}-{protection}-{style.part}-{style.block}"


by_style = pytest.mark.parametrize("style", STYLES, ids=named)
few_styles = st.sampled_from(STYLES)


def settings_of(style: Style) -> PushSettings:
    return PushSettings(style.framing, style.keys)


def decoder(style: Style) -> IndexDecoder:
    return PushDecoder(settings_of(style))


def heard(data: bytes, style: Style) -> Outcome:
    one = decoder(style)
    return [*one.receive(data, AT_NS), *one.receive(b"", LATER_NS)]


def refused(outcome: Outcome) -> list[Refused]:
    return [one.reason for one in outcome if isinstance(one, Refusal)]


def read(outcome: Outcome) -> list[Reading]:
    return [one for one in outcome if isinstance(one, Reading)]


# --- What each list says. ------------------------------------------------------------------------


@by_style
def test_every_layout_in_every_framing_gives_its_indexes(style: Style) -> None:
    [reading] = heard(telegram(TOLD, style, 1), style)
    assert isinstance(reading, Reading)
    assert reading.index_of(Register.IMPORT) is not None
    assert reading.imported == Index(12_345, 1) if style.layout is Layout.TENS else Index(123_450)
    assert reading.exported == Index(9_876, 1) if style.layout is Layout.TENS else Index(98_760)
    if style.layout is not Layout.PAIRS:
        assert reading.identity == style.number
    assert reading.meter_time_s == TOLD.unix_s
    assert (reading.began_ns, reading.ended_ns) == (AT_NS, AT_NS)


@by_style
def test_a_reading_says_what_it_lacks(style: Style) -> None:
    [reading] = heard(telegram(TOLD, style, 1), style)
    assert isinstance(reading, Reading)
    checked = style.keys is not None and style.keys.authentication is not None
    expected = set()
    if style.layout is not Layout.OBJECTS:
        expected.add(Caveat.UNIT_ASSUMED)
    if style.framing in (Framing.BARE, Framing.MBUS) and not checked:
        expected.add(Caveat.WEAK_CHECK)
    if style.keys is not None and not checked:
        expected.add(Caveat.NOT_AUTHENTICATED)
    assert reading.caveats == expected


@by_style
def test_the_framing_of_a_recorded_line_is_told_without_keys(style: Style) -> None:
    line = telegram(TOLD, style, 1)
    assert framing_of(b"noise" + line + line) is style.framing
    assert framing_of(line[: len(line) // 3]) in (None, style.framing, Framing.BARE)
    assert framing_of(b"no meter at all") is None


def test_a_meter_that_states_no_number_is_known_by_its_system_title() -> None:
    style = Style(layout=Layout.PAIRS, keys=KEYS)
    assert read(heard(telegram(TOLD, style, 1), style))[0].identity == "SIM0000000007"


def test_an_index_is_as_fine_as_its_scaler_says() -> None:
    code = Datum(Tag.OCTET_STRING, bytes((1, 0, 2, 8, 0, 255)))
    scaler = Datum(Tag.STRUCTURE, (Datum(Tag.INTEGER, -1), Datum(Tag.ENUM, 30)))
    entry = Datum(Tag.STRUCTURE, (code, Datum(Tag.LONG64_UNSIGNED, 2**33), scaler))
    [reading] = said(Datum(Tag.ARRAY, (entry,)))
    assert isinstance(reading, Reading)
    assert reading.exported == Index(2**33, -1)
    assert reading.imported is None


def said(body: Datum, framing: Framing = Framing.WRAPPER) -> Outcome:
    return heard(wrapped(b"\x0f" + bytes(5) + encode_data(body)), Style(framing=framing))


def wrapped(message: bytes) -> bytes:
    return bytes((0, 1, 0, 1, 0, 102)) + len(message).to_bytes(2, "big") + message


def entry(group: int, value: Datum, *rest: Datum) -> Datum:
    code = Datum(Tag.OCTET_STRING, bytes((1, 0, group, 8, 0, 255)))
    return Datum(Tag.STRUCTURE, (code, value, *rest))


def unit(scaler: int, number: int) -> Datum:
    return Datum(Tag.STRUCTURE, (Datum(Tag.INTEGER, scaler), Datum(Tag.ENUM, number)))


COUNT = Datum(Tag.DOUBLE_LONG_UNSIGNED, 5)


@pytest.mark.parametrize(
    "entries",
    [
        (entry(1, COUNT, unit(0, 32)),),  # a register of energy in varh
        (entry(1, Datum(Tag.DOUBLE_LONG, -1), unit(0, 30)),),
        (entry(1, Datum(Tag.OCTET_STRING, b"5"), unit(0, 30)),),
        (entry(1, COUNT, unit(-7, 30)),),  # finer than is counted
        (entry(1, COUNT), entry(1, Datum(Tag.DOUBLE_LONG_UNSIGNED, 6))),  # two values
    ],
)
def test_a_register_that_cannot_be_one_is_refused(entries: tuple[Datum, ...]) -> None:
    assert refused(said(Datum(Tag.ARRAY, entries))) == [Refused.FORM]


@pytest.mark.parametrize("counts_itself", [False, True])
def test_values_follow_the_list_of_their_objects(counts_itself: bool) -> None:
    def place(*code: int) -> Datum:
        return Datum(
            Tag.STRUCTURE,
            (
                Datum(Tag.LONG_UNSIGNED, 3),
                Datum(Tag.OCTET_STRING, bytes(code)),
                Datum(Tag.INTEGER, 2),
                Datum(Tag.LONG_UNSIGNED, 0),
            ),
        )

    objects = [place(1, 0, 1, 8, 0, 255), place(1, 0, 2, 8, 0, 255)]
    if counts_itself:
        objects.insert(0, place(0, 8, 25, 9, 0, 255))
    six = Datum(Tag.DOUBLE_LONG_UNSIGNED, 6)
    [reading] = said(Datum(Tag.STRUCTURE, (Datum(Tag.ARRAY, tuple(objects)), COUNT, six)))
    assert isinstance(reading, Reading)
    assert (reading.imported, reading.exported) == (Index(5), Index(6))


def test_codes_that_are_miswritten_are_read_where_nothing_else_fits() -> None:
    """Attributes without tags (EG.D, Sagemcom), and a tag behind its length (Landis+Gyr ZMF100)."""
    bare = (
        "0204 1601 0202 00010000600100ff02 0902 3132"
        "          0202 00030100010800ff02 0600000005"
        "          0202 00030100020800ff02 0600000006"
    )
    swapped = (
        "0102 0203 060901001f0700ff 1000f4 02020ffe1621"
        "     0203 09060100010800ff 0600000005 02020f00161e"
    )
    for written, expected in ((bare, (Index(5), Index(6), "12")), (swapped, (Index(5), None, ""))):
        outcome = heard(
            wrapped(b"\x0f" + bytes(5) + bytes.fromhex(written)), Style(framing=Framing.WRAPPER)
        )
        [reading] = outcome
        assert isinstance(reading, Reading)
        assert (reading.imported, reading.exported, reading.identity) == expected
        bare_line = decoder(Style(framing=Framing.BARE))
        message = b"\x0f" + bytes(5) + bytes.fromhex(written)
        by_bytes = [one for byte in message for one in bare_line.receive(bytes([byte]), AT_NS)]
        assert [one.imported for one in read(by_bytes)] == [expected[0]]
        assert not refused(by_bytes)


def test_a_meter_that_doubts_its_clock_is_marked() -> None:
    clock = Datum(Tag.OCTET_STRING, encode_clock(TOLD.unix_s, -60, 0x02))
    code = Datum(Tag.OCTET_STRING, bytes((0, 0, 1, 0, 0, 255)))
    body = Datum(Tag.ARRAY, (Datum(Tag.STRUCTURE, (code, clock)), entry(1, COUNT, unit(0, 30))))
    [reading] = said(body)
    assert isinstance(reading, Reading)
    assert reading.caveats == {Caveat.CLOCK_DEGRADED}
    assert reading.meter_time_s == TOLD.unix_s


def test_what_states_no_unit_counts_as_it_was_set() -> None:
    set_up = PushSettings(unitless_exponent=3)
    style = Style(layout=Layout.PAIRS)
    [reading] = PushDecoder(set_up).receive(telegram(TOLD, style, 1), AT_NS)
    assert isinstance(reading, Reading)
    assert reading.imported == Index(123_450, 3)


# --- Lists without codes. ------------------------------------------------------------------------


def octets(raw: bytes) -> Datum:
    return Datum(Tag.OCTET_STRING, raw)


def count(value: int, tag: Tag = Tag.DOUBLE_LONG_UNSIGNED) -> Datum:
    return Datum(tag, value)


NUMBER = octets(b"1121273201353")
CLOCK_SHOWN = octets(encode_clock(TOLD.unix_s, -60))
VIENNA = (
    octets(bytes((0, 6, 25, 9, 0, 255))), NUMBER,
    octets(bytes((13, 7, 0, 0))), octets(bytes((7, 0xEA, 9, 21, 1))),
    *map(count, (9_534_290, 2_896_624, 726_595, 2_561_341, 738, 0)),
)  # fmt: skip


def test_viennas_list_is_known_by_its_shape() -> None:
    [reading] = said(Datum(Tag.STRUCTURE, VIENNA))
    assert isinstance(reading, Reading)
    assert reading.identity == "1121273201353"
    assert (reading.imported, reading.exported) == (Index(9_534_290), Index(2_896_624))
    assert reading.caveats == {Caveat.UNIT_ASSUMED}
    assert dict(reading.fields)["1.0.1.7.0.255"] == "738"


@pytest.mark.parametrize(
    "changed",
    [
        VIENNA[:-1],
        (*VIENNA, count(0)),
        (octets(bytes((0, 6, 25, 9, 1, 255))), *VIENNA[1:]),
        (*VIENNA[:2], octets(bytes(5)), *VIENNA[3:]),
        (*VIENNA[:3], octets(bytes(12)), *VIENNA[4:]),
        (*VIENNA[:1], count(7), *VIENNA[2:]),
        (*VIENNA[:4], count(5, Tag.DOUBLE_LONG), *VIENNA[5:]),
    ],
)
def test_a_list_that_is_nearly_viennas_names_no_register(changed: tuple[Datum, ...]) -> None:
    [reading] = said(Datum(Tag.STRUCTURE, changed))
    assert isinstance(reading, Reading)
    assert reading.imported is None
    assert reading.exported is None


IMPORTED, EXPORTED = (bytes((1, 0, group, 8, 0, 255)) for group in (1, 2))
SHOWN = bytes((0, 0, 1, 0, 0, 255))
ORDER = (SHOWN, IMPORTED, EXPORTED, b"", bytes((0, 0, 96, 1, 0, 255)))
LISTED = (CLOCK_SHOWN, count(222_813), count(13_818), count(9, Tag.LONG_UNSIGNED), NUMBER)


def in_order(values: tuple[Datum, ...], order: tuple[bytes, ...] = ORDER) -> Reading:
    one = PushDecoder(PushSettings(Framing.WRAPPER, order=order))
    body = encode_data(Datum(Tag.STRUCTURE, values))
    [reading] = one.receive(wrapped(b"\x0f" + bytes(5) + body), AT_NS)
    assert isinstance(reading, Reading)
    return reading


def test_a_list_without_codes_is_read_in_the_order_that_is_stated() -> None:
    reading = in_order(LISTED)
    assert (reading.imported, reading.exported) == (Index(222_813), Index(13_818))
    assert reading.identity == "1121273201353"
    assert reading.meter_time_s == TOLD.unix_s
    assert reading.caveats == {Caveat.UNIT_ASSUMED}
    wide = (LISTED[0], count(2**40, Tag.LONG64_UNSIGNED), *LISTED[2:])
    assert in_order(wide).imported == Index(2**40)
    assert in_order(LISTED, ()).imported is None


@pytest.mark.parametrize(
    "values",
    [
        LISTED[:-1],  # the shorter list that the meter sends between
        (*LISTED, count(1)),
        (count(1), *LISTED[1:]),  # no clock where one must be
        (LISTED[0], count(5, Tag.LONG_UNSIGNED), *LISTED[2:]),
        (LISTED[0], count(5, Tag.DOUBLE_LONG), *LISTED[2:]),
        (LISTED[0], CLOCK_SHOWN, *LISTED[2:]),
        (LISTED[0], Datum(Tag.STRUCTURE, (count(5),)), *LISTED[2:]),
    ],
)
def test_a_list_of_another_shape_is_not_read_in_that_order(values: tuple[Datum, ...]) -> None:
    reading = in_order(values)
    assert reading.imported is None
    assert reading.exported is None


def test_a_list_that_states_its_codes_needs_no_order() -> None:
    entries = (entry(1, COUNT, unit(0, 30)), entry(2, count(6), unit(0, 30)))
    reading = in_order(entries, (EXPORTED, IMPORTED))
    assert (reading.imported, reading.exported) == (Index(5), Index(6))


REGISTERS = tuple(
    element
    for group, value in ((1, 4_752_026), (2, 5_157_273))
    for element in (octets(bytes((1, 0, group, 8, 0, 255))), count(value), unit(0, 30))
)
LOWER_AUSTRIAN = (CLOCK_SHOWN, *REGISTERS, octets(b"178210128502"))


def test_a_number_behind_the_registers_of_a_lower_austrian_list_is_the_meters() -> None:
    [reading] = said(Datum(Tag.STRUCTURE, LOWER_AUSTRIAN))
    assert isinstance(reading, Reading)
    assert reading.identity == "178210128502"
    assert (reading.imported, reading.exported) == (Index(4_752_026), Index(5_157_273))
    assert dict(reading.fields)["0.0.96.1.0.255"] == "178210128502"


@pytest.mark.parametrize(
    "changed",
    [
        LOWER_AUSTRIAN[1:],  # no clock before it
        (*LOWER_AUSTRIAN[:-1], octets(b"17821012850Z")),
        (*LOWER_AUSTRIAN[:-1], octets(b"1782101")),
        (*LOWER_AUSTRIAN[:-1], count(178_210_128)),
        (*LOWER_AUSTRIAN, octets(b"178210128503")),
        LOWER_AUSTRIAN[:-1],
        (LOWER_AUSTRIAN[0], LOWER_AUSTRIAN[-1]),
    ],
)
def test_no_other_text_without_a_code_is_a_meters_number(changed: tuple[Datum, ...]) -> None:
    [reading] = said(Datum(Tag.STRUCTURE, changed))
    assert isinstance(reading, Reading)
    assert reading.identity == ""


def test_a_number_under_its_code_is_the_meters_before_one_without() -> None:
    stated = (octets(bytes((0, 0, 42, 0, 0, 255))), octets(b"LGZ1030000000"))
    [reading] = said(Datum(Tag.STRUCTURE, (*LOWER_AUSTRIAN[:1], *stated, *LOWER_AUSTRIAN[1:])))
    assert isinstance(reading, Reading)
    assert reading.identity == "LGZ1030000000"


def test_a_kamstrup_that_states_no_gs1_number_is_known_by_the_number_on_its_front() -> None:
    number = bytes((1, 1, 0, 0, 1, 255))
    for value, identity in ((34_374_909, "34374909"), (0, "")):
        [reading] = said(Datum(Tag.STRUCTURE, (octets(number), count(value))))
        assert isinstance(reading, Reading)
        assert reading.identity == identity


# --- Protection. ---------------------------------------------------------------------------------

SEALED = Style(keys=KEYS)


@pytest.mark.parametrize("framing", Framing)
def test_the_wrong_key_gives_nothing(framing: Framing) -> None:
    sealed = telegram(TOLD, replace(SEALED, framing=framing), 1)
    for keys in (
        Keys(KEYS.encryption, bytes(16)),
        Keys(bytes(16), KEYS.authentication),
        Keys(bytes(16)),
    ):
        outcome = heard(sealed, Style(framing=framing, keys=keys))
        assert set(refused(outcome)) == {Refused.NOT_AUTHENTIC}
        assert not read(outcome)
    if framing is not Framing.BARE:  # where it does not begin a message at all
        assert refused(heard(sealed, Style(framing=framing))) == [Refused.NOT_AUTHENTIC]


def test_every_flipped_byte_of_a_sealed_message_is_refused() -> None:
    message = seal(1)
    for at in range(len(message)):
        altered = bytearray(message)
        altered[at] ^= 0x01
        outcome = heard(wrapped(bytes(altered)), Style(framing=Framing.WRAPPER, keys=KEYS))
        assert not read(outcome), at
        assert outcome, at


def seal(counter: int, control: int = AUTHENTICATED | ENCRYPTED, tag: int = GENERAL_GLO) -> bytes:
    sealed = seal_protected(notification(TOLD, SEALED), control, counter, TITLE, KEYS)
    return encode_protected(sealed, tag)


def over_tcp(message: bytes, one: PushDecoder) -> Outcome:
    return one.receive(wrapped(message), AT_NS)


def test_a_repeated_message_counts_once_and_an_older_one_never() -> None:
    one = PushDecoder(PushSettings(Framing.WRAPPER, KEYS))
    assert len(read(over_tcp(seal(7), one))) == 1
    assert refused(over_tcp(seal(7), one)) == [Refused.NOT_AUTHENTIC]
    assert refused(over_tcp(seal(6), one)) == [Refused.NOT_AUTHENTIC]
    assert len(read(over_tcp(seal(8), one))) == 1
    assert one.counter == 8
    again = PushDecoder(PushSettings(Framing.WRAPPER, KEYS, counter=one.counter))
    assert refused(over_tcp(seal(8), again)) == [Refused.NOT_AUTHENTIC]
    assert len(read(over_tcp(seal(9), again))) == 1


def test_a_message_that_is_refused_does_not_move_the_counter() -> None:
    one = PushDecoder(PushSettings(Framing.WRAPPER, KEYS))
    high = bytearray(seal(7))
    high[high.index(bytes((0x30, 0, 0, 0, 7))) + 1] = 0xFF
    assert refused(over_tcp(bytes(high), one)) == [Refused.NOT_AUTHENTIC]
    assert len(read(over_tcp(seal(8), one))) == 1


def test_what_is_not_authenticated_is_refused_from_a_meter_that_can() -> None:
    one = PushDecoder(PushSettings(Framing.WRAPPER, KEYS))
    assert refused(over_tcp(seal(7, ENCRYPTED), one)) == [Refused.NOT_AUTHENTIC]
    assert refused(over_tcp(notification(TOLD, SEALED), one)) == [Refused.NOT_AUTHENTIC]
    assert len(read(over_tcp(seal(7, AUTHENTICATED), one))) == 1


def test_another_meter_under_the_same_key_is_refused() -> None:
    one = PushDecoder(PushSettings(Framing.WRAPPER, KEYS))
    over_tcp(seal(7), one)
    other = seal_protected(notification(TOLD, SEALED), 0x30, 9, b"SIM\0\0\0\0\x08", KEYS)
    assert refused(over_tcp(encode_protected(other, GENERAL_GLO), one)) == [Refused.OTHER_METER]


@pytest.mark.parametrize("keys", [KEYS, Keys(KEYS.encryption)])
def test_a_ciphered_p1_telegram_is_told_as_what_it_is(keys: Keys) -> None:
    text = b"/SAG5SAG-METER\r\n\r\n1-0:1.8.0(000123.456*kWh)\r\n!0000\r\n"
    control = ENCRYPTED | (AUTHENTICATED if keys.authentication else 0)
    sealed = encode_protected(seal_protected(text, control, 9, TITLE, keys), GENERAL_GLO)
    [refusal] = over_tcp(sealed, PushDecoder(PushSettings(Framing.WRAPPER, keys)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.UNSUPPORTED
    assert "P1 telegram" in refusal.detail


@pytest.mark.parametrize("tag", [0xCA, 0xCB])
def test_a_tag_of_one_service_needs_the_title_from_elsewhere(tag: int) -> None:
    known = PushDecoder(PushSettings(Framing.WRAPPER, KEYS, TITLE))
    assert len(read(over_tcp(seal(7, tag=tag), known))) == 1
    unknown = PushDecoder(PushSettings(Framing.WRAPPER, KEYS))
    assert refused(over_tcp(seal(7, tag=tag), unknown)) == [Refused.NOT_AUTHENTIC]
    over_tcp(seal(8), unknown)
    assert len(read(over_tcp(seal(9, tag=tag), unknown))) == 1


def test_a_tag_that_cannot_be_checked_is_marked() -> None:
    one = PushDecoder(PushSettings(Framing.WRAPPER, Keys(KEYS.encryption)))
    [reading] = over_tcp(seal(7), one)
    assert isinstance(reading, Reading)
    assert reading.caveats == {Caveat.NOT_AUTHENTICATED}


@pytest.mark.parametrize("keys", [KEYS, Keys(KEYS.encryption)])
def test_suite_1_protects_telegrams_as_suite_0_does(keys: Keys) -> None:
    control = ENCRYPTED | (AUTHENTICATED if keys.authentication else 0) | 1
    one = PushDecoder(PushSettings(Framing.WRAPPER, keys))
    assert [reading.imported for reading in read(over_tcp(seal(7, control), one))] == [
        Index(123_450)
    ]
    assert one.counter == 7


def test_the_suite_that_a_message_states_is_under_its_tag() -> None:
    message = bytearray(seal(7))
    message[message.index(0x30, 10)] = 0x31
    one = PushDecoder(PushSettings(Framing.WRAPPER, KEYS))
    assert refused(over_tcp(bytes(message), one)) == [Refused.NOT_AUTHENTIC]


@pytest.mark.parametrize("control", [0x32, 0x3F, 0xB0, 0xB1])
def test_other_suites_and_compression_are_unsupported(control: int) -> None:
    message = bytearray(seal(7))
    message[message.index(0x30, 10)] = control
    one = PushDecoder(PushSettings(Framing.WRAPPER, KEYS))
    assert refused(over_tcp(bytes(message), one)) == [Refused.UNSUPPORTED]


def test_keys_are_not_shown() -> None:
    assert "x01" not in repr(KEYS)
    assert "x01" not in repr(PushSettings(keys=KEYS))
    with pytest.raises(ValueError, match="16 bytes"):
        Keys(b"short")


# --- Parts. --------------------------------------------------------------------------------------

SEGMENTED = Style(part=60)


def frames_of(style: Style, told: Told = TOLD) -> list[bytes]:
    line = telegram(told, style, 1)
    cuts = [at for at in range(len(line) - 1) if line[at : at + 2] == b"\x7e\x7e"]
    bounds = [0, *(at + 1 for at in cuts), len(line)]
    return [line[a:b] for a, b in pairwise(bounds)]


@pytest.mark.parametrize(
    "style", [SEGMENTED, Style(block=50), Style(keys=KEYS, block=50)], ids=named
)
def test_a_part_that_is_lost_loses_its_message_and_no_other(style: Style) -> None:
    parts = frames_of(style)
    assert len(parts) > 3
    for lost in range(len(parts)):
        one = decoder(style)
        rest = b"".join(part for number, part in enumerate(parts) if number != lost)
        outcome = one.receive(rest, AT_NS)
        assert not read(outcome)
        outcome += one.receive(telegram(TOLD, style, 2), AT_NS)
        assert len(read(outcome)) == 1
        assert Refused.INCOMPLETE in refused(outcome) or Refused.FORM in refused(outcome)


@pytest.mark.parametrize("style", [SEGMENTED, Style(block=50)], ids=named)
def test_parts_that_stay_away_are_not_waited_for(style: Style) -> None:
    one = decoder(style)
    parts = frames_of(style)
    assert one.receive(parts[0], AT_NS) == []
    assert one.receive(b"", AT_NS + QUIET_NS - 1) == []
    assert refused(one.receive(b"", AT_NS + QUIET_NS)) == [Refused.INCOMPLETE]
    assert not read(one.receive(b"".join(parts[1:]), AT_NS + QUIET_NS))


@pytest.mark.parametrize("style", [SEGMENTED, Style(block=50)], ids=named)
def test_parts_of_two_meters_are_never_one_message(style: Style) -> None:
    ours = frames_of(style)
    [theirs] = [one for one in HdlcReceiver().receive(ours[1], 0) if isinstance(one, Frame)]
    swapped = replace(theirs, source=Address(5, 65, 2)).encode()
    outcome = decoder(style).receive(b"".join([ours[0], swapped, *ours[2:]]), AT_NS)
    assert not read(outcome)
    assert Refused.INCOMPLETE in refused(outcome)


def test_a_message_without_end_is_too_long() -> None:
    one = decoder(SEGMENTED)
    endless = Frame(Address(1), Address(1), 0x03, b"\xe6\xe7\x00" + bytes(1_000), True).encode()
    more = Frame(Address(1), Address(1), 0x03, bytes(1_000), True).encode()
    outcome = one.receive(endless + more * 12, AT_NS)
    assert Refused.TOO_LONG in refused(outcome)


def test_a_message_of_another_kind_is_unsupported() -> None:
    frame = Frame(Address(1), Address(1), Control.UI, b"\xe6\xe7\x00\xc4\x01\x81\x00").encode()
    assert refused(heard(frame, Style())) == [Refused.UNSUPPORTED]
    compact = encode_data(Datum(Tag.NULL, None)).replace(b"\0", b"\x13\0")
    assert refused(
        heard(wrapped(b"\x0f" + bytes(5) + compact), Style(framing=Framing.WRAPPER))
    ) == [Refused.UNSUPPORTED]


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        (0x18, "an information report"),
        (0xC2, "an event notification"),
        (0xDC, "general-ded-ciphering"),
        (0xDD, "general-ciphering"),
        (0xDF, "general-signing"),
    ],
)
def test_a_message_of_a_kind_that_is_not_read_is_named(tag: int, kind: str) -> None:
    style = Style(framing=Framing.WRAPPER)
    [refusal] = heard(wrapped(bytes([tag]) + bytes(12)), style)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.UNSUPPORTED
    assert kind in refusal.detail


def test_what_follows_the_values_is_refused() -> None:
    message = notification(TOLD, Style()) + b"\x00"
    assert refused(heard(wrapped(message), Style(framing=Framing.WRAPPER))) == [Refused.FORM]
    assert refused(heard(wrapped(message[:-9]), Style(framing=Framing.WRAPPER))) == [
        Refused.INCOMPLETE
    ]


def test_an_mbus_frame_of_another_protocol_is_unsupported() -> None:
    body = bytes((0x08, 0x01, 0x72, 1, 2, 3, 4))
    frame = bytes((0x68, len(body), len(body), 0x68)) + body + bytes((sum(body) % 256, 0x16))
    assert refused(heard(frame, Style(framing=Framing.MBUS))) == [Refused.UNSUPPORTED]


def overlong(told: Told = TOLD) -> tuple[bytes, bytes]:
    """A telegram in two M-Bus frames, the first one of 257 bytes: its length says 1."""
    message = notification(told, Style(number="9" * 110))
    rows = [bytes((0x53, 0xFF, 0x00, 1, 0x67)) + message[:252]]
    rows.append(bytes((0x53, 0xFF, 0x11, 1, 0x67)) + message[252:])
    assert len(rows[0]) == 257
    first, last = (
        bytes((0x68, len(row) % 256, len(row) % 256, 0x68)) + row + bytes((sum(row) % 256, 0x16))
        for row in rows
    )
    return first, last


def test_a_length_that_does_not_fit_into_its_byte_is_read_as_it_was_meant() -> None:
    """As Sagemcom's T210-D writes it."""
    first, last = overlong()
    style = Style(framing=Framing.MBUS)
    [reading] = heard(first + last, style)
    assert isinstance(reading, Reading)
    assert reading.imported == Index(123_450)
    assert framing_of(b"noise" + first + last) is Framing.MBUS
    by_bytes = decoder(style)
    line = first + last
    assert [one for byte in line for one in by_bytes.receive(bytes([byte]), AT_NS)] == [reading]
    for at in range(4, len(line)):
        damaged_line = line[:at] + bytes([line[at] ^ 0x10]) + line[at + 1 :]
        assert not read(heard(damaged_line, style)), at
        assert heard(damaged_line + line, style)[-1] == reading


def test_a_short_mbus_frame_is_none_that_is_overlong() -> None:
    reset = bytes((0x68, 3, 3, 0x68, 0x53, 0xFE, 0x50, (0x53 + 0xFE + 0x50) % 256, 0x16))
    style = Style(framing=Framing.MBUS)
    one = decoder(style)
    outcome = one.receive(reset + telegram(TOLD, style, 1), AT_NS)
    assert [type(said) for said in outcome] == [Refusal, Reading]


def test_a_line_of_damaged_frames_is_not_taken_for_messages_without_frames() -> None:
    line = bytearray(telegram(TOLD, Style(), 1))
    line[-3] ^= 0x01
    assert not read(heard(bytes(line), Style()))
    assert framing_of(bytes(line)) is Framing.HDLC
    assert framing_of(bytes(line[:12])) is Framing.HDLC
    line[3] ^= 0x02  # the header's sum is wrong, too: nothing tells of frames
    assert framing_of(bytes(line)) is Framing.BARE


# --- Whatever comes. -----------------------------------------------------------------------------


@given(few_styles, st.integers(0, 2**32), st.data())
@settings(max_examples=60, deadline=None)
def test_any_chunks_give_the_same_outcome(style: Style, seed: int, data: st.DataObject) -> None:
    random = Random(seed)
    told = [replace(TOLD, imported_wh=TOLD.imported_wh + 10 * number) for number in range(4)]
    sent = [telegram(one, style, number + 1) for number, one in enumerate(told)]
    line = b"".join(came for came, _ in damaged(sent, 0.4, random))
    whole, chunked = decoder(style), decoder(style)
    outcome = [*whole.receive(line, AT_NS), *whole.receive(b"", LATER_NS)]
    pieces: Outcome = []
    at = 0
    while at < len(line):
        size = data.draw(st.sampled_from((1, 2, 7, 64, 500)))
        pieces += chunked.receive(line[at : at + size], AT_NS)
        at += size
    assert [*pieces, *chunked.receive(b"", LATER_NS)] == outcome


@given(few_styles, st.binary(max_size=400))
@settings(max_examples=150, deadline=None)
def test_no_bytes_raise_and_a_telegram_after_a_silence_is_read(style: Style, noise: bytes) -> None:
    one = decoder(style)
    one.receive(noise, AT_NS)
    one.receive(b"", LATER_NS)
    outcome = one.receive(telegram(TOLD, style, 2**31), 2 * LATER_NS)
    assert len(read(outcome)) == 1


@pytest.mark.parametrize("framing", Framing)
@pytest.mark.parametrize("keys", [None, KEYS], ids=["clear", "keys"])
def test_noise_without_end_holds_a_bounded_memory(framing: Framing, keys: Keys | None) -> None:
    style = Style(framing=framing, keys=keys)
    one, random = decoder(style), Random(5)
    tracemalloc.start()
    try:
        for _ in range(16):
            noise = random.randbytes(2**12).replace(b"\x01", telegram(TOLD, style, 1)[:12])
            assert len(one.receive(noise, AT_NS)) < 200
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 500_000


def test_messages_are_read_in_the_order_of_their_looks() -> None:
    style = Style()
    line = telegram(TOLD, style, 1)
    one = decoder(style)
    assert one.receive(line[:50], 1) == []
    [reading] = one.receive(line[50:], 2)
    assert isinstance(reading, Reading)
    assert (reading.began_ns, reading.ended_ns) == (1, 2)


# --- A day on a bad line. ------------------------------------------------------------------------

DAY_S, PERIOD_S = 86_400, 10
POWER_W = 36_000


def day(style: Style, random: Random) -> tuple[list[bytes], list[int]]:
    """A day's telegrams, and the exported index that each of them says."""
    exported, sent, truth = 98_760, [], []
    for number in range(DAY_S // PERIOD_S):
        exported += random.choice((0, 1, 3, 20, 80))
        told = replace(TOLD, exported_wh=exported, unix_s=TOLD.unix_s + PERIOD_S * number)
        sent.append(telegram(told, style, number + 1))
        truth.append(exported)
    return sent, truth


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize(
    "style",
    [Style(part=120), Style(layout=Layout.PAIRS, keys=KEYS, block=100)],
    ids=["segments", "blocks-sealed"],
)
def test_a_day_of_damage_gives_no_wrong_index(style: Style, share: float) -> None:
    random = Random(int(share * 10))
    sent, truth = day(style, random)
    one, gate = decoder(style), Plausible(Limits("", Register.EXPORT, POWER_W))
    believed: dict[int, int] = {}
    intact = set()
    for number, (came, whole) in enumerate(damaged(sent, share, random)):
        at_ns = PERIOD_S * NS_PER_S * number
        if whole:
            intact.add(number)
        for outcome in (one.receive(came, at_ns), one.receive(b"", at_ns + 5 * NS_PER_S)):
            for reading in read(outcome):
                for accepted in read(gate.judge(reading)):
                    assert accepted.exported == Index(truth[number])
                    believed[number] = truth[number]
    share_of_intact = len(intact & set(believed)) / len(intact)
    assert share_of_intact >= 0.95, share_of_intact
