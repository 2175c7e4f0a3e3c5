"""Which unit a meter's register has, by what the authority has said so far: one more in it is a
pulse, or one of an index's last digit. A registration may change it, behind a re-anchor only.
"""

from dataclasses import dataclass

from firmware.end import End
from firmware.enrolment import Enrolment


@dataclass(frozen=True, slots=True)
class Units:
    """The units that a meter's register has had. `since` is a place in the authority's chain.

    Attributes:
        enrolment: None until the device is enrolled; then nothing says what a pulse is worth.
    """

    enrolment: Enrolment | None

    def since(self, end: End | None) -> int:
        """The place of what gave the signed chain's register its unit."""
        enrolment = self.enrolment
        if enrolment is None:
            return 0
        return enrolment.begun if end is None else enrolment.since(end.anchors, end.begun)

    def at(self, since: int) -> Enrolment | None:
        """The enrolment as far as it has the unit that the authority had given by then."""
        return None if self.enrolment is None else self.enrolment.in_unit_at(since)

    def is_registered_at(self, since: int) -> bool:
        """Whether the unit by then is that of the newest registration."""
        then = self.at(since)
        return self.enrolment is None or then is None or is_alike(self.enrolment, then)


def is_alike(one: Enrolment, other: Enrolment) -> bool:
    """Whether a register has the same unit by both."""
    return one.details.register_unit == other.details.register_unit
