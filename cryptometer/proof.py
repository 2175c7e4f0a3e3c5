"""A proof that travels: one record, shown offline to stand in a community's ledger.

The file is a C2SP tlog-proof. Its `extra` line carries the record itself and, for a meter's
record, the registration of the meter's key: so the way back to the authority is whole.
"""

import base64
import binascii
from dataclasses import dataclass

from cryptometer import cbor, merkle, note, records
from cryptometer.authority_records import AuthorityRecord, Genesis, Registration
from cryptometer.block_header import Header
from cryptometer.chain_records import ChainRecord
from cryptometer.community import Community
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import PublicKey
from cryptometer.record_fields import Checkpoint, Role
from cryptometer.records import Record
from cryptometer.sharing_records import Distribution

_MAGIC = "c2sp.org/tlog-proof@v1"
PATH_MAX = 63  # hashes; a tree of 2^63 leaves has no longer path


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof shows: `record` is leaf `index` of the ledger that `checkpoint` heads."""

    record: Record
    index: int
    checkpoint: Checkpoint


def encode_proof(
    record: Record, registration: Record | None, index: int, path: list[bytes], checkpoint: str
) -> str:
    """The text of a proof.

    Args:
        record: what is proven.
        registration: of the meter whose record it is; None for others.
        index: the record's leaf.
        path: its audit path in the tree of `checkpoint`.
        checkpoint: a signed note.
    """
    carried = [record.raw] if registration is None else [record.raw, registration.raw]
    lines = [_MAGIC, f"extra {_text(cbor.encode(carried))}", f"index {index}"]
    lines += [_text(one) for one in path]
    return "\n".join(lines) + "\n\n" + checkpoint


def verify_proof(text: str, community: Community) -> Proven:
    """Checks a proof with nothing but the community's public keys.

    Raises:
        Rejected: the first thing that does not hold.
    """
    lines, signed = _split(text)
    index = note.decimal(_field(lines[2], "index"))
    if index is None or len(lines) - 3 > PATH_MAX:
        raise Rejected(Reason.MALFORMED, "the proof's index or path is not one")
    checkpoint = community.open_checkpoint(signed.encode())
    record, key = _open_carried(_carried(lines), community)
    record.envelope.verify(key)
    path = [_data(line) for line in lines[3:]]
    leaf = merkle.leaf_hash(record.raw)
    merkle.verify_inclusion(leaf, index, checkpoint.size, path, checkpoint.root)
    return Proven(record, index, checkpoint)


def is_proof(data: bytes) -> bool:
    """Whether a file says that it is a proof, of whatever version."""
    return data.startswith(_MAGIC.partition("@")[0].encode())


def signed_head(text: str) -> str:
    """The checkpoint that a proof carries, a signed note. Nothing is verified.

    Raises:
        Rejected: it is no proof file.
    """
    return _split(text)[1]


def carried_records(text: str) -> list[Record]:
    """The record a proof carries and, for a meter's, the registration. Nothing is verified.

    Raises:
        Rejected: it is no proof file, or carries no record.
    """
    return _carried(_split(text)[0])


def _split(text: str) -> tuple[list[str], str]:
    head, separator, signed = text.partition("\n\n")
    lines = head.split("\n")
    if not separator or len(lines) < 3 or lines[0] != _MAGIC:
        raise Rejected(Reason.MALFORMED, "not a tlog-proof file")
    return lines, signed


def _carried(lines: list[str]) -> list[Record]:
    match cbor.decode(_data(_field(lines[1], "extra"))):
        case [bytes()] | [bytes(), bytes()] as raws:
            return [records.decode(raw) for raw in raws]
        case _:
            raise Rejected(Reason.MALFORMED, "the proof carries no record")


def _open_carried(carried: list[Record], community: Community) -> tuple[Record, PublicKey]:
    record, registration = carried[0], carried[1] if len(carried) > 1 else None
    if record.community != community.id:
        raise Rejected(Reason.OTHER_COMMUNITY, "a record of another community")
    if registration is not None and not isinstance(record.body, ChainRecord):
        raise Rejected(Reason.MALFORMED, "only a meter's record comes with a registration")
    authority = community.parameters.authority
    match record.body:
        case ChainRecord() as body:
            return record, _meter_key(body, record, registration, community)
        case Genesis() | AuthorityRecord() if record.key_id == authority.thumbprint:
            return record, authority
        case Header() | Distribution():
            role = Role.GATEWAY if isinstance(record.body, Header) else Role.VPP
            for key in community.keys_of(role):
                if key.thumbprint == record.key_id:
                    return record, key
    raise Rejected(Reason.UNKNOWN_KEY, f"this {record.body.KIND} is not signed by one entitled to")


def _meter_key(
    body: ChainRecord, record: Record, registration: Record | None, community: Community
) -> PublicKey:
    if registration is None or registration.community != community.id:
        raise Rejected(Reason.UNKNOWN_KEY, "the proof lacks the registration of the meter's key")
    registration.envelope.verify(community.parameters.authority)
    match registration.body:
        case Registration(role=Role.METER, name=name, key=key) if (
            name == body.meter and key.thumbprint == record.key_id
        ):
            return key
        case _:
            raise Rejected(Reason.UNKNOWN_KEY, "the registration is not that of the record's key")


def _field(line: str, name: str) -> str:
    found, _, value = line.partition(" ")
    if found != name:
        raise Rejected(Reason.MALFORMED, f"the proof lacks its line {name!r}")
    return value


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _data(text: str) -> bytes:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Rejected(Reason.MALFORMED, "the proof holds a line that is not base64") from None
    if _text(data) != text:
        raise Rejected(Reason.MALFORMED, "the proof holds base64 that is not canonical")
    return data
