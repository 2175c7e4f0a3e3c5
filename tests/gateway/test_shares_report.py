"""Why energy waits, what members have, and why: as values, in words, and for those who must not
know what anyone consumed."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import pytest

from cryptometer.community import trust
from cryptometer.errors import ConfigurationError
from cryptometer.sharing_records import Claim, Method
from gateway import answers
from gateway.lacking import Cause, Facts, Lack, describe
from gateway.private import PrivateStore
from gateway.private_reading import open_facts
from gateway.report import Report, make_report
from gateway.report import describe as describe_report
from gateway.shares_report import (
    MemberReport,
    SharedReport,
    agreement_reports,
    describe_sharing,
    member_reports,
    newest_shared,
    waiting_steps,
)
from gateway.vpp import NoFacts
from gateway.why import why
from tests.core.community import PULSE_UWH, STEP_S
from tests.gateway.test_vpp import MEMBERS, Works


def report(works: Works, facts: Facts | None = None) -> Report:
    return make_report(works.site.store, works.site.node.state, facts)


def told(works: Works, facts: Facts | None = None) -> str:
    return "\n".join(describe_report(report(works, facts)))


def asked(works: Works, member: str, step: int, facts: Facts | None) -> str:
    site = works.site
    authority = site.store.authority()
    community = trust(authority[0], authority[1:])
    return "\n".join(why(member, step, site.store, site.tree.read, community, facts))


def test_what_waits_is_told_with_whose_consumption_lacks() -> None:
    works = Works(method=Method.PRO_RATA)
    step = works.site.next_step
    works.facts.learn(step, bo=5)
    works.site.run([8])
    [one] = waiting_steps(works.site.node.state, works.facts)
    assert (one.step, one.energy_uwh) == (step, 16 * PULSE_UWH)
    assert one.lacks == (Lack(Cause.CONSUMPTION, ("ada", "cy")),)
    line = "0.0016 kWh: what members consumed is not known of ada, cy"
    assert line in told(works, works.facts)
    assert line.replace(" of ada, cy", "") in told(works), "who must not know is told of nobody"


def test_steps_that_wait_for_the_same_are_one_line() -> None:
    works = Works(method=Method.PRO_RATA)
    first = works.site.next_step
    works.site.run([8], [8], [8])
    assert f"waiting        3 of steps {first} to {first + 2}, 0.0048 kWh: what" in told(works)


def test_coefficients_and_losses_that_lack_are_told() -> None:
    works = Works(method=Method.COEFFICIENTS, are_losses_stated=True)
    step = works.site.next_step
    works.site.run([8])
    state = works.site.node.state

    def lacks() -> tuple[Lack, ...]:
        [one] = waiting_steps(state, works.facts)
        return one.lacks

    assert lacks() == (Lack(Cause.COEFFICIENTS, MEMBERS), Lack(Cause.LOSSES))
    works.facts.weights[step] = {("", "ada"): 1, ("", "bo"): 1}
    works.facts.lost[step] = 16 * PULSE_UWH + 1
    assert lacks() == (Lack(Cause.COEFFICIENTS, ("cy",)), Lack(Cause.LOSSES_TOO_HIGH))
    works.facts.weights[step]["", "cy"] = 0
    works.facts.lost[step] = 0
    assert lacks() == (Lack(Cause.NEXT_BLOCK),)
    [public] = waiting_steps(state, None)
    assert public.lacks == (Lack(Cause.COEFFICIENTS), Lack(Cause.LOSSES))


def test_losses_above_the_energy_keep_it_waiting_and_stop_nothing() -> None:
    works = Works(are_losses_stated=True)
    step = works.site.next_step
    works.facts.lost[step] = 10**12
    works.site.run([8])
    assert works.distributions() == []
    works.facts.lost[step] = PULSE_UWH
    works.facts.changes.append(step)
    works.site.seal()
    assert works.site.node.state.balance.losses == PULSE_UWH


def test_energy_without_an_agreement_stays() -> None:
    works = Works()
    works.site.run([8])
    state = works.site.node.state
    assert waiting_steps(state, works.facts) == []
    assert describe(Lack(Cause.NO_AGREEMENT)).endswith("it stays there")


def test_many_names_are_cut_short() -> None:
    names = tuple(f"m{at:02}" for at in range(12))
    assert describe(Lack(Cause.CONSUMPTION, names)).endswith("m08, m09 and 2 more")


def test_what_was_shared_and_the_accounts_are_told() -> None:
    works = Works(
        Claim("ada", 3, 0),
        Claim("bo", 1, 0),
        method=Method.KEYS,
        losses=Fraction(1, 10),
        fee=Fraction(1, 20),
        fee_to="coop",
    )
    assert newest_shared(works.site.node.state) is None
    works.site.run([8, 2])
    step = works.site.node.state.step
    energy = 20 * PULSE_UWH
    members = energy * 85 // 100
    state = works.site.node.state
    assert newest_shared(state) == SharedReport(
        step, 1, members, energy // 10, energy // 20, energy - energy * 15 // 100 - members
    )
    assert member_reports(state) == [
        MemberReport("ada", members * 3 // 4, revoked=False),
        MemberReport("bo", members // 4, revoked=False),
        MemberReport("cy", 0, revoked=False),
    ]
    text = told(works)
    assert "members 0.0017 kWh, losses 0.0002 kWh, fees 0.0001 kWh, surplus 0.000 kWh" in text
    assert f"shared         newest step {step} (" in text
    assert "to members 0.0017 kWh, losses 0.0002 kWh, fee 0.0001 kWh" in text
    assert "member ada  0.001275 kWh\nmember bo  0.000425 kWh\nmember cy  0.000 kWh" in text
    assert json.loads(json.dumps(asdict(report(works))))["shared"]["step"] == step


def test_the_agreement_that_holds_and_those_to_come_are_told() -> None:
    works = Works()
    site = works.site
    [now] = agreement_reports(site.node.state)
    assert (now.method, now.members) == ("equal", 3)
    works.agree(Claim("ada", 1, 0), method=Method.KEYS)
    site.seal()
    begins = site.next_step
    [now] = agreement_reports(site.node.state)
    assert (now.from_step, now.method, now.members) == (begins, "keys", 1)
    assert f"agreement      from step {begins} on (" in told(works)
    later = site.authority.agree(begins + 9, [Claim("bo", 1, 0)])
    works.import_(later)
    site.seal()
    now, then = agreement_reports(site.node.state)
    assert now.from_step == begins
    assert (then.from_step, then.identity) == (begins + 9, later.identity.hex())


def test_a_thousand_members_are_no_page_of_a_thousand_lines() -> None:
    members = [MemberReport(f"m{at}", 0, revoked=at == 1) for at in range(60)]
    lines = list(describe_sharing([], [], None, members, STEP_S))
    assert lines[1].endswith("REVOKED")
    assert lines[-1] == "and 10 members more"


def test_the_web_tells_causes_and_accounts_and_no_consumption() -> None:
    works = Works(method=Method.PRO_RATA)
    site = works.site
    step = site.next_step
    works.facts.learn(step, ada=PULSE_UWH, bo=PULSE_UWH, cy=0)
    site.run([8], [8])
    found = answers.sharing(answers.open_site(site.store, site.tree.read, site.community()))
    assert isinstance(found, dict)
    assert found["waiting"] == [
        {"step": step + 1, "energy_uwh": str(16 * PULSE_UWH), "asks": ["consumption"]}
    ]
    assert found["members"] == [
        {"name": name, "energy_uwh": str(energy), "revoked": False}
        for name, energy in (("ada", PULSE_UWH), ("bo", PULSE_UWH), ("cy", 0))
    ]
    assert found["shared"] == {
        "step": step,
        "distributions": 1,
        "members_uwh": str(2 * PULSE_UWH),
        "losses_uwh": "0",
        "fee_uwh": "0",
        "surplus_uwh": str(14 * PULSE_UWH),
    }
    assert dict(found["balance_uwh"])["allocated"] == str(2 * PULSE_UWH)  # type: ignore[arg-type]


# --- Why. ----------------------------------------------------------------------------------------


def test_with_everyones_consumption_the_rule_is_recomputed() -> None:
    works = Works(method=Method.PRO_RATA)
    step = works.site.next_step
    works.facts.learn(step, ada=1_000_000, bo=500_000, cy=500_000)
    works.site.run([5])
    text = asked(works, "ada", step, works.facts)
    assert text.startswith(f"Step {step}, which began at ")
    assert "ada got 0.0005 kWh." in text
    assert "Recomputed: the rule gives ada 0.0005 kWh, and so did the plant." in text
    # Who may not read what members consumed is told what is proven, and what is not.
    assert "Not proven" in asked(works, "ada", step, None)


def test_what_waits_is_an_answer_too() -> None:
    works = Works(method=Method.PRO_RATA)
    step = works.site.next_step
    works.site.run([8])
    text = asked(works, "bo", step, works.facts)
    assert text.endswith(
        "0.0016 kWh of it wait at the virtual power plant: what members consumed is not known of"
        " ada, bo, cy."
    )
    assert "what members consumed is not known." in asked(works, "bo", step, None)
    with pytest.raises(ConfigurationError, match="zoe has no claim"):
        asked(works, "zoe", step, works.facts)


def test_late_energy_is_told_of_as_several_distributions() -> None:
    works = Works(Claim("ada", 1, 0), Claim("bo", 1, 0), method=Method.KEYS)
    site = works.site
    step = site.next_step
    site.send(*site.devices[0].step(step, 8))
    site.seal()
    site.send(*site.devices[1].step(step, 8))
    site.seal()
    text = asked(works, "ada", step, NoFacts())
    assert "It was shared in 2 distributions, one behind another." in text
    assert "Recomputed: the rule gives ada 0.0008 kWh, and so did the plant." in text


def test_a_step_of_which_nothing_came_says_so() -> None:
    works = Works()
    works.site.run([])
    with pytest.raises(ConfigurationError, match="nothing was distributed"):
        asked(works, "ada", works.site.node.state.step, works.facts)


# --- The private store, for who may read it. -----------------------------------------------------


@pytest.fixture
def private(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "private.db"
    with closing(PrivateStore(path)) as store:
        store.put("ada", {7: 5}, "file:x", 0)
    yield path
    path.chmod(0o600)


def test_facts_are_read_where_they_are(private: Path) -> None:
    with open_facts(private) as facts:
        assert facts is not None
        assert facts.of(7) == {"ada": 5}


def test_without_a_private_store_nothing_is_known_and_none_is_made(tmp_path: Path) -> None:
    with open_facts(tmp_path / "none.db") as facts:
        assert facts is not None
        assert facts.of(7) == {}
    assert not (tmp_path / "none.db").exists()


def test_who_may_not_read_it_is_told_so(private: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("gateway.private_file._open", refuse)
    with open_facts(private) as facts:
        assert facts is None
