"""Maps of Modbus meters as wholes, at the edges of what they may say and of what registers mean."""

from dataclasses import replace
from fractions import Fraction

import pytest

from cryptometer.errors import ConfigurationError
from hal.index.modbus_map import (
    INDEX_MAX_WH,
    MeterMap,
    Name,
    NameType,
    Number,
    NumberType,
    Question,
    Status,
    Unit,
    Vector,
    Words,
    check_vector,
    decode_index,
    decode_name,
    encode_index,
    is_expected,
    read_constant,
    read_map,
)
from hal.index.reading import Index, Reading, Refusal, Refused
from tests.hal.index.test_modbus_map import AT, PLAIN, number_of, one_number, with_line

FULL = """
name = "a meter"
status = "verified"
note = "beware"
[source]
document = "d"
revision = "r"
page = "p"
[index]
function = 3
unit = "Wh"
registers_max = 6
[index.imported]
addresses = [10, 20]
type = "f32"
words = "low-first"
exponent = 3
resolution = 1
sentinels = [7, 8]
resettable = true
[index.exported]
addresses = [12]
type = "i64"
exponent = 1
resettable = false
optional = true
[serial]
function = 4
address = 100
type = "text"
registers = 5
[model]
function = 3
address = 200
type = "u16"
expected = ["112", "113"]
[[vectors]]
source = "s"
index = "0001 abcd"
constant = "800/3"
imported_wh = "1.5"
exported_wh = "2"
serial = "4142"
serial_text = "AB"
model = "0070"
model_text = "112"
[[vectors]]
source = "t"
index = "ffff"
refused = "form"
"""


def test_a_map_is_what_its_file_says() -> None:
    text = FULL.replace("registers_max = 6", "registers_max = 12")
    assert read_map(text, "full") == MeterMap(
        "full",
        "a meter",
        Status.VERIFIED,
        "beware",
        "d, r",
        "p",
        Unit.WH,
        (Question(3, 10, 12),),
        Number((10, 20), NumberType.F32, Words.LOW_FIRST, 3, 1, (7, 8), resettable=True),
        Number((12,), NumberType.I64, Words.HIGH_FIRST, 1, 1, (), resettable=False, optional=True),
        Name(Question(4, 100, 5), NameType.TEXT, ()),
        Name(Question(3, 200, 1), NameType.U16, ("112", "113")),
        (
            Vector(
                "s",
                (1, 0xABCD),
                Fraction(800, 3),
                1_500_000,
                2_000_000,
                None,
                (0x4142,),
                "AB",
                (0x70,),
                "112",
            ),
            Vector("t", (0xFFFF,), None, None, None, Refused.FORM, (), "", (), ""),
        ),
    )


# --- What a map may say, to the last. ------------------------------------------------------------

SIXTEEN = ", ".join(str(10 + 2 * at) for at in range(16))
FLOAT = 'type = "f32"\nresolution = '
TEXT = '[serial]\nfunction = 3\naddress = {}\ntype = "text"\nregisters = {}\n[[vectors]]'
MODEL = '[model]\nfunction = 3\naddress = 1\ntype = "u32"\nexpected = {}\n[[vectors]]'


@pytest.mark.parametrize(
    ("line", "instead_of"),
    [
        ("addresses = [0]", "addresses = [10]"),
        ("addresses = [65534]", "addresses = [10]"),
        (f"addresses = [{SIXTEEN}]", "addresses = [10]"),
        ("exponent = -6\naddresses = [10]", "addresses = [10]"),
        ("exponent = 9\naddresses = [10]", "addresses = [10]"),
        (FLOAT + "-6", 'type = "u32"'),
        (FLOAT + "9", 'type = "u32"'),
        ("sentinels = [0, 18446744073709551615]\naddresses = [10]", "addresses = [10]"),
        ("function = 4\nregisters_max = 2", "function = 4"),
        ("function = 4\nregisters_max = 125", "function = 4"),
        ('function = 4\nunit = "pulses"', "function = 4"),
        (TEXT.format(0, 32), "[[vectors]]"),
        (TEXT.format(65_504, 32), "[[vectors]]"),
        (TEXT.format(65_535, 1), "[[vectors]]"),
        (MODEL.format('["a", "b"]'), "[[vectors]]"),
        (f'index = "{"0000 " * 125}"', 'index = "0000 0001"'),
        (f'imported_wh = "{"1" * 32}"', 'imported_wh = "1"'),
        ('imported_wh = "1.000001"', 'imported_wh = "1"'),
    ],
)
def test_a_map_may_go_as_far_as_this(line: str, instead_of: str) -> None:
    read_map(with_line(line, instead_of=instead_of), "edge")


@pytest.mark.parametrize(
    ("line", "instead_of", "says"),
    [
        ("addresses = [-1]", "addresses = [10]", "imported addresses are integers from 0 to 65535"),
        (f"addresses = [{SIXTEEN}, 9]", "addresses = [10]", "1 to 16 different ones"),
        ("exponent = -7\naddresses = [10]", "addresses = [10]", "exponent is from -6 to 9"),
        ("exponent = 10\naddresses = [10]", "addresses = [10]", "exponent is from -6 to 9"),
        (FLOAT + "-7", 'type = "u32"', "resolution is from -6 to 9"),
        (FLOAT + "10", 'type = "u32"', "resolution is from -6 to 9"),
        ("sentinels = [-1]\naddresses = [10]", "addresses = [10]", "imported sentinels are"),
        ("sentinels = [18446744073709551616]\naddresses = [10]", "addresses = [10]", "sentinels"),
        ("function = 4\nregisters_max = 0", "function = 4", "registers_max is from 1 to 125"),
        ("function = 4\nregisters_max = 126", "function = 4", "registers_max is from 1 to 125"),
        ("function = 4\nregisters_max = 1", "function = 4", "edge index: 2 registers from 10"),
        (TEXT.format(0, 0), "[[vectors]]", "serial registers is from 1 to 32"),
        (TEXT.format(0, 33), "[[vectors]]", "serial registers is from 1 to 32"),
        (TEXT.format(-1, 1), "[[vectors]]", "serial address ends at 65535"),
        (TEXT.format(65_505, 32), "[[vectors]]", "serial address ends at 65535"),
        (TEXT.format(0, 1).replace("= 3", "= 5"), "[[vectors]]", "serial function is 3"),
        (MODEL.format('["a b"]'), "[[vectors]]", "model expected is a list of words"),
        (MODEL.format('[""]'), "[[vectors]]", "model expected is a list of words"),
        (MODEL.format("[1]"), "[[vectors]]", "model expected is a list of words"),
        (f'index = "{"0000 " * 126}"', 'index = "0000 0001"', "vectors index is registers"),
        ('index = "00g0"', 'index = "0000 0001"', "vectors index is registers"),
        ('index = "+001"', 'index = "0000 0001"', "vectors index is registers"),
        ('imported_wh = "1"\nserial = "1"', 'imported_wh = "1"', "vectors serial is registers"),
        ('imported_wh = "1"\nmodel = "1"', 'imported_wh = "1"', "vectors model is registers"),
        ('exported_wh = "x"', 'imported_wh = "1"', "vectors exported_wh is a decimal number"),
        ('imported_wh = "x"', 'imported_wh = "1"', "vectors imported_wh is a decimal number"),
        (f'imported_wh = "{"1" * 33}"', 'imported_wh = "1"', "imported_wh is a decimal number"),
        ("function = 5", "function = 4", "map edge index function is 3"),
        ('imported_wh = "1"\nconstant = ""', 'imported_wh = "1"', "edge vectors constant is"),
        ('imported = "1"', 'imported_wh = "1"', "map edge vectors"),
        ('nam = "a meter"', 'name = "a meter"', "map edge"),
    ],
)
def test_a_map_may_go_no_further(line: str, instead_of: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        read_map(with_line(line, instead_of=instead_of), "edge")


@pytest.mark.parametrize("number", ['type = "f32"\nresolution = 0', 'type = "u32"\nexponent = 1'])
def test_pulses_are_whole_ones(number: str) -> None:
    text = with_line('function = 4\nunit = "pulses"', instead_of="function = 4")
    exporting = text.replace("imported]", "exported]")
    for one in (text, exporting):
        with pytest.raises(ConfigurationError, match="pulses are whole ones"):
            read_map(one.replace('type = "u32"', number), "edge")


@pytest.mark.parametrize(
    ("exported", "most", "index"),
    [
        (13, 5, (Question(4, 10, 5),)),
        (13, 4, (Question(4, 10, 2), Question(4, 13, 3))),
        (13, 3, (Question(4, 10, 2), Question(4, 13, 3))),
        (65_533, 3, (Question(4, 10, 2), Question(4, 65_533, 3))),
        (65_534, 3, None),  # one register more than there is
        (13, 2, None),
    ],
)
def test_two_registers_are_asked_for_at_once_where_that_is_not_too_much(
    exported: int, most: int, index: tuple[Question, ...] | None
) -> None:
    text = with_line(f"function = 4\nregisters_max = {most}", instead_of="function = 4")
    more = f'[index.exported]\naddresses = [{exported}]\ntype = "u32"\nresettable = false\n'
    text = text.replace("[[vectors]]", f"{more}[[vectors]]")
    if index is None:
        with pytest.raises(ConfigurationError, match="more than the meter gives in one answer"):
            read_map(text, "apart")
    else:
        assert read_map(text, "apart").index == index


def test_two_registers_of_different_widths_are_asked_for_as_they_are() -> None:
    text = FULL.replace("[12]", "[40]").replace("[10, 20]", "[10]")
    assert read_map(text, "full").index == (Question(3, 10, 2), Question(3, 40, 4))


def test_a_constant_has_at_most_32_signs() -> None:
    assert read_constant("1" * 32, "c") == int("1" * 32)
    with pytest.raises(ConfigurationError, match="c is a positive number"):
        read_constant("1" * 33, "c")


def test_a_question_that_brings_a_register_that_every_meter_has_is_always_answered() -> None:
    optional = replace(number_of(NumberType.U16), optional=True)
    both = replace(
        one_number(optional), exported=replace(number_of(NumberType.U16), addresses=(11,))
    )
    assert both.can_lack(Question(4, 10, 1))
    assert not both.can_lack(Question(4, 10, 2))
    assert not both.can_lack(Question(4, 11, 1))


# --- What registers mean. ------------------------------------------------------------------------


def refusal(meter_map: MeterMap, registers: list[int | None]) -> tuple[Refused, str, int]:
    found = decode_index(meter_map, registers, "7", AT)
    assert isinstance(found, Refusal)
    return found.reason, found.detail, found.at_ns


def test_a_reading_holds_the_registers_that_it_is_made_from() -> None:
    plain = read_map(PLAIN, "plain")
    fields = (("map", "plain"), ("registers", "0001 000a"))
    assert decode_index(plain, [1, 10], "7", AT) == Reading(
        "7", Index(65_546), None, 5, 9, fields=fields
    )
    lacking = replace(
        plain,
        exported=replace(number_of(NumberType.U16), addresses=(20,), optional=True),
        index=(Question(4, 10, 2), Question(4, 20, 1)),
    )
    found = decode_index(lacking, [0, 1, None], "7", AT)
    assert isinstance(found, Reading)
    assert dict(found.fields)["registers"] == "0000 0001 ----"


def test_a_refusal_says_which_register_is_wrong_and_when() -> None:
    plain = read_map(PLAIN, "plain")
    assert refusal(plain, [1]) == (
        Refused.FORM, "1 registers came where 2 were asked for", 9,
    )  # fmt: skip
    assert refusal(plain, [None, None]) == (Refused.FORM, "the import register is not there", 9)
    exporting = replace(plain, imported=None, exported=number_of(NumberType.I32))
    assert refusal(exporting, [0xFFFF, 0xFFFF]) == (
        Refused.FORM, "the export register is negative (ffffffff)", 9,
    )  # fmt: skip
    optional = replace(plain, imported=replace(number_of(NumberType.U32), optional=True))
    assert refusal(optional, [None, None]) == (
        Refused.NO_INDEX, "the meter has neither register", 9,
    )  # fmt: skip


def test_an_index_is_at_most_a_terawatt_hour() -> None:
    wide = one_number(number_of(NumberType.U64))
    words = [INDEX_MAX_WH >> shift & 0xFFFF for shift in (48, 32, 16, 0)]
    found = decode_index(wide, words, "7", AT)
    assert isinstance(found, Reading)
    assert found.imported == Index(INDEX_MAX_WH)
    words[-1] += 1
    assert refusal(wide, [*words])[1] == "the import register is beyond what any meter reaches"


def test_registers_that_lie_between_one_another_are_each_found_in_their_answer() -> None:
    imported = replace(number_of(NumberType.U16), addresses=(10, 12))
    exported = replace(number_of(NumberType.U16), addresses=(5, 13))
    apart = replace(
        one_number(imported), exported=exported, index=(Question(4, 10, 3), Question(4, 5, 9))
    )
    found = decode_index(apart, [1, 0, 2, 4, 0, 0, 0, 0, 0, 0, 0, 8], "7", AT)
    assert isinstance(found, Reading)
    assert (found.imported, found.exported) == (Index(3), Index(12))


def test_pulses_need_a_constant_and_an_index_in_watt_hours_none() -> None:
    pulses = replace(one_number(number_of(NumberType.U32)), unit=Unit.PULSES)
    assert "nobody said how many are a kWh" in refusal(pulses, [0, 5])[1]
    found = decode_index(pulses, [0, 5], "7", AT, Fraction(800))
    assert isinstance(found, Reading)
    assert found.imported == Index(6_250_000, -6)
    assert encode_index(pulses, Fraction(25, 4), Fraction(0), Fraction(800)) == [0, 5]
    plain = read_map(PLAIN, "plain")
    assert encode_index(plain, Fraction(25), Fraction(0), Fraction(800)) == [0, 25]


def test_a_made_answer_has_all_in_the_first_tariff_and_nothing_beside_the_registers() -> None:
    number = replace(number_of(NumberType.U16), addresses=(10, 12))
    exported = replace(number_of(NumberType.U16), addresses=(14,))
    both = replace(one_number(number), exported=exported, index=(Question(4, 10, 6),))
    assert encode_index(both, Fraction(3), Fraction(4), None) == [3, 0, 0, 0, 4, 0]
    alone = replace(both, imported=None)
    assert encode_index(alone, Fraction(3), Fraction(4), None) == [0, 0, 0, 0, 4, 0]


@pytest.mark.parametrize(
    ("type", "raw", "text"),
    [
        (NameType.TEXT, b"XX", "XX"),
        (NameType.TEXT, b"A\0B\0", "AB"),
        (NameType.TEXT, b" A  ", "A"),
        (NameType.TEXT, b"    ", None),
        (NameType.TEXT, b"A\x01", None),
        (NameType.TEXT, b"A\xe9", None),
        (NameType.DIGITS, b"\x15\xab", None),
        (NameType.DIGITS, b"\x15\x06", "1506"),
        (NameType.U16, b"XX", "22616"),
    ],
)
def test_a_name_is_told_where_it_is_one(
    type: NameType,  # noqa: A002
    raw: bytes,
    text: str | None,
) -> None:
    words = [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]
    assert decode_name(Name(Question(3, 0, len(words)), type, ()), words) == text


def test_a_model_is_expected_by_its_first_word() -> None:
    name = Name(Question(3, 0, 1), NameType.TEXT, ("B23",))
    assert is_expected(name, "B23")
    assert is_expected(name, "B23 112 100")
    assert not is_expected(name, "B24 B23")
    assert is_expected(replace(name, expected=()), "B24")


def test_a_vector_that_is_wrong_is_told_how() -> None:
    named = replace(
        read_map(PLAIN, "plain"),
        serial=Name(Question(3, 0, 1), NameType.U16, ()),
        model=Name(Question(3, 1, 1), NameType.U16, ("112",)),
    )
    right = replace(named.vectors[0], serial=(7,), serial_text="7", model=(112,), model_text="112")
    assert check_vector(named, right) == ""
    refused = replace(right, index=(1,), refused=Refused.FORM, imported_uwh=None)
    assert check_vector(named, refused) == ""
    for wrong, says in (
        (replace(right, index=(1,)), "refused: 1 registers came where 2 were asked for"),
        (replace(right, refused=Refused.FORM), "is read, and should be refused"),
        (replace(right, imported_uwh=5), "gives 1000000 and None micro-watt-hours"),
        (replace(right, exported_uwh=5), "gives 1000000 and None micro-watt-hours"),
        (replace(right, serial_text="8"), "its serial is '7'"),
        (replace(right, model_text="113"), "its model is '112'"),
        (
            replace(right, model=(113,), model_text="113"),
            "its model '113' is none that the map is for",
        ),
    ):
        assert check_vector(named, wrong) == says
    assert check_vector(replace(named, serial=None), right) == "its serial is None"
    assert check_vector(replace(named, model=None), right) == "its model is None"
