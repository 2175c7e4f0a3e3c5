"""Time zones by name, from the system's tables or those of the package `tzdata`."""

from datetime import UTC, tzinfo
from zoneinfo import ZoneInfo

from cryptometer.errors import ConfigurationError


def zone_named(name: str) -> tzinfo:
    """The time zone of an IANA name, as "Europe/Paris"; "UTC" needs no tables.

    Raises:
        ConfigurationError: there is none.
    """
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not found, no name, a folder of the tables
        raise ConfigurationError(
            f"there is no time zone {name[:63]!r}: give an IANA name, as Europe/Paris, or UTC;"
            " where none is found, install tzdata"
        ) from None
