"""What a pulse looks like, and which edges of a line are one: widths, pauses, bounce and spikes.

Only where edges carry the time at which the kernel saw them. A pulse counts at its end, at once: an
edge that has been read is counted or is none, so that nothing is lost with the program but a pulse
that was under way.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from cryptometer.errors import ConfigurationError
from cryptometer.settings import setting

NS_PER_US = 1_000


class Preset(StrEnum):
    """Kinds of pulses."""

    ANY = "any"  # every edge that begins one
    S0_CLASS_A = "s0-class-a"
    S0_CLASS_B = "s0-class-b"
    LED = "led"
    OWN = "own"


@dataclass(frozen=True, slots=True)
class Shape:
    """The table `[source.own]`: pulses of a meter that no preset fits."""

    bounce_us: int = setting("gaps of a contact in one pulse, all together, at most")
    min_on_us: int = setting("a pulse lasts so long at least")
    max_on_us: int = setting("and at most; beyond it the line is stuck")
    min_off_us: int = setting("so long it rests at least before the next one")


# Contacts of both classes of S0 are on and off for 30 ms at least, and settle within 5 ms
# (IEC 62053-31); the classes differ by voltage and current alone. A third is left for what an
# optocoupler, a long line and a busy kernel take. The longest that meters send is 200 ms.
_S0 = Shape(bounce_us=5_000, min_on_us=20_000, max_on_us=1_000_000, min_off_us=20_000)
# An LED is on and off for 0.2 ms at least (IEC 62052-11), and does not bounce. Many shine without
# end while nothing flows: no pulse.
_LED = Shape(bounce_us=20, min_on_us=100, max_on_us=1_000_000, min_off_us=100)
PRESETS = {Preset.S0_CLASS_A: _S0, Preset.S0_CLASS_B: _S0, Preset.LED: _LED}


def shape_of(preset: Preset, own: Shape | None) -> Shape | None:
    """The shape that a configuration asks for; None if every edge counts.

    Raises:
        ConfigurationError: preset and own values contradict each other, or the values themselves.
    """
    if (preset is Preset.OWN) != (own is not None):
        raise ConfigurationError('pulse = "own" and the table [source.own] belong together')
    shape = PRESETS.get(preset, own)
    if shape is not None and not (
        0 <= shape.bounce_us < shape.min_on_us < shape.max_on_us
        and shape.bounce_us < shape.min_off_us
    ):
        raise ConfigurationError(
            "[source.own] needs bounce_us below min_on_us and min_off_us, and min_on_us below"
            " max_on_us"
        )
    return shape


@dataclass(slots=True)
class Found:
    """What edges come to.

    Attributes:
        times_ns: of the pulses, machine monotonic.
        noise: what was no pulse: too short, too long, too soon behind another; and each gap of a
            chatter beyond what a bounce has.
        lost: edges that must have come between others, and were not told.
    """

    times_ns: list[int] = field(default_factory=list)
    noise: int = 0
    lost: int = 0


class Recogniser:
    """Finds the pulses of one line. A contact that opens for a moment within a pulse, as by its
    bounce, makes neither one pulse more nor one less."""

    def __init__(self, shape: Shape, *, is_on: bool, now_ns: int) -> None:
        """`is_on`: how the line stands now. A pulse that is under way counts when it ends, but for
        what `go_on_behind` says."""
        self._bounce_ns = shape.bounce_us * NS_PER_US
        self._min_on_ns = shape.min_on_us * NS_PER_US
        self._max_on_ns = shape.max_on_us * NS_PER_US
        self._min_off_ns = shape.min_off_us * NS_PER_US
        self._is_on: bool | None = is_on  # None: edges were lost
        self._stood_at_ns: int | None = now_ns  # when that was read; None behind the first edge
        self._began_ns = now_ns  # the pulse under way, or the newest one
        self._rose_ns = now_ns  # the same, or behind the newest gap in it
        self._is_whole = False  # its beginning was seen
        self._is_judged = not is_on  # it was counted, or found to be none
        self._is_stuck = False  # and that was told
        self._gaps_ns = 0
        self._fell_ns: int | None = None
        self._ended_ns: int | None = None  # the newest pulse that was counted
        self._doubted_ns: int | None = None  # what is under way may be counted until then

    def go_on_behind(self, counted_ns: int) -> None:
        """Before the first edge: an earlier run counted a pulse at this moment, perhaps at a gap in
        it. What is under way counts only if it lasts longer than that pulse can: nothing counts
        twice, and where nobody watched, a pulse may be lost."""
        self._doubted_ns = counted_ns - self._min_on_ns + self._max_on_ns

    def add(self, at_ns: int, *, is_on: bool, found: Found) -> None:
        """The next edge, and where the line stands behind it."""
        if self._stood_at_ns is not None and self._is_on is is_on and at_ns < self._stood_at_ns:
            # It came before the line's state was read, and tells how that was before.
            self._is_on, self._is_judged = not is_on, is_on
        self._stood_at_ns = None
        if is_on:
            self._rise(at_ns, found)
        else:
            self._fall(at_ns, found)
        self._is_on = is_on

    def pass_by(self, now_ns: int) -> int:
        """All edges before this moment were taken; returns 1 once the line is found to be stuck."""
        # What was counted may be on again, behind a gap.
        since_ns = self._rose_ns if self._is_judged else self._began_ns
        if not self._is_on or self._is_stuck or now_ns - since_ns <= self._max_on_ns:
            return 0
        self._is_judged, self._is_stuck, self._gaps_ns = True, True, 0
        return 1

    def miss(self) -> None:
        """The kernel has dropped edges behind those that were taken: how the line stands is not
        known, and what was under way is no pulse."""
        self._is_on, self._is_judged = None, True

    def _rise(self, at_ns: int, found: Found) -> None:
        self._rose_ns, self._is_stuck = at_ns, False
        if self._is_on:
            found.lost += 1
        elif self._is_on is False and self._fell_ns is not None:
            gap_ns = at_ns - self._fell_ns
            if gap_ns < self._bounce_ns:
                self._gaps_ns += gap_ns
                if self._gaps_ns > self._bounce_ns:
                    self._is_judged = True
                    found.noise += 1
                return
            found.noise += not self._is_judged
        self._began_ns, self._is_whole, self._is_judged, self._gaps_ns = at_ns, True, False, 0

    def _fall(self, at_ns: int, found: Found) -> None:
        if self._is_on:
            self._end(at_ns, found)
        elif self._is_on is False:
            found.lost += 1
            found.noise += not self._is_judged
            self._is_judged = True
        self._fell_ns = at_ns

    def _end(self, at_ns: int, found: Found) -> None:
        if self._is_judged:
            found.noise += self.pass_by(at_ns)
            if self._ended_ns is not None and self._began_ns < self._ended_ns == self._fell_ns:
                self._ended_ns = at_ns  # behind a gap, that which was counted already
            return
        lasted_ns = at_ns - self._began_ns
        if self._is_whole and lasted_ns < self._min_on_ns:
            return  # it may go on behind a gap
        self._is_judged, self._gaps_ns = True, 0
        if not self._is_whole and self._doubted_ns is not None and at_ns <= self._doubted_ns:
            self._ended_ns = at_ns
            found.noise += 1
            return
        is_soon = self._ended_ns is not None and self._began_ns - self._ended_ns < self._min_off_ns
        if is_soon or lasted_ns > self._max_on_ns:
            found.noise += 1
        else:
            self._ended_ns = at_ns
            found.times_ns.append(at_ns)
