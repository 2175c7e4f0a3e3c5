"""What a gateway acknowledged and dropped again before a block held it, since the authority had
left no place for it. A board says it anew, but for what its card has let go of: that is refused
for good.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptometer.chain_records import Batch, ChainRecord, RunStart, StepClose
from cryptometer.records import Record


@dataclass
class Dropped:
    """Of one meter, in the order in which it was given; each once, however often it was dropped.

    Attributes:
        places: those that no block holds yet, as they were dropped last, each with the step of the
            newest block when it was dropped.
        refused: pulses of those that never will be held.
    """

    places: list[tuple[Record, int]] = field(default_factory=list)
    refused: int = 0

    @property
    def records(self) -> list[Record]:
        return [record for record, _ in self.places]

    def drop(self, run: Sequence[Record], newest: int) -> None:
        """Notes records that follow each other in the meter's chain.

        Args:
            newest: the step of the newest block, the one that the same commit made included: what
                it holds of the chain stands before what is dropped.
        """
        at = _find(self.records, run[0])
        self.places[at : at + len(run)] = [(record, newest) for record in run]

    def arrive(self, record: Record, step: int, *, behind_anchor: bool) -> list[Record]:
        """Notes a record that the block of a step holds; returns what is refused for good by then.
        That comes to light at the first record behind a re-anchor: what was dropped before that
        block and stands before the record is not said anew.
        """
        if not self.places:
            return []
        earlier = [one for one, newest in self.places if newest < step]
        at = _find(earlier, record)
        if not behind_anchor and at == len(earlier):
            return []
        settled = {one.identity for one in earlier[: at + 1]}
        self.places = [place for place in self.places if place[0].identity not in settled]
        refused = earlier[:at] if behind_anchor else []
        self.refused += sum(map(pulses_of, refused))
        return refused


def _find(among: Sequence[Record], record: Record) -> int:
    """Where something that says the same stands, or the end."""
    said = _said(record)
    places = (place for place, one in enumerate(among) if _said(one) == said)
    return next(places, len(among))


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
