"""Time zones by name."""

from datetime import UTC, datetime, timedelta

import pytest

from cryptometer.errors import ConfigurationError
from hal.zone import zone_named


def test_a_zone_has_its_summer_time() -> None:
    summer = datetime(2026, 7, 1, tzinfo=zone_named("Europe/Brussels"))
    assert summer.utcoffset() == timedelta(hours=2)
    assert zone_named("UTC") is UTC


@pytest.mark.parametrize("name", ["", "Europe", "Paris", "../etc/passwd", "/etc/passwd", "a\0b"])
def test_what_is_no_zone_is_said(name: str) -> None:
    with pytest.raises(ConfigurationError, match="there is no time zone"):
        zone_named(name)
