"""A-XDR: values that were written are read again, and all else is refused."""

import tracemalloc
from contextlib import suppress
from datetime import UTC, datetime

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from hal.index.axdr import (
    DEPTH_MAX,
    ELEMENTS_MAX,
    Datum,
    Malformed,
    NotRead,
    ScalerUnit,
    Tag,
    Truncated,
    decode_clock,
    decode_data,
    decode_miswritten,
    encode_clock,
    encode_data,
    scaler_unit_of,
)


def integers(bits: int, *, signed: bool) -> st.SearchStrategy[int]:
    return (
        st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if signed
        else st.integers(0, 2**bits - 1)
    )


def of(tag: Tag, values: st.SearchStrategy[object]) -> st.SearchStrategy[Datum]:
    return st.builds(Datum, st.just(tag), values)


leaves = st.one_of(
    of(Tag.NULL, st.none()),
    of(Tag.BOOLEAN, st.booleans()),
    of(Tag.BIT_STRING, st.binary(max_size=9)),
    of(Tag.DOUBLE_LONG, integers(32, signed=True)),
    of(Tag.DOUBLE_LONG_UNSIGNED, integers(32, signed=False)),
    of(Tag.OCTET_STRING, st.binary(max_size=300)),
    of(Tag.VISIBLE_STRING, st.text(st.characters(max_codepoint=127), max_size=20)),
    of(Tag.UTF8_STRING, st.text(max_size=20)),
    of(Tag.INTEGER, integers(8, signed=True)),
    of(Tag.LONG, integers(16, signed=True)),
    of(Tag.UNSIGNED, integers(8, signed=False)),
    of(Tag.LONG_UNSIGNED, integers(16, signed=False)),
    of(Tag.LONG64, integers(64, signed=True)),
    of(Tag.LONG64_UNSIGNED, integers(64, signed=False)),
    of(Tag.ENUM, integers(8, signed=False)),
    of(Tag.FLOAT32, st.floats(width=32, allow_nan=False)),
    of(Tag.FLOAT64, st.floats(allow_nan=False)),
    of(Tag.DATE_TIME, st.binary(min_size=12, max_size=12)),
    of(Tag.DATE, st.binary(min_size=5, max_size=5)),
    of(Tag.TIME, st.binary(min_size=4, max_size=4)),
)
data = st.recursive(
    leaves,
    lambda inner: st.builds(
        Datum, st.sampled_from((Tag.ARRAY, Tag.STRUCTURE)), st.lists(inner, max_size=5).map(tuple)
    ),
    max_leaves=12,
)


def depth(datum: Datum) -> int:
    return 1 + max((depth(one) for one in datum.elements), default=0)


@given(data)
def test_what_is_written_is_read_again(datum: Datum) -> None:
    assume(depth(datum) < DEPTH_MAX)
    assert decode_data(encode_data(datum)) == (datum, len(encode_data(datum)))


@given(data)
def test_each_beginning_is_told_to_go_on(datum: Datum) -> None:
    assume(depth(datum) < DEPTH_MAX)
    written = encode_data(datum)
    for size in range(len(written)):
        with pytest.raises(Truncated) as short:
            decode_data(written[:size])
        assert size < short.value.needs <= len(written)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    for decode in (decode_data, decode_miswritten):
        try:
            datum, end = decode(raw)
        except Malformed:
            continue
        assert 0 < end <= len(raw)
        assert datum.tag in Tag


def test_what_is_too_deep_or_too_much_is_refused_at_once() -> None:
    with pytest.raises(Malformed, match="deeper"):
        decode_data(b"\x02\x01" * (DEPTH_MAX + 1) + b"\x00")
    tracemalloc.start()
    try:
        with pytest.raises(Malformed, match="more elements"):
            decode_data(b"\x01\x82\xff\xff" + bytes(0xFFFF))
        with pytest.raises(Malformed, match="more elements"):
            decode_data(b"\x01\x82\x0f\xff" + b"\x01\x82\x0f\xff" * 9)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
    assert ELEMENTS_MAX < 0xFFFF


@pytest.mark.parametrize(
    "written",
    [
        "07",  # no tag
        "0a01ff",  # no ASCII
        "0c01ff",  # no UTF-8
        "0980",  # a length of no bytes
        "098300000100",  # a length of three
        "040901ff",  # a bit string with a bit too many
    ],
)
def test_what_the_standard_does_not_write_is_refused(written: str) -> None:
    with pytest.raises(Malformed):
        decode_data(bytes.fromhex(written))


def test_a_compact_array_is_told_apart_from_what_is_wrong() -> None:
    with pytest.raises(NotRead):
        decode_data(b"\x13\x00")


def test_a_scaler_and_unit_is_a_structure_of_just_those() -> None:
    def read(written: str) -> ScalerUnit | None:
        return scaler_unit_of(decode_data(bytes.fromhex(written))[0])

    assert read("02020ffe1621") == ScalerUnit(-2, 33)
    assert read("02020f00161e") == ScalerUnit(0, 30)
    assert read("020211fe1621") is None
    assert read("02020f7f161e") is None
    assert read("02030f00161e00") is None
    assert ScalerUnit(-1, 35).text_of(2_307) == "230.7 V"


# --- Clocks. -------------------------------------------------------------------------------------


@given(st.integers(0, 4_102_444_799), st.integers(-840, 840))
def test_a_clock_gives_the_utc_that_it_was_set_to(unix_s: int, deviation_min: int) -> None:
    raw = encode_clock(max(unix_s, deviation_min * 60), deviation_min)
    assert decode_clock(raw).unix_s == max(unix_s, deviation_min * 60)


def test_central_european_winter_and_summer_are_one_and_two_hours_before_utc() -> None:
    winter = decode_clock(bytes.fromhex("07e60b0c0610360000ffc400"))
    assert winter.text == "2022-11-12 16:54:00"
    assert winter.unix_s == datetime(2022, 11, 12, 15, 54, tzinfo=UTC).timestamp()
    assert winter.summer is False
    summer = decode_clock(bytes.fromhex("07e704010615202300ff8880"))
    assert summer.unix_s == datetime(2023, 4, 1, 19, 32, 35, tzinfo=UTC).timestamp()
    assert summer.summer is True


def test_a_clock_that_leaves_something_open_has_no_place_in_utc() -> None:
    without_deviation = decode_clock(bytes.fromhex("07e30c1001073b28ff8000ff"))
    assert (without_deviation.text, without_deviation.unix_s) == ("2019-12-16 07:59:40", None)
    assert without_deviation.summer is None
    without_day = decode_clock(bytes.fromhex("07e3fdfeff073b28ffffc400"))
    assert (without_day.text, without_day.unix_s) == ("2019-??-?? 07:59:40", None)
    assert decode_clock(bytes.fromhex("07e30c1001073bffffffc400")).unix_s is None


@pytest.mark.parametrize(
    ("status", "degraded"),
    [(0, False), (1, True), (2, True), (0x84, True), (0x80, False), (0xFF, False)],
)
def test_a_clock_that_doubts_itself_says_so(status: int, degraded: bool) -> None:
    assert decode_clock(encode_clock(1_700_000_000, -60, status)).degraded is degraded


@pytest.mark.parametrize(
    "raw",
    [
        "ea070b0c0610360000ffc400",  # year 59911
        "07e60d0c0610360000ffc400",  # month 13
        "07e6021e0610360000ffc400",  # 30 February
        "07e60b0c0618360000ffc400",  # hour 24
        "07e60b0c06103c0000ffc400",  # minute 60
        "07e60b0c0810360000ffc400",  # weekday 8
        "07e60b0c0610360064ffc400",  # 100 hundredths
        "07e60b0c061036000003e800",  # 1,000 minutes from UTC
        "07e60b0c06103600",
    ],
)
def test_what_no_clock_shows_is_refused(raw: str) -> None:
    with pytest.raises(Malformed):
        decode_clock(bytes.fromhex(raw))


@given(st.binary(min_size=12, max_size=12))
def test_any_twelve_bytes_are_a_clock_or_refused(raw: bytes) -> None:
    with suppress(Malformed):
        decode_clock(raw)


# --- What some makers write instead. -------------------------------------------------------------


def test_an_attribute_without_tags_is_taken_for_its_code() -> None:
    written = bytes.fromhex("020200030100010800ff0206004afa82")
    assert decode_data(written)[1] < len(written)  # two other values, and something more
    datum, end = decode_miswritten(written)
    assert end == len(written)
    assert datum.elements[0] == Datum(Tag.OCTET_STRING, bytes((1, 0, 1, 8, 0, 255)))
    assert datum.elements[1].whole == 0x4AFA82


def test_a_tag_behind_its_length_is_taken_for_a_code() -> None:
    written = bytes.fromhex("0203060901001f0700ff1000f402020ffe1621")
    datum, end = decode_miswritten(written)
    assert end == len(written)
    assert datum.elements[0].octets == bytes((1, 0, 31, 7, 0, 255))
