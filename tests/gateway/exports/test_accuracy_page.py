"""The accuracy report as page, table and JSON: golden files, well formed, self-contained, and the
same numbers in each."""

import csv
import json
import re
from dataclasses import replace
from datetime import UTC, date
from html.parser import HTMLParser
from zoneinfo import ZoneInfo

import pytest

from cryptometer.accuracy import percent
from gateway.exports import accuracy_page
from gateway.exports.accuracy_page import Period, accuracy_html
from gateway.exports.accuracy_table import accuracy_csv, accuracy_json
from gateway.exports.accuracy_words import sentences
from gateway.exports.measured import Measured, StepState, summarise
from gateway.exports.source import Source
from tests.core.community import DETAILS, STEP_S
from tests.gateway.exports.golden import is_golden
from tests.gateway.exports.watched import STEPS, measure, seen_at, watched

DAYS = (date(2024, 3, 9), date(2024, 3, 11))  # FIRST_STEP is in the first, the last in the second
PERIOD = Period("2024-03", "UTC", UTC, DAYS)
_VOID = {"meta", "path"}


@pytest.fixture(scope="module")
def measured() -> Measured:
    village, steps = watched()
    begins = steps.start // 96 * 96
    seen = [
        seen_at(steps.start, at, "shed", DETAILS.index_wh + wh)
        for at, wh in ((10, 13), (40, 175), (60, 200))
    ]
    return measure(village, range(begins, begins + 192), *seen)


@pytest.fixture(scope="module")
def source() -> Source:
    village, _ = watched()
    return Source(village.id, "Rue des Tilleuls", village.state.checkpoint, village.state.step, 900)


class Page(HTMLParser):
    """A page taken apart: every element is closed where it was opened."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.rows: list[list[str]] = []
        self.begins: list[int] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self.open.append(tag)
        if tag == "table":
            self.begins.append(len(self.rows))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if "td" in self.open or "th" in self.open:
            self.rows[-1][-1] += data

    def table(self, first: str, which: int = 0) -> list[dict[str, str]]:
        """The rows of one of the tables whose headings begin with this column."""
        ends = [*self.begins[1:], len(self.rows)]
        header, *rows = [
            self.rows[begin:end]
            for begin, end in zip(self.begins, ends, strict=True)
            if self.rows[begin][0] == first
        ][which]
        return [dict(zip(header, row, strict=True)) for row in rows]


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(line for line in text.splitlines() if line[:1] != "#"))


def test_the_files_are_the_golden_ones(measured: Measured, source: Source) -> None:
    assert is_golden("accuracy.html", accuracy_html(measured, source, PERIOD))
    assert is_golden("accuracy.csv", accuracy_csv(measured, source))
    assert is_golden("accuracy.json", accuracy_json(measured, source))


def test_the_page_is_well_formed_and_fetches_nothing(measured: Measured, source: Source) -> None:
    text = accuracy_html(measured, source, PERIOD)
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "img", "iframe", "object", "embed", "form", "use"}
    assert not re.search(r"(?:https?:)?//|url\(|@import|javascript:", text)
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name.startswith("on")]
        link = attributes.get("href")
        assert link is None or (tag == "a" and link.startswith("#"))
    places = {attributes["id"] for _, attributes in page.tags if "id" in attributes}
    links = {attributes["href"] for tag, attributes in page.tags if tag == "a"}
    assert links == {f"#{place}" for place in places}
    assert "prefers-color-scheme:dark" in text
    assert "@media print" in text
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in (
        page.tags
    )


def test_every_plot_says_what_it_is(measured: Measured, source: Source) -> None:
    page = Page(accuracy_html(measured, source, PERIOD))
    plots = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(plots) == 3 + 2 + 2  # a difference where something is compared
    assert all(one["role"] == "img" and one["aria-label"] for one in plots)


def test_page_and_table_name_the_checkpoint_and_say_the_verdict(
    measured: Measured, source: Source
) -> None:
    page = Page(accuracy_html(measured, source, PERIOD)).text
    table = accuracy_csv(measured, source)
    assert f"size {source.checkpoint.size}, root {source.checkpoint.root.hex()}" in page
    assert f"# checkpoint size {source.checkpoint.size} root" in table
    values = json.loads(accuracy_json(measured, source))
    assert values["source"]["checkpoint"]["root"] == source.checkpoint.root.hex()
    assert values["said"] == list(sentences(measured))
    for said in sentences(measured):
        assert said in page
        assert f"# {said}\n" in table


def test_what_a_device_calls_its_source_is_no_formula_of_a_spreadsheet(
    measured: Measured, source: Source
) -> None:
    said = '=HYPERLINK("http://x","+1"),1'
    meters = tuple(
        replace(
            meter,
            steps=tuple(
                replace(step, compared=tuple(replace(one, source=said) for one in step.compared))
                for step in meter.steps
            ),
        )
        for meter in measured.meters
    )
    table = accuracy_csv(replace(measured, meters=meters), source)
    rows = csv.DictReader(line for line in table.splitlines() if not line.startswith("#"))
    found = {row["compared_source"] for row in rows}
    assert f"'{said}" in found
    assert not any(text.startswith(("=", "+", "-", "@")) for text in found)


def test_the_table_adds_up_to_what_the_page_says(measured: Measured, source: Source) -> None:
    rows = rows_of(accuracy_csv(measured, source))
    page = Page(accuracy_html(measured, source, PERIOD))
    compared_rows, sums = page.table("meter"), page.table("meter", 1)
    community = {row["meter"]: row | more for row, more in zip(compared_rows, sums, strict=True)}
    assert list(community) == ["hall", "roof", "shed", "all"]
    for name, said in community.items():
        own = [row for row in rows if row["kind"] == "step" and name in (row["meter"], "all")]
        assert said["steps"] == str(len(own))
        for column, states in (
            ("in time", {"closed"}),
            ("late", {"late"}),
            ("not closed", {"not-closed", "set-aside"}),
            ("not heard", {"not-heard"}),
        ):
            assert said[column] == str(sum(row["state"] in states for row in own))
        for column, field in (("energy kWh", "energy_uwh"), ("set aside kWh", "quarantined_uwh")):
            kwh = sum(int(row[field] or 0) for row in own)
            assert round(float(said[column]) * 10**9) == kwh
        compared = [row for row in own if row["compared_source"]]
        assert said["compared"] == str(len(compared))
        if compared:
            assert said["outside"] == str(sum(row["within"] == "no" for row in compared))
            counted = sum(int(row["compared_counted_uwh"]) for row in compared)
            index = sum(int(row["compared_index_uwh"]) for row in compared)
            shown = said["difference µWh"].replace("\u202f", "")
            assert int(shown) == counted - index
            ppm = abs(counted - index) * 10**6 // index * (1 if counted >= index else -1)
            assert said["%"] == percent(ppm).removesuffix(" %")


def test_each_row_of_the_table_is_right_in_itself(measured: Measured, source: Source) -> None:
    for row in rows_of(accuracy_csv(measured, source)):
        if row["kind"] == "step":
            assert (row["energy_uwh"] != "") == (row["state"] in ("closed", "late"))
            assert (row["late_steps"] not in ("", "0")) == (row["state"] == "late")
        if not row["compared_source"]:
            continue
        counted, index = int(row["compared_counted_uwh"]), int(row["compared_index_uwh"])
        assert int(row["difference_uwh"]) == counted - index
        within = abs(counted - index) <= int(row["bound_uwh"])
        assert row["within"] == ("yes" if within else "no")
        assert int(row["bound_uwh"]) >= index * float(row["mpe_percent"]) / 100


def test_json_has_the_rows_of_the_table(measured: Measured, source: Source) -> None:
    table = rows_of(accuracy_csv(measured, source))
    values = json.loads(accuracy_json(measured, source))["rows"]
    text = {True: "yes", False: "no"}
    assert [
        {name: text.get(value, str(value)) if isinstance(value, bool) else str(value)
         for name, value in row.items() if value != ""}
        for row in values
    ] == [{name: value for name, value in row.items() if value} for row in table]  # fmt: skip


def test_a_display_that_was_read_is_shown_as_read_by_hand(
    measured: Measured, source: Source
) -> None:
    page = Page(accuracy_html(measured, source, PERIOD))
    assert "The display, as somebody read it" in page.text
    rows = page.table("since")
    assert [row["since"] for row in rows][:2] == ["registration", "registration"]
    assert "does not tell what was registered just before and behind it" in page.text
    displays = [row for row in rows_of(accuracy_csv(measured, source)) if row["kind"] == "display"]
    assert len(displays) == len(rows) == 3


def test_of_a_long_period_days_are_shown_and_the_steps_worth_a_look(
    measured: Measured, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accuracy_page, "ALL_STEPS_MAX", STEPS - 1)
    page = Page(accuracy_html(measured, source, PERIOD))
    days = page.table("day")
    assert [row["day"] for row in days] == ["2024-03-09", "2024-03-10"]
    noted = [row for row in page.rows if row[1:2] == ["not-heard"]]
    states = measured.summary.states
    assert len(noted) == states[StepState.NOT_HEARD]
    plain = sum(step.is_plain for meter in measured.meters for step in meter.steps)
    steps = [row for row in page.rows if re.match(r"2024-03-\d\d \d\d:", row[0])]
    assert len(steps) == measured.summary.steps - plain
    monkeypatch.setattr(accuracy_page, "NOTED_MAX", 1)
    assert "more: the CSV lists them all." in Page(accuracy_html(measured, source, PERIOD)).text


@pytest.mark.parametrize(
    ("days", "zone", "labels"),
    [
        ((date(2026, 3, 29), date(2026, 3, 30)), "Europe/Brussels", ["00:00", "06:00"]),
        ((date(2026, 10, 1), date(2026, 11, 1)), "Europe/Brussels", ["1", "3", "5"]),
        ((date(2026, 1, 1), date(2027, 1, 1)), "UTC", ["2026-01", "2026-02"]),
    ],
)
def test_time_is_labelled_in_local_hours_days_or_months(
    days: tuple[date, date], zone: str, labels: list[str], source: Source
) -> None:
    from cryptometer.local_calendar import local_steps
    from gateway.exports.accuracy_page import _ticks

    places = list(local_steps(*days, STEP_S, ZoneInfo(zone) if zone != "UTC" else UTC))
    found = [label for _, label in _ticks(places)]
    assert found[0] == labels[0]
    assert set(labels) <= set(found)
    assert len(found) <= 16


def test_no_name_becomes_markup(measured: Measured, source: Source) -> None:
    named = replace(source, name='<script>"x"\n&')
    page = Page(accuracy_html(measured, named, PERIOD))
    assert "script" not in {tag for tag, _ in page.tags}
    assert 'Accuracy of <script>"x" &, 2024-03' in page.text


def test_nothing_that_was_heard_is_a_page_too(source: Source) -> None:
    nothing = Measured(range(96), (), 96)
    period = Period("1970-01-01", "UTC", UTC, (date(1970, 1, 1), date(1970, 1, 2)))
    page = Page(accuracy_html(nothing, source, period))
    assert "No step was compared" in page.text
    assert summarise(()).steps == 0
