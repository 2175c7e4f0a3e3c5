"""An enrolment request as text: for a QR code, a message, a line read out. Knows no record.

`CRYPTOMETER:` and the request's bytes in base32 (RFC 4648 §6) without padding. All of it is in the
alphanumeric set of a QR code (ISO/IEC 18004), which packs it closer than base64; case and white
space say nothing, so that a wrapped or retyped line is read as well.
"""

from base64 import b32decode, b32encode
from binascii import Error

from cryptometer.cose import RECORD_MAX
from cryptometer.errors import Reason, Rejected

PREFIX = "CRYPTOMETER:"
_TEXT_MAX = 2 * RECORD_MAX  # base32 takes 8 signs for 5 bytes


def encode_request_text(raw: bytes) -> str:
    """The text of a request's bytes."""
    return PREFIX + b32encode(raw).decode().rstrip("=")


def is_request_text(text: str) -> bool:
    """Whether a text claims to be a request, rightly or not."""
    return text.lstrip().upper().startswith(PREFIX)


def decode_request_text(text: str) -> bytes:
    """The bytes behind a text.

    Raises:
        Rejected: MALFORMED.
    """
    signs = "".join(text.split()).upper()
    if not signs.startswith(PREFIX) or len(signs) > _TEXT_MAX or not signs.isascii():
        raise Rejected(Reason.MALFORMED, f"no text that begins with {PREFIX}")
    body = signs.removeprefix(PREFIX)
    try:
        raw = b32decode(body + "=" * (-len(body) % 8))
    except Error:
        raise Rejected(
            Reason.MALFORMED, "the text is not base32: a sign is wrong or missing"
        ) from None
    if encode_request_text(raw) != signs:
        raise Rejected(Reason.MALFORMED, "the text is cut off, or has signs it should not have")
    return raw
