"""What the tests of the gateway share: a node with an authority and devices that speak to it, in
simulated time; and all that a store says of itself, as one value to compare."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cryptometer import audit, cbor, records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.block import Checked
from cryptometer.chain_records import ChainRecord
from cryptometer.community import Community, trust
from cryptometer.enrolment import Broker, Bundle
from cryptometer.keys import Signer
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.steps import NS_PER_MS, step_start_ms
from gateway.effects import Confirm, Effect, Publish, Sealed
from gateway.folder import Folder, import_file, initialise, open_folder
from gateway.founding import found_store
from gateway.lacking import Facts
from gateway.ledger import Ledger
from gateway.memory_store import MemoryStore
from gateway.node import Node, Policy
from gateway.private_path import Chains
from gateway.store import Store
from gateway.vpp import NoFacts, Vpp
from hal.clock import SimulatedClock
from hal.files import DiskTree, SimulatedTree
from hal.ports import Message, Tree
from tests.core.community import DETAILS, FIRST_STEP, STEP_S, Authority, Device
from tests.keys import signer

GRACE_MS = 5_000  # of the communities here
POLICY = Policy("gw")
EVERY_BLOCK = 2**30


def content(store: Store) -> dict[str, object]:
    """All that a store can be asked."""
    pending = list(store.pending())
    bodies = [record.body for record in map(records.decode, pending)]
    chain = [body for body in bodies if isinstance(body, ChainRecord)]
    return {
        "epoch": store.epoch,
        "state": store.state(),
        "authority": store.authority(),
        "pending": pending,
        "identities": [store.identity_at(body.meter, body.sequence) for body in chain],
        "staged": store.staged(),
        "blocks": store.blocks(EVERY_BLOCK),
        "refusals": store.refusals(),
        "evidence": store.evidence(),
        "contacts": store.contacts(),
        "tallies": store.tallies(),
        "compared": [one for at in range(4) for one in store.compared(f"m{at}", EVERY_BLOCK)],
    }


class Site:
    """A gateway's node. Its devices are honest until they are told otherwise.

    The clock begins where the first step has just ended: `found` makes its block, and from then
    on the meters may speak.
    """

    def __init__(
        self,
        meters: int = 1,
        *,
        store: Store | None = None,
        tree: Tree | None = None,
        policy: Policy = POLICY,
        facts: Facts | None = None,
        chains: Chains | None = None,
        **parameters: Any,
    ) -> None:
        """`parameters` replace those of the genesis."""
        self.authority = Authority(signer(1), **parameters)
        self.id = self.authority.genesis.identity
        self.topic = f"cryptometer/1/{self.id.hex()}"
        self.key: Signer = signer(2)
        self.policy = policy
        self.facts: Facts = NoFacts() if facts is None else facts
        self.chains = chains
        self.store: Store = MemoryStore(1) if store is None else store
        self.tree: Tree = SimulatedTree() if tree is None else tree
        self.first_step: int = parameters.get("first_step", FIRST_STEP)
        self.clock = SimulatedClock(step_start_ms(self.first_step + 1, STEP_S) * NS_PER_MS)
        self.gateway_registration = self.authority.register(Role.GATEWAY, "gw", self.key.public)
        self.vpp_registration = self.authority.register(Role.VPP, "vpp", signer(3).public)
        self.founding = [
            self.authority.genesis,
            self.gateway_registration,
            self.vpp_registration,
        ]
        self.devices: list[Device] = []
        for number in range(meters):
            self.founding.append(self.register(f"m{number}", 10 + number))
        if not self.store.authority():
            found_store(self.store, [record.raw for record in self.founding])
        self.start()

    # --- The community. ---

    def register(self, name: str, key: int, **changes: Any) -> Record:
        """The authority registers a meter, whose device stands ready; `changes` go into its
        registration."""
        record = self.authority.register(
            Role.METER, name, signer(key).public, **{"meter": DETAILS, **changes}
        )
        self.devices.append(Device(self.id, name, signer(key), record))
        return record

    def community(self) -> Community:
        """What an outsider knows."""
        others = [self.gateway_registration.raw, self.vpp_registration.raw]
        return trust(self.authority.genesis.raw, others)

    @property
    def device(self) -> Device:
        return self.devices[0]

    @property
    def next_step(self) -> int:
        """The step of the block that is made next."""
        return self.node.state.step + 1

    # --- The gateway. ---

    def start(self) -> list[Effect]:
        """Starts the gateway, anew if it ran, from what its store and ledger hold."""
        vpp = Vpp(signer(3), self.facts)
        ledger = Ledger(self.tree)
        self.node = Node(self.store, ledger, self.key, self.policy, vpp=vpp, chains=self.chains)
        return self.node.connected(self.clock.now())

    def message(self, sent: Record | bytes, name: str | None = None) -> Message:
        """What a device publishes under its own topic, or under that of meter `name`."""
        if isinstance(sent, bytes):
            return Message(f"{self.topic}/meter/{name or 'm0'}/record", sent, False, (0, 1))
        own = sent.body.meter if isinstance(sent.body, ChainRecord) else "m0"
        return self.message(sent.raw, name or own)

    def send(self, *sent: Record | bytes) -> list[Effect]:
        """Messages arrive, all in one round."""
        return self.receive([self.message(one) for one in sent])

    def receive(self, messages: Sequence[Message]) -> list[Effect]:
        """They arrive in one round, and are answered."""
        return self.node.receive(messages, self.clock.now()) + self.node.answer()

    def at(self, step: int, later_ms: int = 0) -> None:
        """Sets the clock to so long after the start of a step; nothing is done."""
        self.clock.advance((step_start_ms(step, STEP_S) + later_ms) * NS_PER_MS - self.clock.utc_ns)

    def tick(self) -> list[Effect]:
        """Lets the node make every block that is due, and says what it did."""
        done: list[Effect] = []
        while effects := self.node.tick(self.clock.now()):
            done += effects
            for sealed in effects:
                if isinstance(sealed, Sealed):
                    self.node.published(sealed, self.clock.now())
        return done

    def found(self) -> list[Effect]:
        """The first block: it holds the founding records."""
        self.at(self.first_step + 1, GRACE_MS)
        return self.tick()

    def begin(self) -> None:
        """The first block, and every device's run start; the next step's block is not due."""
        self.found()
        self.send(*(device.run_start(self.next_step) for device in self.devices))

    def run(self, *pulses: Sequence[int]) -> None:
        """Every device counts these lots in the next step, whose block is made; and so on."""
        for lots in pulses:
            for device in self.devices:
                if device.sequence == 0:
                    self.send(device.run_start(self.next_step))
                self.send(*device.step(self.next_step, *lots))
            self.seal()

    def seal(self) -> list[Effect]:
        """Time passes to where the next block is due whether or not all have closed."""
        self.at(self.next_step + 1, GRACE_MS)
        return self.tick()

    # --- What came of it. ---

    def audit(self) -> audit.Report:
        """Audits the ledger's files as an outsider would."""
        return audit.audit(self.tree.read, self.community())

    def blocks(self) -> list[Checked]:
        """Every block of the ledger, as an audit rebuilds it."""
        blocks: list[Checked] = []
        audit.audit(self.tree.read, self.community(), watch=blocks.append)
        return blocks

    def leaves(self) -> list[Record]:
        """Every device's record in the ledger, in its order."""
        verdicts = [verdict for checked in self.blocks() for verdict in checked.verdicts]
        found = [verdict.record for verdict in verdicts]
        return [record for record in found if isinstance(record.body, ChainRecord)]


def acknowledgements(effects: Iterable[Effect], gateway: Signer) -> dict[str, Acknowledgement]:
    """The newest word published to each meter, its signature checked."""
    words: dict[str, Acknowledgement] = {}
    for effect in effects:
        if isinstance(effect, Publish) and effect.topic.endswith("/ack/gw"):
            record = records.decode(effect.payload)
            record.envelope.verify(gateway.public)
            assert isinstance(record.body, Acknowledgement)
            assert effect.topic.endswith(f"/meter/{record.body.meter}/ack/gw")
            assert effect.retain
            words[record.body.meter] = record.body
    return words


def confirmed(effects: Iterable[Effect]) -> list[tuple[int, int]]:
    """The tokens of messages that the broker is told to forget."""
    return [effect.token for effect in effects if isinstance(effect, Confirm)]


def sealed(effects: Iterable[Effect]) -> list[Sealed]:
    """The blocks made."""
    return [effect for effect in effects if isinstance(effect, Sealed)]


class Premises:
    """A real gateway's folder, as its commands make it, and the authority that registers it."""

    def __init__(self, path: Path, toml: str = "", *, meters: int = 1, **parameters: Any) -> None:
        """`toml`: the configuration, the default one where it is empty."""
        path.mkdir(parents=True, exist_ok=True)
        if toml:
            (path / "gateway.toml").write_text(toml)
        self.path = path
        self.said = initialise(path)
        self.folder: Folder = open_folder(path)
        self.authority = Authority(signer(1), **parameters)
        self.id = self.authority.genesis.identity
        key = self.folder.load_key().public
        self.gateway_registration = self.authority.register(Role.GATEWAY, "gw", key)
        self.vpp_registration = self.authority.register(Role.VPP, "vpp", signer(3).public)
        self.chain = [
            self.authority.genesis,
            self.gateway_registration,
            self.vpp_registration,
        ]
        self.devices: list[Device] = []
        for number in range(meters):
            self.register(f"m{number}", 10 + number)

    def register(self, name: str, key: int) -> Record:
        record = self.authority.register(Role.METER, name, signer(key).public, DETAILS)
        self.devices.append(Device(self.id, name, signer(key), record))
        self.chain.append(record)
        return record

    def community(self) -> Community:
        """What an outsider knows."""
        others = [self.gateway_registration.raw, self.vpp_registration.raw]
        return trust(self.authority.genesis.raw, others)

    def bundle(self, *, signed_by: int = 1, registered: bool = True, **broker: Any) -> bytes:
        """The authority's answer to the gateway's request."""
        others = [self.vpp_registration.raw]
        if registered:
            others.insert(0, self.gateway_registration.raw)
        url = broker.pop("url", "mqtt://127.0.0.1:1883")
        body = Bundle("gw", self.authority.genesis.raw, tuple(others), Broker(url, **broker))
        return records.seal(body, self.id, signer(signed_by)).raw

    def put(self, name: str, data: bytes) -> Path:
        """A file that someone brought, beside the folder."""
        file = self.path.parent / name
        file.write_bytes(data)
        return file

    def records(self) -> bytes:
        """The authority's whole chain, as it is handed to the gateway."""
        return cbor.encode([record.raw for record in self.chain])

    def enrol(self, **broker: Any) -> None:
        """Imports the bundle and the records."""
        import_file(self.folder, self.put("gateway.bundle", self.bundle(**broker)))
        import_file(self.folder, self.put("authority.records", self.records()))

    def site(self, store: Store, folder: Folder | None = None) -> Site:
        """A node on this folder, or on one restored from it, in simulated time, with its devices;
        the store is founded."""
        folder = folder or self.folder
        site = Site.__new__(Site)
        site.authority, site.id = self.authority, self.id
        site.topic = f"cryptometer/1/{self.id.hex()}"
        site.key, site.policy, site.facts = folder.load_key(), POLICY, NoFacts()
        site.chains = None
        site.store, site.tree = store, DiskTree(folder.ledger)
        site.first_step = FIRST_STEP
        site.clock = SimulatedClock(step_start_ms(FIRST_STEP + 1, STEP_S) * NS_PER_MS)
        site.gateway_registration = self.gateway_registration
        site.vpp_registration = self.vpp_registration
        site.founding, site.devices = self.chain, self.devices
        if not store.authority():
            found_store(store, [record.raw for record in self.chain])
        site.start()
        return site
