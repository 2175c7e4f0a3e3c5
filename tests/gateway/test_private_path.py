"""Meters for consumption at a gateway: verified, acknowledged and counted once as any other, and
nothing of them in the ledger; whatever crashes, restores and revokes."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from cryptometer import records
from cryptometer.acknowledgement import Stop
from cryptometer.authority_records import CountingSource, Use
from cryptometer.chain_records import Batch, ChainRecord
from cryptometer.errors import Reason
from cryptometer.proposal import Proposal, apply_leaves
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Claim, Method
from cryptometer.steps import NS_PER_MS, step_start_ms
from gateway.backup import backup, restore
from gateway.folder import open_folder
from gateway.memory_store import MemoryStore
from gateway.private_chains import Binding, PrivateChains
from gateway.private_path import Advance, Governed
from gateway.store import Changes, Refusal, StoreFailed
from tests.core.community import DETAILS, FIRST_STEP, PULSE_UWH, STEP_S, Device
from tests.core.refusing import refusing
from tests.gateway.kit import GRACE_MS, Premises, Site, acknowledgements
from tests.keys import signer

CONSUMER = replace(DETAILS, use=Use.CONSUMPTION)
INDEX: dict[str, Any] = {
    "source": CountingSource.INDEX,
    "constant": Fraction(1_000),  # the last digit is a watt-hour
    "lot_pulses": 1,
    "index_wh": 5_000,  # what the first reading shows
}
NOW_MS = step_start_ms(FIRST_STEP, STEP_S)
SECOND = FIRST_STEP + 1


class Homes:
    """A gateway with a generator m0, and meters c0, c1, ... for what members consume."""

    def __init__(self, path: Path, consumers: int = 1, **site: Any) -> None:
        self.chains = PrivateChains(path / "private.db")
        site.setdefault("chains", self.chains)
        self.site = Site(1, facts=self.chains, **site)
        self.added = [
            self.site.register(f"c{at}", 50 + at, meter=CONSUMER) for at in range(consumers)
        ]
        members = [
            self.site.authority.register(Role.MEMBER, name, signer(100 + at).public)
            for at, name in enumerate(("ada", "bo"))
        ]
        self.import_(*self.added, *members)
        self.site.found()

    def import_(self, *added: Record) -> None:
        self.site.node.take_authority([record.raw for record in added])

    def agree(self) -> None:
        """By consumption, which the last block but one says is so from the next on."""
        claims = [Claim("ada", 1, 0), Claim("bo", 1, 0)]
        first = self.site.next_step + 1
        agreed = self.site.authority.agree(first, claims, Method.PRO_RATA, capped=True)
        self.import_(agreed)
        self.site.seal()

    def consumer(self, at: int = 0) -> Device:
        return self.site.devices[1 + at]

    def use(self, *pulses: int, at: int = 0) -> list[Record]:
        """A consumer's records of the next step, sent."""
        device, step = self.consumer(at), self.site.next_step
        sent = [device.run_start(step)] if device.sequence == 0 else []
        sent += device.step(step, *pulses)
        self.site.send(*sent)
        return sent

    def known(self, step: int) -> dict[str, int]:
        return dict(self.chains.of(step))

    def head(self, name: str = "c0") -> tuple[int, int]:
        """What the gateway acknowledges to a meter: the next sequence, and the register."""
        words = acknowledgements(self.site.node.connected(self.site.clock.now()), self.site.key)
        return words[name].sequence, words[name].register


@pytest.fixture
def homes(tmp_path: Path) -> Iterator[Homes]:
    made = Homes(tmp_path)
    with closing(made.chains):
        yield made


def test_what_a_meter_for_consumption_says_is_known_of_its_member_and_in_no_ledger(
    homes: Homes,
) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    step = homes.site.next_step
    sent = homes.use(3, 4)
    homes.site.seal()
    assert homes.known(step) == {"ada": 7 * PULSE_UWH}
    [known] = homes.chains.curve("ada", None, None)
    assert known.value.source == "meter:c0"
    assert homes.site.leaves() == []
    staged = [raw for _, raw in homes.site.store.staged()]
    assert not any(record.raw in staged for record in sent)
    assert homes.site.node.state.meters["c0"].registered_uwh == 0
    assert homes.site.node.state.balance.registered == 0
    assert homes.site.audit().energy_uwh["registered"] == 0


def test_its_records_are_acknowledged_once_they_are_kept(homes: Homes) -> None:
    device, step = homes.consumer(), homes.site.next_step
    sent = [device.run_start(step), *device.step(step, 5)]
    words = acknowledgements(homes.site.send(*sent), homes.site.key)
    assert (words["c0"].sequence, words["c0"].register, words["c0"].stop) == (3, 5, None)
    assert homes.chains.pending() == [record.raw for record in sent]
    assert list(homes.site.store.pending()) == []
    homes.site.seal()
    assert homes.chains.pending() == []
    assert [one.kept for one in homes.chains.metered()] == [3]


def test_the_plant_shares_by_it_in_the_same_block(homes: Homes) -> None:
    homes.import_(homes.site.register("c1", 60, meter=CONSUMER))
    homes.agree()
    for at, member in enumerate(("ada", "bo")):
        homes.chains.bind(f"c{at}", member, 0, NOW_MS)
    step = homes.site.next_step
    homes.use(6)
    homes.use(2, at=1)
    homes.site.send(homes.site.device.run_start(step), *homes.site.device.step(step, 4))
    homes.site.seal()
    assert homes.site.node.state.accounts == {"ada": 3 * PULSE_UWH, "bo": PULSE_UWH}
    assert homes.chains.openings(step, step)[step, "ada"][0].need_uwh == 6 * PULSE_UWH
    report = homes.site.audit()
    assert report.energy_uwh["allocated"] == 4 * PULSE_UWH


def test_a_member_with_two_meters_consumes_their_sum_once_both_have_spoken(
    tmp_path: Path,
) -> None:
    homes = Homes(tmp_path, 2)
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    homes.chains.bind("c1", "ada", 0, NOW_MS)
    step = homes.site.next_step
    homes.use(6)
    homes.site.seal()
    assert homes.known(step) == {}
    homes.site.send(homes.consumer(1).run_start(step), *homes.consumer(1).step(step, 1))
    homes.site.seal()
    assert homes.known(step) == {"ada": 7 * PULSE_UWH}
    [known] = homes.chains.curve("ada", step, step)
    assert known.value.source == "meter:c0+c1"


def test_a_member_who_is_named_later_has_what_the_meter_said_before(homes: Homes) -> None:
    step = homes.site.next_step
    homes.use(6)
    homes.site.seal()
    assert homes.known(step) == {}
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    assert homes.known(step) == {"ada": 6 * PULSE_UWH}


def test_a_meter_that_becomes_anothers_takes_its_consumption_along(homes: Homes) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    first = homes.site.next_step
    for pulses in (6, 2):
        homes.use(pulses)
        homes.site.seal()
    homes.chains.put("bo", {first + 1: 9}, "file:aa", NOW_MS)
    _, mark = homes.chains.steps_changed_since(0)
    homes.chains.bind("c0", "bo", first + 1, NOW_MS)
    assert homes.known(first) == {"ada": 6 * PULSE_UWH}
    assert homes.known(first + 1) == {"bo": 9}, "a file has said it: a binding is nothing newer"
    assert homes.chains.bindings() == [Binding("c0", 0, "ada"), Binding("c0", first + 1, "bo")]
    homes.chains.bind("c0", "", first, NOW_MS)
    assert homes.known(first) == {}
    homes.chains.bind("c0", "bo", first, NOW_MS)
    assert homes.known(first) == {"bo": 6 * PULSE_UWH}
    assert homes.chains.steps_changed_since(mark)[0] == [first]


def test_a_watched_step_without_energy_is_a_zero_and_one_slept_through_is_unknown(
    homes: Homes,
) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    step = homes.site.next_step
    homes.use()
    homes.site.seal()
    homes.site.seal()
    homes.use(1)
    homes.site.seal()
    assert [homes.known(step + at) for at in range(3)] == [{"ada": 0}, {}, {"ada": PULSE_UWH}]


def test_what_an_index_has_grown_by_in_several_steps_is_known_of_none_of_them(
    tmp_path: Path,
) -> None:
    """A board that is unplugged for the night must not claim the energy of the noon after it."""
    homes = Homes(tmp_path, 0)
    details = replace(CONSUMER, **INDEX)
    homes.import_(homes.site.register("c0", 50, meter=details))
    homes.site.seal()
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    device, first = homes.consumer(), homes.site.next_step
    homes.site.send(device.run_start(first, register=5_000))

    def read(index: int, age_ms: int = 1_000) -> None:
        step = homes.site.next_step
        homes.site.send(device.reading(step, index, age_ms), device.close(step))
        homes.site.seal()

    with closing(homes.chains):
        read(5_100)
        homes.site.seal()
        read(5_900)
        read(5_950)
        read(5_990, 60_000)  # too old to close by
        read(6_020)
        read(6_050)
        homes.site.seal()
        read(6_050)  # that nothing was consumed is known of each
        known = {step - first: homes.known(step) for step in range(first, first + 9)}
    assert {step: used["ada"] // 10**6 for step, used in known.items() if used} == {
        0: 100,
        3: 50,
        6: 30,
        8: 0,
    }
    [account] = [one.account for one in PrivateChains(tmp_path / "private.db").metered()]
    assert account.transferred_uwh == 1_050 * 10**6


def test_what_is_set_aside_is_counted_and_consumes_nothing(homes: Homes) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    device, step = homes.consumer(), homes.site.next_step
    limit = DETAILS.lot_pulses
    homes.site.send(device.run_start(step), device.batch(step, limit + 1), device.close(step))
    homes.site.seal()
    assert homes.known(step) == {"ada": 0}
    [metered] = homes.chains.metered()
    assert metered.aside == {"lot-above-v": 1}
    assert metered.account.quarantined_uwh == (limit + 1) * PULSE_UWH


def test_late_records_of_it_are_counted_in_their_own_step(homes: Homes) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    step = homes.site.next_step
    device = homes.consumer()
    sent = [device.run_start(step), *device.step(step, 3), *device.step(step + 1, 2)]
    homes.site.seal()
    homes.site.seal()
    homes.site.send(*sent)
    homes.site.seal()
    assert homes.known(step) == {"ada": 3 * PULSE_UWH}
    assert homes.known(step + 1) == {"ada": 2 * PULSE_UWH}


def test_it_is_not_waited_for_and_in_no_header(homes: Homes) -> None:
    step = homes.site.next_step
    homes.site.send(homes.site.device.run_start(step), *homes.site.device.step(step))
    homes.site.at(step + 1)
    assert homes.site.tick()
    row = homes.site.store.block(step)
    assert row is not None
    assert (row.expected, row.heard) == (1, 1)


# --- At the door. --------------------------------------------------------------------------------


def test_a_record_sent_twice_counts_once_and_a_fork_is_kept_where_nobody_reads(
    homes: Homes,
) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    step = homes.site.next_step
    sent = homes.use(3)
    homes.site.send(*sent)
    homes.site.seal()
    words = acknowledgements(homes.site.send(*sent), homes.site.key)
    assert (words["c0"].sequence, words["c0"].stop) == (3, None)
    assert homes.site.store.refusals() == []
    batch = sent[1].body
    assert isinstance(batch, Batch)
    other = records.seal(replace(batch, lots=(4, 1000)), homes.site.id, signer(50))
    words = acknowledgements(homes.site.send(other), homes.site.key)
    assert words["c0"].stop == Stop(1, Reason.FORK)
    [count] = homes.site.store.refusals()
    assert (count.meter, count.reason) == ("c0", "fork")
    assert "register" not in count.detail
    assert homes.site.store.evidence() == []
    assert [one.raw for one in homes.chains.evidence()] == [other.raw]
    assert homes.known(step) == {"ada": 3 * PULSE_UWH}


def test_what_tells_of_registers_is_told_to_nobody(homes: Homes) -> None:
    step = homes.site.next_step
    homes.use(3)
    device = homes.consumer()
    device.register = 77
    said = homes.site.send(device.batch(step, 1))
    [count] = homes.site.store.refusals()
    assert (count.reason, count.detail) == ("register-mismatch", "kept in the private store")
    assert "77" not in str([one for one in said if type(one).__name__ == "Say"])
    [kept] = homes.chains.evidence()
    assert kept.detail == "register 77, expected 3"


def test_a_replay_of_what_is_kept_no_longer_is_no_fork(homes: Homes) -> None:
    sent = homes.use(3)
    homes.site.seal()
    homes.chains._connection.execute("DELETE FROM records")
    words = acknowledgements(homes.site.send(sent[0]), homes.site.key)
    assert (words["c0"].sequence, words["c0"].stop) == (3, None)
    assert homes.site.store.refusals() == []


def test_a_gateway_without_a_private_store_takes_nothing_from_it() -> None:
    site = Site(1)
    site.node.take_authority([site.register("c0", 50, meter=CONSUMER).raw])
    site.found()
    effects = site.send(site.devices[1].run_start(site.next_step))
    assert acknowledgements(effects, site.key) == {}
    [count] = site.store.refusals()
    assert (count.meter, count.reason) == ("c0", "private")


# --- What no maker can publish. ------------------------------------------------------------------


def test_a_block_with_a_record_of_consumption_does_not_hold(homes: Homes) -> None:
    state, step = homes.site.node.state, homes.site.next_step
    run_start = homes.consumer().run_start(step)
    with refusing(Reason.PRIVATE, "a record of c0, which is for consumption"):
        apply_leaves(state, step, [run_start])
    own = homes.site.device.run_start(step)
    assert isinstance(own.body, ChainRecord)
    with refusing(Reason.PRIVATE, "a record of m0, which is for generation"):
        Proposal(state, step, is_private=True).add(own, own.body)


@pytest.mark.parametrize(("name", "use"), [("m0", Use.CONSUMPTION), ("c0", Use.GENERATION)])
def test_no_registration_takes_a_meter_out_of_the_ledger_or_into_it(
    homes: Homes, name: str, use: Use
) -> None:
    key = next(one.signer for one in homes.site.devices if one.name == name)
    before = homes.site.node.state.meters[name]
    homes.import_(
        homes.site.authority.register(Role.METER, name, key.public, replace(DETAILS, use=use))
    )
    homes.site.seal()
    assert homes.site.node.state.meters[name] == before
    assert homes.site.store.set_aside() == {"private": 1}
    homes.use(1)
    homes.site.seal()
    assert homes.head()[0] == 3


# --- The authority. ------------------------------------------------------------------------------


def test_a_re_anchor_drops_what_waits_takes_the_word_back_and_the_chain_goes_on(
    homes: Homes,
) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    homes.use(3)
    homes.site.seal()
    epoch = homes.site.store.epoch
    device, step = homes.consumer(), homes.site.next_step
    homes.site.send(*device.step(step + 1, 4))
    assert homes.head() == (5, 7)
    anchor = homes.site.authority.re_anchor("c0", 4, 100)
    homes.import_(anchor)
    effects = homes.site.seal()
    words = acknowledgements(effects, homes.site.key)
    assert (words["c0"].epoch, words["c0"].sequence, words["c0"].register) == (epoch + 1, 4, 100)
    assert homes.chains.pending() == []
    device.go_on_from(anchor)
    step = homes.site.next_step
    homes.use(2)
    homes.site.seal()
    assert homes.known(step) == {"ada": 2 * PULSE_UWH}
    homes.site.start()
    assert homes.head() == (6, 102)
    assert homes.site.store.epoch == epoch + 1


def test_a_re_anchor_behind_the_private_chain_changes_nothing(homes: Homes) -> None:
    homes.use(3)
    homes.site.seal()
    homes.import_(homes.site.authority.re_anchor("c0", 1, 100))
    homes.site.seal()
    assert homes.head() == (3, 3)
    homes.site.start()
    assert homes.head() == (3, 3)


def test_a_revoked_meter_for_consumption_is_refused(homes: Homes) -> None:
    homes.use(3)
    homes.import_(homes.site.authority.revoke(Role.METER, "c0"))
    homes.site.seal()
    effects = homes.site.send(homes.consumer().close(homes.site.next_step))
    assert acknowledgements(effects, homes.site.key)["c0"].stop == Stop(3, Reason.REVOKED)


def test_a_new_key_and_registration_continue_the_chain(homes: Homes) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    homes.use(3)
    homes.site.seal()
    device = homes.consumer()
    again = homes.site.authority.register(Role.METER, "c0", signer(70).public, CONSUMER)
    homes.import_(again)
    homes.site.seal()
    device.signer, device.registration = signer(70), again.identity
    step = homes.site.next_step
    homes.use(2)
    homes.site.seal()
    assert homes.known(step) == {"ada": 2 * PULSE_UWH}
    homes.site.start()
    assert homes.head() == (5, 5)


# --- Storages. -----------------------------------------------------------------------------------


def test_a_battery_consumes_when_it_charges_and_produces_when_it_discharges(
    tmp_path: Path,
) -> None:
    homes = Homes(tmp_path, 1)
    site = homes.site
    out = site.register("battery-out", 61, meter=replace(DETAILS, use=Use.STORAGE))
    storage = site.authority.register(Role.MEMBER, "storage", signer(110).public)
    homes.import_(out, storage)
    site.seal()
    first = site.next_step + 1
    claims = [Claim("ada", 1, 0), Claim("storage", 1, 1)]
    homes.import_(site.authority.agree(first, claims, Method.PRO_RATA, capped=True))
    site.seal()
    homes.chains.bind("c0", "storage", 0, NOW_MS)
    battery = site.devices[2]
    # It charges: six of the eight pulses of the roof, which ada does not consume.
    step = site.next_step
    homes.chains.put("ada", {step: 2 * PULSE_UWH, step + 1: 5 * PULSE_UWH}, "file:aa", NOW_MS)
    homes.use(6)
    site.send(site.device.run_start(step), *site.device.step(step, 8))
    site.send(battery.run_start(step), *battery.step(step))
    site.seal()
    assert site.node.state.accounts == {"ada": 2 * PULSE_UWH, "storage": 6 * PULSE_UWH}
    # It discharges in the night: four pulses, to ada.
    homes.use()
    site.send(*site.device.step(step + 1), *battery.step(step + 1, 4))
    site.seal()
    assert site.node.state.accounts == {"ada": 6 * PULSE_UWH, "storage": 6 * PULSE_UWH}
    assert site.node.state.balance.waiting == 0
    assert site.audit().energy_uwh["allocated"] == 12 * PULSE_UWH


# --- Erasure. ------------------------------------------------------------------------------------


def test_an_erased_members_records_are_gone_and_what_waits_goes_once_it_is_judged(
    homes: Homes,
) -> None:
    homes.chains.bind("c0", "ada", 0, NOW_MS)
    kept = homes.use(3)
    homes.site.seal()
    waits = homes.use(4)
    erased = homes.chains.erase("ada")
    assert (erased.values, erased.records) == (1, 3)
    assert homes.chains.pending() == [record.raw for record in waits]
    step = homes.site.next_step
    homes.site.seal()
    data = Path(homes.chains._connection.execute("PRAGMA database_list").fetchone()[2]).read_bytes()
    for record in (*kept, *waits):
        assert record.raw not in data
        assert record.identity not in data or record is waits[-1], "only the chain's head names one"
    homes.chains.bind("c0", "bo", 0, NOW_MS)
    assert homes.known(step) == {}
    step = homes.site.next_step
    homes.use(5)
    homes.site.seal()
    assert homes.known(step) == {"bo": 5 * PULSE_UWH}
    assert homes.known(step - 1) == homes.known(step - 2) == {}


# --- Crashes. ------------------------------------------------------------------------------------


class Power:
    """Fails at a given commit, before it or behind it; and then at everything."""

    def __init__(self) -> None:
        self.at: int | None = None
        self.is_behind = False
        self.count = 0

    def pass_(self, commit: Callable[[], None]) -> None:
        self.count += 1
        is_here = self.count == self.at
        if is_here and self.is_behind:
            commit()
        if is_here or (self.at is not None and self.count > self.at):
            raise StoreFailed("power lost")
        commit()


class CutChains(PrivateChains):
    """Chains whose commits the power may cut."""

    power: Power

    def accept(self, accepted: Sequence[Record]) -> None:
        self.power.pass_(lambda: super(CutChains, self).accept(accepted))

    def advance(self, advance: Advance) -> None:
        self.power.pass_(lambda: super(CutChains, self).advance(advance))

    def govern(self, governed: Governed) -> None:
        self.power.pass_(lambda: super(CutChains, self).govern(governed))

    def keep_evidence(self, refusals: Sequence[Refusal]) -> None:
        self.power.pass_(lambda: super(CutChains, self).keep_evidence(refusals))


class CutStore(MemoryStore):
    """A store whose commits the power may cut."""

    power: Power

    def commit(self, changes: Changes) -> None:
        self.power.pass_(lambda: super(CutStore, self).commit(changes))


class Run:
    """The same four steps and a re-anchor, through whatever cut of the power; then what came of
    it."""

    def __init__(self, path: Path, at: int | None, *, is_behind: bool) -> None:
        path.mkdir()
        self.power = Power()
        self.chains = CutChains(path / "private.db")
        store = CutStore(1)
        self.chains.power = store.power = self.power
        self.homes = Homes(path, store=store, chains=self.chains)
        self.site = self.homes.site
        self.chains.bind("c0", "ada", 0, NOW_MS)
        self.restarts = 0
        self.first = self.site.next_step
        device, producer = self.homes.consumer(), self.site.device
        self.signed = [device.run_start(self.first), producer.run_start(self.first)]
        for at_step in range(4):
            self.signed += device.step(self.first + at_step, 1 + at_step)
            self.signed += producer.step(self.first + at_step, 2)
        # What waits for the fourth step has no place behind it.
        self.anchor = self.site.authority.re_anchor("c0", 7, 50)
        self.power.count, self.power.at, self.power.is_behind = 0, at, is_behind

    def work(self) -> list[object]:
        while self.site.next_step < self.first + 4:
            try:
                self.turn(self.site.next_step)
            except StoreFailed:
                self.power.at = None
                self.restarts += 1
                self.site.start()
        words = acknowledgements(self.site.node.connected(self.site.clock.now()), self.site.key)
        return [
            [(one.meter, one.sequence, one.previous, one.register) for one in words.values()],
            [dict(self.chains.of(self.first + at)) for at in range(5)],
            self.chains.pending(),
            [(one.account, one.kept, one.aside) for one in self.chains.metered()],
            [record.identity for record in self.site.leaves()],
            self.site.node.state.meters,
        ]

    def turn(self, step: int) -> None:
        """Devices send what is due and not acknowledged; the block is made."""
        words = acknowledgements(self.site.node.connected(self.site.clock.now()), self.site.key)
        due: list[Record] = []
        for one in self.signed:
            body = one.body
            assert isinstance(body, ChainRecord)
            # A device that has heard of its re-anchor says nothing of what was before.
            is_over = body.meter == "c0" and step == self.first + 3
            if body.step <= step + (step == self.first + 2) and not is_over:
                due += [one] * (body.sequence >= words[body.meter].sequence)
        if due:
            self.site.send(*due)
        if step == self.first + 2:
            self.homes.import_(self.anchor)
        self.site.at(step + 1, GRACE_MS)
        while self.site.next_step == step:
            self.site.tick()
            self.site.clock.advance(GRACE_MS * NS_PER_MS)


@pytest.mark.parametrize("is_behind", [False, True])
def test_whatever_commit_the_power_cuts_it_comes_to_the_same(
    tmp_path: Path,
    is_behind: bool,
) -> None:
    whole = Run(tmp_path / "whole", None, is_behind=False)
    expected = whole.work()
    assert expected[1] == [*({"ada": n * PULSE_UWH} for n in (1, 2, 3)), {}, {}]
    assert whole.site.store.epoch == 2
    commits = whole.power.count
    assert commits > 12
    for at in range(1, commits + 1):
        cut = Run(tmp_path / f"cut{at}", at, is_behind=is_behind)
        assert cut.work() == expected, f"cut at commit {at}"
        assert cut.restarts == 1
        assert cut.site.store.epoch >= 2


def test_after_a_restore_a_meter_for_consumption_sends_again_from_where_the_backup_stands(
    tmp_path: Path,
) -> None:
    premises = Premises(tmp_path / "gateway")
    consumer = premises.authority.register(Role.METER, "c0", signer(50).public, CONSUMER)
    premises.chain.append(consumer)
    premises.enrol()
    device = Device(premises.id, "c0", signer(50), consumer)
    folder = premises.folder
    with (
        closing(folder.open_store()) as store,
        closing(PrivateChains(folder.private)) as chains,
    ):
        site = premises.site(store)
        site.chains = chains
        site.start()
        site.found()
        chains.bind("c0", "ada", 0, NOW_MS)
        step = site.next_step
        sent = [device.run_start(step), *device.step(step, 3)]
        site.send(*sent)
        site.seal()
        backup(folder, tmp_path / "backup.tar.gz")
        lost = device.step(site.next_step, 4)
        site.send(*lost)
        site.seal()
    restore(tmp_path / "backup.tar.gz", tmp_path / "anew", folder.ledger)
    anew = open_folder(tmp_path / "anew")
    with closing(anew.open_store()) as store, closing(PrivateChains(anew.private)) as chains:
        again = premises.site(store, anew)
        again.chains, again.clock = chains, site.clock
        words = acknowledgements(again.start(), again.key)
        assert (words["c0"].sequence, words["c0"].register) == (3, 3)
        assert words["c0"].epoch > 1
        again.send(*sent, *lost)
        again.clock.advance(GRACE_MS * NS_PER_MS)
        again.seal()
        assert [dict(chains.of(step + at)) for at in range(2)] == [
            {"ada": 3 * PULSE_UWH},
            {"ada": 4 * PULSE_UWH},
        ]
        assert again.store.refusals() == []
