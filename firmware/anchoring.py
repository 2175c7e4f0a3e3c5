"""Acts on the authority's re-anchors: the signed chain goes on behind one, once the gateway's word
stands there and the time is known.
"""

from cryptometer.acknowledgement import Acknowledgement
from cryptometer.authority_records import ReAnchor
from cryptometer.records import Record
from firmware.chain import anchored, first_refused, is_acting, may_take_back, signed_so_far
from firmware.counter import Counter
from firmware.events import Anchored
from firmware.logs import Logs
from firmware.saying import Log
from firmware.signing import Signing
from firmware.watching import Watching
from hal.ports import Clock


class Anchoring:
    """Of one device's chain."""

    def __init__(
        self,
        awaited: tuple[Record, ...],
        clock: Clock,
        counter: Counter,
        logs: Logs,
        signing: Signing,
        watching: Watching,
        log: Log,
    ) -> None:
        """`awaited`: all of the meter's re-anchors, if this chain has not acted on the newest."""
        self._awaited = awaited
        self._clock = clock
        self._counter = counter
        self._logs = logs
        self._signing = signing
        self._watching = watching
        self._log = log
        self._standing: Acknowledgement | None = None  # the gateway's word, not acted on yet

    @property
    def is_awaited(self) -> bool:
        """Whether nothing may be published: what waits is to be replaced."""
        return bool(self._awaited)

    def takes(self, word: Acknowledgement) -> bool:
        """Whether this word is what a re-anchor has waited for: then it is acted on here."""
        if not self._awaited or not is_acting(self._awaited[-1], word):
            return False
        self._standing = word
        return True

    def act(self, now_ns: int) -> None:
        """Re-anchors once the gateway's chain stands on it and the time is known: without it nobody
        could say whether the chain has to come back to the present.

        Args:
            now_ns: machine time.

        Raises:
            OSError: stop, and recover.
        """
        word, watching = self._standing, self._watching
        # A board that is muted begins no run that could learn the time.
        may_act = (watching.is_dated or watching.is_muted) and not self._signing.has_to_sign
        if word is None or not may_act:
            return
        self._take_back(word)
        self._re_anchor()
        self._awaited, self._standing = (), None
        self._logs.outbox.acknowledge(word, now_ns)

    def _take_back(self, word: Acknowledgement) -> None:
        """What a gateway had acknowledged behind the re-anchor's place, and has dropped since,
        waits again: it is signed anew like all that follows that place, but for what the card has
        let go of."""
        outbox = self._logs.outbox
        end = outbox.end
        if end is None or word.sequence >= end.acknowledged:
            return
        if may_take_back(end, len(self._awaited) - end.anchors):
            outbox.take_back(word.sequence)

    def _re_anchor(self) -> None:
        """Acts on the newest re-anchor, now that the gateway's chain stands on it."""
        # The count first: once the outbox knows of the re-anchor, no later run acts on it again.
        if self._watching.is_dated:
            self._come_back()
        outbox, anchors = self._logs.outbox, self._awaited
        end, body = outbox.end, anchors[-1].body
        assert end is not None  # noqa: S101 - a word is awaited for a chain of ours only
        assert isinstance(body, ReAnchor)  # noqa: S101 - the enrolment chose them
        at = first_refused(end, body, len(anchors) - end.anchors)
        first = outbox.first_kept(at)
        unsigned_from = signed_so_far(end).register
        withheld = outbox.waiting_before(at)
        refused = outbox.waiting - withheld
        # Durable before the outbox knows of the re-anchor, which no later run acts on again: a run
        # that dies in between is excused by a word that stands.
        self._watching.excuse()
        outbox.begin(anchored(end, unsigned_from, anchors, first))
        said = f"re-anchored: sequence={body.at} signed anew={refused}"
        if withheld:
            said += f"; not signed anew, since the gateway may have them: {withheld}"
        self._log(said)

    def _come_back(self) -> None:
        """Where a wrong clock had led the chain into the far future, it goes on in the present."""
        now = self._clock.now()
        if not self._counter.is_far_ahead(now.mono_ns):
            return
        self._log("the chain goes on in the present")
        self._watching.tell(Anchored(now.mono_ns))
        # What was journalled before is of that wrong time: it is not applied again after this.
        self._logs.begin_segment(self._counter)
        self._watching.begin_anew(now)
