"""A small ledger in the making: its records by name, its blocks, its files and proofs."""

from collections.abc import Sequence

from cryptometer import merkle, note, proof, records, tiles
from cryptometer.block import Checked, check_block
from cryptometer.community import Community
from cryptometer.openings import Opening
from cryptometer.proposal import Slot, propose
from cryptometer.record_fields import ClockReading
from cryptometer.records import Body, Record
from cryptometer.share_file import encode_share
from cryptometer.state import State
from cryptometer.steps import ClockSource, ClockState, step_start_ms
from tests.keys import signer

GATEWAY_CLOCK = ClockReading(ClockSource.SYSTEM, ClockState.SYNCHRONISED, 3)


class Ledger:
    """What has been sealed, and the blocks that were made of it; the maker is who gives it."""

    community: Community

    def __init__(self, gateway: int) -> None:
        """`gateway` is the number of the maker's key."""
        self.by_name: dict[str, Record] = {}
        self.community_id: bytes | None = None
        self.blocks: list[Checked] = []
        self.leaves: list[Record] = []
        self._gateway = gateway

    @property
    def checkpoint(self) -> str:
        head = self.blocks[-1].state.checkpoint
        return note.sign_checkpoint(head, self.community.origin, signer(self._gateway))

    @property
    def files(self) -> dict[str, bytes]:
        """The static files of a ledger with fewer than 257 leaves."""
        hashes = [merkle.leaf_hash(record.raw) for record in self.leaves]
        files = {tiles.CHECKPOINT_PATH: self.checkpoint.encode()}
        for tile in tiles.tiles_of(None, 0, len(self.leaves)):
            files[tile.path] = tiles.encode_bundle([record.raw for record in self.leaves])
        for tile in tiles.tiles_of(0, 0, len(self.leaves)):
            files[tile.path] = b"".join(hashes)
        return files

    def seal(self, name: str, body: Body, by: int) -> Record:
        """Signs a record and keeps it under a name."""
        self.by_name[name] = records.seal(body, self.community_id, signer(by))
        return self.by_name[name]

    def commit(self, name: str, leaves: list[Record], state: State) -> None:
        """Makes the block of the next step; `name` is its header's."""
        step = state.step + 1
        sealed_ms = step_start_ms(step + 1, state.genesis.step_s) + 1_100
        header = propose(state, leaves, Slot(step, sealed_ms, GATEWAY_CLOCK, caught_up=False))
        block = [*leaves, self.seal(name, header, self._gateway)]
        self.blocks.append(check_block(state, block))
        self.leaves += block

    @property
    def _node(self) -> merkle.Node:
        hashes = [merkle.leaf_hash(leaf.raw) for leaf in self.leaves]
        served = {
            tile.path: b"".join(hashes[: tile.width])
            for tile in tiles.tiles_of(0, 0, len(self.leaves))
        }
        return tiles.node_from_tiles(len(self.leaves), served.get)

    def share_of(
        self,
        member: str,
        step: int,
        leaves: Sequence[str],
        authority: Sequence[str],
        opening: Opening | None = None,
    ) -> bytes:
        """A member's share of a step, made of these records by their names."""
        raws = {self.leaves.index(self.by_name[name]): self.by_name[name].raw for name in leaves}
        known = [self.by_name[name].raw for name in authority]
        return encode_share(member, step, self.checkpoint, known, raws, self._node, opening)

    def proof_of(self, record: Record, registration: Record | None) -> str:
        """The proof of one leaf."""
        index = self.leaves.index(record)
        path = merkle.inclusion_proof(index, len(self.leaves), self._node)
        return proof.encode_proof(record, registration, index, path, self.checkpoint)
