"""A simulated meter's day on a bad line, through its decoder, until its readings are believed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from cryptometer.steps import NS_PER_S
from hal.index.plausible import Limits, Plausible
from hal.index.reading import IndexDecoder, Reading, Register
from tests.hal.index.damage import Way, damaged

WH_NS = 3_600 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Lived:
    """What became of a day.

    Attributes:
        messages: that the meter sent.
        whole: of them arrived as they were sent.
        believed: of those, how many gave a reading that counts.
        wrong: readings that count and say what the meter did not.
    """

    messages: int
    whole: int
    believed: int
    wrong: tuple[Reading, ...]


def live(
    decoder: IndexDecoder,
    limits: Limits,
    message: Callable[[int, int, int], bytes],
    *,
    messages: int,
    period_ns: int,
    share: float,
    seed: int,
    ways: Sequence[Way] = (),
) -> Lived:
    """
    Args:
        message: as the meter sends it, from its index, Wh, its power, W, and the number of whole
            seconds passed.
        messages: how many the day has.
        share: of them that are damaged.
        ways: as of `damaged`.
    """
    random = Random(seed)
    gate = Plausible(limits)
    truth: list[int] = []
    whole, believed, wrong = set(), set(), []
    sent = _sent(message, limits.power_w, truth, messages, period_ns, Random(seed + 1))
    for number, (came, is_whole) in enumerate(damaged(sent, share, random, ways)):
        if is_whole:
            whole.add(number)
        half = random.randrange(len(came) + 1)
        at_ns = number * period_ns
        read = decoder.receive(came[:half], at_ns)
        read += decoder.receive(came[half:], at_ns + period_ns // 2)
        for one in read:
            if isinstance(one, Reading):
                for good in gate.judge(one):
                    if isinstance(good, Reading):
                        first, last = good.began_ns // period_ns, good.ended_ns // period_ns
                        believed.add(last)
                        if _wh(good, limits.register) not in truth[first : last + 1]:
                            wrong.append(good)
    return Lived(messages, len(whole), len(whole & believed), tuple(wrong))


def _sent(
    message: Callable[[int, int, int], bytes],
    power_max_w: int,
    truth: list[int],
    messages: int,
    period_ns: int,
    random: Random,
) -> Iterator[bytes]:
    """A day's messages; what each says is put down in `truth`, Wh."""
    used = random.randrange(10**6) * WH_NS  # in W · ns
    power_w = 0
    for number in range(messages):
        if number % 40 == 0:
            power_w = random.choice((0, random.randrange(300), random.randrange(power_max_w)))
        used += power_w * period_ns
        truth.append(used // WH_NS)
        yield message(truth[-1], power_w, number * period_ns // NS_PER_S)


def _wh(reading: Reading, register: Register) -> int | None:
    index = reading.index_of(register)
    return None if index is None else index.uwh // 10**6
