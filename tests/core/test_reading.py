"""A meter's own index: what it has grown by counts in the step it was read in, and is transferred
by a close that it is young enough for."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.audit import audit
from cryptometer.authority_records import CountingSource, MeterDetails
from cryptometer.errors import Reason
from cryptometer.metrology import Side
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import step_start_ms
from tests.core.community import DETAILS, PULSE_UWH, STEP_S, Device, Village
from tests.core.refusing import refusing
from tests.keys import signer

WH = 10**6  # µWh
MORE: dict[str, Any] = {
    "serial": "SPEAKS-1",
    "source": CountingSource.INDEX,
    "constant": Fraction(1_000),  # the last digit is a watt-hour
    "lot_pulses": 1,
    "index_wh": 5_000,
}
INDEX = replace(DETAILS, **MORE)
LATCH_MS = 18_000  # class B: 2 % of 15 minutes
CLOCK_MS = 20  # error of the devices' clock


class Speaking:
    """A village in which one meter's index is read."""

    def __init__(self) -> None:
        self.village = Village()
        self.device = self.village.add_meter("speaks", **MORE)
        self.village.block()
        self.village.send(self.device.run_start(self.step, register=5_000))

    @property
    def step(self) -> int:
        return self.village.next_step

    def block(self) -> list[Reason | None]:
        """The next block; what it says of each of the meter's records."""
        return reasons_of(self.village, self.device)

    def read(self, index: int, age_ms: int = 1_000) -> Record:
        """Sends a reading of the next block's step, and its close."""
        reading = self.device.reading(self.step, index, age_ms)
        self.village.send(reading, self.device.close(self.step))
        return reading

    @property
    def amounts(self) -> tuple[int, int]:
        """What is not transferred yet, and what is; Wh."""
        meter = self.village.state.meters["speaks"]
        return meter.untransferred_uwh // WH, meter.transferred_uwh // WH


@pytest.fixture
def speaking() -> Speaking:
    return Speaking()


def test_a_step_has_what_the_index_has_grown_by(speaking: Speaking) -> None:
    speaking.read(5_120)
    assert speaking.block() == [None] * 3
    assert speaking.amounts == (0, 120)
    speaking.read(5_120)
    assert speaking.block() == [None] * 2
    assert speaking.amounts == (0, 120)


def test_steps_that_nobody_read_are_transferred_by_the_next_close(speaking: Speaking) -> None:
    speaking.read(5_100)
    speaking.block()
    speaking.block()
    speaking.block()
    speaking.read(5_400)
    assert speaking.block() == [None, None]
    assert speaking.amounts == (0, 400)
    close = speaking.village.checked[-1].verdicts[-1]
    assert close.since_step == speaking.step - 4


@pytest.mark.parametrize("late_ms", [0, 1])
def test_a_reading_tells_its_step_while_it_is_younger_than_the_mpe_allows(
    speaking: Speaking, late_ms: int
) -> None:
    speaking.read(5_100, LATCH_MS - CLOCK_MS + late_ms)
    assert speaking.block() == [None, None, Reason.STALE_READING if late_ms else None]
    assert speaking.amounts == ((100, 0) if late_ms else (0, 100))
    speaking.read(5_150)
    assert speaking.block() == [None, None]
    assert speaking.amounts == (0, 150)


def test_a_close_without_a_reading_is_stale(speaking: Speaking) -> None:
    speaking.village.send(speaking.device.close(speaking.step))
    assert speaking.block() == [None, Reason.STALE_READING]


def test_a_guard_leaves_less_time() -> None:
    ratings = replace(INDEX, guard=Fraction(1, 10)).ratings
    assert (INDEX.ratings.latch_ms(STEP_S), ratings.latch_ms(STEP_S)) == (LATCH_MS, 1_800)


def test_a_reading_more_in_a_step_adds_to_it(speaking: Speaking) -> None:
    early = speaking.device.reading(speaking.step, 5_040, 600_000)
    speaking.village.send(early)
    speaking.read(5_100)
    speaking.block()
    assert speaking.amounts == (0, 100)


def test_an_index_that_goes_back_does_not_continue_the_chain(speaking: Speaking) -> None:
    with refusing(Reason.REGISTER_MISMATCH, "index 4999 is below 5000"):
        speaking.village.send(speaking.device.reading(speaking.step, 4_999))


def test_another_source_is_compared_and_moves_nothing(speaking: Speaking) -> None:
    other = speaking.device.reading(speaking.step, 7, counting=False, source="modbus")
    speaking.village.send(other)
    speaking.read(5_060)
    assert speaking.block() == [None] * 4
    assert speaking.amounts == (0, 60)


def test_a_reading_outside_its_step_does_not_count(speaking: Speaking) -> None:
    speaking.village.send(
        speaking.device.reading(speaking.step, 5_001, -1),
        speaking.device.reading(speaking.step, 5_002, STEP_S * 1_000 + 1),
        speaking.device.reading(speaking.step, 5_003, STEP_S * 1_000),
        speaking.device.reading(speaking.step, 5_005, 0),
    )
    assert speaking.block() == [None, Reason.WRONG_STEP, Reason.WRONG_STEP, None, None]
    assert speaking.amounts == (3, 0)


def test_each_source_has_its_records(speaking: Speaking) -> None:
    village, pulses = speaking.village, speaking.village.device
    step = village.next_step
    village.send(pulses.run_start(step), pulses.reading(step, 10))
    village.send(speaking.device.batch(step, 1))
    checked = village.block()
    wrong = [verdict.reason for verdict in checked.verdicts if verdict.reason]
    assert wrong == [Reason.WRONG_SOURCE, Reason.WRONG_SOURCE]


def test_what_counted_before_counts_no_more_once_the_other_source_is_in_force() -> None:
    # Or the same energy could come twice: as pulses, and with an index a re-anchor begins with.
    village = Village()
    device, step = village.device, village.next_step
    pulses = device.registration
    village.send(device.run_start(step), *device.step(step, 3))
    record = village.authority.register(
        Role.METER, device.name, device.signer.public, INDEX, step + 1
    )
    village.govern(record)
    assert not [one.reason for one in village.block().verdicts if one.reason]
    late, lots = device.batch(step, 2), device.batch(step + 1, 3)
    reading = device.reading(step + 1, 10, registration=record.identity)
    wrong = device.reading(step + 1, 11, registration=pulses)
    village.send(late, lots, reading, wrong)
    reasons = [one.reason for one in village.block().verdicts]
    assert reasons == [
        Reason.STEP_CLOSED, Reason.WRONG_SOURCE, Reason.NOT_ANCHORED, Reason.WRONG_SOURCE
    ]  # fmt: skip


def register(village: Village, device: Device, details: MeterDetails) -> Record:
    """The meter is registered anew, from the next block's step on."""
    record = village.authority.register(
        Role.METER, device.name, device.signer.public, details, village.next_step + 1
    )
    village.govern(record)
    return record


def re_anchor(village: Village, device: Device) -> Record:
    """The authority has the chain go on where it stands."""
    anchor = village.authority.re_anchor(device.name, device.sequence, device.register)
    village.govern(anchor)
    return anchor


def reasons_of(village: Village, device: Device) -> list[Reason | None]:
    """The next block; what it says of each of the device's records."""
    return [
        one.reason
        for one in village.block().verdicts
        if one.record.key_id == device.signer.public.thumbprint
    ]


def test_another_unit_counts_only_behind_a_re_anchor_and_nothing_else_is_held_up(
    speaking: Speaking,
) -> None:
    village, device = speaking.village, speaking.device
    speaking.read(5_100)
    finer = register(village, device, replace(INDEX, constant=Fraction(10_000)))
    assert speaking.block() == [None] * 3
    device.registration = finer.identity
    for index in (51_200, 51_300):
        speaking.read(index)
        assert speaking.block() == [Reason.NOT_ANCHORED, Reason.STALE_READING]
    assert speaking.amounts == (0, 100)
    set_aside = village.state.meters["speaks"].quarantined_uwh
    assert set_aside == (51_300 - 5_100) * WH // 10
    anchor = re_anchor(village, device)
    assert speaking.block() == []
    device.go_on_from(anchor)
    speaking.read(51_350)
    assert speaking.block() == [None, None]
    assert speaking.amounts == (0, 105)
    assert village.state.meters["speaks"].quarantined_uwh == set_aside
    assert audit(village.files().get, village.community()).state == village.state


def test_a_re_anchor_before_the_change_is_no_leave_for_it(speaking: Speaking) -> None:
    village, device = speaking.village, speaking.device
    speaking.read(5_100)
    speaking.block()
    anchor = re_anchor(village, device)
    finer = register(village, device, replace(INDEX, constant=Fraction(10_000)))
    speaking.block()
    device.go_on_from(anchor)
    device.registration = finer.identity
    speaking.read(5_200)
    assert speaking.block() == [Reason.NOT_ANCHORED, Reason.STALE_READING]


def test_what_was_read_before_the_change_still_counts_behind_its_re_anchor(
    speaking: Speaking,
) -> None:
    village, device = speaking.village, speaking.device
    old, before = device.registration, speaking.step
    speaking.block()
    finer = register(village, device, replace(INDEX, constant=Fraction(10_000)))
    anchor = re_anchor(village, device)
    assert speaking.block() == []
    device.go_on_from(anchor)
    village.send(device.reading(before, 5_020), device.close(before))
    new = speaking.step
    village.send(device.reading(new, 5_300, registration=finer.identity))
    village.send(device.reading(new, 5_400, registration=old))
    assert speaking.block() == [None, None, None, Reason.WRONG_UNIT]
    assert speaking.amounts == (28, 20)


def test_a_chain_is_in_the_unit_of_the_registration_that_it_begins_with() -> None:
    for begins_with in (0, 1):
        village = Village()
        device = village.add_meter("speaks", **MORE)
        village.block()
        finer = register(village, device, replace(INDEX, constant=Fraction(10_000), index_wh=500))
        village.block()
        registrations = (device.registration, finer.identity)
        device.previous = registrations[begins_with]
        device.registration = finer.identity
        village.send(device.run_start(village.next_step, register=5_000))
        village.send(device.reading(village.next_step, 5_010))
        reason = (Reason.NOT_ANCHORED, None)[begins_with]
        assert reasons_of(village, device) == [None, reason]
        village.send(device.reading(village.next_step, 5_020))  # and in the blocks after
        assert reasons_of(village, device) == [reason]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accuracy_class": "A", "i_max_ma": 80_000}, None),
        ({"ratio": Fraction(40)}, None),  # of the ratings only: the constant is a primary one
        ({"ratio": Fraction(40), "constant_side": Side.SECONDARY}, Reason.WRONG_UNIT),
    ],
)
def test_an_older_registration_counts_while_a_digit_is_worth_the_same(
    speaking: Speaking, change: dict[str, Any], reason: Reason | None
) -> None:
    village, device = speaking.village, speaking.device
    speaking.read(5_100)
    newer = register(village, device, replace(INDEX, **change))
    speaking.block()
    speaking.read(5_150)
    assert speaking.block() == [reason, Reason.STALE_READING if reason else None]
    device.registration = newer.identity
    speaking.read(5_160)
    assert speaking.block() == [None, None]


def test_another_source_counts_only_behind_a_re_anchor_in_both_directions() -> None:
    village = Village()
    device, step = village.device, village.next_step
    village.send(device.run_start(step), *device.step(step, 3))
    village.block()
    for details in (replace(INDEX, serial=DETAILS.serial), DETAILS):
        newer = register(village, device, details)
        assert reasons_of(village, device) == []
        device.registration = newer.identity
        is_index = details.source is CountingSource.INDEX

        def count(step: int, *, is_index: bool = is_index) -> Record:
            return device.reading(step, device.register + 5) if is_index else device.batch(step, 5)

        village.send(count(village.next_step))
        assert reasons_of(village, device) == [Reason.NOT_ANCHORED]
        anchor = re_anchor(village, device)
        village.block()
        device.go_on_from(anchor)
        step = village.next_step
        village.send(count(step), device.close(step))
        assert reasons_of(village, device) == [None, None]
    assert village.state.meters["m0"].transferred_uwh == 3 * PULSE_UWH + 5 * WH + 5 * PULSE_UWH


@pytest.mark.parametrize("is_same_step", [False, True])
def test_pulses_of_a_step_that_is_not_closed_are_not_transferred_by_the_first_index(
    is_same_step: bool,
) -> None:
    village = Village()
    device, step = village.device, village.next_step
    village.send(device.run_start(step), device.batch(step, 3))
    newer = village.authority.register(
        Role.METER, device.name, device.signer.public, INDEX, step if is_same_step else step + 1
    )
    village.govern(newer, village.authority.re_anchor(device.name, 2, 3))
    village.block()
    device.go_on_from(village.blocks[-1][1])
    device.registration = newer.identity
    step = step if is_same_step else village.next_step
    village.send(device.reading(step, 10), device.close(step))
    assert reasons_of(village, device) == [None, None]
    meter = village.state.meters["m0"]
    left = 0 if is_same_step else 3 * PULSE_UWH
    assert meter.untransferred_uwh == left
    assert meter.transferred_uwh == 7 * WH + 3 * PULSE_UWH - left


def test_an_index_of_a_step_that_is_not_closed_is_not_transferred_by_the_first_pulses(
    speaking: Speaking,
) -> None:
    village, device = speaking.village, speaking.device
    village.send(device.reading(speaking.step, 5_100))
    pulses = register(village, device, replace(DETAILS, serial="SPEAKS-1"))
    anchor = re_anchor(village, device)
    speaking.block()
    device.go_on_from(anchor)
    device.registration = pulses.identity
    step = speaking.step
    village.send(device.batch(step, 4), device.close(step))
    assert speaking.block() == [None, None]
    assert village.state.meters["speaks"].transferred_uwh == 4 * PULSE_UWH
    assert village.state.meters["speaks"].untransferred_uwh == 100 * WH


def test_what_lies_below_the_registered_index_is_no_energy_and_the_next_reading_counts() -> None:
    """A board that began with the 0 that its meter said when it was switched on."""
    village = Village()
    device = village.add_meter("speaks", **MORE)
    village.block()
    step = village.next_step
    village.send(device.run_start(step, register=0), device.reading(step, 0), device.close(step))
    assert reasons_of(village, device) == [None, Reason.BELOW_REGISTERED, Reason.STALE_READING]
    for index, reason in ((4_999, Reason.BELOW_REGISTERED), (5_060, Reason.BELOW_REGISTERED)):
        step = village.next_step
        village.send(device.reading(step, index), device.close(step))
        assert reasons_of(village, device) == [reason, Reason.STALE_READING]
    step = village.next_step
    village.send(device.reading(step, 5_100), device.close(step))
    assert reasons_of(village, device) == [None, None]
    meter = village.state.meters["speaks"]
    assert (meter.transferred_uwh, meter.quarantined_uwh) == (40 * WH, 5_060 * WH)
    assert audit(village.files().get, village.community()).state == village.state


@pytest.mark.parametrize(("again_wh", "reason"), [(5_000, None), (5_001, Reason.BELOW_REGISTERED)])
def test_the_newest_registration_says_what_a_chain_may_begin_with(
    again_wh: int, reason: Reason | None
) -> None:
    village = Village()
    device = village.add_meter("speaks", **MORE | {"index_wh": 0})
    village.block()
    register(village, device, replace(INDEX, index_wh=again_wh))
    village.block()
    step = village.next_step
    village.send(device.run_start(step, register=5_000), device.reading(step, 5_010))
    assert reasons_of(village, device) == [None, reason]


def test_a_display_that_is_read_anew_sets_nothing_aside(speaking: Speaking) -> None:
    speaking.read(5_100)
    speaking.block()
    register(speaking.village, speaking.device, replace(INDEX, index_wh=5_130))
    speaking.block()
    speaking.read(5_120)
    assert speaking.block() == [None, None]


def test_behind_a_re_anchor_an_index_may_begin_anywhere() -> None:
    village = Village()
    device = village.add_meter("speaks", **MORE)
    village.block()
    village.send(device.run_start(village.next_step, register=7))
    village.block()
    anchor = re_anchor(village, device)
    village.block()
    device.go_on_from(anchor)
    village.send(device.reading(village.next_step, 20))
    assert reasons_of(village, device) == [None]


def test_a_register_of_pulses_may_begin_anywhere() -> None:
    village = Village()
    device, step = village.device, village.next_step
    village.send(device.run_start(step), *device.step(step, 3))
    assert not [one.reason for one in village.block().verdicts if one.reason]
    assert village.state.meters[device.name].floor is None


@given(
    st.integers(0, 2**40),
    st.fractions(1, 1_000_000, max_denominator=1_000),
    st.lists(st.integers(0, 2**20), min_size=1, max_size=6),
)
def test_no_more_counts_than_the_index_has_grown_by_since_it_was_registered(
    registered_wh: int, constant: Fraction, growths: list[int]
) -> None:
    """Whatever a board says that its meter began with."""
    village = Village()
    details = MORE | {"index_wh": registered_wh, "constant": constant, "i_max_ma": 6_500_000}
    device = village.add_meter("speaks", **details)
    village.block()
    floor = int(registered_wh * constant / 1_000)
    begins = max(0, min(floor, 2**44) - sum(growths) // 2)
    village.send(device.run_start(village.next_step, register=begins))
    index = begins
    energies: list[int] = []
    for growth in growths:
        index += growth
        village.send(device.reading(village.next_step, index))
        energies += [
            verdict.energy_uwh
            for verdict in village.block().verdicts
            if verdict.record.body.KIND == "reading" and verdict.reason is None
        ]
    meter = village.state.meters["speaks"]
    worth = meter.terms[-1].energy_uwh
    assert sum(energies) == meter.untransferred_uwh <= max(0, worth(max(floor, begins), index))
    assert meter.quarantined_uwh == worth(begins, index) - meter.untransferred_uwh


def sinces(village: Village) -> list[int | None]:
    """What the next block says of each record: since which step its energy is, where not of one."""
    return [verdict.since_step for verdict in village.block().verdicts]


def test_a_close_behind_steps_that_nobody_read_says_since_when_its_energy_is(
    speaking: Speaking,
) -> None:
    speaking.read(5_100)
    assert sinces(speaking.village) == [None] * 3
    speaking.read(5_200)
    assert sinces(speaking.village) == [None, None]
    closed = speaking.village.state.step
    assert sinces(speaking.village) == []
    speaking.read(5_300)
    assert sinces(speaking.village) == [None, closed]
    assert sinces(speaking.village) == []
    speaking.read(5_300)  # behind a step that nobody read, and of no energy
    assert sinces(speaking.village) == [None, None]


def test_pulses_are_of_their_step_whatever_was_missed_before() -> None:
    village = Village()
    village.run((8,))
    village.block()
    village.send(*village.device.step(village.next_step, 5))
    assert sinces(village) == [None, None]


def test_an_index_counts_from_nothing_where_nothing_was_shown() -> None:
    village = Village()
    device = village.add_meter("new", **MORE | {"index_wh": 0})
    village.block()
    village.send(device.run_start(village.next_step), device.reading(village.next_step, 0))
    assert reasons_of(village, device) == [None, None]


def test_an_unknown_registration_does_not_count(speaking: Speaking) -> None:
    speaking.village.send(speaking.device.reading(speaking.step, 5_001, registration=bytes(32)))
    assert speaking.block() == [None, Reason.UNKNOWN_REGISTRATION]


def test_more_than_a_life_of_energy_is_refused(speaking: Speaking) -> None:
    with refusing(Reason.IMPLAUSIBLE):
        speaking.village.send(speaking.device.reading(speaking.step, 2**60))


def test_a_registration_of_an_index_has_no_lots(speaking: Speaking) -> None:
    village = speaking.village
    lots = replace(INDEX, serial="SPEAKS-2", lot_pulses=2)
    village.govern(village.authority.register(Role.METER, "lots", signer(51).public, lots))
    village.block()
    assert "lots" not in village.state.meters


def test_the_ledger_is_audited_and_energy_is_conserved(speaking: Speaking) -> None:
    for index in (5_100, 5_100, 5_350):
        speaking.read(index)
        speaking.block()
    report = audit(speaking.village.files().get, speaking.village.community())
    assert report.kinds["reading"] == 3
    assert report.state.balance.waiting == 350 * WH
    moment = step_start_ms(speaking.step, STEP_S) - 1_000
    assert report.state.meters["speaks"].read_ms == moment
