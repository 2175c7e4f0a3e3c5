"""The arithmetic of agreements: what every rule keeps, and the examples people know."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from cryptometer.records import Agreement, Claim, Method
from cryptometer.sharing import Outcome, apportion, share
from tests.core.strategies import examples

KWH = 10**9
MEMBERS = ("ana", "bob", "cleo", "dan", "eve")
METERS = ("barn", "roof", "wind")
SHARES = (None, Fraction(1, 3), Fraction(1, 50), Fraction(1, 2))


def agreement(method: Method, *claims: Claim, capped: bool = False, times: int = 1) -> Agreement:
    return Agreement(
        1, bytes(32), "plant", 1, method, capped, times, claims, "grid", are_losses_stated=False
    )


def keys(**weights: int) -> tuple[Claim, ...]:
    return tuple(Claim(name, weight, 0) for name, weight in weights.items())


@dataclass(frozen=True)
class Case:
    """A step: an agreement and everything that its rule asks for."""

    agreement: Agreement
    energy: Mapping[str, int]
    needs: Mapping[str, int] | None
    coefficients: tuple[int, ...]
    losses_uwh: int | None

    def outcome(self) -> Outcome:
        return share(self.agreement, self.energy, self.needs, self.coefficients, self.losses_uwh)

    def given(self) -> dict[str, int]:
        return dict(zip(self.agreement.members, self.outcome().given, strict=True))


AMOUNTS = st.one_of(st.integers(0, 12), st.integers(0, 5 * KWH), st.integers(0, 2**50))
WEIGHTS = st.one_of(st.integers(0, 3), st.integers(0, 2**32))
CLAIMS = st.lists(
    st.builds(
        Claim,
        st.sampled_from(MEMBERS),
        WEIGHTS,
        st.integers(0, 2),
        st.one_of(st.none(), st.none(), st.sampled_from(METERS)),
    ),
    min_size=1,
    max_size=9,
)


@st.composite
def cases(draw: st.DrawFn, methods: tuple[Method, ...] = tuple(Method)) -> Case:
    stated = draw(st.booleans())
    terms = replace(
        agreement(
            draw(st.sampled_from(methods)),
            *draw(CLAIMS),
            capped=draw(st.booleans()),
            times=draw(st.integers(1, 4)),
        ),
        are_losses_stated=stated,
        losses=None if stated else draw(st.sampled_from(SHARES)),
        fee=draw(st.sampled_from(SHARES)),
    )
    names = draw(st.lists(st.sampled_from(METERS), unique=True))
    energy = {name: draw(AMOUNTS) for name in names}
    total = sum(energy.values())
    most = total - int(total * (terms.fee or 0))
    return Case(
        terms,
        energy,
        {member: draw(AMOUNTS) for member in terms.members} if terms.needs_consumption else None,
        tuple(draw(WEIGHTS) for _ in terms.claims) if terms.method is Method.COEFFICIENTS else (),
        draw(st.integers(0, most)) if stated else None,
    )


@given(st.integers(0, 2**60), st.lists(WEIGHTS, max_size=8))
@examples(300)
def test_parts_are_exact_to_less_than_one_and_add_up(total: int, weights: list[int]) -> None:
    parts = apportion(total, weights)
    assert sum(parts) == (total if any(weights) else 0)
    for part, weight in zip(parts, weights, strict=True):
        exact = Fraction(total * weight, sum(weights) or 1)
        assert exact - 1 < part < exact + 1


def test_what_rounding_leaves_goes_to_the_greatest_remainders_then_to_the_earlier_place() -> None:
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(5, [7, 2, 2]) == [3, 1, 1]
    assert apportion(1, [1, 5, 5]) == [0, 1, 0]
    assert apportion(9, [0, 0]) == [0, 0]
    assert apportion(9, []) == []


@given(cases())
@examples(400)
def test_every_rule_gives_all_of_the_energy_and_no_one_less_than_nothing(case: Case) -> None:
    outcome = case.outcome()
    assert outcome.energy_uwh == sum(case.energy.values())
    assert min(*outcome.given, outcome.losses_uwh, outcome.fee_uwh, outcome.surplus_uwh) >= 0


@given(cases())
@examples(400)
def test_where_consumption_is_a_cap_nobody_gets_more(case: Case) -> None:
    if case.needs is not None:
        for member, part in case.given().items():
            assert part <= case.needs[member]


@given(cases(), st.integers())
@examples(400)
def test_the_order_of_claims_and_of_what_is_handed_in_changes_nothing(
    case: Case, seed: int
) -> None:
    order = list(range(len(case.agreement.claims)))
    Random(seed).shuffle(order)
    other = replace(
        case,
        agreement=replace(
            case.agreement, claims=tuple(case.agreement.claims[place] for place in order)
        ),
        energy=dict(reversed(list(case.energy.items()))),
        needs=None if case.needs is None else dict(reversed(list(case.needs.items()))),
        coefficients=tuple(case.coefficients[place] for place in order if case.coefficients),
    )
    assert other.outcome() == case.outcome()
