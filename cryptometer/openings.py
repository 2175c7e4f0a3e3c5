"""What members consumed, with the salts of the commitments to it, as a file for whoever may know:
lines of text, so that a person sees what is handed over.
"""

from collections.abc import Iterator

from cryptometer.errors import Reason, Rejected
from cryptometer.records import NAME, STEP
from cryptometer.settlement import SALT_BYTES, Opening, Openings
from cryptometer.wire import UINT_MAX

OPENINGS_MAX = 2**28  # bytes; some two million lines
HEADER = "step,member,need_uwh,salt"


def encode_openings(openings: Openings) -> Iterator[str]:
    """The file's lines, in order of steps and names; each ends with a newline."""
    yield f"{HEADER}\n"
    for (step, member), one in sorted(openings.items()):
        yield f"{step},{member},{one.need_uwh},{one.salt.hex()}\n"


def decode_openings(text: str) -> Openings:
    """Reads what `encode_openings` wrote.

    Raises:
        Rejected: MALFORMED, naming the line.
    """
    found: dict[tuple[int, str], Opening] = {}
    lines = text.splitlines()
    if not lines or lines[0] != HEADER:
        raise Rejected(Reason.MALFORMED, f"no openings: the first line is not {HEADER}")
    for number, line in enumerate(lines[1:], 2):
        try:
            step, member, need, salt = line.split(",")
            place = (STEP.decode(_decimal(step)), NAME.decode(member))
            opening = Opening(_decimal(need), bytes.fromhex(salt))
        except (ValueError, Rejected):
            raise Rejected(
                Reason.MALFORMED, f"line {number} is no opening: {line!r:.120}"
            ) from None
        if len(opening.salt) != SALT_BYTES or place in found:
            raise Rejected(
                Reason.MALFORMED, f"line {number}: a salt of another length, or a place twice"
            )
        found[place] = opening
    return found


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > UINT_MAX:
        raise ValueError
    return int(text)
