"""SML push, at the edges of its form: each kind of value, each length, and where a file ends."""

from dataclasses import replace

import pytest

from hal.index.crc16 import x25
from hal.index.reading import Index, Reading, Refusal, Refused
from hal.index.sml import DEPTH_MAX, FILE_MAX, SILENCE_NS, SmlDecoder
from hal.index.sml_meter import SmlMeter, Value, encode_item
from tests.hal.index.test_sml import IMPORTED, METER, PLAIN, POWER, SERVER, decode, reasons

ABSENT = b"\x01"
ESCAPE = b"\x1b\x1b\x1b\x1b"
START = ESCAPE + b"\x01\x01\x01\x01"
WH, SCALER = b"\x62\x1e", b"\x52\x00"
OTHER = bytes.fromhex("0100630700ff")  # 1-0:99.7.0*255, of nothing
AT_NS = 5


def number(value: int, width: int = 4) -> bytes:
    return bytes((0x61 + width,)) + value.to_bytes(width, "big")


def signed(value: int, width: int) -> bytes:
    return bytes((0x51 + width,)) + value.to_bytes(width, "big", signed=True)


def time(choice: int, seconds: int) -> bytes:
    return b"\x72" + number(choice, 1) + number(seconds)


def entry(
    code: bytes,
    value: bytes,
    *,
    status: bytes = ABSENT,
    at: bytes = ABSENT,
    unit: bytes = ABSENT,
    scaler: bytes = ABSENT,
    signature: bytes = ABSENT,
) -> bytes:
    return b"\x77" + encode_item(code) + status + at + unit + scaler + value + signature


ENERGY = entry(IMPORTED, number(7), unit=WH, scaler=SCALER)


def listed(*entries: bytes, server: bytes = SERVER, name: bytes = b"", at: bytes = ABSENT) -> bytes:
    values = bytes((0x70 + len(entries),)) + b"".join(entries)
    ids = encode_item(server) + encode_item(name or None)
    return b"\x77" + ABSENT + ids + at + values + ABSENT + ABSENT


def message(
    body: bytes,
    *,
    of: bytes = b"\x02\x01",
    group: bytes = b"\x62\x00",
    errors: bytes = b"\x62\x00",
    kind: bytes = b"\x63\x07\x01",
    stated: bytes = b"",
) -> bytes:
    """One of a list, by its bytes."""
    inner = b"\x76" + of + group + errors + b"\x72" + kind + body
    return inner + (stated or b"\x63" + x25(inner).to_bytes(2, "little")) + b"\0"


def only(data: bytes) -> Reading | Refusal:
    [outcome] = SmlDecoder().receive(data, AT_NS)
    return outcome


def read(*entries: bytes, name: bytes = b"", at: bytes = ABSENT, server: bytes = SERVER) -> Reading:
    outcome = only(METER.transport(message(listed(*entries, name=name, at=at, server=server))))
    assert isinstance(outcome, Reading), outcome
    return outcome


def refusal(data: bytes) -> Refusal:
    outcome = only(data)
    assert isinstance(outcome, Refusal), outcome
    assert outcome.detail
    assert outcome.at_ns == AT_NS
    return outcome


# --- What a value says. --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "scaler", "text"),
    [
        (b"\x42\x01", ABSENT, ABSENT, "true"),
        (b"\x42\x00", ABSENT, ABSENT, "false"),
        (b"\x71" + number(1), ABSENT, ABSENT, "a list"),
        (encode_item(b"abc"), ABSENT, ABSENT, "abc"),
        (encode_item(b"\x00\xff"), ABSENT, ABSENT, "00ff"),
        (encode_item(b"a\nb"), ABSENT, ABSENT, "610a62"),
        (number(7), ABSENT, ABSENT, "7"),
        (number(7), b"\x62\x1b", ABSENT, "7 W"),
        (number(7), b"\x62\x63", ABSENT, "7 unit 99"),
        (number(7), ABSENT, signed(3, 1), "7e3"),
        (number(0), ABSENT, signed(-1, 1), "0.0"),
        (number(7), ABSENT, signed(-1, 1), "0.7"),
        (number(71), ABSENT, signed(-1, 1), "7.1"),
        (number(7), ABSENT, signed(-18, 1), "0.000000000000000007"),
        (number(7), ABSENT, signed(-19, 1), "7e-19"),
        (signed(-7, 1), ABSENT, signed(-1, 1), "-0.7"),
    ],
)
def test_a_value_of_each_kind_is_told_as_text(
    value: bytes, unit: bytes, scaler: bytes, text: str
) -> None:
    reading = read(ENERGY, entry(OTHER, value, unit=unit, scaler=scaler))
    assert dict(reading.fields)["1-0:99.7.0*255"] == text


def test_status_time_and_signature_of_a_value_are_told_beside_it() -> None:
    stamped = {"at": time(2, 1_700_000_000), "signature": encode_item(b"\x01\x02")}
    reading = read(
        ENERGY,
        entry(OTHER, ABSENT, status=number(0x1C01, 2), **stamped),
        entry(POWER, number(1, 1), status=encode_item(b"good"), at=number(5)),
        entry(bytes.fromhex("0100010801ff"), ABSENT, status=signed(-5, 1)),
        name=b"ab",
    )
    assert dict(reading.fields) == {
        "number": "1TST0001234567",
        "list": "6162",
        "1-0:1.8.0*255": "7 Wh",
        "1-0:99.7.0*255 status": "1c01",
        "1-0:99.7.0*255 time": "1700000000 unix",
        "1-0:99.7.0*255 signature": "0102",
        "1-0:16.7.0*255": "1",
        "1-0:16.7.0*255 status": "good",
        "1-0:16.7.0*255 time": "5 s",
        "1-0:1.8.1*255 status": "-5",
    }


def test_the_time_of_a_reading_is_that_of_its_registers_or_else_of_the_list() -> None:
    of_power = entry(POWER, number(1), at=time(2, 1_600_000_000))
    of_list = time(2, 1_500_000_000)
    for code in (IMPORTED, bytes.fromhex("0100020800ff")):
        stamped = entry(code, number(7), unit=WH, at=time(2, 1_700_000_000))
        assert read(of_power, stamped, at=of_list).meter_time_s == 1_700_000_000
    assert read(of_power, ENERGY, at=of_list).meter_time_s == 1_500_000_000
    # Seconds of its life are no time of day, however many.
    assert read(ENERGY, at=number(1_700_000_000)).meter_time_s is None
    assert read(ENERGY, at=time(1, 1_700_000_000)).meter_time_s is None


@pytest.mark.parametrize(
    ("server", "printed"),
    [
        (b"1EMH0012345678", "1EMH0012345678"),
        (b"\x09\x01TST\x07\x01\x12\xd6\x87", "1TST0718011783"),
        (b"\x0a\x01TST\x07\x01\x12\xd6\x87", "1TST0718011783"),
        (b"\x0b\x01TST\x07\x01\x12\xd6\x87", None),
        (b"\x0a\x011ST\x07\x01\x12\xd6\x87", None),
        (b"\x0a\x01TST\x07\x01\x12\xd6", None),
        (b"1EMH-12345678", None),
        ("straße".encode("latin-1"), None),
    ],
)
def test_the_number_on_the_plate_is_told_where_the_server_id_holds_one(
    server: bytes, printed: str | None
) -> None:
    reading = read(ENERGY, server=server)
    assert reading.identity == server.hex().upper()
    assert dict(reading.fields).get("number") == printed


@pytest.mark.parametrize(
    ("maker", "code", "value", "text"),
    [
        (b"DZG", POWER, signed(-1, 2), "65535"),
        (b"DZG", POWER, signed(-1, 3), "16777215"),
        (b"DZG", POWER, signed(-1, 4), "-1"),  # no positive power needs so many
        (b"DZG", OTHER, signed(-1, 2), "-1"),
        (b"TST", POWER, signed(-1, 2), "-1"),
    ],
)
def test_only_a_power_of_a_dzg_meter_that_is_short_is_signed_wrongly(
    maker: bytes, code: bytes, value: bytes, text: str
) -> None:
    server = b"\x0a\x01" + maker + b"\x00" + (42_082_910).to_bytes(4, "big")
    reading = read(ENERGY, entry(code, value), server=server)
    assert text in dict(reading.fields).values()


@pytest.mark.parametrize(
    ("value", "scaler", "is_read"),
    [
        (number(10**12 - 1, 8), 0, True),
        (number(10**12, 8), 0, False),
        (number(10**6 - 1), 6, True),
        (number(10**6), 6, False),
        (number(0), 6, True),
        (number(0), 7, False),
        (number(5), -6, True),
        (number(5), -7, False),
        (signed(7, 2), 1, True),
        (signed(-1, 2), 1, False),
        (b"\x42\x01", 0, False),
        (b"\x71" + number(1), 0, False),
    ],
)
def test_an_index_is_a_whole_number_that_a_meter_can_show(
    value: bytes, scaler: int, is_read: bool
) -> None:
    energy = entry(IMPORTED, value, unit=WH, scaler=signed(scaler, 1))
    outcome = only(METER.transport(message(listed(energy))))
    if is_read:
        assert isinstance(outcome, Reading)
        assert outcome.imported == Index(int.from_bytes(value[1:], "big"), scaler)
    else:
        assert isinstance(outcome, Refusal)
        assert outcome.reason is Refused.FORM


# --- How values are written. ---------------------------------------------------------------------


def nested(depth: int) -> bytes:
    return b"\x71" * depth + number(1)


BAD_VALUES = {
    "a boolean of two bytes": b"\x43\x01\x01",
    "a value of no kind": b"\x32\x01",
    "a number of nine bytes": b"\x6a" + bytes(9),
    "a number of no bytes": b"\x61",
    "a value shorter than its head": b"\x00",
    "a length whose second byte has a kind": b"\x82\x11" + bytes(31),
    "lists within too many lists": nested(DEPTH_MAX - 4),
}


@pytest.mark.parametrize("value", BAD_VALUES.values(), ids=BAD_VALUES.keys())
def test_a_value_that_no_meter_writes_so_is_a_bad_form(value: bytes) -> None:
    file = METER.transport(message(listed(ENERGY, entry(OTHER, value))))
    assert refusal(file).reason is Refused.FORM


@pytest.mark.parametrize(
    "value", [b"\x82\x01" + bytes(31), b"\x69" + bytes(8), nested(DEPTH_MAX - 5)]
)
def test_a_value_just_as_long_or_as_deep_as_may_be_is_read(value: bytes) -> None:
    assert read(ENERGY, entry(OTHER, value)).imported == Index(7)


@pytest.mark.parametrize("part", ["of", "group", "errors", "stated"])
@pytest.mark.parametrize("value", [b"\x71" + number(1), b"\x42\x01"])
def test_the_head_of_a_message_holds_no_lists(part: str, value: bytes) -> None:
    said = {part: value}
    assert refusal(METER.transport(message(listed(ENERGY), **said))).reason is Refused.FORM


@pytest.mark.parametrize("at", [b"\x42\x01", b"\x02a", b"\x71" + number(1), b"\x72\x02a\x62\x01"])
def test_a_time_of_a_gateway_is_a_time_too(at: bytes) -> None:
    good = listed(ENERGY)
    assert read(ENERGY).imported == Index(7)
    assert refusal(METER.transport(message(good[:-1] + at))).reason is Refused.FORM


def test_a_message_that_ends_anywhere_is_a_bad_form() -> None:
    whole = message(listed(ENERGY, entry(OTHER, b"\x82\x01" + bytes(31))))
    for cut in range(1, len(whole)):
        assert refusal(METER.transport(whole[:cut])).reason is Refused.FORM
    begun = METER.transport(b"\x76\x85")
    assert refusal(begun).reason is Refused.FORM


def test_fill_bytes_that_are_not_counted_are_passed_over_and_nothing_else_is() -> None:
    whole = message(listed(ENERGY))
    for count in range(5):
        assert reasons(decode(METER.transport(whole + bytes(count)))) == ["reading"]
    for rest in (bytes(9), b"\0\0\1", b"\1"):
        assert refusal(METER.transport(whole + rest)).reason is Refused.FORM


# --- What is told of a refusal. ------------------------------------------------------------------


def test_each_refusal_says_when_it_came_and_why() -> None:
    body = [SERVER, bytes.fromhex("8181c7c7fe00"), b"no such list", None]
    attention = METER.transport(METER.message(1, 0, 0xFF01, body))
    assert refusal(attention) == Refusal(Refused.METER_ERROR, "attention: 8181c7c7fe00", AT_NS)
    file = METER.file(1, PLAIN)
    for data, reason in (
        (METER.transport(message(listed(ENERGY, server=b""))), Refused.NO_IDENTITY),
        (METER.file(1, PLAIN[:2]), Refused.NO_INDEX),
        (METER.transport(METER.message(1, 0, 0x0201, [None])), Refused.NO_INDEX),
        (file[:-1] + bytes((file[-1] ^ 1,)), Refused.CHECKSUM),
        (START + b"\x76" * FILE_MAX, Refused.TOO_LONG),
        (START + ESCAPE + b"\x02\x02\x02\x02", Refused.FORM),
    ):
        assert refusal(data).reason is reason


def test_a_refusal_is_of_the_look_that_brought_the_last_byte() -> None:
    decoder, file = SmlDecoder(), METER.file(1, PLAIN)
    assert decoder.receive(file[:-1], 10) == []
    [refused] = decoder.receive(bytes((file[-1] ^ 1,)), 20)
    assert isinstance(refused, Refusal)
    assert refused.at_ns == 20


# --- Where files begin and end. ------------------------------------------------------------------


def test_silence_is_counted_from_the_last_byte() -> None:
    decoder, file = SmlDecoder(), METER.file(1, PLAIN)
    begun_ns = 10 * SILENCE_NS
    assert decoder.receive(file[:-2], begun_ns) == []
    assert decoder.receive(b"", begun_ns + SILENCE_NS - 1) == []
    assert decoder.receive(file[-2:-1], begun_ns + SILENCE_NS) == []
    assert decoder.receive(b"", begun_ns + 2 * SILENCE_NS - 1) == []
    [refused] = decoder.receive(b"", begun_ns + 2 * SILENCE_NS)
    assert isinstance(refused, Refusal)
    assert (refused.reason, bool(refused.detail)) == (Refused.INCOMPLETE, True)


def test_a_few_bytes_behind_a_file_are_no_file_that_was_broken_off() -> None:
    decoder = SmlDecoder()
    assert reasons(decoder.receive(METER.file(1, PLAIN) + b"abc", 0)) == ["reading"]
    assert decoder.receive(b"", SILENCE_NS) == []


def test_bytes_between_two_files_are_refused_once_they_can_begin_none() -> None:
    decoder, file = SmlDecoder(), METER.file(1, PLAIN)
    assert reasons(decode(file + b"\xff" * 7, decoder)) == ["reading"]
    assert reasons(decode(b"\xff", decoder)) == [Refused.INCOMPLETE]
    assert reasons(decode(b"\xff" * 9 + file + b"\xff" * 9 + file, decoder)) == [
        "reading", Refused.INCOMPLETE, "reading",
    ]  # fmt: skip


def test_a_file_may_have_as_many_bytes_as_are_kept_and_not_one_more() -> None:
    decoder = SmlDecoder()
    assert decode(START + b"\x76" * (FILE_MAX - len(START)), decoder) == []
    assert reasons(decode(b"\x76", decoder)) == [Refused.TOO_LONG]
    assert reasons(decode(METER.file(1, PLAIN), decoder)) == ["reading"]


def test_of_the_starts_that_a_bad_file_hides_the_last_one_is_taken() -> None:
    hidden = ESCAPE + START + b"junk" + ESCAPE
    data = START + hidden + METER.file(1, PLAIN)
    assert reasons(decode(data)) == [Refused.CHECKSUM, "reading"]


def test_a_meter_that_dates_its_values_in_seconds_of_its_life_has_no_time_of_day() -> None:
    dated = replace(METER, dates_values=True)
    assert isinstance(dated, SmlMeter)
    reading = only(dated.file(1, [Value(IMPORTED, 7, 30)], 99))
    assert isinstance(reading, Reading)
    assert dict(reading.fields)["1-0:1.8.0*255 time"] == "99 s"
    assert reading.meter_time_s is None
