"""What members consumed, as a distribution commits to it, and what opens the commitments: also as a
file for whoever may know, of lines of text, so that a person sees what is handed over.
"""

import hmac
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TypeAlias

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected
from cryptometer.record_fields import NAME, STEP
from cryptometer.sharing_records import Distribution
from cryptometer.wire import UINT_MAX, Bytes, Uint, wire

SALT_BYTES = 32
OPENINGS_MAX = 2**28  # bytes; some two million lines
HEADER = "step,member,need_uwh,salt"


@dataclass(frozen=True, slots=True)
class Opening:
    """What opens the commitment to what a member consumed in a step."""

    need_uwh: int = wire(0, Uint())
    salt: bytes = wire(1, Bytes(SALT_BYTES, SALT_BYTES))


Openings: TypeAlias = Mapping[tuple[int, str], Sequence[Opening]]
"""Openings by step and member: several, where what he consumed was corrected."""


def commitment(community: bytes, step: int, member: str, need_uwh: int, salt: bytes) -> bytes:
    """What a distribution shows of a member's consumption: a hash that fits one amount only, and
    tells nobody anything who is not given the salt: 32 bytes that nobody can guess, of this member,
    step and amount."""
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    said: list[cbor.Value] = ["cryptometer consumption", community, step, member, need_uwh, salt]
    return sha256(cbor.encode(said)).digest()


def salt_of(secret: bytes, need_uwh: int) -> bytes:
    """The salt of one commitment, out of the secret of a member's step. A consumption that is
    corrected is committed to more than once: who is given one opening must not find the others' by
    trying amounts."""
    said: list[cbor.Value] = ["cryptometer salt", need_uwh]
    return hmac.digest(secret, cbor.encode(said), "sha256")


def opened_needs(
    openings: Openings, community: bytes, whole: Distribution
) -> dict[str, int] | None:
    """What members consumed in a step, if an opening fits each commitment of its distribution."""
    step, needs = whole.step, {}
    for one in whole.commitments:
        for known in openings.get((step, one.member), ()):
            if one.digest == commitment(community, step, one.member, known.need_uwh, known.salt):
                needs[one.member] = known.need_uwh
                break
        else:
            return None
    return needs


def encode_openings(openings: Openings) -> Iterator[str]:
    """The file's lines, in order of steps and names; each ends with a newline."""
    yield f"{HEADER}\n"
    for (step, member), several in sorted(openings.items()):
        for one in several:
            yield f"{step},{member},{one.need_uwh},{one.salt.hex()}\n"


def decode_openings(text: str) -> Openings:
    """Reads what `encode_openings` wrote.

    Raises:
        Rejected: MALFORMED, naming the line.
    """
    found: dict[tuple[int, str], list[Opening]] = {}
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
        several = found.setdefault(place, [])
        if len(opening.salt) != SALT_BYTES or opening in several:
            raise Rejected(
                Reason.MALFORMED, f"line {number}: a salt of another length, or an opening twice"
            )
        several.append(opening)
    return found


def _decimal(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or int(text) > UINT_MAX:
        raise ValueError
    return int(text)
