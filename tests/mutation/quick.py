"""Makes a test run quick that is repeated for each change: a pytest plugin for changed code only.

What is quick to run comes first, and a failing example is not made smaller, for only the verdict is
read. With FEW_EXAMPLES in the environment, property tests try that many at most.
"""

import os

import pytest
from hypothesis import HealthCheck, Phase, is_hypothesis_test, settings

from tests.core import strategies

_COUNT_MAX = int(os.environ.get("FEW_EXAMPLES", "1000000"))


def _examples(count: int) -> settings:
    return settings(max_examples=min(count, _COUNT_MAX))


def pytest_configure() -> None:
    settings.register_profile(
        "mutation",
        max_examples=min(100, _COUNT_MAX),
        phases=[Phase.explicit, Phase.generate],
        derandomize=True,  # the same change gets the same verdict
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutation")
    strategies.examples = _examples


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: is_hypothesis_test(getattr(item, "obj", None)))
