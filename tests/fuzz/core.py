"""Records, notes, proofs, tiles, blocks: what meter, gateway and auditor agree on."""

from functools import lru_cache
from typing import Any

import cbor2

from cryptometer import audit, cbor, community, cose, merkle, note, proof, records, tiles
from cryptometer.block import check_block
from cryptometer.block_header import Balance
from cryptometer.chain_records import Batch
from cryptometer.errors import Reason, Rejected
from cryptometer.keys import from_cose
from cryptometer.merkle import EMPTY_ROOT, leaf_hash
from cryptometer.records import Record
from cryptometer.wire import encode_map
from tests.fuzz.scene import FalseAcceptance, World, check_genuine, honest, rogue
from tests.fuzz.target import Target, in_either, of_both, same, text_of
from tests.keys import p256_signer, signer

KEYS = (signer(1).public, p256_signer(1).public)


def _read_cbor(data: bytes) -> None:
    try:
        value = cbor.decode(data)
    except Rejected:
        if len(data) <= 400 and _is_canonical(data):
            raise FalseAcceptance(f"{data.hex()} is canonical, and refused") from None
        raise
    same(data, cbor.encode(value))


def _is_canonical(data: bytes) -> bool:
    """The decoder's promise, kept the slow way: build whatever stands there, write it again."""
    try:
        value = cbor2.loads(data)
        return cbor.decode(cbor.encode(value)) == value and cbor.encode(value) == data
    except Exception:  # noqa: BLE001 - the library raises many kinds on bad bytes
        return False


def _read_envelope(data: bytes) -> None:
    envelope = cose.open_seal(data)
    protected, payload = envelope.header.encode(), envelope.payload
    same(data, cbor.encode([protected, {}, payload, envelope.signature]))
    same(envelope.signed, cbor.encode(["Signature1", protected, b"", payload]))


def _read_record(data: bytes) -> None:
    record = records.decode(data)
    same(record.envelope.payload, cbor.encode(encode_map(record.body)))
    check_genuine(record)


def _read_key(data: bytes) -> None:
    key = from_cose(cbor.decode(data))
    same(data, cbor.encode(key.to_cose()))


def _read_vkey(data: bytes) -> None:
    verifier = note.parse_vkey(text_of(data))
    same(data, verifier.vkey.encode())


def _verifier(world: World) -> note.Verifier:
    return note.Verifier(world.community.origin, world.gateway.public)


def _read_note(data: bytes) -> None:
    def read(world: World) -> None:
        text = note.open_note(data, _verifier(world))
        if not data.startswith(text.encode() + b"\n"):
            raise FalseAcceptance(f"{text!r} does not begin its note")
        if world is honest() and text.encode() != world.checkpoint.partition(b"\n\n")[0] + b"\n":
            raise FalseAcceptance(f"nobody signed {text!r}")

    in_either(read)


def _read_checkpoint(data: bytes) -> None:
    def read(world: World) -> None:
        checkpoint = note.open_checkpoint(data, _verifier(world))
        if world.community.open_checkpoint(data) != checkpoint:
            raise FalseAcceptance("a community and its gateway read two checkpoints")
        again = note.sign_checkpoint(checkpoint, world.community.origin, world.gateway)
        # Lines may follow the root (C2SP tlog-checkpoint), signatures of others the text.
        if not data.startswith(again.encode().partition(b"\n\n")[0] + b"\n"):
            raise FalseAcceptance(f"{data!r} was read as {again!r}")
        if world is honest() and again.encode() != world.checkpoint:
            raise FalseAcceptance(f"nobody signed {again!r}")

    in_either(read)


def _read_proof(data: bytes) -> None:
    text = text_of(data)
    carried = proof.carried_records(text)

    def read(world: World) -> None:
        proven = proof.verify_proof(text, world.community)
        check_genuine(*carried)
        known = dict(enumerate(world.leaves))
        if known.get(proven.index) != proven.record.raw and world is honest():
            raise FalseAcceptance(f"leaf {proven.index} is another record")
        path = [proof._data(line) for line in text.partition("\n\n")[0].split("\n")[3:]]
        registration = carried[1] if len(carried) > 1 else None
        signed = text.partition("\n\n")[2]
        again = proof.encode_proof(proven.record, registration, proven.index, path, signed)
        same(data, again.encode())

    in_either(read)


def _read_community(data: bytes) -> None:
    found = community.decode_community(text_of(data))
    check_genuine(found.genesis, *found.records)
    if community.decode_community(community.encode_community(found)) != found:
        raise FalseAcceptance("a community is another one when it is written again")
    authority = found.parameters.authority
    for record in (found.genesis, *found.records):
        record.envelope.verify(authority)


def _read_bundle_of_entries(data: bytes) -> None:
    entries = tiles.split_bundle(data)
    same(data, tiles.encode_bundle(entries))
    if tiles.decode_bundle(data, len(entries)) != entries:
        raise FalseAcceptance("a bundle holds other entries when they are counted")
    tile = tiles.Tile(None, 0, max(1, min(len(entries), 256)))
    if tiles.read_entries(tile, {tile.path: data}.get) != entries:
        raise FalseAcceptance("a bundle holds other entries when it is read by its path")


def _read_tile(data: bytes) -> None:
    """The tile of the hashes of the ledger's leaves."""
    world = honest()
    size = len(world.leaves)
    files = {**world.files, tiles.Tile(0, 0, size).path: data}
    node = tiles.node_from_tiles(size, files.get)
    hashes = [leaf_hash(raw) for raw in world.leaves]
    root = merkle.Frontier().extended(hashes).root
    for index in (0, size - 1):
        path = merkle.inclusion_proof(index, size, node)
        merkle.verify_inclusion(hashes[index], index, size, path, root)
    same(data, b"".join(hashes))


_TREE = 37  # leaves of the tree that proofs are made of


@lru_cache(maxsize=1)
def _tree() -> tuple[list[bytes], list[bytes], merkle.Node]:
    """Leaf hashes, the root at every size, and the hashes of perfect subtrees."""
    hashes = [leaf_hash(bytes((number,))) for number in range(_TREE)]
    frontiers = [merkle.Frontier()]
    for one in hashes:
        frontiers.append(frontiers[-1].extended([one]))

    def node(height: int, index: int) -> bytes:
        return merkle.Frontier().extended(hashes[index << height : (index + 1) << height]).root

    return hashes, [one.root for one in frontiers], node


def _proof_parts(data: bytes) -> tuple[int, int, bytes, list[bytes]]:
    match cbor.decode(data):
        case [int(one), int(other), bytes(first), *path] if all(
            isinstance(part, bytes) for part in path
        ):
            return one, other, first, path  # type: ignore[return-value]  # checked just above
        case _:
            raise Rejected(Reason.MALFORMED, "not the parts of a proof")


def _read_inclusion(data: bytes) -> None:
    index, size, leaf, path = _proof_parts(data)
    hashes, roots, node = _tree()
    merkle.verify_inclusion(leaf, index, size, path, roots[size % len(roots)])
    if not index < size < len(roots) or leaf != hashes[index]:
        raise FalseAcceptance(f"leaf {index} of {size} is no {leaf.hex()}")
    same(b"".join(path), b"".join(merkle.inclusion_proof(index, size, node)))


def _read_consistency(data: bytes) -> None:
    old, new, old_root, path = _proof_parts(data)
    _, roots, node = _tree()
    merkle.verify_consistency(old, old_root, new, roots[new % len(roots)], path)
    if (old and new >= len(roots)) or old_root != roots[old]:
        raise FalseAcceptance(f"the tree of {old} leaves has not the root {old_root.hex()}")
    same(b"".join(path), b"".join(merkle.consistency_proof(old, new, node) if old else []))


def _proofs_of_inclusion() -> list[bytes]:
    hashes, _, node = _tree()
    places = [(0, 1), (0, 37), (5, 8), (36, 37), (16, 33)]
    return [
        cbor.encode([index, size, hashes[index], *merkle.inclusion_proof(index, size, node)])
        for index, size in places
    ]


def _proofs_of_consistency() -> list[bytes]:
    _, roots, node = _tree()
    sizes = [(1, 37), (8, 37), (21, 37), (36, 37), (37, 37), (3, 4)]
    found = [
        cbor.encode([old, new, roots[old], *merkle.consistency_proof(old, new, node)])
        for old, new in sizes
    ]
    return [*found, cbor.encode([0, 9, EMPTY_ROOT])]


# --- Blocks and ledgers. -------------------------------------------------------------------------


@lru_cache(maxsize=2)
def _blocks(world: World) -> list[tuple[Any, bytes]]:
    """The state before each block, and the block's entries."""
    state = community.trust(world.leaves[0], []).state
    found = []
    for block in world.village.blocks:
        found.append((state, tiles.encode_bundle([record.raw for record in block])))
        state = check_block(state, block).state
    return found


def _read_block(data: bytes) -> None:
    leaves = [records.decode(raw) for raw in tiles.split_bundle(data)]
    refused: Rejected | None = None
    for state, _ in [*_blocks(honest()), *_blocks(rogue())]:
        try:
            checked = check_block(state, leaves)
        except Rejected as error:
            refused = refused or error
            continue
        check_genuine(*leaves)
        _check_energy(leaves, state.balance.registered, checked.state.balance)
        return
    assert refused is not None
    raise refused


def _check_energy(leaves: list[Record], before_uwh: int, balance: Balance) -> None:
    """Promise F, in plain words: nothing is registered that no lot holds, and nothing vanishes."""
    pulses = sum(sum(one.body.pulses) for one in leaves if isinstance(one.body, Batch))
    if balance.registered - before_uwh != pulses * 100_000:
        raise FalseAcceptance(f"{pulses} pulses are {balance.registered - before_uwh} µWh")
    parts = (
        balance.untransferred, balance.waiting, balance.allocated, balance.losses, balance.fees,
        balance.surplus, balance.quarantined,
    )  # fmt: skip
    if balance.registered != sum(parts):
        raise FalseAcceptance(f"energy is not conserved: {balance}")


def _read_ledger(data: bytes) -> None:
    """A ledger's folder in which one file is another: entries, or the checkpoint."""
    path = tiles.CHECKPOINT_PATH if data[:13] == b"cryptometer/1" else "entries"

    def read(world: World) -> None:
        name = tiles.Tile(None, 0, len(world.leaves)).path if path == "entries" else path
        report = audit.audit({**world.files, name: data}.get, world.community)
        if report.checkpoint.size == len(world.leaves) and path == "entries":
            same(data, world.files[name])
        if world is honest() and path != "entries" and report.checkpoint.size != len(world.leaves):
            raise FalseAcceptance("an audit under a checkpoint that nobody signed")

    in_either(read)


CORE: tuple[Target, ...] = (
    Target(
        "cbor",
        ("cryptometer.cbor.decode",),
        _read_cbor,
        lambda: [records.decode(raw).envelope.payload for raw in honest().leaves[::4]],
    ),
    Target(
        "envelope",
        ("cryptometer.cose.open_seal",),
        _read_envelope,
        of_both(lambda world: world.leaves[5:9]),
    ),
    Target(
        "record",
        (
            "cryptometer.records.decode",
            "cryptometer.records.decode_body",
            "cryptometer.wire.decode_map",
        ),
        _read_record,
        of_both(lambda world: list(world.signed)[:9] + list(world.signed)[-9:]),
    ),
    Target(
        "key",
        ("cryptometer.keys.from_cose",),
        _read_key,
        lambda: [cbor.encode(one.to_cose()) for one in KEYS],
    ),
    Target(
        "vkey",
        ("cryptometer.note.parse_vkey",),
        _read_vkey,
        of_both(lambda world: [_verifier(world).vkey.encode()]),
    ),
    Target("note", ("cryptometer.note.open_note",), _read_note, of_both(lambda w: [w.checkpoint])),
    Target(
        "checkpoint",
        ("cryptometer.note.open_checkpoint", "cryptometer.community.Community.open_checkpoint"),
        _read_checkpoint,
        of_both(lambda world: [world.checkpoint]),
    ),
    Target(
        "proof",
        ("cryptometer.proof.verify_proof", "cryptometer.proof.carried_records"),
        _read_proof,
        of_both(lambda world: world.proofs),
    ),
    Target(
        "community",
        ("cryptometer.community.decode_community", "cryptometer.community.trust"),
        _read_community,
        of_both(lambda world: [world.community_pub]),
    ),
    Target(
        "bundle",
        (
            "cryptometer.tiles.decode_bundle",
            "cryptometer.tiles.split_bundle",
            "cryptometer.tiles.read_entries",
        ),
        _read_bundle_of_entries,
        of_both(lambda world: [tiles.encode_bundle(world.leaves[:3]), b"\x00\x00"]),
    ),
    Target(
        "tile",
        ("cryptometer.tiles.read_tile",),
        _read_tile,
        lambda: [b"".join(map(leaf_hash, honest().leaves))],
    ),
    Target(
        "inclusion", ("cryptometer.merkle.verify_inclusion",), _read_inclusion, _proofs_of_inclusion
    ),
    Target(
        "consistency",
        ("cryptometer.merkle.verify_consistency",),
        _read_consistency,
        _proofs_of_consistency,
    ),
    Target(
        "block",
        ("cryptometer.block.check_block",),
        _read_block,
        of_both(lambda world: [entries for _, entries in _blocks(world)]),
    ),
    Target(
        "ledger",
        ("cryptometer.audit.audit",),
        _read_ledger,
        of_both(lambda world: [world.checkpoint, tiles.encode_bundle(world.leaves)]),
    ),
)
