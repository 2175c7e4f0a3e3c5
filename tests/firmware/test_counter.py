"""Journalled events into the count: dated at once, dated back, or never."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer import cbor
from cryptometer.chain_records import Ending, Mark
from cryptometer.errors import Reason
from cryptometer.record_fields import ClockReading
from cryptometer.steps import NS_PER_MS, NS_PER_S, ClockSource, ClockState
from cryptometer.wire import decode_map, encode_map
from firmware import counter as counting
from firmware.counter import BLANK_SNAPSHOT, Counter, Snapshot
from firmware.drafts import BatchDraft, CloseDraft, Draft, RunDraft
from firmware.events import (
    EVENT_MAX,
    Began,
    Dated,
    Ended,
    Event,
    Excused,
    Noticed,
    Passed,
    Pulses,
    Watched,
    decode_event,
    encode_event,
)
from firmware.lots import Limits, Terms
from firmware.timekeeping import Dating
from tests.core.community import FIRST_STEP, LOT_PULSES, STEP_S
from tests.core.strategies import examples, refusal_of

STEP_NS = STEP_S * NS_PER_S
START_NS = FIRST_STEP * STEP_NS
START_MS = START_NS // NS_PER_MS
BOOT, NEXT_BOOT, LAST_BOOT = b"a" * 16, b"b" * 16, b"c" * 16
TERMS = Terms(STEP_S, LOT_PULSES, START_MS, 8 * NS_PER_MS, coarse=False)
S = NS_PER_S


def dated(mono_s: int, into_step_s: int, error_ms: int = 1, held: int = 0) -> Dated:
    """At `mono_s` on the monotonic clock it is `into_step_s` after the first step's start."""
    utc_ns = START_NS + into_step_s * S
    source = ClockSource.SIMULATED
    return Dated(Dating(mono_s * S, utc_ns, error_ms * NS_PER_MS, source, held))


def began(mono_s: int, boot: bytes = BOOT, cut: int = 0) -> Began:
    return Began(boot, mono_s * S, "test", cut)


def pulses(register: int, to_s: int) -> Pulses:
    return Pulses(register, (to_s - 1) * S, to_s * S, 0)


def watched(mono_s: int) -> Watched:
    return Watched(mono_s * S)


class Board:
    """A counter and all it ever drafted."""

    def __init__(
        self,
        snapshot: Snapshot = BLANK_SNAPSHOT,
        terms: Terms | None = TERMS,
        *,
        lots: int = 1_000,
    ) -> None:
        self.counter = Counter(snapshot, terms, Limits(lots, 60_000))
        self.drafts: list[Draft] = []

    def apply(self, *events: Event) -> list[Draft]:
        fresh: list[Draft] = []
        for event in events:
            self.counter.apply(event)
            fresh += self.counter.take_drafts()
        self.drafts += fresh
        return fresh

    def snapshot(self) -> Snapshot:
        """As it comes back from the journal."""
        data = cbor.encode(encode_map(self.counter.snapshot()))
        return decode_map(Snapshot, cbor.decode(data))

    def restarted(self, terms: Terms | None = TERMS) -> "Board":
        return Board(self.snapshot(), terms)


def lots_of(drafts: list[Draft]) -> list[tuple[int, ...]]:
    return [draft.lots for draft in drafts if isinstance(draft, BatchDraft)]


def marks_of(drafts: list[Draft]) -> dict[int, int]:
    """All marks together."""
    total: dict[int, int] = {}
    for draft in drafts:
        for mark, amount in zip(draft.marks[::2], draft.marks[1::2], strict=True):
            total[mark] = total.get(mark, 0) + amount
    return total


# --- Events --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "golden"),
    [
        (Began(BOOT, 5, "fw", 3), "82008450" + BOOT.hex() + "0562667703"),
        (
            Dated(Dating(1, 2, 3, ClockSource.SYSTEM, 1)),
            "82018185010203" + "6673797374656d" + "01",
        ),
        (Pulses(7, 1, 2, 0), "82028407010200"),
        (Watched(300), "820381" + "19012c"),
        (Noticed.of(Mark.NOISE, 24), "820482081818"),
        (Ended(9, Ending.STOPPED), "8205820967" + b"stopped".hex()),
        (Passed(300), "82068119012c"),
        (Excused(), "820d80"),
    ],
)
def test_an_event_stands_in_the_journal_as_its_kind_and_its_fields(
    event: Event, golden: str
) -> None:
    assert encode_event(event).hex() == golden
    assert decode_event(bytes.fromhex(golden)) == event


@pytest.mark.parametrize(
    "data", ["80", "8100", "820680", "820780", "820080", "8220820107", "a0", "f6", ""]
)
def test_what_is_no_event_is_refused(data: str) -> None:
    assert refusal_of(decode_event, bytes.fromhex(data)) in (Reason.MALFORMED, Reason.NOT_CANONICAL)


def test_the_longest_event_can_wait() -> None:
    longest = Began(BOOT, 2**63 - 1, "x" * 120, 2**63 - 1)
    assert len(encode_event(longest)) <= EVENT_MAX
    board = Board()
    board.apply(longest)
    assert board.snapshot() == board.counter.snapshot()


# --- Dated at once -------------------------------------------------------------------------------


def test_with_a_known_time_pulses_are_counted_as_they_come() -> None:
    board = Board(lots=1)
    [run] = board.apply(began(0), dated(0, 10))
    assert isinstance(run, RunDraft)
    assert (run.at_ms, run.ending) == (START_MS + 10_000, Ending.FIRST)
    [batch] = board.apply(pulses(8, 5))
    assert lots_of([batch]) == [(8, 15_000)]
    assert batch.clock == ClockReading(ClockSource.SIMULATED, ClockState.SYNCHRONISED, 4)
    [close] = board.apply(watched(STEP_S))
    assert isinstance(close, CloseDraft)
    assert close.register_after == board.counter.register == 8


def test_the_next_draft_is_due_at_the_end_of_the_step_on_the_monotonic_clock() -> None:
    board = Board()
    assert board.counter.next_due_ns() is None
    board.apply(began(100), dated(100, 10))
    assert board.counter.next_due_ns() == (100 + STEP_S - 10) * S


def test_each_run_says_how_the_one_before_ended() -> None:
    board = Board()
    board.apply(began(0), dated(0, 0), watched(5))
    board = board.restarted()
    board.apply(began(10), watched(15), Ended(20 * S, Ending.STOPPED))
    board = board.restarted()
    board.apply(began(30), Ended(40 * S, Ending.LINE_LOST))
    board.apply(began(50))
    # the restarts keep their own drafts: the last board saw two runs
    runs = [draft for draft in board.drafts if isinstance(draft, RunDraft)]
    assert [run.ending for run in runs] == [Ending.STOPPED, Ending.LINE_LOST]
    assert [run.unwatched_ms for run in runs] == [START_MS + 20_000, START_MS + 40_000]


def test_a_jump_of_the_synchronised_clock_is_declared_and_a_correction_is_not() -> None:
    board = Board()
    board.apply(began(0), dated(0, 100), dated(10, 111))
    board.apply(dated(700, 600), watched(STEP_S + 110))
    [close] = [draft for draft in board.drafts if isinstance(draft, CloseDraft)]
    assert marks_of([close]) == {Mark.CLOCK_STEPPED: 201_000}


def test_damage_in_the_journal_is_declared_by_the_next_record() -> None:
    board = Board()
    [run] = board.apply(began(0, cut=17), dated(0, 0))
    assert marks_of([run]) == {Mark.CUT: 17}


def test_a_step_is_closed_at_its_end_even_if_nobody_watches_any_more() -> None:
    board = Board()
    board.apply(began(0), dated(0, 0), pulses(9, 50), Ended(60 * S, Ending.LINE_LOST))
    assert board.apply(Passed(100 * S)) == []
    [batch] = board.apply(Passed(110 * S))  # its delay is over
    assert lots_of([batch]) == [(8, 50_000)]
    rest, close = board.apply(Passed(STEP_S * S))
    assert lots_of([rest]) == [(1, STEP_S * 1_000)]
    assert isinstance(close, CloseDraft)
    assert close.watched == (0, 60_000)
    assert board.apply(Passed(2 * STEP_S * S)) == []  # slept through
    [run] = board.apply(began(3 * STEP_S))
    assert isinstance(run, RunDraft)
    assert (run.step, run.unwatched_ms) == (FIRST_STEP + 3, START_MS + 60_000)


# --- Dated back ----------------------------------------------------------------------------------


def test_pulses_of_a_board_that_does_not_know_the_time_wait_and_are_dated_back() -> None:
    board = Board(lots=1)
    assert board.apply(began(0), pulses(8, 5), pulses(20, 300), watched(STEP_S)) == []
    assert board.counter.register == 20
    drafts = board.apply(dated(1_000, 1_100))  # the step began at 100 s before the run
    run, *rest = drafts
    assert isinstance(run, RunDraft)
    assert run.at_ms == START_MS + 100_000
    assert lots_of(rest) == [(8, 105_000), (8, 400_000), (4, STEP_S * 1_000)]
    [close] = [draft for draft in rest if isinstance(draft, CloseDraft)]
    assert (close.step, close.register_after) == (FIRST_STEP, 20)
    # The run began 1,000 s before the moment of synchronisation, at 500 ppm.
    assert rest[0].clock.error_ms == 1 + 500
    assert marks_of(drafts) == {}


def test_what_waits_survives_a_snapshot() -> None:
    board = Board()
    board.apply(began(0), pulses(8, 5), pulses(20, 300), watched(400))
    again = board.restarted()
    assert again.snapshot() == board.snapshot()
    assert again.apply(dated(1_000, 1_100)) == Board(board.snapshot()).apply(dated(1_000, 1_100))
    assert again.counter.register == 20
    assert sum(sum(lots[::2]) for lots in lots_of(again.drafts)) == 16  # 4 in the open lot


def test_pulses_of_an_earlier_boot_that_never_knew_the_time_go_to_the_first_known_step() -> None:
    board = Board()
    board.apply(began(0), pulses(20, 300), watched(400))
    board.apply(began(0, NEXT_BOOT), pulses(23, 60))
    drafts = board.apply(dated(100, 200), watched(STEP_S))
    runs = [draft for draft in drafts if isinstance(draft, RunDraft)]
    assert [run.at_ms for run in runs] == [START_MS + 100_000, START_MS + 100_001]
    assert sum(sum(lots[::2]) for lots in lots_of(drafts)) == 23
    assert {draft.step for draft in drafts} == {FIRST_STEP}
    assert marks_of(drafts)[Mark.UNDATED] == 20


def test_a_boot_that_counted_nothing_declares_nothing_undated() -> None:
    board = Board()
    board.apply(began(0), watched(400))
    board.apply(began(0, NEXT_BOOT))
    drafts = board.apply(dated(100, 200), watched(STEP_S))
    assert marks_of(drafts) == {}


def test_a_dating_of_one_boot_does_not_date_another() -> None:
    board = Board()
    board.apply(began(0), dated(0, 10), pulses(3, 50))
    board.apply(began(0, NEXT_BOOT), pulses(5, 20))
    assert board.counter.dating is None
    assert not board.counter.has_begun_in(BOOT)
    assert board.counter.has_begun_in(NEXT_BOOT)
    board.apply(dated(100, 500), watched(700))
    [_, second] = [draft for draft in board.drafts if isinstance(draft, RunDraft)]
    assert second.at_ms == START_MS + 400_000
    assert second.unwatched_ms == START_MS + 60_000


# --- Before enrolment ----------------------------------------------------------------------------


def test_pulses_before_enrolment_wait_and_are_counted_as_far_as_the_registration_covers() -> None:
    board = Board(terms=None)
    assert board.apply(began(0), dated(0, -100), pulses(5, 50), pulses(16, 150)) == []
    enrolled = board.restarted()
    drafts = enrolled.apply(began(200))
    first, *_ = drafts
    assert isinstance(first, RunDraft)
    assert (first.register, first.at_ms) == (5, START_MS)
    enrolled.apply(watched(STEP_S + 100))
    assert sum(sum(lots[::2]) for lots in lots_of(enrolled.drafts)) == 11


def test_several_boots_before_enrolment_are_dated_each_by_its_own() -> None:
    board = Board(terms=None)
    board.apply(began(0), dated(0, 0), pulses(8, 50))
    board = board.restarted(None)
    board.apply(began(0, NEXT_BOOT), dated(0, 400), pulses(16, 50))
    board = board.restarted(None)
    board.apply(began(0, LAST_BOOT), pulses(24, 50))
    enrolled = board.restarted()
    enrolled.apply(dated(0, 700), watched(300))
    assert lots_of(enrolled.drafts) == [(8, 50_000), (8, 450_000), (8, 750_000)]
    assert marks_of(enrolled.drafts) == {}


def test_what_was_noticed_before_enrolment_is_declared_by_the_first_record() -> None:
    board = Board(terms=None)
    board.apply(began(0, cut=5), Noticed.of(Mark.LOST, 3), Noticed.of(Mark.LOST, 4))
    enrolled = board.restarted()
    first, *_ = enrolled.apply(dated(0, 10))
    assert marks_of([first]) == {Mark.LOST: 7, Mark.CUT: 5}
    assert marks_of(enrolled.drafts) == {Mark.LOST: 7, Mark.CUT: 5}


# --- Merging -------------------------------------------------------------------------------------


def test_waiting_pulses_of_one_second_are_kept_as_one() -> None:
    board = Board()
    board.apply(began(0))
    for ms in range(0, 3_000, 100):
        at = ms * NS_PER_MS
        board.apply(Pulses(ms // 100 + 1, at, at + 50 * NS_PER_MS, 0))
    kept = [decode_event(one.event) for one in board.counter.snapshot().waiting[1:]]
    assert [event.register for event in kept if isinstance(event, Pulses)] == [10, 20, 30]


def test_only_the_newest_of_several_watch_marks_waits() -> None:
    board = Board()
    board.apply(began(0), watched(30), watched(60), watched(90))
    assert [decode_event(one.event) for one in board.counter.snapshot().waiting] == [
        began(0),
        watched(90),
    ]


def test_too_many_waiting_events_are_merged_and_no_pulse_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(counting, "WAITING_MAX", 50)
    board = Board()
    board.apply(began(0))
    for second in range(1, 1_000):
        board.apply(pulses(2 * second, second))
        assert len(board.counter.snapshot().waiting) <= 50
    board.apply(began(0, NEXT_BOOT), pulses(2_000, 5))
    drafts = board.apply(dated(10, 20), watched(STEP_S))
    assert sum(sum(lots[::2]) for lots in lots_of(drafts)) == 2_000
    assert marks_of(drafts)[Mark.UNDATED] == 1_998


def test_pulses_and_watch_marks_in_turn_are_merged_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "WAITING_MAX", 50)
    board = Board()
    board.apply(began(0))
    for number in range(1, 1_000):
        board.apply(pulses(number, 60 * number), watched(60 * number + 30))
        assert len(board.counter.snapshot().waiting) <= 50
    drafts = board.apply(dated(60_000, 60_000), watched(60_000 + 2 * STEP_S))
    assert sum(sum(lots[::2]) for lots in lots_of(drafts)) == 999
    assert Mark.BURST not in marks_of(drafts), "they were watched all the time"


@pytest.mark.parametrize("is_ended", [True, False], ids=["line lost", "killed"])
@pytest.mark.parametrize("boots", [1, 3, 1_000])
def test_a_line_that_comes_and_goes_for_days_without_the_time_fills_nothing(
    monkeypatch: pytest.MonkeyPatch, boots: int, is_ended: bool
) -> None:
    monkeypatch.setattr(counting, "WAITING_MAX", 50)
    board = Board(terms=None)
    for number in range(1, 1_000):
        boot = (number * boots // 1_000).to_bytes(16, "big")
        board.apply(began(10 * number, boot), pulses(number, 10 * number + 3))
        if is_ended:
            board.apply(Ended((10 * number + 5) * S, Ending.LINE_LOST))
        assert len(board.counter.snapshot().waiting) <= 60
    last = (999 * boots // 1_000).to_bytes(16, "big")
    board = Board(board.snapshot(), lots=3)
    board.apply(began(9_999, last), dated(9_999, 9_999 + STEP_S), watched(9_999 + 3 * STEP_S))
    assert sum(sum(lots[::2]) for lots in lots_of(board.drafts)) == 999
    # What was forgotten of the runs is not said to have been watched.
    closes = [draft for draft in board.drafts if isinstance(draft, CloseDraft)]
    claimed_ms = sum(sum(close.watched[1::2]) - sum(close.watched[::2]) for close in closes)
    assert claimed_ms <= 3 * STEP_S * 1_000 + 999 * 10_000 // 2


# --- Any order of events -------------------------------------------------------------------------

histories = st.lists(
    st.one_of(
        st.tuples(st.just("pulses"), st.integers(1, 30)),
        st.tuples(st.just("pass"), st.integers(1, 400)),
        st.tuples(st.just("dated"), st.just(0)),
        st.tuples(st.just("boot"), st.integers(1, 400)),
        st.tuples(st.just("restart"), st.integers(1, 100)),
        st.tuples(st.just("crash"), st.just(0)),
    ),
    max_size=40,
)


@examples(120)
@given(histories, st.booleans())
def test_whenever_the_time_becomes_known_every_pulse_is_counted_once(
    history: list[tuple[str, int]], enrols_late: bool
) -> None:
    board = Board(terms=None if enrols_late else TERMS, lots=3)
    journal: list[Event] = []
    head = board.snapshot()
    mono = utc = register = boots = counted = 0

    def give(event: Event) -> None:
        nonlocal counted
        journal.append(event)
        counted += sum(sum(lots[::2]) for lots in lots_of(board.apply(event)))

    give(began(0))
    for kind, amount in history:
        match kind:
            case "pulses":
                mono, utc = mono + amount, utc + amount
                register += amount
                give(Pulses(register, (mono - amount) * S, mono * S, 0))
            case "pass":
                mono, utc = mono + amount, utc + amount
                give(watched(mono))
            case "dated":
                give(dated(mono, utc))
            case "boot":
                mono, utc, boots = 0, utc + amount, boots + 1
                give(began(0, bytes([boots]) * 16))
            case "restart":
                head, journal = board.snapshot(), []
                board = Board(head, board.counter._lots.terms if board.counter._lots else None)
                mono, utc = mono + amount, utc + amount
                give(began(mono, bytes([boots]) * 16 if boots else BOOT))
            case "crash":  # what was given is applied again, and makes the same of it
                before = board.snapshot()
                board = Board(head, board.counter._lots.terms if board.counter._lots else None)
                board.apply(*journal)
                assert board.counter.register == register
                assert board.snapshot().waiting == before.waiting
                board = Board(before, board.counter._lots.terms if board.counter._lots else None)
                head, journal = before, []
        assert board.counter.register == register
    board = board.restarted()
    give(dated(mono, utc))
    give(watched(mono + STEP_S))
    assert counted == register
