"""Communities in memory, built by the real code: authority, devices, blocks, the ledger's files.

Keys are those of `tests.keys`, so the same calls give the same bytes on every run. No clock.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

from cryptometer import note, proof, records
from cryptometer.authority_records import (
    AuthorityRecord,
    ChainPlace,
    CountingSource,
    Genesis,
    MeterDetails,
    ReAnchor,
    Registration,
    Revocation,
    Use,
)
from cryptometer.block import Checked, check_block
from cryptometer.block_header import Header
from cryptometer.chain import follow, open_record, register_after
from cryptometer.chain_records import Batch, ChainRecord, Ending, Reading, RunStart, StepClose
from cryptometer.community import Community, trust
from cryptometer.drafting import draft
from cryptometer.errors import Rejected
from cryptometer.governing import found
from cryptometer.keys import PublicKey, Signer
from cryptometer.merkle import Frontier, inclusion_proof, leaf_hash
from cryptometer.meter import Head
from cryptometer.metrology import Side
from cryptometer.openings import commitment
from cryptometer.parts import split
from cryptometer.proposal import Proposal, Slot, propose
from cryptometer.record_fields import Checkpoint, ClockReading, Role
from cryptometer.records import Body, Record
from cryptometer.settlement import Plant, Settlement
from cryptometer.sharing_records import Agreement, Claim, Distribution, Method
from cryptometer.state import State
from cryptometer.steps import FUTURE_STEPS, ClockSource, ClockState, step_start_ms
from cryptometer.tiles import (
    CHECKPOINT_PATH,
    TILE_WIDTH,
    encode_bundle,
    levels_of,
    node_from_tiles,
    parent_hash,
    tiles_of,
)
from tests.keys import signer

STEP_S = 900
FIRST_STEP = 1_900_000
CLOCK = ClockReading(ClockSource.SIMULATED, ClockState.SYNCHRONISED, 20)
PULSE_UWH = 100_000  # of `DETAILS`: 10,000 pulses per kWh
LOT_PULSES = 8  # of `DETAILS`: standards table, class B 0.25-5(65) 3×230 V
SOFTWARE = "test 1.0"

DETAILS = MeterDetails(
    serial="MID-0001",
    use=Use.GENERATION,
    source=CountingSource.PULSES,
    index_wh=1_234_567,
    accuracy_class="B",
    phases=3,
    voltage_mv=230_000,
    i_min_ma=250,
    i_max_ma=65_000,
    ratings_side=Side.PRIMARY,
    constant=Fraction(10_000),
    constant_side=Side.PRIMARY,
    ratio=Fraction(1),
    guard=Fraction(1),
    lot_pulses=LOT_PULSES,
    coarse=False,
    exclusive=True,
)


class Authority:
    """Founds a community and signs the records of the authority's chain, in order."""

    def __init__(self, key: Signer, **parameters: Any) -> None:
        """`parameters` replace those of the genesis."""
        self.signer = key
        fields: dict[str, Any] = {
            "name": "Rue des Tilleuls",
            "authority": key.public,
            "created_ms": step_start_ms(FIRST_STEP, STEP_S) - 1,
            "first_step": FIRST_STEP,
            "step_s": STEP_S,
            "grace_ms": 5_000,
            "late_steps": 35 * 96,
            "token_uwh": 1_000_000,
            "token_steps": 96,
            "quorum": 1,
        }
        self.genesis = records.seal(Genesis(**fields | parameters), None, key)
        self.next = 1
        self.previous = self.genesis.identity

    def register(
        self,
        role: Role,
        name: str,
        key: PublicKey,
        meter: MeterDetails | None = None,
        from_step: int = FIRST_STEP,
    ) -> Record:
        place = (self.next, self.previous)
        return self.sign(Registration(*place, role, name, key, from_step, meter))

    def revoke(self, role: Role, name: str, last: Record | None = None) -> Record:
        """`last` is the last valid record of a meter's chain."""
        place = None
        if last is not None:
            assert isinstance(last.body, ChainRecord)
            place = ChainPlace(last.body.sequence, last.identity)
        return self.sign(Revocation(self.next, self.previous, role, name, "stolen", place))

    def re_anchor(self, meter: str, at: int, register: int) -> Record:
        return self.sign(ReAnchor(self.next, self.previous, meter, at, register, "board lost"))

    def agree(
        self,
        from_step: int,
        claims: Iterable[Claim | str],
        method: Method = Method.EQUAL,
        **changes: Any,
    ) -> Record:
        """An agreement; a member's name alone is a claim of weight 1. `changes` replace its other
        fields."""
        fields: dict[str, Any] = {
            "vpp": "vpp",
            "from_step": from_step,
            "method": method,
            "capped": False,
            "rounds": 1,
            "claims": tuple(Claim(one, 1, 0) if isinstance(one, str) else one for one in claims),
            "surplus_to": "grid",
            "are_losses_stated": False,
        }
        return self.sign(Agreement(self.next, self.previous, **fields | changes))

    def sign(self, body: Registration | Revocation | ReAnchor | Agreement) -> Record:
        """Signs `body` as it is; the chain goes on behind it."""
        record = records.seal(body, self.genesis.identity, self.signer)
        self.next, self.previous = body.sequence + 1, record.identity
        return record


class Device:
    """A meter's device: signs the meter's chain in order, honestly or as it is told."""

    def __init__(self, community: bytes, name: str, key: Signer, registration: Record) -> None:
        self.community = community
        self.name = name
        self.signer = key
        self.registration = registration.identity
        self.sequence = 0
        self.previous = registration.identity
        self.register = 0
        self.closed_from = 0

    def run_start(self, step: int, **changes: Any) -> Record:
        """A run start; `changes` replace what an honest device would say."""
        at_ms = step_start_ms(step, STEP_S)
        head = self._head(step) | {"at_ms": at_ms, "software": SOFTWARE, "ending": Ending.FIRST}
        return self.write(RunStart(**head | changes))

    def batch(self, step: int, *pulses: int, **changes: Any) -> Record:
        """A batch of lots with these pulses, closed one second after another."""
        lots = tuple(part for at, lot in enumerate(pulses, 1) for part in (lot, at * 1_000))
        head = self._head(step) | {"registration": self.registration, "lots": lots}
        return self.write(Batch(**head | changes))

    def reading(self, step: int, index: int, age_ms: int = 1_000, **changes: Any) -> Record:
        """A reading of the meter's index, so long before the step's end."""
        at_ms = step_start_ms(step + 1, STEP_S) - age_ms
        head = self._head(step) | {"registration": self.registration, "index": index}
        said = {"at_ms": at_ms, "source": "test", "counting": True}
        return self.write(Reading(**head | said | changes))

    def close(self, step: int, **changes: Any) -> Record:
        watched = (0, STEP_S * 1_000)
        head = self._head(step) | {"register": self.closed_from, "register_after": self.register}
        return self.write(StepClose(**head | {"watched": watched} | changes))

    def step(self, step: int, *pulses: int) -> list[Record]:
        """What a device sends for one step: a batch, if it counted anything, and the close."""
        counted = [self.batch(step, *pulses)] if pulses else []
        return [*counted, self.close(step)]

    def write(self, body: RunStart | Batch | Reading | StepClose) -> Record:
        """Signs `body` as it is; the chain goes on behind it."""
        record = records.seal(body, self.community, self.signer)
        if isinstance(body, RunStart) and self.sequence == 0:
            self.closed_from = body.register
        if isinstance(body, StepClose):
            self.closed_from = body.register_after
        self.sequence, self.previous = body.sequence + 1, record.identity
        self.register = register_after(body)
        return record

    def go_on_from(self, anchor: Record) -> None:
        """The chain goes on behind a re-anchor."""
        assert isinstance(anchor.body, ReAnchor)
        self.sequence, self.previous = anchor.body.at, anchor.identity
        self.register = self.closed_from = anchor.body.register

    def _head(self, step: int) -> dict[str, Any]:
        return {
            "meter": self.name,
            "sequence": self.sequence,
            "previous": self.previous,
            "clock": CLOCK,
            "marks": (),
            "register": self.register,
            "step": step,
        }


def due(
    state: State, step: int, pending: Iterable[Record]
) -> tuple[list[Record], list[tuple[Record, Rejected]]]:
    """Which of the pending records go into the block of `step`, in its order; and which never can,
    because the authority has meanwhile revoked or re-anchored their chain.

    A chain waits as a whole behind its first record of the near future.
    """
    leaves: list[Record] = []
    refused: list[tuple[Record, Rejected]] = []
    heads: dict[str, Head] = {}
    waiting: set[str] = set()
    for record in sorted(pending, key=_place):
        body = record.body
        if isinstance(body, ChainRecord):
            if step < body.step <= step + FUTURE_STEPS:
                waiting.add(body.meter)
            if body.meter in waiting:
                continue
            meter = state.meters[body.meter]
            try:
                head = heads.get(body.meter, meter.head)
                heads[body.meter] = follow(meter, head, record, body)
            except Rejected as error:
                refused.append((record, error))
                continue
        leaves.append(record)
    return leaves, refused


def _place(record: Record) -> tuple[int, str, int]:
    body = record.body
    if isinstance(body, ChainRecord):
        return (1, body.meter, body.sequence)
    if isinstance(body, Distribution):
        return (2, body.vpp, body.sequence)
    return (0, "", body.sequence if isinstance(body, AuthorityRecord) else 0)


class Village:
    """A community with one gateway, its ledger, and what was sent and is in no block yet.

    The first block holds the genesis and the registrations of gateway `gw`, virtual power plant
    `vpp` and meters `m0`, `m1`, ...; so the meters may speak from the second block on.
    """

    salt = bytes(range(32))  # of every commitment

    def __init__(self, meters: int = 1, *, keys: int = 0, **parameters: Any) -> None:
        """`keys` moves on to other keys than the usual ones; `parameters` replace those of the
        genesis."""
        self._keys = keys
        self.authority = Authority(signer(keys + 1), **parameters)
        self.gateway = signer(keys + 2)
        self.vpp = signer(keys + 3)
        self.state: State = found(self.authority.genesis)
        self.plant = self.state.plant("vpp")
        self.blocks: list[list[Record]] = []
        self.checked: list[Checked] = []
        self.pending: list[Record] = []
        self.heads: dict[str, Head] = {}
        self.devices: list[Device] = []
        self.govern(self.authority.genesis)
        self.gateway_registration = self.authority.register(Role.GATEWAY, "gw", self.gateway.public)
        self.vpp_registration = self.authority.register(Role.VPP, "vpp", self.vpp.public)
        self.govern(self.gateway_registration, self.vpp_registration)
        for number in range(meters):
            self.add_meter(f"m{number}")
        self.block()

    @property
    def id(self) -> bytes:
        return self.state.community

    @property
    def next_step(self) -> int:
        """The step of the block that is made next."""
        return self.state.step + 1

    @property
    def leaves(self) -> list[bytes]:
        """Every entry of the ledger."""
        return [record.raw for block in self.blocks for record in block]

    @property
    def device(self) -> Device:
        return self.devices[0]

    def add_meter(self, name: str, key: Signer | None = None, **changes: Any) -> Device:
        """Registers a meter; `changes` replace its details. It counts from the next block on."""
        key = key or signer(self._keys + 10 + len(self.devices))
        details = replace(DETAILS, **changes)
        record = self.authority.register(Role.METER, name, key.public, details, self.next_step)
        device = Device(self.authority.genesis.identity, name, key, record)
        self.devices.append(device)
        self.govern(record)
        return device

    def govern(self, *authority_records: Record) -> None:
        """The gateway imports what the authority signed: it goes into the next block."""
        self.pending += authority_records

    def send(self, *sent: Record) -> None:
        """Records of devices arrive at the gateway's door, as bytes.

        Raises:
            Rejected: the chain verdict on the first that is refused.
        """
        for raw in [record.raw for record in sent]:
            record, body, meter = open_record(self.state, raw)
            head = self.heads.get(meter.name, meter.head)
            self.heads[meter.name] = follow(meter, head, record, body)
            self.pending.append(record)

    def add_members(self, *names: str) -> None:
        """Registers members; an agreement may name them from the next block on."""
        for name in names:
            key = signer(self._keys + 10_000 + len(self.state.parties) + len(self.pending)).public
            self.govern(self.authority.register(Role.MEMBER, name, key))

    def agree(self, *claims: Claim | str, **changes: Any) -> Record:
        """An agreement from the step after the next block's on, which that block holds."""
        record = self.authority.agree(self.next_step + 1, claims, **changes)
        self.govern(record)
        return record

    def share(
        self, needs: Mapping[int, Mapping[str, int]] | None = None, **changes: Any
    ) -> list[Record]:
        """The plant's distributions of what waits and of what closes bring in the next block, in
        which they are to stand. `needs`: by step and member, µWh; `changes`: as for `draft`."""
        made: list[Record] = []
        for whole in self.drafts(needs, **changes):
            made += self.distribute(*split(whole, self.plant))
        return made

    def drafts(
        self, needs: Mapping[int, Mapping[str, int]] | None = None, **changes: Any
    ) -> list[Distribution]:
        """What `share` would give, by step, each as a whole and not signed; a step whose
        consumption its agreement asks for waits until it is told."""
        step = self.next_step
        proposal = Proposal(self.state, step)
        leaves, _ = due(self.state, step, self.pending)
        for record in leaves:
            if isinstance(record.body, ChainRecord):
                proposal.add(record, record.body)
        return list(self._drafts(proposal.settlements(), needs, **changes))

    def shares_of(
        self,
        settlements: Mapping[int, Settlement],
        needs: Mapping[int, Mapping[str, int]] | None = None,
        **changes: Any,
    ) -> list[Record]:
        """The plant's next distributions, of accounts as they stand; arguments as of `share`."""
        made: list[Record] = []
        for whole in self._drafts(settlements, needs, **changes):
            made += self.signed(*split(whole, self.plant))
        return made

    def _drafts(
        self,
        settlements: Mapping[int, Settlement],
        needs: Mapping[int, Mapping[str, int]] | None = None,
        **changes: Any,
    ) -> Iterator[Distribution]:
        for at, settlement in sorted(settlements.items()):
            agreed = self.state.agreed(at)
            assert agreed is not None
            used = (needs or {}).get(at)
            if agreed.agreement.needs_consumption and used is None:
                continue
            commitments = {
                name: commitment(self.id, at, name, amount, self.salt)
                for name, amount in (used or {}).items()
            }
            whole = draft(agreed, settlement, needs=used, commitments=commitments, **changes)
            if whole is not None:
                yield whole

    def distribute(self, *parts: Distribution) -> list[Record]:
        """The plant signs these one behind another, whatever they say; they go into the next
        block."""
        made = self.signed(*parts)
        self.pending += made
        return made

    def signed(self, *parts: Distribution) -> list[Record]:
        """The plant signs these as the next of its chain."""
        made: list[Record] = []
        for part in parts:
            body = replace(part, sequence=self.plant.sequence, previous=self.plant.previous)
            made.append(records.seal(body, self.id, self.vpp))
            self.plant = Plant("vpp", body.sequence + 1, made[-1].identity)
        return made

    def run(self, *pulses: Sequence[int]) -> None:
        """Every device starts if it has not, and counts these lots in the step of the next block,
        which is made; then the next step's."""
        for lots in pulses:
            for device in self.devices:
                if device.sequence == 0:
                    self.send(device.run_start(self.next_step))
                self.send(*device.step(self.next_step, *lots))
            self.block()

    def block(self, **changes: Any) -> Checked:
        """Makes, checks and commits the block of the next step from what is pending; `changes`
        replace the slot."""
        step = self.next_step
        leaves, refused = due(self.state, step, self.pending)
        gone = {record.identity for record in leaves} | {one.identity for one, _ in refused}
        block = self.seal(leaves, propose(self.state, leaves, self.slot(**changes)))
        self.commit(block)
        self.pending = [record for record in self.pending if record.identity not in gone]
        self._follow_what_waits()
        return self.checked[-1]

    def _follow_what_waits(self) -> None:
        """The heads of chains that are ahead of the block. A chain that the block has revoked or
        anchored elsewhere waits on: `due` refuses it when its step has come."""
        self.heads = {}
        gone: set[str] = set()
        for record in self.pending:
            body = record.body
            if isinstance(body, ChainRecord) and body.meter not in gone:
                meter = self.state.meters[body.meter]
                head = self.heads.get(meter.name, meter.head)
                try:
                    self.heads[meter.name] = follow(meter, head, record, body)
                except Rejected:
                    gone.add(meter.name)

    def slot(self, **changes: Any) -> Slot:
        """The slot in which the next block is made in time."""
        step = self.next_step
        slot = Slot(step, step_start_ms(step + 1, STEP_S) + 5_000, CLOCK, caught_up=False)
        return replace(slot, **changes)

    def seal(
        self, leaves: Sequence[Record], header: Header, key: Signer | None = None
    ) -> list[Record]:
        """A whole block: the leaves, and the header signed by the gateway or with `key`."""
        return [*leaves, records.seal(header, self.id, key or self.gateway)]

    def commit(self, block: list[Record]) -> None:
        """Checks a whole block and makes it part of the ledger."""
        # Decoded anew: what is checked is what the ledger's bytes say.
        checked = check_block(self.state, [records.decode(record.raw) for record in block])
        self.blocks.append(block)
        self.checked.append(checked)
        self.state = checked.state

    def community(self) -> Community:
        """What an outsider knows: genesis, gateway key, VPP key."""
        others = [self.gateway_registration.raw, self.vpp_registration.raw]
        return trust(self.authority.genesis.raw, others)

    def checkpoint(self) -> str:
        """The newest tree head, signed."""
        return sign_head(self.leaves, self.community().origin, self.gateway)

    def files(self) -> dict[str, bytes]:
        """The ledger as static files."""
        return lay_out(self.leaves, self.checkpoint())

    def prove(self, index: int) -> str:
        """The proof of one leaf; a meter's record comes with the registration of its key."""
        leaves = self.leaves
        record = records.decode(leaves[index])
        path = inclusion_proof(index, len(leaves), node_from_tiles(len(leaves), self.files().get))
        registration = None
        if isinstance(record.body, ChainRecord):
            registration = self._registration_of(record.key_id)
        return proof.encode_proof(record, registration, index, path, self.checkpoint())

    def _registration_of(self, key_id: bytes) -> Record:
        for raw in reversed(self.leaves):
            record = records.decode(raw)
            if isinstance(record.body, Registration) and record.body.key.thumbprint == key_id:
                return record
        raise LookupError("no such key in the ledger")


def header_of(checked: Checked) -> Header:
    body = checked.header.body
    assert isinstance(body, Header)
    return body


def sign_head(leaves: Iterable[bytes], origin: str, key: Signer) -> str:
    """The signed checkpoint of the tree with these entries."""
    frontier = Frontier().extended(leaf_hash(raw) for raw in leaves)
    return note.sign_checkpoint(Checkpoint(frontier.size, frontier.root), origin, key)


def lay_out(leaves: Sequence[bytes], checkpoint: str) -> dict[str, bytes]:
    """A ledger's static files by path."""
    files = {CHECKPOINT_PATH: checkpoint.encode()}
    for tile in tiles_of(None, 0, len(leaves)):
        first = tile.index * TILE_WIDTH
        files[tile.path] = encode_bundle(leaves[first : first + tile.width])
    hashes = [leaf_hash(raw) for raw in leaves]
    for level in levels_of(len(leaves)):
        for tile in tiles_of(level, 0, len(leaves)):
            first = tile.index * TILE_WIDTH
            files[tile.path] = b"".join(hashes[first : first + tile.width])
        full = len(hashes) // TILE_WIDTH
        tiles = [b"".join(hashes[at * TILE_WIDTH : (at + 1) * TILE_WIDTH]) for at in range(full)]
        hashes = [parent_hash(tile) for tile in tiles]
    return files


def reseal(record: Record, key: Signer, **changes: Any) -> Record:
    """The same statement with `changes`, signed anew: what a dishonest signer would make of it."""
    body: Body = replace(record.body, **changes)
    return records.seal(body, record.envelope.header.community, key)


def flip(raw: bytes, bit: int) -> bytes:
    """`raw` with one bit changed."""
    place = bytearray(raw)
    place[bit // 8] ^= 1 << bit % 8
    return bytes(place)
