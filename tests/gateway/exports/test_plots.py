"""Plots: each value lies where its axis says, within the frame, whatever the values are."""

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.exports.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Band,
    Dot,
    Span,
    _Linear,
    _Waits,
    difference_plot,
    energy_plot,
    wait_plot,
)

STEPS = range(100, 110)
SPAN = Span(STEPS, ((100, "0:00"), (105, "<5>")))
DOTS = st.lists(
    st.builds(Dot, st.sampled_from(STEPS), st.integers(-(10**15), 10**15), st.booleans())
)
GAPS = st.lists(st.sampled_from(STEPS), unique=True).map(sorted)


def shapes(svg: str) -> dict[str, str]:
    """The paths by class; the drawing is well formed."""
    root = ElementTree.fromstring(svg)  # noqa: S314 - our own drawing
    return {path.get("class", ""): path.get("d", "") for path in root.iter("path")}


def test_bars_stand_on_the_axis_and_the_highest_reaches_the_top() -> None:
    drawn = shapes(energy_plot("t", SPAN, [(100, 0), (101, 5_000), (109, 10_000)], [104, 105, 107]))
    bottom, top = (HEIGHT - BOTTOM) // 10, TOP // 10
    bars = drawn["bar"].split("z")[:-1]
    assert bars[0].startswith(f"M{LEFT // 10} {bottom}V{bottom}")
    assert bars[1].split("V")[1].startswith(f"{(bottom + top) // 2}H")
    assert bars[2].split("V")[1].startswith(f"{top}H{(WIDTH - RIGHT) // 10}")
    assert drawn["gap"].count("z") == 2


def test_a_band_lies_around_nothing_and_what_is_outside_is_a_cross() -> None:
    bands = [Band(100, 101, 50), Band(101, 103, 100)]
    dots = [Dot(101, 10, False), Dot(103, -100, True)]
    drawn = shapes(difference_plot("t", SPAN, bands, dots, []))
    middle, bottom = (TOP + HEIGHT - BOTTOM) // 20, (HEIGHT - BOTTOM) // 10
    assert drawn["band"].count("z") == 2
    assert f"V{bottom}" in drawn["band"]
    assert drawn["axis"].startswith(f"M{(SPAN.x(105)) // 10}")  # the last drawn: a tick below
    [(y,)] = [re.match(r"M[\d.]+ ([\d.]+)h0", drawn["dot"]).groups()]  # type: ignore[union-attr]
    assert top_of(y) < middle
    assert drawn["wrong"].count("l") == 2


def top_of(text: str) -> float:
    return float(text)


@pytest.mark.parametrize(
    ("ms", "part"), [(0, 0), (500, 1), (1_000, 2), (5_500, 3), (10_000, 4), (900_000, 8), (-5, 0)]
)
def test_waits_go_evenly_from_mark_to_mark(ms: int, part: int) -> None:
    scale = _Waits(900_000)
    assert [label for _, label in scale.ticks] == ["0", "1 s", "10 s", "1 min", "15 min"]
    inner = HEIGHT - TOP - BOTTOM
    assert scale.y(ms) == HEIGHT - BOTTOM - inner * part // 8


def test_a_longer_wait_has_a_longer_axis() -> None:
    assert _Waits(900_001).ticks[-1][1] == "1 h"
    assert _Waits(10**18).ticks[-1][1] == "1000 days"
    assert _Waits(10**18).y(10**18) == TOP


@given(st.integers(-(10**18), 10**18), st.integers(1, 10**18))
def test_ticks_are_few_round_and_on_the_axis(low: int, reach: int) -> None:
    ticks = _Linear(low, low + reach).ticks
    assert 1 <= len(ticks) <= 6
    assert all(low <= value <= low + reach for value, _ in ticks)


@given(DOTS, GAPS)
def test_whatever_is_drawn_is_well_formed_and_in_its_frame(
    dots: list[Dot], gaps: list[int]
) -> None:
    energies = sorted({dot.step: abs(dot.value) for dot in dots}.items())
    bands = [Band(dot.step - 1, dot.step, abs(dot.value)) for dot in dots]
    for svg in (
        energy_plot("<a>", SPAN, energies, gaps),
        difference_plot('"a" & b', SPAN, bands, dots, gaps),
        wait_plot("a", SPAN, dots, gaps),
    ):
        drawn = shapes(svg)
        for kind in ("bar", "band", "gap"):
            places = re.findall(r"[MH]([\d.]+)", drawn.get(kind, ""))
            assert all(LEFT <= 10 * float(x) <= WIDTH - RIGHT for x in places)
            heights = re.findall(r"(?:V|M[\d.]+ )([\d.]+)", drawn.get(kind, ""))
            assert all(TOP <= 10 * float(y) <= HEIGHT - BOTTOM for y in heights)


def test_another_energy_is_a_line_over_the_bars_and_widens_the_axis() -> None:
    span = Span(range(4), ())
    alone = energy_plot("x", span, [(0, 10), (1, 20)], [])
    both = energy_plot("x", span, [(0, 10), (1, 20)], [], [(1, 40), (3, 0)])
    assert 'class="line"' not in alone
    [line] = re.findall(r'<path class="line" d="([^"]*)"', both)
    heights = [float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)H", line)]
    bars = re.findall(r'<path class="bar" d="([^"]*)"', both)[0]
    tops = [float(y) for y in re.findall(r"V([\d.]+)H", bars)]
    bottom = heights[1]
    assert heights[0] < tops[1] < tops[0] < bottom
    assert abs((bottom - heights[0]) - 2 * (bottom - tops[1])) <= 0.2


def test_a_band_has_an_edge_above_and_below() -> None:
    plot = difference_plot("x", Span(range(4), ()), [Band(0, 1, 5), Band(1, 2, 7)], [], [])
    [edge] = re.findall(r'<path class="edge" d="([^"]*)"', plot)
    [band] = re.findall(r'<path class="band" d="([^"]*)"', plot)
    assert edge.count("M") == 4
    assert {float(y) for y in re.findall(r"M[\d.]+ ([\d.]+)H", edge)} == {
        float(y) for y in re.findall(r"(?:M[\d.]+ |V)([\d.]+)", band)
    }
