"""`prove`: whatever stands in the ledger is shown to stand there, by a file that convinces an
outsider who knows the community's public keys and nothing else."""

from collections.abc import Sequence

import pytest

from cryptometer.block_header import Header
from cryptometer.community import trust
from cryptometer.errors import ConfigurationError, Reason
from cryptometer.proof import verify_proof
from cryptometer.record_fields import Role
from cryptometer.records import Record
from gateway.prove import prove
from hal.files import SimulatedTree
from tests.core.community import DETAILS, FIRST_STEP, Device
from tests.core.refusing import refusing
from tests.gateway.kit import Site
from tests.keys import signer

SECOND = FIRST_STEP + 1


class Office:
    """A gateway that has worked for a while, and what it proves on request."""

    def __init__(self, steps: Sequence[Sequence[int]], meters: int = 2) -> None:
        self.site = Site(meters)
        self.site.found()
        self.site.run(*steps)

    def prove(self, what: str) -> str:
        site = self.site
        authority = site.store.authority()
        community = trust(authority[0], authority[1:])
        return prove(what, site.store, site.tree.read, community)

    def leaf(self, name: str, sequence: int) -> Record:
        for record in self.site.leaves():
            if (record.body.meter, record.body.sequence) == (name, sequence):  # type: ignore[union-attr]
                return record
        raise LookupError(f"{name}/{sequence}")


@pytest.fixture(scope="module")
def office() -> Office:
    return Office([[8, 2], [], [3]])


@pytest.mark.parametrize("name", ["m0", "m1"])
@pytest.mark.parametrize("sequence", range(6))
def test_a_meters_record_is_proven_by_its_place(office: Office, name: str, sequence: int) -> None:
    proven = verify_proof(office.prove(f"{name}/{sequence}"), office.site.community())
    assert proven.record.raw == office.leaf(name, sequence).raw
    assert proven.checkpoint == office.site.node.state.checkpoint
    assert proven.index == office.site.store.leaf_at(name, sequence)


def test_a_record_is_proven_by_its_identity(office: Office) -> None:
    record = office.leaf("m1", 2)
    for text in (record.identity.hex(), record.identity.hex().upper()):
        assert verify_proof(office.prove(text), office.site.community()).record.raw == record.raw


def test_a_block_is_proven_by_its_step(office: Office) -> None:
    for row in office.site.store.blocks(9):
        proven = verify_proof(office.prove(str(row.step)), office.site.community())
        assert isinstance(proven.record.body, Header)
        assert proven.record.body.step == row.step
        assert proven.index == row.size - 1


def test_a_proof_holds_with_the_public_keys_of_that_community_alone(office: Office) -> None:
    text = office.prove("m0/1")
    stranger = Site()
    other = trust(
        stranger.authority.genesis.raw,
        [stranger.authority.register(Role.GATEWAY, "gw2", signer(40).public).raw],
    )
    with refusing(Reason.UNKNOWN_KEY):
        verify_proof(text, other)


def test_every_leaf_of_a_ledger_of_several_tiles_is_proven() -> None:
    office = Office([[1]] * 60, meters=2)
    assert office.site.node.state.frontier.size > 256
    community = office.site.community()
    for record in office.site.leaves()[::7]:
        assert verify_proof(office.prove(record.identity.hex()), community).record.raw == record.raw
    assert verify_proof(office.prove(str(SECOND)), community).index > 0


def test_a_record_that_waits_says_so() -> None:
    office = Office([[1]], meters=1)
    site = office.site
    waiting = site.device.batch(site.next_step, 1)
    site.send(waiting)
    for what in ("m0/3", waiting.identity.hex()):
        with pytest.raises(ConfigurationError, match=r"waits for its block; ask again after"):
            office.prove(what)
    site.seal()
    assert verify_proof(office.prove("m0/3"), site.community()).record.raw == waiting.raw


@pytest.mark.parametrize(
    "what", ["m0/99", "m9/0", "0" * 64, str(FIRST_STEP - 1), "99999999", "9" * 18]
)
def test_what_is_not_there_is_named(office: Office, what: str) -> None:
    with pytest.raises(ConfigurationError, match=f"there is no {what} here"):
        office.prove(what)


@pytest.mark.parametrize(
    "what", ["", "m0", "m0/", "m0/-1", "m0/01", "/", "-5", "abc", "9" * 30, "z" * 64]
)
def test_what_is_no_name_of_anything_is_told(office: Office, what: str) -> None:
    with pytest.raises(
        ConfigurationError,
        match="neither METER/SEQUENCE nor an identity of 64 hex digits, and no step",
    ):
        office.prove(what)


def test_without_a_block_nothing_can_be_proven() -> None:
    site = Site()
    with pytest.raises(ConfigurationError, match="there is no"):
        prove("m0/0", site.store, site.tree.read, site.community())
    office = Office([[1]], meters=1)
    office.site.tree = SimulatedTree()
    with pytest.raises(ConfigurationError, match="no block yet"):
        office.prove("m0/0")


def test_what_is_committed_and_not_published_says_so() -> None:
    office = Office([[1]], meters=1)
    site = office.site
    assert isinstance(site.tree, SimulatedTree)
    files = dict(site.tree.files)
    site.run([2])
    site.tree = SimulatedTree()
    site.tree.put_all(files)
    with pytest.raises(ConfigurationError, match=r"m0/3 is not published yet"):
        office.prove("m0/3")
    assert verify_proof(office.prove("m0/1"), site.community()).index > 0


def test_damaged_files_prove_nothing() -> None:
    office = Office([[1], [2]], meters=1)
    tree = office.site.tree
    assert isinstance(tree, SimulatedTree)
    [path] = [one for one in tree.files if one.startswith("tile/entries/") and one.endswith("/12")]
    tree.files[path] = tree.files[path][:-1]
    with refusing(Reason.MALFORMED):
        office.prove("m0/1")


def test_a_record_of_an_older_key_comes_with_the_registration_of_that_key() -> None:
    office = Office([[5]], meters=1)
    site = office.site
    anew = site.authority.register(Role.METER, "m0", signer(50).public, DETAILS)
    site.node.take_authority([anew.raw])
    site.seal()
    device = Device(site.id, "m0", signer(50), anew)
    old = site.device
    device.sequence, device.previous = old.sequence, old.previous
    device.register, device.closed_from = old.register, old.closed_from
    site.send(*device.step(site.next_step, 4))
    site.seal()
    community = site.community()
    for sequence in range(5):
        proven = verify_proof(office.prove(f"m0/{sequence}"), community)
        key = signer(10) if sequence < 3 else signer(50)
        assert proven.record.key_id == key.public.thumbprint
