"""Where each step's energy went, and what each account has of it."""

import csv
from fractions import Fraction

import pytest

from cryptometer.sharing_records import Method
from gateway.exports.gathering import Gathered
from gateway.exports.settlement import settlement_csv
from tests.core.community import PULSE_UWH, Village
from tests.gateway.exports.golden import SOURCE, is_golden

MEMBERS = ("ann", "max")


def settled() -> tuple[Village, int]:
    """A village whose fee goes to the cooperative in the first three steps and to the town behind
    them. The first step has late energy and a correction out of its surplus, the second brings
    nothing, the third and the last but one are shared, nobody is heard in the last but two, and the
    last one waits."""
    village = Village(meters=2)
    village.add_members(*MEMBERS, "grid")
    village.block()
    village.agree(*MEMBERS, method=Method.PRO_RATA, capped=True, fee=Fraction(1, 10), fee_to="coop")
    village.block()
    first = village.next_step
    m0, m1 = village.devices

    def used(step: int, amount: int) -> dict[int, dict[str, int]]:
        return {first + step: dict.fromkeys(MEMBERS, amount * PULSE_UWH)}

    village.send(m0.run_start(first), m1.run_start(first), *m0.step(first, 8, 8, 4))
    village.share(used(0, 5))
    village.block()
    village.send(*m1.step(first, 8, 2), *m0.step(first + 1), *m1.step(first + 1))
    village.share(used(0, 11))
    village.block()
    village.send(*m0.step(first + 2, 8), *m1.step(first + 2, 2))
    village.agree(
        "ann",
        method=Method.PRO_RATA,
        capped=True,
        losses=Fraction(1, 5),
        fee=Fraction(1, 10),
        fee_to="town",
        surplus_to="retailer",
    )
    village.share(used(2, 1))
    village.block()
    village.block()
    village.send(*m0.step(first + 4, 8), *m1.step(first + 4, 2))
    village.share({first + 4: {"ann": 4 * PULSE_UWH}})
    village.block()
    village.send(*m0.step(first + 5, 3), *m1.step(first + 5))
    village.block()
    return village, first


@pytest.fixture(scope="module")
def text() -> str:
    village, first = settled()
    gathered = Gathered(range(first, first + 7), dict.fromkeys(registrations(village), "MID"))
    for checked in village.checked:
        gathered.take(checked)
    return settlement_csv(gathered.accounts(village.state), SOURCE)


def registrations(village: Village) -> list[bytes]:
    return [one.registration for meter in village.state.meters.values() for one in meter.terms]


def test_the_file_is_the_golden_one(text: str) -> None:
    assert is_golden("settlement.csv", text)


def test_what_was_produced_is_what_went_somewhere_in_each_step(text: str) -> None:
    rows = list(csv.DictReader(line for line in text.splitlines() if line[0] != "#"))
    assert len(rows) == 6, "a step without a block has no line"
    places = ("members_uwh", "losses_uwh", "fee_uwh", "surplus_uwh")
    pulses = [
        [int(row[place]) // PULSE_UWH for place in places] if row["produced_uwh"] else None
        for row in rows
    ]
    assert pulses == [[22, 0, 3, 5], [0, 0, 0, 0], [2, 0, 1, 7], None, [4, 2, 1, 3], None]
    for row in rows:
        if row["produced_uwh"]:
            assert int(row["produced_uwh"]) == sum(int(row[place]) for place in places)
    assert [row["waiting_uwh"] for row in rows] == ["0", "0", "0", "", "0", str(3 * PULSE_UWH)]
    first, late = int(rows[0]["first_block"]), int(rows[0]["last_block"])
    assert (first, late) == (int(rows[0]["step"]), int(rows[0]["step"]) + 1)


def test_each_account_has_its_sum_whoever_had_it_before(text: str) -> None:
    [said] = [line for line in text.splitlines() if line.startswith("# in all, uWh: ")]
    sums = dict(part.rsplit(" ", 1) for part in said.removeprefix("# in all, uWh: ").split(", "))
    assert {what: int(amount) // PULSE_UWH for what, amount in sums.items()} == {
        "produced": 50,
        "to members": 28,
        "losses": 2,
        "fee to coop": 4,
        "fee to town": 1,
        "surplus to grid": 12,
        "surplus to retailer": 3,
        "waiting": 3,
    }
