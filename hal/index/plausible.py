"""Whether a reading can be true: the right meter, an index that neither goes back nor grows faster
than the meter's greatest current allows. A checksum of six bits, or none, is not believed alone:
such a reading waits until the one after it agrees, and is believed if it lies on the way between
its two neighbours. Two swapped digits pass such a sum, and may well lie between what was read
before and after; but not on the way. The first index of all follows what was registered: a meter
may say 0, rightly summed, when it is switched on, and what is behind that is no energy of today.
"""

from dataclasses import dataclass, replace

from cryptometer.metrology import SECONDS_PER_HOUR, kwh
from cryptometer.steps import NS_PER_S
from hal.index.reading import (
    Caveat,
    Index,
    Reading,
    Refusal,
    Refused,
    Register,
)

SLACK_UNITS = 2  # of the last digit: two rounded indexes differ by one more than was used
# How far off the straight line between its neighbours a weak reading may lie: by so many of its
# last digit, swapped ones being nine off at least, ...
STRAY_UNITS = 4
# ... and what the power's change makes. A change by all that the meter can give, in the middle of
# the time between them, makes four times as much: a reading at such an instant is given up.
STRAY_PART = 16


@dataclass(frozen=True, slots=True)
class Limits:
    """What is known of a meter.

    Attributes:
        identity: its number as it states it; empty: the first reading that counts says it.
        register: the one that counts.
        power_w: the greatest it can give, W.
    """

    identity: str
    register: Register
    power_w: int


@dataclass(frozen=True, slots=True)
class Before:
    """An index that was believed.

    Attributes:
        since_ns: monotonic time at which it was first read: some meters renew theirs rarely, and
            then by much.
    """

    index: Index
    since_ns: int


class Plausible:
    """Judges a meter's readings, one after the other."""

    def __init__(
        self,
        limits: Limits,
        before: Before | None = None,
        registered: Before | None = None,
        former: "Plausible | None" = None,
    ) -> None:
        """
        Args:
            limits: of the meter.
            before: the newest index believed by an earlier run.
            registered: what its display showed, and when at the earliest; the first index that is
                believed follows it. None: nothing is known, and it may be any.
            former: what was believed before the first of these; it may follow that as well.
        """
        self._limits = limits
        self._before = before
        self._registered = registered
        self._former = former
        self._awaiting: Reading | None = None  # of a weak check, until the next one agrees
        self._passed: Reading | None = None  # the weak one before that

    def judge(self, reading: Reading) -> list[Reading | Refusal]:
        """The readings that are believed now, oldest first, and what is refused. A believed one
        may be the reading before: each keeps its own times."""
        refusal = self._refuse(reading)
        if refusal is not None:
            return [refusal]
        if Caveat.WEAK_CHECK not in reading.caveats:
            return [*self._give_up(), self._believe(reading)]
        passed, awaiting = self._passed, self._awaiting
        self._passed, self._awaiting = awaiting, reading
        if awaiting is None:
            return []
        if awaiting.identity != reading.identity:  # which is not known before one is believed
            detail = f"the next reading is of meter {reading.identity}"
            return [Refusal(Refused.UNCONFIRMED, detail, reading.ended_ns)]
        why = self._contradiction(self._begin(awaiting), reading)
        if why is not None:
            return [Refusal(Refused.UNCONFIRMED, f"the next reading {why[1]}", reading.ended_ns)]
        off_uwh = 0 if passed is None else self._stray(passed, awaiting, reading)
        if off_uwh:
            detail = f"{off_uwh / 10**6} Wh off the way between its neighbours"
            return [Refusal(Refused.UNCONFIRMED, detail, reading.ended_ns)]
        return [self._believe(awaiting)]

    def can_follow(self, reading: Reading) -> bool:
        """Whether a reading can be the next by what was believed so far, and by its number."""
        return self._refuse(reading) is None

    def _refuse(self, reading: Reading) -> Refusal | None:
        limits, at_ns = self._limits, reading.ended_ns
        if limits.identity and not reading.identity:
            return Refusal(Refused.NO_IDENTITY, "the message names no meter", at_ns)
        if limits.identity and reading.identity != limits.identity:
            detail = f"a message of meter {reading.identity}, not of {limits.identity}"
            return Refusal(Refused.OTHER_METER, detail, at_ns)
        if reading.index_of(limits.register) is None:
            detail = f"the message has no {limits.register} register"
            return Refusal(Refused.NO_INDEX, detail, at_ns)
        before = self._before
        why = self._misfit(reading) if before is None else self._contradiction(before, reading)
        return None if why is None else Refusal(*why, at_ns)

    def _misfit(self, reading: Reading) -> tuple[Refused, str] | None:
        """Why a reading cannot be the first; None if it can."""
        registered, former = self._registered, self._former
        if registered is None or (former is not None and former.can_follow(reading)):
            return None
        index, shown_uwh = self._begin(reading).index, registered.index.uwh
        why = self._contradiction(registered, reading)
        # A display may have digits that the message cuts off.
        if why is None or index.uwh <= shown_uwh < index.uwh + index.unit_uwh:
            return None
        says = f"the first index is {kwh(index.uwh)}, and {kwh(shown_uwh)} were registered"
        if why[0] is Refused.WENT_BACK:
            return Refused.BELOW_REGISTERED, says
        power_w = self._limits.power_w
        return Refused.ABOVE_REGISTERED, f"{says}: {power_w} W cannot have given so much since"

    def _give_up(self) -> list[Reading | Refusal]:
        """A strong reading after a weak one settles it: what it follows was true."""
        awaiting, self._awaiting, self._passed = self._awaiting, None, None
        if awaiting is None:
            return []
        return [Refusal(Refused.UNCONFIRMED, "a better one came", awaiting.ended_ns)]

    def _stray(self, before: Reading, middle: Reading, after: Reading) -> int:
        """How far off the way between two a reading lies, micro-watt-hours; 0 if it is on it."""
        first, index, last = (self._begin(one).index for one in (before, middle, after))
        whole_ns, part_ns = after.ended_ns - before.ended_ns, middle.ended_ns - before.ended_ns
        if whole_ns <= 0:
            return 0
        on_line_uwh = first.uwh + (last.uwh - first.uwh) * part_ns // whole_ns
        off_uwh = abs(index.uwh - on_line_uwh)
        changed_uwh = self._most_uwh(whole_ns) // STRAY_PART
        return off_uwh if off_uwh > STRAY_UNITS * index.unit_uwh + changed_uwh else 0

    def _most_uwh(self, passed_ns: int) -> int:
        """What the meter's greatest power gives in that time."""
        return self._limits.power_w * passed_ns * 10**6 // (NS_PER_S * SECONDS_PER_HOUR)

    def _believe(self, reading: Reading) -> Reading:
        fresh, before = self._begin(reading), self._before
        if before is not None and before.index.uwh == fresh.index.uwh:
            fresh = replace(fresh, since_ns=before.since_ns)
        self._before = fresh
        if not self._limits.identity:
            self._limits = replace(self._limits, identity=reading.identity)
        return reading

    def _begin(self, reading: Reading) -> Before:
        index = reading.index_of(self._limits.register)
        assert index is not None  # noqa: S101 - `_refuse` comes first
        return Before(index, reading.began_ns)

    def _contradiction(self, before: Before, reading: Reading) -> tuple[Refused, str] | None:
        """Why a reading cannot follow an index; None if it can."""
        index = self._begin(reading).index
        grown_uwh = index.uwh - before.index.uwh
        if grown_uwh < 0:
            return Refused.WENT_BACK, f"is {-grown_uwh / 10**6} Wh less than what was read before"
        passed_ns = max(0, reading.ended_ns - before.since_ns)
        slack_uwh = SLACK_UNITS * max(index.unit_uwh, before.index.unit_uwh)
        most_uwh = self._most_uwh(passed_ns)
        if grown_uwh > most_uwh + slack_uwh:
            return (
                Refused.TOO_FAST,
                f"is {grown_uwh / 10**6} Wh more than what was read {passed_ns / NS_PER_S:.1f} s"
                f" before: {self._limits.power_w} W give {most_uwh / 10**6} Wh",
            )
        return None
