"""Maps of Modbus meters: those that are shipped, what a map may say, and what registers mean."""

import math
import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hal.index
from cryptometer.errors import ConfigurationError
from hal.index.modbus_map import (
    INDEX_MAX_WH,
    Asked,
    MeterMap,
    Name,
    NameType,
    Number,
    NumberType,
    Question,
    Status,
    Unit,
    Words,
    check_vector,
    decode_index,
    decode_name,
    encode_index,
    encode_name,
    read_constant,
    read_map,
)
from hal.index.reading import Reading, Refusal, Refused

FOLDER = Path(hal.index.__file__).with_name("maps")
MAPS = [read_map(file.read_text(), file.stem) for file in sorted(FOLDER.glob("*.toml"))]
AT = Asked(5, 9)
by_map = pytest.mark.parametrize("meter_map", MAPS, ids=lambda one: str(one.id))

PLAIN = """
name = "a meter"
status = "unverified"
[source]
document = "d"
revision = "r"
page = "p"
[index]
function = 4
[index.imported]
addresses = [10]
type = "u32"
resettable = false
[[vectors]]
source = "s"
index = "0000 0001"
imported_wh = "1"
"""


def with_line(line: str, *, instead_of: str) -> str:
    assert instead_of in PLAIN
    return PLAIN.replace(instead_of, line)


# --- The maps that are shipped. ------------------------------------------------------------------


@by_map
def test_every_vector_of_a_map_is_read_as_it_says(meter_map: MeterMap) -> None:
    assert meter_map.vectors
    for vector in meter_map.vectors:
        assert check_vector(meter_map, vector) == "", vector.source


@by_map
def test_a_verified_map_shows_an_index_a_refusal_and_its_names(meter_map: MeterMap) -> None:
    if meter_map.status is not Status.VERIFIED:
        return
    read = [one for one in meter_map.vectors if one.refused is None]
    assert any(one.imported_uwh for one in read)
    assert any(one.exported_uwh for one in read)
    assert any(one.refused for one in meter_map.vectors)
    assert meter_map.serial is None or any(one.serial for one in read)
    assert meter_map.model is None or any(one.model for one in read)


def test_the_verified_set_is_the_promised_one() -> None:
    named = ", ".join(one.name for one in MAPS if one.status is Status.VERIFIED)
    for meter in (
        "SDM120", "SDM230", "SDM630", "B21", "B23", "B24", "iEM3155", "iEM3255", "iEM3355",
        "EM340", "PRO380",
    ):  # fmt: skip
        assert meter in named


@pytest.mark.parametrize(
    ("name", "function", "imported", "exported", "type", "words", "exponent"),
    [
        ("abb-a4x", 3, 0x5000, 0x5004, NumberType.U64, Words.HIGH_FIRST, 1),
        ("abb-b2x", 3, 0x5000, 0x5004, NumberType.U64, Words.HIGH_FIRST, 1),
        ("eastron-sdm", 4, 0x0048, 0x004A, NumberType.F32, Words.HIGH_FIRST, 3),
        ("gavazzi-em340", 4, 0x0034, 0x004E, NumberType.I32, Words.LOW_FIRST, 2),
        ("inepro-pro380", 3, 0x600C, 0x6018, NumberType.F32, Words.HIGH_FIRST, 3),
        ("schneider-iem3x55", 3, 0x0C83, 0x0C87, NumberType.I64, Words.HIGH_FIRST, 0),
    ],
)
def test_a_verified_map_has_each_index_where_the_manual_has_it(
    name: str,
    function: int,
    imported: int,
    exported: int,
    type: NumberType,  # noqa: A002
    words: Words,
    exponent: int,
) -> None:
    """Written a second time: a vector says what registers mean and in which order they stand, and
    not from which address on."""
    [found] = [one for one in MAPS if one.id == name]
    assert {one.function for one in found.index} == {function}
    for number, address in ((found.imported, imported), (found.exported, exported)):
        assert number is not None
        assert number.addresses == (address,)
        assert (number.type, number.words, number.exponent) == (type, words, exponent)


def test_every_verified_map_is_compared_with_its_manual() -> None:
    [mark] = test_a_verified_map_has_each_index_where_the_manual_has_it.pytestmark  # type: ignore[attr-defined]
    compared = {row[0] for row in mark.args[1]}
    assert compared == {one.id for one in MAPS if one.status is Status.VERIFIED}


def test_every_model_is_of_one_map_only() -> None:
    seen: dict[tuple[Question, str], str] = {}
    for one in MAPS:
        for word in one.model.expected if one.model else ():
            assert one.model is not None
            assert seen.setdefault((one.model.question, word), one.id) == one.id


@by_map
def test_no_answer_of_another_question_can_tell_an_index(meter_map: MeterMap) -> None:
    shapes = [(one.function, one.count) for one in (*meter_map.index, *meter_map.probes)]
    assert len(set(shapes)) == len(shapes)


@by_map
def test_no_other_question_is_answered_as_a_probe_is(meter_map: MeterMap) -> None:
    names = [one for one in (meter_map.serial, meter_map.model) if one is not None]
    # A number and a model that are told alike leave neither as a probe.
    alike = [replace(meter_map, serial=one, model=one) for one in names]
    for one in [meter_map, *alike]:
        told = [each.question for each in (one.serial, one.model) if each is not None]
        shapes = [(each.function, each.count) for each in (*one.index, *told)]
        for probe in one.probes:
            assert shapes.count((probe.function, probe.count)) == (probe in told)


@by_map
@settings(max_examples=40)
@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_a_meter_made_from_a_map_is_read_back(
    meter_map: MeterMap, imported: int, exported: int
) -> None:
    constant = Fraction(1000) if meter_map.unit is Unit.PULSES else None
    block = encode_index(meter_map, Fraction(imported), Fraction(exported), constant)
    found = decode_index(meter_map, block, "7", AT, constant)
    assert isinstance(found, Reading)
    for index, number, wh in (
        (found.imported, meter_map.imported, imported),
        (found.exported, meter_map.exported, exported),
    ):
        assert (index is None) == (number is None)
        if index is None or number is None:
            continue
        # A float of 32 bits has 24 of them for its digits.
        slack = Fraction(wh, 2**23) if number.type is NumberType.F32 else Fraction(0)
        assert abs(Fraction(index.uwh, 10**6) - wh) <= slack + Fraction(10) ** number.resolution


# --- What a map may say. -------------------------------------------------------------------------


def test_a_plain_map_is_read() -> None:
    found = read_map(PLAIN, "plain")
    assert found.index == (Question(4, 10, 2),)
    assert found.vectors[0].imported_uwh == 10**6


@pytest.mark.parametrize(
    ("line", "instead_of", "says"),
    [
        ('functon = 4\nfunction = 4', "function = 4", "did you mean 'function'?"),
        ('typ = "u32"\ntype = "u32"', 'type = "u32"', "did you mean 'type'?"),
        ('names = "a"\nname = "a meter"', 'name = "a meter"', "did you mean 'name'?"),
        ('indices = ""\nindex = "0000 0001"', 'index = "0000 0001"', "did you mean 'index'?"),
        ("function = 6", "function = 4", "function is 3"),
        ('type = "u33"', 'type = "u32"', "one of u16"),
        ('type = "f32"', 'type = "u32"', "lacks 'resolution'"),
        ('type = "u32"\nresolution = 1', 'type = "u32"', "of an integer it is its exponent"),
        ("addresses = []", "addresses = [10]", "different ones"),
        ("addresses = [10, 10]", "addresses = [10]", "different ones"),
        ("addresses = [65535]", "addresses = [10]", "end at 65535"),
        ("addresses = [10, 200]", "addresses = [10]", "in one answer"),
        ("addresses = [true]", "addresses = [10]", "are integers"),
        ("exponent = 12\naddresses = [10]", "addresses = [10]", "exponent is from"),
        ('index = "0000 1"', 'index = "0000 0001"', "four hex digits"),
        ('imported_wh = "1.0000001"', 'imported_wh = "1"', "finer"),
        ('imported_wh = "-1"', 'imported_wh = "1"', "decimal number"),
        ('constant = "0"\nimported_wh = "1"', 'imported_wh = "1"', "positive number of pulses"),
        ("[index", "[index]", "no TOML"),
        ('[model]\nfunction = 3\naddress = 1\ntype = "u16"\n[[vectors]]', "[[vectors]]",
         "needs 'expected'"),
        ('[serial]\nfunction = 3\naddress = 1\ntype = "text"\n[[vectors]]', "[[vectors]]",
         "registers"),
        ("status = 'verified'\nnote = 3", 'status = "unverified"', "of type str"),
    ],
)  # fmt: skip
def test_a_slip_in_a_map_is_named(line: str, instead_of: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_map(with_line(line, instead_of=instead_of), "slip")


def test_a_meter_that_gives_few_registers_is_asked_twice_and_no_answer_fits_both() -> None:
    text = with_line("function = 4\nregisters_max = 4", instead_of="function = 4")
    text = text.replace(
        "[[vectors]]",
        '[index.exported]\naddresses = [90]\ntype = "u32"\nresettable = false\n[[vectors]]',
    )
    assert read_map(text, "apart").index == (Question(4, 10, 2), Question(4, 90, 3))


# --- What registers mean. ------------------------------------------------------------------------


def one_number(number: Number) -> MeterMap:
    plain = read_map(PLAIN, "plain")
    question = Question(4, number.addresses[0], number.width)
    return replace(plain, imported=number, index=(question,))


def number_of(type: NumberType, words: Words = Words.HIGH_FIRST) -> Number:  # noqa: A002
    return Number((10,), type, words, 0, 0, (), resettable=False)


@given(st.sampled_from(NumberType), st.sampled_from(Words), st.binary(min_size=8, max_size=8))
def test_any_registers_are_read_exactly_or_refused(
    type: NumberType,  # noqa: A002
    words: Words,
    raw: bytes,
) -> None:
    number = number_of(type, words)
    raw = raw[: 2 * number.width]
    registers = [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]
    given_order = registers if words is Words.HIGH_FIRST else registers[::-1]
    found = decode_index(one_number(number), given_order, "7", AT)
    kinds = {"u16": "H", "u32": "I", "u64": "Q", "i32": "i", "i64": "q", "f32": "f", "f64": "d"}
    [value] = struct.unpack(">" + kinds[type], raw)
    if math.isnan(value) or value < 0 or value > INDEX_MAX_WH + 1:
        assert isinstance(found, Refusal)
        assert found.reason is Refused.FORM
    elif value <= INDEX_MAX_WH:
        assert isinstance(found, Reading)
        assert found.imported is not None
        assert abs(Fraction(value) - found.imported.value) <= Fraction(1, 2)
        assert (found.began_ns, found.ended_ns) == (5, 9)


@given(st.lists(st.integers(0, 0xFFFF), max_size=130), st.sampled_from(MAPS))
def test_no_answer_of_any_length_raises(registers: list[int], meter_map: MeterMap) -> None:
    found = decode_index(meter_map, registers, "", AT, Fraction(1000))
    if len(registers) != meter_map.registers:
        assert isinstance(found, Refusal)
    for name in (meter_map.serial, meter_map.model):
        if name is not None:
            text = decode_name(name, registers)
            assert text is None or (text.isascii() and text.isprintable() and text)


def test_what_a_meter_says_to_be_missing_is_refused() -> None:
    number = replace(number_of(NumberType.U32), sentinels=(0xFFFFFFFF,))
    found = decode_index(one_number(number), [0xFFFF, 0xFFFF], "", AT)
    assert isinstance(found, Refusal)
    assert "not available" in found.detail


def test_a_register_that_not_every_meter_has_may_be_missing() -> None:
    both = replace(
        one_number(number_of(NumberType.U16)),
        exported=replace(number_of(NumberType.U16), addresses=(20,), sentinels=(9,), optional=True),
        index=(Question(4, 10, 1), Question(4, 20, 1)),
    )
    for missing in (9, None):
        found = decode_index(both, [7, missing], "", AT)
        assert isinstance(found, Reading)
        assert found.exported is None
    for registers in ([None, 1], [None, None]):
        assert isinstance(decode_index(both, registers, "", AT), Refusal)
    assert not both.can_lack(both.index[0])
    assert both.can_lack(both.index[1])


def test_a_float_is_rounded_to_the_resolution_that_the_map_states() -> None:
    number = replace(number_of(NumberType.F32), exponent=3, resolution=1)
    [value] = struct.unpack(">f", struct.pack(">f", 230.2))
    assert Fraction(value) * 1000 != 230_200
    registers = [0x4366, 0x3333]
    found = decode_index(one_number(number), registers, "", AT)
    assert isinstance(found, Reading)
    assert found.imported is not None
    assert (found.imported.value, found.imported.exponent) == (23_020, 1)


@given(st.floats(0, 1e9, width=32), st.floats(0, 1e9, width=32))
def test_rounding_never_turns_an_index_back(one: float, other: float) -> None:
    meter_map = one_number(replace(number_of(NumberType.F32), exponent=2, resolution=0))
    seen = []
    for value in sorted((one, other)):
        raw = struct.pack(">f", value)
        registers = [int.from_bytes(raw[:2], "big"), int.from_bytes(raw[2:], "big")]
        found = decode_index(meter_map, registers, "", AT)
        assert isinstance(found, Reading)
        assert found.imported is not None
        seen.append(found.imported.uwh)
    assert seen == sorted(seen)


@pytest.mark.parametrize(
    ("type", "text", "registers"),
    [
        (NameType.U16, "112", [112]),
        (NameType.U32, "19210043", [0x0125, 0x1F3B]),
        (NameType.DIGITS, "15060001", [0x1506, 0x0001]),
        (NameType.TEXT, "B23 112-100", [0x4232, 0x3320, 0x3131, 0x322D, 0x3130, 0x3000]),
    ],
)
def test_a_name_is_read_and_written(
    type: NameType,  # noqa: A002
    text: str,
    registers: list[int],
) -> None:
    name = Name(Question(3, 0, len(registers)), type, ())
    assert decode_name(name, registers) == text
    assert encode_name(name, text) == registers
    assert decode_name(name, [0] * len(registers)) is None
    assert decode_name(name, [0xFFFF] * len(registers)) is None
    assert decode_name(name, [*registers, 1]) is None


def test_a_constant_is_a_positive_number() -> None:
    assert read_constant("800/3", "c") == Fraction(800, 3)
    assert read_constant("0.5", "c") == Fraction(1, 2)
    for text in ("", "0", "-1", "1/0", "1e99", "nan", "1" * 40):
        with pytest.raises(ConfigurationError, match="positive number"):
            read_constant(text, "c")
