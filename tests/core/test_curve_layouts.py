"""What grid operators give is read back exactly: a curve written in the layout of each example,
through both changes of clocks; and what such files may hold beside it is refused in words."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cryptometer.curve_template import LongerDay, Stamp, Template, Twice, Unit, read_template
from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.load_curve import LoadCurve, read_load_curve

STEP_S = 900
EXAMPLES = Path(__file__).parents[2] / "deploy" / "examples"
WHOSE = {"541448800000000001": "alice", "541448800000000002": "bob"}
Curve = Mapping[int, int | None]  # thousandths of the unit, by the interval's begin, s UTC


def template_of(name: str) -> Template:
    path = EXAMPLES / f"curve-{name}.toml"
    return read_template(tomllib.loads(path.read_text()), path.name)


def read(text: str, template: Template, member: str = "alice") -> LoadCurve:
    whose = "" if template.names_members else member
    return read_load_curve([text.encode()], template, ZoneInfo(template.zone), STEP_S, whose)


def refused(text: str, template: Template) -> str:
    with pytest.raises(Rejected) as caught:
        read(text, template)
    return caught.value.detail


# --- Files, written the other way round: from UTC to what the operator's clocks show. ------------


def comma(value: int | None) -> str:
    return "" if value is None else f"{value // 1000},{value % 1000:03}"


def point(value: int | None) -> str:
    return comma(value).replace(",", ".")


def local(template: Template, at_s: int) -> datetime:
    return datetime.fromtimestamp(at_s, UTC).astimezone(ZoneInfo(template.zone))


def enedis(curves: Mapping[str, Curve], template: Template) -> str:
    lines = ["\ufeffIdentifiant PRM;Type de donnees;Pas en minutes", "1;Courbe de charge;", ""]
    lines.append("Horodate;Valeur")
    for at_s, value in curves["alice"].items():
        lines.append(f"{local(template, at_s + template.interval_s).isoformat()};{point(value)}")
    return "\r\n".join(lines) + "\r\n"


def enedis_sge(curves: Mapping[str, Curve], template: Template) -> str:
    lines = ["Identifiant PRM;Grandeur physique;Grandeur métier;Unité;Horodate;Valeur;Nature;Pas"]
    for number, name in WHOSE.items():
        for at_s, value in curves[name].items():
            end = local(template, at_s + template.interval_s)
            for kind, text in (("CONS", point(value)), ("PROD", "7")):
                lines.append(f"{number};PA;{kind};W;{end:%Y-%m-%d %H:%M:%S};{text};B;PT30M")
    return "\n".join(lines)


def fluvius(curves: Mapping[str, Curve], template: Template) -> str:
    lines = [
        "Van (datum);Van (tijdstip);Tot (datum);Tot (tijdstip);EAN-code;Meter;Register;Volume;"
        "Eenheid;Validatiestatus;Omschrijving"
    ]
    for number, name in WHOSE.items():
        # Pairs: by what clocks show, and then by time.
        by_clock = sorted(
            curves[name].items(), key=lambda item: (f"{local(template, item[0]):%F %T}", item[0])
        )
        for at_s, value in by_clock:
            begin, end = local(template, at_s), local(template, at_s + template.interval_s)
            when = f"{begin:%d-%m-%Y;%H:%M:%S};{end:%d-%m-%Y;%H:%M:%S}"
            tariff = "Dag" if begin.weekday() < 5 and 7 <= begin.hour < 22 else "Nacht"
            for kind, text in (("Afname", comma(value)), ("Injectie", "0,500")):
                status = "Uitgelezen" if text else "Geen verbruik"
                lines.append(f'{when};="{number}";1SAG;{kind} {tariff};{text};kWh;{status};')
    return "\n".join(lines)


def numbered(template: Template, curve: Curve) -> Iterator[tuple[datetime, int, int | None]]:
    """The local day of each interval, and how many have passed since it began, counted from 1."""
    days: dict[str, int] = {}
    for at_s, value in curve.items():
        begin = local(template, at_s)
        days[f"{begin:%F}"] = number = days.get(f"{begin:%F}", 0) + 1
        yield begin, number, value


def datadis(curves: Mapping[str, Curve], template: Template) -> str:
    lines = ["cups,date,time,consumptionKWh,obtainMethod,surplusEnergyKWh"]
    for number, name in WHOSE.items():
        for begin, hour, value in numbered(template, curves[name]):
            lines.append(f"{number},{begin:%Y/%m/%d},{hour:02}:00,{point(value)},Real,9")
    return "\n".join(lines)


def e_distribucion(curves: Mapping[str, Curve], template: Template) -> str:
    lines = ["CUPS;Fecha;Hora;AE_kWh;AS_KWh;AE_AUTOCONS_kWh;REAL/ESTIMADO"]
    for number, name in WHOSE.items():
        for begin, hour, value in numbered(template, curves[name]):
            lines.append(f"{number};{begin:%d/%m/%Y};{hour};{comma(value)};9;;R")
    return "\n".join(lines)


def e_redes(curves: Mapping[str, Curve], template: Template) -> str:
    lines = ["Dados Globais;", ";", "CPE;PT0002", "Intervalo:;15 min"]
    lines.append("Data;Hora;Consumo registado (kW);Estado")
    for at_s, value in curves["alice"].items():
        end = local(template, at_s + template.interval_s)
        when = f"{end:%Y/%m/%d;%H:%M}"
        if (end.hour, end.minute) == (0, 0):
            when = f"{end - timedelta(days=1):%Y/%m/%d};24:00"
        lines.append(f"{when};{comma(value)};Real")
    return "\n".join(lines)


def netz_noe(curves: Mapping[str, Curve], template: Template) -> str:
    lines = ["\ufeffMesszeitpunkt;Verbrauch (kWh);Qualität;"]
    for at_s, value in curves["alice"].items():
        end = local(template, at_s + template.interval_s)
        lines.append(f"{end:%d.%m.%Y %H:%M};{comma(value)}000;L1;")
    return "\n".join(lines).replace(";000;", ";;")


def wiener_netze(curves: Mapping[str, Curve], template: Template) -> str:
    lines = ["Datum;Zeit von;Zeit bis;AT0010000000000000001 - Verbrauch [kWh]"]
    for at_s, value in curves["alice"].items():
        begin, end = local(template, at_s), local(template, at_s + template.interval_s)
        lines.append(f"{begin:%d.%m.%Y;%H:%M:%S};{end:%H:%M:%S};{comma(value)}")
    return "\n".join(lines)


def e_distribuzione(curves: Mapping[str, Curve], template: Template) -> str:
    """With the columns of the hour that comes twice; empty but on the day that has it."""
    quarters = [timedelta(minutes=15 * place) for place in range(96)]
    first = [quarter for quarter in quarters if quarter < timedelta(hours=3)]
    twice = [quarter for quarter in first if quarter >= timedelta(hours=2)]
    columns = [(one, 0) for one in first] + [(one, 1) for one in twice]
    columns += [(one, 0) for one in quarters[12:]]
    midnight = datetime(2026, 1, 1)  # noqa: DTZ001 - the clock's face
    headings = [
        f"{midnight + one:%H:%M}-{midnight + one + timedelta(minutes=15):%H:%M}"
        for one, _ in columns
    ]
    rows: dict[str, dict[tuple[str, int], int | None]] = {}
    for at_s, value in curves["alice"].items():
        begin = local(template, at_s)
        fold = begin.fold
        rows.setdefault(f"{begin:%d/%m/%Y}", {})[f"{begin:%H:%M}", fold] = value
    lines = ["POD;IT001E12345678", f"Giorno;{';'.join(headings)}"]
    for day, values in rows.items():
        cells = [
            comma(values.get((heading[:5], fold)))
            for heading, (_, fold) in zip(headings, columns, strict=True)
        ]
        lines.append(f"{day};{';'.join(cells)}")
    return "\n".join(lines)


LAYOUTS: dict[str, Callable[[Mapping[str, Curve], Template], str]] = {
    "enedis": enedis,
    "enedis-sge": enedis_sge,
    "fluvius": fluvius,
    "datadis": datadis,
    "e-distribucion": e_distribucion,
    "e-redes": e_redes,
    "netz-noe": netz_noe,
    "wiener-netze": wiener_netze,
    "e-distribuzione": e_distribuzione,
}
DAYS = {"spring": "2026-03-28", "summer": "2026-06-20", "autumn": "2026-10-24"}


def curve_of(template: Template, day: str, values: list[int | None]) -> dict[int, int | None]:
    """Three local days, the second of which is that of the change; the values come again and
    again, each time one further."""
    zone = ZoneInfo(template.zone)
    begin = datetime.fromisoformat(day).replace(tzinfo=zone)
    begins_s = range(
        int(begin.timestamp()),
        int((begin + timedelta(days=3)).timestamp()),
        template.interval_s,
    )
    return {
        at_s: values[(place + place // len(values)) % len(values)]
        for place, at_s in enumerate(begins_s)
    }


def expected(template: Template, curve: Curve) -> dict[int, int]:
    """By step, µWh: each interval in even parts."""
    factor = {Unit.W: 10**3, Unit.KW: 10**6, Unit.WH: 10**3, Unit.KWH: 10**6}[template.unit]
    if template.unit in {Unit.W, Unit.KW}:
        factor = factor * template.interval_s // 3600
    parts = template.interval_s // STEP_S
    steps = {}
    for at_s, value in curve.items():
        if value is not None:
            share, rest = divmod(value * factor, parts)
            for place in range(parts):
                steps[at_s // STEP_S + place] = share + (place < rest)
    return steps


def told(name: str) -> Template:
    """An example, with what its file leaves to whoever uses it."""
    template = template_of(name)
    if template.member:
        template = replace(template, members=WHOSE)
    if template.position:
        template = replace(template, longer_day=LongerDay.PASSED)
    return template


@pytest.mark.parametrize("season", DAYS)
@pytest.mark.parametrize("name", LAYOUTS)
@settings(max_examples=15, deadline=None)
@given(
    values=st.lists(
        st.one_of(st.none(), st.integers(0, 3_000), st.integers(0, 10**8)),
        min_size=1,
        max_size=60,
    ),
    others=st.lists(st.integers(0, 3_000), min_size=1, max_size=60),
)
@example(values=[None], others=[0])
@example(values=list(range(1, 61)), others=list(range(60, 0, -1)))
def test_a_curve_is_read_back_as_it_was_written(
    name: str, season: str, values: list[int | None], others: list[int]
) -> None:
    template = told(name)
    curves = {
        "alice": curve_of(template, DAYS[season], values),
        "bob": curve_of(template, DAYS[season], [*others]),
    }
    found = read(LAYOUTS[name](curves, template), template)
    assert set(found.members) == (set(curves) if template.member else {"alice"})
    hours = {"spring": 71, "summer": 72, "autumn": 73}[season]
    for member, series in found.members.items():
        assert series.energies_uwh == expected(template, curves[member])
        begins_s = list(curves[member])
        assert series.first == begins_s[0] // STEP_S
        if name != "e-distribuzione" or values[-1] is not None:
            assert series.last + 1 - series.first == hours * 4


def test_each_layout_has_an_example_and_each_example_is_written_here() -> None:
    found = {path.stem.removeprefix("curve-") for path in EXAMPLES.glob("curve-*.toml")}
    assert found == set(LAYOUTS)
    for name in found:
        text = (EXAMPLES / f"curve-{name}.toml").read_text()
        assert "Checked against" in text
        assert re.search(r"not\s+verified with|Ask the distributor", text.replace("\n#", " "))


# --- The hours of a night in October. ------------------------------------------------------------

NIGHT = (
    ("01:45:00", "02:00:00"),
    ("02:00:00", "02:15:00"),
    ("02:00:00", "02:15:00"),
    ("02:15:00", "02:30:00"),
    ("02:15:00", "02:30:00"),
    ("02:30:00", "02:45:00"),
    ("02:30:00", "02:45:00"),
    ("02:45:00", "02:00:00"),
    ("02:45:00", "03:00:00"),
    ("03:00:00", "03:15:00"),
)


def night(rows: tuple[tuple[str, str], ...] = NIGHT, template: Template | None = None) -> str:
    lines = [
        "Van (datum);Van (tijdstip);Tot (datum);Tot (tijdstip);EAN-code;Register;Volume;Eenheid"
    ]
    day = "26-10-2025"
    lines += [
        f"{day};{begin};{day};{end};541448800000000001;Afname Nacht;0,{place};kWh"
        for place, (begin, end) in enumerate(rows)
    ]
    return "\n".join(lines)


def test_pairs_of_the_hour_that_comes_twice_are_in_order_of_time() -> None:
    energies = read(night(), told("fluvius")).members["alice"].energies_uwh
    tenths = [energy // 10**8 for _, energy in sorted(energies.items())]
    assert tenths == [0, 1, 3, 5, 7, 2, 4, 6, 8, 9]


def test_pairs_in_a_file_that_begins_with_the_newest_are_the_other_way_round() -> None:
    energies = read(night(NIGHT[::-1]), told("fluvius")).members["alice"].energies_uwh
    tenths = [energy // 10**8 for _, energy in sorted(energies.items())]
    assert tenths == [9, 8, 6, 4, 2, 7, 5, 3, 1, 0]


@pytest.mark.parametrize(
    "rows",
    [
        NIGHT[:1] + NIGHT[2:],  # one of a pair lacks
        (NIGHT[0], *NIGHT[1:9:2], *NIGHT[2:9:2], NIGHT[9]),  # first one hour and then the other
        NIGHT[1:9],  # nothing beside them
        (NIGHT[0], NIGHT[1], *NIGHT[1:]),  # three times
        (NIGHT[0], NIGHT[1], NIGHT[1], *NIGHT[1:]),  # two pairs of one time
    ],
)
def test_what_is_no_pairs_is_refused(rows: tuple[tuple[str, str], ...]) -> None:
    template = replace(told("fluvius"), until="", until_time_of_day="")
    assert "comes twice in Europe/Brussels" in refused(night(rows), template)


def test_pairs_are_nothing_that_is_guessed() -> None:
    template = replace(told("fluvius"), twice=Twice.ORDER)
    assert "comes twice in Europe/Brussels" in refused(night(), template)


def test_the_end_of_an_interval_shows_pairs_that_stand_the_other_way_round() -> None:
    rows = (*NIGHT[:7], NIGHT[8], NIGHT[7], NIGHT[9])
    said = refused(night(rows), told("fluvius"))
    assert said.startswith(
        "line 9 of the load curve: an interval of 15 minutes from 2025-10-26 00:45"
    )
    assert "ends at 2025-10-26 02:00 in Europe/Brussels, and the file says 2025-10-26 03:00" in said


def test_the_end_of_an_interval_shows_another_length_than_the_templates() -> None:
    text = night((("12:00:00", "13:00:00"),))
    assert "are `interval_minutes` and `twice` right?" in refused(text, told("fluvius"))


@pytest.mark.parametrize(
    ("begin", "end", "another"),
    [
        ("2026-10-25T02:45:00+02:00", "2026-10-25T02:00:00+01:00", "2026-10-25T03:00:00+01:00"),
        ("2026-10-25T00:45:00Z", "2026-10-25T01:00:00Z", "2026-10-25T02:00:00Z"),
        ("2026-10-25T02:45A", "2026-10-25T02:00B", "2026-10-25T03:00"),
        ("2026-10-25T02:45B", "2026-10-25T03:00", "2026-10-25T02:00B"),
        ("2026-03-29T01:45", "2026-03-29T03:00", "2026-03-29T02:00"),
    ],
)
def test_ends_may_have_offsets_and_suffixes_as_begins_have(
    begin: str, end: str, another: str
) -> None:
    template = replace(told("enedis"), until="Fin", first_suffix="A", second_suffix="B")
    template = replace(template, stamp=Stamp.BEGIN, interval_minutes=15)
    assert read(f"Horodate;Fin;Valeur\n{begin};{end};4\n", template).members
    said = refused(f"Horodate;Fin;Valeur\n{begin};{another};4\n", template)
    assert "and the file says" in said


# --- Numbered hours. -----------------------------------------------------------------------------


def hours(day: str, numbers: list[int] | range) -> str:
    lines = [f"541448800000000001;{day};{number};{number},0;R" for number in numbers]
    return "\n".join(["CUPS;Fecha;Hora;AE_kWh;REAL/ESTIMADO", *lines])


def kwh_of(text: str, template: Template) -> list[int]:
    """The kilowatt-hours of each hour, in order of time."""
    series = read(text, template).members["alice"]
    energies = [series.energies_uwh[step] for step in range(series.first, series.last + 1)]
    return [sum(energies[at : at + 4]) // 10**9 for at in range(0, len(energies), 4)]


def test_a_day_of_25_hours_is_refused_until_it_is_said_how_they_are_numbered() -> None:
    template = replace(told("e-distribucion"), longer_day=LongerDay.REFUSED)
    said = refused(hours("26/10/2025", range(1, 26)), template)
    assert "2025-10-26 has an hour twice in Europe/Madrid, and files number it in two ways" in said


def test_25_hours_are_numbered_as_they_pass_or_the_second_one_last() -> None:
    text = hours("26/10/2025", range(1, 26))
    template = told("e-distribucion")
    assert kwh_of(text, template) == list(range(1, 26))
    last = replace(template, longer_day=LongerDay.LAST)
    # The second one from 02:00 to 03:00 follows the first, which is the third of the day.
    assert kwh_of(text, last) == [1, 2, 3, 25, *range(4, 25)]


@pytest.mark.parametrize("longer_day", [LongerDay.PASSED, LongerDay.LAST])
@pytest.mark.parametrize(
    ("day", "numbers", "said"),
    [
        ("26/10/2025", range(1, 25), "has 25 intervals in Europe/Madrid, and the file has 24"),
        ("26/10/2025", range(1, 27), "from 1 to 25, and no 26"),
        ("30/03/2025", [1, 2, *range(4, 25)], "from 1 to 23, and no 24"),
        ("30/03/2025", range(1, 25), "from 1 to 23, and no 24"),
        ("30/03/2025", range(2, 24), "has 23 intervals in Europe/Madrid, and the file has 22"),
        ("29/03/2025", range(1, 26), "from 1 to 24, and no 25"),
        ("29/03/2025", range(24), "from 1 to 24, and no 0"),
    ],
)
def test_numbers_that_do_not_count_the_hours_that_pass_are_refused(
    longer_day: LongerDay, day: str, numbers: list[int] | range, said: str
) -> None:
    template = replace(told("e-distribucion"), longer_day=longer_day)
    assert said in refused(hours(day, numbers), template)


def test_numbers_begin_with_0_where_they_name_begins() -> None:
    template = replace(told("e-distribucion"), stamp=Stamp.BEGIN)
    assert kwh_of(hours("29/03/2025", range(24)), template) == list(range(24))
    assert "from 0 to 23, and no 24" in refused(hours("29/03/2025", range(1, 25)), template)


def test_a_missing_hour_of_an_ordinary_day_is_a_gap() -> None:
    series = read(hours("29/03/2025", [1, 3]), told("e-distribucion")).members["alice"]
    assert series.gaps() == [(series.first + 4, series.first + 7)]


def test_members_may_have_columns_beside_a_number_or_an_end() -> None:
    base = replace(told("e-distribucion"), value="", member="", members={"A": "alice", "B": "bob"})
    numbered_rows = "Fecha;Hora;A;B\n29/03/2025;1;1,5;2\n29/03/2025;2;;3\n"
    timed = replace(base, position="", until="Fin", time_format="", stamp=Stamp.BEGIN)
    timed_rows = "Fecha;Fin;A;B\n2025-03-29T00:00;2025-03-29T01:00;1,5;2\n"
    timed_rows += "2025-03-29T01:00;2025-03-29T02:00;;3\n"
    for text, template in ((numbered_rows, base), (timed_rows, timed)):
        curve = read(text, template)
        totals = {name: sum(one.energies_uwh.values()) for name, one in curve.members.items()}
        assert totals == {"alice": 1_500_000_000, "bob": 5_000_000_000}
        assert [one.last - one.first for one in curve.members.values()] == [7, 7]
    assert "and the file says" in refused(timed_rows.replace("02:00", "03:00"), timed)
    assert "and no 25" in refused(numbered_rows.replace(";2;;", ";25;;"), base)


@pytest.mark.parametrize("text", ["", "one", "1.5", "01:30", "1000", "٣", "-1", "25:60"])
def test_what_is_no_number_of_an_interval_is_refused(text: str) -> None:
    file = f"CUPS;Fecha;Hora;AE_kWh\n541448800000000001;29/03/2025;{text};1\n"
    detail = refused(file, told("e-distribucion"))
    assert detail.startswith("line 2 of the load curve: ")
    assert "no number of an interval" in detail or "no whole number of 60 minutes" in detail


@pytest.mark.parametrize(
    "day",
    ["29/03/2025 05:00", "2025-03-29T05:00", "2025-03-29T24:00", "2025-03-29T00:00+01:00"],
)
def test_a_time_is_no_day(day: str) -> None:
    template = replace(told("e-distribucion"), time_format="")
    if "/" in day:
        assert "is no time" in refused(hours(day, [1]), template)
    else:
        assert "is no day" in refused(hours(day, [1]), template)


# --- A row for each day. -------------------------------------------------------------------------


def days(headings: list[str], *rows: str) -> str:
    return "\n".join([";".join(["Giorno", *headings]), *rows])


def test_columns_of_a_day_may_be_numbered() -> None:
    template = replace(told("e-distribuzione"), interval_minutes=60, stamp=Stamp.END)
    headings = [f"H{hour:02}" for hour in range(1, 26)]
    row = ";".join(str(hour) for hour in range(1, 25))
    assert kwh_of(days(headings, f"29/03/2025;{row};"), template) == list(range(1, 25))
    assert "from 1 to 24, and no 25" in refused(days(headings, f"29/03/2025;{row};9"), template)
    assert "from 1 to 23, and no 24" in refused(days(headings, f"30/03/2025;{row};"), template)
    assert "files number it in two ways" in refused(
        days(headings, f"26/10/2025;{row};25"), template
    )
    last = replace(template, longer_day=LongerDay.LAST)
    assert kwh_of(days(headings, f"26/10/2025;{row};25"), last) == [1, 2, 3, 25, *range(4, 25)]


def test_columns_of_a_day_may_be_headed_by_the_ends_of_intervals() -> None:
    template = replace(told("e-distribuzione"), interval_minutes=60, stamp=Stamp.END)
    for midnight in ("00:00", "24:00"):
        headings = [*(f"{hour:02}:00" for hour in range(1, 24)), midnight]
        row = ";".join(str(hour) for hour in range(1, 25))
        assert kwh_of(days(headings, f"29/03/2025;{row}"), template) == list(range(1, 25))


def test_what_no_clock_shows_must_be_empty_and_what_it_shows_twice_stands_twice() -> None:
    template = replace(told("e-distribuzione"), interval_minutes=60)
    headings = [f"{hour:02}:00-{(hour + 1) % 24:02}:00" for hour in range(24)]
    ones = ["1"] * 24
    assert "does not exist" in refused(days(headings, ";".join(["29/03/2026", *ones])), template)
    assert "comes twice" in refused(days(headings, ";".join(["25/10/2026", *ones])), template)
    ones[2] = ""
    assert kwh_of(days(headings, ";".join(["29/03/2026", *ones])), template) == [1] * 23


@pytest.mark.parametrize(
    ("headings", "said"),
    [
        (["a", "b"], "needs columns headed by times of day"),
        (["1", "H1"], "needs columns headed by times of day"),
        (["00:00-01:00"], "'00:00-01:00' lasts 60 minutes from its begin"),
        (["00:15-00:00"], "'00:15-00:00' lasts 1425 minutes from its begin"),
    ],
)
def test_headings_that_are_no_intervals_of_a_day_are_said(headings: list[str], said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(days(headings, "29/03/2025" + ";1" * len(headings)), told("e-distribuzione"))
    assert said in str(caught.value)


def test_a_heading_that_names_an_end_is_refused_where_times_are_ends() -> None:
    template = replace(told("e-distribuzione"), stamp=Stamp.END)
    with pytest.raises(ConfigurationError, match='set `interval_minutes`, and `stamp` to "begin"'):
        read(days(["00:00-00:15"], "29/03/2025;1"), template)


def test_a_heading_at_which_no_interval_begins_is_refused() -> None:
    said = refused(days(["00:10"], "29/03/2025;1"), told("e-distribuzione"))
    assert "no interval of 15 minutes begins or ends at 00:10" in said


def test_other_columns_beside_a_days_intervals_do_not_matter() -> None:
    text = days(["POD", "00:00-00:15", "Totale"], "29/03/2025;IT001;0,5;99")
    assert list(read(text, told("e-distribuzione")).members["alice"].energies_uwh.values()) == [
        500_000_000
    ]


# --- Registers, and what a row must hold. --------------------------------------------------------


def volumes(*rows: str) -> str:
    head = "Van (datum);Van (tijdstip);Tot (datum);Tot (tijdstip);EAN-code;Register;Volume;Eenheid"
    return "\n".join(
        [
            head,
            *(
                f'15-01-2026;{at};15-01-2026;{till};="541448800000000001";{rest}'
                for at, till, rest in (row.split("|") for row in rows)
            ),
        ]
    )


def test_registers_of_one_interval_add_up_and_one_without_a_value_makes_a_gap() -> None:
    text = volumes(
        "12:00:00|12:15:00|Afname Dag;0,25;kWh",
        "12:00:00|12:15:00|Afname Nacht;0,5;kWh",
        "12:15:00|12:30:00|Afname Dag;0,25;kWh",
        "12:15:00|12:30:00|Afname Nacht;;kWh",
        "12:30:00|12:45:00|Afname Dag;;kWh",
        "12:30:00|12:45:00|Afname Nacht;0,5;kWh",
        "12:45:00|13:00:00|Afname Dag;0,125;kWh",
        "12:45:00|13:00:00|Injectie Dag;9;kWh",
    )
    curve = read(text, told("fluvius"))
    series = curve.members["alice"]
    first = series.first
    assert series.energies_uwh == {first: 750_000_000, first + 3: 125_000_000}
    assert series.gaps() == [(first + 1, first + 2)]
    assert curve.rows_left_out == 1


def test_one_register_that_says_two_things_is_refused() -> None:
    text = volumes("12:00:00|12:15:00|Afname Dag;0,25;kWh", "12:00:00|12:15:00|Afname Dag;0,5;kWh")
    assert "is given again for alice, with another value" in refused(text, told("fluvius"))
    both = replace(told("fluvius"), register="")
    other = text.replace("Afname Dag;0,5", "Afname Nacht;0,5")
    assert "`register` say what tells them apart" in refused(other, both)


def test_registers_that_have_too_much_together_are_refused() -> None:
    text = volumes(
        "12:00:00|12:15:00|Afname Dag;999999,9;kWh", "12:00:00|12:15:00|Afname Nacht;0,2;kWh"
    )
    assert "the registers of alice have too much" in refused(text, told("fluvius"))


def test_a_row_that_holds_what_it_must_not_refuses_the_file() -> None:
    text = volumes("12:00:00|12:15:00|Afname Dag;0,25;m³")
    said = refused(text, told("fluvius"))
    assert said.startswith("line 2 of the load curve: Eenheid is 'm³' there, not 'kWh'")


def test_a_delivery_points_number_is_nobodys_name() -> None:
    template = template_of("fluvius")
    with pytest.raises(ConfigurationError, match="is no member's name: say in"):
        read(volumes("12:00:00|12:15:00|Afname Dag;0,25;kWh"), template)


# --- Intervals and files of other forms. ---------------------------------------------------------


@pytest.mark.parametrize("minutes", [5, 10])
def test_short_intervals_are_summed_up_and_those_of_ten_minutes_divided_before(
    minutes: int,
) -> None:
    template = replace(told("enedis"), interval_minutes=minutes, unit=Unit.WH)
    begin = datetime(2026, 6, 1, 10, tzinfo=UTC)
    lines = ["Horodate;Valeur"]
    for place in range(30 // minutes):
        end = begin + timedelta(minutes=minutes * (place + 1))
        lines.append(f"{end.isoformat()};0.00000{place + 1}")
    curve = read("\n".join(lines), template)
    energies = curve.members["alice"].energies_uwh
    first = int(begin.timestamp()) // STEP_S
    whole = {5: {first: 6, first + 1: 15}, 10: {first: 2, first + 1: 4}}
    assert curve.is_spread == (minutes == 10)
    assert energies == whole[minutes]
    fewer = read("\n".join(lines[:-1]), template).members["alice"]
    assert fewer.energies_uwh == {first: whole[minutes][first]}


@given(
    values=st.lists(st.integers(0, 10**9), min_size=3, max_size=60),
    first=st.integers(0, 5),
)
def test_ten_minutes_keep_their_sum_where_steps_are_whole(values: list[int], first: int) -> None:
    template = replace(told("enedis"), interval_minutes=10, unit=Unit.WH, zone="UTC")
    values = values[: len(values) // 3 * 3]
    begin = datetime(2026, 6, 1, tzinfo=UTC) + timedelta(minutes=30 * first)
    lines = [
        f"{(begin + timedelta(minutes=10 * place)).isoformat()};{value // 10**6}.{value % 10**6:06}"
        for place, value in enumerate(values, 1)
    ]
    energies = read("\n".join(["Horodate;Valeur", *lines]), template).members["alice"].energies_uwh
    assert sum(energies.values()) == sum(values)
    assert len(energies) == len(values) * 2 // 3


def spaced(*hours: float) -> str:
    """A row at the end of each interval, so many hours apart."""
    at = datetime(2026, 6, 1, tzinfo=UTC)
    lines = ["Horodate;Valeur"]
    for hour in hours:
        at += timedelta(hours=hour)
        lines.append(f"{at.isoformat()};100")
    return "\n".join(lines)


@pytest.mark.parametrize("before", [0, 30])
def test_rows_further_apart_than_intervals_are_of_longer_ones(before: int) -> None:
    said = refused(spaced(*[0.5] * before, *[1] * 13), told("enedis"))
    assert "the rows of alice are 60 minutes apart before 2026-06-0" in said
    assert "and intervals of 30 are wanted" in said


def test_a_few_intervals_that_were_corrected_are_a_file_too() -> None:
    # Twelve rows are eleven distances.
    for hours in ([1] * 12, [1, 2, 5] * 20, [*[1] * 11, 2, *[1] * 11]):
        assert len(read(spaced(*hours), told("enedis")).members["alice"].energies_uwh) == 2 * len(
            hours
        )


def test_a_file_may_have_no_line_that_names_its_columns() -> None:
    template = replace(told("e-distribucion"), columns=["CUPS", "Fecha", "Hora", "AE_kWh"])
    text = "541448800000000001;29/03/2025;1;0,5\n541448800000000001;29/03/2025;2;0,25\n"
    energies = read(text, template).members["alice"].energies_uwh
    assert sum(energies.values()) == 750_000_000
    assert "is no time" in refused("CUPS;Fecha;Hora;AE_kWh\n" + text, replace(template, member=""))


def test_a_star_stands_for_the_beginning_of_one_columns_name() -> None:
    template = told("wiener-netze")
    head = "Datum;Zeit von;Zeit bis;A - Verbrauch [kWh];B - Verbrauch [kWh]\n"
    with pytest.raises(ConfigurationError, match="more than one column"):
        read(head, template)
    for other in ("kWh", "Verbrauch [kWh] A"):
        with pytest.raises(ConfigurationError, match="has no column"):
            read(f"Datum;Zeit von;Zeit bis;{other}\n", template)


def test_a_heading_may_end_with_a_separator_that_rows_lack() -> None:
    text = "Messzeitpunkt;Verbrauch (kWh);;\n01.01.2026 00:15;0,5\n01.01.2026 00:30;0,5;;\n"
    assert sum(read(text, told("netz-noe")).members["alice"].energies_uwh.values()) == 10**9


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"PK\x03\x04\x14\x00", "is a workbook or an archive: save it as CSV, UTF-8"),
        (b"\xd0\xcf\x11\xe0\xa1", "is an old workbook"),
        (b"\x1f\x8b\x08\x00", "is compressed"),
        (b"%PDF-1.7\n", "is a PDF"),
        ("Horodate;Valeur\n".encode("utf-16"), "is UTF-16: save it as CSV, UTF-8"),
    ],
)
def test_what_is_no_text_is_named(data: bytes, said: str) -> None:
    template = told("enedis")
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        with pytest.raises(Rejected) as caught:
            read_load_curve(pieces, template, ZoneInfo(template.zone), STEP_S, "alice")
        assert said in caught.value.detail


def test_midnight_may_be_the_end_of_a_day() -> None:
    template = told("e-redes")
    head = "Data;Hora;Consumo registado (kW);Estado\n"
    one, other = (
        read(f"{head}{when};0,4;Real\n", template)
        for when in ("2026/09/01;24:00", "2026/09/02;00:00")
    )
    assert one == other
    assert "is no time" in refused(f"{head}2026/09/01;24:15;0,4;Real\n", template)


@settings(max_examples=200)
@given(
    name=st.sampled_from(sorted(LAYOUTS)),
    season=st.sampled_from(sorted(DAYS)),
    at=st.floats(0, 1),
    cut=st.integers(0, 12),
    put=st.binary(max_size=6),
)
def test_a_damaged_file_is_read_or_refused_in_words_and_never_gives_more_than_it_holds(
    name: str, season: str, at: float, cut: int, put: bytes
) -> None:
    template = told(name)
    curves = {one: curve_of(template, DAYS[season], [1, 20, 300]) for one in WHOSE.values()}
    data = LAYOUTS[name](curves, template).encode()
    place = int(at * len(data))
    damaged = data[:place] + put + data[place + cut :]
    whose = "" if template.names_members else "alice"
    try:
        curve = read_load_curve([damaged], template, ZoneInfo(template.zone), STEP_S, whose)
    except (Rejected, ConfigurationError):
        return
    for series in curve.members.values():
        assert all(energy >= 0 for energy in series.energies_uwh.values())
        assert len(series.energies_uwh) <= 73 * 4 + template.interval_s // STEP_S
