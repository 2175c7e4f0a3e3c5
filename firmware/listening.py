"""From what a meter says to what is journalled: which readings are believed, and which of them are
kept. A meter speaks every second, and its index forgets nothing: the last reading before a step's
end tells all that one each second would.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from cryptometer.chain_records import Mark
from cryptometer.record_fields import REGISTER
from cryptometer.steps import MS_PER_S, NS_PER_MS, ClockState
from firmware.counter import Counter
from firmware.enrolment import Enrolment
from firmware.events import Event, Excused, Noticed, Read, Rebased, Recalled
from hal.index.choice import split_settings
from hal.index.plausible import Before, Limits, Plausible
from hal.index.reading import Index, Past, Reading, Refusal, Refused, Register
from hal.ports import Clock, IndexSource, Taken

# Bytes come a few at a time; a look costs more than they do.
REST_NS = 100 * NS_PER_MS
YEARS_NS = 10 * 366 * 86_400 * 10**9  # in another boot: nobody knows how long ago it was
# A display is read before its meter counts: a week at the greatest power is a month of a roof.
READ_BEFORE_NS = 7 * 86_400 * 10**9
UNBELIEVED = "its index is not believed: "  # in a status
_FAULTS = (
    Refused.WENT_BACK,
    Refused.TOO_FAST,
    Refused.BELOW_REGISTERED,
    Refused.ABOVE_REGISTERED,
)


@dataclass(frozen=True, slots=True)
class Registered:
    """What a meter's display showed when it was registered.

    Attributes:
        index_wh: without transformers, Wh.
        from_ms: when the first step that counts begins, UTC.
    """

    index_wh: int
    from_ms: int


@dataclass(frozen=True, slots=True)
class Spoken:
    """How a meter's index is read.

    Attributes:
        register: which of its registers counts.
        identity: the number it states; empty: whatever it states first.
        unit_uwh: what the last digit of the registered index is worth, before transformers.
        power_w: the most it can show, W.
        settle_ns: machine time after a step's end until it is closed.
        registered: what the first index follows; None: it may be any.
    """

    register: Register
    identity: str
    unit_uwh: Fraction
    power_w: int
    settle_ns: int
    registered: Registered | None = None


class SpokenLine:
    """A meter that speaks, as the device looks at any line."""

    def __init__(self, source: IndexSource, spoken: Spoken) -> None:
        self._source = source
        self._spoken = spoken

    @property
    def latency_ns(self) -> int:
        return self._spoken.settle_ns

    @property
    def capacity(self) -> int:
        """Nothing is lost by leaving it alone: the next reading says it all."""
        return 2**31

    @property
    def due_ns(self) -> int | None:
        """Machine time at which it wants to be looked at though nothing came."""
        return self._source.due_ns

    def fileno(self) -> int:
        return self._source.fileno()

    def take(self) -> Taken:
        """Takes all that was said.

        Raises:
            LineLost: the line is gone.
        """
        heard, memory = self._source.take(), self._source.memory
        past = () if memory is None else tuple(memory.take_past())
        return Taken(0, raw=heard.raw, said=heard.said, past=past)

    def ask_past(self, from_s: int, to_s: int) -> None:
        """Asks for indexes of earlier moments, unix seconds; of a meter that keeps none, nothing
        comes."""
        if self._source.memory is not None:
            self._source.memory.ask_past(from_s, to_s)

    def close(self) -> None:
        self._source.close()


class Listening:
    """Listens to one meter. Times are the machine's monotonic ones, but for those of events.

    Attributes:
        fault: why its index is not believed now; None if it is.
    """

    def __init__(
        self,
        spoken: Spoken,
        base: int,
        before: Before | None,
        keep_ns: int,
        registered: Before | None = None,
        *,
        is_excused: bool = False,
    ) -> None:
        """
        Args:
            spoken: how it is read.
            keep_ns: after so long a reading is journalled though no step ends.
            base: what is added to its index, in the registered unit.
            before: the newest index that was believed, as the meter stated it.
            registered: what the first one follows, and the first behind a re-anchor.
            is_excused: an earlier run had the authority's leave, and believed nothing since.
        """
        self._spoken = spoken
        self._base = base
        self._keep_ns = keep_ns
        self._kept_ns = -keep_ns  # machine time of the newest one that was journalled
        self._registered = registered
        self._plausible = Plausible(self._limits, before, registered)
        # What was believed before a re-anchor, behind which the index may differ.
        self._excused: Plausible | None = None
        self._held: Read | None = None  # believed, not journalled yet
        self._newest: Reading | None = None  # believed
        self._asked_step = -1  # the newest step that its memory was asked for
        self._noticed: dict[Mark, int] = {}
        self.fault: Refusal | None = None
        if is_excused:
            self._excuse()

    @property
    def _limits(self) -> Limits:
        spoken = self._spoken
        return Limits(spoken.identity, spoken.register, spoken.power_w)

    @property
    def base(self) -> int:
        return self._base

    @property
    def register(self) -> int:
        """Of the newest reading that is believed and not journalled yet; 0 if there is none."""
        return 0 if self._held is None else self._held.register

    def excuse(self) -> list[Event]:
        """The authority has the chain go on: what the meter says next is believed, though it goes
        back or leaps, if what is registered by now allows it. To be journalled: what was believed
        before it, and that it is so."""
        self._excuse()
        return [*self.give(), Excused()]

    def _excuse(self) -> None:
        # Of two re-anchors without a reading in between, the first knew what was believed.
        self._excused = self._excused or self._plausible
        self._plausible = Plausible(self._limits, None, self._registered, self._excused)

    def hear(
        self,
        said: tuple[Reading | Refusal, ...],
        register: int,
        end_ns: int | None,
        community_ns: Callable[[int], int],
    ) -> list[Event]:
        """What of it is to be journalled now.

        Args:
            said: what was said since the look before.
            register: the counter's.
            end_ns: the end of the open step in the community's monotonic time; None if none is.
            community_ns: maps the machine's monotonic time.
        """
        events: list[Event] = []
        for one in said:
            if isinstance(one, Refusal):
                self._refuse(one)
                continue
            for judged in self._plausible.judge(one):
                if isinstance(judged, Refusal):
                    self._refuse(judged)
                    continue
                events += self._rebased(judged, register)
                units = self._units(judged) + self._base
                read = Read(units, community_ns(judged.began_ns))
                held = self._held
                # The newest before the step's end is the one that tells the step.
                if held is not None and end_ns is not None and held.at_ns < end_ns <= read.at_ns:
                    events += self.give()
                self._held, self._newest, self.fault = read, judged, None
                if end_ns is None or judged.began_ns - self._kept_ns >= self._keep_ns:
                    self._kept_ns = judged.began_ns
                    events += self.give()
        return events

    def give(self) -> list[Event]:
        """The newest reading, and what was refused since the call before, to be journalled now."""
        held, self._held = self._held, None
        noticed, self._noticed = self._noticed, {}
        marks: list[Event] = [Noticed.of(mark, amount) for mark, amount in noticed.items()]
        return marks if held is None else [*marks, held]

    def missed(self, steps: range) -> range:
        """Of steps that nobody read, those that the meter's memory was not asked for yet; now it
        is."""
        fresh = range(max(steps.start, self._asked_step + 1), steps.stop)
        self._asked_step = max(self._asked_step, steps.stop - 1)
        return fresh

    def recall(
        self,
        past: tuple[Past | Refusal, ...],
        utc_ms: Callable[[int], int],
        error_ms: Callable[[int], int],
    ) -> list[Event]:
        """What of its load profile is to be journalled: rows of this meter, if its clock is known.

        Args:
            past: the rows, in order of time.
            utc_ms: maps the machine's monotonic time.
            error_ms: bounds the error of that.
        """
        newest = self._newest
        if newest is None or newest.meter_time_s is None or not past:
            return []
        # Its stamp has whole seconds, and was made at some moment since the look before.
        off_ms = abs(newest.meter_time_s * MS_PER_S - utc_ms(newest.began_ns))
        bound_ms = off_ms + MS_PER_S + error_ms(newest.began_ns)
        events: list[Event] = []
        for row in past:
            if isinstance(row, Refusal) or row.identity != newest.identity:
                continue
            index = row.index_of(self._spoken.register)
            if index is not None and not row.caveats:
                units = int(index.uwh / self._spoken.unit_uwh) + self._base
                if units < 0:  # of a time before the index was moved
                    continue
                events.append(Recalled(units, row.at_s * MS_PER_S, bound_ms))
        return events

    def _refuse(self, refusal: Refusal) -> None:
        if refusal.reason in _FAULTS:
            self.fault = refusal
        mark = Mark.INDEX_FAULT if refusal.reason in _FAULTS else Mark.REFUSED
        if refusal.reason is not Refused.SILENT:  # nothing was said that could be refused
            self._noticed[mark] = self._noticed.get(mark, 0) + 1

    def _rebased(self, reading: Reading, register: int) -> list[Event]:
        """An index that begins elsewhere goes on from where the counter stands: what another meter
        shows when it comes is no energy of this one."""
        excused, self._excused = self._excused, None
        if excused is None:
            return []
        units = self._units(reading)
        # In a coarser unit the index may still be in the digit that the register has rounded up.
        if excused.can_follow(reading) and units + self._base >= register - 1:
            return []
        self._base = base = register - units
        return [Rebased(max(base, 0), max(-base, 0))]

    def _units(self, reading: Reading) -> int:
        index = reading.index_of(self._spoken.register)
        assert index is not None  # noqa: S101 - `Plausible` refuses those without
        return int(index.uwh / self._spoken.unit_uwh)


def listening_on(spoken: Spoken, counter: Counter, clock: Clock, keep_ns: int) -> Listening:
    """Goes on from the newest index that an earlier run has believed.

    Args:
        keep_ns: as for `Listening`.
    """
    now_ns = clock.machine_ns()
    if counter.has_begun_in(clock.boot_id) and counter.last_ns is not None:
        since_ns = now_ns - max(0, clock.now().mono_ns - counter.last_ns)
    else:
        since_ns = now_ns - _age_ns(clock, counter.read_ms)
    if counter.told_ms is not None:
        age_ns = clock.now().utc_ns - counter.told_ms * NS_PER_MS
        since_ns = min(since_ns, now_ns - age_ns)
    before = index_before(spoken, counter.register, counter.base, since_ns)
    registered = _shown(spoken.registered, clock)
    # Readings have machine times; in those, a clock that runs faster makes the meter stronger.
    speed = clock.community_ns(1) - clock.community_ns(0)
    spoken = replace(spoken, power_w=spoken.power_w * speed)
    return Listening(
        spoken, counter.base, before, keep_ns, registered, is_excused=counter.is_excused
    )


def _shown(registered: Registered | None, clock: Clock) -> Before | None:
    """The registered index, and the earliest machine time at which a display may have shown it."""
    if registered is None:
        return None
    age_ns = _age_ns(clock, registered.from_ms, is_past=False)
    return Before(Index(registered.index_wh), clock.machine_ns() - age_ns - READ_BEFORE_NS)


def _age_ns(clock: Clock, utc_ms: int | None, *, is_past: bool = True) -> int:
    """How long ago a moment of the community's time is at the most, by a clock that knows; years,
    if it does not.

    Args:
        is_past: a clock by which it is still to come is wrong.
    """
    now = clock.now()
    if utc_ms is None or now.state not in (ClockState.SYNCHRONISED, ClockState.INFORMATIVE):
        return YEARS_NS
    age_ns = now.utc_ns + now.error_ns - utc_ms * NS_PER_MS
    return YEARS_NS if is_past and age_ns < 0 else max(0, age_ns)


def spoken_of(table: Mapping[str, object], enrolment: Enrolment) -> Spoken:
    """How the enrolled meter's index is read by the source of a table `[source]`.

    Raises:
        ConfigurationError: what the table says of it is missing or wrong.
    """
    settings, _ = split_settings(table, "[source]")
    return Spoken(
        settings.register,
        settings.identity,
        enrolment.unit_uwh,
        enrolment.power_w,
        settings.settle_machine_ms * NS_PER_MS,
        Registered(enrolment.details.index_wh, enrolment.from_ms),
    )


def base_in(spoken: Spoken, register: int, shown_uwh: int | None) -> int:
    """What is added to an index in a new unit.

    Args:
        register: the counter's.
        shown_uwh: the newest index that was told, as the meter stated it; None where its pulses
            were counted: then no index can follow, and the first that is excused goes on from the
            register.
    """
    if shown_uwh is None:
        return -REGISTER.high
    # Rounded up: what an old digit has told of a new one is not told again.
    return register + int(-shown_uwh // spoken.unit_uwh)


def index_before(spoken: Spoken, register: int, base: int, since_ns: int) -> Before | None:
    """The newest index that was believed by an earlier run, as the meter had stated it; None if
    there was none.

    Args:
        register: the counter's.
        base: what it has over the index.
        since_ns: machine monotonic time at which it was read.
    """
    if register <= base:
        return None
    return Before(Index(int((register - base) * spoken.unit_uwh), -6), since_ns)
