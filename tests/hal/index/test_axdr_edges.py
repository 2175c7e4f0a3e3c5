"""A-XDR at its edges: lengths, counts, and the days and moments that a clock shows."""

from datetime import UTC, datetime

import pytest

from hal.index.axdr import (
    DEPTH_MAX,
    ELEMENTS_MAX,
    SCALER_MAX,
    Datum,
    Malformed,
    ScalerUnit,
    Tag,
    Truncated,
    decode_clock,
    decode_data,
    decode_length,
    decode_miswritten,
    encode_clock,
    encode_data,
    encode_length,
    obis_text,
    scaler_unit_of,
)

# --- Lengths and counts. -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "written"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "8180"),
        (255, "81ff"),
        (256, "820100"),
        (0xFFFF, "82ffff"),
    ],
)
def test_a_length_is_written_in_as_few_bytes_as_it_needs(length: int, written: str) -> None:
    raw = bytes.fromhex(written)
    assert encode_length(length) == raw
    assert decode_length(b"\xaa" + raw + b"\xbb", 1) == (length, 1 + len(raw))


@pytest.mark.parametrize("written", ["80", "8000", "83000001", "ff"])
def test_a_length_of_no_or_of_many_bytes_is_none(written: str) -> None:
    with pytest.raises(Malformed, match="a length that itself takes"):
        decode_length(bytes.fromhex(written), 0)


def nested(depth: int) -> bytes:
    return b"\x02\x01" * depth + b"\x00"


@pytest.mark.parametrize("decode", [decode_data, decode_miswritten])
def test_lists_are_as_deep_as_may_be_and_no_deeper(decode: type) -> None:
    assert decode(nested(DEPTH_MAX))[1] == 2 * DEPTH_MAX + 1
    with pytest.raises(Malformed, match="deeper"):
        decode(nested(DEPTH_MAX + 1))


def test_all_lists_of_a_message_together_have_as_many_elements_as_may_be() -> None:
    half = ELEMENTS_MAX // 2 - 1
    inner = b"\x01" + encode_length(half) + bytes(half)
    written = b"\x01\x02" + inner + inner
    assert decode_data(written)[1] == len(written)
    more = b"\x01" + encode_length(half + 1) + bytes(half + 1)
    with pytest.raises(Malformed, match="more elements"):
        decode_data(b"\x01\x02" + inner + more)


def test_a_beginning_says_how_many_bytes_there_are_at_least() -> None:
    code = "00030100010800ff02"  # a bare attribute
    for beginning, needs in (
        ("0104", 6),
        ("0203", 4),
        ("0203" + code, 13),
        ("0202" + code + "0202", 15),
    ):
        with pytest.raises(Truncated) as short:
            decode_miswritten(bytes.fromhex(beginning))
        assert short.value.needs == needs
        assert str(short.value) == f"the data end before byte {needs}"


@pytest.mark.parametrize(
    ("written", "is_read"),
    [
        ("0404f0", True),
        ("0404f8", False),
        ("0404f1", False),
        ("0401" + "80", True),
        ("0401" + "40", False),
        ("0408ff", True),
        ("0409ff80", True),
        ("040900c0", False),
        ("0410ffff", True),
        ("040affc0", True),
        ("040affe0", False),
        ("0400", True),
    ],
)
def test_the_bits_that_a_string_does_not_have_are_zero(written: str, is_read: bool) -> None:
    raw = bytes.fromhex(written)
    if is_read:
        assert decode_data(raw) == (Datum(Tag.BIT_STRING, raw[2:]), len(raw))
    else:
        with pytest.raises(Malformed, match="more bits"):
            decode_data(raw)


def test_what_only_looks_like_an_attribute_without_tags_is_read_as_it_stands() -> None:
    # The sixth byte of a code is 255, a class is above zero.
    for written in ("0202" + "00" + "0f05", "0203" + "00" + "00" + "0f05"):
        raw = bytes.fromhex(written)
        assert decode_miswritten(raw + bytes(12)) == decode_data(raw + bytes(12))
    almost = bytes.fromhex("020309060100010800fe" + "1105" + "1106")
    assert decode_miswritten(almost) == decode_data(almost)


# --- What meters put into it. --------------------------------------------------------------------


def test_values_are_told_for_people() -> None:
    assert obis_text(bytes.fromhex("0100010800ff")) == "1.0.1.8.0.255"
    assert ScalerUnit(-1, 30).text_of(1234) == "123.4 Wh"
    assert ScalerUnit(2, 27).text_of(5) == "500 W"
    assert ScalerUnit(0, 99).text_of(5) == "5"


def test_a_scaler_goes_as_far_as_registers_do() -> None:
    def read(scaler: int) -> ScalerUnit | None:
        parts = (Datum(Tag.INTEGER, scaler), Datum(Tag.ENUM, 30))
        return scaler_unit_of(decode_data(encode_data(Datum(Tag.STRUCTURE, parts)))[0])

    for scaler in (-SCALER_MAX, SCALER_MAX):
        assert read(scaler) == ScalerUnit(scaler, 30)
        assert read(scaler + (1 if scaler > 0 else -1)) is None


@pytest.mark.parametrize(
    "text",
    [
        "1970-01-01 00:00:00",
        "1999-12-31 23:59:59",
        "2000-01-01 00:00:00",
        "2000-02-29 12:00:00",
        "2023-12-31 23:59:59",
        "2024-01-31 00:00:00",
        "2024-02-01 00:00:00",
        "2024-02-29 00:00:00",
        "2024-03-01 00:00:00",
        "2024-12-31 00:00:00",
        "2025-01-01 00:00:00",
        "2100-03-01 00:00:00",
        "2199-12-31 23:59:59",
    ],
)
def test_the_last_and_the_first_days_are_written_and_read(text: str) -> None:
    moment = datetime.fromisoformat(text).replace(tzinfo=UTC)
    raw = encode_clock(int(moment.timestamp()), 0)
    assert raw[4] == moment.isoweekday()
    assert raw[8:] == bytes(4)  # no hundredths, no deviation, a clock in order
    clock = decode_clock(raw)
    assert (clock.text, clock.unix_s) == (text, moment.timestamp())


def clock(**parts: int) -> bytes:
    """Twelve bytes; a part that is not named is of 2022-11-12 16:54:00, an hour before UTC."""
    shown = {
        "year": 2022, "month": 11, "day": 12, "weekday": 6, "hour": 16, "minute": 54, "second": 0,
        "hundredths": 0, "deviation": -60, "status": 0,
    } | parts  # fmt: skip
    year, *middle, deviation, status = shown.values()
    return (
        year.to_bytes(2, "big")
        + bytes(middle)
        + deviation.to_bytes(2, "big", signed=True)
        + bytes([status])
    )


@pytest.mark.parametrize(
    "parts",
    [
        {"weekday": 0}, {"weekday": 7}, {"weekday": 255}, {"hundredths": 99}, {"hundredths": 255},
        {"hour": 23}, {"minute": 59}, {"second": 59}, {"day": 30}, {"month": 12, "day": 31},
        {"year": 2199}, {"year": 1970}, {"deviation": 840}, {"deviation": -840},
    ],
)  # fmt: skip
def test_a_clock_may_show_this(parts: dict[str, int]) -> None:
    assert decode_clock(clock(**parts)).unix_s is not None


@pytest.mark.parametrize(
    "parts",
    [
        {"weekday": 8}, {"hundredths": 100}, {"hour": 24}, {"minute": 60}, {"second": 60},
        {"day": 31}, {"day": 0}, {"month": 0}, {"month": 13}, {"year": 2200}, {"year": 1969},
        {"deviation": 841}, {"deviation": -841}, {"day": 0xFC}, {"month": 0xFC},
    ],
)  # fmt: skip
def test_no_clock_shows_this(parts: dict[str, int]) -> None:
    with pytest.raises(Malformed, match="a clock that shows"):
        decode_clock(clock(**parts))


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"year": 0xFFFF}, "????-11-12 16:54:00"),
        ({"month": 0xFD}, "2022-??-12 16:54:00"),
        ({"month": 0xFE}, "2022-??-12 16:54:00"),
        ({"month": 0xFF}, "2022-??-12 16:54:00"),
        ({"day": 0xFD}, "2022-11-?? 16:54:00"),
        ({"day": 0xFE}, "2022-11-?? 16:54:00"),
        ({"day": 0xFF}, "2022-11-?? 16:54:00"),
        ({"hour": 0xFF}, "2022-11-12 ??:54:00"),
        ({"minute": 0xFF}, "2022-11-12 16:??:00"),
        ({"second": 0xFF}, "2022-11-12 16:54:??"),
    ],
)
def test_what_a_clock_leaves_open_is_told_and_has_no_place_in_utc(
    parts: dict[str, int], text: str
) -> None:
    found = decode_clock(clock(**parts))
    assert (found.text, found.unix_s, found.deviation_min) == (text, None, -60)


def test_a_clock_says_how_far_it_is_from_utc_or_that_it_does_not() -> None:
    assert decode_clock(clock(deviation=-120)).deviation_min == -120
    assert decode_clock(clock(deviation=-0x8000)).deviation_min is None
