"""Protected messages of DLMS/COSEM, security suites 0 and 1: AES-GCM with 128-bit keys and tags of
twelve bytes (IEC 62056-5-3 §5; they differ in signatures and in how keys are agreed on, which no
telegram shows). Opened and sealed; what counters and titles mean is for whoever uses it.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from hal.index.axdr import Bytes, Malformed, decode_length, encode_length, take

KEY_SIZE = 16
TITLE_SIZE = 8
TAG_SIZE = 12

AUTHENTICATED = 0x10
ENCRYPTED = 0x20
_BROADCAST = 0x40
_COMPRESSED = 0x80
_SUITE = 0x0F
_SUITES_READ = (0, 1)  # Kaifa's meters in western Austria say 1; suite 2 has keys of 256 bits
_HEAD_SIZE = 5  # security control, invocation counter

GENERAL_GLO = 0xDB


class NotAuthentic(ValueError):  # noqa: N818 - a verdict, told in its own word
    """The tag, the key or the counter is not that of the meter."""


class OtherProtection(ValueError):  # noqa: N818 - a verdict, told in its own word
    """A protection that this program does not know: another suite, or compressed."""


@dataclass(frozen=True, slots=True)
class Keys:
    """A meter's global keys.

    Attributes:
        encryption: the unicast (or broadcast) encryption key.
        authentication: the authentication key; None: tags cannot be checked.
    """

    encryption: bytes = field(repr=False)
    authentication: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for key in (self.encryption, self.authentication):
            if key is not None and len(key) != KEY_SIZE:
                raise ValueError(f"a key of suite 0 or 1 has {KEY_SIZE} bytes, not {len(key)}")


@dataclass(frozen=True, slots=True)
class Protected:
    """What a protected message says in clear.

    Attributes:
        title: the sender's system title; empty where the message does not carry it.
        control: the security control byte.
        counter: the invocation counter.
        content: the encrypted message, then the tag if there is one.
    """

    title: bytes
    control: int
    counter: int
    content: bytes

    @property
    def authenticated(self) -> bool:
        return bool(self.control & AUTHENTICATED)


def decode_protected(data: Bytes, at: int, *, general: bool) -> tuple[Protected, int]:
    """The protected message that begins after its tag byte, and where the next byte is.

    Args:
        data: the message.
        at: where it begins.
        general: it carries a system title.

    Raises:
        Truncated, Malformed: it is written otherwise.
        OtherProtection: it is protected in a way that this program does not know.
    """
    title = b""
    if general:
        size, at = decode_length(data, at)
        if size not in (0, TITLE_SIZE):
            raise Malformed(f"a system title of {size} bytes")
        title, at = take(data, at, size), at + size
    size, at = decode_length(data, at)
    control = take(data, at, 1)[0]
    if control & _SUITE not in _SUITES_READ or control & _COMPRESSED:
        raise OtherProtection(f"security control 0x{control:02x}: not suite 0 or 1, or compressed")
    least = _HEAD_SIZE + (TAG_SIZE if control & AUTHENTICATED else 0)
    if size <= least or not control & (AUTHENTICATED | ENCRYPTED):
        raise Malformed(f"a protected message of {size} bytes, security control 0x{control:02x}")
    body = take(data, at, size)
    counter = int.from_bytes(body[1:_HEAD_SIZE], "big")
    return Protected(title, control, counter, body[_HEAD_SIZE:]), at + size


def encode_protected(protected: Protected, tag: int) -> bytes:
    """As `decode_protected` reads it, after its tag byte; with the title if the tag is general."""
    head = bytes([tag])
    if tag == GENERAL_GLO:
        head += encode_length(len(protected.title)) + protected.title
    body = bytes([protected.control]) + protected.counter.to_bytes(4, "big") + protected.content
    return head + encode_length(len(body)) + body


def open_protected(protected: Protected, title: bytes, keys: Keys) -> bytes:
    """The message in clear. Without an authentication key it is decrypted and nothing is checked.

    Raises:
        NotAuthentic: the tag is wrong; or there is none though an authentication key is known.
    """
    if len(title) != TITLE_SIZE:
        raise NotAuthentic("whose message it is, is not known: it carries no system title")
    start = title + protected.counter.to_bytes(4, "big")
    if not protected.authenticated:
        if keys.authentication is not None:
            raise NotAuthentic("the message carries no tag, and its key is known")
        return _apply(keys.encryption, start, protected.content)
    content, tag = protected.content[:-TAG_SIZE], protected.content[-TAG_SIZE:]
    encrypted = bool(protected.control & ENCRYPTED)
    if keys.authentication is None:
        return _apply(keys.encryption, start, content) if encrypted else content
    mode = modes.GCM(start, tag, min_tag_length=TAG_SIZE)
    cipher = Cipher(algorithms.AES(keys.encryption), mode).decryptor()
    cipher.authenticate_additional_data(bytes([protected.control]) + keys.authentication)
    try:
        if encrypted:
            return cipher.update(content) + cipher.finalize()
        cipher.authenticate_additional_data(content)
        cipher.finalize()
    except InvalidTag:
        raise NotAuthentic("the tag is wrong: altered, or sealed with another key") from None
    return content


def _apply(key: bytes, start: bytes, content: bytes) -> bytes:
    """Counter mode as GCM runs it: its first block is kept for the tag (SP 800-38D §7.2)."""
    mode = modes.CTR(start + (2).to_bytes(4, "big"))
    cipher = Cipher(algorithms.AES(key), mode).decryptor()
    return cipher.update(content) + cipher.finalize()


def seal_protected(
    message: bytes, control: int, counter: int, title: bytes, keys: Keys
) -> Protected:
    """The message, protected. Whoever calls never uses a counter twice with one key.

    Args:
        message: in clear.
        control: AUTHENTICATED, ENCRYPTED or both.
        counter: the sender's invocation counter.
        title: the sender's system title.
        keys: with the authentication key if `control` asks for a tag.

    Raises:
        ValueError: it asks for a tag and the key is not known.
    """
    start = title + counter.to_bytes(4, "big")
    if not control & AUTHENTICATED:
        return Protected(title, control, counter, _apply(keys.encryption, start, message))
    if keys.authentication is None:
        raise ValueError("a tag needs the authentication key")
    cipher = Cipher(algorithms.AES(keys.encryption), modes.GCM(start)).encryptor()
    cipher.authenticate_additional_data(bytes([control]) + keys.authentication)
    if control & ENCRYPTED:
        content = cipher.update(message) + cipher.finalize()
    else:
        cipher.authenticate_additional_data(message)
        content = message + cipher.finalize()
    return Protected(title, control, counter, content + cipher.tag[:TAG_SIZE])
