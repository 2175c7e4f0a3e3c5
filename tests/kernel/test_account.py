"""The account of pulses lets no loss beyond what is stated pass, and no pulse that counts twice."""

from dataclasses import replace

import pytest

from cryptometer.chain_records import ChainRecord
from cryptometer.steps import NS_PER_MS
from tests.core.community import Village
from tests.kernel.account import Account, Life, counted, settle
from tests.kernel.plan import read_story

BOUND_NS = 1_000 * NS_PER_MS
GAP_NS = 100 * NS_PER_MS


def life(*, origin_ms: int, pulses: int = 100, is_cut: bool = True) -> Life:
    """A boot that was launched at once, watched from the 11th pulse on, and went on for 10 s."""
    times = tuple(number * GAP_NS for number in range(1, pulses + 1))
    return Life(0, 11 * GAP_NS if pulses else 0, times, origin_ms, 1, is_cut)


def scene(*registers: int) -> tuple[list[ChainRecord], list[Life]]:
    """Runs that stood at these registers when each boot ended; and the boots, of 100 pulses each,
    the last of them in order and without any."""
    village = Village()
    device, step = village.device, village.next_step
    records, lives, before = [], [], 0
    for number, register in enumerate(registers):
        at_ms = step * 900_000 + number * 60_000
        records.append(device.run_start(step, at_ms=at_ms))
        if register > before:
            records.append(device.batch(step, register - before))
        before = register
        lives.append(life(origin_ms=at_ms))
    lives[-1] = replace(lives[-1], pulses_ns=(), is_cut=False)
    bodies = [record.body for record in records]
    return [body for body in bodies if isinstance(body, ChainRecord)], lives


def test_what_came_within_the_bound_before_a_cut_may_be_lost() -> None:
    chain, lives = scene(80, 160, 160)
    assert counted(chain) == 160
    # Of each boot 10 came before it watched; of the other 90 another 10 are missing.
    assert settle(chain, lives, BOUND_NS) == Account(200, 160, 20, 20, 900)


@pytest.mark.parametrize(
    ("registers", "words"),
    [
        ((79, 179, 179), "boot 0: counted 79, and not 80"),
        ((101, 190, 190), "boot 0: counted 101 of 100"),
        ((90, 191, 191), "boot 1: counted 101 of 100"),
        ((90, 180, 181), "boot 2: counted 1 of 0"),
    ],
)
def test_one_pulse_too_few_or_too_many_is_seen(registers: tuple[int, ...], words: str) -> None:
    chain, lives = scene(*registers)
    with pytest.raises(AssertionError, match=words):
        settle(chain, lives, BOUND_NS)


def test_nothing_may_be_lost_of_a_boot_that_ended_in_order() -> None:
    chain, lives = scene(90, 180, 180)
    settle(chain, [replace(lives[0], is_cut=False), *lives[1:]], BOUND_NS)
    chain, lives = scene(89, 180, 180)
    settle(chain, lives, BOUND_NS)
    with pytest.raises(AssertionError, match="counted 89, and not 90"):
        settle(chain, [replace(lives[0], is_cut=False), *lives[1:]], BOUND_NS)


def test_a_boot_without_a_run_has_lost_all_that_it_watched() -> None:
    chain, lives = scene(80, 160, 160)
    bodies = [chain[0], chain[1], chain[4]]  # as if the second run had never become durable
    with pytest.raises(AssertionError, match="boot 1: counted 0, and not 80"):
        settle([bodies[0], bodies[1], replace(bodies[2], register=80)], lives, BOUND_NS)
    early = replace(lives[1], pulses_ns=lives[1].pulses_ns[:19])
    last = replace(bodies[2], register=80)
    account = settle([*bodies[:2], last], [lives[0], early, lives[2]], BOUND_NS)
    assert account.cut_off == 10 + 9


def test_of_what_a_guest_tells_only_whole_lines_count() -> None:
    assert read_story("a=1\nb=2\na=3\nc=4") == {"a": 3, "b": 2}
    assert read_story("a") == {}
