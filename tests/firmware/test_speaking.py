"""A device whose meter says its index itself: real device and gateway in one process."""

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import pytest

from cryptometer.authority_records import CountingSource
from cryptometer.chain_records import ChainRecord, Mark, Reading, RunStart, StepClose
from cryptometer.record_fields import Role
from cryptometer.steps import NS_PER_S
from firmware.events import Read
from firmware.journal import Journal
from firmware.listening import Spoken, SpokenLine, spoken_of
from hal import files
from hal.index import reading as said
from hal.index.reading import Caveat, Index, Past, Refusal, Refused, Register, Remembering
from hal.ports import Heard, LineLost, PulseSource
from tests.core.community import DETAILS, FIRST_STEP, STEP_S
from tests.simulation.world import CONFIG, Board, World

WH = 10**6  # µWh
FIRST_WH = 5_000_000  # what the meter shows when the board is put up
DETAILS_INDEX = replace(
    DETAILS, source=CountingSource.INDEX, constant=Fraction(1_000), lot_pulses=1
)
SOURCE = {
    "driver": "sim-index",
    "register": "export",
    "identity": "meter-1",
    "settle_machine_ms": 2_000,
}
SPOKEN = Spoken(Register.EXPORT, "meter-1", Fraction(WH), 45_000, 2 * NS_PER_S)


class SpeakingMeter:
    """A meter that says its index with every look at its line, and the line."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.wh = FIRST_WH
        self.identity = "meter-1"
        self.says: list[said.Reading | Refusal] = []
        self.is_silent = False
        self.caveats: frozenset[Caveat] = frozenset()
        self.due_ns = None
        self.memory: Remembering | None = None
        self.stamps = False

    def fileno(self) -> int:
        return self.board.line.fileno()

    def take(self) -> Heard:
        if self.board.is_unplugged:
            raise LineLost("unplugged")
        extra, self.says = self.says, []
        if self.is_silent:
            return Heard(tuple(extra))
        now_ns = self.board.clock.machine_ns()
        index = Index(self.wh)
        stamp = self.board.clock.now().utc_ns // NS_PER_S if self.stamps else None
        one = said.Reading(self.identity, None, index, now_ns, now_ns, stamp, self.caveats)
        return Heard((*extra, one))

    def close(self) -> None:
        pass


class Site:
    """A world with one speaking meter."""

    def __init__(self, meters_from: int = FIRST_STEP, first_wh: int = FIRST_WH) -> None:
        self.world = World(1, 1, meters_from, DETAILS_INDEX)
        [self.board] = self.world.boards
        self.meter = SpeakingMeter(self.board)
        self.meter.wh = first_wh
        self.board.config = replace(CONFIG, source=SOURCE)

        def open_line() -> PulseSource:
            if self.board.is_unplugged:
                raise LineLost("unplugged")
            return SpokenLine(self.meter, SPOKEN)

        begin = self.board.start

        def start() -> None:
            self.board.spoken = spoken_of(SOURCE, self.board.enrolment())
            begin()

        self.board.open_line = open_line  # type: ignore[method-assign]
        self.board.start = start  # type: ignore[method-assign]
        self.board.start()

    def run(self, seconds: float, wh: int = 1, tick_s: float = 1.0) -> None:
        """Lets time pass, with so many watt-hours in each tick."""
        for _ in range(int(seconds / tick_s)):
            self.meter.wh += wh
            self.world.pass_time(tick_s)

    def steps(self, number: int, wh: int = 1, tick_s: float = 5.0) -> None:
        self.run(number * STEP_S, wh, tick_s)

    def register(self, index_wh: int, serial: str = DETAILS.serial) -> None:
        """The authority registers the meter anew, with what its display shows."""
        world, details = self.world, replace(DETAILS_INDEX, index_wh=index_wh, serial=serial)
        step = world.clock.now().utc_ns // NS_PER_S // STEP_S
        record = world.authority.register(Role.METER, "m0", self.board.key.public, details, step)
        assert world.node is not None
        world.node.take_authority([record.raw])

    def re_anchor(self) -> None:
        """The authority has the chain go on where the gateway's stands."""
        meter = self.world.audit().state.meters["m0"]
        anchor = self.world.authority.re_anchor("m0", meter.head.sequence, meter.head.register or 0)
        assert self.world.node is not None
        self.world.node.take_authority([anchor.raw])

    @property
    def status(self) -> str:
        assert self.board.device is not None
        return self.board.device.status

    @property
    def chain(self) -> list[ChainRecord]:
        found: list[ChainRecord] = []

        def watch(checked: object) -> None:
            for verdict in checked.verdicts:  # type: ignore[attr-defined]
                assert verdict.reason is None, verdict
                if isinstance(verdict.record.body, ChainRecord):
                    found.append(verdict.record.body)

        self.world.audit(watch)
        return found

    @property
    def readings(self) -> list[Reading]:
        return [one for one in self.chain if isinstance(one, Reading)]

    @property
    def closes(self) -> list[StepClose]:
        return [one for one in self.chain if isinstance(one, StepClose)]

    @property
    def transferred_wh(self) -> int:
        return self.world.audit().state.meters["m0"].transferred_uwh // WH

    def marks(self) -> dict[int, int]:
        total: dict[int, int] = {}
        for one in self.chain:
            for mark, amount in zip(one.marks[::2], one.marks[1::2], strict=True):
                total[mark] = total.get(mark, 0) + amount
        return total


def check_what_it_gives_counts(site: Site) -> None:
    """Once it has settled, neither more nor less: what the meter grows by in a step."""
    site.steps(1, wh=0)
    site.run(60, 0, 5.0)
    counted_wh = site.transferred_wh
    site.steps(1, wh=2)
    site.steps(1, wh=0)
    site.run(60, 0, 5.0)
    assert site.transferred_wh - counted_wh == 2 * STEP_S // 5


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.world.close()


def test_each_step_has_one_reading_and_a_close_and_all_energy_arrives(site: Site) -> None:
    site.steps(4)
    site.run(60, 0, 5.0)
    chain = site.chain
    assert isinstance(chain[0], RunStart)
    assert FIRST_WH <= chain[0].register <= FIRST_WH + 1
    steps = [one.step for one in site.closes]
    assert steps == list(range(FIRST_STEP + 1, FIRST_STEP + 1 + len(steps)))
    assert [one.step for one in site.readings] == steps
    assert len(steps) >= 4
    assert site.transferred_wh == site.closes[-1].register_after - chain[0].register


def test_a_reading_is_the_last_before_its_steps_end(site: Site) -> None:
    site.steps(2, tick_s=1.0)
    site.run(30, 0)
    for one in site.readings:
        age_ms = (one.step + 1) * STEP_S * 1_000 - one.at_ms
        assert 0 <= age_ms <= 1_100


def test_a_silent_meter_gets_no_close_and_its_energy_comes_with_the_next(site: Site) -> None:
    site.steps(1)
    before = site.closes[-1].step
    site.meter.is_silent = True
    site.steps(3, wh=2)
    assert site.closes[-1].step <= before + 1
    site.meter.is_silent = False
    site.steps(1)
    site.run(60, 0, 5.0)
    steps = [one.step for one in site.closes]
    [gap] = [two for one, two in pairwise(steps) if two - one > 1]
    [spanning] = [one for one in site.readings if one.step == gap]
    assert spanning.since_step == max(step for step in steps if step < gap)
    assert site.transferred_wh == site.closes[-1].register_after - site.chain[0].register


def test_a_line_that_was_gone_brings_nothing_twice_and_loses_nothing(site: Site) -> None:
    site.steps(1)
    site.board.is_unplugged = True
    site.steps(2, wh=3)
    site.board.is_unplugged = False
    site.steps(2)
    site.run(60, 0, 5.0)
    assert site.transferred_wh == site.closes[-1].register_after - site.chain[0].register


@pytest.mark.parametrize("torn", [0, 7])
def test_a_power_cut_loses_nothing_of_an_index(site: Site, torn: int) -> None:
    for _ in range(4):
        site.run(700, 1, 5.0)
        site.board.cut_power(torn)
        site.run(400, 2, 5.0)
        site.board.start()
    site.steps(2)
    site.steps(1, wh=0)
    site.run(60, 0, 5.0)
    chain = site.chain
    assert len([one for one in chain if isinstance(one, RunStart)]) >= 4
    assert site.transferred_wh == site.closes[-1].register_after - chain[0].register
    assert site.closes[-1].register_after == site.meter.wh


def test_an_index_that_goes_back_is_declared_and_not_counted_until_it_returns(site: Site) -> None:
    site.steps(1)
    high = site.meter.wh
    site.meter.wh = 100
    site.steps(2, wh=0)
    closed = site.closes[-1].step
    site.meter.wh = high + 50
    site.steps(1)
    site.run(60, 0, 5.0)
    assert site.closes[-1].step > closed
    assert site.marks()[int(Mark.INDEX_FAULT)] > 100
    assert site.transferred_wh == site.closes[-1].register_after - site.chain[0].register


def test_a_new_meter_on_the_wall_goes_on_behind_a_re_anchor(site: Site) -> None:
    site.steps(2)
    site.meter.wh = 10  # exchanged, or reset
    site.steps(1)
    site.register(site.meter.wh, "ANOTHER")
    site.re_anchor()
    counted_wh = site.transferred_wh
    site.steps(4)
    site.run(60, 0, 5.0)
    more_wh = site.transferred_wh - counted_wh
    assert 3 * STEP_S // 5 <= more_wh <= 6 * STEP_S // 5
    site.board.stop()
    site.board.start()  # what was moved is remembered
    site.steps(2)
    site.run(60, 0, 5.0)
    assert site.transferred_wh - counted_wh > more_wh + STEP_S // 5
    assert not site.world.audit().quarantined


# --- The first index. -----------------------------------------------------------------------------


def test_a_meter_that_says_0_when_it_is_switched_on_begins_with_its_index() -> None:
    site = Site(first_wh=0)
    site.steps(1, wh=0)
    assert not site.chain
    registered = "1234.567 kWh were registered"
    assert f"the first index is 0.000 kWh, and {registered}" in site.status
    told = [line for line in site.board.log if "not believed" in line]
    assert len(told) == 1
    assert "let the authority register the meter" in told[0]
    for end in (site.board.stop, site.board.kill, site.board.cut_power):
        end()
        site.board.start()
        site.run(60, 0, 5.0)
    assert not site.chain
    site.meter.wh = FIRST_WH
    site.steps(2)
    site.run(60, 0, 5.0)
    first = site.chain[0]
    assert first.register >= FIRST_WH
    assert site.transferred_wh == site.closes[-1].register_after - first.register
    assert site.marks()[int(Mark.INDEX_FAULT)] >= STEP_S // 5
    assert "not believed" not in site.status
    site.world.close()


def test_a_first_index_far_above_the_registered_one_waits_for_another_registration() -> None:
    site = Site(first_wh=40_000_000)
    site.steps(1)
    assert not site.chain
    assert "cannot have given so much since" in site.status
    site.register(site.meter.wh)
    site.steps(3)
    site.run(60, 0, 5.0)
    first = site.chain[0]
    assert first.register > 40_000_000
    assert site.transferred_wh == site.closes[-1].register_after - first.register > 0
    site.world.close()


def test_behind_a_re_anchor_an_index_below_the_registered_one_waits_for_another(
    site: Site,
) -> None:
    site.steps(2)
    site.meter.wh = 10  # exchanged, or switched on just now
    site.re_anchor()
    site.steps(2)
    counted_wh = site.transferred_wh
    assert "the first index is" in site.status
    site.board.stop()
    site.board.start()
    site.steps(1)
    assert site.transferred_wh == counted_wh
    site.register(10, "ANOTHER")
    check_what_it_gives_counts(site)
    assert not site.world.audit().quarantined


def test_a_0_right_behind_a_re_anchor_of_the_same_meter_is_not_believed(site: Site) -> None:
    site.steps(2)
    high_wh, site.meter.wh = site.meter.wh, 0
    site.re_anchor()
    site.steps(1, wh=0)
    site.meter.wh = high_wh
    site.steps(2)
    site.run(60, 0, 5.0)
    closed = site.closes[-1].register_after
    assert site.transferred_wh == closed - site.chain[0].register
    assert closed <= site.meter.wh


@pytest.mark.parametrize("is_cut", [False, True])
def test_a_meter_that_says_0_for_a_while_when_power_returns_loses_and_gains_nothing(
    is_cut: bool, site: Site
) -> None:
    site.steps(2)
    high_wh, site.meter.wh = site.meter.wh, 0
    if is_cut:  # the board was without power, too
        site.board.cut_power()
        site.board.start()
    site.steps(1, wh=0)
    assert "not believed" in site.status
    site.meter.wh = high_wh
    site.steps(2)
    site.steps(1, wh=0)
    site.run(60, 0, 5.0)
    assert site.marks()[int(Mark.INDEX_FAULT)] >= STEP_S // 5
    assert site.transferred_wh == site.closes[-1].register_after - site.chain[0].register
    assert site.closes[-1].register_after == site.meter.wh


def test_a_used_meter_that_comes_with_a_power_cut_is_not_believed_by_its_time_away(
    site: Site,
) -> None:
    """It tells no number of its own, and nobody has registered it."""
    site.steps(2)
    site.board.cut_power()
    site.meter.wh += 3_000_000
    site.board.start()
    counted_wh = site.transferred_wh
    site.steps(2)
    site.run(60, 0, 5.0)
    assert site.transferred_wh - counted_wh <= STEP_S // 5
    assert "not believed" in site.status


class Death(Exception):  # noqa: N818 - an event, not a fault
    """The board stops here."""


@pytest.mark.parametrize(("torn", "shows_wh"), [(None, 1_300_000), (0, 9_000_000), (5, 1_300_000)])
def test_the_leave_of_a_re_anchor_outlives_a_death_at_any_point(
    torn: int | None, shows_wh: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Each death lies a little later than the one before, until none does any more.
    passage = 0
    while True:
        passage += 1
        site = Site()
        site.steps(1)
        site.meter.wh = shows_wh  # exchanged
        site.steps(1)
        site.re_anchor()
        left = [passage]

        def passing(_: object, left: list[int] = left, board: Board = site.board) -> None:
            is_known = board.device is None or board.enrolment().anchors
            left[0] -= bool(is_known)
            if left[0] == 0:
                raise Death

        has_died = False
        monkeypatch.setattr(files, "passing", passing)
        try:
            while not any("re-anchored" in line for line in site.board.log):
                site.run(5.0, 0, 5.0)
            # Until the first readings behind it are journalled, and durable.
            site.run(40.0, 0, 5.0)
        except Death:
            has_died = True
        monkeypatch.undo()
        if not has_died:
            break
        if torn is None:
            site.board.kill()
        else:
            site.board.cut_power(torn)
        site.board.start()
        site.steps(2, wh=0)
        counted_wh = site.transferred_wh
        site.steps(1, wh=3)
        site.steps(1, wh=0)
        site.run(60, 0, 5.0)
        assert site.transferred_wh - counted_wh == 3 * STEP_S // 5, passage
        assert not site.world.audit().quarantined
        site.world.close()
    assert passage > 10


def test_the_leave_of_a_re_anchor_waits_for_a_meter_through_runs_and_power_cuts(site: Site) -> None:
    site.steps(2)
    site.meter.wh = 10
    site.meter.is_silent = True
    site.steps(1)
    site.register(site.meter.wh, "ANOTHER")
    site.re_anchor()
    site.steps(1)
    for end in (site.board.stop, site.board.kill, site.board.cut_power):
        end()
        site.board.start()
        site.steps(1)
    site.meter.is_silent = False
    check_what_it_gives_counts(site)
    site.board.kill()
    counted_wh = site.transferred_wh
    site.meter.wh = 3  # the leave is used up
    site.board.start()
    site.steps(2)
    assert site.transferred_wh == counted_wh


def test_what_a_used_meter_shows_when_it_comes_is_no_energy(site: Site) -> None:
    site.steps(2)
    site.meter.wh += 3_000_000  # exchanged
    site.steps(1)
    site.register(site.meter.wh, "ANOTHER")
    site.re_anchor()
    counted_wh = site.transferred_wh
    site.steps(4)
    site.board.stop()
    site.board.start()  # what was moved is remembered
    site.steps(2)
    site.run(60, 0, 5.0)
    assert 4 * STEP_S // 5 <= site.transferred_wh - counted_wh <= 7 * STEP_S // 5


def test_refused_messages_are_declared_and_another_meter_is_not_counted(site: Site) -> None:
    site.meter.says = [Refusal(Refused.CHECKSUM, "damaged", 0)] * 3
    site.steps(1)
    site.meter.identity = "meter-2"
    site.steps(1)
    site.meter.identity = "meter-1"
    site.steps(1)
    site.run(60, 0, 5.0)
    assert site.marks()[int(Mark.REFUSED)] >= 3 + STEP_S // 5 - 5
    assert site.transferred_wh == site.closes[-1].register_after - site.chain[0].register


def test_weak_readings_count_once_confirmed(site: Site) -> None:
    site.meter.caveats = frozenset({Caveat.WEAK_CHECK})
    site.steps(3, tick_s=2.0)
    site.run(60, 0, 2.0)
    assert len(site.closes) >= 3
    assert site.transferred_wh == site.closes[-1].register_after - site.chain[0].register


def test_what_came_before_the_registration_is_nobodys() -> None:
    site = Site(meters_from=FIRST_STEP + 3)
    site.steps(1)
    site.meter.wh += 1_000
    site.steps(1)
    begins = site.meter.wh
    site.steps(2)
    site.run(60, 0, 5.0)
    first = site.chain[0]
    assert isinstance(first, RunStart)
    assert begins - 1 <= first.register <= begins + 1
    assert site.closes[0].step == FIRST_STEP + 3
    site.world.close()


def test_readings_are_journalled_seldom(site: Site) -> None:
    site.run(1_000)
    site.board.kill()
    events = Journal(site.board.journal).recover().events
    # Every 30 s, and the last before each step's end: a thousand came.
    assert 30 <= sum(isinstance(event, Read) for event in events) <= 40


class Memory:
    """A meter's load profile: its index at the end of each step, kept while nobody listens."""

    def __init__(self, meter: SpeakingMeter) -> None:
        self.meter = meter
        self.rows: dict[int, int] = {}
        self.asked: list[tuple[int, int]] = []
        self.answers: list[Past | Refusal] = []
        self.identity = "meter-1"
        self.wrong_by = 0

    def note(self) -> None:
        """It is the end of a step."""
        self.rows[self.meter.board.clock.now().utc_ns // NS_PER_S] = self.meter.wh

    def ask_past(self, from_s: int, to_s: int) -> None:
        self.asked.append((from_s, to_s))
        for at_s, wh in sorted(self.rows.items()):
            if from_s <= at_s <= to_s:
                row = Past(self.identity, None, Index(wh + self.wrong_by), at_s)
                self.answers.append(row)

    def take_past(self) -> list[Past | Refusal]:
        answers, self.answers = self.answers, []
        return answers


class Remembered(Site):
    """A site whose meter keeps a load profile."""

    def __init__(self) -> None:
        super().__init__()
        self.meter.stamps = True
        self.memory = Memory(self.meter)
        self.meter.memory = self.memory  # type: ignore[assignment]

    def run(self, seconds: float, wh: int = 1, tick_s: float = 1.0) -> None:
        for _ in range(int(seconds / tick_s)):
            super().run(tick_s, wh, tick_s)
            if self.meter.board.clock.now().utc_ns // NS_PER_S % STEP_S == 0:
                self.memory.note()


@pytest.mark.parametrize("is_cut", [False, True])
def test_steps_that_nobody_read_are_told_by_the_meters_load_profile(is_cut: bool) -> None:
    site = Remembered()
    site.steps(1)
    site.run(100, 1, 5.0)
    if is_cut:
        site.board.cut_power()
    else:
        site.board.is_unplugged = True
    site.steps(3, wh=2)
    if is_cut:
        site.board.start()
    site.board.is_unplugged = False
    site.steps(2)
    site.run(60, 0, 5.0)
    steps = [one.step for one in site.closes]
    assert sorted(steps) == list(range(min(steps), max(steps) + 1))
    assert site.marks()[int(Mark.RECALLED)] == 3
    told = {one.step: one.register_after for one in site.closes}
    for step in steps:
        assert abs(told[step] - site.memory.rows[(step + 1) * STEP_S]) <= 3
    assert site.transferred_wh == max(told.values()) - site.chain[0].register
    assert len(site.memory.asked) == 1
    site.world.close()


@pytest.mark.parametrize("trouble", ["other meter", "too high", "no clock"])
def test_a_load_profile_that_does_not_fit_is_not_told(trouble: str) -> None:
    site = Remembered()
    site.steps(1)
    site.board.is_unplugged = True
    site.steps(3, wh=2)
    site.memory.identity = "meter-2" if trouble == "other meter" else "meter-1"
    site.memory.wrong_by = 10**6 if trouble == "too high" else 0
    site.meter.stamps = trouble != "no clock"
    site.board.is_unplugged = False
    site.steps(2)
    site.run(60, 0, 5.0)
    assert int(Mark.RECALLED) not in site.marks()
    assert site.transferred_wh == site.closes[-1].register_after - site.chain[0].register
    site.world.close()
