"""A gateway's key is replaced: who signs which block, what meters and the broker are told, and
whose checkpoints still stop us."""

from contextlib import closing
from pathlib import Path

import pytest

from cryptometer import audit, note, records
from cryptometer.acknowledgement import Acknowledgement
from cryptometer.community import trust
from cryptometer.enrolment import Broker, Bundle
from cryptometer.errors import Rejected
from cryptometer.record_fields import Checkpoint, Role
from cryptometer.records import Record
from firmware.enrolment import Enrolment, open_acknowledgement, read_bundle
from gateway import answers
from gateway.backup import backup, restore
from gateway.behind import Behind
from gateway.effects import Effect, Publish
from gateway.folder import open_folder, read_community
from gateway.ledger import Ledger
from gateway.node import Node
from gateway.prove import prove
from gateway.web import Web
from hal.ports import Message
from tests.core.community import FIRST_STEP
from tests.gateway.kit import GRACE_MS, Premises, Site, acknowledgements, sealed
from tests.keys import signer

SECOND = FIRST_STEP + 1
NEW = signer(20)


class Succession:
    """A gateway with one meter, whose successor stands ready."""

    def __init__(self, *, is_revoked: bool) -> None:
        self.site = Site(1)
        self.site.begin()
        self.start()
        authority = self.site.authority
        self.said: list[Record] = []
        if is_revoked:
            self.said.append(authority.revoke(Role.GATEWAY, "gw"))
        self.said.append(authority.register(Role.GATEWAY, "gw", NEW.public))
        self.site.node.take_authority([record.raw for record in self.said])

    def start(self) -> list[Effect]:
        site = self.site
        site.node = Node(site.store, Ledger(site.tree), site.key, site.policy, NEW)
        return site.node.connected(site.clock.now())

    def seal(self) -> list[Effect]:
        self.site.at(self.site.next_step + 1, GRACE_MS)
        return self.site.tick()

    def enrolment(self, update: bytes | None) -> Enrolment:
        """What the meter's device knows, once `update` has come."""
        site = self.site
        body = Bundle(
            "m0",
            site.authority.genesis.raw,
            (site.gateway_registration.raw, site.founding[-1].raw),
            Broker("mqtt://127.0.0.1:1883"),
        )
        bundle = records.seal(body, site.id, site.authority.signer).raw
        return read_bundle(bundle, update, site.device.signer.public)


def told(effects: list[Effect]) -> list[Publish]:
    """What the meter was told, in order."""
    return [one for one in effects if isinstance(one, Publish) and "/meter/m0/" in one.topic]


@pytest.mark.parametrize("is_revoked", [False, True])
def test_a_successor_signs_from_the_block_after_its_registration(is_revoked: bool) -> None:
    plan = Succession(is_revoked=is_revoked)
    site = plan.site
    origin = site.community().origin
    old, new = note.Verifier(origin, site.key.public), note.Verifier(origin, NEW.public)
    [holding] = sealed(plan.seal())
    assert note.open_checkpoint(holding.row.note.encode(), old).size == holding.row.size
    plan.start()  # a restart finds by the state who signs
    word = acknowledgements(site.send(*site.device.step(site.next_step, 3)), NEW)["m0"]
    assert word.sequence == site.device.sequence
    [after] = sealed(plan.seal())
    assert note.open_checkpoint(after.row.note.encode(), new).size == after.row.size
    community = trust(
        site.authority.genesis.raw, [site.gateway_registration.raw, plan.said[-1].raw]
    )
    assert audit.audit(site.tree.read, community).checkpoint == site.node.state.checkpoint


def test_before_its_registration_acts_a_successor_signs_nothing() -> None:
    site = Site(1)
    site.begin()
    site.node = Node(site.store, Ledger(site.tree), site.key, site.policy, NEW)
    site.node.connected(site.clock.now())
    assert acknowledgements(site.send(*site.device.step(SECOND, 3)), site.key)
    assert len(sealed(site.seal())) == 1
    site.audit()


@pytest.mark.parametrize("is_revoked", [False, True])
def test_meters_are_told_whose_words_to_believe_and_then_a_word(is_revoked: bool) -> None:
    plan = Succession(is_revoked=is_revoked)
    earlier = told(plan.start())[-1]
    registration, word = told(plan.seal())[-2:]
    before, after = plan.enrolment(None), plan.enrolment(registration.payload)
    assert isinstance(open_acknowledgement(earlier.payload, before), Acknowledgement)
    with pytest.raises(Rejected):
        open_acknowledgement(word.payload, before)
    assert open_acknowledgement(word.payload, after).meter == "m0"
    if is_revoked:
        with pytest.raises(Rejected):
            open_acknowledgement(earlier.payload, after)
    else:
        open_acknowledgement(earlier.payload, after)
    # A meter that was away hears it from the broker, or on the gateway's next connection.
    assert told(plan.start())[0] == registration


def test_a_newer_checkpoint_under_a_replaced_key_stops_us_and_under_a_revoked_one_not() -> None:
    for is_revoked in (False, True):
        plan = Succession(is_revoked=is_revoked)
        plan.seal()
        plan.seal()
        site = plan.site
        origin = site.community().origin
        far = note.sign_checkpoint(Checkpoint(10**6, bytes(32)), origin, site.key)
        message = Message(f"{site.topic}/checkpoint", far.encode(), True, (3, 4))
        if is_revoked:
            site.receive([message])
            continue
        with pytest.raises(Behind, match="keeps a checkpoint of 1000000 leaves"):
            site.receive([message])


def test_a_checkpoint_of_a_gateway_registered_just_now_is_compared_too() -> None:
    site = Site(1)
    site.begin()
    other = site.authority.register(Role.GATEWAY, "gw-2", NEW.public)
    far = note.sign_checkpoint(Checkpoint(10**6, bytes(32)), site.community().origin, NEW)
    message = Message(f"{site.topic}/checkpoint", far.encode(), True, (3, 4))
    site.receive([message])
    site.node.take_authority([other.raw])
    with pytest.raises(Behind):
        site.receive([message])


def test_a_checkpoint_under_a_key_revoked_since_is_still_read_from_the_gateways_own_files(
    tmp_path: Path,
) -> None:
    premises = Premises(tmp_path / "gateway", meters=1)
    premises.enrol()
    with closing(premises.folder.open_store()) as store:
        site = premises.site(store)
        site.begin()
        site.run([3])
        said = [
            site.authority.revoke(Role.GATEWAY, "gw"),
            site.authority.register(Role.GATEWAY, "gw", NEW.public),
        ]
        site.node = Node(store, Ledger(site.tree), site.key, site.policy, NEW)
        site.node.connected(site.clock.now())
        site.node.take_authority([record.raw for record in said])
        # Imported only; in the last block of the old key; in the first of the new one.
        for blocks in range(3):
            web = Web(premises.folder)
            assert web._ask(lambda asked: answers.block(asked, FIRST_STEP))["step"] == FIRST_STEP
            assert "signs checkpoints" not in str(web._judge())
            assert prove("m0/0", store, site.tree.read, read_community(store))
            kept = tmp_path / f"{blocks}.backup"
            backup(premises.folder, kept)
            restored = tmp_path / f"restored-{blocks}"
            restore(kept, restored, premises.folder.ledger if blocks == 2 else None)
            with closing(open_folder(restored).open_store()) as again:
                assert again.state() == site.node.state
            site.seal()
