"""What members are shown: golden pages, sums that hold, nothing that a name could break."""

from dataclasses import replace
from datetime import date
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from cryptometer.local_calendar import local_steps
from gateway.exports.allotments import Allotment, Given
from gateway.pages.member import Whose, day_page, front_page, message_page, month_page, sum_of
from tests.gateway.exports.golden import SOURCE, is_golden
from tests.gateway.exports.test_accuracy_page import Page

ZONE = ZoneInfo("Europe/Brussels")
WHOSE = Whose("ada", "Ada Lovelace", "Europe/Brussels", SOURCE)
DAY, NEXT = date(2026, 10, 25), date(2026, 10, 26)  # clocks are put back
PLACES = list(local_steps(DAY, NEXT, 900, ZONE))
KWH = 10**9


def allotment(at: int, step: int) -> Allotment:
    """Of every seventh step nothing is known yet, every fifth has energy that came late."""
    given = (Given(step, at * KWH // 64), *((Given(step + 3, KWH // 7),) if at % 5 == 4 else ()))
    used = None if at % 9 == 8 else 2 * KWH
    return Allotment("ada", step, () if at % 7 == 6 else given, used)


FOUND = [allotment(at, place.step) for at, place in enumerate(PLACES)]


def test_the_pages_are_the_golden_ones() -> None:
    month = month_page(WHOSE, date(2026, 10, 1), {DAY: FOUND}, 7 * KWH, (date(2026, 9, 1), None))
    assert is_golden("member-month.html", month)
    assert is_golden("member-day.html", day_page(WHOSE, DAY, PLACES, FOUND, (None, NEXT)))
    months = [date(2026, 10, 1), date(2026, 9, 1)]
    front = front_page(SOURCE, [("ada", 7 * KWH), ("bo", 0)], months, "Europe/Brussels")
    assert is_golden("members-front.html", front)


def test_a_day_has_all_its_hundred_steps_and_adds_up_to_its_month() -> None:
    steps = Page(day_page(WHOSE, DAY, PLACES, FOUND, (None, None))).table("begins")
    assert len(steps) == len(PLACES) == 100
    assert [row["begins"] for row in steps][8:13] == [
        "02:00+0200", "02:15+0200", "02:30+0200", "02:45+0200", "02:00+0100",
    ]  # fmt: skip
    page = Page(month_page(WHOSE, date(2026, 10, 1), {DAY: FOUND}, 0, (None, None)))
    [day] = page.table("day")
    given_uwh = sum(round(float(row["given kWh"] or 0) * KWH) for row in steps)
    assert round(float(day["given kWh"]) * KWH) == given_uwh
    assert day["day"] == "Sun 25"
    both = [row for row in steps if row["from the grid kWh"]]
    assert round(float(day["from the grid kWh"]) * KWH) == sum(
        round(float(row["from the grid kWh"]) * KWH) for row in both
    )


@given(st.lists(st.builds(
    Allotment, st.just("ada"), st.integers(0, 9),
    st.lists(st.builds(Given, st.integers(0, 9), st.integers(0, KWH)), max_size=3).map(tuple),
    st.none() | st.integers(0, KWH),
)))  # fmt: skip
def test_what_is_known_of_both_alone_is_compared(found: list[Allotment]) -> None:
    total = sum_of(found)
    assert total.given_uwh == sum(one.total_uwh or 0 for one in found)
    assert 0 <= total.later_uwh <= total.given_uwh
    assert total.waiting + sum(one.total_uwh is not None for one in found) == total.steps
    assert total.consumed_uwh - total.covered_uwh == sum(one.market_uwh or 0 for one in found)


@given(st.text(st.sampled_from("<>&\"'\u202e\u2067\n\0 script")))
def test_no_name_becomes_markup_or_turns_its_neighbours(name: str) -> None:
    whose = replace(WHOSE, called=name, source=replace(SOURCE, name=name))
    for text in (
        month_page(whose, date(2026, 10, 1), {DAY: FOUND[:3]}, 0, (None, None)),
        day_page(whose, DAY, PLACES, FOUND[:3], (None, None)),
        front_page(whose.source, [("ada", 0)], [], "UTC"),
        message_page(name, name),
    ):
        page = Page(text.replace("\0", ""))
        assert "script" not in {tag for tag, _ in page.tags}


def test_where_there_is_nothing_that_is_said() -> None:
    page = Page(month_page(WHOSE, date(2026, 10, 1), {}, 0, (None, None)))
    assert "No agreement names you in a block in this month." in page.text
    page = Page(day_page(WHOSE, DAY, PLACES, [], (None, None)))
    assert "No agreement names you in a block on this day." in page.text
