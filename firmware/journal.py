"""The journal: what was given, durable in groups. A pulse is given once `append` has returned.

Each segment begins with a snapshot of the counter and holds the events since. A new segment makes
the older ones superfluous once it is durable; a crash in between leaves both, and the newer one
that is whole counts.
"""

from dataclasses import dataclass

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected
from cryptometer.wire import decode_map, encode_map
from firmware.counter import Snapshot
from firmware.end import End
from firmware.events import Event, Kept, Pulses, Read, decode_event, encode_event
from firmware.segments import SegmentedLog
from hal.faults import Point, passing
from hal.ports import Directory

# Ten minutes of pulses at 1 kW and 10,000 imp/kWh. All of it is applied again at the start, before
# the first pulse is counted: 40 ms on a fast machine, half a second on a small board.
SEGMENT_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a journal held.

    Attributes:
        snapshot: the newest whole one, or None in a fresh or lost journal.
        events: what happened since.
        cut_bytes: damaged bytes that were set aside.
    """

    snapshot: Snapshot | None
    events: tuple[Event, ...]
    cut_bytes: int

    @property
    def is_whole(self) -> bool:
        """Whether nothing is known to be missing."""
        return self.snapshot is not None and not self.cut_bytes

    @property
    def end(self) -> End | None:
        """The newest end of the signed chain that was journalled: what was published lies before
        it."""
        told = [event.end for event in self.events if isinstance(event, Kept)]
        if told:
            return told[-1]
        return None if self.snapshot is None else self.snapshot.end


class Journal:
    """The journal of one line."""

    def __init__(self, directory: Directory) -> None:
        self._log = SegmentedLog(directory, "journal")
        self._head_bytes = 0  # of the newest segment's snapshot

    @property
    def is_dirty(self) -> bool:
        return self._log.is_dirty

    @property
    def wants_snapshot(self) -> bool:
        """Whether the segment has grown so long that a new one should begin."""
        # A long snapshot is not written again before as much has come behind it: a board that does
        # not know the time for days would write it at every sync.
        behind_bytes = self._log.newest_bytes - self._head_bytes
        return behind_bytes > max(SEGMENT_BYTES, self._head_bytes)

    @property
    def has_begun(self) -> bool:
        """Whether a snapshot stands in it; only then may events follow."""
        return bool(self._log.segments)

    def recover(self) -> Recovered:
        """Reads the journal after any end of the program, cutting off what is torn.

        Raises:
            OSError: stop, and recover.
            Rejected: an entry is whole, but not of this version: a newer program wrote it.
        """
        cut_bytes = 0
        for segment in reversed(self._log.segments):
            cut = self._log.recover(segment)
            cut_bytes += cut.size if cut is not None else 0
            entries = [payload for _, payload in self._log.entries(segment)]
            if entries:
                snapshot = _decode_snapshot(entries[0])
                events = tuple(decode_event(entry) for entry in entries[1:])
                older = [one for one in self._log.segments if one < segment]
                if older:
                    # A death between a snapshot's write and its sync leaves it whole to be read,
                    # and not durable: until it is, those before it are all that a power cut leaves.
                    self._log.sync()
                for one in older:
                    self._log.drop(one)
                return Recovered(snapshot, events, cut_bytes)
            # Its snapshot never became whole; the segment before it is still there.
            self._log.drop(segment)
        return Recovered(None, (), cut_bytes)

    def peek(self) -> int:
        """The register, read beside a running program: nothing is cut, nothing is dropped."""
        for segment in reversed(self._log.segments):
            entries = [payload for _, payload in self._log.entries(segment)]
            if entries:
                given = [_decode_snapshot(entries[0]).register]
                events = map(decode_event, entries[1:])
                given += [event.register for event in events if isinstance(event, Pulses | Read)]
                return max(given)
        return 0

    def peek_end(self) -> End | None:
        """Where the signed chain stands as far as the journal knows, read likewise."""
        for segment in reversed(self._log.segments):
            entries = [payload for _, payload in self._log.entries(segment)]
            if entries:
                events = tuple(decode_event(entry) for entry in entries[1:])
                return Recovered(_decode_snapshot(entries[0]), events, 0).end
        return None

    def begin_segment(self, snapshot: Snapshot) -> None:
        """Begins a new segment, durably, and drops the older ones. Everything the snapshot no
        longer holds must be durable elsewhere already.

        Raises:
            OSError: stop, and recover.
        """
        older = self._log.segments
        self._log.roll()
        self._log.append([cbor.encode(encode_map(snapshot))])
        self._head_bytes = self._log.newest_bytes
        self._log.sync()
        passing(Point.DEVICE_SNAPSHOT)
        for segment in older:
            self._log.drop(segment)

    def append(self, events: list[Event]) -> None:
        """Gives events to the journal, in one write.

        Raises:
            OSError: stop, and recover.
        """
        self._log.append([encode_event(event) for event in events])

    def sync(self) -> None:
        """Makes what was given durable.

        Raises:
            OSError: stop, and recover; never try again.
        """
        self._log.sync()


def _decode_snapshot(entry: bytes) -> Snapshot:
    try:
        return decode_map(Snapshot, cbor.decode(entry))
    except Rejected as refused:
        raise Rejected(
            Reason.MALFORMED, f"the journal is of another version: {refused.detail}"
        ) from None
