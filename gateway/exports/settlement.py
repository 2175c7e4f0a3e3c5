"""Where the energy of each step went: to members, losses, the fee's beneficiary and the account
that has the surplus. A line for each step, and above them what each of these has of all.

A step that was not distributed has a line without these: its energy waits, or nobody was heard.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from cryptometer.readable import utc
from cryptometer.sharing_records import Agreement, Distribution
from cryptometer.steps import step_start_ms
from gateway.exports.source import Source, to_csv, uwh_text

_HEADER = [
    "step",
    "begin_utc",
    "end_utc",
    "first_block",
    "last_block",
    "produced_uwh",
    "members_uwh",
    "losses_uwh",
    "fee_uwh",
    "fee_to",
    "surplus_uwh",
    "surplus_to",
    "waiting_uwh",
]


@dataclass(frozen=True, slots=True)
class Settled:
    """What the distributions of a step come to, µWh: `produced_uwh` is the sum of the other four.

    Attributes:
        first_block, last_block: steps of the blocks that hold the first and the newest of them.
        produced_uwh: of the closes that they spent.
    """

    first_block: int
    last_block: int
    produced_uwh: int = 0
    members_uwh: int = 0
    losses_uwh: int = 0
    fee_uwh: int = 0
    surplus_uwh: int = 0

    def plus(self, block: int, part: Distribution) -> "Settled":
        """With one more part of a distribution, in the block of the step `block`."""
        return replace(
            self,
            last_block=block,
            produced_uwh=self.produced_uwh + sum(one.energy_uwh for one in part.inputs),
            members_uwh=self.members_uwh + sum(one.energy_uwh for one in part.outputs),
            losses_uwh=self.losses_uwh + part.losses_uwh,
            fee_uwh=self.fee_uwh + part.fee_uwh,
            surplus_uwh=self.surplus_uwh + part.surplus_uwh - part.from_surplus_uwh,
        )


@dataclass(frozen=True, slots=True)
class StepAccount:
    """A step, and the agreement that held in it.

    Attributes:
        settled: what became of its energy; None where nothing is known of it yet.
        waiting_uwh: what waits at the virtual power plant; None where no generator was heard.
    """

    step: int
    agreement: Agreement
    settled: Settled | None
    waiting_uwh: int | None


def settlement_csv(accounts: Iterable[StepAccount], source: Source) -> str:
    """As CSV; the sums of the period, by account, stand above."""
    rows = []
    sums: Counter[str] = Counter()
    for one in accounts:
        agreement, settled = one.agreement, one.settled
        sums["waiting"] += one.waiting_uwh or 0
        if settled is not None:
            sums["produced"] += settled.produced_uwh
            sums["to members"] += settled.members_uwh
            sums["losses"] += settled.losses_uwh
            if agreement.fee_to is not None:
                sums[f"fee to {agreement.fee_to}"] += settled.fee_uwh
            sums[f"surplus to {agreement.surplus_to}"] += settled.surplus_uwh
        rows.append(
            [
                str(one.step),
                utc(step_start_ms(one.step, source.step_s)),
                utc(step_start_ms(one.step + 1, source.step_s)),
                *_values(settled),
                agreement.fee_to or "",
                uwh_text(None if settled is None else settled.surplus_uwh),
                agreement.surplus_to,
                uwh_text(one.waiting_uwh),
            ]
        )
    said = ", ".join(f"{what} {sums[what]}" for what in sorted(sums)) or "nothing"
    comments = source.comments("where the energy of each step went", f"in all, uWh: {said}")
    return to_csv(comments, _HEADER, rows)


def _values(settled: Settled | None) -> list[str]:
    if settled is None:
        return [""] * 6
    return [
        str(settled.first_block),
        str(settled.last_block),
        str(settled.produced_uwh),
        str(settled.members_uwh),
        str(settled.losses_uwh),
        str(settled.fee_uwh),
    ]
