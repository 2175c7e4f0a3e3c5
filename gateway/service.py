"""The running gateway: gives the node its messages and time, and does its effects."""

import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence

from cryptometer.errors import ConfigurationError, Rejected
from cryptometer.keys import Signer
from cryptometer.steps import NS_PER_MS, NS_PER_S
from gateway.effects import Confirm, Effect, Publish, Say, Sealed
from gateway.folder import (
    Folder,
    clear_left,
    read_community,
    read_import,
    read_own_bundle,
    settle_successor,
    waiting_imports,
)
from gateway.founding import found_store, gateway_name
from gateway.lacking import Facts
from gateway.ledger import Ledger
from gateway.node import Node, Policy
from gateway.private import PrivateStore
from gateway.private_chains import PrivateChains
from gateway.private_path import NoChains
from gateway.sqlite_store import SqliteStore
from gateway.store import StoreDamaged
from gateway.verifying import Verifiers
from gateway.vpp import LostFacts, Vpp
from hal.broker import broker_settings
from hal.drivers import open_clock
from hal.files import DiskTree, hold
from hal.memory import collect_seldom
from hal.mqtt import Link
from hal.notify import Notifier
from hal.ports import Clock, Connected, Disconnected, Message

MESSAGES_MAX = 1_000  # judged in one commit: the more wait, the cheaper each of them
# Judged in one commit, too: the worst that a device can sign takes a third of a second for each
# 64 KiB, and between two commits blocks are sealed and the service manager hears of us.
ROUND_BYTES = 2**20
WAIT_MAX_S = 1.0
IMPORTS_EVERY_S = 1.0
PRIVATE_BUSY_MS = 500  # so long an import or an erasure may hold up a block
SETTLE_MACHINE_MS = 500  # after connecting, for what the broker kept for us to come


def serve(folder: Folder) -> int:
    """Runs until SIGTERM or SIGINT; returns the exit code.

    Raises:
        ConfigurationError: it cannot run like this; the message says what to do.
        Behind: there is a newer ledger than ours.
    """
    collect_seldom()
    stopping: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _frame: stopping.append(received))
    with hold(folder.lock):
        clear_left(folder)
        store = folder.open_store()
        try:
            service = Service(folder, store)
            service.run(stopping)
        finally:
            store.close()
    return 0


class Service:
    """One gateway process."""

    def __init__(self, folder: Folder, store: SqliteStore) -> None:
        self._folder = folder
        self._clock: Clock = open_clock(folder.config.clock)
        self._notifier = Notifier()
        self._said: dict[str, str] = {}
        self._imports_at = 0.0
        self._alive_at = 0.0
        bundle = read_own_bundle(folder)
        if settle_successor(folder, store):
            _log("the new key has taken the place of the old one")
        key = folder.load_key()
        if not store.authority():
            self._found(store)
        community = read_community(store)
        name = gateway_name(community, key)
        if name is None:
            raise ConfigurationError(
                "the imported authority records do not register this gateway's key; import newer"
            )
        settle_ms = round(SETTLE_MACHINE_MS / self._clock.machine_wait_s(NS_PER_S))
        policy = Policy(name, folder.config.accept_unsynchronised, settle_ms)
        self._verifiers = Verifiers()
        # Another connection than the plant's: it waits for its turn, since it cannot do without.
        self._chains = _open_chains(folder)
        self._node = Node(
            store,
            Ledger(DiskTree(folder.ledger)),
            key,
            policy,
            folder.load_next_key(),
            self._verifiers,
            _open_vpp(folder),
            self._chains,
        )
        for path in self._node.mended:
            _log(f"damaged, and written anew: {folder.ledger / path}")
        base = f"cryptometer/1/{community.id.hex()}"
        self._link = Link(
            broker_settings(folder.broker, bundle.broker, folder.config.broker),
            f"cryptometer-{name}-{community.id.hex()[:8]}",
            [f"{base}/meter/+/record", f"{base}/checkpoint"],
            keep_session=True,
        )
        self._poll = select.poll()
        self._poll.register(self._link.fileno(), select.POLLIN)

    def run(self, stopping: list[int]) -> None:
        """Serves until something is in `stopping`."""
        self._link.start()
        self._notifier.ready(self._status())
        try:
            while not stopping:
                self._wait()
                self._take_messages(stopping)
                self._take_imports()
                self._go_on(stopping)
                self._say_private()
                self._say("sealing", self._node.why_not(self._clock.now()) or "sealing blocks")
        finally:
            self._notifier.stopping()
            self._link.stop()
            self._verifiers.close()
            if isinstance(self._chains, PrivateChains):
                self._chains.close()
        _log(f"ended: {self._status()}")

    def _go_on(self, stopping: list[int]) -> None:
        """Seals the blocks that are due, and answers what was received."""
        # A gateway that catches up on weeks of blocks is alive, and can be told to stop.
        while not stopping:
            effects = self._node.tick(self._clock.now())
            self._perform(effects)
            self._perform(self._node.answer())
            self._report_alive()
            if not effects:
                return

    def _found(self, store: SqliteStore) -> None:
        imports = waiting_imports(self._folder)
        if not imports:
            raise ConfigurationError(
                "there are no authority records yet: cryptometer-gateway import authority.records"
            )
        found_store(store, read_import(imports[-1]))

    def _take_messages(self, stopping: list[int]) -> None:
        messages: list[Message] = []
        for event in self._link.drain(MESSAGES_MAX):
            match event:
                case Message():
                    messages.append(event)
                case Connected():
                    self._say("broker", "connected")
                    self._perform(self._node.connected(self._clock.now()))
                case Disconnected(reason=reason):
                    self._say("broker", reason)
        for some in rounds(messages):
            self._perform(self._node.receive(some, self._clock.now()))
            self._go_on(stopping)

    def _take_imports(self) -> None:
        if time.monotonic() < self._imports_at:
            return
        self._imports_at = time.monotonic() + IMPORTS_EVERY_S
        for path in waiting_imports(self._folder):
            try:
                added = self._node.take_authority(read_import(path), self._load_next_key())
            except Rejected as refused:
                self._say("import", f"refused {path.name}: {refused}")
                path.replace(path.with_suffix(".refused"))
                continue
            # Committed by now; the file has served.
            path.unlink()
            if added:
                self._say("import", f"{added} new authority records; they act after the next block")

    def _load_next_key(self) -> Signer | None:
        """The key that new records may name, made since the start."""
        try:
            return self._folder.load_next_key()
        except ConfigurationError as error:
            self._say("successor", str(error))
            return None

    def _perform(self, effects: list[Effect]) -> None:
        """Does effects in their order: it is the node's safety argument."""
        for effect in effects:
            match effect:
                case Publish(topic=topic, payload=payload, retain=retain):
                    # Without a connection it is lost, and said anew on the next one.
                    self._link.publish(topic, payload, retain=retain)
                case Confirm(token=token):
                    self._link.confirm(token)
                case Say(text=text):
                    _log(text)
                case Sealed():
                    self._report_block(effect)

    def _report_block(self, sealed: Sealed) -> None:
        punctuality_ms = self._node.published(sealed, self._clock.now())
        row = sealed.row
        punctual = "caught up" if punctuality_ms is None else f"punctuality_ms={punctuality_ms}"
        _log(
            f"block step={row.step} records={row.records} heard={row.heard}/{row.expected}"
            f" late={row.late} {punctual} size={row.size}"
        )

    def _wait(self) -> None:
        wait_s = WAIT_MAX_S
        now = self._clock.now()
        due_ms = self._node.next_due_ms(now)
        if due_ms is not None:
            ahead_ns = due_ms * NS_PER_MS - now.utc_ns
            wait_s = min(wait_s, max(0.0, self._clock.machine_wait_s(ahead_ns)))
        self._poll.poll(1000 * wait_s)

    def _report_alive(self) -> None:
        every_s = self._notifier.watchdog_s
        if every_s is not None and time.monotonic() >= self._alive_at:
            self._alive_at = time.monotonic() + every_s
            self._notifier.alive(self._status())

    def _status(self) -> str:
        state = self._node.state
        text = f"{state.frontier.size} leaves, step {state.step}"
        text += f", {self._node.pending_count} waiting"
        if self._node.is_in_doubt:
            text += ", its clock far ahead and not believed yet"
        return text

    def _say_private(self) -> None:
        damage = self._node.private_damage
        if damage is not None:
            self._say(
                "private",
                f"THE PRIVATE STORE IS DAMAGED, and left as it is: {damage}. Blocks go on; what"
                " meters for consumption send is refused until then, and what asks for consumption"
                " waits. Stop this service and restore: cryptometer-gateway restore",
            )

    def _say(self, about: str, what: str) -> None:
        """Logs a change once, not each of its repetitions."""
        if self._said.get(about) != what:
            self._said[about] = what
            _log(what)


def _open_vpp(folder: Folder) -> Vpp | None:
    if not folder.vpp_key.exists():
        return None
    facts: Facts
    try:
        facts = PrivateStore(folder.private, busy_ms=PRIVATE_BUSY_MS)
    except (StoreDamaged, ConfigurationError) as error:
        facts = LostFacts(StoreDamaged(str(error)))
    return Vpp(folder.load_vpp_key(), facts)


def _open_chains(folder: Folder) -> PrivateChains | NoChains:
    """What members consume must not keep blocks from being made: a file that is damaged, or none of
    ours, is left as it is."""
    try:
        return PrivateChains(folder.private)
    except (StoreDamaged, ConfigurationError) as error:
        return NoChains(str(error))


def rounds(messages: Sequence[Message]) -> Iterator[list[Message]]:
    """Messages in their order, in rounds of up to ROUND_BYTES each; one always fits."""
    some: list[Message] = []
    size = 0
    for message in messages:
        size += len(message.payload)
        if some and size > ROUND_BYTES:
            yield some
            some, size = [], len(message.payload)
        some.append(message)
    if some:
        yield some


def _log(text: str) -> None:
    # The service manager adds time and name; standard error is unbuffered by line.
    print(text, file=sys.stderr, flush=True)
