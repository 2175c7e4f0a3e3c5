"""What exports are made from, read out of a ledger's blocks as an audit gives them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cryptometer.authority_records import Use
from cryptometer.block import Checked
from cryptometer.chain_records import StepClose
from cryptometer.energy_verdict import Verdict
from cryptometer.sharing_records import Distribution
from cryptometer.state import State
from cryptometer.steps import step_start_ms
from gateway.exports.allotments import Allotment, Given
from gateway.exports.ocmf import Close
from gateway.exports.settlement import Settled, StepAccount


@dataclass(slots=True)
class Gathered:
    """What the blocks held for the steps asked for; `take` is given each of them, in order.

    Attributes:
        steps: those asked for.
        serials: numbers on name plates, by the identity of the registration that states them.
        closes: of each meter, the closes that counted, in order.
        energy_uwh: of each meter, what they transferred, by step.
        since: of each meter, the steps whose close transferred the energy of several, and the one
            closed before each.
        settled: by step, what distributions have spent, and where it went.
        given: by step and member, what each block gave.
    """

    steps: range
    serials: Mapping[bytes, str]
    closes: dict[str, list[Close]] = field(default_factory=dict)
    energy_uwh: dict[str, dict[int, int]] = field(default_factory=dict)
    since: dict[str, dict[int, int]] = field(default_factory=dict)
    settled: dict[int, Settled] = field(default_factory=dict)
    given: dict[int, dict[str, list[Given]]] = field(default_factory=dict)
    _closed: dict[str, int] = field(default_factory=dict)
    # By step, the block that held the first close of whoever generates.
    _heard: dict[int, int] = field(default_factory=dict)

    def take(self, checked: Checked) -> None:
        """Takes the next block."""
        first = checked.state.frontier.size - len(checked.leaf_hashes)
        for leaf, verdict in enumerate(checked.verdicts, start=first):
            body = verdict.record.body
            if verdict.reason is not None:
                continue
            if isinstance(body, StepClose):
                self._take_close(checked.state, verdict, body, leaf)
            elif isinstance(body, Distribution) and body.step in self.steps:
                self.take_distribution(checked.state, checked.state.step, body)

    @property
    def produced_uwh(self) -> dict[int, int]:
        """By step, what distributions have spent: closes' energy, whoever got it."""
        return {step: one.produced_uwh for step, one in self.settled.items()}

    def accounts(self, state: State) -> Iterator[StepAccount]:
        """Of every step that has its block, where its energy went.

        Args:
            state: the community after the last block taken.
        """
        for step in self.steps:
            agreed = state.agreed(step)
            if agreed is None or step > state.step:
                continue
            settled = self.settled.get(step)
            if settled is None and (block := self._brought_nothing(state, step)) is not None:
                settled = Settled(block, block)
            account = state.settlements.get(step)
            waiting = 0 if account is None else account.waiting_uwh
            is_known = settled is not None or waiting > 0
            yield StepAccount(step, agreed.agreement, settled, waiting if is_known else None)

    def allotments(
        self, state: State, consumption_uwh: Mapping[int, Mapping[str, int]]
    ) -> Iterator[Allotment]:
        """Of every step that has its block, one for each member of the agreement that held in it.

        Args:
            state: the community after the last block taken.
            consumption_uwh: by step and member, as far as it is known.
        """
        for step in self.steps:
            agreed = state.agreed(step)
            if agreed is None or step > state.step:
                continue
            given = self._given(state, step, agreed.agreement.members)
            used = consumption_uwh.get(step, {})
            for member in agreed.agreement.members:
                yield Allotment(member, step, tuple(given.get(member, ())), used.get(member))

    def _given(self, state: State, step: int, members: Sequence[str]) -> dict[str, list[Given]]:
        """What each block gave; of a step whose closes brought nothing there is no distribution,
        and it is known that everyone was given nothing."""
        block = self._brought_nothing(state, step)
        if step in self.given or block is None:
            return self.given.get(step, {})
        return {member: [Given(block, 0)] for member in members}

    def _brought_nothing(self, state: State, step: int) -> int | None:
        """The block by which it is known that there is nothing of the step to be given."""
        settlement = state.settlements.get(step)
        return None if settlement and settlement.waiting else self._heard.get(step)

    def take_distribution(self, state: State, block: int, body: Distribution) -> None:
        """Takes one part of a distribution out of the block of the step `block`."""
        step = body.step
        self.settled[step] = self.settled.get(step, Settled(block, block)).plus(block, body)
        agreed = state.agreed(step)
        if step not in self.given:
            # Who is left out of the first distribution was given nothing, and that is known.
            members = () if agreed is None else agreed.agreement.members
            self.given[step] = {member: [Given(block, 0)] for member in members}
        for output in body.outputs:
            given = Given(block, output.energy_uwh)
            before = self.given[step].setdefault(output.member, [])
            if body.supplement == 0:
                before[:] = [given]
            elif output.energy_uwh:
                before.append(given)

    def take_heard(self, step: int, block: int) -> None:
        """Takes that the block of the step `block` holds the first close of whoever generates."""
        self._heard.setdefault(step, block)

    def _take_close(self, state: State, verdict: Verdict, body: StepClose, leaf: int) -> None:
        before = self._closed.get(body.meter)
        self._closed[body.meter] = body.step
        if body.step not in self.steps:
            return
        meter = state.meters[body.meter]
        terms = meter.in_force(body.step) or meter.terms[-1]
        step_s = state.genesis.step_s
        if terms.use is not Use.CONSUMPTION:
            self.take_heard(body.step, state.step)
        self.energy_uwh.setdefault(body.meter, {})[body.step] = verdict.energy_uwh
        if verdict.since_step is not None:
            self.since.setdefault(body.meter, {})[body.step] = verdict.since_step
        self.closes.setdefault(body.meter, []).append(
            Close(
                meter=body.meter,
                serial=self.serials[terms.registration],
                use=terms.use,
                step=body.step,
                identity=verdict.record.identity,
                device=verdict.record.key_id,
                leaf=leaf,
                begin_ms=_begin_ms(body, before, step_s),
                end_ms=step_start_ms(body.step + 1, step_s),
                before_uwh=terms.energy_uwh(0, body.register),
                after_uwh=terms.energy_uwh(0, body.register_after),
                transferred_uwh=verdict.energy_uwh,
                state=body.clock.state,
                error_ms=body.clock.error_ms,
            )
        )


def _begin_ms(close: StepClose, before: int | None, step_s: int) -> int:
    """When the register was what the close starts from: at the end of the step closed before; with
    none before, when the device began to watch."""
    if before is not None:
        return step_start_ms(before + 1, step_s)
    into_ms = close.watched[0] if close.watched else 0
    return step_start_ms(close.step, step_s) + into_ms
