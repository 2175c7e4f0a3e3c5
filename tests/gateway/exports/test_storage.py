"""A battery as a consumer when it charges and a producer when it discharges, and whose energy it
holds in between."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.authority_records import Use
from cryptometer.sharing import entitlements
from cryptometer.sharing_records import Claim, Method
from cryptometer.storage import StorageLedger, charge, excesses
from gateway.exports.source import Source
from gateway.exports.storage import StorageBook, storage_csv
from tests.core.community import PULSE_UWH, STEP_S, Village
from tests.core.strategies import examples

KWH = 10**6  # what these examples call a unit, µWh: ten pulses
UNIT = 10


class House:
    """A roof, a battery that gives by a meter of its own, and two members; `ada` has two thirds."""

    def __init__(self, method: Method = Method.KEYS, rounds: int = 2) -> None:
        self.used: dict[int, dict[str, int]] = {}
        self.keys = {"ada": 2, "bo": 1, "battery": 1}
        self.village = Village(0)
        self.roof = self.village.add_meter("roof")
        self.out = self.village.add_meter("battery-out", use=Use.STORAGE)
        self.village.add_members("ada", "bo", "battery")
        self.village.block()
        self.village.agree(
            Claim("ada", 2, 0),
            Claim("bo", 1, 0),
            Claim("battery", 1, 1),
            method=method,
            capped=True,
            rounds=rounds,
        )
        self.village.block()
        step = self.village.next_step
        self.village.send(self.roof.run_start(step), self.out.run_start(step))

    def step(self, roof: int, out: int, **used: int) -> None:
        """The roof and the battery give so many units; members and battery use these."""
        step = self.village.next_step
        needs = {name: amount * KWH for name, amount in used.items()}
        for device, units in ((self.roof, roof), (self.out, out)):
            lots = [5] * (units * UNIT // 5)
            self.village.send(*device.step(step, *lots))
        if roof or out:
            self.used[step] = needs
        self.village.share({step: needs})
        self.village.block()

    def book(self, efficiency: Fraction = Fraction(1)) -> StorageBook:
        book = StorageBook("battery", "battery-out", efficiency)
        for checked in self.village.checked:
            book.take(checked)
        return book


def moved(book: StorageBook) -> list[tuple[str, int]]:
    return [(one.member, one.energy_uwh) for one in book.movements]


def test_what_charges_belongs_to_who_could_not_use_it_and_comes_back_to_him() -> None:
    house = House()
    house.step(6, 0, ada=1, bo=2, battery=9)  # ada is entitled to 4, uses 1; the rest charges
    house.step(0, 2, ada=5, bo=5, battery=0)
    book = house.book()
    assert PULSE_UWH * UNIT == KWH
    assert moved(book) == [("ada", 3 * KWH), ("ada", -2 * KWH)]
    assert book.ledger.balances == {"ada": KWH, "bo": 0}
    # What it gives is a producer's energy, shared by the agreement as any other.
    assert house.village.state.accounts == {
        "ada": KWH + 2 * KWH * 2 // 3,
        "bo": 2 * KWH + 2 * KWH // 3 + 1,
        "battery": 3 * KWH,
    }


def test_losses_are_taken_when_it_charges() -> None:
    house = House()
    house.step(6, 0, ada=1, bo=2, battery=9)
    book = house.book(Fraction(9, 10))
    assert book.ledger.balances["ada"] == 27 * KWH // 10
    assert book.ledger.lost_uwh == 3 * KWH // 10


def test_where_everyone_could_use_his_part_keys_decide() -> None:
    village = Village(1)
    village.add_members("ada", "bo", "battery")
    village.block()
    claims = (Claim("ada", 2, 0), Claim("bo", 1, 0), Claim("battery", 3, 0))
    village.agree(*claims, method=Method.KEYS)
    village.block()
    step = village.next_step
    village.send(village.device.run_start(step), *village.device.step(step, 6))
    village.share()
    village.block()
    book = StorageBook("battery", "m0", Fraction(1))
    for checked in village.checked:
        book.take(checked)
    assert [one for one in moved(book) if one[1] > 0] == [
        ("ada", 2 * PULSE_UWH),
        ("bo", PULSE_UWH),
    ]


@given(
    st.lists(
        st.tuples(st.integers(0, 6), *[st.integers(0, 4)] * 2, st.integers(0, 6)),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([Method.KEYS, Method.EQUAL, Method.PRO_RATA]),
    st.integers(1, 3),
)
@examples(40)
def test_what_members_were_given_says_as_much_as_what_they_consumed(
    days: list[tuple[int, int, int, int]], method: Method, rounds: int
) -> None:
    """Whoever has the ledger reckons the same; whoever is erased, or corrected, changes nothing."""
    house = House(method, rounds)
    for roof, ada, bo, battery in days:
        house.step(roof, 0, ada=ada, bo=bo, battery=battery)
    ledger = StorageLedger()
    for step, needs in house.used.items():
        agreed, settlement = house.village.state.agreed(step), house.village.state.settlements[step]
        assert agreed is not None
        terms = agreed.agreement
        charged = settlement.given(terms)[terms.members.index("battery")]
        if charged:
            energy = {one.meter: one.energy_uwh for one in settlement.brought}
            excess = excesses(entitlements(terms, energy, needs), needs, house.keys, "battery")
            ledger, _ = charge(ledger, charged, excess, Fraction(1))
    assert house.book().ledger == ledger


def test_more_than_it_held_is_nobodys() -> None:
    house = House()
    house.step(0, 2, ada=5, bo=5, battery=0)
    book = house.book()
    assert (book.movements, book.ledger.uncovered_uwh) == ([], 2 * KWH)


@pytest.mark.parametrize("name", ["charge", "discharge"])
def test_the_file_says_each_movement(name: str) -> None:
    house = House()
    house.step(6, 0, ada=1, bo=2, battery=9)
    house.step(0, 2, ada=5, bo=5, battery=0)
    state = house.village.state
    source = Source(state.community, "here", state.checkpoint, state.step, STEP_S)
    text = storage_csv(house.book(), source)
    assert "# charged 3000000, lost 0, discharged 2000000 of which 0 were nobody's, uWh" in text
    assert "# held of members, uWh: ada 1000000, bo 0" in text
    [line] = [line for line in text.splitlines() if f",{name}," in line]
    assert (
        line.split(",")[4:]
        == {
            "charge": ["ada", "3000000", "3000000"],
            "discharge": ["ada", "-2000000", "1000000"],
        }[name]
    )
