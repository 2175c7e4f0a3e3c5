"""A private store that is damaged keeps no block from being made, is left as it is, and is told;
what was acknowledged is never taken back for its sake."""

import sqlite3
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from cryptometer.chain_records import ChainRecord
from cryptometer.meter import Meter
from cryptometer.record_fields import Role
from cryptometer.records import Record
from gateway.effects import Say
from gateway.health import PRIVATE_DAMAGED
from gateway.private import PrivateStore
from gateway.private_chains import PrivateChains
from gateway.private_path import Advance, Governed, NoChains
from gateway.private_reading import open_facts
from gateway.report import describe, make_report
from gateway.service import _open_chains, _open_vpp
from gateway.store import Refusal, StoreDamaged, StoreFailed
from gateway.vpp import LostFacts, Vpp
from tests.core.community import PULSE_UWH
from tests.gateway.kit import Premises, acknowledgements, sealed
from tests.gateway.test_private_path import CONSUMER, NOW_MS, Homes
from tests.keys import signer

PAGE = 4096


class BadChains(PrivateChains):
    """Chains in a file of which a page turns out to be damaged, at the n-th question from now."""

    left: int | None = None

    def _look(self) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise StoreDamaged("the disk image is malformed")

    def accounts(self) -> dict[str, Meter]:
        self._look()
        return super().accounts()

    def governed(self) -> int:
        self._look()
        return super().governed()

    def pending(self) -> list[bytes]:
        self._look()
        return super().pending()

    def identity_at(self, meter: str, sequence: int) -> bytes | None:
        self._look()
        return super().identity_at(meter, sequence)

    def accept(self, accepted: Sequence[Record]) -> None:
        self._look()
        super().accept(accepted)

    def advance(self, advance: Advance) -> None:
        self._look()
        super().advance(advance)

    def govern(self, governed: Governed) -> None:
        self._look()
        super().govern(governed)

    def keep_evidence(self, refusals: Sequence[Refusal]) -> None:
        self._look()
        super().keep_evidence(refusals)


class Town(Homes):
    """A gateway whose private store is damaged once, and whole again with the start after."""

    def __init__(self, path: Path) -> None:
        self.bad = BadChains(path / "private.db")
        super().__init__(path, chains=self.bad)
        self.chains.close()
        self.chains = self.bad
        self.chains.bind("c0", "ada", 0, NOW_MS)
        self.signed: list[Record] = []
        self.heard: dict[str, int] = {}

    def turn(self) -> None:
        """Both meters send what is not acknowledged, the consumer some of it twice; one block."""
        step = self.site.next_step
        for device, pulses in ((self.consumer(), 3), (self.site.device, 2)):
            if device.sequence == 0:
                self.signed.append(device.run_start(step))
            self.signed += device.step(step, pulses)
        before = len(self.site.blocks())
        heard = acknowledgements(self.site.node.connected(self.site.clock.now()), self.site.key)
        owed: list[Record] = []
        for one in self.signed:
            body = one.body
            assert isinstance(body, ChainRecord)
            # What it hears nothing of, a device sends again from where it last heard.
            self.heard |= {name: word.sequence for name, word in heard.items()}
            owed += [one] * (body.sequence >= self.heard.get(body.meter, 0) - 1)
        words = acknowledgements(self.site.send(*owed), self.site.key)
        self.site.seal()
        assert len(self.site.blocks()) == before + 1
        assert words["m0"].sequence == self.site.device.sequence
        if "c0" in words:
            said = words["c0"].sequence - 1
            assert PrivateChains.identity_at(self.bad, "c0", said) is not None


@pytest.fixture
def town(tmp_path: Path) -> Iterator[Town]:
    made = Town(tmp_path)
    with closing(made.bad):
        yield made


@pytest.mark.parametrize("at", range(1, 13))
def test_whenever_damage_shows_there_is_one_block_each_step_and_no_false_word(
    town: Town, at: int
) -> None:
    town.turn()
    first = town.site.next_step - 1
    key = signer(50).public
    again = town.site.authority.register(Role.METER, "c0", key, meter=CONSUMER)
    town.bad.left = at
    if at > 6:
        town.site.start()
    for turn in range(4):
        if turn == 1:
            town.import_(again)
        town.turn()
    assert town.site.store.is_private_damaged()
    assert not town.site.node._private.is_kept
    assert town.site.node.private_damage == "the disk image is malformed"
    words = acknowledgements(town.site.node.connected(town.site.clock.now()), town.site.key)
    assert "c0" not in words
    assert town.site.node.pending_count == 0
    town.site.audit()
    # Whole again: nothing that was acknowledged is missing, and the rest is sent.
    town.bad.left = None
    town.site.start()
    town.turn()
    town.site.seal()
    assert not town.site.store.is_private_damaged()
    for step in range(first, first + 6):
        assert town.known(step) == {"ada": 3 * PULSE_UWH}
    assert town.site.store.epoch == 1


def test_a_store_that_fails_for_a_moment_stops_the_gateway_as_before(town: Town) -> None:
    def busy(accepted: Sequence[Record]) -> None:
        raise StoreFailed("locked")

    town.bad.accept = busy  # type: ignore[method-assign]
    with pytest.raises(StoreFailed, match="locked"):
        town.turn()


# --- Real files. ---------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: PAGE + 100])


def no_header(path: Path) -> None:
    path.write_bytes(b"\xff" * 100 + path.read_bytes()[100:])


def other_pages(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[:PAGE] + b"\xaa" * (len(whole) - PAGE))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_account(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE accounts SET state = x'a0'")
        connection.commit()


def other_record(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE records SET raw = x'83', is_waiting = 1")
        connection.commit()


@pytest.mark.parametrize("harm", [cut, no_header, other_pages, empty, other_account, other_record])
def test_a_gateway_starts_beside_a_damaged_file_and_leaves_it_as_it_is(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    homes = Homes(tmp_path)
    path = tmp_path / "private.db"
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    homes.chains.put("ada", dict.fromkeys(range(3_000), 7), "file:a", 1)
    homes.use(3)
    homes.site.seal()
    homes.use(4)
    homes.chains.close()
    harm(path)
    before = path.read_bytes()
    folder = Premises(tmp_path / "gateway").folder
    path.replace(folder.private)
    site = homes.site
    chains = _open_chains(folder)
    site.chains = chains
    site.start()
    vpp = _open_vpp(folder)
    assert vpp is not None
    site.node._vpp = vpp
    for _ in range(3):
        site.send(site.device.run_start(site.next_step)) if site.device.sequence == 0 else None
        site.send(*site.device.step(site.next_step, 2))
        assert len(sealed(site.seal())) == 1
    assert site.node.private_damage
    assert site.store.is_private_damaged()
    site.audit()
    state = site.store.state()
    assert state is not None
    with open_facts(folder.private) as facts:
        lines = describe(make_report(site.store, state, facts))
    assert f"private store  DAMAGED: {PRIVATE_DAMAGED}" in lines
    if isinstance(chains, PrivateChains):
        chains.close()
    if isinstance(vpp._facts, PrivateStore):
        vpp._facts.close()
    assert folder.private.read_bytes() == before


# --- The plant. ----------------------------------------------------------------------------------


class PartlyLost(LostFacts):
    """Of one step it cannot be read what members consumed."""

    def __init__(self, lost: int, used: Mapping[str, int]) -> None:
        super().__init__(StoreDamaged("the disk image is malformed"))
        self.lost = lost
        self.used = used

    def of(self, step: int) -> Mapping[str, int]:
        return super().of(step) if step == self.lost else self.used

    def salt(self, member: str, step: int, need_uwh: int) -> bytes:
        return bytes(32)

    def forgotten(self, members: Collection[str], step: int) -> frozenset[str]:
        return frozenset()

    def steps_changed_since(self, mark: int) -> tuple[list[int], int]:
        return [], mark


def test_what_cannot_be_read_of_one_step_waits_alone_and_is_said_once(tmp_path: Path) -> None:
    homes = Homes(tmp_path)
    homes.agree()
    site = homes.site
    lost = site.next_step
    site.node._vpp = Vpp(signer(3), PartlyLost(lost, {"ada": 2 * PULSE_UWH, "bo": 2 * PULSE_UWH}))
    said: list[str] = []
    site.send(site.device.run_start(site.next_step))
    for _ in range(3):
        site.send(*site.device.step(site.next_step, 2))
        said += [one.text for one in site.seal() if isinstance(one, Say)]
    assert site.node.state.accounts == {"ada": 2 * PULSE_UWH, "bo": 2 * PULSE_UWH}
    assert list(site.node.state.settlements) == [lost, lost + 1, lost + 2]
    assert [bool(one.waiting) for one in site.node.state.settlements.values()] == [1, 0, 0]
    assert len([text for text in said if "malformed" in text]) == 1
    assert site.store.is_private_damaged()
    homes.chains.close()


def test_without_a_private_store_of_its_own_a_meter_for_consumption_hears_nothing() -> None:
    assert not NoChains().is_kept
    assert NoChains("why").why == "why"
