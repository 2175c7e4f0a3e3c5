"""What a UART makes of a line: edges in, characters out. And the edges of a bouncing contact.

A model, for the `s0` pulse line, its simulation and its proof. No clock, no device, no randomness
of its own. Times are nanoseconds on one scale. A line rests high; a closed contact pulls it low.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from cryptometer.steps import NS_PER_MS, NS_PER_S

# IEC 62053-31: a contact is closed, and open, for at least this long, ...
S0_LEAST_NS = 30 * NS_PER_MS
S0_BOUNCE_NS = 5 * NS_PER_MS  # ... and its transition, with all its bounce, is shorter than this.

# Why 300 baud, and why six data bits decide. A start bit begins at some edge of the closing bounce,
# s < 5 ms after the first contact. Data bit i is sampled at s + 5 ms + i · 3.33 ms: the first when
# the bounce is over, whichever edge of it was taken for the start; the sixth at s + 21.7 ms, still
# inside the shortest pulse. So each pulse gives one character with these six bits low, and what a
# spike of less than 20 ms starts has a high one. Later bits may fall into the opening bounce (0x80,
# 0x40, 0xC0 in an eight-bit character), and so may the stop bit: neither decides anything.
#
# With the stop bit low the character is a break: delivered once, however long the pulse, and the
# receiver waits for the line to rise. The opening bounce may start another character: its samples
# lie behind the bounce, all high (0x3F). Between two counted characters the line was always high,
# so that no pulse is counted twice, whatever disturbs it.
#
# Six is also the right length. Such a character is over 28.3 ms after the contact began to open,
# before the next pulse can begin. One of eight bits may reach into a pulse that comes within 37 ms
# and lose its stop bit there; that pulse is then missed or not, as the receiver goes on. So a line
# is asked for six bits. Where it has only seven (a Raspberry Pi's mini UART) or eight (FTDI), the
# same six bits decide, exactly for contacts that stay open for 37 ms.
#
# What is left: a spike less than 25 ms before a pulse of less than 50 ms can hide it in one
# character that began too early. That character is noise, and declared.
S0_BAUD = 300
S0_BITS = 6
_S0_MASK = (1 << S0_BITS) - 1
IS_S0_PULSE = bytes(not value & _S0_MASK for value in range(256))  # for bytes.translate


def s0_pulses(received: bytes) -> int:
    """How many of the characters that were received at S0_BAUD are pulses."""
    return sum(received.translate(IS_S0_PULSE))


_BOUNCES_MAX = 6  # pairs of edges within one transition


class Resync(StrEnum):
    """What a receiver does after a character without a stop bit that is no break."""

    START = "start"  # takes the low stop bit for the next start bit (16550)
    LEVEL = "level"  # looks for a start bit at once; a line that is low is one
    EDGE = "edge"  # waits for the line to rise first


@dataclass(frozen=True, slots=True)
class Edge:
    """The line changes, or is set again, to a level."""

    at_ns: int
    high: bool


@dataclass(frozen=True, slots=True)
class Contact:
    """A contact that closes at `closed_ns`, for `width_ns` until it begins to open."""

    closed_ns: int
    width_ns: int


@dataclass(frozen=True, slots=True)
class Character:
    """What a receiver delivers.

    Attributes:
        at_ns: when: the middle of the stop bit.
        data: the data bits, the first one sampled lowest.
        framed: the stop bit was high.
    """

    at_ns: int
    data: int
    framed: bool


def contact_edges(
    contacts: Iterable[Contact], bounce_ns: int, draw: Callable[[int], int]
) -> Iterator[Edge]:
    """The line under a contact that bounces for up to `bounce_ns` at each transition.

    Args:
        contacts: in order of time, each after the opening bounce of the one before.
        bounce_ns: 0 for a contact that does not bounce.
        draw: gives a whole number from 0 to its argument, inclusive.
    """
    for contact in contacts:
        yield from _transition(contact.closed_ns, bounce_ns, draw, high=False)
        yield from _transition(contact.closed_ns + contact.width_ns, bounce_ns, draw, high=True)


def _transition(
    at_ns: int, bounce_ns: int, draw: Callable[[int], int], *, high: bool
) -> Iterator[Edge]:
    yield Edge(at_ns, high)
    if bounce_ns:
        times = sorted(draw(bounce_ns) for _ in range(2 * draw(_BOUNCES_MAX)))
        for number, later_ns in enumerate(times):
            yield Edge(at_ns + later_ns, high == bool(number % 2))


def receive(
    edges: Iterable[Edge], baud: int, bits: int = 8, resync: Resync = Resync.START
) -> Iterator[Character]:
    """What a receiver set to `baud`, no parity, one stop bit delivers.

    A start bit that is high again in its middle is dropped. Bits are sampled once, in their middle.
    A character of zeros without a stop bit is a break: it is delivered once, and the next start bit
    is looked for after the line rose.
    """
    line = _Line(edges)
    start_ns = line.fall_ns(0)
    while start_ns is not None:
        if line.is_high(_middle_ns(start_ns, 0, baud)):
            start_ns = line.fall_ns(_middle_ns(start_ns, 0, baud))
            continue
        data = 0
        for bit in range(bits):
            data |= line.is_high(_middle_ns(start_ns, 1 + bit, baud)) << bit
        stop_ns = _middle_ns(start_ns, 1 + bits, baud)
        framed = line.is_high(stop_ns)
        yield Character(stop_ns, data, framed)
        if framed or (data and resync is Resync.LEVEL):
            start_ns = line.fall_ns(stop_ns)
        elif data and resync is Resync.START:
            start_ns += (1 + bits) * NS_PER_S // baud
        else:
            risen_ns = line.rise_ns(stop_ns)
            start_ns = None if risen_ns is None else line.fall_ns(risen_ns)


def _middle_ns(start_ns: int, position: int, baud: int) -> int:
    """The middle of a bit; position 0 is the start bit."""
    return start_ns + (2 * position + 1) * NS_PER_S // (2 * baud)


class _Line:
    """The level over time. Asked in order of time only, so that the edges may be without end."""

    def __init__(self, edges: Iterable[Edge]) -> None:
        self._edges = iter(edges)
        self._next = next(self._edges, None)
        self._high = True

    def is_high(self, at_ns: int) -> bool:
        while self._next is not None and self._next.at_ns <= at_ns:
            self._high = self._next.high
            self._next = next(self._edges, None)
        return self._high

    def fall_ns(self, from_ns: int) -> int | None:
        """The first moment from `from_ns` on at which the line is low."""
        return self._first_ns(from_ns, high=False)

    def rise_ns(self, from_ns: int) -> int | None:
        """The first moment from `from_ns` on at which the line is high."""
        return self._first_ns(from_ns, high=True)

    def _first_ns(self, from_ns: int, *, high: bool) -> int | None:
        at_ns = from_ns
        while self.is_high(at_ns) is not high:
            if self._next is None:
                return None
            at_ns = self._next.at_ns
        return at_ns
