"""Six days of what `make month` lives through, around the night on which clocks are put back."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.simulation.month import SHORT, folder_parent, run


def test_what_members_have_after_some_days_is_what_the_facts_give_by_another_reckoning() -> None:
    with TemporaryDirectory(dir=folder_parent()) as folder:
        outcome = run(SHORT, Path(folder))
    assert outcome.quarters == 100, "clocks are put back within these days"
    assert outcome.blocks == 5 * 96 + 100 + 3, "two before, and one behind"
    assert outcome.supplements > outcome.corrections > 0
    everything = outcome.allotted + outcome.surplus + outcome.waiting
    assert everything + outcome.losses + outcome.fees == outcome.produced
    assert min(outcome.surplus, outcome.waiting, outcome.losses, outcome.fees) > 0
