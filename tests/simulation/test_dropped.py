"""What is refused for good is what was dropped and is not said anew, each record once."""

import pytest

from cryptometer.record_fields import Role
from cryptometer.records import Record
from tests.core.community import DETAILS, FIRST_STEP, Authority, Device
from tests.keys import signer
from tests.simulation.dropped import Dropped, pulses_of

PULSES = (1, 2, 4, 8)
NEWEST = FIRST_STEP + 3  # the step of the newest block when something is dropped


class Meter:
    """A meter's chain, and what is said anew of it behind re-anchors."""

    def __init__(self) -> None:
        self.authority = Authority(signer(1))
        record = self.authority.register(Role.METER, "m0", signer(10).public, DETAILS)
        self.device = Device(self.authority.genesis.identity, "m0", signer(10), record)
        self.start = self.device.run_start(FIRST_STEP)

    def say(self, begin: int = 0, end: int = len(PULSES)) -> list[Record]:
        """A batch for each of these steps, and a close behind the last."""
        said = [self.device.batch(FIRST_STEP + at, PULSES[at]) for at in range(begin, end)]
        return [*said, self.device.close(FIRST_STEP + end - 1)]

    def re_anchor(self, at: int) -> None:
        self.device.go_on_from(self.authority.re_anchor("m0", at, 100))


@pytest.fixture
def meter() -> Meter:
    return Meter()


def test_what_comes_again_as_it_was_is_not_refused(meter: Meter) -> None:
    dropped, said = Dropped(), meter.say()
    dropped.drop(said, NEWEST)
    assert dropped.arrive(meter.start, NEWEST + 1, behind_anchor=False) == []
    assert dropped.records == said
    for record in said:
        assert dropped.arrive(record, NEWEST + 1, behind_anchor=False) == []
    assert (dropped.records, dropped.refused) == ([], 0)


@pytest.mark.parametrize("held_from", range(5))
def test_behind_a_re_anchor_what_is_not_said_anew_is_refused(meter: Meter, held_from: int) -> None:
    dropped, said = Dropped(), meter.say()
    dropped.drop(said, NEWEST)
    meter.re_anchor(1)
    anew = meter.say(held_from)
    assert dropped.arrive(anew[0], NEWEST + 1, behind_anchor=True) == said[:held_from]
    for record in anew[1:]:
        assert dropped.arrive(record, NEWEST + 1, behind_anchor=False) == []
    assert dropped.refused == sum(PULSES[:held_from])
    assert dropped.records == []


def test_what_is_new_behind_a_re_anchor_says_that_all_is_refused(meter: Meter) -> None:
    dropped, said = Dropped(), meter.say()
    dropped.drop(said, NEWEST)
    meter.re_anchor(1)
    new = meter.device.batch(FIRST_STEP + 9, 3)
    assert dropped.arrive(new, NEWEST + 1, behind_anchor=True) == said
    assert (dropped.records, dropped.refused) == ([], sum(PULSES))


@pytest.mark.parametrize("held", range(1, 5))
def test_what_goes_with_a_block_stands_behind_what_that_block_holds(
    meter: Meter, held: int
) -> None:
    """Behind a re-anchor a block holds a part of what was dropped before, and its commit drops the
    rest again for a revocation that the block holds, too."""
    dropped, said = Dropped(), meter.say()
    dropped.drop(said, NEWEST)
    meter.re_anchor(1)
    anew = meter.say()
    dropped.drop(anew[held:], NEWEST + 1)
    for record in anew[:held]:
        is_first = record is anew[0]
        assert dropped.arrive(record, NEWEST + 1, behind_anchor=is_first) == []
    assert (dropped.records, dropped.refused) == (anew[held:], 0)
    for record in anew[held:]:
        assert dropped.arrive(record, NEWEST + 2, behind_anchor=False) == []
    assert (dropped.records, dropped.refused) == ([], 0)


def test_what_goes_with_a_block_is_not_what_its_first_record_behind_a_re_anchor_refuses(
    meter: Meter,
) -> None:
    """The one before the first is left out; those behind it were never dropped until now."""
    dropped, said = Dropped(), meter.say()
    meter.re_anchor(1)
    anew = meter.say()
    dropped.drop(said[:1], NEWEST)
    dropped.drop(anew[2:], NEWEST + 1)
    assert dropped.arrive(anew[1], NEWEST + 1, behind_anchor=True) == said[:1]
    assert (dropped.records, dropped.refused) == (anew[2:], PULSES[0])
    # A later block that begins behind another re-anchor still refuses what it leaves out.
    meter.re_anchor(1)
    new = meter.device.batch(FIRST_STEP + 9, 3)
    assert dropped.arrive(new, NEWEST + 2, behind_anchor=True) == anew[2:]
    assert dropped.refused == PULSES[0] + PULSES[2] + PULSES[3]


def test_what_is_dropped_twice_is_refused_once(meter: Meter) -> None:
    """As it was, in part; then said anew in part, and with something new; then not at all."""
    dropped, said = Dropped(), meter.say()
    dropped.drop(said, NEWEST)
    dropped.drop(said[:2], NEWEST)
    assert dropped.records == said
    meter.re_anchor(1)
    anew = meter.say(2)
    more = meter.device.batch(FIRST_STEP + 9, 3)
    dropped.drop([*anew, more], NEWEST)
    assert dropped.records == [*said[:2], *anew, more]
    meter.re_anchor(1)
    new = meter.device.batch(FIRST_STEP + 10, 5)
    assert len(dropped.arrive(new, NEWEST + 1, behind_anchor=True)) == 6
    assert dropped.refused == sum(PULSES) + 3


def test_only_batches_hold_pulses(meter: Meter) -> None:
    assert [pulses_of(record) for record in (meter.start, *meter.say())] == [0, *PULSES, 0]
