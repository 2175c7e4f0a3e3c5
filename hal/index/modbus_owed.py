"""Which answers a Modbus RTU meter may still owe. No clock, no line.

A frame does not say which question it answers: one that was given up may be answered while the next
one, or the one after it, waits. What is taken for granted is a meter that answers in order, or not
at all. Then an answer tells that nothing older is left to come; and if it fits several questions,
it may be that of the oldest, and the younger ones remain. So a probe that was repeated must be
answered more than once before it says anything of what was asked in between; two probes in turn
seldom need that.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from hal.index.modbus_map import Question

# A meter has one answer in work, a converter before it a few waiting. At 700 ms a question, 64 are
# three quarters of a minute; and after a long silence no more probes than that are in doubt.
OWED_MAX = 64


@dataclass(frozen=True, slots=True)
class Owed:
    """What one meter was asked, and has not surely answered.

    Attributes:
        questions: the oldest first; of more than `OWED_MAX` the youngest.
    """

    questions: tuple[Question, ...] = ()

    def with_asked(self, question: Question) -> "Owed":
        return Owed((*self.questions, question)[-OWED_MAX:])

    def without_answered(self, *, is_error: bool) -> "Owed":
        """After an answer that was taken for that of the youngest question.

        Args:
            is_error: the meter said that it cannot, for which any question of the function counts.
        """
        last = self.questions[-1]
        oldest = next(
            place
            for place, one in enumerate(self.questions)
            if one.function == last.function and (is_error or one.count == last.count)
        )
        return Owed(self.questions[oldest + 1 :])

    def is_at_most(self, probes: Sequence[Question]) -> bool:
        """Whether nothing but answers to the probes can still come."""
        return all(one in probes for one in self.questions)

    def next_of(self, probes: Sequence[Question]) -> Question:
        """The probe whose answer tells most: the one that was not asked for longest. One that a
        meter never answers does not keep the other from its turn."""
        return min(probes, key=self._last)

    def _last(self, question: Question) -> int:
        places = (place for place, one in enumerate(self.questions) if one == question)
        return max(places, default=-1)
