"""Accepted records that wait for their block, and where each meter's chain stands behind them.

In memory only: the store holds the same records, and a start reads them back.
"""

from collections.abc import Container, Iterable, Iterator
from itertools import islice, pairwise

from cryptometer.chain import follow
from cryptometer.chain_records import ChainRecord, StepClose
from cryptometer.errors import Reason, Rejected
from cryptometer.meter import Head, Meter
from cryptometer.proposal import Proposal
from cryptometer.records import Record
from cryptometer.steps import FUTURE_STEPS

# Records that wait for their block live in memory, decoded: some eight times their bytes.
PENDING_BYTES = 48 * 2**20  # of all meters together; each has an equal share, and none more
SHARE_MAX = 16 * 2**20


class Waiting:
    """The records of every meter, in the order of its chain."""

    def __init__(self) -> None:
        self._records: dict[str, list[Record]] = {}
        self._bytes: dict[str, int] = {}
        self._heads: dict[str, Head] = {}
        self._closes: dict[str, list[int]] = {}  # the steps that closes among the records are of

    @property
    def count(self) -> int:
        return sum(map(len, self._records.values()))

    def head(self, meter: Meter) -> Head:
        """Where the meter's chain stands with all that waits."""
        return self._heads.get(meter.name, meter.head)

    def check_room(self, meter: Meter, raw: bytes, meters: int) -> None:
        """Refuses what exceeds the share of one of `meters` meters; one record always has room.

        Raises:
            Rejected: TOO_MANY; there is room again after the next block.
        """
        share = min(SHARE_MAX, PENDING_BYTES // meters)
        waiting = self._bytes.get(meter.name, 0)
        if waiting and waiting + len(raw) > share:
            raise Rejected(Reason.TOO_MANY, f"{share} bytes of {meter.name} wait for a block")

    def add(self, record: Record, body: ChainRecord, head: Head) -> None:
        """Adds a record that the chain verdict let through; `head` is that behind it."""
        name = body.meter
        self._heads[name] = head
        self._records.setdefault(name, []).append(record)
        self._bytes[name] = self._bytes.get(name, 0) + len(record.raw)
        if isinstance(body, StepClose):
            self._closes.setdefault(name, []).append(body.step)

    def has_closed(self, name: str, step: int) -> bool:
        """Whether a close of `step` waits, or of a step soon after it: steps only advance. That of
        the far future says nothing of `step`."""
        return any(step <= one <= step + FUTURE_STEPS for one in self._closes.get(name, ()))

    def leads_to(self, meter: Meter, steps: range) -> bool:
        """Whether the meter's newest record that waits is of one of these steps, and its chain
        has come there from the newest step counted without a leap, if it did not begin since."""
        dated = [
            record.body.step
            for record in self._records.get(meter.name, [])
            if isinstance(record.body, ChainRecord)
        ]
        if not dated or dated[-1] not in steps:
            return False
        if meter.head.register is not None:
            dated.insert(0, meter.last_step)
        return all(step <= before + FUTURE_STEPS for before, step in pairwise(dated))

    def offer(
        self, proposal: Proposal, present: int | None = None, names: Iterable[str] | None = None
    ) -> None:
        """Adds what may go into the proposed block and is not in it yet.

        All of it continues its chains in the state after the block before: the door has followed
        it, and what authority records leave no place for goes with the block that holds them
        (`outlived`). A maker of whom that is not true fails here, and finds it when it starts.

        A chain waits as a whole behind its first record of a step to come. What lies in the far
        future is told by the clock and not by the block's step: while a gateway catches up, the
        records of today are no fault of their devices.

        Args:
            present: the step in which the block is made; None while that is not known, and a
                record of any step to come waits.
            names: of these meters only.
        """
        for name in self._records if names is None else names:
            for record in self._behind(name, proposal):
                body = record.body
                assert isinstance(body, ChainRecord)  # noqa: S101 - `add` takes nothing else
                is_to_come = proposal.step < body.step
                if is_to_come and (present is None or body.step <= present + FUTURE_STEPS):
                    break
                proposal.add(record, body)

    def _behind(self, name: str, proposal: Proposal) -> Iterator[Record]:
        """A meter's records that are not in the proposed block: it takes them in their order."""
        return islice(self._records.get(name, ()), proposal.count(name), None)

    def outlived(self, meter: Meter, proposal: Proposal) -> list[tuple[Record, Rejected]]:
        """The meter's records behind those in the proposed block that have no place in its chain
        any more, because the authority has revoked or re-anchored it; and why."""
        outlived: list[tuple[Record, Rejected]] = []
        head = meter.head
        for record in self._behind(meter.name, proposal):
            body = record.body
            if isinstance(body, ChainRecord):
                try:
                    head = follow(meter, head, record, body)
                except Rejected as refused:
                    outlived.append((record, refused))
        return outlived

    def release(
        self, proposal: Proposal, dropped: Container[bytes], names: Iterable[str] | None = None
    ) -> None:
        """Lets go of what is in the block that was proposed, and of what was dropped, by
        identity.

        Args:
            names: of these meters only, which have records here.
        """
        for name in list(self._records if names is None else names):
            rest = [one for one in self._behind(name, proposal) if one.identity not in dropped]
            if rest:
                self._records[name] = rest
                self._bytes[name] = sum(len(record.raw) for record in rest)
                self._closes[name] = [
                    record.body.step for record in rest if isinstance(record.body, StepClose)
                ]
            else:
                del self._records[name], self._bytes[name]
                self._closes.pop(name, None)

    def forget(self, name: str) -> None:
        """Lets go of all that waits of a meter."""
        for held in (self._records, self._bytes, self._heads, self._closes):
            held.pop(name, None)

    def stand(self, meter: Meter) -> None:
        """Finds the chain's head anew: authority records act, and it may stand elsewhere."""
        head = meter.head
        for record in self._records.get(meter.name, []):
            body = record.body
            if isinstance(body, ChainRecord):
                head = follow(meter, head, record, body)
        self._heads[meter.name] = head
