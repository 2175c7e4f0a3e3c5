"""The simulation can fail: every defect put into the product on purpose breaks a promise, one that
it is known to break; the same days without it hold.
"""

import pytest

from tests.simulation import chaos
from tests.simulation.community import Broken
from tests.simulation.mutations import MUTATIONS, Mutation

SEEDS_MAX = 12


def _broken_by(mutation: Mutation) -> tuple[int, Broken]:
    """The first seed that shows the defect, and what it shows."""
    for seed in range(mutation.first, mutation.first + SEEDS_MAX):
        try:
            with mutation.applied():
                chaos.run(seed, mutation.steps, rate=mutation.rate)
        except Broken as broken:
            return seed, broken
    pytest.fail(f"{mutation.what}, and no promise broke")


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda one: one.what.replace(" ", "-"))
def test_a_defect_breaks_a_promise_and_the_same_days_without_it_hold(mutation: Mutation) -> None:
    seed, broken = _broken_by(mutation)
    assert broken.promise in mutation.promises, f"{mutation.what}: {broken}"
    assert str(broken).startswith(f"promise {broken.promise}: ")
    chaos.run(seed, mutation.steps, rate=mutation.rate)
