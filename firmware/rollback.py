"""Whether what the card holds is the newest there was, by a count kept apart from it. Nothing is
read here.

The count grows before the first signature of a run, and daily; what it will be then is noted in
journal and outbox first, durably. So the newest card's note is the count or, after a death between
the two, one more; that of an older copy is less. A note of 0 says that the first count is being
made: which number it becomes, the TPM decides.
"""

from cryptometer.errors import ConfigurationError
from cryptometer.steps import NS_PER_S
from firmware.end import End

BEGUN = 0
# A copy made while a run is on is noticed once a day has passed, or another run has begun. A TPM's
# memory bears some 100,000 writes: 365 a year and one for each start let it outlive the board.
GUARD_NS = 86_400 * NS_PER_S


def newest_note(*ends: End | None) -> int | None:
    """The later note of journal and outbox: damage may have taken it from one of the two."""
    return max(
        (end.guarded for end in ends if end is not None and end.guarded is not None), default=None
    )


def is_unknown(noted: int | None, count: int | None) -> bool:
    """Whether a card without a note meets a key that has signed: a new card, or one wiped clean."""
    return noted is None and count is not None


def check_newest(noted: int | None, count: int | None, *, has_signed: bool) -> None:
    """Checks a card's note.

    Args:
        noted: the later one of journal and outbox; None if there is none.
        count: None if nothing was ever signed under it.
        has_signed: whether the card knows of a signed run.

    Raises:
        ConfigurationError: the card is an older copy, or the count is not its own.
    """
    if count is None:
        if noted not in (None, BEGUN):
            raise ConfigurationError(
                f"the TPM's counter has not counted yet, and journal and outbox were written at"
                f" {noted}: the card belongs to another TPM, or the counter was made anew. {_DO}"
            )
        return
    if noted is None and has_signed:
        raise ConfigurationError(
            "journal and outbox are an older copy: they are of a time without the TPM's counter,"
            f" which stands at {count}. {_DO}"
        )
    if noted in (None, BEGUN, count, count + 1):
        return
    if noted is not None and noted > count:
        raise ConfigurationError(
            f"journal and outbox were written at {noted}, and the TPM's counter stands at {count}:"
            f" the card belongs to another TPM. {_DO}"
        )
    raise ConfigurationError(
        f"journal and outbox are an older copy: they were written at {noted}, and the TPM's counter"
        f" stands at {count}. What was signed since is not in them. {_DO}"
    )


UNKNOWN = (
    "this key has signed before, and journal and outbox know nothing of it: the chain goes on"
    " behind a re-anchor (docs/operations.md, section 11, a key in a TPM)"
)
_DO = (
    "Nothing is signed on them. Put the newest card back; if there is none, move journal and outbox"
    " away and have the chain re-anchored (docs/operations.md, section 11, a key in a TPM)"
)
