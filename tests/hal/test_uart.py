"""The model of a UART against characters worked out by hand, and the s0 line's claim of exactness
against contacts that bounce as badly as they may."""

import random
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.steps import NS_PER_MS, NS_PER_S
from hal.uart import (
    IS_S0_PULSE,
    S0_BAUD,
    S0_BITS,
    S0_BOUNCE_NS,
    S0_LEAST_NS,
    Character,
    Contact,
    Edge,
    Resync,
    contact_edges,
    receive,
)
from tests.core.strategies import examples

BAUD = 1000  # a bit is a millisecond


def sent(byte: int, at_ms: int, bits: int = 8, *, stop_bit: bool = True) -> list[Edge]:
    """The edges of a character that begins at `at_ms`."""
    levels = [False, *(bool(byte >> bit & 1) for bit in range(bits)), stop_bit]
    return [Edge((at_ms + place) * NS_PER_MS, high) for place, high in enumerate(levels)]


def contacts(
    seed: int, count: int, least_open_ns: int = S0_LEAST_NS, longest_ns: int = 200 * NS_PER_MS
) -> list[Contact]:
    """Contacts that are closed, and open, for as little as the standard allows, or for longer."""
    draw = random.Random(seed)
    made, at_ns = [], 0
    for _ in range(count):
        at_ns += draw.choice([0, draw.randint(0, longest_ns)])
        width = S0_LEAST_NS + draw.choice([0, draw.randint(0, longest_ns)])
        # The standard's times hold for the steady contact: its bounce comes on top.
        made.append(Contact(at_ns, S0_BOUNCE_NS + width))
        at_ns += S0_BOUNCE_NS + width + S0_BOUNCE_NS + least_open_ns
    return made


def received(made: list[Contact], seed: int, bits: int, resync: Resync) -> list[Character]:
    draw = random.Random(seed)
    edges = contact_edges(made, S0_BOUNCE_NS, lambda most: draw.randint(0, most))
    return list(receive(edges, S0_BAUD, bits, resync))


def pulses(characters: list[Character]) -> int:
    return sum(IS_S0_PULSE[one.data] for one in characters)


# --- The receiver. -------------------------------------------------------------------------------


@examples(100)
@given(st.integers(0, 255), st.integers(0, 50))
def test_a_character_is_received_with_its_bits_in_order(byte: int, at_ms: int) -> None:
    assert list(receive(sent(byte, at_ms), BAUD)) == [
        Character(at_ms * NS_PER_MS + 9_500_000, byte, framed=True)
    ]


@examples(100)
@given(st.lists(st.tuples(st.integers(0, 63), st.integers(0, 3)), max_size=8))
def test_characters_in_a_row_are_all_received(row: list[tuple[int, int]]) -> None:
    edges, at_ms = [], 1
    for byte, pause in row:
        edges += sent(byte, at_ms, 6)
        at_ms += 8 + pause
    assert [one.data for one in receive(edges, BAUD, 6)] == [byte for byte, _ in row]


def test_a_spike_shorter_than_half_a_bit_starts_nothing() -> None:
    spike = [Edge(0, high=False), Edge(499_999, high=True)]
    assert list(receive(spike, BAUD)) == []
    late = [Edge(at + 20 * NS_PER_MS, high) for at, high in ((0, False), (500_001, True))]
    assert [one.data for one in receive([*spike, *late], BAUD)] == [0xFF]


def test_a_break_is_delivered_once_however_long_it_lasts() -> None:
    edges = [Edge(0, high=False), Edge(NS_PER_S, high=True), *sent(0x55, 1_001)]
    assert list(receive(edges, BAUD)) == [
        Character(9_500_000, 0, framed=False),
        Character(1_010_500_000, 0x55, framed=True),
    ]


def test_a_line_that_stays_low_is_one_break() -> None:
    assert list(receive([Edge(0, high=False)], BAUD)) == [Character(9_500_000, 0, framed=False)]


@pytest.mark.parametrize(
    ("resync", "second"),
    [
        # The start bit is the low stop bit, at 9 ms: bits are sampled at 10.5, 11.5, ...
        (Resync.START, Character(18_500_000, 0xFF, framed=True)),
        # The line is low at the look in the stop bit's middle, 9.5 ms: bits at 11, 12, ...
        (Resync.LEVEL, Character(19_000_000, 0xFE, framed=True)),
        # The first fall after the line rose, at 10.75 ms: bits at 12.25, 13.25, ...
        (Resync.EDGE, Character(20_250_000, 0xFF, framed=True)),
    ],
)
def test_a_receiver_goes_on_after_a_missing_stop_bit_as_its_kind_does(
    resync: Resync, second: Character
) -> None:
    first = sent(0x01, 0, stop_bit=False)
    behind = [(10_250_000, True), (10_750_000, False), (11_300_000, True)]
    edges = [*first, *(Edge(at_ns, high) for at_ns, high in behind)]
    assert list(receive(edges, BAUD, 8, resync)) == [
        Character(9_500_000, 0x01, framed=False),
        second,
    ]


def test_a_line_without_edges_delivers_nothing() -> None:
    assert list(receive([], BAUD)) == []


def test_edges_without_end_are_received_as_they_come() -> None:
    def endless() -> Iterator[Edge]:
        at_ms = 0
        while True:
            yield from sent(0x2A, at_ms, 6)
            at_ms += 8

    characters = receive(endless(), BAUD, 6)
    assert [next(characters).data for _ in range(100)] == [0x2A] * 100


# --- The contact. --------------------------------------------------------------------------------


def test_a_contact_that_does_not_bounce_has_two_edges() -> None:
    made = [Contact(5, 30), Contact(100, 40)]
    expected = [(5, False), (35, True), (100, False), (140, True)]
    assert [(edge.at_ns, edge.high) for edge in contact_edges(made, 0, lambda _: 0)] == expected


@examples(100)
@given(st.integers(0), st.integers(1, S0_BOUNCE_NS))
def test_a_bounce_stays_in_its_time_and_ends_at_its_level(seed: int, bounce_ns: int) -> None:
    draw = random.Random(seed)
    edges = list(contact_edges([Contact(0, S0_LEAST_NS)], bounce_ns, lambda m: draw.randint(0, m)))
    assert edges == sorted(edges, key=lambda edge: edge.at_ns)
    closing = [edge for edge in edges if edge.at_ns < S0_LEAST_NS]
    opening = edges[len(closing) :]
    for group, began_ns, high in ((closing, 0, False), (opening, S0_LEAST_NS, True)):
        assert (group[0], group[-1].high) == (Edge(began_ns, high), high)
        assert group[-1].at_ns <= began_ns + bounce_ns
        assert all(one.high is not other.high for one, other in pairwise(group))


def test_contacts_do_bounce() -> None:
    draw = random.Random(1)
    made = contacts(1, 100)
    edges = list(contact_edges(made, S0_BOUNCE_NS, lambda most: draw.randint(0, most)))
    assert len(edges) > 6 * len(made)


# --- Both together: a pulse is one character, whatever bounces. ----------------------------------


@pytest.mark.parametrize("resync", Resync)
@pytest.mark.parametrize("seed", range(10))
def test_every_bouncing_pulse_is_counted_once_on_six_bits(seed: int, resync: Resync) -> None:
    made = contacts(seed, 200)
    assert pulses(received(made, seed, S0_BITS, resync)) == len(made)


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("seed", range(10))
def test_seven_and_eight_bits_count_contacts_that_stay_open_for_37_milliseconds(
    seed: int, bits: int
) -> None:
    made = contacts(seed, 200, least_open_ns=37 * NS_PER_MS)
    for resync in Resync:
        assert pulses(received(made, seed, bits, resync)) == len(made)


@examples(100)
@given(
    st.integers(0, 40 * NS_PER_MS),
    st.lists(st.integers(0, S0_BOUNCE_NS), max_size=6),
    st.lists(st.integers(0, S0_BOUNCE_NS), max_size=6),
)
def test_one_pulse_of_any_bounce_is_one_counted_character(
    longer_ns: int, closing: list[int], opening: list[int]
) -> None:
    opens_ns = S0_BOUNCE_NS + S0_LEAST_NS + longer_ns
    edges = [Edge(0, high=False)]
    for at_ns, high in zip(sorted(closing), 3 * (True, False), strict=False):
        edges.append(Edge(at_ns, high))
    edges += [Edge(S0_BOUNCE_NS, high=False), Edge(opens_ns, high=True)]
    for at_ns, high in zip(sorted(opening), 3 * (False, True), strict=False):
        edges.append(Edge(opens_ns + at_ns, high))
    edges.append(Edge(opens_ns + S0_BOUNCE_NS, high=True))
    characters = list(receive(edges, S0_BAUD, S0_BITS))
    assert pulses(characters) == 1
    assert {one.data for one in characters if not IS_S0_PULSE[one.data]} <= {0x3F}


@examples(100)
@given(st.integers(0, 19_900_000), st.integers(0, 100 * NS_PER_MS))
def test_a_spike_of_less_than_20_milliseconds_is_noise(width_ns: int, behind_ns: int) -> None:
    spike = [Edge(0, high=False), Edge(width_ns, high=True)]
    assert pulses(list(receive(spike, S0_BAUD, S0_BITS))) == 0
    at_ns = width_ns + 60 * NS_PER_MS + behind_ns
    pulse = [Edge(at_ns, high=False), Edge(at_ns + 35 * NS_PER_MS, high=True)]
    assert pulses(list(receive([*spike, *pulse], S0_BAUD, S0_BITS))) == 1


def test_the_first_six_bits_decide_and_no_others() -> None:
    assert [value for value in range(256) if IS_S0_PULSE[value]] == [0x00, 0x40, 0x80, 0xC0]
