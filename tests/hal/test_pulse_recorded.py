"""Edges that were recorded at real contacts, as others have published them: each pulse counts once,
and what was not told is declared.

Only times are taken over, each with its source. Where a recording has one kind of edge alone, every
time at which the other kind may have come is tried. Our own are those of a simulated line, as a
kernel told them to a guest of `make test-kernel`.
"""

import json
from itertools import accumulate, pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hal.pulse_shape import NS_PER_US, PRESETS, Found, Preset, Recogniser

S0 = PRESETS[Preset.S0_CLASS_B]

# A switch to ground that closes, at an Arduino, us (adamfk/bouncy-button-data, issue 12, from its
# fourth event on, without two that were too short to be told whole): on, off, on, ...
CLOSING_US = (
    188.812,
    196.062,
    421.812,
    428.125,
    431.812,
    437.875,
    500.937,
    507.0,
    547.5,
    559.5,
    635.625,
    642.875,
    645.375,
    650.25,
    652.75,
    671.875,
    674.375,
    696.125,
    702.187,
    713.0,
    716.687,
)

# Falling edges of a pulse input with an ESP8266, us (arendst/Tasmota, issue 7488): its counter took
# the two ends of a pulse for two.
FALLS_US = (994_830_147, 994_834_169, 995_122_268, 995_126_952, 995_130_062, 995_140_078)

# A gas meter's reed contact at the kernel's GPIO device, us behind 6,459 s (volkszaehler/vzlogger,
# pull request 525): of twenty two fall. Most came faster than the kernel's thread read them.
REED_US = (
    *((us, True) for us in (261_081.356, 261_098.355, 261_112.354, 261_144.352, 261_171.350)),
    *((us, True) for us in (261_185.350, 261_482.333, 269_650.861, 269_678.859)),
    (492_392.003, False),
    (492_424.001, True),
)
REED_NEXT_US = (
    *((us, True) for us in (951_870.479, 951_880.478, 951_885.478, 951_891.478, 951_900.477)),
    *((us, True) for us in (951_904.477, 951_932.475)),
    (951_939.475, False),
    (952_475.444, True),
)


def found(edges: list[tuple[float, bool]]) -> Found:
    """What these edges come to on a line that was off."""
    recogniser, told = Recogniser(S0, is_on=False, now_ns=0), Found()
    for us, is_on in edges:
        recogniser.add(round(us * NS_PER_US), is_on=is_on, found=told)
    return told


@pytest.mark.parametrize("on_us", [30_000, 50_000, 200_000])
def test_a_switch_that_closes_and_opens_with_its_recorded_bounce_makes_one_pulse(
    on_us: int,
) -> None:
    edges: list[tuple[float, bool]] = []
    for number in range(1, 101):
        begin = number * 2 * (on_us + 1_000)
        edges += [(begin + us, index % 2 == 0) for index, us in enumerate(CLOSING_US)]
        end = begin + on_us
        edges += [(end + us, index % 2 == 1) for index, us in enumerate(CLOSING_US)]
    told = found(edges)
    assert (len(told.times_ns), told.noise, told.lost) == (100, 0, 0)


@given(st.data())
def test_a_contact_that_bounces_for_eighteen_milliseconds_makes_one_pulse(
    data: st.DataObject,
) -> None:
    """Longer than S0 permits."""
    falls = [us - FALLS_US[0] + 1_000 for us in FALLS_US]
    edges: list[tuple[float, bool]] = []
    for fall, after in pairwise(falls):
        # The contact closes with a fall, and has opened again by the next one: at the pulse's own
        # end as a bounce does, up to 5 ms before.
        opened = data.draw(st.floats(max(fall + 1, after - 4_900), after - 1))
        edges += [(fall, True), (opened, False)]
    edges += [(falls[-1], True), (data.draw(st.floats(falls[-1] + 1, falls[-1] + 4_900)), False)]
    told = found(edges)
    assert len(told.times_ns) == 1
    assert told.lost == 0


def test_edges_that_the_kernel_merged_are_declared_and_the_pulse_counts() -> None:
    told = found(list(REED_US))
    assert (len(told.times_ns), told.lost) == (1, 8)
    told = found([*REED_US, *REED_NEXT_US])
    assert (len(told.times_ns), told.lost) == (1, 8 + 7)


@given(
    st.lists(st.floats(0.5, 5_000), min_size=2, max_size=400).filter(lambda gaps: not len(gaps) % 2)
)
def test_spikes_as_of_a_relay_that_switches_beside_the_line_are_no_energy(
    gaps: list[float],
) -> None:
    """Relays of valves made pulses on four inputs where nothing flowed (volkszaehler/vzlogger,
    issue 201): short ones; how short is not told."""
    spikes = list(accumulate(value for gap in gaps for value in (20_000 + gap, min(gap, 1_000))))
    told = found([(us, index % 2 == 0) for index, us in enumerate(spikes)])
    assert told.times_ns == []
    assert told.noise >= len(gaps) - 1


def test_edges_that_a_kernel_told_of_a_bouncing_line_make_as_many_pulses_as_were_emitted() -> None:
    """From one to the next, ns; the first one is on. No bounce lasts longer than 5 ms."""
    path = Path(__file__).parents[1] / "vectors" / "kernel-edges.json"
    gaps = json.loads(path.read_text())
    rests = sum(gap > 25_000 * NS_PER_US for gap in gaps[::2])
    edges = enumerate(accumulate(gaps, initial=0))
    told = found([(at_ns / NS_PER_US, number % 2 == 0) for number, at_ns in edges])
    assert len(gaps) > 6 * rests  # it bounces
    assert (len(told.times_ns), told.noise, told.lost) == (rests, 0, 0)
    assert rests > 90
