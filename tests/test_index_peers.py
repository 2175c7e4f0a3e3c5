"""What other people's libraries say of meters' messages: SML by smllib and pysml, D0 by
iec62056-21. Whole and damaged ones: what two of them read is the same, and what the project lets
through is never refused by a library that knows the layout.
"""

from collections.abc import Iterator
from itertools import product
from random import Random
from typing import Any

from hal.index.d0 import D0Decoder
from hal.index.d0_asked import Asking, D0Asked
from hal.index.d0_meter import data_message
from hal.index.reading import Index, Reading
from hal.index.sml import SmlDecoder
from hal.index.sml_meter import SmlMeter, TimeForm, Value
from tests.hal.index.damage import damaged
from tests.test_peers import ask

REFUSED = "refused"

# --- SML, by smllib and pysml. -------------------------------------------------------------------

SERVER = bytes.fromhex("0a01545354000012d687")
IMPORTED, EXPORTED = bytes.fromhex("0100010800ff"), bytes.fromhex("0100020800ff")


def sml_files(draw: Random, rounds: int) -> Iterator[tuple[bytes, str]]:
    """Every layout, with any values; and the name of the sum under it."""
    # pysml knows no local time, and neither library a bare one outside of an entry.
    forms = [TimeForm.ABSENT, TimeForm.SECONDS, TimeForm.UNIX]
    for number, (form, is_kermit, dates, wide) in enumerate(
        product(forms * rounds, (False, True), (False, True), (False, True))
    ):
        meter = SmlMeter(
            SERVER, is_kermit, form, dates, signature=draw.randbytes(draw.choice((0, 48, 300))),
            wide_tags=wide, public_key=draw.randbytes(48),
            four_fills=bool(number & 1), opens_for_zeros=bool(number & 2),
        )  # fmt: skip
        yield meter.file(number, list(sml_values(draw)), 1_700_000_000), sum_name(is_kermit)


def sml_values(draw: Random) -> Iterator[Value]:
    for code in draw.choice([(IMPORTED,), (EXPORTED,), (IMPORTED, EXPORTED)]):
        width = draw.randint(4, 8)
        value = draw.randrange(1 << draw.randint(1, 29))
        yield Value(code, value, 30, draw.choice((-4, -1, 0, 3, None)), width, status=0x1C0104)
    yield Value(bytes.fromhex("0100100700ff"), draw.randint(-9_999, 9_999), 27, -1, signed=True)


def sum_name(is_kermit: bool) -> str:
    return "kermit" if is_kermit else "x25"


def sml_readings(file: bytes) -> list[Reading]:
    return [one for one in SmlDecoder().receive(file, 0) if isinstance(one, Reading)]


def pairs(reading: Reading) -> list[list[int] | None]:
    indexes = (reading.imported, reading.exported)
    return [None if one is None else [one.value, one.exponent] for one in indexes]


def agrees(reading: Reading, answer: Any) -> bool:
    """A library gives the value and its exponent, or the value scaled."""
    for one, told in zip((reading.imported, reading.exported), answer[1:], strict=True):
        if one is None or told is None:
            if one is not told:
                return False
        elif told[1] is None:
            if abs(told[0] - one.uwh / 10**6) > 1e-9 * one.uwh / 10**6:
                return False
        elif told != [one.value, one.exponent]:
            return False
    return answer[0] is None or answer[0].upper() == reading.identity


def test_smllib_and_pysml_read_the_same_from_every_file() -> None:
    files = list(sml_files(Random(1), 10))
    answers = ask("sml_peer.py", [[file.hex(), name] for file, name in files])
    counted = {"smllib": 0, "pysml": 0}
    for (file, name), answer in zip(files, answers, strict=True):
        [reading] = sml_readings(file)
        assert agrees(reading, answer["smllib"]), (file.hex(), answer)
        counted["smllib"] += 1
        if name == "kermit":  # a sum that pysml does not know
            assert answer["pysml"].startswith(REFUSED)
        else:
            assert agrees(reading, answer["pysml"]), (file.hex(), answer)
            counted["pysml"] += 1
    assert counted == {"smllib": 240, "pysml": 120}


def test_no_damaged_file_gives_an_index_that_smllib_or_pysml_contradicts() -> None:
    draw = Random(2)
    whole = [(file, name) for file, name in sml_files(draw, 40) if name == "x25"]
    hurt = [came for came, _ in damaged([file for file, _ in whole], 1.0, draw)]
    answers = ask("sml_peer.py", [[file.hex(), "x25"] for file in hurt])
    both_refuse = 0
    for file, answer in zip(hurt, answers, strict=True):
        readings = sml_readings(file)
        told = [one for one in answer.values() if not isinstance(one, str)]
        for reading in readings:  # damage outside of the file
            assert all(agrees(reading, one) for one in told), file.hex()
        both_refuse += not readings and not told
    assert both_refuse >= 0.95 * len(hurt)


# --- D0, by iec62056-21. -------------------------------------------------------------------------


def d0_lines(draw: Random) -> list[str]:
    decimals = draw.choice((0, 1, 3, 4))
    unit = draw.choice(("kWh", "Wh", "MWh"))

    def value() -> str:
        whole = f"{draw.randrange(10**6):06}"
        return f"{whole}.{draw.randrange(10**decimals):0{decimals}}" if decimals else whole

    prefix, suffix = draw.choice((("", ""), ("1-0:", "*255")))
    return [
        "F.F(00)",
        f"{prefix}C.1.0{suffix}({draw.randrange(1, 10**8):08})",
        f"{prefix}1.8.0{suffix}({value()}*{unit})",
        f"{prefix}1.8.0*01({value()}*{unit})",
        f"{prefix}2.8.0{suffix}({value()}*{unit})",
        "0.9.1(120000)0.9.2(260101)",
    ]


def d0_readings(message: bytes) -> list[Reading]:
    return [one for one in D0Decoder().receive(message, 0) if isinstance(one, Reading)]


_NAMES = (("", ""), ("1-0:", "*255"), ("1-1:", "*255"))  # the last one by a flip


def index_in(sets: list[list[Any]], group: int) -> Index | None:
    names = [f"{before}{group}.8.0{behind}" for before, behind in _NAMES]
    for address, value, unit in sets:
        if address in names:
            whole, _, decimals = value.replace(",", ".").partition(".")
            return Index(int(whole + decimals), {"kWh": 3, "Wh": 0, "MWh": 6}[unit] - len(decimals))
    return None


def test_iec62056_21_reads_the_same_from_every_message() -> None:
    draw = Random(3)
    messages = [data_message(d0_lines(draw)) for _ in range(300)]
    answers = ask("d0_peer.py", {"messages": [one.hex() for one in messages], "said": []})
    for message, sets in zip(messages, answers["messages"], strict=True):
        [reading] = d0_readings(message)
        assert reading.imported == index_in(sets, 1)
        assert reading.exported == index_in(sets, 2)
        told = [(address, value if unit is None else f"{value}*{unit}")
                for address, value, unit in sets]  # fmt: skip
        assert list(reading.fields) == told


def test_what_is_let_through_of_damaged_messages_iec62056_21_reads_alike() -> None:
    """Where it passes: the library looks at the block check only, and reads lines of any form."""
    draw = Random(4)
    whole = [data_message(d0_lines(draw)) for _ in range(1_000)]
    hurt = [came for came, _ in damaged(whole, 1.0, draw)]
    answers = ask("d0_peer.py", {"messages": [one.hex() for one in hurt], "said": []})
    both_refuse, both_read = 0, 0
    for message, sets in zip(hurt, answers["messages"], strict=True):
        readings = d0_readings(message)
        is_refused = isinstance(sets, str)
        both_refuse += not readings and is_refused
        for reading in readings if not is_refused else ():
            both_read += 1
            assert [reading.imported, reading.exported] == [index_in(sets, 1), index_in(sets, 2)], (
                sets
            )
    assert both_refuse >= 0.75 * len(hurt)
    assert both_read > 0  # swapped bytes, and flips of one bit twice


def test_a_meter_is_asked_in_the_words_of_iec62056_21() -> None:
    identifications = {speed: f"/TST{speed}\\@METER\r\n".encode() for speed in "0123456"}
    cases = [("", speed) for speed in identifications] + [("10020030", "5")]
    answers = ask(
        "d0_peer.py",
        {"messages": [one.hex() for one in identifications.values()], "said": cases},
    )
    for answer, speed in zip(answers["messages"], identifications, strict=True):
        assert answer[:2] == ["TST", speed]
    for (address, speed), (request, choice) in zip(cases, answers["said"], strict=True):
        conversation = D0Asked(Asking(10**10, address, is_7e1=True))
        assert conversation.speak(0).hex() == request
        conversation.receive(identifications[speed], 10**9)
        due_ns = conversation.due_ns
        assert due_ns is not None
        assert conversation.speak(due_ns).hex() == choice
