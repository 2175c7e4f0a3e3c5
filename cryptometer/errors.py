"""Why something from outside was refused. One closed list of reasons, shared by all verdicts."""

from enum import StrEnum


class Reason(StrEnum):
    """Reason codes: stable on the wire (acknowledgements), in counters and in logs."""

    # The bytes are not a record of this format.
    MALFORMED = "malformed"
    NOT_CANONICAL = "not-canonical"
    TOO_LARGE = "too-large"
    UNKNOWN_KIND = "unknown-kind"
    # The record is not from whom it should be.
    OTHER_COMMUNITY = "other-community"
    UNKNOWN_KEY = "unknown-key"
    WRONG_ALGORITHM = "wrong-algorithm"
    WRONG_ROLE = "wrong-role"
    BAD_SIGNATURE = "bad-signature"
    REVOKED = "revoked"
    # The record does not continue its chain.
    GAP = "gap"
    REPEAT = "repeat"
    FORK = "fork"
    REGISTER_MISMATCH = "register-mismatch"
    TOO_MANY = "too-many"
    IMPLAUSIBLE = "implausible"
    # Energy verdicts: the record stays in the chain, its energy is set aside.
    UNKNOWN_REGISTRATION = "unknown-registration"
    NOT_VALID_AT_STEP = "not-valid-at-step"
    WRONG_SOURCE = "wrong-source"
    WRONG_UNIT = "wrong-unit"
    NOT_ANCHORED = "not-anchored"
    BELOW_REGISTERED = "below-registered"
    LOT_ABOVE_V = "lot-above-v"
    LOTS_OUT_OF_ORDER = "lots-out-of-order"
    FAR_FUTURE = "far-future"
    TOO_LATE = "too-late"
    STEP_WENT_BACK = "step-went-back"
    STEP_CLOSED = "step-closed"
    STALE_READING = "stale-reading"
    # A distribution: it stays in its plant's chain, and moves nothing.
    INCOMPLETE = "incomplete"
    WRONG_AGREEMENT = "wrong-agreement"
    NO_SUCH_INPUT = "no-such-input"
    WRONG_SUMS = "wrong-sums"
    NOT_AS_AGREED = "not-as-agreed"
    # A block or the ledger does not hold.
    WRONG_ORDER = "wrong-order"
    WRONG_STEP = "wrong-step"
    WRONG_PREVIOUS = "wrong-previous"
    WRONG_TOTALS = "wrong-totals"
    NOT_YET = "not-yet"
    PRIVATE = "private"
    BAD_PROOF = "bad-proof"
    BAD_CHECKPOINT = "bad-checkpoint"


class Rejected(Exception):  # noqa: N818 - a verdict on someone else's data, not a failure of ours
    """Bytes or a record from outside were refused; nothing changed.

    Attributes:
        reason: the code to count and to report.
        detail: one sentence for people: what was found, and where.
    """

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ConfigurationError(Exception):
    """What the user gave cannot work; the message says what to do next. Programs exit with 2."""
