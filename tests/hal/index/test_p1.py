"""Telegrams of the P1 port: what counts, what is refused and by which name, and what a bad line
cannot do.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_S
from hal.index.d0 import D0Decoder
from hal.index.p1 import TELEGRAM_MAX, TELEGRAM_NS_MAX, P1Decoder, checksum
from hal.index.p1_meter import Country, P1Meter, pack, telegram
from hal.index.plausible import Limits
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused, Register
from tests.hal.index.day import live

# A day has 86,400 telegrams: so many of them in an ordinary run.
TELEGRAMS = int(os.environ.get("CRYPTOMETER_FRAMES") or 2_500)

DUTCH = P1Meter(imported_wh=(4_426, 2_399), exported_wh=(2_444, 0), power_w=244)
BELGIAN = replace(DUTCH, country=Country.BELGIUM, identity="1CME0000000042")
LUXEMBOURGISH = replace(DUTCH, country=Country.LUXEMBOURG)
EACH = [DUTCH, BELGIAN, LUXEMBOURGISH]
HEAD = "/CME5\\T"
IDENTITY = "0-0:96.1.1(37)"
IMPORT = ("1-0:1.8.1(000001.000*kWh)", "1-0:1.8.2(000002.000*kWh)")
EXPORT = ("1-0:2.8.1(000000.300*kWh)", "1-0:2.8.2(000000.040*kWh)")


def receive(data: bytes) -> list[Reading | Refusal]:
    return P1Decoder().receive(data, 0)


def read(data: bytes) -> Reading:
    [one] = receive(data)
    assert isinstance(one, Reading), one
    return one


def of(*lines: str) -> bytes:
    """A telegram of these lines, with its right checksum."""
    return pack(HEAD, iter(lines))


def sealed(telegram: bytes) -> bytes:
    return telegram + f"{checksum(telegram):04X}\r\n".encode()


def ciphered(size: int = 300, random: Random | None = None) -> bytes:
    """The shape of one: general-glo-ciphering, system title, length, security byte, counter."""
    content = (random or Random(1)).randbytes(size - 5)
    return b"\xdb\x08CME\0\0\0\0\7\x82" + size.to_bytes(2, "big") + b"\x30\0\0\0\1" + content


# --- What counts. --------------------------------------------------------------------------------


@pytest.mark.parametrize("meter", EACH)
def test_each_countrys_telegram_gives_both_sums(meter: P1Meter) -> None:
    one = read(telegram(meter))
    assert one.identity == meter.identity
    assert (one.imported, one.exported) == (Index(6_825), Index(2_444))
    assert one.meter_time_s == meter.at_s
    assert one.caveats == frozenset()


def test_the_checksum_is_the_published_one() -> None:
    """CRC-16/ARC: its check value."""
    assert checksum(b"123456789") == 0xBB3D


def test_a_checksum_may_lack_its_leading_zero() -> None:
    lines = [IDENTITY, *IMPORT]
    short = next(
        data
        for number in range(1_000)
        if (data := of(*lines, f"0-0:96.13.0({number:04})")).rpartition(b"!")[2][:1] == b"0"
    )
    assert read(short) == read(short.replace(b"!0", b"!")) == read(short[:-6] + short[-6:].lower())


@pytest.mark.parametrize(
    ("lines", "imported", "exported"),
    [
        (IMPORT, 3_000, None),
        (EXPORT, None, 340),
        ((*IMPORT, *EXPORT), 3_000, 340),
        (("1-0:1.8.0(000003.001*kWh)", *IMPORT), 3_001, None),
        (("1-0:1.8.0(00000003.000*kWh)",), 3_000, None),
        (("1-0:1.8.0(006545766*Wh)", "1-0:1.8.1(005017120*Wh)", "1-0:1.8.2(001528646*Wh)"),
         6_545_766, None),
        ((*IMPORT, "1-0:1.8.3(000005.000*kWh)"), 8_000, None),
        ((*IMPORT, EXPORT[0]), 3_000, None),
        (("1-0:1.8.1*255(000001.000*kWh)", IMPORT[1]), 3_000, None),
        ((*IMPORT, "1-0:1.8.8(000005.000*kWh)", "1-0:1.8.9(000006.000*kWh)"), 14_000, None),
        ((*IMPORT, "1-0:1.8.10(000005.000*kWh)"), 3_000, None),
        (("1-0:1.8.0(000003.002*kWh)", *IMPORT), 3_002, None),
        ((*IMPORT, "0-0:96.13.0(1)", "0-0:96.13.0(2)"), 3_000, None),
        (("1-0:1.8.1(000001.000kWh)", "1-0:1.8.2(000002.000*kwh)"), 3_000, None),
        (("1-0:1.8.0(000003000*wh)",), 3_000, None),
        (("1-0:1.8.1.255(000001.000*kWh)", IMPORT[1]), 3_000, None),
        (("1-0:1:8:1(000001.000*kWh)", IMPORT[1]), 3_000, None),
        ((*IMPORT, "1-0:1.8.1*01(000000.900*kWh)", "1-0:1.8.1.2(000000.800*kWh)"), 3_000, None),
        (("1-1:1.8.1(000001.000*kWh)", "1-1:1.8.2(000002.000*kWh)"), 3_000, None),
        ((*IMPORT, "1-1:1.8.0(000009.000*kWh)", "1-1:2.8.0(000004.000*kWh)"), 3_000, 4_000),
    ],
)  # fmt: skip
def test_the_index_is_the_total_or_the_tariffs_sum(
    lines: Iterable[str], imported: int | None, exported: int | None
) -> None:
    one = read(of(IDENTITY, *lines))
    assert one.imported == (None if imported is None else Index(imported))
    assert one.exported == (None if exported is None else Index(exported))


@pytest.mark.parametrize(
    ("lines", "identity"),
    [
        (["0-0:96.1.1(4B384547303034303436333935353037)"], "K8EG004046395507"),
        (["0-0:96.1.1(3960221976967177082151037881335713)"], "3960221976967177082151037881335713"),
        (["0-0:96.1.1(ADC3100000158491)"], "ADC3100000158491"),
        (["0-0:96.1.1(123)"], "123"),
        (["0-0:96.1.1(0102)"], "0102"),
        (["0-0:42.0.0(53414733)", "0-0:96.1.0(39)"], "SAG3"),
        (["0-0:96.1.0(09610)"], "09610"),
        (["0-0:96.1.1()", "0-0:42.0.0(53414733)"], "SAG3"),
        (["0-1:96.1.1(39)", "0-0:96.1.1(37)", "0-2:96.1.0(38)"], "7"),
    ],
)
def test_the_identity_is_the_meters_own(lines: list[str], identity: str) -> None:
    assert read(of(*lines, *IMPORT)).identity == identity


@pytest.mark.parametrize(
    ("written", "at_s", "is_doubted"),
    [
        ("(260701020000S)", 1_782_864_000, False),
        ("(260701010000W)", 1_782_864_000, False),
        ("(260701010000)", None, False),
        ("(632525252525W)", None, True),
    ],
)
def test_the_clock_is_placed_by_its_letter(
    written: str, at_s: int | None, is_doubted: bool
) -> None:
    one = read(of(IDENTITY, f"0-0:1.0.0{written}", *IMPORT))
    assert one.meter_time_s == at_s
    assert (Caveat.CLOCK_DEGRADED in one.caveats) == is_doubted


def test_a_telegram_without_a_clock_has_no_time() -> None:
    one = read(of(IDENTITY, *IMPORT))
    assert (one.meter_time_s, one.caveats) == (None, frozenset())


def test_devices_on_the_mbus_are_not_this_meter() -> None:
    lines = [
        "0-1:24.1.0(003)", "0-1:96.1.0()", "0-1:24.2.1(700101010000W)(00000000)",
        "0-2:96.1.1(39)", "0-2:24.2.3(200512134558S)(00112.384*m3)", "0-2:1.8.0(000009.000*kWh)",
        "0-3:24.3.0(120517020000)(08)(60)(1)(0-3:24.2.1)(m3)",
    ]  # fmt: skip
    one = read(of(*lines, IDENTITY, *IMPORT))
    assert (one.identity, one.imported) == ("7", Index(3_000))
    assert {code for code, _ in one.fields} == {"/", "0-0:96.1.1", "1-0:1.8.1", "1-0:1.8.2"}
    assert all(code[:4] in ("0-0:", "1-0:", "1-3:", "/") for code, _ in _fields(BELGIAN))


def _fields(meter: P1Meter) -> tuple[tuple[str, str], ...]:
    return read(telegram(meter)).fields


def test_a_devices_reading_may_have_a_line_of_its_own() -> None:
    lines = ["0-1:24.3.0(120517020000)(08)(60)(1)(0-1:24.2.1)(m3)", "(00124.477)", "(00124.478)"]
    one = read(of(IDENTITY, *lines, "0-1:24.4.0(1)", *IMPORT))
    assert one.imported == Index(3_000)
    assert {code for code, _ in one.fields} == {"/", "0-0:96.1.1", "1-0:1.8.1", "1-0:1.8.2"}


def test_a_colon_or_a_dot_too_many_in_a_code_is_the_standards_own_slip() -> None:
    one = read(of(IDENTITY, "1-0:99:97.0(0)", "1-0:21.7.0.255(01.111*kW)", *IMPORT))
    assert dict(one.fields)["1-0:99.97.0"] == "0"
    assert dict(one.fields)["1-0:21.7.0"] == "01.111*kW"


@pytest.mark.parametrize("head", ["/HLY5/D545-METER", "/CME5/1/ab1/", "/CME/"])
def test_a_slash_in_the_makers_type_begins_no_telegram(head: str) -> None:
    data = pack(head, iter([IDENTITY, *IMPORT]))
    assert read(data).imported == Index(3_000)
    decoder = P1Decoder()
    [one] = [found for byte in data for found in decoder.receive(bytes([byte]), 0)]
    assert one == read(data)
    assert dict(read(data).fields)["/"] == head[1:]


def test_a_slash_that_nothing_follows_yet_waits() -> None:
    decoder, data = P1Decoder(), telegram(DUTCH)
    assert decoder.receive(data[:200] + b"/CM", 0) == []
    cut = "a telegram began before the one before it had ended"
    assert decoder.receive(b"E", 1) == [Refusal(Refused.INCOMPLETE, cut, 1)]
    assert [type(one) for one in decoder.receive(data[4:], 2)] == [Reading]


# --- Meters that name themselves nowhere. --------------------------------------------------------


def unnamed(data: bytes) -> list[Reading | Refusal]:
    return P1Decoder(is_unnamed=True).receive(data, 0)


def test_a_telegram_without_a_number_counts_where_the_meter_is_known_to_have_none() -> None:
    data = of("0-0:1.0.0(260701020000S)", "0-1:96.1.1(37)", *IMPORT)
    [one] = unnamed(data)
    assert isinstance(one, Reading)
    assert (one.identity, one.imported) == ("", Index(3_000))
    assert [found.reason for found in receive(data) if isinstance(found, Refusal)] == [
        Refused.NO_IDENTITY
    ]


@pytest.mark.parametrize("identity", [IDENTITY, "0-0:42.0.0(37)", "0-0:96.1.0(37)"])
def test_where_the_meter_has_no_number_one_that_has_is_another(identity: str) -> None:
    detail = "the telegram names meter 37, where one without a number is"
    assert unnamed(of(identity, *IMPORT)) == [Refusal(Refused.OTHER_METER, detail, 0)]


def test_a_number_that_is_empty_is_not_the_same_as_none() -> None:
    detail = "the telegram does not say which meter it is of"
    assert unnamed(of("0-0:96.1.1()", *IMPORT)) == [Refusal(Refused.NO_IDENTITY, detail, 0)]


def test_lines_of_many_values_are_kept_as_they_are() -> None:
    failures = dict(_fields(replace(DUTCH, failures=2)))["1-0:99.97.0"]
    assert failures == (
        "(2)(0-0:96.7.19)(251231010000W)(0000000100*s)(251230010000W)(0000000200*s)"
    )
    assert dict(_fields(BELGIAN))["0-0:98.1.0"].startswith("(3)(1-0:1.6.0)(1-0:1.6.0)(")
    assert dict(_fields(BELGIAN))["1-0:1.4.0"] == "00.244*kW"
    assert dict(_fields(DUTCH))["/"] == r"CME5\T100-SIM"


def test_a_reading_bears_the_times_of_its_first_and_last_byte() -> None:
    decoder, data = P1Decoder(), telegram(DUTCH)
    decoder.receive(data[:1], 1 * NS_PER_S)
    decoder.receive(data[1:-1], 2 * NS_PER_S)
    [one] = decoder.receive(data[-1:] + data[:30], 3 * NS_PER_S)
    [two] = decoder.receive(data[30:], 4 * NS_PER_S)
    times = [(found.began_ns, found.ended_ns) for found in (one, two) if isinstance(found, Reading)]
    assert times == [(NS_PER_S, 3 * NS_PER_S), (3 * NS_PER_S, 4 * NS_PER_S)]


def test_the_largest_telegram_is_far_within_the_limit() -> None:
    sizes = [len(telegram(replace(meter, mbus=4, months=13, failures=10))) for meter in EACH]
    assert max(sizes) * 2 < TELEGRAM_MAX


# --- What does not. ------------------------------------------------------------------------------


@pytest.mark.parametrize("meter", EACH)
def test_the_first_telegram_joined_in_its_middle_gives_nothing(meter: P1Meter) -> None:
    whole = telegram(meter)
    for at in range(1, len(whole)):
        [one] = receive(whole[at:] + whole)
        assert isinstance(one, Reading)


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        (Refused.CHECKSUM, telegram(DUTCH).replace(b"004.426", b"004.427")),
        (Refused.CHECKSUM, of(IDENTITY, *IMPORT)[:-6] + b"00G0\r\n"),
        (Refused.CHECKSUM, of(IDENTITY, *IMPORT)[:-2] + b"0\r\n"),
        (Refused.UNSUPPORTED, of(IDENTITY, *IMPORT)[:-6] + b"\r\n"),
        (Refused.UNSUPPORTED, ciphered()),
        (Refused.NO_IDENTITY, of(*IMPORT)),
        (Refused.NO_IDENTITY, of("0-0:96.1.1()", "0-1:96.1.1(37)", *IMPORT)),
        (Refused.NO_INDEX, of(IDENTITY)),
        (Refused.NO_INDEX, of(IDENTITY, IMPORT[0])),
        (Refused.NO_INDEX, of(IDENTITY, IMPORT[1], EXPORT[0])),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(000003.004*kWh)", *IMPORT)),
        (Refused.FORM, of(IDENTITY, *IMPORT, IMPORT[0])),
        (Refused.FORM, of(IDENTITY, IDENTITY, *IMPORT)),
        (Refused.FORM, of(IDENTITY, *IMPORT, "0-0:1.0.0(2607010100W)")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "0-0:1.0.0(260701010000X)")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "something else")),
        (Refused.FORM, sealed(b"/CME!")),
        (Refused.FORM, sealed("\n".join(("/CME", "", IDENTITY, *IMPORT, "!")).encode())),
        (Refused.FORM, of(IDENTITY, *["0-0:1.0.0(260701010000W)"] * 2, *IMPORT)),
        (Refused.UNSUPPORTED, ciphered(TELEGRAM_MAX - 13)),
        (Refused.TOO_LONG, b"/CME5" + b"0" * (TELEGRAM_MAX - 5) + b"!0000\r\n"),
        (Refused.CHECKSUM, b"/CME5" + b"0" * (TELEGRAM_MAX - 6) + b"!0000\r\n"),
        (Refused.FORM, sealed(b"/CME\r\n\r\n" + "\r\n".join((IDENTITY, *IMPORT)).encode() + b"!")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "0-0:96.13.0((1)")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "(00124.477)")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "0-1:24.3.0(m3)", "(00124.477")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "1-0:1:8:1(000001.000*kWh)")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "1-0:1.8.1.255(000001.000*kWh)")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "1-0:1.8.1.255.1(000001.000*kWh)")),
        (Refused.FORM, of(IDENTITY, *IMPORT, "1-1:1.8.1(000001.000*kWh)", "1-1:1.8.1(1)")),
        (Refused.NO_INDEX, of(IDENTITY, IMPORT[0], "1-1:1.8.2(000002.000*kWh)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(000003.000kW)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(000003.00*kWh)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(00003.000*kWh)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(-00003.000*kWh)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(000003.000*MWh)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(000003.000)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(3000*Wh)")),
        (Refused.FORM, of(IDENTITY, "1-0:1.8.0(000003.000*kWh)(000004.000*kWh)")),
        (Refused.FORM, telegram(DUTCH).replace(b"4.426", b"4.\xb426")),
        (Refused.INCOMPLETE, telegram(DUTCH)[:200] + b"/CME"),
        (Refused.INCOMPLETE, telegram(DUTCH)[:5] + telegram(DUTCH)[:200]),
        (Refused.INCOMPLETE, b"/CME5\r\n!" + b"0" * 20 + b"\r\n"),
        (Refused.INCOMPLETE, telegram(DUTCH)[:-4] + telegram(DUTCH)[:30]),
        (Refused.INCOMPLETE, telegram(DUTCH)[:-2] + b"0000"),
        (Refused.TOO_LONG, b"/CME5" + b"0" * TELEGRAM_MAX),
    ],
)
def test_what_is_refused_is_refused_by_name(reason: Refused, data: bytes) -> None:
    [refusal] = P1Decoder().receive(data, 7)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.at_ns) == (reason, 7)
    assert isinstance(refusal.detail, str)
    assert refusal.detail not in ("", "None")


def test_a_telegram_of_dsmr_2_is_refused_as_what_it_is_and_read_as_d0() -> None:
    lines = [
        "/CME5 ABCD012345678901", "", "0-0:96.1.1(37)", "1-0:1.8.1(00185.000*kWh)",
        "1-0:1.8.2(00084.001*kWh)", "1-0:2.8.1(00013.000*kWh)", "1-0:2.8.2(00019.000*kWh)",
        "0-0:96.14.0(0001)", "1-0:1.7.0(0000.98*kW)", "0-0:17.0.0(999*A)", "0-0:96.13.0()",
        "0-1:24.3.0(120517020000)(08)(60)(1)(0-1:24.2.1)(m3)", "(00124.477)", "!", "",
    ]  # fmt: skip
    data = "\r\n".join(lines).encode()
    [refusal] = receive(data)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.UNSUPPORTED
    assert "D0 (9600 baud, pushed)" in refusal.detail
    [one] = D0Decoder().receive(data, 0)
    assert isinstance(one, Reading)
    assert one.caveats == {Caveat.WEAK_CHECK}
    assert (one.identity, one.imported, one.exported) == ("37", Index(269_001), Index(32_000))


def test_after_what_is_refused_the_next_telegram_counts() -> None:
    good = telegram(DUTCH)
    for bad in (good[:300], good[:-3], good.replace(b"0", b"\x00", 1), ciphered(), b"/ab", b"\xdb"):
        *_, last = receive(bad + good)
        assert isinstance(last, Reading), bad


def test_ciphered_telegrams_are_told_as_what_they_are() -> None:
    random = Random(3)
    data = b"".join(ciphered(500 + random.randrange(400), random) for _ in range(200))
    assert {one.reason for one in receive(data) if isinstance(one, Refusal)} == {
        Refused.UNSUPPORTED
    }
    assert len(receive(data)) == 200


def test_what_only_begins_like_a_ciphered_telegram_hides_none() -> None:
    good = telegram(DUTCH)
    for head in (
        b"\xdb\x07CME\0\0\0\0\7\x82\0\x40",
        b"\xdb\x08CME\0\0\0\0\7\x81\0\x40",
        b"\xdb\x08CME\0\0\0\0\7\x82\xff\xff",
        b"/",
    ):
        assert receive(head + good) == receive(good), head


def test_a_ciphered_telegram_of_nothing_is_told_once_a_byte_follows() -> None:
    decoder, head = P1Decoder(), b"\xdb\x08CME\0\0\0\0\7\x82\0\0"
    assert decoder.receive(head, 0) == []
    [refusal] = decoder.receive(b"\r", 1)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.UNSUPPORTED


def test_a_refusal_names_the_line_that_is_wrong() -> None:
    [refusal] = receive(of(IDENTITY, "1-0:1.8.0(x)"))
    assert refusal == Refusal(Refused.FORM, "1-0:1.8.0 is no energy: '(x)'", 0)


def test_two_halves_with_time_between_them_are_no_telegram() -> None:
    decoder, data = P1Decoder(), telegram(DUTCH)
    decoder.receive(data[:400], 0)
    late_ns = TELEGRAM_NS_MAX + 1
    late = Refusal(Refused.INCOMPLETE, "a telegram without an end", late_ns)
    assert decoder.receive(data[400:], late_ns) == [late]
    assert [type(one) for one in decoder.receive(data, TELEGRAM_NS_MAX + 2)] == [Reading]


def test_a_telegram_whose_start_was_lost_is_told_of_once_telegrams_follow_each_other() -> None:
    decoder, data = P1Decoder(), telegram(DUTCH)
    decoder.receive(data, 0)
    lost = Refusal(Refused.INCOMPLETE, "the end of a telegram without its start", 1)
    assert decoder.receive(data[1:], 1) == [lost]
    assert decoder.receive(data[1:] + data[1:], 1) == [lost, lost]


def test_the_first_end_that_comes_is_of_a_telegram_joined_in_its_middle() -> None:
    decoder, data = P1Decoder(), telegram(DUTCH)
    assert decoder.receive(data[1:], 0) == []
    lost = Refusal(Refused.INCOMPLETE, "the end of a telegram without its start", 1)
    assert decoder.receive(data[1:], 1) == [lost]
    assert decoder.receive(b"!", 1) == [lost]


def test_a_telegram_may_last_as_long_as_the_longest_one() -> None:
    decoder, data = P1Decoder(), telegram(DUTCH)
    decoder.receive(data[:400], 0)
    assert [type(one) for one in decoder.receive(data[400:], TELEGRAM_NS_MAX)] == [Reading]


# --- Whatever comes. -----------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10_000), max_size=40), st.integers(0, 2**32))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int], seed: int) -> None:
    random = Random(seed)
    hurt = bytearray(
        b"".join(
            random.choice((telegram(random.choice(EACH)), ciphered(200, random))) for _ in range(4)
        )
    )
    for _ in range(random.randrange(6)):
        hurt[random.randrange(len(hurt))] = random.choice(b"/!\r\n\xdb\x08\xff(")
    data = bytes(hurt)
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    decoder = P1Decoder()
    pieces = [one for begin, end in pairwise(bounds) for one in decoder.receive(data[begin:end], 0)]
    assert pieces == receive(data)


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.lists(st.sampled_from([b"/ABC", b"/", b"!", b"\r\n", b"\xdb\x08", b"\x82\x0f", b"(",
                                      b"1-0:1.8.0", b"0000", b"\xdb\x08ABCDEFGH\x82\x0f"]),
                     max_size=60).map(b"".join),
            st.just(b"/ABC" + b"9" * TELEGRAM_MAX),
        ),
        max_size=8,
    ),
    st.integers(0, 3 * NS_PER_S),
)  # fmt: skip
def test_no_bytes_raise_and_few_are_kept(pieces: list[bytes], apart_ns: int) -> None:
    decoder = P1Decoder()
    for number, piece in enumerate(pieces):
        for one in decoder.receive(piece, number * apart_ns):
            assert isinstance(one, Refusal)
            assert len(one.detail) < 200
        assert len(decoder._came.data) <= TELEGRAM_MAX + 13


# --- A day on a bad line. ------------------------------------------------------------------------


def _taken(meter: P1Meter) -> Callable[[int, int, int], bytes]:
    def message(wh: int, power_w: int, passed_s: int) -> bytes:
        used = (wh // 3, wh - wh // 3)
        return telegram(
            replace(meter, imported_wh=used, power_w=power_w, at_s=meter.at_s + passed_s)
        )

    return message


def _given(meter: P1Meter) -> Callable[[int, int, int], bytes]:
    def message(wh: int, power_w: int, passed_s: int) -> bytes:
        made = (wh - wh // 4, wh // 4)
        return telegram(
            replace(meter, exported_wh=made, power_w=-power_w, at_s=meter.at_s + passed_s)
        )

    return message


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize(
    ("meter", "message", "register"),
    [
        (DUTCH, _taken, Register.IMPORT),
        (BELGIAN, _given, Register.EXPORT),
        (LUXEMBOURGISH, _given, Register.EXPORT),
    ],
)
def test_a_bad_day_gives_no_wrong_index_and_loses_few_good_telegrams(
    meter: P1Meter,
    message: Callable[[P1Meter], Callable[[int, int, int], bytes]],
    register: Register,
    share: float,
) -> None:
    """One a second; of a day, TELEGRAMS."""
    lived = live(
        P1Decoder(),
        Limits(meter.identity, register, 17_250),
        message(meter),
        messages=TELEGRAMS,
        period_ns=NS_PER_S,
        share=share,
        seed=TELEGRAMS + int(share * 10),
    )
    assert lived.wrong == ()
    assert lived.believed >= 0.95 * lived.whole
    assert lived.whole < (1 - share + 0.1) * lived.messages
