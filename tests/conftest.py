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


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SoftToken]:
    """A token of this test's own."""
    token = SoftToken(tmp_path / "hsm", monkeypatch)
    yield token
    token.close()
