"""A second source beside the one that counts: real device and gateway in one process."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction

import pytest

from cryptometer import accuracy
from cryptometer.accuracy import Comparison
from cryptometer.authority_records import MeterDetails
from cryptometer.block import Checked
from cryptometer.chain_records import Batch, ChainRecord, Mark, Reading, RunStart, StepClose
from cryptometer.energy_verdict import Verdict
from firmware.comparing import ComparedLine, Second
from firmware.listening import SpokenLine
from gateway.report import comparisons_of, describe, make_report
from hal.index import reading as said
from hal.index.reading import Caveat, Index, Refusal, Refused, Register
from hal.ports import Heard, LineLost, PulseSource
from tests.core.community import DETAILS, FIRST_STEP, PULSE_UWH, STEP_S
from tests.firmware.test_speaking import DETAILS_INDEX, SOURCE, SPOKEN, SpeakingMeter
from tests.firmware.test_tape import Deck, check_same
from tests.simulation import world as simulation
from tests.simulation.world import CONFIG, Board, World

WH = 10**6  # µWh
PULSES_PER_WH = WH // PULSE_UWH
POWER_W = 60_000
SECOND = Second(Register.EXPORT, "meter-1", 1, POWER_W)
TICK_S = 5.0


class SecondPort:
    """The data port of the meter whose pulses are counted."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.uwh = 7_000_000 * WH
        self.exponent = 0
        self.identity = "meter-1"
        self.caveats: frozenset[Caveat] = frozenset()
        self.extra: list[said.Reading | Refusal] = []
        self.is_silent = self.is_gone = False
        self.fails: Exception | None = None
        self.opened = 0
        self.memory = None
        self.due_ns = None

    def open(self) -> "SecondPort":
        if self.is_gone:
            raise LineLost("unplugged")
        self.opened += 1
        return self

    def fileno(self) -> int:
        return self.board.line.fileno()

    def take(self) -> Heard:
        if self.fails is not None:
            raise self.fails
        if self.is_gone:
            raise LineLost("unplugged")
        extra, self.extra = self.extra, []
        if self.is_silent:
            return Heard(tuple(extra))
        now_ns = self.board.clock.machine_ns()
        index = Index(self.uwh // Index(1, self.exponent).unit_uwh, self.exponent)
        one = said.Reading(self.identity, None, index, now_ns, now_ns, None, self.caveats)
        return Heard((*extra, one))

    def close(self) -> None:
        pass


class Site:
    """A world with one meter: its pulses count, its index is compared."""

    def __init__(self, details: MeterDetails = DETAILS, meters_from: int = FIRST_STEP) -> None:
        self.world = World(1, 1, meters_from, details)
        [self.board] = self.world.boards
        self.port = SecondPort(self.board)
        self.board.second = SECOND
        self.board.config = replace(
            CONFIG, compared={"driver": "linky", "register": "export", "identity": "meter-1"}
        )
        open_counting = self.board.open_line

        def open_line() -> PulseSource:
            return ComparedLine(
                open_counting(), self.port.open, self.board.clock.machine_ns, self.board.log.append
            )

        self.board.open_line = open_line  # type: ignore[method-assign]
        self.board.start()

    def run(self, seconds: float, pulses: int = 10, tick_s: float = TICK_S) -> None:
        """Lets time pass, with so many pulses in each tick, and as much on the display."""
        for _ in range(int(seconds / tick_s)):
            self.port.uwh += pulses * PULSE_UWH
            self.board.give(pulses)
            self.world.pass_time(tick_s)

    def steps(self, number: int, pulses: int = 10) -> None:
        self.run(number * STEP_S, pulses)

    def settle(self) -> None:
        self.run(STEP_S + 120, 0)

    @property
    def verdicts(self) -> list[Verdict]:
        found: list[Verdict] = []

        def watch(checked: Checked) -> None:
            found.extend(checked.verdicts)

        self.world.audit(watch)
        assert all(one.reason is None for one in found)
        return found

    @property
    def chain(self) -> list[ChainRecord]:
        bodies = [one.record.body for one in self.verdicts]
        return [one for one in bodies if isinstance(one, ChainRecord)]

    @property
    def compared(self) -> list[Reading]:
        return [one for one in self.chain if isinstance(one, Reading) and not one.counting]

    @property
    def rows(self) -> list[Comparison]:
        return accuracy.compare_verdicts(self.verdicts)

    @property
    def closed(self) -> list[int]:
        return [one.step for one in self.chain if isinstance(one, StepClose)]

    def marks(self, mark: Mark) -> int:
        return sum(one.declared(mark) or 0 for one in self.chain)

    def counts_all(self) -> bool:
        """Whether every pulse the meter gave is in a block, once."""
        return self.world.in_blocks("m0") == self.board.emitted - self.board.missed


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.world.close()


def test_each_step_has_one_compared_reading_before_its_close_and_the_two_agree(
    site: Site,
) -> None:
    site.steps(4)
    site.settle()
    chain = site.chain
    assert site.counts_all()
    assert [one.step for one in site.compared] == site.closed
    for one in site.compared:
        at = chain.index(one)
        close = chain[at + 1]
        assert isinstance(close, StepClose)
        assert close.step == one.step
        assert one.unit_uwh == WH
        assert one.source == "linky"
        assert one.counted is not None
        assert one.register - 10 <= one.counted <= one.register
    rows = site.rows
    assert len(rows) == len(site.closed) - 1 >= 3
    assert {row.difference_uwh for row in rows} == {0}
    assert all(row.is_within and row.bound_uwh == WH + PULSE_UWH for row in rows)


def test_the_gateway_tells_the_same_as_the_ledger(site: Site) -> None:
    site.steps(4)
    site.settle()
    store, state = site.world.store, site.world.store.state()
    assert state is not None
    assert comparisons_of(store, "m0", 96) == site.rows
    assert comparisons_of(store, "m0", 2) == site.rows[-2:]
    assert comparisons_of(store, "m1", 96) == []
    report = make_report(store, state)
    assert report.meters[0].compared == accuracy.total(site.rows)
    [line] = [one for one in describe(report) if one.startswith("  compared")]
    assert "+0.0000 %, within the class" in line


def test_a_pulse_output_that_loses_some_is_shown_in_percent(site: Site) -> None:
    site.steps(1)
    for _ in range(3):
        for tick in range(180):
            site.port.uwh += 10 * PULSE_UWH
            site.board.give(9 if tick % 2 else 10)
            site.world.pass_time(TICK_S)
    site.settle()
    row = site.rows[-2]  # the last step was without energy
    assert -51_000 <= (row.difference_ppm or 0) <= -49_000
    assert not row.is_within
    assert row.mpe_ppm == 20_000


def test_what_the_index_is_coarser_by_is_a_stated_bound(site: Site) -> None:
    site.port.exponent = 3
    site.port.uwh += 123_456_789
    site.steps(5, pulses=7)
    site.settle()
    assert len(site.rows) >= 4
    assert any(row.difference_uwh for row in site.rows)
    assert all(row.is_within and row.bound_uwh == 1_000 * WH + PULSE_UWH for row in site.rows)
    whole = accuracy.total(site.rows)
    assert whole.bound_uwh == 1_000 * WH + PULSE_UWH
    assert whole.is_within
    assert whole.outside == 0


@pytest.mark.parametrize("trouble", ["gone", "silent", "fails", "back", "fast", "other", "damaged"])
def test_whatever_is_wrong_with_what_is_compared_counting_goes_on(site: Site, trouble: str) -> None:
    site.steps(2)
    port = site.port
    first_uwh = port.uwh
    match trouble:
        case "gone":
            port.is_gone = True
        case "silent":
            port.is_silent = True
        case "fails":
            port.fails = ValueError("a fault of ours")
        case "back":
            port.uwh = 100 * WH
        case "fast":
            port.uwh += 10**9 * WH
        case "other":
            port.identity = "meter-2"
        case _:
            port.is_silent = True
            port.extra = [Refusal(Refused.CHECKSUM, "damaged", 0)] * 3
    site.steps(2)
    here = len(site.compared)
    port.is_gone = port.is_silent = False
    port.fails = None
    port.uwh = first_uwh + 2 * 180 * 10 * PULSE_UWH
    port.identity = "meter-1"
    site.steps(2)
    site.settle()
    assert site.counts_all()
    steps = site.closed
    assert steps == list(range(steps[0], steps[-1] + 1))
    told = [one.step for one in site.compared]
    assert here <= 3
    assert len(told) >= 4
    [gap] = [row for row in site.rows if row.step - row.since_step > 1]
    assert gap.difference_uwh == 0  # nothing was lost meanwhile: the index says so itself
    declared = site.marks(Mark.COMPARED_FAULT)
    assert (declared > 0) == (trouble in ("back", "fast", "other", "damaged"))
    if trouble in ("gone", "fails"):
        assert sum("what is compared is away" in line for line in site.board.log) == 1


@pytest.mark.parametrize("is_cut", [False, True])
def test_kills_and_power_cuts_tell_nothing_twice(site: Site, is_cut: bool) -> None:
    for _ in range(5):
        site.run(700)
        site.board.cut_power() if is_cut else site.board.kill()
        site.board.is_unplugged = True
        site.run(100, 0)
        site.board.is_unplugged = False
        site.board.start()
    site.steps(1)
    site.settle()
    told = [one.step for one in site.compared]
    assert told == sorted(set(told))
    assert set(told) <= set(site.closed)
    assert len([one for one in site.chain if isinstance(one, RunStart)]) == 6
    if not is_cut:
        assert site.counts_all()
        assert {row.difference_uwh for row in site.rows} == {0}


def test_pulses_that_nobody_counted_show_in_the_comparison(site: Site) -> None:
    site.steps(2)
    site.board.is_unplugged = True
    site.run(100, 10)
    site.board.is_unplugged = False
    site.steps(2)
    site.settle()
    missed = site.board.missed
    assert missed > 0
    assert sum(row.difference_uwh for row in site.rows) == -missed * PULSE_UWH


def test_weak_readings_are_compared_once_confirmed(site: Site) -> None:
    site.port.caveats = frozenset({Caveat.WEAK_CHECK})
    site.steps(3)
    site.settle()
    assert len(site.rows) >= 2
    assert {row.difference_uwh for row in site.rows} == {0}


def test_behind_a_re_anchor_comparisons_begin_anew(site: Site) -> None:
    site.steps(3)
    at = site.world.audit().state.meters["m0"].head.sequence + 100
    anchor = site.world.authority.re_anchor("m0", at, 1_000_000)
    assert site.world.node is not None
    site.world.node.take_authority([anchor.raw])
    site.steps(4)
    site.settle()
    rows = site.rows
    assert len(rows) >= 4
    assert all(row.is_within for row in rows)
    assert {row.difference_uwh for row in rows} == {0}


def test_before_the_registrations_first_step_nothing_is_compared() -> None:
    site = Site(meters_from=FIRST_STEP + 3)
    site.steps(4)
    site.settle()
    assert min(one.step for one in site.compared) >= FIRST_STEP + 3
    assert {row.difference_uwh for row in site.rows} == {0}
    site.world.close()


def test_the_ratio_of_the_transformers_multiplies_what_the_meter_shows() -> None:
    details = replace(
        DETAILS, constant=Fraction(100), lot_pulses=1, i_min_ma=25_000, i_max_ma=10**7
    )
    site = Site(details)
    site.board.stop()
    site.board.second = replace(SECOND, ratio=50)
    site.board.start()
    for _ in range(4 * 180):
        site.port.uwh += WH // 5  # of the secondary side; ten primary watt-hours are a pulse
        site.board.give(1)
        site.world.pass_time(TICK_S)
    site.settle()
    assert {one.unit_uwh for one in site.compared} == {50 * WH}
    assert len(site.rows) >= 3
    assert all(row.is_within for row in site.rows)
    assert site.rows[1].index_uwh == 180 * WH // 5 * 50
    site.world.close()


class BesideIndex(Site):
    """A meter whose own index counts, and another source of it."""

    def __init__(self) -> None:
        self.world = World(1, 1, FIRST_STEP, DETAILS_INDEX)
        [self.board] = self.world.boards
        self.port = SecondPort(self.board)
        self.meter = SpeakingMeter(self.board)
        self.board.spoken, self.board.second = SPOKEN, SECOND
        self.board.config = replace(
            CONFIG, source=SOURCE, compared={"driver": "modbus", "register": "export"}
        )
        open_second: Callable[[], SecondPort] = self.port.open

        def open_line() -> PulseSource:
            line = SpokenLine(self.meter, SPOKEN)
            return ComparedLine(line, open_second, self.board.clock.machine_ns, print)

        self.board.open_line = open_line  # type: ignore[method-assign]
        self.board.start()

    def run(self, seconds: float, pulses: int = 1, tick_s: float = TICK_S) -> None:
        for _ in range(int(seconds / tick_s)):
            self.meter.wh += pulses
            self.port.uwh += pulses * WH
            self.world.pass_time(tick_s)


def test_two_indexes_of_a_meter_are_compared_as_well() -> None:
    site = BesideIndex()
    site.steps(3, 1)
    site.board.kill()
    site.board.start()
    site.steps(2, 1)
    site.settle()
    counting = [one for one in site.chain if isinstance(one, Reading) and one.counting]
    assert len(counting) >= 5
    assert not [one for one in site.chain if isinstance(one, Batch)]
    assert [one.step for one in site.compared] == site.closed
    assert len(site.rows) >= 4
    assert all(abs(row.difference_uwh) <= row.bound_uwh for row in site.rows)
    assert all(one.source == "modbus" for one in site.compared)
    site.world.close()


@pytest.mark.parametrize("seed", range(4))
def test_a_storm_over_both_sources_loses_no_pulse_and_makes_no_difference(seed: int) -> None:
    site, chance = Site(), random.Random(seed)
    for _ in range(60):
        site.run(TICK_S * chance.randrange(1, 60), chance.choice([0, 1, 2, 7]))
        match chance.randrange(7):
            case 0:
                site.board.kill()
                site.board.start()
            case 1:
                site.board.stop()
                site.board.start()
            case 2:
                site.port.is_gone = not site.port.is_gone
            case 3:
                site.port.is_silent = not site.port.is_silent
            case 4:
                site.port.caveats = frozenset(chance.choice([(), (Caveat.WEAK_CHECK,)]))
            case 5:
                site.port.exponent = chance.choice([-3, 0, 1, 3])
            case _:
                site.world.broker.lose = chance.choice([0.0, 0.3])
    site.world.broker.lose = 0.0
    site.steps(1, 0)
    site.settle()
    assert site.counts_all()
    told = [one.step for one in site.compared]
    assert told == sorted(set(told))
    assert all(abs(row.difference_uwh) <= row.bound_uwh for row in site.rows)
    site.world.close()


def test_what_a_second_source_said_is_replayed_to_the_same_files(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deck = Deck()
    monkeypatch.setattr(simulation, "Device", deck.make_device)
    site = Site()
    site.steps(2)
    site.board.kill()
    site.board.start()
    site.port.extra = [Refusal(Refused.CHECKSUM, "damaged", 0)]
    site.steps(1)
    site.board.kill()
    again = check_same(deck, site.board)
    assert any(isinstance(one.body, Reading) for one in again.records)
    site.world.close()
