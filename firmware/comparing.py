"""A second source of the same meter, that counts for nothing: its index is compared with what
counts at the end of each step. Whatever is wrong with it, counting goes on.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from cryptometer.chain_records import UNIT_UWH, Mark
from cryptometer.errors import ConfigurationError
from cryptometer.record_fields import REGISTER
from cryptometer.settings import read_settings, setting
from cryptometer.steps import NS_PER_MS, NS_PER_S
from firmware.enrolment import Enrolment
from firmware.events import Compared, Event, Noticed
from hal.index.choice import split_settings
from hal.index.plausible import Limits, Plausible
from hal.index.reading import Reading, Refusal, Refused, Register
from hal.ports import (
    Clock,
    IndexSource,
    LineLost,
    PulseSource,
    Recalling,
    Resuming,
    Taken,
    Timed,
)

# Between two looks at it: at 115,200 baud so long fills half of a serial port's buffer, and it is
# when pulses are gathered by default, so that a board does not wake twice.
LOOK_NS = 200 * NS_PER_MS
RETRY_NS = 2 * NS_PER_S
REGISTERS_MAX = 512  # changes of the register that are remembered: minutes of a fast meter
RATIO_MAX = 10**6

Open = Callable[[], IndexSource]
Log = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    """The key that a table `[compared]` has besides those of `[source]`."""

    ratio: int = setting(
        "what the index is multiplied by, where the meter shows what is behind its transformers", 1
    )


@dataclass(frozen=True, slots=True)
class Second:
    """How the index of a second source is read.

    Attributes:
        register: which of its registers is compared.
        identity: the number it states; empty: whatever it states first in a run.
        ratio: what it is multiplied by.
        power_w: the most it can show, W.
    """

    register: Register
    identity: str
    ratio: int
    power_w: int


def without_ratio(table: Mapping[str, object]) -> tuple[int, dict[str, object]]:
    """The ratio of a table `[compared]`, and the rest: a table as `[source]` has it.

    Raises:
        ConfigurationError: it is none.
    """
    own = {name: value for name, value in table.items() if name == "ratio"}
    ratio = read_settings(_Scale, own, "[compared]").ratio
    if not 1 <= ratio <= RATIO_MAX:
        raise ConfigurationError(f"[compared] ratio is from 1 to {RATIO_MAX}, not {ratio}")
    return ratio, {name: value for name, value in table.items() if name != "ratio"}


def second_of(table: Mapping[str, object], enrolment: Enrolment) -> Second:
    """How the second source of the enrolled meter is read.

    Raises:
        ConfigurationError: what a table `[compared]` says of it is missing or wrong.
    """
    ratio, rest = without_ratio(table)
    settings, _ = split_settings(rest, "[compared]")
    details = enrolment.details
    # As for what counts: U may be higher, and a fuse takes its time.
    most_w = Fraction(details.ratings.power_w(details.i_max_ma)) * Fraction(6, 5)
    return Second(settings.register, settings.identity, ratio, int(most_w / ratio))


class ComparedLine:
    """A line that counts, and a second source beside it that is looked at with it."""

    def __init__(
        self, line: PulseSource, open_second: Open, machine_ns: Callable[[], int], log: Log
    ) -> None:
        """
        Raises:
            ConfigurationError: a setting of the second source is wrong.
        """
        self._line = line
        self._open = open_second
        self._machine_ns = machine_ns
        self._log = log
        self._said = ""
        self._second: IndexSource | None = None
        self._due_ns = 0
        self.capacity = line.capacity
        self.fileno = line.fileno
        try:
            self._look()
        except BaseException:
            self.close()
            raise

    @property
    def latency_ns(self) -> int:
        return self._line.latency_ns

    @property
    def due_ns(self) -> int | None:
        """Machine time at which one of the two wants to be looked at though nothing came."""
        first_ns = self._line.due_ns if isinstance(self._line, Timed) else None
        return self._due_ns if first_ns is None else min(first_ns, self._due_ns)

    def ask_past(self, from_s: int, to_s: int) -> None:
        line: object = self._line
        if isinstance(line, Recalling):
            line.ask_past(from_s, to_s)

    def go_on_behind(self, counted_ns: int) -> None:
        line: object = self._line
        if isinstance(line, Resuming):
            line.go_on_behind(counted_ns)

    def take(self) -> Taken:
        taken = self._line.take()
        if self._machine_ns() < self._due_ns:
            return taken
        try:
            said = self._look()
        except Exception as error:  # noqa: BLE001 - counting goes on, whatever it is
            self._lose(f"{type(error).__name__}: {error}")
            said = ()
        return replace(taken, compared=said)

    def close(self) -> None:
        self._let_go()
        self._line.close()

    def _look(self) -> tuple[Reading | Refusal, ...]:
        now_ns = self._machine_ns()
        # A multiple of it, as gathering has it.
        self._due_ns = (now_ns // LOOK_NS + 1) * LOOK_NS
        try:
            if self._second is None:
                self._second = self._open()
            said = self._second.take().said
        except LineLost as lost:
            self._lose(str(lost))
            return ()
        if said:
            self._say("comparing")
        return said

    def _lose(self, why: str) -> None:
        self._say(f"what is compared is away: {why}")
        self._let_go()
        self._due_ns = self._machine_ns() + RETRY_NS

    def _let_go(self) -> None:
        second, self._second = self._second, None
        if second is not None:
            second.close()

    def _say(self, what: str) -> None:
        """Logs a change once."""
        if what != self._said:
            self._said = what
            self._log(what)


class Comparing:
    """Judges what a second source says, and keeps the newest before each step's end. Times are the
    machine's monotonic ones, but for those of events."""

    def __init__(self, second: Second, keep_ns: int) -> None:
        """
        Args:
            second: how it is read.
            keep_ns: after so long a reading is journalled though no step ends.
        """
        self._second = second
        self._keep_ns = keep_ns
        self._kept_ns = -keep_ns
        # What an earlier run believed is not held against it: a meter that was exchanged meanwhile
        # makes one step's comparison odd, and says so itself.
        self._plausible = Plausible(Limits(second.identity, second.register, second.power_w))
        self._held: Compared | None = None
        self._faults = 0
        self._registers: deque[tuple[int, int]] = deque(maxlen=REGISTERS_MAX)

    def note(self, register: int, now_ns: int) -> None:
        """What counts has come to this register by a look."""
        if not self._registers or register != self._registers[-1][1]:
            self._registers.append((now_ns, register))

    def hear(
        self,
        said: tuple[Reading | Refusal, ...],
        end_ns: int | None,
        community_ns: Callable[[int], int],
    ) -> list[Event]:
        """What of it is to be journalled now.

        Args:
            said: what was said since the look before.
            end_ns: the end of the open step in the community's monotonic time; None if none is.
            community_ns: maps the machine's monotonic time.
        """
        events: list[Event] = []
        for one in said:
            judged = [one] if isinstance(one, Refusal) else self._plausible.judge(one)
            for each in judged:
                if isinstance(each, Refusal):
                    # Of one that was silent, nothing was said that could be refused.
                    self._faults += each.reason is not Refused.SILENT
                    continue
                told = self._told(each, community_ns)
                if told is None:
                    continue
                held = self._held
                # The newest before the step's end is the one that is compared.
                if held is not None and end_ns is not None and held.at_ns < end_ns <= told.at_ns:
                    events += self.give()
                self._held = told
                if each.began_ns - self._kept_ns >= self._keep_ns:
                    self._kept_ns = each.began_ns
                    events += self.give()
        return events

    def give(self) -> list[Event]:
        """The newest reading, and what was refused since the call before, to be journalled now."""
        held, self._held = self._held, None
        faults, self._faults = self._faults, 0
        events: list[Event] = [Noticed.of(Mark.COMPARED_FAULT, faults)] if faults else []
        return events if held is None else [*events, held]

    def _told(self, reading: Reading, community_ns: Callable[[int], int]) -> Compared | None:
        """A believed reading as it is journalled; None if no record could hold it."""
        index = reading.index_of(self._second.register)
        assert index is not None  # noqa: S101 - `Plausible` refuses those without
        unit_uwh, at_ns = index.unit_uwh * self._second.ratio, community_ns(reading.began_ns)
        register = self._register_at(reading.began_ns)
        fits = 0 <= index.value <= REGISTER.high and UNIT_UWH.low <= unit_uwh <= UNIT_UWH.high
        if register is None or not fits or at_ns < 0:
            return None
        return Compared(index.value, unit_uwh, register, at_ns)

    def _register_at(self, at_ns: int) -> int | None:
        """Where the counting register stood when a message began; None: nobody knows."""
        for looked_ns, register in reversed(self._registers):
            if looked_ns <= at_ns:
                return register
        return None


def comparing_with(second: Second, clock: Clock, keep_ns: int) -> Comparing:
    """Compares with a second source. Readings have machine times; in those, a clock that runs
    faster makes the meter stronger.

    Args:
        keep_ns: as for `Comparing`.
    """
    speed = clock.community_ns(1) - clock.community_ns(0)
    return Comparing(replace(second, power_w=second.power_w * speed), keep_ns)
