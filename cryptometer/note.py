"""Signed notes and checkpoints (C2SP signed-note and tlog-checkpoint), Ed25519 only.

A gateway signs notes and records with one key. The two can never be confused: a Sig_structure
begins with the byte 0x84, which begins no UTF-8 text.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptometer.errors import Reason, Rejected
from cryptometer.keys import Algorithm, PublicKey, Signer
from cryptometer.merkle import HASH_BYTES
from cryptometer.record_fields import Checkpoint
from cryptometer.wire import UINT_MAX

NOTE_MAX = 65_536  # bytes; room for the 16 signatures that every verifier must accept
DECIMAL_MAX = 19  # digits of 2^63 - 1; Python refuses to read numbers of some thousand digits
_ED25519 = b"\x01"
_DASH = "— "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")  # below the space, but for the end of a line


@dataclass(frozen=True, slots=True)
class Verifier:
    """A known note key: its name and its Ed25519 public key."""

    name: str
    key: PublicKey

    @property
    def key_id(self) -> bytes:
        """SHA-256(name || newline || 0x01 || public key)[:4]."""
        return sha256(self.name.encode() + b"\n" + _ED25519 + self.key.coordinates).digest()[:4]

    @property
    def vkey(self) -> str:
        """The key as one line of text, for other verifiers of signed notes."""
        material = base64.b64encode(_ED25519 + self.key.coordinates).decode()
        return f"{self.name}+{self.key_id.hex()}+{material}"


def parse_vkey(text: str) -> Verifier:
    """Reads `name+keyid+base64`.

    Raises:
        Rejected: MALFORMED.
    """
    name, _, rest = text.partition("+")
    key_id, _, material = rest.partition("+")
    data = _base64(material)
    if len(data) != 33 or data[:1] != _ED25519:
        raise Rejected(Reason.MALFORMED, "not an Ed25519 verifier key")
    verifier = Verifier(name, PublicKey(Algorithm.EDDSA, data[1:]))
    if not _name_fits(name) or verifier.key_id.hex() != key_id:
        raise Rejected(Reason.MALFORMED, "the verifier key's id does not fit its name and key")
    return verifier


def sign_note(text: str, name: str, signer: Signer) -> str:
    """A signed note with one signature. `text` ends with a newline.

    Raises:
        ValueError: the text, the name or the algorithm does not fit a note.
    """
    if not text.endswith("\n") or not _clean(text) or not _name_fits(name):
        raise ValueError("not a note text or key name")
    if signer.public.algorithm is not Algorithm.EDDSA:
        raise ValueError("notes are signed with Ed25519")
    key_id = Verifier(name, signer.public).key_id
    signature = base64.b64encode(key_id + signer.sign(text.encode())).decode()
    return f"{text}\n{_DASH}{name} {signature}\n"


def open_note(note: bytes, verifier: Verifier) -> str:
    """Returns the note's text once `verifier` has signed it; other signatures are ignored.

    Raises:
        Rejected: MALFORMED, UNKNOWN_KEY (not signed by it) or BAD_SIGNATURE.
    """
    if len(note) > NOTE_MAX:
        raise Rejected(Reason.TOO_LARGE, f"a note above {NOTE_MAX} bytes")
    try:
        whole = note.decode()
    except UnicodeDecodeError:
        raise Rejected(Reason.MALFORMED, "a note is UTF-8 text") from None
    text, separator, signatures = whole.rpartition("\n\n")
    if not separator or not signatures.endswith("\n") or not _clean(whole):
        raise Rejected(Reason.MALFORMED, "not a signed note")
    text += "\n"
    found = False
    for line in signatures[:-1].split("\n"):
        name, _, encoded = line.removeprefix(_DASH).partition(" ")
        data = _base64(encoded)
        if not line.startswith(_DASH) or not _name_fits(name) or len(data) < 5:
            raise Rejected(Reason.MALFORMED, "a signature line is not one")
        if name == verifier.name and data[:4] == verifier.key_id:
            verifier.key.verify(data[4:], text.encode())
            found = True
    if not found:
        raise Rejected(Reason.UNKNOWN_KEY, f"the note is not signed by {verifier.name}")
    return text


def sign_checkpoint(checkpoint: Checkpoint, origin: str, signer: Signer) -> str:
    """The signed note of a tree head; the key's name is the log's origin."""
    root = base64.b64encode(checkpoint.root).decode()
    return sign_note(f"{origin}\n{checkpoint.size}\n{root}\n", origin, signer)


def open_checkpoint(note: bytes, verifier: Verifier) -> Checkpoint:
    """Reads a signed checkpoint of the log whose origin is the verifier's name.

    Raises:
        Rejected: BAD_CHECKPOINT or what `open_note` raises.
    """
    lines = open_note(note, verifier).split("\n")
    if len(lines) < 4 or lines[0] != verifier.name:
        raise Rejected(Reason.BAD_CHECKPOINT, "not a checkpoint of this ledger")
    root = _base64(lines[2])
    size = decimal(lines[1])
    if size is None or len(root) != HASH_BYTES:
        raise Rejected(Reason.BAD_CHECKPOINT, "a checkpoint's size or root is not one")
    return Checkpoint(size, root)


def decimal(text: str) -> int | None:
    """The number below 2^63 that is written as `text`, in its one form, or None."""
    if not (text.isascii() and text.isdigit()) or len(text) > DECIMAL_MAX:
        return None
    number = int(text)
    return number if str(number) == text and number <= UINT_MAX else None


def _base64(text: str) -> bytes:
    """Strict base64: what does not encode back to the same text is refused."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(Reason.MALFORMED, "not base64") from None
    if base64.b64encode(data).decode() != text:
        raise Rejected(Reason.MALFORMED, "not the canonical base64")
    return data


def _clean(text: str) -> bool:
    return _CONTROL.search(text) is None


def _name_fits(name: str) -> bool:
    return "+" not in name and name.split() == [name]  # one word, as Unicode knows spaces
