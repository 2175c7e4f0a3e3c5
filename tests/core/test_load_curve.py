"""Load curves: sums are kept, gaps stay gaps, a clock change moves nothing, and what is doubtful is
refused with its line."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import curve_sheet
from cryptometer.curve_rows import LINE_MAX
from cryptometer.curve_template import GENERIC, Encoding, Stamp, Template, Unit
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.load_curve import LoadCurve, gaps, read_load_curve, spread

STEP_S = 900
PARIS = ZoneInfo("Europe/Paris")
LONG = Template(
    time="Horodate",
    value="Valeur",
    zone="Europe/Paris",
    stamp=Stamp.BEGIN,
    interval_minutes=30,
    unit=Unit.W,
)
HOURLY = replace(LONG, interval_minutes=60, unit=Unit.WH)


def read(text: str, template: Template = LONG, step_s: int = STEP_S, member: str = "") -> LoadCurve:
    whose = member or ("alice" if template.value and not template.member else "")
    zone = UTC if template.zone == "UTC" else ZoneInfo(template.zone)
    return read_load_curve([text.encode(template.encoding)], template, zone, step_s, whose)


def rows(*lines: str) -> str:
    return "\n".join(["Horodate;Valeur", *lines]) + "\n"


def refused(text: str, template: Template = LONG, step_s: int = STEP_S) -> str:
    with pytest.raises(Rejected) as caught:
        read(text, template, step_s)
    assert caught.value.reason is Reason.MALFORMED
    return caught.value.detail


def step(text: str) -> int:
    """The step that begins at a UTC time."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) // STEP_S


def of_alice(curve: LoadCurve) -> dict[int, int]:
    return dict(curve.members["alice"].energies_uwh)


# --- Energies. -----------------------------------------------------------------------------------


def test_half_an_hour_of_watts_is_two_quarters_of_exact_energy() -> None:
    curve = read(rows("2026-01-01T00:00;413"))
    begin = step("2025-12-31T23:00")
    assert of_alice(curve) == {begin: 103_250_000, begin + 1: 103_250_000}
    assert curve.is_spread


@pytest.mark.parametrize(
    ("unit", "text", "energy_uwh"),
    [
        (Unit.W, "1", 250_000),
        (Unit.W, "0.000002", 1),  # half a µWh and above is one
        (Unit.W, "0.000001", 0),
        (Unit.KW, "+1.5", 375_000_000),
        (Unit.WH, "12.345678", 12_345_678),
        (Unit.KWH, "0.30000000000000004", 300_000_000),
        (Unit.KWH, "0.29999999999999999", 300_000_000),
        (Unit.KWH, ".5", 500_000_000),
        (Unit.KWH, "7.", 7_000_000_000),
        (Unit.KWH, "-0.00", 0),
    ],
)
def test_a_value_is_read_to_the_micro_watt_hour(unit: Unit, text: str, energy_uwh: int) -> None:
    curve = read(rows(f"2026-01-01T00:00;{text}"), replace(LONG, unit=unit, interval_minutes=15))
    assert list(of_alice(curve).values()) == [energy_uwh]
    assert not curve.is_spread


@given(st.integers(0, 10**15), st.integers(1, 12))
def test_an_energy_that_is_spread_keeps_its_sum_in_parts_that_hardly_differ(
    energy_uwh: int, parts: int
) -> None:
    shares = spread(energy_uwh, parts)
    assert (len(shares), sum(shares)) == (parts, energy_uwh)
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@given(
    st.lists(st.integers(0, 10**12), min_size=1, max_size=40),
    st.sampled_from([15, 30, 60]),
    st.sampled_from([300, 900, 1800, 3600]),
)
def test_the_sum_of_a_file_is_the_sum_of_its_steps(
    values: list[int], minutes: int, step_s: int
) -> None:
    """In whole steps: of a step that is known in part nothing is."""
    template = replace(LONG, unit=Unit.WH, interval_minutes=minutes, zone="UTC")
    per_step = max(1, step_s // template.interval_s)
    values = values[: len(values) // per_step * per_step]
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    lines = [
        f"{begin + timedelta(minutes=minutes * place):%Y-%m-%d %H:%M};"
        f"{value // 10**6}.{value % 10**6:06}"
        for place, value in enumerate(values)
    ]
    if not lines:
        return
    curve = read(rows(*lines), template, step_s)
    assert sum(of_alice(curve).values()) == sum(values)
    assert not curve.members["alice"].gaps()
    assert curve.is_spread == (template.interval_s > step_s)


def test_a_step_of_which_an_interval_lacks_is_a_gap() -> None:
    template = replace(LONG, interval_minutes=15, zone="UTC", unit=Unit.WH)
    text = rows("2026-01-01T00:15;1", "2026-01-01T00:30;2", "2026-01-01T00:45;3")
    series = read(text, template, 1800).members["alice"]
    first = step("2026-01-01") // 2
    assert series.energies_uwh == {first + 1: 5_000_000}
    assert series.gaps() == [(first, first)]
    assert (series.of(first), series.of(first + 1)) == (None, 5_000_000)


def test_an_empty_value_and_a_missing_row_are_gaps_and_no_zero() -> None:
    text = rows(
        "2026-01-01T00:00;", "2026-01-01T00:30;0", "2026-01-01T02:00;5", "2026-01-01T03:00;"
    )
    series = read(text).members["alice"]
    begin = step("2025-12-31T23:00")
    assert series.of(begin + 2) == 0
    assert series.gaps() == [
        (begin, begin + 1),
        (begin + 4, begin + 7),
        (begin + 10, begin + 13),
    ]


@given(st.sets(st.integers(0, 30)), st.integers(0, 10), st.integers(0, 10))
def test_gaps_and_known_steps_are_all_there_is(steps: set[int], first: int, length: int) -> None:
    last = first + length
    missing = [step for one, other in gaps(steps, first, last) for step in range(one, other + 1)]
    assert sorted(missing + [one for one in steps if first <= one <= last]) == list(
        range(first, last + 1)
    )


# --- Times. --------------------------------------------------------------------------------------


def local_day(day: str, minutes: int, zone: ZoneInfo = PARIS) -> list[tuple[datetime, datetime]]:
    """The begins of a local day's intervals: in UTC, and as its clocks show them."""
    begin = datetime.fromisoformat(day).replace(tzinfo=zone)
    end = (begin + timedelta(days=1)).astimezone(UTC)
    moments = []
    at = begin.astimezone(UTC)
    while at < end:
        moments.append((at, at.astimezone(zone)))
        at += timedelta(minutes=minutes)
    return moments


@pytest.mark.parametrize("stamp", Stamp)
@pytest.mark.parametrize("minutes", [15, 30, 60])
@pytest.mark.parametrize("way", ["order", "reverse", "offset", "suffix"])
@pytest.mark.parametrize(
    ("day", "quarters"), [("2026-03-29", 92), ("2026-06-21", 96), ("2026-10-25", 100)]
)
def test_a_local_day_has_92_96_or_100_quarters(
    day: str, quarters: int, way: str, minutes: int, stamp: Stamp
) -> None:
    # Some hours around it: an order is seen in rows that come once.
    moments = local_day(day, minutes)
    late = timedelta(minutes=minutes if stamp is Stamp.END else 0)
    lines = []
    for place, (utc, _) in enumerate(moments):
        shown = (utc + late).astimezone(PARIS)
        text = shown.isoformat() if way == "offset" else shown.replace(tzinfo=None).isoformat()
        if way == "suffix" and shown.utcoffset() != shown.replace(fold=1 - shown.fold).utcoffset():
            text += "AB"[shown.fold]
        lines.append(f"{text};{place}")
    if way == "reverse":
        lines.reverse()
    template = replace(LONG, interval_minutes=minutes, stamp=stamp, unit=Unit.WH)
    if way == "suffix":
        template = replace(template, first_suffix="A", second_suffix="B")
    series = read(rows(*lines), template).members["alice"]
    parts = minutes // 15
    first = int(moments[0][0].timestamp()) // STEP_S
    assert (series.first, series.last, series.gaps()) == (first, first + quarters - 1, [])
    expected = [share for place in range(len(moments)) for share in spread(place * 10**6, parts)]
    assert [series.of(one) for one in range(first, first + quarters)] == expected


@pytest.mark.parametrize(
    "lines",
    [
        ["2026-10-25T01:30;1", "2026-10-25T02:00;2", "2026-10-25T02:30;3", "2026-10-25T03:00;4"],
        ["2026-10-25T01:30;1", "2026-10-25T02:30;2", "2026-10-25T03:00;3"],
        # Sorted by the text: the order tells nothing.
        [
            "2026-10-25T01:30;1",
            "2026-10-25T02:00;2",
            "2026-10-25T02:00;3",
            "2026-10-25T02:30;4",
            "2026-10-25T02:30;5",
            "2026-10-25T03:00;6",
        ],
        # In no order.
        [
            "2026-10-25T05:00;1",
            "2026-10-25T02:00;2",
            "2026-10-25T02:00;3",
            "2026-10-25T04:00;6",
            "2026-10-25T06:00;6",
        ],
        # Nothing beside them.
        ["2026-10-25T02:00;2", "2026-10-25T02:00;3"],
        ["2026-10-25T01:00;2", *["2026-10-25T02:00;3"] * 3],
    ],
)
def test_an_hour_that_comes_twice_and_cannot_be_told_apart_is_refused(lines: list[str]) -> None:
    said = refused(rows(*lines))
    assert "comes twice in Europe/Paris" in said
    assert "offset (+01:00)" in said
    assert said.startswith("line ")


def test_one_of_the_two_hours_may_have_gaps_where_order_tells_the_rest() -> None:
    text = rows("2026-10-25T01:30;0", "2026-10-25T02:30;1", "2026-10-25T02:00;2")
    begin = step("2026-10-24T23:30")
    curve = read(text, replace(LONG, unit=Unit.WH))
    energies = {one: energy for one, energy in of_alice(curve).items() if energy}
    assert energies == {
        begin + 4: 500_000,  # 02:30, the first: 00:30 UTC
        begin + 5: 500_000,
        begin + 6: 1_000_000,  # 02:00, the second
        begin + 7: 1_000_000,
    }


def test_each_member_has_an_order_of_its_own() -> None:
    template = replace(HOURLY, member="PRM", members={"1": "alice", "2": "bob"})
    head = "Horodate;PRM;Valeur\n"
    night = ["01:00", "02:00", "02:00", "03:00"]
    alice = [f"2026-10-25T{hour};1;{place}" for place, hour in enumerate(night)]
    bob = [f"2026-10-25T{hour};2;{place}" for place, hour in enumerate(night)]
    one = read(head + "\n".join([*alice, *reversed(bob)]), template)
    other = read(
        head + "\n".join(row for pair in zip(bob, alice, strict=True) for row in pair), template
    )
    assert one.members["alice"] == one.members["bob"]
    assert one == other


def test_a_time_that_does_not_exist_is_refused_unless_its_row_is_empty() -> None:
    said = refused(rows("2026-03-29T01:30;1", "2026-03-29T02:00;2"))
    assert said.startswith("line 3 of the load curve: 2026-03-29 02:00 does not exist")
    curve = read(rows("2026-03-29T01:30;1", "2026-03-29T02:00;", "2026-03-29T03:00;2"))
    assert not curve.members["alice"].gaps()


@given(st.permutations(range(12)), st.integers(1, 12))
def test_the_order_of_rows_says_nothing_where_no_hour_comes_twice(
    order: list[int], count: int
) -> None:
    lines = [f"2026-06-01T{place:02}:00;{place * 7}" for place in range(12)]
    shuffled = read(rows(*(lines[place] for place in order[:count])), HOURLY)
    assert shuffled == read(rows(*(lines[place] for place in sorted(order[:count]))), HOURLY)


@pytest.mark.parametrize(
    ("form", "text"),
    [("", "2026-06-01 12:00"), ("%d/%m/%Y %H:%M", "01/06/2026 12:00"), ("", "20260601T120000")],
)
def test_times_are_written_in_many_ways(form: str, text: str) -> None:
    assert read(rows(f"{text};1"), replace(LONG, time_format=form)).members["alice"].first == step(
        "2026-06-01T10:00"
    )


def test_date_and_time_may_stand_in_columns_of_their_own() -> None:
    template = replace(LONG, time="Van (datum)", time_of_day="Van (tijdstip)", value="Volume")
    template = replace(template, time_format="%d-%m-%Y %H:%M:%S", decimal_comma=True)
    text = "Van (datum);Van (tijdstip);Volume\n01-06-2026;12:00:00;0,5\n"
    assert of_alice(read(text, template)) == {
        step("2026-06-01T10:00"): 125_000,
        step("2026-06-01T10:15"): 125_000,
    }


def test_an_end_names_the_interval_before_it() -> None:
    begun, ended = (
        read(rows("2026-06-01T12:00;3")),
        read(rows("2026-06-01T12:30;3"), replace(LONG, stamp=Stamp.END)),
    )
    assert begun == ended


# --- Forms of files. -----------------------------------------------------------------------------


def test_bytes_may_come_in_any_pieces() -> None:
    text = rows("2026-06-01T12:00;3", "2026-06-01T12:30;4").encode()
    whole = read_load_curve([text], LONG, PARIS, STEP_S, "alice")
    for size in range(1, len(text)):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        assert read_load_curve(pieces, LONG, PARIS, STEP_S, "alice") == whole


def test_marks_line_ends_quotes_blanks_and_a_preamble_change_nothing() -> None:
    plain = read(rows("2026-06-01T12:00;3", "2026-06-01T12:30;4"))
    for text in (
        "\ufeff" + rows("2026-06-01T12:00;3", "2026-06-01T12:30;4"),
        rows("2026-06-01T12:00;3", "2026-06-01T12:30;4").replace("\n", "\r\n"),
        rows('"2026-06-01T12:00"; "3"'.replace(" ", ""), "", ";;", "2026-06-01T12:30 ; 4;"),
        "PRM;Debut;Fin\n12345;01/06/2026;02/06/2026\n\n"
        + rows("2026-06-01T12:00;3", "2026-06-01T12:30;4"),
        rows("2026-06-01T12:00;3", "2026-06-01T12:30;4").rstrip(),
    ):
        assert read(text) == plain


def test_a_file_may_be_of_another_encoding() -> None:
    template = replace(LONG, value="Énergie", encoding=Encoding.CP1252)
    assert of_alice(read("Horodate;Énergie\n2026-06-01T12:00;3\n", template))
    with pytest.raises(Rejected, match=r"line 1 .*is no utf-8 text: set `encoding`"):
        read_load_curve(
            ["Horodate;Énergie\n".encode("cp1252")],
            replace(template, encoding=Encoding.UTF_8),
            PARIS,
            STEP_S,
            "alice",
        )


def test_a_wide_file_has_a_column_for_each_member() -> None:
    text = "time,alice,bob,\n2026-06-01T12:00Z,0.1,,\n2026-06-01T12:15Z,0.2,0.3,\n"
    curve = read(text, GENERIC)
    at = step("2026-06-01T12:00")
    assert curve.members["alice"].energies_uwh == {at: 100_000_000, at + 1: 200_000_000}
    assert curve.members["bob"].energies_uwh == {at + 1: 300_000_000}
    assert curve.members["bob"].gaps() == [(at, at)]


def test_columns_and_cells_that_are_no_members_are_left_out_and_named() -> None:
    wide = replace(GENERIC, members={"c_1": "alice"})
    curve = read("time,c_1,pv\n2026-06-01T12:00Z,1,-5\n", wide)
    assert (list(curve.members), curve.left_out) == (["alice"], ("pv",))
    long = replace(LONG, member="PRM", members={"300": "alice"}, only={"Sens": "Soutirage"})
    text = (
        "Horodate;PRM;Sens;Valeur\n2026-06-01T12:00;300;Soutirage;1\n"
        "2026-06-01T12:00;300;Injection;-9\n2026-06-01T12:00;301;Soutirage;1\n"
    )
    curve = read(text, long)
    assert (list(curve.members), curve.left_out, curve.rows_left_out) == (["alice"], ("301",), 1)


def test_a_wide_file_may_hold_rows_that_are_not_wanted() -> None:
    template = replace(GENERIC, only={"kind": "taken"})
    text = (
        "time,kind,alice\n2026-06-01T12:00Z,taken,1\n2026-06-01T12:00Z,given,9\n"
        "2026-06-01T12:15Z,given,9\n2026-06-01T12:15Z,taken,2\n"
    )
    curve = read(text, template)
    assert list(curve.members["alice"].energies_uwh.values()) == [10**9, 2 * 10**9]
    assert curve.rows_left_out == 2


@pytest.mark.parametrize("row", ["2026-06-01T12:15Z", "noon,1", "2026-06-01T12:15Z,-1"])
def test_a_wrong_row_of_a_wide_file_is_named_by_its_line(row: str) -> None:
    detail = refused(f"time,alice\n2026-06-01T12:00Z,1\n{row}\n", GENERIC)
    assert detail.startswith("line 3 of the load curve: ")


def test_the_name_of_a_column_that_is_left_out_is_cut() -> None:
    template = replace(GENERIC, members={"c": "alice"})
    curve = read(f"time,c,{'x' * 70}\n2026-06-01T12:00Z,1,2\n", template)
    assert curve.left_out == ("x" * 63,)


def test_the_same_interval_again_counts_once_and_another_value_is_refused() -> None:
    line = "2026-06-01T12:00;3"
    assert read(rows(line, line)) == read(rows(line))
    assert read(rows(line, "2026-06-01T12:00;")) == read(rows(line))
    said = refused(rows(line, "2026-06-01T12:00;4"))
    assert said.startswith("line 3 of the load curve: 2026-06-01 10:00Z is given again for alice")


# --- Refusals. -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2026-06-01T12:00;-3", "-3 is negative, and consumption is not"),
        ("2026-06-01T12:00;−0.5", "is negative"),
        ("2026-06-01T12:00;1,5", "'1,5' is no value: write digits with a decimal point"),
        ("2026-06-01T12:00;1 000", "is no value"),
        ("2026-06-01T12:00;1e3", "is no value"),
        ("2026-06-01T12:00;nan", "is no value"),
        ("2026-06-01T12:00;.", "is no value"),
        ("2026-06-01T12:00;+", "is no value"),
        ("2026-06-01T12:00;٣", "is no value"),
        ("2026-06-01T12:00;" + "9" * 15, "is too much: is `unit` right?"),
        ("2026-06-01T12:00;" + "9" * 5000, "is no value"),
        ("2026-06-01T12:10;1", "no interval of 30 minutes begins or ends at"),
        ("2026-06-01T12:00:01;1", "no interval of 30 minutes"),
        ("noon;1", "'noon' is no time; write it as"),
        ("0026-06-01T12:00;1", "is of no likely year"),
        ("9999-12-31T23:30-23:00;1", "is of no likely year"),
        ("2026-06-01T12:00+00:07;1", "does not begin with a market step"),
        ("2026-06-01T12:00", "it has 1 cells, not 2"),
        ("2026-06-01T12:00;1;2", "it has 3 cells, not 2"),
        ('2026-06-01T12:00;"1', "it is no CSV"),
        ("x" * (LINE_MAX + 1), "is longer than"),
    ],
)
def test_a_row_that_is_wrong_refuses_the_file_with_its_line(line: str, said: str) -> None:
    detail = refused(rows("2026-06-01T11:00;1", line))
    assert detail.startswith("line 3 of the load curve: ")
    assert said in detail
    assert len(detail) < 300


def test_a_line_of_the_greatest_length_is_read() -> None:
    row = "2026-06-01T12:00;3"
    assert read(rows(row.ljust(LINE_MAX))) == read(rows(row))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([], "it begins with nothing. Set"),
        (["a" * 50, "b"], f"it begins with '{'a' * 40}', 'b'. Set"),
        ([f"c{one}" for one in range(10)], "'c8', 'c9'. Set"),
        ([f"c{one}" for one in range(12)], "'c8', 'c9' and 2 more. Set"),
    ],
)
def test_the_first_columns_of_a_file_that_fits_no_template_are_named(
    names: list[str], said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(";".join(names) + "\n")
    assert said in str(caught.value)


def test_a_file_without_rows_is_refused() -> None:
    assert "no row that counts" in refused(rows())


@pytest.mark.parametrize(
    ("text", "template", "said"),
    [
        ("", LONG, "has no column 'Horodate'"),
        ("a;b\n1;2\n", LONG, "it begins with 'a', 'b'"),
        ("Horodate;valeur\n", LONG, "no column 'Valeur'; did you mean 'valeur'?"),
        ("Horodate;Valeur;Valeur\n", LONG, "more than one column 'Valeur'"),
        ("x\n" * 500 + "Horodate;Valeur\n", LONG, "has no column"),
        ("time,Alice B\n", GENERIC, "'Alice B' is no member's name: say in [members]"),
        ("time,a,a\n", GENERIC, "a column for each member"),
        ("time\n", GENERIC, "a column for each member"),
        ("time,a\n", replace(GENERIC, members={"b": "alice"}), "no column 'b'"),
    ],
)
def test_a_template_that_does_not_fit_the_file_is_said(
    text: str, template: Template, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(text, template)
    assert said in str(caught.value)


def test_whose_curve_it_is_is_said_once() -> None:
    with pytest.raises(ConfigurationError, match="say whose it is with --member NAME"):
        read_load_curve([], LONG, PARIS, STEP_S)
    for template in (GENERIC, replace(LONG, member="PRM")):
        with pytest.raises(ConfigurationError, match="leave --member out"):
            read_load_curve([], template, UTC, STEP_S, "alice")
    with pytest.raises(ConfigurationError, match="--member: 'Alice' is no member's name"):
        read_load_curve([], LONG, PARIS, STEP_S, "Alice")


def test_intervals_that_do_not_fit_the_step_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="intervals of 15 minutes do not fit steps of 420"):
        read(rows(), replace(LONG, interval_minutes=15), 420)


def test_hours_that_begin_within_a_step_are_refused() -> None:
    """Where local time is half an hour off, no hour of it is a market step of an hour."""
    template = replace(HOURLY, zone="Asia/Kolkata")
    assert "does not begin with a market step" in refused(
        rows("2026-06-01T12:00;1"), template, 3600
    )


def test_intervals_that_overlap_are_refused() -> None:
    text = rows("2026-06-01T12:00+02:00;1", "2026-06-01T12:00+01:30;2")
    assert "intervals of alice overlap at 2026-06-01 10:30Z" in refused(text, HOURLY)


# --- Bounds. -------------------------------------------------------------------------------------


def test_a_line_without_end_costs_no_memory() -> None:
    def endless() -> Iterator[bytes]:
        yield b"Horodate;Valeur\n"
        while True:
            yield b"1" * 1000

    tracemalloc.start()
    try:
        with pytest.raises(Rejected, match="line 2 of the load curve: it is longer than"):
            read_load_curve(endless(), LONG, PARIS, STEP_S, "alice")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2**20


def test_values_without_end_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_sheet, "VALUES_MAX", 10)

    def endless() -> Iterator[bytes]:
        yield b"Horodate;Valeur\n"
        at = datetime(2026, 1, 1, tzinfo=UTC)
        while True:
            yield f"{at:%Y-%m-%dT%H:%M}+00:00;1\n".encode()
            at += timedelta(minutes=30)

    with pytest.raises(Rejected, match=r"line 12 .* more than 10 values: divide the file"):
        read_load_curve(endless(), LONG, PARIS, STEP_S, "alice")


def test_members_and_rows_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve_sheet, "MEMBERS_MAX", 3)
    template = replace(LONG, member="PRM")
    text = "Horodate;PRM;Valeur\n" + "".join(f"2026-06-01T12:00;m{one};1\n" for one in range(5))
    assert "more than 3 members" in refused(text, template)
    monkeypatch.setattr(curve_sheet, "_TWICE_MAX", 3)
    assert "too many values in hours that come twice" in refused(rows(*["2026-10-25T02:00;1"] * 10))


@pytest.mark.parametrize("way", ["order", "reverse"])
@pytest.mark.parametrize(
    ("zone", "day"),
    [
        ("Africa/Casablanca", "2026-02-15"),  # summer time is the usual one
        ("Atlantic/Azores", "2026-10-25"),  # back to the hour before, at 01:00
        ("Australia/Lord_Howe", "2026-04-05"),  # by half an hour
        ("America/Santiago", "2026-04-04"),  # at midnight
        ("America/Havana", "2026-11-01"),  # to midnight
        ("Asia/Kolkata", "2026-10-25"),  # never
        ("Antarctica/Troll", "2026-10-25"),  # by two hours
    ],
)
def test_clocks_are_put_back_elsewhere_too(zone: str, day: str, way: str) -> None:
    local = ZoneInfo(zone)
    at = datetime.fromisoformat(day).replace(tzinfo=UTC) - timedelta(days=1)
    moments = [at + timedelta(minutes=15 * place) for place in range(3 * 96)]
    lines = [
        f"{moment.astimezone(local):%Y-%m-%d %H:%M};{place}" for place, moment in enumerate(moments)
    ]
    if way == "reverse":
        lines.reverse()
    template = replace(LONG, zone=zone, interval_minutes=15, unit=Unit.WH)
    energies = of_alice(read(rows(*lines), template))
    first = int(at.timestamp()) // STEP_S
    assert energies == {first + place: place * 10**6 for place in range(3 * 96)}


def test_a_year_of_local_hours_has_no_gap_and_keeps_its_sum() -> None:
    at, end = datetime(2025, 12, 31, 23, tzinfo=UTC), datetime(2026, 12, 31, 23, tzinfo=UTC)
    lines, total = [], 0
    while at < end:
        watts = at.day + at.hour * 10
        total += watts * 10**6
        lines.append(f"{at.astimezone(PARIS):%d/%m/%Y %H:%M};{watts}")
        at += timedelta(hours=1)
    template = replace(LONG, interval_minutes=60, time_format="%d/%m/%Y %H:%M")
    energies = of_alice(read(rows(*lines), template))
    assert len(energies) == 365 * 96
    assert all(other == one + 1 for one, other in pairwise(sorted(energies)))
    assert sum(energies.values()) == total
