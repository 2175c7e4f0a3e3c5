"""Who may read what by the API: bearer tokens, of which only a hash is kept. Pure.

A token is random, 256 bits: nobody tries them all, so its hash needs no salt and may be a quick
one. Whoever reads the store can use none of them.
"""

import base64
import binascii
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

NUMBER_BYTES = 6
SECRET_BYTES = 32
_TOKEN = re.compile(rf"cm1_([0-9a-f]{{{2 * NUMBER_BYTES}}})_[0-9a-f]{{{2 * SECRET_BYTES}}}")
_BEARER = "bearer "
_BASIC = "basic "
_NOBODY = bytes(32)  # what is compared where there is no grant: it takes as long


class Holder(StrEnum):
    """Whom a token was given to."""

    MEMBER = "member"
    OPERATOR = "operator"
    DSO = "dso"


@dataclass(frozen=True, slots=True)
class Grant:
    """A right to read, until it is revoked or its time is over.

    Attributes:
        number: names the grant; it stands in the token, and is no secret.
        member: whose data; "" for operator and DSO, who read everyone's.
        digest: SHA-256 of the token.
        until_ms: when it ends, ms since the Unix epoch.
    """

    number: str
    holder: Holder
    member: str
    digest: bytes
    granted_ms: int
    until_ms: int

    @property
    def is_of_the_office(self) -> bool:
        """Whether it is for the whole community."""
        return self.holder is not Holder.MEMBER

    def may_read(self, member: str | None) -> bool:
        """Whether it lets its holder read what is a member's; None: what is the community's, and
        for the office only."""
        return self.is_of_the_office or (member is not None and member == self.member)

    def may_read_person(self, member: str) -> bool:
        """Whether it lets its holder read who a member is: that is no matter of the DSO's, who
        knows its customers by their supply points."""
        return self.holder is Holder.OPERATOR or member == self.member


def make_token(entropy: Callable[[int], bytes]) -> tuple[str, str]:
    """A new token, and the number of its grant.

    Args:
        entropy: gives so many random bytes.
    """
    number = entropy(NUMBER_BYTES).hex()
    return f"cm1_{number}_{entropy(SECRET_BYTES).hex()}", number


def digest_of(token: str) -> bytes:
    """What is kept of a token."""
    return sha256(token.encode()).digest()


def admit(
    authorization: str | None, find: Callable[[str], Grant | None], now_ms: int
) -> Grant | None:
    """The grant that a program's header proves; None where it proves none, whatever the reason.

    Args:
        authorization: the header's value.
        find: gives the grant of a number.
        now_ms: ms since the Unix epoch.
    """
    return _admit(_behind(_BEARER, authorization), find, now_ms)


def admit_person(
    authorization: str | None, find: Callable[[str], Grant | None], now_ms: int
) -> Grant | None:
    """The same of a browser's header, in which the token is a password, and the name any."""
    try:
        said = base64.b64decode(_behind(_BASIC, authorization), validate=True).decode()
    except (binascii.Error, ValueError):
        said = ""
    return _admit(said.partition(":")[2], find, now_ms)


def _behind(scheme: str, authorization: str | None) -> str:
    """What stands behind a scheme's name; nothing behind another's."""
    said = authorization or ""
    return said[len(scheme) :].strip() if said.lower().startswith(scheme) else ""


def _admit(token: str, find: Callable[[str], Grant | None], now_ms: int) -> Grant | None:
    named = _TOKEN.fullmatch(token)
    if named is None:
        return None
    grant = find(named[1])
    known = _NOBODY if grant is None else grant.digest
    if not hmac.compare_digest(known, digest_of(token)) or grant is None:
        return None
    return grant if now_ms < grant.until_ms else None
