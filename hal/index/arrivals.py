"""Bytes that wait for the rest of their message, and when each of them came. No limit of its own:
a decoder drops what no message can need.
"""

from bisect import bisect_right


class Arrivals:
    """What came and was not dropped yet."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._dropped = 0  # bytes since the beginning
        self._ends: list[int] = []  # where in all that came each look ended, ...
        self._looks_ns: list[int] = []  # ... and its time; each holds a byte that is still here

    def put(self, data: bytes, at_ns: int) -> None:
        """Adds what one look brought, monotonic time `at_ns`."""
        if not data:
            return
        self.data += data
        end = self._dropped + len(self.data)
        if self._looks_ns and self._looks_ns[-1] == at_ns:
            self._ends[-1] = end
        else:
            self._ends.append(end)
            self._looks_ns.append(at_ns)

    def came_ns(self, place: int) -> int:
        """Monotonic time of the look that brought the byte at `place` of `data`."""
        return self._looks_ns[bisect_right(self._ends, self._dropped + place)]

    def drop(self, count: int) -> None:
        """Forgets the first bytes."""
        del self.data[:count]
        self._dropped += count
        over = bisect_right(self._ends, self._dropped)
        del self._ends[:over]
        del self._looks_ns[:over]
