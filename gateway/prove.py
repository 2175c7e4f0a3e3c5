"""Finds a record or a block in the ledger and writes the proof that it stands there."""

from contextlib import suppress

from cryptometer import note, records
from cryptometer.authority_records import Registration
from cryptometer.chain_records import ChainRecord
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.merkle import inclusion_proof
from cryptometer.proof import encode_proof
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.tiles import CHECKPOINT_PATH, Entries, Read, node_from_tiles
from gateway.store import Store

_IDENTITY_HEX = 64


def prove(what: str, store: Store, read: Read, community: Community) -> str:
    """The proof file's text.

    Args:
        what: a record as METER/SEQUENCE or by its identity in hex, or a block by its step.
        read: gives the content of a ledger path, or None.

    Raises:
        ConfigurationError: nothing of that name, or it is in no block yet.
        Rejected: the ledger's files are damaged.
    """
    leaf = _leaf(what, store)
    signed = read(CHECKPOINT_PATH)
    if signed is None:
        raise ConfigurationError("the ledger has no block yet")
    checkpoint = community.open_checkpoint(signed, revoked=True)  # our own folder
    if leaf >= checkpoint.size:
        raise ConfigurationError(f"{what} is not published yet")
    raw = Entries(checkpoint.size, read).raw(leaf)
    path = inclusion_proof(leaf, checkpoint.size, node_from_tiles(checkpoint.size, read))
    record = records.decode(raw)
    registration = _registration(record, community)
    return encode_proof(record, registration, leaf, path, signed.decode())


def _leaf(what: str, store: Store) -> int:
    step = note.decimal(what)
    if step is not None:
        row = store.block(step)
        found = None if row is None else row.size - 1
        is_known = row is not None
    else:
        try:
            place = find_record(what, store)
        except ValueError as error:
            raise ConfigurationError(f"{error}, and no step") from None
        found = None if place is None else place[2]
        is_known = place is not None
    if not is_known:
        raise ConfigurationError(f"there is no {what} here")
    if found is None:
        raise ConfigurationError(f"{what} waits for its block; ask again after the step's end")
    return found


def find_record(what: str, store: Store) -> tuple[str, int, int | None] | None:
    """A meter's record: its meter, sequence number, and leaf if it is in a block; None if there is
    no such record.

    Args:
        what: METER/SEQUENCE, or the record's identity as 64 hex digits.

    Raises:
        ValueError: it is neither.
        SearchTooLong: by its identity it was not found in time.
    """
    meter, slash, number = what.rpartition("/")
    sequence = note.decimal(number) if slash else None
    if sequence is not None:
        if store.identity_at(meter, sequence) is None:
            return None
        return meter, sequence, store.leaf_at(meter, sequence)
    if len(what) == _IDENTITY_HEX:
        with suppress(ValueError):
            return store.find(bytes.fromhex(what))
    raise ValueError(f"{what!r:.80} is neither METER/SEQUENCE nor an identity of 64 hex digits")


def _registration(record: Record, community: Community) -> Record | None:
    """The registration of the key that signed a meter's record; None for other records."""
    if not isinstance(record.body, ChainRecord):
        return None
    for known in reversed(community.records):
        body = known.body
        if (
            isinstance(body, Registration)
            and body.role is Role.METER
            and body.key.thumbprint == record.key_id
        ):
            return known
    raise Rejected(Reason.UNKNOWN_KEY, "no registration names the record's key")
