"""Looks at one meter's line: what it brings is journalled, then counted, and never the other way.

A line that is lost is opened again. Times are the community's monotonic ones, unless they are named
the machine's.
"""

from collections.abc import Callable

from cryptometer.chain_records import Ending, Mark
from cryptometer.steps import MS_PER_S, NS_PER_MS, NS_PER_S, Instant
from firmware.believing import Believing
from firmware.beside import PULSE_MAX_NS, aligned, missed
from firmware.comparing import Comparing
from firmware.config import JournalSettings
from firmware.counter import Counter
from firmware.events import Began, Ended, Event, Noticed, Passed, Pulses, Read, Watched
from firmware.journal import Journal
from firmware.listening import REST_NS, UNBELIEVED, Listening
from firmware.pace import Pace
from firmware.saying import Log, Saying
from hal.index.reading import Refusal, Refused
from hal.ports import Clock, LineLost, PulseSource, Recalling, Resuming, Taken, Timed

LINE_RETRY_NS = 2 * NS_PER_S
SLEPT_NS = NS_PER_S // 10  # a suspension takes longer; two clocks differ by less when read in turn
# Before a step ends the line does not rest: a pulse that came before the end is taken before it, as
# far as the line's latency allows. Long enough for a busy board to be back at its work.
ALERT_NS = 250 * NS_PER_MS
FAULT_REST_NS = 3_600 * NS_PER_S  # why an index is not believed is said again after so long

MUTED = (
    "the newest registration has changed what the meter's register counts: nothing is counted until"
    " the authority re-anchors the chain behind it: cryptometer authority re-anchor"
)


class Watching:
    """One meter's line, its journal and its counter.

    Attributes:
        is_muted: the register's unit is not the registered one: no line is opened.
    """

    def __init__(
        self,
        clock: Clock,
        open_line: Callable[[], PulseSource],
        journal: Journal,
        counter: Counter,
        settings: JournalSettings,
        software: str,
        step_s: int,
        cut_bytes: int,
        listening: Listening | None,
        comparing: Comparing | None,
        say: Saying,
        log: Log,
        *,
        is_muted: bool,
    ) -> None:
        """
        Args:
            open_line: raises LineLost while it cannot.
            step_s: length of a market step; 0 while nobody has said it.
            cut_bytes: damage of the logs, which the run that begins declares.
            listening: where the meter's own index is read.
            comparing: where another source is compared.
            say: takes what happens to the line.
        """
        self._clock = clock
        self._open = open_line
        self._journal = journal
        self._counter = counter
        self._watch_ns = settings.watch_machine_ms * NS_PER_MS
        self._software = software
        self._step_s = step_s
        self._cut_bytes = cut_bytes
        self._listening = listening
        self._comparing = comparing
        self._say = say
        self._log = log
        self.is_muted = is_muted
        self._believing = Believing(counter, step_s * MS_PER_S, log)
        self._pace = Pace(settings.gather_machine_ms * NS_PER_MS)
        self._line: PulseSource | None = None
        self._retry_ns = 0  # machine time
        self._fault_said: Refused | None = None
        self._fault_ns = 0  # machine time
        self.away = ""  # why the line cannot be watched now
        self._slept_ns = 0  # suspended in all, as of the beginning of the run
        self._looked_ns = 0  # before it every pulse has been taken
        self._watched_at_ns = 0  # machine time of the newest journalled event

    @property
    def is_on(self) -> bool:
        """Whether the line is open."""
        return self._line is not None

    @property
    def shown(self) -> str:
        """What is counted so far, for people."""
        register, listening = self._counter.register, self._listening
        return f"{register} pulses" if listening is None else f"index {register - listening.base}"

    @property
    def unbelieved(self) -> str:
        """Why the meter's index is not believed now; empty if it is, or pulses are counted."""
        fault = None if self._listening is None else self._listening.fault
        return "" if fault is None else fault.detail

    @property
    def is_doubting(self) -> bool:
        """Whether the clock is far ahead and not believed yet."""
        return self._believing.is_doubting

    @property
    def is_dated(self) -> bool:
        """Whether the time is known."""
        return self._counter.dating is not None and self._is_of_this_boot

    @property
    def _is_of_this_boot(self) -> bool:
        """Whether a run has begun in it: another boot's dating says nothing of its times."""
        return self._counter.has_begun_in(self._clock.boot_id)

    # --- A life. ---

    def begin(self) -> None:
        """Opens the line and takes what waits in it."""
        self._looked_ns = self._clock.now().mono_ns
        self._open_line()
        last_ns = self._counter.last_ns
        if self._line is None and last_ns is not None:
            # A run that was killed has said no word of its end, and none begins here yet: whatever
            # is journalled next, a clock that steps as well, nobody watched since.
            self._give([Passed(last_ns)])

    def look(self) -> None:
        """Takes what waits at the line, journals it, counts it."""
        self._look(is_first=False)

    def end(self) -> None:
        """Ends the run in order, with its newest readings."""
        if self._line is not None:
            self.look()
        if self._line is not None:  # the last look may have found it gone
            self._give([*self._newest(), Ended(self._looked_ns, Ending.STOPPED)])
            self.abandon()

    def abandon(self) -> None:
        """Lets go of the line without a word."""
        if self._line is not None:
            self._line.close()
            self._line = None

    def excuse(self) -> None:
        """The authority has the chain go on: whatever the meter says next is believed. Durable once
        this returns."""
        if self._listening is not None:
            self._give(self._listening.excuse())
            self._journal.sync()

    def begin_anew(self, now: Instant) -> None:
        """Ends the run as a death would, and begins another; nothing if none is on."""
        if self._line is not None:
            self._give([Ended(self._looked_ns, Ending.UNKNOWN)])
            self._begin_run(now)

    def tell(self, event: Event) -> None:
        """Journals and counts what does not come from the line."""
        self._give([event])

    # --- Waiting. ---

    def wait(self, now_ns: int) -> tuple[int | None, int, int | None]:
        """For how long nothing is to be done, at a machine time.

        Returns:
            Machine time until it must be looked at in any case, or None; for how long the line may
            be left alone; and the line's descriptor, None while it is gone.
        """
        line = self._line
        if line is None:
            return None, 0, None
        rest_ns = REST_NS if self._listening is not None else 0
        if self._listening is None:
            rest_ns = self._pace.rest_ns(now_ns, line.capacity)
        waits: list[int] = []
        draft_ns = self._draft_in_ns(now_ns)
        if draft_ns is not None:
            waits.append(draft_ns + line.latency_ns)
            rest_ns = min(rest_ns, draft_ns - ALERT_NS)
        if self._listening is not None or self._comparing is not None:
            due_ns = line.due_ns if isinstance(line, Timed) else None
            if due_ns is not None:
                waits.append(max(0, due_ns - now_ns))
        return min(waits, default=None), rest_ns, line.fileno()

    def _draft_in_ns(self, now_ns: int) -> int | None:
        """Machine time until a draft is due."""
        due_ns = self._counter.next_due_ns()
        if due_ns is None:
            return None
        ahead_ns = due_ns - self._clock.community_ns(now_ns)
        return int(self._clock.machine_wait_s(ahead_ns) * NS_PER_S)

    # --- The line. ---

    def _open_line(self) -> None:
        now = self._clock.now()
        try:
            if self.is_muted:
                raise LineLost(MUTED)
            self._line = self._open()
        except LineLost as lost:
            self.away = str(lost)
            self._say(self.away)
            self._retry_ns = self._clock.machine_ns() + LINE_RETRY_NS
            return
        self.away = ""
        self._say("watching")
        self._go_on_behind(self._line, now)
        self._begin_run(now)
        self._look(is_first=True)

    def _go_on_behind(self, line: object, now: Instant) -> None:
        """Tells a line when the newest pulse was counted, so that none is counted twice that goes
        on still. Another boot's pulses have ended."""
        counted_ns = self._counter.counted_ns
        if counted_ns is None or not self._is_of_this_boot or not isinstance(line, Resuming):
            return
        since_ns = int(self._clock.machine_wait_s(now.mono_ns - counted_ns) * NS_PER_S)
        line.go_on_behind(self._clock.machine_ns() - since_ns)

    def _begin_run(self, now: Instant) -> None:
        self._slept_ns = self._clock.slept_ns()
        began = Began(self._clock.boot_id, now.mono_ns, self._software, self._cut_bytes)
        self._cut_bytes = 0
        self._looked_ns = now.mono_ns
        self._give([began])
        # A dating belongs to a boot, hence after the word that this one has begun.
        self._give(self._dated(now))

    def _lose_line(self, why: str) -> None:
        self.away = why
        self._say(why)
        self.abandon()
        self._give([Ended(self._looked_ns, Ending.LINE_LOST)])
        self._retry_ns = self._clock.machine_ns() + LINE_RETRY_NS

    def _has_slept(self) -> bool:
        """Whether the machine was suspended since the run began: nobody watched meanwhile."""
        slept_ns = self._clock.slept_ns() - self._slept_ns
        if slept_ns <= SLEPT_NS:
            return False
        self._log(f"the machine was suspended: seconds={slept_ns // NS_PER_S}")
        return True

    # --- A look. ---

    def _look(self, *, is_first: bool) -> None:
        before = self._clock.now()
        line = self._line
        has_slept = line is not None and self._has_slept()
        if has_slept:
            # As a run that ended with the newest look, and one that begins now.
            self.begin_anew(before)
        dated = self._dated(before)
        if line is None:
            self._pass_by(before, dated)
            return
        asked_ns = 0 if self._comparing is None else self._clock.machine_ns()
        try:
            taken = line.take()
        except LineLost as lost:
            self._lose_line(str(lost))
            return
        after = self._clock.now()
        events = self._heard(taken)
        events += _declared(taken)
        events += self._pulses(taken, after, is_first=is_first, has_slept=has_slept)
        self._pace.note(taken.pulses, self._clock.machine_ns())
        events += self._beside(taken, after.mono_ns, is_first=is_first)
        # Before what came with it, which may close the step.
        events = [*dated, *self._compared(taken, events, asked_ns), *events]
        # What was emitted before this look began has been taken now, but for the line's latency.
        latency_ns = self._clock.community_ns(line.latency_ns) - self._clock.community_ns(0)
        self._looked_ns = max(self._looked_ns, before.mono_ns - latency_ns)
        if self._is_mark_due():
            events += [*self._newest(), Watched(self._looked_ns)]
        self._give(events)
        self._ask_past(line)

    def _pass_by(self, now: Instant, dated: list[Event]) -> None:
        """A look without a line: time passes, and it may be there again."""
        due_ns = self._counter.next_due_ns()
        is_due = self._is_of_this_boot and due_ns is not None and now.mono_ns >= due_ns
        self._give([*dated, Passed(now.mono_ns)] if is_due else dated)
        if self._clock.machine_ns() >= self._retry_ns:
            self._open_line()

    def _dated(self, now: Instant) -> list[Event]:
        return self._believing.date(now) if self._is_of_this_boot else []

    def _pulses(
        self, taken: Taken, after: Instant, *, is_first: bool, has_slept: bool
    ) -> list[Event]:
        """What was counted, each at its time where the kernel gives one."""
        register = self._counter.register
        if taken.captured_ns and not has_slept:
            times = [self._clock.community_ns(at) for at in taken.captured_ns]
            return [Pulses(register + i, at, at, int(is_first)) for i, at in enumerate(times, 1)]
        if not taken.pulses:
            return []
        since = min(self._looked_ns, after.mono_ns)
        waited = int(is_first or has_slept)
        return [Pulses(register + taken.pulses, since, after.mono_ns, waited)]

    def _beside(self, taken: Taken, now_ns: int, *, is_first: bool) -> list[Event]:
        """What another counter of the same pulses has seen and the line has not."""
        if taken.beside is None:
            return []
        ahead, register = self._counter.ahead, self._counter.register + taken.pulses
        events: list[Event] = []
        if is_first:
            events += missed(taken.beside, ahead, register, self._looked_ns, now_ns)
        return events + aligned(
            taken.beside,
            ahead,
            max([register, *_registers(events)]),
            taken.pulses,
            is_first=is_first,
            has_rested=self._pace.has_rested(PULSE_MAX_NS),
        )

    def _is_mark_due(self) -> bool:
        due_ns = self._counter.next_due_ns()
        if due_ns is not None and self._looked_ns >= due_ns:
            return True
        return self._clock.machine_ns() - self._watched_at_ns >= self._watch_ns

    def _give(self, events: list[Event]) -> None:
        if not events:
            return
        # Given once this returns: only then are they counted, and only from here on are they ours.
        self._journal.append(events)
        self._watched_at_ns = self._clock.machine_ns()
        for event in events:
            self._counter.apply(event)

    # --- Meters that speak. ---

    def _heard(self, taken: Taken) -> list[Event]:
        """What the meter itself has said, and what its own load profile says of steps that nobody
        read."""
        listening, clock, dating = self._listening, self._clock, self._counter.dating
        if listening is None:
            return []
        due_ns = self._counter.next_due_ns()
        events = listening.hear(taken.said, self._counter.register, due_ns, clock.community_ns)
        self._say_fault(listening.fault)
        if dating is None:
            return events
        return events + listening.recall(
            taken.past,
            lambda at_ns: dating.utc_ms(clock.community_ns(at_ns)),
            lambda at_ns: dating.error_ms(clock.community_ns(at_ns)),
        )

    def _say_fault(self, fault: Refusal | None) -> None:
        """Why the meter's index is not believed: once for each reason, until it is."""
        reason = None if fault is None else fault.reason
        if reason is self._fault_said:
            return
        now_ns = self._clock.machine_ns()
        if fault is None:
            # A meter that says now this and now that does not fill the log.
            if now_ns < self._fault_ns + FAULT_REST_NS:
                return
        else:
            self._fault_ns = now_ns
            self._log(f"{UNBELIEVED}{fault.detail}. {_what_to_do(fault)}")
        self._fault_said = reason

    def _compared(self, taken: Taken, events: list[Event], asked_ns: int) -> list[Event]:
        """What a second source has said, beside what these events will come to."""
        if self._comparing is None:
            return []
        held = 0 if self._listening is None else self._listening.register
        register = max([self._counter.register, held, *_registers(events)])
        self._comparing.note(register, asked_ns)
        end_ns = self._counter.step_end_ns()
        return self._comparing.hear(taken.compared, end_ns, self._clock.community_ns)

    def _newest(self) -> list[Event]:
        """The readings that are believed and not journalled yet."""
        newest = [] if self._listening is None else self._listening.give()
        return newest + ([] if self._comparing is None else self._comparing.give())

    def _ask_past(self, line: object) -> None:
        """Asks the meter for its indexes at the ends of steps that nobody read."""
        steps = self._counter.missed_steps
        # Whether a line is of a kind is dear to ask, and few looks have a reason to.
        if self._listening is None or not steps or not isinstance(line, Recalling):
            return
        steps = self._listening.missed(steps)
        if steps:
            line.ask_past((steps.start + 1) * self._step_s, steps.stop * self._step_s)


def _what_to_do(fault: Refusal) -> str:
    if fault.reason in (Refused.BELOW_REGISTERED, Refused.ABOVE_REGISTERED):
        return (
            "Unless it says so for a moment only, let the authority register the meter with the"
            " index that it shows"
        )
    return "If it does not return (was the meter exchanged?), let the authority re-anchor the chain"


def _declared(taken: Taken) -> list[Event]:
    """What a look has found beside pulses."""
    found = ((Mark.NOISE, taken.noise), (Mark.LOST, taken.lost))
    return [Noticed.of(mark, amount) for mark, amount in found if amount]


def _registers(events: list[Event]) -> list[int]:
    """Those that the counter comes to by these events."""
    return [one.register for one in events if isinstance(one, Pulses | Read)]
