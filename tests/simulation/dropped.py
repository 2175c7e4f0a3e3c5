"""What a gateway acknowledged and dropped again before a block held it, since the authority had
left no place for it. A board says it anew, but for what its card has let go of: that is refused
for good.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptometer.records import Batch, ChainRecord, Record, RunStart, StepClose


@dataclass
class Dropped:
    """Of one meter, in the order in which it was given; each once, however often it was dropped.

    Attributes:
        records: those that no block holds yet, as they were dropped last.
        refused: pulses of those that never will be held.
    """

    records: list[Record] = field(default_factory=list)
    refused: int = 0

    def drop(self, run: Sequence[Record]) -> None:
        """Notes records that follow each other in the meter's chain."""
        at = self._find(run[0])
        self.records[at : at + len(run)] = run

    def arrive(self, record: Record, *, behind_anchor: bool) -> list[Record]:
        """Notes a record that a block holds; returns what is refused for good by then. That comes
        to light at the first record behind a re-anchor: what stands before it is not said anew.
        """
        if not self.records:
            return []
        at = self._find(record)
        refused = self.records[:at] if behind_anchor else []
        self.refused += sum(map(pulses_of, refused))
        if behind_anchor or at < len(self.records):
            del self.records[: at + 1]
        return refused

    def _find(self, record: Record) -> int:
        """Where something that says the same stands, or the end."""
        said = _said(record)
        places = (place for place, one in enumerate(self.records) if _said(one) == said)
        return next(places, len(self.records))


def pulses_of(record: Record) -> int:
    return sum(record.body.pulses) if isinstance(record.body, Batch) else 0


def _said(record: Record) -> object:
    """What stays the same when a record is signed anew behind a re-anchor."""
    body = record.body
    assert isinstance(body, ChainRecord)
    head = (body.KIND, body.step, body.clock, body.marks)
    match body:
        case Batch():
            return (*head, body.lots)
        case StepClose():
            return (*head, body.watched)
        case RunStart():
            return (*head, body.at_ms, body.software, body.ending, body.unwatched_ms)
    raise TypeError(f"no {body.KIND} stands in a meter's chain")
