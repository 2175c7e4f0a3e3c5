"""Which edges are pulses: whatever a contact does as IEC 62053-31 lets it, the count is right; and
what it does besides is declared."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from hal.pulse_shape import NS_PER_US, PRESETS, Found, Preset, Recogniser, Shape, shape_of

S0 = PRESETS[Preset.S0_CLASS_A]
SETTLED_US = 4_900  # within so long a contact is settled: less than 5 ms
LEVEL_MIN_US = 30_000


def found(shape: Shape, edges_us: Sequence[float], *, is_on: bool = False, at_us: int = 0) -> Found:
    """What edges in turn come to, the first one away from where the line stands."""
    recogniser, told = Recogniser(shape, is_on=is_on, now_ns=at_us * NS_PER_US), Found()
    for edge_us in edges_us:
        is_on = not is_on
        recogniser.add(round(edge_us * NS_PER_US), is_on=is_on, found=told)
    return told


def ends_us(told: Found) -> list[float]:
    return [at_ns / NS_PER_US for at_ns in told.times_ns]


@dataclass(frozen=True)
class Train:
    """Pulses of a contact.

    Attributes:
        edges_us: its edges, with their bounce.
        ends_us: the first edge of each pulse's end.
    """

    edges_us: list[int]
    ends_us: list[int]


@st.composite
def bounces(draw: st.DrawFn) -> list[int]:
    """An even number of moments within the time in which a contact settles, from its first edge."""
    moments = draw(st.lists(st.integers(1, SETTLED_US), max_size=12, unique=True))
    return sorted(moments[: len(moments) // 2 * 2])


@st.composite
def trains(draw: st.DrawFn) -> Train:
    edges, ends, now = [], [], 0
    for _ in range(draw(st.integers(1, 12))):
        now += LEVEL_MIN_US + draw(st.one_of(st.just(0), st.integers(0, 10**7)))
        edges += [now, *(now + moment for moment in draw(bounces()))]
        now += LEVEL_MIN_US + draw(st.one_of(st.just(0), st.integers(0, 200_000)))
        ends.append(now)
        edges += [now, *(now + moment for moment in draw(bounces()))]
    return Train(edges, ends)


@given(trains())
def test_each_pulse_of_a_contact_that_bounces_counts_once_at_its_end(train: Train) -> None:
    told = found(S0, train.edges_us)
    assert (ends_us(told), told.noise, told.lost) == (train.ends_us, 0, 0)


@given(trains(), st.data())
def test_spikes_between_pulses_make_none_and_are_declared(
    train: Train, data: st.DataObject
) -> None:
    """As those of a relay nearby: shorter than any pulse, and far from the next one."""
    edges, spikes = list(train.edges_us), 0
    for end, after in pairwise(train.ends_us):
        begin = end + 2 * SETTLED_US + S0.bounce_us
        room = after - LEVEL_MIN_US - 200_000 - 2 * S0.bounce_us - begin
        if room > S0.min_on_us and data.draw(st.booleans()):
            width = data.draw(st.integers(1, S0.min_on_us - 1))
            edges += [begin, begin + width]
            spikes += 1
    told = found(S0, sorted(edges))
    assert (ends_us(told), told.noise, told.lost) == (train.ends_us, spikes, 0)


@given(trains(), st.data())
def test_a_gap_within_a_pulse_makes_no_second_one(train: Train, data: st.DataObject) -> None:
    told = found(S0, train.edges_us)
    end = data.draw(st.sampled_from(train.ends_us))
    gap = data.draw(st.integers(1, S0.bounce_us - SETTLED_US))
    begin = end - 10_000
    broken = sorted([*train.edges_us, begin, begin + gap])
    assert len(found(S0, broken).times_ns) == len(told.times_ns)


@given(st.lists(st.integers(1, 10**6), min_size=2, max_size=60), st.booleans())
def test_whatever_a_line_does_nothing_is_counted_that_is_no_pulse(
    gaps: list[int], is_on: bool
) -> None:
    """Two pulses are a whole period apart at least, and each edge is one pulse's at most."""
    edges, now = [], 0
    for gap in gaps:
        now += gap
        edges.append(now)
    told = found(S0, edges, is_on=is_on)
    times = ends_us(told)
    assert all(after - before >= S0.min_on_us + S0.min_off_us for before, after in pairwise(times))
    assert set(times) <= set(edges)
    assert told.lost == 0
    assert told.noise <= len(edges)


@pytest.mark.parametrize(
    ("edges", "ends", "noise"),
    [
        ([0, 19_999, 100_000, 130_000], [130_000], 1),  # too short
        ([0, 20_000], [20_000], 0),
        ([0, 1_000_000], [1_000_000], 0),
        ([0, 1_000_001], [], 1),  # too long
        ([0, 30_000, 49_999, 80_000], [30_000], 1),  # too soon
        ([0, 30_000, 50_000, 80_000], [30_000, 80_000], 0),
        ([0, 10_000, 14_999, 30_000], [30_000], 0),  # a gap within
        ([0, 10_000, 15_000, 29_000], [], 1),  # two spikes; the second may go on
        ([0, 10_000, 14_000, 18_000, 20_000, 40_000], [], 1),  # gaps of 6 ms
        ([0, 30_000, 34_000, 34_500, 64_600, 94_600], [30_000, 94_600], 0),
    ],
)
def test_the_limits_of_s0(edges: list[int], ends: list[int], noise: int) -> None:
    told = found(S0, edges)
    assert (ends_us(told), told.noise) == (ends, noise)


def test_a_pause_is_measured_from_where_the_pulse_before_came_to_rest() -> None:
    assert ends_us(found(S0, [0, 30_000, 33_000, 34_000, 53_999, 84_000])) == [30_000]
    assert ends_us(found(S0, [0, 30_000, 33_000, 34_000, 54_000, 84_000])) == [30_000, 84_000]


def test_a_line_that_flaps_for_an_hour_is_declared_and_counts_nothing() -> None:
    slow = [10_000 * number for number in range(360_000)]
    told = found(S0, slow)
    assert (told.times_ns, told.noise) == ([], len(slow) // 2 - 1)
    fast = [1_000 * number for number in range(360_000)]
    told = found(S0, fast)
    assert (len(told.times_ns), told.noise > len(fast) // 3) == (0, True)


def test_a_pulse_that_was_under_way_counts_whatever_of_it_was_seen() -> None:
    assert ends_us(found(S0, [5], is_on=True)) == [5]
    assert found(S0, [1_000_001], is_on=True).times_ns == []
    assert ends_us(found(S0, [1_000_001], is_on=True, at_us=1)) == [1_000_001]


def test_a_pulse_that_was_counted_at_a_gap_does_not_count_again_at_its_end() -> None:
    """By a run that begins in between."""
    before = found(S0, [0, 25_000, 28_000])
    assert ends_us(before) == [25_000]
    recogniser, told = Recogniser(S0, is_on=True, now_ns=40_000 * NS_PER_US), Found()
    recogniser.go_on_behind(before.times_ns[-1])
    for edge_us, is_on in ((90_000, False), (150_000, True), (200_000, False)):
        recogniser.add(edge_us * NS_PER_US, is_on=is_on, found=told)
    assert ends_us(told) == [200_000]
    assert told.noise == 1


def test_a_pulse_that_goes_on_for_too_long_to_be_the_one_that_was_counted_counts() -> None:
    recogniser, told = Recogniser(S0, is_on=True, now_ns=1_000_000 * NS_PER_US), Found()
    recogniser.go_on_behind(25_000 * NS_PER_US)
    recogniser.add(1_005_001 * NS_PER_US, is_on=False, found=told)
    assert ends_us(told) == [1_005_001]


@given(trains(), st.data())
def test_nothing_counts_twice_across_a_kill_and_little_is_lost(
    train: Train, data: st.DataObject
) -> None:
    """Contacts open within pulses, too; a run is killed anywhere and the next one begins at any
    time."""
    gaps = [
        (end - 10_000, data.draw(st.integers(1, S0.bounce_us - SETTLED_US)))
        for end in train.ends_us
    ]
    edges = sorted([*train.edges_us, *(edge for at, gap in gaps for edge in (at, at + gap))])
    last = edges[-1] + 10
    killed = data.draw(st.integers(0, last), label="killed")
    begun = data.draw(st.integers(killed, min(last, killed + 2_000_000)), label="begun")
    seen = [edge for edge in edges if edge <= killed]
    before = found(S0, seen)
    is_on = sum(edge <= begun for edge in edges) % 2 == 1
    recogniser, after = Recogniser(S0, is_on=is_on, now_ns=begun * NS_PER_US), Found()
    if before.times_ns:
        recogniser.go_on_behind(before.times_ns[-1])
    for edge in edges:
        if edge > begun:
            is_on = not is_on
            recogniser.add(edge * NS_PER_US, is_on=is_on, found=after)
    counted = len(before.times_ns) + len(after.times_ns)
    assert counted <= len(train.ends_us)
    # One that is long may have begun before the run, and be in doubt.
    watched = [end for end in train.ends_us if end <= killed or end - LEVEL_MIN_US > begun]
    assert counted >= len(watched) - 1


def test_a_stuck_line_is_told_once_and_its_end_is_no_pulse() -> None:
    recogniser, told = Recogniser(S0, is_on=False, now_ns=0), Found()
    assert recogniser.pass_by(10**12) == 0
    recogniser.add(0, is_on=True, found=told)
    looks = [recogniser.pass_by(at_us * NS_PER_US) for at_us in (1_000_000, 1_000_001, 2_000_000)]
    assert looks == [0, 1, 0]
    recogniser.add(3_000_000_000, is_on=False, found=told)
    assert told == Found()
    assert recogniser.pass_by(10**12) == 0
    assert Recogniser(S0, is_on=True, now_ns=0).pass_by(1_000_001 * NS_PER_US) == 1


@given(st.lists(st.integers(1, 60_000) | st.integers(1, 3 * 10**6), max_size=60), st.data())
@example([1, 30_000, 70_000, 1_100_000, 10_000, 30_000], None)
def test_it_is_all_one_when_the_line_is_looked_at(gaps: list[int], data: object) -> None:
    edges = list(accumulate(gaps))
    recogniser, told = Recogniser(S0, is_on=False, now_ns=0), Found()
    for number, (before, at) in enumerate(pairwise([0, *edges])):
        looked = data.draw(st.integers(before, at)) if isinstance(data, st.DataObject) else at
        told.noise += recogniser.pass_by(looked * NS_PER_US)
        recogniser.add(at * NS_PER_US, is_on=number % 2 == 0, found=told)
    assert told == found(S0, edges)


def test_a_line_that_sticks_behind_the_bounce_of_a_pulse_is_told_too() -> None:
    edges = [0, 30_000, 33_000]
    assert found(S0, [*edges, 1_033_000]) == Found([30_000 * NS_PER_US])
    assert found(S0, [*edges, 1_033_001]) == Found([30_000 * NS_PER_US], noise=1)
    recogniser, told = Recogniser(S0, is_on=False, now_ns=0), Found()
    for number, edge in enumerate(edges):
        recogniser.add(edge * NS_PER_US, is_on=number % 2 == 0, found=told)
    assert [recogniser.pass_by(at * NS_PER_US) for at in (1_033_000, 1_033_001, 10**9)] == [0, 1, 0]


def test_edges_that_came_before_the_lines_state_was_read_tell_how_it_was() -> None:
    recogniser, told = Recogniser(S0, is_on=True, now_ns=1_000 * NS_PER_US), Found()
    recogniser.add(990 * NS_PER_US, is_on=True, found=told)
    recogniser.add(31_000 * NS_PER_US, is_on=False, found=told)
    assert told == Found([31_000 * NS_PER_US])
    recogniser, told = Recogniser(S0, is_on=False, now_ns=1_000 * NS_PER_US), Found()
    recogniser.add(990 * NS_PER_US, is_on=False, found=told)
    assert told == Found([990 * NS_PER_US])
    recogniser, told = Recogniser(S0, is_on=False, now_ns=1_000 * NS_PER_US), Found()
    recogniser.add(1_010 * NS_PER_US, is_on=False, found=told)  # behind it, a beginning is missing
    assert told == Found(lost=1)


def test_spikes_around_a_beginning_that_was_not_told_make_no_pulse() -> None:
    recogniser, told = Recogniser(S0, is_on=False, now_ns=0), Found()
    for edge, is_on in ((0, 1), (1_000, 0), (900_000, 0), (902_000, 1), (903_000, 0)):
        recogniser.add(edge * NS_PER_US, is_on=bool(is_on), found=told)
    assert told == Found([], noise=1, lost=1)


def test_edges_that_were_not_told_are_missed_and_make_no_pulse() -> None:
    recogniser, told = Recogniser(S0, is_on=False, now_ns=0), Found()
    recogniser.add(10**9, is_on=True, found=told)
    recogniser.add(2 * 10**9, is_on=True, found=told)  # the end of the first one is missing
    recogniser.add(2_040_000_000, is_on=False, found=told)
    recogniser.add(3 * 10**9, is_on=False, found=told)  # a beginning is missing
    recogniser.add(4 * 10**9, is_on=True, found=told)
    recogniser.add(4_040_000_000, is_on=False, found=told)
    assert told == Found([2_040_000_000, 4_040_000_000], 0, 2)


def test_what_the_kernel_says_it_dropped_is_not_missed_twice() -> None:
    for first in (True, False):
        recogniser, told = Recogniser(S0, is_on=False, now_ns=0), Found()
        recogniser.add(10**9, is_on=True, found=told)
        recogniser.miss()
        assert recogniser.pass_by(10**12) == 0
        recogniser.add(2 * 10**9, is_on=first, found=told)
        if first:
            recogniser.add(2_040_000_000, is_on=False, found=told)
        recogniser.add(3 * 10**9, is_on=True, found=told)
        recogniser.add(3_040_000_000, is_on=False, found=told)
        assert told == Found([2_040_000_000, 3_040_000_000][not first :])


def test_an_led_at_its_quickest() -> None:
    """On and off for 0.2 ms: 2.5 kHz (IEC 62052-11)."""
    edges = [200 * number for number in range(2_000)]
    assert len(found(PRESETS[Preset.LED], edges).times_ns) == 1_000


@pytest.mark.parametrize(
    ("preset", "own"),
    [
        (Preset.OWN, None),
        (Preset.LED, Shape(0, 1, 2, 1)),
        (Preset.OWN, Shape(-1, 1, 2, 1)),
        (Preset.OWN, Shape(1, 1, 2, 2)),
        (Preset.OWN, Shape(0, 2, 2, 1)),
        (Preset.OWN, Shape(1, 2, 3, 1)),
    ],
)
def test_values_that_fit_no_pulse_are_refused(preset: Preset, own: Shape | None) -> None:
    with pytest.raises(ConfigurationError, match=r"\[source.own\]"):
        shape_of(preset, own)


def test_each_preset_has_its_shape() -> None:
    own = Shape(0, 1, 2, 1)
    assert shape_of(Preset.OWN, own) == own
    assert shape_of(Preset.ANY, None) is None
    assert {one: shape_of(one, None) for one in PRESETS} == PRESETS
