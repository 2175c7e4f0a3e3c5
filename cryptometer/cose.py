"""The signed envelope of every record: COSE_Sign1 (RFC 9052 §4.2), untagged, in one exact form.

    [ protected: bstr, {}, payload: bstr, signature: bstr of 64 bytes ]

The form leaves no choice to the writer, so it is read by hand: a stranger's bytes reach the
general CBOR decoder only inside a header of bounded length, and a payload only once its signature
has been verified by a registered key.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from hashlib import sha256

from cryptometer import cbor
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import SIGNATURE_BYTES, Algorithm, PublicKey, Signer

RECORD_MAX = 65_535  # bytes; an entry of a tlog-tiles bundle has a 16-bit length
HEADER_MAX = 192  # bytes; the longest header of version 1 has 127

_TYPE = "application/vnd.cryptometer.{kind}.v1"
_TYPE_PREFIX, _, _TYPE_SUFFIX = _TYPE.partition("{kind}")
_SIGNATURE_CONTEXT = b"\x84\x6aSignature1"
_EMPTY_BYTES = b"\x40"
_EMPTY_MAP = b"\xa0"
# Registered COSE header labels: alg and kid (RFC 9052 §3.1), kid context (RFC 8613 §5.1): the
# community inside which a key id means something, typ (RFC 9596): record kind and format version.
_ALG, _KID, _KID_CONTEXT, _TYP = 1, 4, 10, 16


@dataclass(frozen=True, slots=True)
class Header:
    """The protected header. `community` is None only in a genesis and an enrolment request."""

    algorithm: Algorithm
    key_id: bytes
    kind: str
    community: bytes | None

    def encode(self) -> bytes:
        fields: dict[int, cbor.Value] = {
            _ALG: int(self.algorithm),
            _KID: self.key_id,
            _TYP: _TYPE.format(kind=self.kind),
        }
        if self.community is not None:
            fields[_KID_CONTEXT] = self.community
        return cbor.encode(fields)


@dataclass(frozen=True, slots=False)
class Envelope:
    """A record as it travels: its exact bytes, its header, and its payload not yet decoded."""

    raw: bytes
    header: Header
    payload: bytes
    signed: bytes  # the Sig_structure
    signature: bytes

    @cached_property
    def identity(self) -> bytes:
        """SHA-256 of the Sig_structure, 32 bytes: what "the hash of a record" means everywhere."""
        return sha256(self.signed).digest()

    def verify(self, key: PublicKey) -> None:
        """Checks algorithm and signature against `key`.

        Raises:
            Rejected: WRONG_ALGORITHM or BAD_SIGNATURE.
        """
        if self.header.algorithm is not key.algorithm:
            raise Rejected(Reason.WRONG_ALGORITHM, "the algorithm is not that of the key")
        key.verify(self.signature, self.signed)


def seal(kind: str, community: bytes | None, payload: bytes, signer: Signer) -> bytes:
    """Signs `payload` as a record of `kind`; returns the record's bytes.

    Raises:
        ValueError: the record would exceed RECORD_MAX.
    """
    key = signer.public
    protected = _protected(Header(key.algorithm, key.thumbprint, kind, community))
    body = _bytes(payload)
    signature = signer.sign(_SIGNATURE_CONTEXT + protected + _EMPTY_BYTES + body)
    raw = b"\x84" + protected + _EMPTY_MAP + body + _bytes(signature)
    if len(raw) > RECORD_MAX:
        raise ValueError(f"a record of {len(raw)} bytes exceeds {RECORD_MAX}")
    return raw


def open_seal(raw: bytes) -> Envelope:
    """Reads the envelope of one record. The signature is not checked: see `Envelope.verify`.

    Raises:
        Rejected: TOO_LARGE, MALFORMED, NOT_CANONICAL or UNKNOWN_KIND.
    """
    if len(raw) > RECORD_MAX:
        raise Rejected(Reason.TOO_LARGE, f"{len(raw)} bytes, and a record has at most {RECORD_MAX}")
    if raw[:1] != b"\x84":
        raise Rejected(Reason.MALFORMED, "not an untagged COSE_Sign1")
    header_at, header_end = _span(raw, 1)
    if raw[header_end : header_end + 1] != _EMPTY_MAP:
        raise Rejected(Reason.MALFORMED, "the unprotected header is not empty")
    payload_at, payload_end = _span(raw, header_end + 1)
    signature_at, signature_end = _span(raw, payload_end)
    if signature_end != len(raw) or signature_end - signature_at != SIGNATURE_BYTES:
        raise Rejected(Reason.MALFORMED, "the signature is not 64 bytes that end the record")
    header = _decode_header(raw[header_at:header_end])
    signed = (
        _SIGNATURE_CONTEXT + raw[1:header_end] + _EMPTY_BYTES + raw[header_end + 1 : payload_end]
    )
    return Envelope(raw, header, raw[payload_at:payload_end], signed, raw[signature_at:])


@lru_cache(maxsize=64)
def _protected(header: Header) -> bytes:
    return _bytes(header.encode())


@lru_cache(maxsize=4096)
def _decode_header(protected: bytes) -> Header:
    if len(protected) > HEADER_MAX:
        raise Rejected(Reason.MALFORMED, f"a protected header above {HEADER_MAX} bytes")
    fields = cbor.decode(protected)
    match fields:
        case {1: int(alg), 4: bytes(key_id), 16: str(typ), **rest} if len(key_id) == 32:
            community = rest.pop(_KID_CONTEXT, None)
        case _:
            raise Rejected(Reason.MALFORMED, "the protected header lacks a field")
    if rest or not (community is None or (isinstance(community, bytes) and len(community) == 32)):
        raise Rejected(Reason.MALFORMED, "the protected header holds an unknown field")
    if alg not in (Algorithm.EDDSA, Algorithm.ES256):
        raise Rejected(Reason.WRONG_ALGORITHM, f"COSE algorithm {alg} is not accepted")
    if not (typ.startswith(_TYPE_PREFIX) and typ.endswith(_TYPE_SUFFIX)):
        raise Rejected(Reason.UNKNOWN_KIND, "not a record of this format version")
    kind = typ[len(_TYPE_PREFIX) : -len(_TYPE_SUFFIX)]
    return Header(Algorithm(alg), key_id, kind, community)


def _bytes(data: bytes) -> bytes:
    """A CBOR byte string with its shortest head."""
    size = len(data)
    if size < 24:
        return bytes((0x40 | size,)) + data
    if size < 256:
        return bytes((0x58, size)) + data
    if size <= RECORD_MAX:
        return b"\x59" + size.to_bytes(2, "big") + data
    raise ValueError(f"{size} bytes exceed a record")


def _span(raw: bytes, at: int) -> tuple[int, int]:
    """Where the byte string whose head stands at `at` begins and ends."""
    head = raw[at] if at < len(raw) else 0
    if 0x40 <= head < 0x58:
        start, size = at + 1, head & 0x1F
    elif head == 0x58:
        start, size = at + 2, int.from_bytes(raw[at + 1 : at + 2], "big")
        if size < 24:
            raise Rejected(Reason.NOT_CANONICAL, "a length is not in its shortest form")
    elif head == 0x59:
        start, size = at + 3, int.from_bytes(raw[at + 1 : at + 3], "big")
        if size < 256:
            raise Rejected(Reason.NOT_CANONICAL, "a length is not in its shortest form")
    else:
        raise Rejected(Reason.MALFORMED, "not a definite byte string where COSE_Sign1 has one")
    if start + size > len(raw):
        raise Rejected(Reason.MALFORMED, "a byte string reaches beyond the record")
    return start, start + size
