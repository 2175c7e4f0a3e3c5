"""The virtual power plant of a gateway: what closes bring is shared out in the same block, what
lacks a fact waits, and what comes late or is corrected is given on top."""

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cryptometer import records
from cryptometer.audit import audit
from cryptometer.block_header import Header
from cryptometer.drafting import draft
from cryptometer.equivocation import equivocation
from cryptometer.openings import Opening, commitment
from cryptometer.record_fields import Role
from cryptometer.records import Record
from cryptometer.sharing_records import Claim, Distribution, Method, Output
from gateway import vpp
from gateway.lacking import Facts
from gateway.private import PrivateStore
from gateway.private_reading import open_opening
from gateway.vpp import DISTRIBUTIONS_MAX
from tests.core.community import PULSE_UWH
from tests.gateway.kit import Site
from tests.keys import signer

MEMBERS = ("ada", "bo", "cy")


class Known:
    """Facts that a test knows."""

    def __init__(self) -> None:
        self.used: dict[int, dict[str, int]] = {}
        self.weights: dict[int, dict[tuple[str, str], int]] = {}
        self.lost: dict[int, int] = {}
        self.erased: dict[int, frozenset[str]] = {}
        self.changes: list[int] = []
        self.fails = False

    def learn(self, step: int, **used: int) -> None:
        self.used.setdefault(step, {}).update(used)
        self.changes.append(step)

    def of(self, step: int) -> Mapping[str, int]:
        if self.fails:
            raise OSError("the disk is away")
        return self.used.get(step, {})

    def salt(self, member: str, step: int, need_uwh: int) -> bytes:
        return f"{member}{step} {need_uwh}".encode().ljust(32, b"\0")

    def coefficients(self, step: int) -> Mapping[tuple[str, str], int]:
        return self.weights.get(step, {})

    def losses_uwh(self, step: int) -> int | None:
        return self.lost.get(step)

    def forgotten(self, members: Collection[str], step: int) -> frozenset[str]:
        return frozenset(members) & self.erased.get(step, frozenset())

    def steps_changed_since(self, mark: int) -> tuple[list[int], int]:
        return self.changes[mark:], len(self.changes)


class Works:
    """A gateway with its plant, two meters and three members who have agreed on a rule that acts
    from the fourth block on."""

    def __init__(
        self,
        *claims: Claim,
        late_steps: int = 35 * 96,
        facts: Facts | None = None,
        **rule: object,
    ) -> None:
        self.facts = Known()
        self.site = Site(2, facts=facts or self.facts, late_steps=late_steps)
        self.site.found()
        self.import_(
            *(
                self.site.authority.register(Role.MEMBER, name, signer(100 + at).public)
                for at, name in enumerate(MEMBERS)
            )
        )
        self.site.seal()
        self.agree(*(claims or [Claim(name, 1, 0) for name in MEMBERS]), **rule)
        self.site.run([])

    def agree(self, *claims: Claim, **rule: object) -> None:
        self.import_(self.site.authority.agree(self.site.next_step + 1, claims, **rule))  # type: ignore[arg-type]

    def import_(self, *added: Record) -> None:
        self.site.node.take_authority([record.raw for record in added])

    @property
    def accounts(self) -> dict[str, int]:
        return dict(self.site.node.state.accounts)

    def distributions(self) -> list[tuple[Distribution, str]]:
        """Those in the ledger, each with its verdict."""
        return [
            (verdict.record.body, str(verdict.reason or ""))
            for checked in self.site.blocks()
            for verdict in checked.verdicts
            if isinstance(verdict.record.body, Distribution)
        ]


def test_what_closes_bring_is_shared_out_in_the_same_block() -> None:
    works = Works()
    works.site.run([8, 7])
    assert works.accounts == dict.fromkeys(MEMBERS, 2 * 15 * PULSE_UWH // 3)
    ((made, verdict),) = works.distributions()
    assert (made.step, made.supplement, verdict) == (works.site.node.state.step, 0, "")
    assert works.site.node.state.balance.waiting == 0
    assert works.site.store.distributions(made.step) == [works.site.node.state.frontier.size - 2]


def test_a_step_without_energy_has_no_distribution() -> None:
    works = Works()
    works.site.run([], [])
    assert works.distributions() == []


def test_energy_from_before_the_agreement_waits_and_is_nobodys() -> None:
    works = Works()
    site = works.site
    site.run([3])
    before = site.node.state.balance
    assert before.waiting == 0
    assert site.audit().energy_uwh["allocated"] == before.allocated == 6 * PULSE_UWH


def test_late_energy_is_given_on_top() -> None:
    works = Works(Claim("ada", 2, 0), Claim("bo", 1, 0), method=Method.KEYS)
    site = works.site
    step = site.next_step
    site.send(*site.devices[0].step(step, 6))
    site.seal()
    assert works.accounts == {"ada": 400_000, "bo": 200_000}
    site.send(*site.devices[1].step(step, 3))
    site.seal()
    assert works.accounts == {"ada": 600_000, "bo": 300_000}
    assert [made.supplement for made, _ in works.distributions()] == [0, 1]


def test_without_consumption_energy_waits_and_with_it_is_shared() -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    step = site.next_step
    site.run([8], [8])
    assert works.accounts == {}
    assert site.node.state.balance.waiting == 2 * 16 * PULSE_UWH
    works.facts.learn(step, ada=1_000_000, bo=500_000)
    site.seal()
    assert works.accounts == {}, "what cy consumed is not known"
    works.facts.learn(step, cy=0)
    site.seal()
    assert works.accounts == {"ada": 1_000_000, "bo": 500_000}
    assert site.node.state.balance.surplus == 100_000
    ((made, verdict),) = works.distributions()
    assert verdict == ""
    assert [one.member for one in made.commitments] == list(MEMBERS)
    bo = made.commitments[1].digest
    assert bo == commitment(site.id, step, "bo", 500_000, works.facts.salt("bo", step, 500_000))
    assert site.audit().rules == {"sums-only": 1}


def test_what_the_private_store_learns_is_distributed(tmp_path: Path) -> None:
    with closing(PrivateStore(tmp_path / "private.db")) as private:
        works = Works(facts=private, method=Method.PRO_RATA)
        site = works.site
        step = site.next_step
        for name, used_uwh in (("ada", 1_000_000), ("bo", 500_000)):
            private.put(name, {step: used_uwh}, "file:a", 1)
        site.run([8])
        assert works.accounts == {}
        private.put("cy", {step: 0}, "file:b", 2)
        site.seal()
        assert works.accounts == {"ada": 1_000_000, "bo": 500_000}
        ((made, verdict),) = works.distributions()
        assert verdict == ""
        bo = made.commitments[1].digest
        salt = private.known_salt("bo", step, 500_000)
        assert salt is not None
        assert bo == commitment(site.id, step, "bo", 500_000, salt)
        # A correction that nothing is distributed by yet leaves what was committed to to be opened.
        private.put("bo", {step: 400_000}, "file:c", 3)
        opens = partial(open_opening, tmp_path / "private.db", site.id, "bo", step)
        assert opens(bo) == Opening(500_000, salt)
        # Who is given one opening cannot find, by trying, what an earlier commitment hides.
        corrected = private.known_salt("bo", step, 400_000)
        assert corrected not in (None, salt)
        newest, first = Opening(400_000, corrected or b""), Opening(500_000, salt)
        assert private.openings(step, step)[step, "bo"] == [newest, first]
        # Who may know all of them recomputes what was given before the correction, and after it.
        known = private.openings(None, None)
        site.run([])
        report = audit(site.tree.read, site.community(), openings=known)
        assert (len(works.distributions()), report.rules) == (1, {"recomputed": 1})
        assert opens(bytes(32)) is None
        # An erased member's consumption is in the ledger's hash, and nowhere else.
        private.erase("bo")
        assert private.known_salt("bo", step, 500_000) is None
        assert opens(bo) is None
        assert site.audit().rules == {"sums-only": 1}


def test_late_energy_does_not_wait_for_who_was_erased_and_gives_him_nothing(
    tmp_path: Path,
) -> None:
    with closing(PrivateStore(tmp_path / "private.db")) as private:
        works = Works(facts=private, method=Method.PRO_RATA, capped=True)
        site = works.site
        step = site.next_step
        for name, used_uwh in (("ada", 800_000), ("bo", 400_000), ("cy", 400_000)):
            private.put(name, {step: used_uwh}, "file:a", 1)
        site.send(*site.devices[0].step(step, 8))
        site.seal()
        assert works.accounts == {"ada": 400_000, "bo": 200_000, "cy": 200_000}
        private.erase("bo", step + 1)
        assert private.forgotten(["ada", "bo"], step) == {"bo"}
        assert private.forgotten(["ada", "bo"], step + 2) == frozenset()
        site.send(*site.devices[1].step(step, 4))
        site.seal()
        assert site.node.state.balance.waiting == 0
        assert works.accounts == {"ada": 666_667, "bo": 200_000, "cy": 333_333}
        (_, first), (late, second) = works.distributions()
        assert (first, second, late.supplement) == ("", "", 1)
        # The new commitment hides what all can see, and there is nothing that opens it.
        assert private.known_salt("bo", step, 200_000) is None
        assert "bo" not in {name for _, name in private.openings(None, None)}
        assert b"bo" not in {
            bytes(row) for (row,) in private._connection.execute("SELECT who FROM erased")
        }
        assert site.audit().rules == {"sums-only": 2}


def test_what_waited_for_who_is_erased_meanwhile_is_shared_by_the_next_block(
    tmp_path: Path,
) -> None:
    with closing(PrivateStore(tmp_path / "private.db")) as private:
        works = Works(facts=private, method=Method.PRO_RATA, capped=True)
        site = works.site
        step = site.next_step
        for name in ("ada", "cy"):
            private.put(name, {step: 500_000}, "file:a", 1)
        site.run([4], [4])
        assert works.accounts == {}
        private.erase("bo", step)
        site.seal()
        assert works.accounts == {"ada": 400_000, "cy": 400_000}
        assert list(site.node.state.settlements)[-1] == step + 1
        assert site.node.state.settlements[step + 1].waiting, "of later steps he is waited for"
        # Told again what he consumed, the plant reckons with that; nothing is taken back.
        private.put("bo", {step: 500_000}, "file:b", 2)
        assert private.salt("bo", step, 500_000) == private.known_salt("bo", step, 500_000)
        site.seal()
        assert works.accounts == {"ada": 400_000, "cy": 400_000}


def test_a_corrected_consumption_takes_from_the_surplus_and_from_nobody() -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    step = site.next_step
    works.facts.learn(step, ada=1_000_000, bo=500_000, cy=0)
    site.run([8])
    assert site.node.state.balance.surplus == 100_000
    works.facts.learn(step, ada=0, cy=70_000)
    site.seal()
    assert works.accounts == {"ada": 1_000_000, "bo": 500_000, "cy": 70_000}
    assert site.node.state.balance.surplus == 30_000
    correction, verdict = works.distributions()[-1]
    assert (correction.inputs, correction.from_surplus_uwh, verdict) == ((), 70_000, "")
    site.seal()
    assert len(works.distributions()) == 2, "and no other"


def test_coefficients_and_losses_come_from_outside() -> None:
    works = Works(method=Method.COEFFICIENTS, are_losses_stated=True)
    site = works.site
    step = site.next_step
    works.facts.weights[step] = {("", "ada"): 1, ("", "bo"): 1, ("", "cy"): 0}
    site.run([5])
    assert works.accounts == {}
    works.facts.lost[step] = 100_000
    works.facts.learn(step)
    site.seal()
    assert works.accounts == {"ada": 450_000, "bo": 450_000}
    assert site.node.state.balance.losses == 100_000


def test_a_step_that_lost_nothing_as_measured_loses_nothing() -> None:
    works = Works(are_losses_stated=True)
    site = works.site
    step = site.next_step
    works.facts.lost[step] = 0
    site.run([6])
    assert works.accounts == dict.fromkeys(MEMBERS, 2 * 6 * PULSE_UWH // 3)
    assert site.node.state.balance.losses == 0


def test_losses_that_turn_out_smaller_take_nothing_back_and_late_energy_is_shared() -> None:
    works = Works(method=Method.COEFFICIENTS, are_losses_stated=True)
    site = works.site
    step = site.next_step
    works.facts.weights[step] = {("", name): 1 for name in MEMBERS}
    works.facts.lost[step] = 100_000
    site.send(*site.devices[0].step(step, 6))
    site.seal()
    works.facts.weights[step] = {("", "ada"): 2, ("", "bo"): 1, ("", "cy"): 0}
    works.facts.lost[step] = 10_000
    works.facts.learn(step)
    site.send(*site.devices[1].step(step, 3))
    site.seal()
    site.seal()
    assert [verdict for _, verdict in works.distributions()] == ["", ""]
    assert site.node.state.balance.losses == 100_000


def test_a_month_of_consumption_at_once_keeps_no_block_from_being_sealed() -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    first = site.next_step
    site.run(*[[1]] * (DISTRIBUTIONS_MAX + 10))
    for step in range(first, site.next_step):
        works.facts.learn(step, ada=50_000, bo=0, cy=0)
    site.seal()
    assert len(works.distributions()) == DISTRIBUTIONS_MAX
    site.seal()
    assert len(works.distributions()) == DISTRIBUTIONS_MAX + 10
    assert site.node.state.balance.waiting == 0


def test_after_a_start_not_every_step_is_reckoned_anew_before_the_next_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    first = site.next_step
    for step in range(first, first + 12):
        works.facts.learn(step, ada=50_000, bo=0, cy=0)
    site.run(*[[1]] * 12)
    assert len(works.distributions()) == 12
    monkeypatch.setattr(vpp, "SHARES_MAX", 3 * len(MEMBERS))
    drafted: list[int] = []

    def watched(*of: Any, **facts: Any) -> Distribution | None:
        drafted.append(of[1].step)
        return draft(*of, **facts)

    monkeypatch.setattr("gateway.vpp.draft", watched)
    works.facts.learn(first + 7, bo=50_000)
    works.facts.learn(site.next_step, ada=50_000, bo=0, cy=0)
    site.start()
    site.run([1])
    assert len(works.distributions()) == 13, "energy that waits comes before corrections"
    assert drafted == [first + 12, first, first + 1]
    for _ in range(4):
        site.seal()
    assert drafted[3:] == list(range(first + 2, first + 12))
    assert works.accounts == {"ada": 13 * 50_000, "bo": 50_000}


def test_a_rule_that_asks_who_produced_is_reckoned_for_each_producer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    claims = [Claim("ada", 1, 0, "m0"), Claim("bo", 1, 0, "m1")]
    works = Works(*claims, method=Method.PRO_RATA)
    site = works.site
    first = site.next_step
    site.run([1], [1], [1])
    for step in range(first, site.next_step):
        works.facts.learn(step, ada=10**6, bo=10**6)
    # Two members' shares of two meters: as much as one block may reckon.
    monkeypatch.setattr(vpp, "SHARES_MAX", 4)
    for count in (1, 2, 3):
        site.seal()
        assert len(works.distributions()) == count
    assert works.accounts == {"ada": 3 * PULSE_UWH, "bo": 3 * PULSE_UWH}


@pytest.mark.parametrize(
    ("rule", "damage"),
    [
        (Method.PRO_RATA, "UPDATE consumption SET energy_uwh = -1"),
        (Method.PRO_RATA, "UPDATE consumption SET energy_uwh = 'much'"),
        (Method.PRO_RATA, "UPDATE salts SET salt = x'00'"),
        (Method.COEFFICIENTS, "UPDATE coefficients SET weight = -1"),
        (Method.COEFFICIENTS, "UPDATE losses SET energy_uwh = -1"),
    ],
)
def test_a_private_store_that_holds_no_such_fact_holds_up_the_energy_and_no_block(
    tmp_path: Path, rule: Method, damage: str
) -> None:
    with closing(PrivateStore(tmp_path / "private.db")) as private:
        works = Works(facts=private, method=rule, are_losses_stated=True)
        step = works.site.next_step
        for name in MEMBERS:
            private.put(name, {step: 5}, "file:a", 1)
            private.salt(name, step, 5)
        private.put_losses({step: 1})
        private.put_coefficients({step: {("", name): 1 for name in MEMBERS}})
        private._connection.execute(damage)
        works.site.run([8])
        assert works.distributions() == []
        assert works.site.node.state.balance.waiting == 16 * PULSE_UWH


def test_what_everyone_sets_aside_is_not_made_again_in_each_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    works = Works()
    site = works.site
    step = site.next_step

    def wrong(*of: Any, **facts: Any) -> Distribution | None:
        whole = draft(*of, **facts)
        return whole and replace(whole, outputs=whole.outputs[::-1])

    with monkeypatch.context() as patched:
        patched.setattr("gateway.vpp.draft", wrong)
        site.run([3])
        for _ in range(6):
            site.seal()
    assert 1 <= len(works.distributions()) <= 2
    assert site.node.state.balance.waiting == 6 * PULSE_UWH
    works.facts.learn(step)
    site.seal()
    assert works.distributions()[-1][1] == ""
    assert site.node.state.balance.waiting == 0


def test_facts_that_cannot_be_read_hold_up_the_energy_and_no_block() -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    works.facts.learn(site.next_step, ada=10**6, bo=0, cy=0)
    works.facts.fails = True
    before = site.node.state.step
    site.run([8])
    assert (site.node.state.step, works.accounts) == (before + 1, {})
    works.facts.fails = False
    site.seal()
    assert works.accounts == {"ada": 10**6}


def test_a_restarted_gateway_goes_on_where_its_plant_stood() -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    step = site.next_step
    site.run([8])
    works.facts.learn(step, ada=10**6, bo=0, cy=0)
    site.start()
    site.seal()
    assert works.accounts == {"ada": 10**6}
    works.facts.learn(step, bo=10**5)
    site.start()
    site.seal()
    assert works.accounts == {"ada": 10**6, "bo": 10**5}
    assert [made.sequence for made, _ in works.distributions()] == [0, 1]


def test_a_new_agreement_acts_on_steps_to_come_only() -> None:
    works = Works()
    works.site.run([3])
    works.agree(Claim("cy", 1, 0))
    works.site.run([3], [3])
    assert works.accounts == {"ada": 400_000, "bo": 400_000, "cy": 400_000 + 600_000}


def test_what_is_settled_is_forgotten_when_nothing_more_can_come() -> None:
    works = Works(late_steps=2)
    works.site.run([3], [3], [3], [3])
    newest = works.site.node.state.step
    assert sorted(works.site.node.state.settlements) == [newest - 2, newest - 1, newest]


def test_a_revoked_plant_distributes_nothing() -> None:
    works = Works()
    works.import_(works.site.authority.revoke(Role.VPP, "vpp"))
    works.site.run([3], [3])
    assert works.distributions()[1:] == []
    assert works.site.node.state.balance.waiting == 6 * PULSE_UWH


# --- Attacks (paper A section IV-C) on a whole gateway. ------------------------------------------


def test_a_distribution_that_comes_over_the_broker_is_not_taken_whoever_signed_it() -> None:
    works = Works()
    site = works.site
    site.run([8])
    before = works.accounts
    ((made, _),) = works.distributions()
    stolen = replace(
        made,
        sequence=made.sequence + 1,
        previous=site.node.state.plant("vpp").previous,
        supplement=1,
        outputs=(Output("ada", sum(one.energy_uwh for one in made.outputs), 0),),
    )
    for number, key in enumerate((signer(3), signer(99), site.key), 1):
        for topic in ("m0", "vpp", "nobody"):
            raw = records.seal(stolen, site.id, key).raw
            site.receive([site.message(raw, topic)])
        assert sum(one.count for one in site.store.refusals()) == 3 * number
    assert list(site.store.pending()) == []
    site.run([])
    assert works.accounts == before
    assert len(works.distributions()) == 1
    assert site.audit().quarantined == {}


def test_a_plant_that_tells_two_ledgers_two_stories_is_found_by_who_sees_both() -> None:
    """Its operator lets a copy of everything run beside it, and feeds that another consumption."""
    told = []
    for used_uwh in (400_000, 900_000):
        works = Works(method=Method.PRO_RATA)
        works.facts.learn(works.site.next_step, ada=used_uwh, bo=500_000, cy=500_000)
        works.site.run([8])
        told.append(works)
        assert works.site.audit().rules == {"sums-only": 1}, "each ledger holds by itself"
    one, other = told
    assert one.site.id == other.site.id
    community = one.site.community()

    def leaf(works: Works, kind: type[Distribution | Header]) -> Record:
        newest = works.site.blocks()[-1]
        leaves = [verdict.record for verdict in newest.verdicts] + [newest.header]
        return next(record for record in leaves if isinstance(record.body, kind))

    found = equivocation(leaf(one, Distribution), leaf(other, Distribution), [], community)
    assert found.signer == "the virtual power plant vpp"
    assert found.place == "record 0 of its chain"
    # And so is the gateway that made a block of each.
    found = equivocation(leaf(one, Header), leaf(other, Header), [], community)
    assert found.signer == "a gateway"
