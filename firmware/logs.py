"""A device's two logs, journal and outbox: which of them must know of a thing, durably, before the
other does. What each holds is their own.
"""

from firmware.counter import Counter
from firmware.end import End
from firmware.events import Kept
from firmware.journal import Journal, Recovered
from firmware.outbox import Outbox
from firmware.rollback import newest_note
from firmware.saying import Log


class Logs:
    """Journal and outbox of one meter.

    Attributes:
        journal: what was given.
        outbox: what is signed.
    """

    def __init__(self, journal: Journal, outbox: Outbox, log: Log) -> None:
        self.journal = journal
        self.outbox = outbox
        self._log = log
        self._told: End | None = None  # what the journal was told of the signed chain
        self._may_leave: End | None = None  # the same, durably

    def recover(self, now_ns: int) -> tuple[Recovered, int]:
        """Reads both after any end of the program, and mends each by the other. Returns what the
        journal held, and the damaged bytes that were set aside in both.

        Raises:
            OSError: stop, and recover.
            Rejected: an entry is whole, but not of this version, or not of this chain.
        """
        recovered = self.journal.recover()
        cuts = self.outbox.recover(now_ns)
        cut_bytes = recovered.cut_bytes + sum(cut.size for cut in cuts)
        if cut_bytes:
            self._log(f"set aside damaged bytes: count={cut_bytes}")
        self._compare(recovered, is_cut=bool(cuts))
        return recovered, cut_bytes

    def sync(self) -> None:
        """Makes both durable.

        Raises:
            OSError: stop, and recover.
        """
        # What the outbox holds durably is published once the journal knows of it durably: then
        # each of the two alone can tell that it must not be signed again.
        end = self.outbox.durable
        if (
            end is not None
            and (self._told is None or self._told.is_behind(end))
            # One that was lost begins with a snapshot, which tells it as well.
            and self.journal.has_begun
        ):
            self.journal.append([Kept(end)])
            self._told = end
        # The journal first: what is signed must not outlive what it was made of, or the next run
        # would not know of a run that has been published.
        self.journal.sync()
        self._may_leave = self._told
        self.outbox.sync()

    def begin_segment(self, counter: Counter) -> None:
        """A new snapshot, once all that it no longer holds is signed and durable.

        Raises:
            OSError: stop, and recover.
        """
        self.outbox.sync()
        self._told = self.outbox.end
        self.journal.begin_segment(counter.snapshot(self._told))
        self._may_leave = self._told

    def note_kept(self, end: End) -> None:
        """The journal knows durably of what is signed up to here."""
        self._told = self._may_leave = end

    @property
    def leaving_below(self) -> int:
        """The sequence up to which, exclusively, the journal knows durably what is signed."""
        end, told = self.outbox.end, self._may_leave
        if end is None or told is None or told.anchors != end.anchors:
            return 0
        return told.sequence

    def _compare(self, recovered: Recovered, *, is_cut: bool) -> None:
        """What one log has lost, the other knows: what was published is never signed again."""
        outbox = self.outbox
        end, known = outbox.end, recovered.end
        is_short = known is not None and (end is None or end.is_behind(known))
        if known is not None and is_short:
            self._log(
                "the outbox is damaged; going on from what the journal knows to be signed:"
                f" sequence={known.sequence}"
            )
            outbox.go_on_from(known)
        is_lost = recovered.snapshot is None and end is not None and end.run_ms > 0
        if is_lost or (not recovered.is_whole and (is_cut or is_short)):
            outbox.tear()
        noted = newest_note(end, known)
        if noted is not None:
            outbox.note_guard(noted)
