"""What the tests of the board share."""

from collections.abc import Iterator

import pytest

from tests.simulation.world import World


@pytest.fixture
def world() -> Iterator[World]:
    """One board, its broker and its gateway, in simulated time."""
    world = World(1, boards=1)
    yield world
    world.close()
