"""Finds a record or a block in the ledger and writes the proof that it stands there."""

from cryptometer import note, records
from cryptometer.community import Community
from cryptometer.errors import ConfigurationError, Reason, Rejected
from cryptometer.merkle import inclusion_proof
from cryptometer.proof import encode_proof
from cryptometer.records import ChainRecord, Record, Registration, Role
from cryptometer.tiles import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    Read,
    Tile,
    node_from_tiles,
    read_entries,
)
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
    leaf = _find(what, store)
    signed = read(CHECKPOINT_PATH)
    if signed is None:
        raise ConfigurationError("the ledger has no block yet")
    checkpoint = community.open_checkpoint(signed, revoked=True)  # our own folder
    if leaf >= checkpoint.size:
        raise ConfigurationError(f"{what} is not published yet")
    index = leaf // TILE_WIDTH
    width = min(TILE_WIDTH, checkpoint.size - index * TILE_WIDTH)
    raw = read_entries(Tile(None, index, width), read)[leaf % TILE_WIDTH]
    path = inclusion_proof(leaf, checkpoint.size, node_from_tiles(checkpoint.size, read))
    record = records.decode(raw)
    registration = _registration(record, community)
    return encode_proof(record, registration, leaf, path, signed.decode())


def _find(what: str, store: Store) -> int:
    meter, slash, sequence = what.rpartition("/")
    step = note.decimal(what)
    if slash and (number := note.decimal(sequence)) is not None:
        known = store.identity_at(meter, number) is not None
        leaf = store.leaf_at(meter, number)
    elif len(what) == _IDENTITY_HEX:
        try:
            found = store.find(bytes.fromhex(what))
        except ValueError:
            found = None
        known, leaf = found is not None, None if found is None else found[2]
    elif step is not None:
        row = store.block(step)
        known, leaf = row is not None, None if row is None else row.size - 1
    else:
        raise ConfigurationError(
            f"{what!r} is no METER/SEQUENCE, no identity of 64 hex digits, and no step"
        )
    if not known:
        raise ConfigurationError(f"there is no {what} here")
    if leaf is None:
        raise ConfigurationError(f"{what} waits for its block; ask again after the step's end")
    return leaf


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
