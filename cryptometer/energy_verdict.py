"""The energy verdict on the records of a meter: counted, or quarantined with a reason. It is taken
against the state after the block before, and never stops a chain.
"""

from dataclasses import dataclass, replace
from fractions import Fraction

from cryptometer.authority_records import Use
from cryptometer.chain import follow
from cryptometer.chain_records import Batch, ChainRecord, Mark, Reading, StepClose
from cryptometer.errors import Reason, Rejected
from cryptometer.judging import Rule
from cryptometer.merkle import leaf_hash
from cryptometer.meter import Meter
from cryptometer.records import Record
from cryptometer.settlement import Waiting
from cryptometer.state import State
from cryptometer.steps import FUTURE_STEPS, MS_PER_S, step_start_ms


@dataclass(frozen=True, slots=True)
class Verdict:
    """The energy verdict on one leaf: `reason` is None where it counts, or where an authority
    record acts; otherwise it stands without effect. `rule`: of a distribution that counts, whether
    the agreement gives what it says, as far as the checker can know. `since_step`: of a close that
    transfers the energy of several steps, the one whose close was the last before."""

    record: Record
    reason: Reason | None
    energy_uwh: int
    rule: Rule | None = None
    since_step: int | None = None


class MeterAccount:
    """What changes of a meter while its leaves of one block are applied, in the order of its chain;
    see `Meter`. Used once, then thrown away.

    Attributes:
        brought: what its closes brought to the virtual power plant, by step.
        verdicts: on each leaf.
        leaf_hashes: of each, in the ledger's tree.
        late: how many leaves are of earlier steps.
        late_steps: the most steps one of them is late.
    """

    __slots__ = (
        "_meter",
        "_state",
        "_step",
        "_step_ms",
        "anchored",
        "brought",
        "closed_register",
        "closed_step",
        "floor",
        "head",
        "last_step",
        "late",
        "late_steps",
        "leaf_hashes",
        "open_uwh",
        "quarantined_uwh",
        "read_ms",
        "transferred_uwh",
        "untransferred_uwh",
        "verdicts",
    )

    def __init__(self, state: State, step: int, meter: Meter) -> None:
        """
        Args:
            state: the community after the block before.
            step: the market step of the block.
        """
        self._state = state
        self._step = step
        self._step_ms = state.genesis.step_s * MS_PER_S
        self._meter = meter
        self.head = meter.head
        self.last_step = meter.last_step
        self.closed_step = meter.closed_step
        self.closed_register = meter.closed_register
        self.open_uwh = meter.open_uwh
        self.untransferred_uwh = meter.untransferred_uwh
        self.transferred_uwh = meter.transferred_uwh
        self.quarantined_uwh = meter.quarantined_uwh
        self.read_ms = meter.read_ms
        self.anchored = meter.anchored
        self.floor = meter.floor
        self.brought: list[tuple[int, Waiting]] = []
        self.verdicts: list[Verdict] = []
        self.leaf_hashes: list[bytes] = []
        self.late = self.late_steps = 0

    def add(self, record: Record, body: ChainRecord) -> None:
        """Adds the next leaf.

        Raises:
            Rejected: it can not be in this block.
        """
        if self._step < body.step <= self._step + FUTURE_STEPS:
            raise Rejected(Reason.NOT_YET, f"a record of step {body.step} must wait")
        before = self.head
        self.head = follow(self._meter, before, record, body)
        if body.step < self._step:
            self.late += 1
            self.late_steps = max(self.late_steps, self._step - body.step)
        reason: Reason | None
        energy = 0
        since = None
        if isinstance(body, Batch) or (isinstance(body, Reading) and body.counting):
            # What it registers, its chain may register no more: `follow` has worked it out.
            energy = before.allowance_uwh - self.head.allowance_uwh
            reason = self._count(body, energy)
        elif isinstance(body, StepClose):
            missed = self._closed_before_missed(body.step)
            reason, energy = self._transfer(record, body)
            since = missed if energy else None
        else:
            reason = Reason.FAR_FUTURE if body.step > self._step else None
            if before.register is None:
                self._begin(body)
        self.verdicts.append(Verdict(record, reason, energy, since_step=since))
        self.leaf_hashes.append(leaf_hash(record.raw))

    def settled(self) -> Meter:
        """The meter after the block."""
        return replace(
            self._meter,
            head=self.head,
            last_step=self.last_step,
            closed_step=self.closed_step,
            closed_register=self.closed_register,
            open_uwh=self.open_uwh,
            untransferred_uwh=self.untransferred_uwh,
            transferred_uwh=self.transferred_uwh,
            quarantined_uwh=self.quarantined_uwh,
            read_ms=self.read_ms,
            anchored=self.anchored,
            floor=self.floor,
        )

    def moved(self) -> tuple[int, int, int, int]:
        """Energy that was counted, quarantined and transferred, µWh, and the tokens minted."""
        was = self._meter
        transferred = self.transferred_uwh - was.transferred_uwh
        return (
            self.untransferred_uwh - was.untransferred_uwh + transferred,
            self.quarantined_uwh - was.quarantined_uwh,
            transferred,
            self._tokens(was.transferred_uwh, self.transferred_uwh),
        )

    def _begin(self, first: ChainRecord) -> None:
        """The chain begins with a record that names a registration as the one before."""
        self.closed_register = first.register
        began = self._meter.made_under(first.previous)
        assert began is not None  # noqa: S101 - `follow` has seen to it
        self.anchored = self._meter.terms.index(began) or None
        self.floor = self._meter.floor_by(began)

    def _count(self, body: Batch | Reading, energy: int) -> Reason | None:
        reason = self._judge_counted(body)
        if reason is not None:
            self.quarantined_uwh += energy
            return reason
        same = body.step == self.last_step
        self.last_step = body.step
        if isinstance(body, Reading):
            # An index holds what the steps without a close have brought, too; but not what pulses
            # have: that is of their step.
            same = same or self.read_ms is not None
            self.read_ms = body.at_ms
        else:
            self.read_ms = None
        self.open_uwh = (self.open_uwh if same else 0) + energy
        self.untransferred_uwh += energy
        return None

    def _judge_counted(self, body: Batch | Reading) -> Reason | None:
        meter = self._meter
        made_under = meter.made_under(body.registration)
        if made_under is None:
            return Reason.UNKNOWN_REGISTRATION
        # Lots made under an older registration count while they satisfy the newest one in force.
        newest = meter.in_force(body.step)
        if newest is None or body.step < made_under.from_step:
            return Reason.NOT_VALID_AT_STEP
        # By the newest as well: once the index counts, pulses of the same energy must not.
        if {made_under.is_index, newest.is_index} != {isinstance(body, Reading)}:
            return Reason.WRONG_SOURCE
        if newest.is_index and not made_under.is_worth(newest):
            return Reason.WRONG_UNIT
        if not meter.may_go_on(made_under, self.anchored):
            return Reason.NOT_ANCHORED
        if isinstance(body, Batch):
            reason = self._judge_lots(body, made_under.lot_limit(newest))
        elif body.register < (self.floor or 0):
            reason = Reason.BELOW_REGISTERED
        else:
            into_ms = body.at_ms - step_start_ms(body.step, self._state.genesis.step_s)
            reason = None if 0 <= into_ms <= self._step_ms else Reason.WRONG_STEP
        return reason or self._judge_step(body.step)

    def _judge_lots(self, batch: Batch, limit: Fraction | int) -> Reason | None:
        if max(batch.pulses, default=0) > limit and batch.declared(Mark.OVERSIZE) is None:
            return Reason.LOT_ABOVE_V
        times = list(batch.closed_ms)
        if times != sorted(times) or (times and times[-1] > self._step_ms):
            return Reason.LOTS_OUT_OF_ORDER
        return None

    def _transfer(self, record: Record, close: StepClose) -> tuple[Reason | None, int]:
        reason = self._judge_step(close.step)
        if reason is None and close.register != self.closed_register:
            reason = Reason.REGISTER_MISMATCH
        if reason is None and self._is_stale(close):
            reason = Reason.STALE_READING
        # The next close starts from this one, even if it is set aside: the device cannot know.
        self.closed_register = close.register_after
        if reason is not None:
            return reason, 0
        energy = self.open_uwh if close.step == self.last_step else 0
        before = self.transferred_uwh
        tokens = self._tokens(before, before + energy)
        if energy and self._is_shared(close.step):
            waiting = Waiting(record.identity, close.meter, energy, tokens)
            self.brought.append((close.step, waiting))
        self.last_step = self.closed_step = close.step
        self.open_uwh = 0
        self.untransferred_uwh -= energy
        self.transferred_uwh = before + energy
        return None, energy

    def _closed_before_missed(self, step: int) -> int | None:
        """The step closed last, where an index has gone on through steps that were not closed: what
        it has grown by in all of them comes with the close of `step`. Of pulses only the step's own
        are transferred."""
        before = self.closed_step
        is_missed = self.read_ms is not None and before is not None and before < step - 1
        return before if is_missed else None

    def _tokens(self, before_uwh: int, after_uwh: int) -> int:
        """Voting tokens minted while what the meter has transferred grew so."""
        token_uwh = self._state.genesis.token_uwh
        return after_uwh // token_uwh - before_uwh // token_uwh

    def _is_shared(self, step: int) -> bool:
        """Whether an agreement says what becomes of the meter's energy; else it waits at the plant,
        and of no one's account."""
        terms = self._meter.in_force(step)
        is_produced = terms is not None and terms.use is not Use.CONSUMPTION
        return is_produced and self._state.agreed(step) is not None

    def _is_stale(self, close: StepClose) -> bool:
        """Whether an index was read too long before the step's end to tell its energy."""
        terms = self._meter.in_force(close.step)
        if terms is None or terms.latch_ms is None:
            return False
        end_ms = step_start_ms(close.step + 1, self._state.genesis.step_s)
        read_ms = self.read_ms
        return read_ms is None or end_ms - read_ms + close.clock.error_ms > terms.latch_ms

    def _judge_step(self, step: int) -> Reason | None:
        if step > self._step:
            return Reason.FAR_FUTURE
        if step < self._step - self._state.genesis.late_steps:
            return Reason.TOO_LATE
        if self.closed_step is not None and step <= self.closed_step:
            return Reason.STEP_CLOSED
        if step < self.last_step:
            return Reason.STEP_WENT_BACK
        return None
