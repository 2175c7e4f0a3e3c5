"""Signs what gathered, in order, as far as key and time allow; what is left goes on waiting."""

from collections.abc import Sequence

from cryptometer.acknowledgement import Acknowledgement
from cryptometer.keys import KeyLost, Signer
from cryptometer.record_fields import Checkpoint
from cryptometer.records import Record
from cryptometer.steps import NS_PER_S
from firmware.chain import Chain, aligned, draft_of, is_acting
from firmware.config import Config
from firmware.drafts import CloseDraft, Draft, RunDraft
from firmware.enrolment import Enrolment
from firmware.guarding import Guarding
from firmware.logs import Logs
from firmware.saying import Log
from firmware.stretching import Stretching
from hal.faults import Point, passing
from hal.ports import Clock

# A key that is away is asked for after so long, and after twice that until the most.
KEY_RETRY_FIRST_NS, KEY_RETRY_MAX_NS = 2 * NS_PER_S, 60 * NS_PER_S
# Of a turn, for signatures: a token may take a fifth of a second for each, and the line waits.
SIGN_MAX_NS = NS_PER_S // 4


class Signing:
    """The signatures of one device's chain.

    Attributes:
        away: why the key cannot sign now; empty if it can.
        checkpoint: the newest one that was verified; closes name it.
    """

    def __init__(
        self,
        clock: Clock,
        signer: Signer,
        logs: Logs,
        guarding: Guarding,
        stretching: Stretching,
        config: Config,
        log: Log,
    ) -> None:
        self._clock = clock
        self._signer = signer
        self._logs = logs
        self._guarding = guarding
        self._stretching = stretching
        self._config = config
        self._log = log
        self._chain: Chain | None = None
        self._anchors: tuple[Record, ...] = ()
        self._is_anchored = False  # whether the gateway's chain stands on the newest re-anchor
        self._unsigned: list[Draft] = []  # in order; all that they were made of is in the journal
        self._anew: list[Draft] = []  # what a re-anchor is followed by, as far as it was read
        self._retry_ns = self._pause_ns = 0  # of a key that is away
        self.away = ""
        self.checkpoint: Checkpoint | None = None

    @property
    def is_signing_anew(self) -> bool:
        """Whether a re-anchor leaves something to be signed behind it."""
        end = self._logs.outbox.end
        return end is not None and end.anew is not None

    @property
    def waiting(self) -> int:
        """How many drafts of this run wait."""
        return len(self._unsigned)

    @property
    def has_to_sign(self) -> bool:
        """Whether something waits for its signature: until then the journal keeps all of it."""
        return bool(self._unsigned) or self.is_signing_anew

    def wait_ns(self, now_ns: int) -> int | None:
        """Machine time until it is to be tried again; None while nothing waits."""
        return max(0, self._retry_ns - now_ns) if self.has_to_sign else None

    def go_by(self, enrolment: Enrolment) -> None:
        """Signs from here on by these registrations, all of one unit."""
        self._anchors = enrolment.anchors
        self._chain = Chain(
            enrolment.meter,
            enrolment.community.id,
            enrolment.registered,
            self._signer,
            str(self._config.source.get("driver", "")),
            str(self._config.compared.get("driver", "")),
        )

    def sign(self, drafts: Sequence[Draft]) -> None:
        """Signs what waits, and what has gathered since.

        Raises:
            OSError: stop, and recover.
        """
        self._unsigned += drafts
        if self._chain is None or not self.has_to_sign:
            return
        if self._clock.machine_ns() < self._retry_ns:
            return
        waited = list(self._unsigned)
        self._sign_waiting(self._chain)
        signed = waited[: len(waited) - len(self._unsigned)]
        if any(isinstance(draft, CloseDraft | RunDraft) for draft in signed):
            # The block waits for a close; it does not wait for the group, nor for the next one,
            # which would bring the journal's word on it.
            self._logs.sync()
            self._logs.sync()
        self._stretching.limit(is_behind=bool(self._unsigned))

    def sign_recovered(self, drafts: list[Draft]) -> None:
        """At a start: what the journal's events have come to once more.

        Raises:
            OSError: stop, and recover.
        """
        self._unsigned = drafts
        if self._chain is not None:
            # Signed again from the journal, and durable, before the journal lets go of it.
            self._sign_waiting(self._chain)
            self._logs.sync()
        self._stretching.limit(is_behind=bool(self._unsigned))

    def finish_anew(self) -> None:
        """At a start: signs all that a re-anchor has left to an earlier run.

        Raises:
            KeyLost: the key is away.
            OSError: stop, and recover.
        """
        while self._chain is not None and self._sign_portion(self._chain):
            pass

    def note_word(self, word: Acknowledgement) -> None:
        """A card that knows nothing of its key's chain signs once the gateway's stands right on
        the newest re-anchor."""
        if self._anchors and not self._is_anchored and is_acting(self._anchors[-1], word):
            self._is_anchored = True
            self._retry_ns = 0

    def _stands_on_word(self) -> bool:
        """Whether the chain begins where the gateway's signed word shows that its own goes on."""
        end = self._logs.outbox.end
        if end is None or not self._anchors:
            return False
        return self._is_anchored and end.previous == self._anchors[-1].identity

    def _sign_waiting(self, chain: Chain) -> None:
        try:
            # What is new comes behind what is signed anew.
            if not (self._sign_portion(chain) and self.is_signing_anew):
                self._sign_some(chain, self._unsigned)
        except KeyLost as lost:
            self._lose_key(str(lost))
            return
        if self.away:
            self._log("the key is back, and signs")
        self.away, self._retry_ns, self._pause_ns = "", 0, 0

    def _sign_portion(self, chain: Chain) -> bool:
        """Signs some of what a re-anchor must be followed by, in bounded memory and time; a run
        that dies in between is followed by one that goes on from there. False if nothing is.

        Raises:
            KeyLost: the key is away.
        """
        outbox = self._logs.outbox
        end = outbox.end
        if end is None or end.anew is None:
            return False
        if not self._anew:
            offset = end.anew.offset
            self._anew = [draft_of(one, offset) for one in outbox.take_refused()]
        self._sign_some(chain, self._anew)
        outbox.sync()
        return True

    def _sign_some(self, chain: Chain, drafts: list[Draft]) -> None:
        """Signs from the beginning of `drafts`, and takes off what is done, until the time is over.

        Raises:
            KeyLost: the key is away; what was signed before that is kept.
        """
        outbox = self._logs.outbox
        if outbox.end is None or not drafts:
            return
        self._guarding.pass_by(self._stands_on_word)
        end = outbox.end
        where = aligned(end, drafts)
        if where != end:
            outbox.begin(where)
            end = where
        signed: list[Record] = []
        away: KeyLost | None = None
        until_ns = self._clock.machine_ns() + SIGN_MAX_NS
        try:
            for record in chain.sign(drafts, end, self.checkpoint):
                signed.append(record)
                if self._clock.machine_ns() >= until_ns:
                    break
        except KeyLost as lost:
            away = lost
        if signed:
            passing(Point.DEVICE_SIGNED)
            outbox.append(signed)
            del drafts[: len(signed)]
        if away is not None:
            raise away

    def _lose_key(self, why: str) -> None:
        if why != self.away:
            self._log(f"cannot sign: {why}; pulses are journalled, and signed later")
        self.away = why
        pause_ns = 2 * self._pause_ns or KEY_RETRY_FIRST_NS
        self._pause_ns = min(pause_ns, KEY_RETRY_MAX_NS)
        self._retry_ns = self._clock.machine_ns() + self._pause_ns
