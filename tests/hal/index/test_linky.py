"""Frames of a Linky in both modes: what counts, what is refused and by which name, and what a bad
line cannot do.
"""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.index import linky
from hal.index.linky import DETECT_NS, FORMS, FRAME_MAX, FRAME_NS_MAX, LinkyDecoder, Mode
from hal.index.linky_meter import LinkyMeter, broken_off, frame, pack, short_frame, with_parity
from hal.index.plausible import Limits
from hal.index.reading import Caveat, Index, Reading, Refusal, Refused, Register
from tests.hal.index.day import live

# A day has 93,000 frames of a consumer in standard mode: so many of them in an ordinary run.
FRAMES = int(os.environ.get("CRYPTOMETER_FRAMES") or 1_500)

CONSUMER = LinkyMeter(imported_wh=(681_183, 475_484), power_va=5_120, at_s=1_773_896_530)
PRODUCER = LinkyMeter(imported_wh=(12,), exported_wh=32_781, power_va=-1_253, at_s=1_784_190_863)
HOUSE = LinkyMeter(Mode.HISTORIC, imported_wh=(1_181_243,), power_va=540)
TEMPO = replace(HOUSE, option="BBR(", imported_wh=(1, 20, 300, 4_000, 50_000, 600_000))
EACH = [CONSUMER, PRODUCER, replace(PRODUCER, phases=3), HOUSE, TEMPO, replace(HOUSE, phases=3)]


def receive(data: bytes) -> list[Reading | Refusal]:
    return LinkyDecoder().receive(data, 0)


def read(data: bytes) -> Reading:
    [one] = receive(data)
    assert isinstance(one, Reading), one
    return one


def refused(data: bytes) -> list[Refused]:
    found = receive(data)
    assert not [one for one in found if isinstance(one, Reading)]
    return [one.reason for one in found if isinstance(one, Refusal)]


def stripped(data: bytes) -> bytes:
    """As a port of seven bits delivers it."""
    return bytes(byte & 0x7F for byte in data)


def groups(meter: LinkyMeter) -> list[tuple[str, ...]]:
    body = stripped(frame(meter))[1:-1].decode().strip("\n\r")
    separator = "\t" if meter.mode is Mode.STANDARD else " "
    return [tuple(line[:-2].split(separator)) for line in body.split("\r\n")]


def changed(
    meter: LinkyMeter, change: Callable[[list[tuple[str, ...]]], list[tuple[str, ...]]]
) -> bytes:
    """The meter's frame, other groups in it, each with its right checksum."""
    return pack(change(groups(meter)), meter.mode)


def without(*labels: str) -> Callable[[list[tuple[str, ...]]], list[tuple[str, ...]]]:
    return lambda found: [group for group in found if group[0] not in labels]


def saying(*new: str) -> Callable[[list[tuple[str, ...]]], list[tuple[str, ...]]]:
    return lambda found: [new if group[0] == new[0] else group for group in found]


# --- What counts. --------------------------------------------------------------------------------


def test_a_consumer_in_standard_mode_gives_its_import() -> None:
    one = read(frame(CONSUMER))
    assert one.identity == CONSUMER.identity
    assert (one.imported, one.exported) == (Index(1_156_667), None)
    assert one.meter_time_s == CONSUMER.at_s
    assert one.caveats == {Caveat.WEAK_CHECK}


def test_a_producer_gives_its_export_too() -> None:
    one = read(frame(PRODUCER))
    assert (one.imported, one.exported) == (Index(12), Index(32_781))
    assert dict(one.fields)["SINSTI"] == "01253"


@pytest.mark.parametrize(
    ("option", "registers"),
    [
        ("BASE", (7,)),
        ("HC..", (7, 80)),
        ("EJP.", (7, 80)),
        ("BBR(", (1, 20, 300, 4_000, 50_000, 600_000)),
    ],
)
def test_each_historic_option_gives_the_sum_of_its_registers(
    option: str, registers: tuple[int, ...]
) -> None:
    meter = replace(HOUSE, option=option, imported_wh=registers)
    one = read(frame(meter))
    assert (one.imported, one.exported) == (Index(sum(registers)), None)
    assert one.meter_time_s is None
    assert one.caveats == {Caveat.WEAK_CHECK}
    for label, _ in groups(meter)[3:4]:
        assert dict(one.fields)[label] == f"{registers[0]:09}"


@pytest.mark.parametrize("meter", EACH)
def test_a_line_of_seven_bits_says_the_same(meter: LinkyMeter) -> None:
    assert receive(stripped(frame(meter))) == receive(frame(meter))


@pytest.mark.parametrize("phases", [1, 3])
def test_a_three_phase_meter_says_more(phases: int) -> None:
    one = dict(read(frame(replace(CONSUMER, phases=phases))).fields)
    assert ("IRMS3" in one, "SMAXSN3-1" in one) == (phases == 3, phases == 3)
    old = dict(read(frame(replace(HOUSE, phases=phases))).fields)
    assert ("IINST3" in old, "IINST" in old) == (phases == 3, phases == 1)


def test_the_longest_frame_of_the_list_is_within_the_limit() -> None:
    lengths = {label: _longest(rule.data) for label, rule in linky.STANDARD.items()}
    longest = pack(
        [
            (label, *(["H260101000000"] if linky.STANDARD[label].dated else []), "0" * length)
            for label, length in lengths.items()
        ],
        Mode.STANDARD,
    )
    assert len(longest) == 1_727
    assert read(longest).imported == Index(0)
    assert len(longest) < FRAME_MAX
    assert len(frame(replace(PRODUCER, phases=3))) == 1_442


def _longest(data: re.Pattern[str]) -> int:
    return max(length for length in range(100) if data.fullmatch("0" * length))


def test_the_bits_of_the_status_word_have_names() -> None:
    said = dict(read(changed(PRODUCER, saying("STGE", "002A0301"))).fields)
    assert said["STGE"] == "002A0301"
    assert said["STGE contact"] == "open"
    assert said["STGE producer"] == "yes"
    assert said["STGE active energy"] == "negative"
    assert said["STGE clock"] == "good"
    assert said["STGE output"] == "standard"
    assert said["STGE supplier index"] == "1"
    assert said["STGE tempo today"] == "none"
    worst = dict(linky.status_fields("FFFFFFFF"))
    assert worst["STGE breaker"] == "7"
    assert worst["STGE mobile peak"] == "3"
    assert len(worst) == len(linky.STATUS)


def test_summer_and_winter_are_told_apart() -> None:
    for letter, hour in (("E", 2), ("H", 1)):
        date = f"{letter}260701{hour:02}0000"
        assert read(changed(CONSUMER, saying("DATE", date, ""))).meter_time_s == 1_782_864_000


@pytest.mark.parametrize("letter", ["e", "h", " "])
def test_a_degraded_clock_gives_no_time(letter: str) -> None:
    one = read(changed(CONSUMER, saying("DATE", f"{letter}260701020000", "")))
    assert one.meter_time_s is None
    assert Caveat.CLOCK_DEGRADED in one.caveats


def test_the_status_word_and_the_calendar_may_doubt_the_clock_too() -> None:
    assert read(frame(replace(CONSUMER, has_clock=False))).meter_time_s is None
    for change in (saying("STGE", "003B0001"), saying("DATE", "E260231020000", "")):
        one = read(changed(CONSUMER, change))
        assert one.meter_time_s is None
        assert Caveat.CLOCK_DEGRADED in one.caveats


def test_a_reading_bears_the_times_of_its_first_and_last_byte() -> None:
    decoder, data = LinkyDecoder(), frame(CONSUMER)
    assert decoder.receive(data[:1], 1 * NS_PER_S) == []
    assert decoder.receive(data[1:-1], 2 * NS_PER_S) == []
    [one] = decoder.receive(data[-1:], 3 * NS_PER_S)
    assert isinstance(one, Reading)
    assert (one.began_ns, one.ended_ns) == (1 * NS_PER_S, 3 * NS_PER_S)


def test_registers_that_differ_from_their_total_by_a_watt_hour_are_believed() -> None:
    """As real ones do: a frame is no snapshot."""
    one = read(changed(CONSUMER, saying("EASD01", "001156668")))
    assert one.imported == Index(1_156_667)


# --- What does not. ------------------------------------------------------------------------------


@pytest.mark.parametrize("meter", EACH)
def test_the_first_frame_joined_in_its_middle_gives_nothing(meter: LinkyMeter) -> None:
    whole = frame(meter)
    for at in range(1, len(whole)):
        [one] = receive(whole[at:] + whole)
        assert isinstance(one, Reading)


@pytest.mark.parametrize(
    ("reason", "data"),
    [
        (Refused.NO_IDENTITY, changed(CONSUMER, without("ADSC"))),
        (Refused.NO_IDENTITY, changed(HOUSE, without("ADCO"))),
        (Refused.NO_INDEX, changed(CONSUMER, without("EAST"))),
        (Refused.NO_INDEX, changed(HOUSE, without("BASE"))),
        (Refused.NO_INDEX, changed(HOUSE, without("OPTARIF"))),
        (Refused.NO_INDEX, changed(TEMPO, without("BBRHPJR"))),
        (Refused.NO_INDEX, pack([("ADCO", "031976123456")], Mode.HISTORIC)),
        (Refused.FORM, changed(CONSUMER, lambda found: [*found, ("NTARF", "02")])),
        (Refused.FORM, changed(HOUSE, lambda found: [*found, ("HCHC", "000000001")])),
        (Refused.FORM, changed(CONSUMER, saying("EAST", "00115666"))),
        (Refused.FORM, changed(CONSUMER, saying("EAST", "0011566670"))),
        (Refused.FORM, changed(CONSUMER, saying("EAST", "00115666A"))),
        (Refused.FORM, changed(CONSUMER, saying("EAST", "001156 667"))),
        (Refused.FORM, changed(PRODUCER, saying("EAIT", "H260101000000", "000032781"))),
        (Refused.FORM, changed(CONSUMER, saying("ADSC", "03197612345"))),
        (Refused.FORM, changed(HOUSE, saying("OPTARIF", "BAS."))),
        (Refused.CHECKSUM, stripped(frame(CONSUMER)).replace(b"001156667", b"001156668")),
        (Refused.CHECKSUM, stripped(frame(PRODUCER)).replace(b"EAIT", b"EAIU")[:-1] + b"\x03"),
        (Refused.INCOMPLETE, frame(CONSUMER)[:400] + frame(CONSUMER)[:1]),
        (Refused.INCOMPLETE, broken_off(frame(CONSUMER), 400)),
        (Refused.TOO_LONG, b"\x02" + b"\n" * FRAME_MAX),
    ],
)
def test_what_is_refused_is_refused_by_name(reason: Refused, data: bytes) -> None:
    found = receive(data)
    assert [one.reason for one in found if isinstance(one, Refusal)] == [reason]
    if reason is not Refused.CHECKSUM:
        assert len(found) == 1


def test_an_export_whose_label_is_damaged_is_no_export() -> None:
    data = stripped(frame(PRODUCER)).replace(b"EAIT", b"EAIU")
    readings = [one for one in receive(data) if isinstance(one, Reading)]
    assert [(one.imported, one.exported) for one in readings] == [(Index(12), None)]


@pytest.mark.parametrize("label", ["ADSC", "EAST", "EAIT"])
def test_a_bad_group_that_counts_refuses_its_frame(label: str) -> None:
    data = bytearray(stripped(frame(PRODUCER)))
    data[data.index(label.encode()) + 5] ^= 1
    assert refused(bytes(data)) == [Refused.CHECKSUM]


def test_a_bad_group_that_does_not_count_leaves_the_others() -> None:
    data = stripped(frame(PRODUCER)).replace(b"PCOUP\t09", b"PCOUP\t06")
    one, refusal = receive(data)
    assert isinstance(one, Reading)
    assert isinstance(refusal, Refusal)
    assert one.exported == Index(32_781)
    assert dict(one.fields)["PREF"] == "09"
    assert "PCOUP" not in dict(one.fields)
    assert refusal.reason is Refused.CHECKSUM
    assert "PCOUP" in refusal.detail


def test_an_unknown_label_is_left_out() -> None:
    one, refusal = receive(changed(CONSUMER, lambda found: [*found, ("NEWER", "1")]))
    assert isinstance(one, Reading)
    assert "NEWER" not in dict(one.fields)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.UNSUPPORTED


def test_what_is_damaged_is_told_before_what_is_unknown() -> None:
    data = changed(CONSUMER, lambda found: [("NEWER", "1"), *found, ("newer", "1")])
    one, refusal = receive(data)
    assert isinstance(one, Reading)
    detail = "groups that do not count: 'NEWER' (unsupported), 'newer' (form)"
    assert refusal == Refusal(Refused.FORM, detail, 0)


def test_another_meters_frame_is_unsupported_rather_than_damaged() -> None:
    """PME-PMI: labels of its own, in the historic form."""
    data = pack([("ADS", "041376123456"), ("MESURES1", "BT"), ("EApP", "00123456")], Mode.HISTORIC)
    [refusal] = receive(data)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Refused.UNSUPPORTED
    assert refusal.detail.startswith("the frame has no ADCO; groups that do not count: 'ADS' (")


def test_an_even_number_of_added_spaces_passes_the_checksum_and_not_the_form() -> None:
    [group] = [one for one in groups(PRODUCER) if one[0] == "EAIT"]
    spaced = pack([("EAIT", f"  {group[1]}")], Mode.STANDARD)
    assert spaced[-3] == pack([group], Mode.STANDARD)[-3]
    assert refused(changed(PRODUCER, saying("EAIT", f"  {group[1]}"))) == [Refused.FORM]


def test_parity_finds_what_the_checksum_does_not() -> None:
    """Two digits, the same bit of each: one falls as the other rises."""
    right = stripped(frame(PRODUCER))
    wrong = right.replace(b"000032781", b"000033681")
    assert read(wrong).exported == Index(33_681)
    data = bytearray(with_parity(right))
    at = right.index(b"000032781") + 5
    data[at] ^= 1
    data[at + 1] ^= 1
    assert stripped(bytes(data)) == wrong
    assert refused(bytes(data)) == [Refused.CHECKSUM]


def test_a_short_frame_of_an_overload_is_no_reading_and_no_fault() -> None:
    meter = replace(HOUSE, phases=3, power_va=20_000)
    assert receive(short_frame(meter)) == []
    damaged_one = stripped(short_frame(meter)).replace(b"ADIR1", b"ADIS1")
    assert refused(damaged_one) == [Refused.CHECKSUM]


def test_after_what_the_meter_broke_off_the_next_frame_counts() -> None:
    data = frame(HOUSE)
    refusal, one = receive(broken_off(data, 70) + data)
    assert isinstance(refusal, Refusal)
    assert isinstance(one, Reading)


def test_two_halves_with_time_between_them_are_no_frame() -> None:
    decoder, data = LinkyDecoder(), frame(CONSUMER)
    decoder.receive(data[:500], 0)
    [late] = decoder.receive(data[500:], FRAME_NS_MAX + 1)
    assert isinstance(late, Refusal)
    assert late.reason is Refused.INCOMPLETE
    assert [type(one) for one in decoder.receive(data, FRAME_NS_MAX + 2)] == [Reading]


def test_a_frame_whose_start_was_lost_is_told_of_once_frames_follow_each_other() -> None:
    decoder, data = LinkyDecoder(), frame(CONSUMER)
    decoder.receive(data, 0)
    [lost] = decoder.receive(data[1:], 1)
    assert isinstance(lost, Refusal)
    assert lost.reason is Refused.INCOMPLETE


# --- What is said of it, and when. ---------------------------------------------------------------


def beside(data: bytes) -> Refusal:
    """What is refused beside the reading that a frame gives."""
    one, refusal = LinkyDecoder().receive(data, 7)
    assert isinstance(one, Reading)
    assert isinstance(refusal, Refusal)
    assert refusal.at_ns == 7
    return refusal


def uncounted(group: str, reason: Refused) -> Refusal:
    return Refusal(reason, f"groups that do not count: {group!r} ({reason})", 7)


@pytest.mark.parametrize(
    ("data", "reason", "detail"),
    [
        (changed(CONSUMER, without("ADSC")), Refused.NO_IDENTITY, "the frame has no ADSC"),
        (
            changed(CONSUMER, without("EAST")),
            Refused.NO_INDEX,
            "the frame has neither EAST nor EAIT",
        ),
        (
            changed(CONSUMER, lambda found: [*found, ("NTARF", "02")]),
            Refused.FORM,
            "the frame has NTARF twice",
        ),
        (
            stripped(frame(CONSUMER)).replace(b"EAST\t001156667\t", b"EAST\t001156667 "),
            Refused.FORM,
            "groups that do not count: 'EAST' (form)",
        ),
        (
            frame(CONSUMER)[:400] + frame(CONSUMER)[:1],
            Refused.INCOMPLETE,
            "a frame began before the one before it had ended",
        ),
        (
            broken_off(frame(CONSUMER), 400),
            Refused.INCOMPLETE,
            "the meter broke the frame off (EOT)",
        ),
        (b"\x02" + b"\n" * FRAME_MAX, Refused.TOO_LONG, "a frame of more than 2048 bytes"),
        (
            b"\x02" + b"\n" * (FRAME_MAX - 1) + b"\x03",
            Refused.TOO_LONG,
            "a frame of more than 2048 bytes",
        ),
        (
            b"\x02" + b"\n" * (FRAME_MAX - 2) + b"\x03",
            Refused.FORM,
            "the frame has no ADCO; groups that do not count: '' (form), '' (form), '' (form), 2043"
            " more",
        ),
    ],
)
def test_a_refusal_tells_what_is_wrong_and_when(data: bytes, reason: Refused, detail: str) -> None:
    assert LinkyDecoder().receive(data, 7) == [Refusal(reason, detail, 7)]


def test_a_frame_without_an_end_or_a_start_is_told_with_its_time() -> None:
    decoder, data = LinkyDecoder(), frame(CONSUMER)
    assert decoder.receive(data[1:], 0) == []
    without_start = Refusal(Refused.INCOMPLETE, "the end of a frame without its start", 5)
    assert decoder.receive(data[1:], 5) == [without_start]
    decoder.receive(data[:500], 6)
    late_ns = 7 + FRAME_NS_MAX
    without_end = Refusal(Refused.INCOMPLETE, "a frame without an end", late_ns)
    assert decoder.receive(b"", late_ns) == [without_end]


def test_a_frame_may_take_as_long_as_the_longest_one() -> None:
    decoder, data = LinkyDecoder(), frame(CONSUMER)
    decoder.receive(data[:500], 0)
    assert [type(one) for one in decoder.receive(data[500:], FRAME_NS_MAX)] == [Reading]


def test_after_a_change_of_speed_the_first_frame_is_joined_in_its_middle() -> None:
    decoder, data = LinkyDecoder(), frame(CONSUMER)
    decoder.receive(data[1:], 0)
    decoder.receive(b"", DETECT_NS)
    decoder.receive(b"", 2 * DETECT_NS)
    assert decoder.receive(data[1:], 2 * DETECT_NS + 1) == []


def summed(group: bytes) -> bytes:
    return group + bytes([linky.checksum(group)]) + b"\r"


_BREAKER = summed(b"PCOUP\t09\t")


@pytest.mark.parametrize(
    ("was", "new", "label"),
    [
        (_BREAKER, _BREAKER[:-1], ""),  # its end is lost
        (_BREAKER, _BREAKER + b"\r", ""),
        (_BREAKER, summed(b"PCOUP\t0\r9\t"), ""),
        (b"\x02\n", b"\x02?\n", ""),  # something before the first group
        (b"VTIC\t02\tJ\r", b"VTIC\t02\tJ\r\n\x20\x20\r", "  "),
    ],
)
def test_a_group_that_is_none_is_a_bad_form(was: bytes, new: bytes, label: str) -> None:
    data = stripped(frame(PRODUCER))
    assert was in data, data
    assert beside(data.replace(was, new)) == uncounted(label, Refused.FORM)


def test_a_group_of_nothing_but_a_sum_has_a_wrong_one() -> None:
    data = stripped(frame(PRODUCER))[:-1] + b"\n\tA\r\x03"
    assert beside(data) == uncounted("", Refused.CHECKSUM)


@pytest.mark.parametrize(
    "group",
    [("DATE", "H260101000000"), ("SMAXSN", "X260101000000", "00123"), ("PCOUP", "9")],
)
def test_a_group_without_its_time_stamp_or_length_does_not_count(group: tuple[str, ...]) -> None:
    data = changed(PRODUCER, saying(*group))
    assert beside(data) == uncounted(group[0], Refused.FORM)
    assert group[0] not in dict(read_beside(data).fields)


def read_beside(data: bytes) -> Reading:
    one = receive(data)[0]
    assert isinstance(one, Reading)
    return one


def test_an_end_of_wrong_parity_is_told_of() -> None:
    assert beside(frame(PRODUCER)[:-1] + b"\x83") == uncounted("", Refused.FORM)


def test_what_is_index_or_identity_is_no_field_too() -> None:
    assert not {"ADSC", "EAST", "EAIT"} & set(dict(read(frame(PRODUCER)).fields))


# --- Speed. --------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", Mode)
def test_a_line_that_says_nothing_whole_is_tried_at_the_other_speed(first: Mode) -> None:
    decoder = LinkyDecoder(first)
    assert decoder.due_ns == 0
    forms = []
    for second in range(18):
        forms.append(decoder.form)
        decoder.receive(b"\x82\x00\xf3\x03" if second % 3 else b"", second * NS_PER_S)
        assert decoder.speak(second * NS_PER_S) == b""
    [other] = set(Mode) - {first}
    assert forms == [FORMS[first]] * 9 + [FORMS[other]] * 8 + [FORMS[first]]
    assert {form.parity for form in forms} == {"none"}


def test_a_bad_line_keeps_its_speed() -> None:
    decoder, data = LinkyDecoder(), stripped(frame(CONSUMER)).replace(b"EAST", b"EASS")
    for second in range(60):
        decoder.receive(data, second * NS_PER_S)
        assert decoder.form == FORMS[Mode.STANDARD]
        assert decoder.due_ns == second * NS_PER_S + DETECT_NS


def test_a_meter_that_changes_its_mode_is_followed() -> None:
    decoder = LinkyDecoder()
    assert len(decoder.receive(frame(CONSUMER), 0)) == 1
    decoder.receive(frame(CONSUMER)[:200], DETECT_NS - NS_PER_MS)
    decoder.receive(b"", DETECT_NS)
    assert decoder.form == FORMS[Mode.HISTORIC]
    [one] = decoder.receive(frame(HOUSE), DETECT_NS + NS_PER_S)
    assert isinstance(one, Reading)


# --- Whatever comes. -----------------------------------------------------------------------------


def _chunks(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in pairwise(bounds)]


@given(st.lists(st.integers(0, 10_000), max_size=40), st.integers(0, 2**32))
def test_it_does_not_matter_how_the_bytes_are_cut(cuts: list[int], seed: int) -> None:
    random = Random(seed)
    data = b"".join(frame(random.choice(EACH)) for _ in range(4))
    hurt = bytearray(data)
    for _ in range(random.randrange(6)):
        hurt[random.randrange(len(hurt))] = random.choice(b"\x02\x82\x03\x04\r\n\tA\xff")
    decoder = LinkyDecoder()
    pieces = [one for piece in _chunks(bytes(hurt), cuts) for one in decoder.receive(piece, 0)]
    assert pieces == receive(bytes(hurt))


@given(
    st.lists(
        st.one_of(
            st.binary(max_size=300),
            st.lists(st.sampled_from([b"\x02", b"\x03", b"\x04", b"\n", b"\r", b"\t", b" ", b"\x82",
                                      b"EAST\t", b"STGE\t", b"DATE\tE", b"ADCO "]),
                     max_size=60).map(b"".join),
            st.just(b"9" * FRAME_MAX),
        ),
        max_size=8,
    ),
    st.integers(0, 3 * NS_PER_S),
)  # fmt: skip
def test_no_bytes_raise_and_few_are_kept(pieces: list[bytes], apart_ns: int) -> None:
    decoder = LinkyDecoder()
    for number, piece in enumerate(pieces):
        for one in decoder.receive(piece, number * apart_ns):
            assert isinstance(one, Refusal)
            assert len(one.detail) < 200
        assert len(decoder._frame or b"") <= FRAME_MAX


# --- A day on a bad line. ------------------------------------------------------------------------

BAUD = {Mode.STANDARD: 9_600, Mode.HISTORIC: 1_200}


def _consumer(wh: int, power_w: int, at_s: int) -> bytes:
    used = (wh // 3, wh - wh // 3)
    return frame(replace(CONSUMER, imported_wh=used, power_va=power_w, at_s=at_s))


def _producer(wh: int, power_w: int, at_s: int) -> bytes:
    return frame(replace(PRODUCER, exported_wh=wh, power_va=-power_w, at_s=at_s, phases=3))


def _house(wh: int, power_w: int, at_s: int) -> bytes:
    return frame(replace(HOUSE, imported_wh=(wh,), power_va=power_w))


def _tempo(wh: int, power_w: int, at_s: int) -> bytes:
    each = wh // 6
    return frame(replace(TEMPO, imported_wh=(wh - 5 * each, *[each] * 5), power_va=power_w))


@pytest.mark.parametrize("share", [0.2, 0.5])
@pytest.mark.parametrize(
    ("message", "register", "power_w"),
    [
        (_consumer, Register.IMPORT, 9_000),
        (_producer, Register.EXPORT, 36_000),
        (_house, Register.IMPORT, 9_000),
        (_tempo, Register.IMPORT, 12_000),
    ],
)
def test_a_bad_day_gives_no_wrong_index_and_loses_few_good_frames(
    message: Callable[[int, int, int], bytes], register: Register, power_w: int, share: float
) -> None:
    """At the rate the meter has; of a day, FRAMES frames."""
    is_historic = message in (_house, _tempo)
    mode = Mode.HISTORIC if is_historic else Mode.STANDARD
    bits = 10 * len(message(0, 0, CONSUMER.at_s))
    lived = live(
        LinkyDecoder(mode),
        Limits(CONSUMER.identity, register, power_w),
        lambda wh, power, passed_s: message(wh, power, CONSUMER.at_s + passed_s),
        messages=FRAMES,
        period_ns=bits * NS_PER_S // BAUD[mode] + 25 * NS_PER_MS,
        share=share,
        seed=FRAMES + int(share * 10),
    )
    assert lived.wrong == ()
    assert lived.believed >= 0.95 * lived.whole
    assert lived.whole < (1 - share + 0.1) * lived.messages
