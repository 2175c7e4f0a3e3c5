"""What holds for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.tokens import SoftToken

# Machines are shared: an example that took long says nothing. One that fails is printed, with what
# repeats it.
settings.register_profile(
    "shared", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
settings.load_profile("shared")

_SYSTEM = Path(__file__).with_name("system")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of real processes mostly wait: each worker begins with its part of them, module by
    module, or the last ones would wait alone while no core has work."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    slow: dict[Path, list[pytest.Item]] = {}
    quick: list[pytest.Item] = []
    for item in items:
        if _SYSTEM in item.path.parents:
            slow.setdefault(item.path, []).append(item)
        else:
            quick.append(item)
    modules = list(slow.values())
    size = -(-len(quick) // workers)
    items[:] = [
        item
        for worker in range(workers)
        for part in (*modules[worker::workers], quick[worker * size : (worker + 1) * size])
        for item in part
    ]


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    """A token of this test's own."""
    token = SoftToken(tmp_path / "hsm", monkeypatch)
    yield token
    token.close()
