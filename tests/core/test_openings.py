"""Openings: who is given what members consumed recomputes the rule; who is not, proves the sums."""

import hmac

import pytest

from cryptometer import audit
from cryptometer.audit_state import decode_report, encode_report
from cryptometer.errors import Reason
from cryptometer.openings import (
    HEADER,
    SALT_BYTES,
    Opening,
    Openings,
    decode_openings,
    encode_openings,
    salt_of,
)
from cryptometer.sharing_records import Distribution, Method
from cryptometer.wire import UINT_MAX
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


def openings(
    step: int, salt: bytes = Village.salt, **needs: int
) -> dict[tuple[int, str], list[Opening]]:
    return {(step, name): [Opening(need, salt)] for name, need in (NEEDS | needs).items()}


def rules(village: Village, known: Openings | None) -> dict[str, int]:
    found = audit.audit(village.files().get, village.community(), openings=known)
    return dict(found.rules)


def test_with_openings_the_rule_is_recomputed_and_without_the_sums_are_proven() -> None:
    made, step = village()
    made.share({step: NEEDS})
    made.block()
    assert rules(made, None) == {"sums-only": 1}
    assert rules(made, openings(step)) == {"recomputed": 1}


def test_each_amount_has_a_salt_of_its_own_that_only_the_secret_gives() -> None:
    salts = {salt_of(bytes(32), need) for need in (0, 1, 300_000, UINT_MAX)}
    salts |= {salt_of(b"\1" * 32, 0)}
    assert len(salts) == 5
    assert {len(one) for one in salts} == {SALT_BYTES}
    assert salt_of(bytes(32), 300_000) == hmac.digest(
        bytes(32), bytes.fromhex("82") + b"\x70cryptometer salt" + b"\x1a\x00\x04\x93\xe0", "sha256"
    )


def test_what_was_given_before_a_correction_is_recomputed_as_well() -> None:
    """Else a plant could give something else, and hide it behind a correction of its own making."""
    made, step = village()
    made.send(*made.devices[-1].step(step + 1, 8))
    made.share({step: NEEDS})
    made.block()
    made.share({step: NEEDS | {"ada": 100_000}, step + 1: NEEDS})
    made.block()
    before, after = openings(step), openings(step, ada=100_000)
    both = {place: [*after[place], *before[place]] for place in before}
    newest = rules(made, after | openings(step + 1))
    assert newest == {"recomputed": 1, "sums-only": 1}
    assert rules(made, both | openings(step + 1)) == {"recomputed": 2}


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


def test_lines_stand_in_the_order_of_steps_and_names() -> None:
    known = {
        (10, "ada"): [Opening(UINT_MAX, b"\1" * 32)],
        (9, "bo"): [Opening(0, b"\2" * 32), Opening(0, b"\1" * 32)],
        (9, "ada"): [Opening(7, b"\xab" * 32)],
    }
    text = "".join(encode_openings(known))
    assert text == (
        "step,member,need_uwh,salt\n"
        f"9,ada,7,{'ab' * 32}\n9,bo,0,{'02' * 32}\n9,bo,0,{'01' * 32}\n"
        f"10,ada,{UINT_MAX},{'01' * 32}\n"
    )
    assert decode_openings(text) == known
    assert "".join(encode_openings({})) == f"{HEADER}\n"
    assert decode_openings(HEADER) == {}


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"8,ada,{UINT_MAX + 1},{'00' * 32}", "line 3 is no opening: '8,ada,"),
        (f"8,ada,\u0667,{'00' * 32}", "line 3 is no opening"),
        (f"\u0667,bo,1,{'00' * 32}", "line 3 is no opening"),
        (f"8,ada,,{'00' * 32}", "line 3 is no opening"),
        (f"8,ada,1.5,{'00' * 32}", "line 3 is no opening"),
        (f"8,ada,1,{'00' * 31}0", "line 3 is no opening"),
        (f"8,ada,1,{'00' * 32},", "line 3 is no opening"),
        ("", "line 3 is no opening: ''"),
        (f"8,ada,1,{'00' * 33}", "line 3: a salt of another length"),
        ("8,ada,1,", "line 3: a salt of another length"),
        (f"7,ada,1,{'00' * 32}", "line 3: a salt of another length, or an opening twice"),
    ],
)
def test_the_line_that_is_no_opening_is_named(line: str, words: str) -> None:
    with refusing(Reason.MALFORMED, words):
        decode_openings(f"{HEADER}\n7,ada,1,{'00' * 32}\n{line}\n9,ada,1,{'00' * 32}\n")
    for text in ("", "step,member,need,salt\n"):
        with refusing(Reason.MALFORMED, f"the first line is not {HEADER}"):
            decode_openings(text)
