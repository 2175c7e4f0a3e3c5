"""Applies journalled events to the count. Normal work and recovery use the same `apply`.

Pulses that cannot be dated yet, or belong to no registration yet, wait here in order, with the
boot and the monotonic time they came at; once both are known they are counted as if just given.
"""

from dataclasses import dataclass, replace

from cryptometer.chain_records import Ending, Mark
from cryptometer.doubt import STEPPED_MS
from cryptometer.record_fields import REGISTER
from cryptometer.steps import NS_PER_MS, NS_PER_S
from cryptometer.wire import (
    UINT_MAX,
    Bytes,
    Choice,
    Flag,
    Many,
    Map,
    Row,
    Uint,
    wire,
    wire_optional,
)
from firmware.drafts import Comparison, Draft
from firmware.end import End
from firmware.events import (
    BOOT,
    EVENT_MAX,
    Aligned,
    Anchored,
    Began,
    Compared,
    Dated,
    Ended,
    Event,
    Excused,
    Kept,
    Noticed,
    Passed,
    Pulses,
    Read,
    Rebased,
    Recalled,
    Watched,
    decode_event,
    encode_event,
)
from firmware.latch import Latch
from firmware.lots import BLANK, Limits, Lots, LotState, Signed, Terms
from firmware.timekeeping import Dating, clock_of
from hal.ports import BESIDE_MODULUS

WAITING_MAX = 20_000  # events kept apart while they wait; beyond it neighbours are merged: 2 MB
MERGE_NS = NS_PER_S  # waiting pulses that came within a second are kept as one portion
RUNS_MERGED = 8  # events of which, where nothing else helps, only the pulses are kept apart


@dataclass(frozen=True, slots=True)
class Waiting:
    """An event that waits, with its boot."""

    boot: bytes = wire(0, BOOT)
    event: bytes = wire(1, Bytes(1, EVENT_MAX))
    ending: Ending = wire(2, Choice(Ending))


@dataclass(frozen=True, slots=True)
class BootDating:
    """The newest dating of a boot whose events wait."""

    boot: bytes = wire(0, BOOT)
    dating: Dating = wire(1, Row(Dating))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All a counter knows; stands at the head of every journal segment.

    Attributes:
        register: pulses given in all; those beyond `lots.register` wait.
        boot: the boot of the newest run.
        mono_ns: the newest monotonic time of that boot.
        ending: how the newest run ended, UNKNOWN while it is on.
        dating: of that boot.
        datings: of earlier boots whose events wait.
        end: where the signed chain stands, for an outbox that damage takes.
        ahead: as in `Aligned`, in the boot of the newest run.
        base, less: as in `Rebased`.
        excused: as in `Excused`.
        since: the place in the authority's chain of what gave the register its unit; None: as the
            signed chain has it.
    """

    register: int = wire(0, REGISTER)
    boot: bytes = wire(1, BOOT)
    mono_ns: int = wire(2, Uint())
    ending: Ending = wire(3, Choice(Ending))
    lots: LotState = wire(4, Map(LotState))
    waiting: tuple[Waiting, ...] = wire(5, Many(Row(Waiting), 0, 2 * WAITING_MAX))
    datings: tuple[BootDating, ...] = wire(6, Many(Row(BootDating), 0, 2 * WAITING_MAX))
    dating: Dating | None = wire_optional(7, Row(Dating))
    end: End | None = wire_optional(8, Map(End))
    ahead: int | None = wire_optional(9, Uint(0, BESIDE_MODULUS - 1))
    base: int | None = wire_optional(10, REGISTER)
    less: int | None = wire_optional(11, REGISTER)
    excused: bool | None = wire_optional(12, Flag())
    since: int | None = wire_optional(13, Uint())


BLANK_SNAPSHOT = Snapshot(0, bytes(16), 0, Ending.FIRST, BLANK, (), ())


class Counter:
    """Counts one line. Give it events in order; take drafts in the order of the meter's chain."""

    def __init__(self, snapshot: Snapshot, terms: Terms | None, limits: Limits) -> None:
        self.register = snapshot.register
        self.dating = snapshot.dating
        self.ahead = snapshot.ahead  # of another counter; None in a boot that has not told yet
        # What is added to a meter's own index.
        self.base = (snapshot.base or 0) - (snapshot.less or 0)
        self.is_excused = snapshot.excused is True
        self.since = snapshot.since
        self.limits = limits
        self._boot = snapshot.boot
        self._mono_ns = snapshot.mono_ns
        self._counted_ns = snapshot.mono_ns  # of the newest pulse, or later
        self._ending = snapshot.ending
        self._waiting: list[tuple[bytes, Event, Ending]] = [
            (one.boot, decode_event(one.event), one.ending) for one in snapshot.waiting
        ]
        ends = {boot: _end_ns(event) for boot, event, _ in self._waiting if boot != self._boot}
        self._undated_ns = sum(ends.values())  # how long earlier boots lasted that wait for a date
        self._datings = {one.boot: one.dating for one in snapshot.datings}
        self._blank_lots = snapshot.lots
        self._lots: Lots | None = None
        if terms is not None:
            kind = Lots if terms.latch_ms is None else Latch
            self._lots = kind(snapshot.lots, terms, limits)

    def resume(self, signed: Signed) -> None:
        """Tells what is signed already; before journalled events are applied again."""
        if self._lots is not None:
            self._lots.resume(signed)
        self.register = max(self.register, signed.register)

    def caught_up(self) -> None:
        """Tells that all journalled events have been applied again."""
        if self._lots is not None:
            self._lots.caught_up()

    def has_begun_in(self, boot: bytes) -> bool:
        """Whether a run has begun in this boot: datings of another one do not map its times."""
        return boot == self._boot

    @property
    def missed_steps(self) -> range:
        """Steps that nobody read, between the newest reading that was drafted and the open step."""
        return self._lots.missed_steps if isinstance(self._lots, Latch) else range(0)

    @property
    def told_ms(self) -> int | None:
        """As `Latch.told_ms`."""
        return self._lots.told_ms if isinstance(self._lots, Latch) else None

    @property
    def read_ms(self) -> int | None:
        """When the newest index that stands in the register was read, UTC, or before; None where
        nobody knows."""
        return self._lots.read_ms if isinstance(self._lots, Latch) else None

    @property
    def last_ns(self) -> int | None:
        """The monotonic time of the newest event, in its boot; None before the first run."""
        return None if self._ending is Ending.FIRST else self._mono_ns

    @property
    def counted_ns(self) -> int | None:
        """A monotonic time at or after that of the newest pulse, in its boot; None before the first
        run."""
        return None if self._ending is Ending.FIRST else self._counted_ns

    def snapshot(self, end: End | None = None) -> Snapshot:
        """All there is to know, once the drafts have been taken; `end` is that of what is signed
        of them."""
        return Snapshot(
            self.register,
            self._boot,
            self._mono_ns,
            self._ending,
            self._blank_lots if self._lots is None else self._lots.state(),
            tuple(Waiting(boot, encode_event(event), end) for boot, event, end in self._waiting),
            tuple(BootDating(boot, dating) for boot, dating in self._datings.items()),
            self.dating,
            end,
            self.ahead,
            max(self.base, 0) or None,
            max(-self.base, 0) or None,
            self.is_excused or None,
            self.since,
        )

    def settle(self, *, is_index: bool) -> None:
        """Another unit begins: what was counted in this one is told, what never was dated is lost;
        as `Lots.settle`."""
        if self._lots is None:
            return
        self._lots.notice(Mark.LOST, max(0, self.register - self._lots.register))
        self._lots.settle(is_index=is_index)
        self.register = self._lots.register

    def in_another_unit(self, since: int, base: int) -> Snapshot:
        """What a counter in another unit begins with, once this one is settled and its drafts have
        been taken. The register goes on; of a chain without a record there is none yet.

        Args:
            base: what is added to the meter's index.
        """
        before = self.snapshot()
        lots = before.lots
        if lots.run_ms == 0:
            return replace(BLANK_SNAPSHOT, since=since)
        lots = replace(lots, lot_from=lots.register, batch_from=lots.register, lots=())
        more, less = max(base, 0) or None, max(-base, 0) or None
        return replace(
            before, lots=lots, waiting=(), datings=(), ahead=None, base=more, less=less, since=since
        )

    def take_drafts(self) -> list[Draft]:
        """The drafts since the last call, in order."""
        if self._lots is None or not self._lots.drafts:
            return []
        drafts, self._lots.drafts = self._lots.drafts, []
        return drafts

    def next_due_ns(self) -> int | None:
        """The monotonic time by which `Watched` must be applied for a draft to come in time."""
        if self._lots is None or self.dating is None:
            return None
        due_ms = self._lots.next_due_ms()
        return None if due_ms is None else self.dating.mono_at(due_ms)

    def step_end_ns(self) -> int | None:
        """The monotonic time at which the open step ends; None while none is open or dated."""
        if self._lots is None or self.dating is None:
            return None
        end_ms = self._lots.step_end_ms()
        return None if end_ms is None else self.dating.mono_at(end_ms)

    def apply(self, event: Event) -> None:
        """Counts one event."""
        match event:
            case Began(boot=boot, mono_ns=mono_ns, cut=cut):
                if boot != self._boot:
                    if self.dating is not None and self._waiting:
                        self._datings[self._boot] = self.dating
                    if self.dating is None:
                        self._undated_ns += self._mono_ns
                    self.dating = None
                    self.ahead = None  # it begins anew
                    self._counted_ns = mono_ns
                self._boot, self._mono_ns = boot, mono_ns
                if cut:
                    self._notice(Mark.CUT, cut)
            case Dated(dating=dating):
                before, self.dating = self.dating, dating
                if before is not None:
                    self._step_clock(before, dating)
            case Pulses(register=register, to_ns=to_ns):
                self.register = max(self.register, register)
                self._mono_ns = self._counted_ns = to_ns
            case Read(register=register, at_ns=at_ns):
                self.is_excused = False
                self.register = max(self.register, register)
                self._mono_ns = max(self._mono_ns, at_ns)
            case Rebased(base=base, less=less):
                self.is_excused = False
                self.base = base - less
                return
            case Excused():
                self.is_excused = True
                return
            case Recalled(register=register, at_ms=at_ms, error_ms=error_ms):
                if isinstance(self._lots, Latch) and self.dating is not None:
                    self._lots.recall(register, at_ms, clock_of(self.dating.source, error_ms))
                return
            case Compared(at_ns=at_ns):
                if self._lots is not None and self.dating is not None:
                    at_ms = self.dating.utc_ms(at_ns)
                    told = Comparison(event.index, event.unit_uwh, event.counted, at_ms)
                    self._lots.compare(told)
                return
            case Watched(mono_ns=mono_ns) | Ended(mono_ns=mono_ns) | Passed(mono_ns=mono_ns):
                self._mono_ns = mono_ns
            case Noticed(mark=mark, amount=amount):
                self._notice(mark, amount)
                return
            case Kept():
                return
            case Aligned(ahead=ahead):
                self.ahead = ahead
                return
            case Anchored(mono_ns=mono_ns):
                if self._lots is not None and self.dating is not None:
                    self._lots.come_back(self.dating.utc_ms(mono_ns))
                return
        if not isinstance(event, Dated):
            self._wait(event)
        if isinstance(event, Ended):
            self._ending = event.ending
        elif isinstance(event, Began):
            self._ending = Ending.UNKNOWN
        if self._lots is not None and self.dating is not None:
            self._count_waiting(self._lots, self.dating)

    def known_ms(self, mono_ns: int) -> int | None:
        """The latest that it can be by what is known at a monotonic time of this boot, UTC: the
        dating carried on or, in a boot without one, the newest moment watched before, and as long
        after it as this and earlier boots without one have lasted. How long the power was off
        nobody here knows."""
        if self.dating is not None:
            return self.dating.utc_ms(mono_ns) + self.dating.error_ms(mono_ns)
        seen_ms = None if self._lots is None else self._lots.seen_ms
        return None if seen_ms is None else seen_ms + (self._undated_ns + mono_ns) // NS_PER_MS

    def is_far_ahead(self, mono_ns: int) -> bool:
        """Whether a wrong clock has led the chain so far ahead that nobody counts its steps."""
        return (
            self._lots is not None
            and self.dating is not None
            and self._lots.is_far_ahead(self.dating.utc_ms(mono_ns))
        )

    def _step_clock(self, before: Dating, dating: Dating) -> None:
        utc_ms = dating.utc_ms(dating.mono_ns)
        jump_ms = utc_ms - before.utc_ms(dating.mono_ns)
        if abs(jump_ms) <= STEPPED_MS:
            return
        self._notice(Mark.CLOCK_STEPPED, abs(jump_ms))
        if self._lots is None:
            return
        if jump_ms > 0:
            self._lots.leap(utc_ms, dating.reading(dating.mono_ns))
        else:
            self._lots.put_back(utc_ms)

    def _notice(self, mark: int, amount: int) -> None:
        if self._lots is not None:
            self._lots.notice(mark, amount)
        elif amount:
            # Nobody signs yet; the first record will say it.
            before = self._blank_lots.marks
            marks = dict(zip(before[::2], before[1::2], strict=True))
            marks[int(mark)] = marks.get(int(mark), 0) + amount
            flat = tuple(part for pair in sorted(marks.items()) for part in pair)
            self._blank_lots = replace(self._blank_lots, marks=flat)

    def _wait(self, event: Event) -> None:
        if self._waiting:
            boot, last, ending = self._waiting[-1]
            merged = _merge(last, event, MERGE_NS) if boot == self._boot else None
            if merged is not None:
                self._waiting[-1] = (boot, merged, ending)
                return
        self._waiting.append((self._boot, event, self._ending))
        if len(self._waiting) > WAITING_MAX:
            self._merge_waiting()

    def _merge_waiting(self) -> None:
        """Halves the number of portions: their times get coarser, their pulses stay."""
        merged: list[tuple[bytes, Event, Ending]] = []
        alone = False  # whether the newest in `merged` may still take its neighbour in
        for boot, event, ending in self._waiting:
            if alone and merged[-1][0] == boot:
                both = _merge(merged[-1][1], event, within_ns=UINT_MAX)
                if both is not None:
                    merged[-1] = (boot, both, merged[-1][2])
                    alone = False
                    continue
            merged.append((boot, event, ending))
            alone = True
        self._waiting = merged
        if len(merged) > WAITING_MAX:
            self._merge_runs()

    def _merge_runs(self) -> None:
        """What is left are runs without end, as of a line that comes and goes: of several only
        the pulses stay, as found waiting by the first; nothing is said to have been watched."""
        merged: list[tuple[bytes, Event, Ending]] = []
        waiting = self._waiting
        for first in range(0, len(waiting), RUNS_MERGED):
            group = waiting[first : first + RUNS_MERGED]
            is_last = first + RUNS_MERGED >= len(waiting)  # may hold the run that is on
            is_dated = {boot for boot, *_ in group} & {self._boot, *self._datings}
            if is_last or (is_dated and any(boot != group[0][0] for boot, *_ in group)):
                merged += group
            else:
                merged += _merge_group(group)
        self._waiting = merged

    def _count_waiting(self, lots: Lots, dating: Dating) -> None:
        # An earlier boot that never knew the time goes to the first moment that is known.
        here = (event for boot, event, _ in self._waiting if boot == self._boot)
        first_ns = next(map(_begin_ns, here), dating.mono_ns)
        waiting, self._waiting = self._waiting, []
        for boot, event, ending in waiting:
            if boot == self._boot:
                _count(lots, event, ending, dating)
            elif boot in self._datings:
                _count(lots, event, ending, self._datings[boot])
            else:
                _count_undated(lots, event, ending, dating, first_ns)
        self._datings.clear()
        self._undated_ns = 0


def _count(lots: Lots, event: Event, ending: Ending, dating: Dating) -> None:
    match event:
        case Began(mono_ns=at, software=software):
            lots.begin_run(dating.utc_ms(at), software, ending, dating.reading(at))
        case Pulses(register=register, from_ns=from_ns, to_ns=to_ns, waited=waited):
            from_ms, to_ms = dating.utc_ms(from_ns), dating.utc_ms(to_ns)
            lots.count(register, from_ms, to_ms, dating.reading(to_ns), waited=bool(waited))
        case Read(register=register, at_ns=at):
            lots.read(register, dating.utc_ms(at), dating.reading(at))
        case Watched(mono_ns=at):
            lots.watch(dating.utc_ms(at), dating.reading(at))
        case Ended(mono_ns=at):
            lots.watch(dating.utc_ms(at), dating.reading(at))
            lots.end_run()
        case Passed(mono_ns=at):
            lots.pass_by(dating.utc_ms(at), dating.reading(at))


def _count_undated(lots: Lots, event: Event, ending: Ending, dating: Dating, first_ns: int) -> None:
    at_ms, clock = dating.utc_ms(first_ns), dating.reading(first_ns)
    match event:
        case Began(software=software):
            lots.begin_run(at_ms, software, ending, clock)
        case Pulses(register=register):
            lots.notice(Mark.UNDATED, max(0, register - lots.register))
            lots.count(register, at_ms, at_ms, clock)
        case Ended() | Passed():
            lots.end_run()


def _merge(earlier: Event, later: Event, within_ns: int) -> Event | None:
    """The two as one event, when they may be told as one."""
    match earlier, later:
        case (Watched(), Watched()) | (Passed(), Passed()):
            return later
        case (Read(at_ns=begin), Read()) if later.at_ns - begin <= within_ns:
            return later
        case Pulses(from_ns=begin, waited=waited), Pulses() if later.to_ns - begin <= within_ns:
            return Pulses(later.register, begin, later.to_ns, waited | later.waited)
        case Watched(), Pulses() if within_ns == UINT_MAX:
            return later
        case _:
            return None


def _merge_group(group: list[tuple[bytes, Event, Ending]]) -> list[tuple[bytes, Event, Ending]]:
    """At most three events instead of many: a run that ended as it began, and its pulses."""
    boot, first, ending = group[0]
    begin_ns = _begin_ns(first)
    merged: list[tuple[bytes, Event, Ending]] = []
    for _, event, before in group:
        if isinstance(event, Began):
            merged.append((boot, replace(event, mono_ns=begin_ns), before))
            break
    merged.append((boot, Ended(begin_ns, Ending.UNKNOWN), ending))
    given = [event for _, event, _ in group if isinstance(event, Pulses)]
    if given:
        to_ns = max(begin_ns, given[-1].to_ns)
        merged.append((boot, Pulses(given[-1].register, begin_ns, to_ns, 1), ending))
    return merged


def _end_ns(event: Event) -> int:
    return event.to_ns if isinstance(event, Pulses) else _begin_ns(event)


def _begin_ns(event: Event) -> int:
    match event:
        case Began(mono_ns=at) | Watched(mono_ns=at) | Ended(mono_ns=at) | Passed(mono_ns=at):
            return at
        case Pulses(from_ns=at) | Read(at_ns=at):
            return at
        case _:
            return 0
