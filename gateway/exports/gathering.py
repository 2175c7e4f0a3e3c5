"""What exports are made from, read out of a ledger's blocks as an audit gives them."""

from dataclasses import dataclass, field

from cryptometer.block import Checked
from cryptometer.records import StepClose, Use
from cryptometer.steps import step_start_ms
from gateway.exports.ocmf import Close


@dataclass(slots=True)
class Gathered:
    """What the blocks held for the steps asked for; `take` is given each of them, in order.

    Attributes:
        steps: those asked for.
        closes: of each meter, the closes that counted, in order.
        energy_uwh: of each meter, what they transferred, by step.
    """

    steps: range
    closes: dict[str, list[Close]] = field(default_factory=dict)
    energy_uwh: dict[str, dict[int, int]] = field(default_factory=dict)
    _closed: dict[str, int] = field(default_factory=dict)

    def take(self, checked: Checked) -> None:
        """Takes the next block."""
        first = checked.state.frontier.size - len(checked.leaf_hashes)
        for leaf, verdict in enumerate(checked.verdicts, start=first):
            body = verdict.record.body
            if not isinstance(body, StepClose) or verdict.reason is not None:
                continue
            before = self._closed.get(body.meter)
            self._closed[body.meter] = body.step
            if body.step not in self.steps:
                continue
            meter = checked.state.meters[body.meter]
            terms = meter.in_force(body.step) or meter.terms[-1]
            step_s = checked.state.genesis.step_s
            self.energy_uwh.setdefault(body.meter, {})[body.step] = verdict.energy_uwh
            self.closes.setdefault(body.meter, []).append(
                Close(
                    meter=body.meter,
                    serial=meter.serial,
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

    def use_of(self, meter: str) -> Use | None:
        """What a meter's energy is to the community; None if it closed none of the steps."""
        closes = self.closes.get(meter)
        return closes[-1].use if closes else None


def _begin_ms(close: StepClose, before: int | None, step_s: int) -> int:
    """When the register was what the close starts from: at the end of the step closed before; with
    none before, when the device began to watch."""
    if before is not None:
        return step_start_ms(before + 1, step_s)
    into_ms = close.watched[0] if close.watched else 0
    return step_start_ms(close.step, step_s) + into_ms
