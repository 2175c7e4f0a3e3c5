"""Openings: who is given what members consumed recomputes the rule; who is not, proves the sums."""

import pytest

from cryptometer import audit
from cryptometer.audit_state import decode_report, encode_report
from cryptometer.errors import Reason
from cryptometer.openings import HEADER, decode_openings, encode_openings
from cryptometer.records import Distribution, Method
from cryptometer.settlement import Opening, Openings
from tests.core.community import Village, reseal
from tests.core.refusing import refusing

NEEDS = {"ada": 600_000, "bo": 300_000}


def village() -> tuple[Village, int]:
    """Two members share by what they consumed, and the first step has been shared."""
    village = Village()
    village.add_members("ada", "bo")
    village.block()
    village.agree("ada", "bo", method=Method.PRO_RATA)
    village.block()
    step = village.next_step
    village.send(village.device.run_start(step), *village.device.step(step, 8))
    return village, step


def openings(step: int, salt: bytes = Village.salt, **needs: int) -> Openings:
    return {(step, name): Opening(need, salt) for name, need in (NEEDS | needs).items()}


def rules(village: Village, known: Openings | None) -> dict[str, int]:
    found = audit.audit(village.files().get, village.community(), openings=known)
    return dict(found.rules)


def test_with_openings_the_rule_is_recomputed_and_without_the_sums_are_proven() -> None:
    made, step = village()
    made.share({step: NEEDS})
    made.block()
    assert rules(made, None) == {"sums-only": 1}
    assert rules(made, openings(step)) == {"recomputed": 1}


@pytest.mark.parametrize("wrong", [{"bo": 300_001}, {"salt": bytes(32)}])
def test_what_does_not_fit_the_commitments_opens_nothing(wrong: dict[str, object]) -> None:
    made, step = village()
    made.share({step: NEEDS})
    made.block()
    assert rules(made, openings(step, **wrong)) == {"sums-only": 1}  # type: ignore[arg-type]


def test_a_plant_that_gave_something_else_is_found_by_who_is_given_the_inputs() -> None:
    made, step = village()
    (record,) = made.share({step: NEEDS})
    body = record.body
    assert isinstance(body, Distribution)
    ada, bo = body.outputs
    swapped = (
        type(ada)("ada", ada.energy_uwh - 1, ada.tokens),
        type(bo)("bo", bo.energy_uwh + 1, bo.tokens),
    )
    made.pending.remove(record)
    made.pending.append(reseal(record, made.vpp, outputs=swapped))
    made.block()
    assert rules(made, None) == {"sums-only": 1}
    report = audit.audit(made.files().get, made.community(), openings=openings(step))
    assert report.rules == {"broken": 1}
    assert "1 distributions give something else" in report.findings[0]
    kept = decode_report(encode_report(report), made.community())
    assert (kept.rules, kept.findings) == (report.rules, report.findings)


def test_a_file_of_openings_says_them_all() -> None:
    known = openings(7)
    text = "".join(encode_openings(known))
    assert decode_openings(text) == known
    assert text.splitlines()[1] == f"7,ada,600000,{Village.salt.hex()}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "7,ada,1," + "00" * 32,
        f"{HEADER}\n7,ada,1",
        f"{HEADER}\n7,ada,-1," + "00" * 32,
        f"{HEADER}\n7,ada,1," + "00" * 31,
        f"{HEADER}\n7,Ada,1," + "00" * 32,
        f"{HEADER}\n" + f"7,ada,1,{'00' * 32}\n" * 2,
        f"{HEADER}\n{2**41},ada,1," + "00" * 32,
        f"{HEADER}\n7,ada,{2**63}," + "00" * 32,
    ],
)
def test_what_is_no_file_of_openings_is_refused(text: str) -> None:
    with refusing(Reason.MALFORMED):
        decode_openings(text)
