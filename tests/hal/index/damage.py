"""What a bad line does to a meter's messages, from a seed."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random

Way = Callable[[bytes, Random], bytes]

RUN_MAX = 12  # bytes lost or doubled at once


def damaged(
    messages: Iterable[bytes], share: float, random: Random, ways: Sequence[Way] = ()
) -> Iterator[tuple[bytes, bool]]:
    """Each message as it arrives, and whether it is whole.

    Args:
        messages: as the meter sends them.
        share: of them that are damaged, 0 to 1.
        random: chooses which, and how.
        ways: what may happen to them; without any, all that is known here.
    """
    for message in messages:
        if random.random() >= share:
            yield message, True
            continue
        hurt = message
        while hurt == message:
            for _ in range(random.choice((1, 1, 1, 2, 3))):
                hurt = random.choice(ways or WAYS)(hurt or message, random)
        yield hurt, False


def pieces(data: bytes, random: Random) -> Iterator[bytes]:
    """As looks at a line bring them."""
    while data:
        size = random.choice((1, 2, 7, 64, 1000))
        yield data[:size]
        data = data[size:]


def _lose(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + data[at + random.randint(1, RUN_MAX) :]


def _double(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[: at + random.randint(1, RUN_MAX)] + data[at:]


def _flip(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1 :]


def _flip_twice(data: bytes, random: Random) -> bytes:
    """The same bit of two bytes close to each other: what a sum does not see when one rises."""
    at, bit = random.randrange(max(1, len(data) - 8)), 1 << random.randrange(4)
    other = min(len(data) - 1, at + random.randint(1, 8))
    hurt = bytearray(data)
    hurt[at] ^= bit
    hurt[other] ^= bit
    return bytes(hurt)


def _merge(data: bytes, random: Random) -> bytes:
    """Two bytes that were on the line at once."""
    at = random.randrange(max(1, len(data) - 1))
    return data[:at] + bytes([data[at] | data[min(at + 1, len(data) - 1)]]) + data[at + 2 :]


def swap(data: bytes, random: Random) -> bytes:
    """Two bytes that change places. No serial line does this, but a bad buffer may: neither a sum
    nor parity sees it."""
    at = random.randrange(max(1, len(data) - 1))
    return data[:at] + data[at : at + 2][::-1] + data[at + 2 :]


def _cut(data: bytes, random: Random) -> bytes:
    at = random.randrange(len(data))
    return data[:at] if random.random() < 0.5 else data[at:]


WAYS = (_lose, _double, _flip, _flip, _flip_twice, _merge, swap, _cut)
