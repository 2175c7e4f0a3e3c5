"""How fast pulses come, and for how long the line may therefore be left alone. Times are the
machine's monotonic ones.
"""

FILL_MAX = 4  # a line rests no longer than fills one part in so many of its capacity


class Pace:
    """Of one line, as its looks found it."""

    def __init__(self, gather_ns: int) -> None:
        """`gather_ns`: what comes within so long after a look is taken together."""
        self._gather_ns = gather_ns
        self._looked_ns = 0  # the newest look, and what it brought
        self._pulses = 0
        self._pulsed_ns = 0  # the newest look that brought pulses
        self._gap_ns = 0  # between two pulses, as that look found them

    def note(self, pulses: int, now_ns: int) -> None:
        """A look has brought so many."""
        self._gap_ns = (now_ns - self._looked_ns) // max(1, pulses)
        self._looked_ns, self._pulses = now_ns, pulses
        if pulses:
            self._pulsed_ns = now_ns

    def has_rested(self, for_ns: int) -> bool:
        """Whether the newest look brought nothing, and so did those of so long before it."""
        return not self._pulses and self._looked_ns - self._pulsed_ns >= for_ns

    def rest_ns(self, now_ns: int, capacity: int) -> int:
        """For how long the line may be left alone: a look costs much more than a pulse."""
        if not self._pulses or not self._gather_ns:
            return 0
        # Until the next multiple of it, so that the lines of one board are looked at together.
        rest_ns = self._gather_ns - now_ns % self._gather_ns
        return min(rest_ns, capacity // FILL_MAX * self._gap_ns)
