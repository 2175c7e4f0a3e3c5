"""What every table `[source]` of a meter that speaks says, whatever it speaks."""

from collections.abc import Mapping
from dataclasses import dataclass, fields

from cryptometer.settings import read_settings, setting
from hal.index.reading import Register

INDEX_SOURCES = ("linky", "p1", "d0", "sml", "dlms", "dlms-push", "modbus", "sim-index")


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSettings:
    """The keys that come beside a driver's own."""

    register: Register = setting(
        "which of the meter's registers counts: import, taken from the grid; export, given to it"
    )
    identity: str = setting(
        "the meter's number as it states it itself: messages of another one are refused; without"
        " it the first that is believed decides",
        "",
    )
    settle_machine_ms: int = setting(
        "a step is closed so long after its end: a message that began before may still be coming",
        2_500,
    )


def is_index_source(table: Mapping[str, object]) -> bool:
    """Whether a table `[source]` is of a meter that says its index itself."""
    return table.get("driver") in INDEX_SOURCES


def split_settings(
    table: Mapping[str, object], where: str
) -> tuple[IndexSettings, dict[str, object]]:
    """What every such table says, and the rest of it.

    Args:
        table: what `tomllib` gave.
        where: its name, for messages.

    Raises:
        ConfigurationError: a key is missing, or its value is wrong.
    """
    common = {part.name for part in fields(IndexSettings)}
    own = {name: value for name, value in table.items() if name in common}
    rest = {name: value for name, value in table.items() if name not in common}
    return read_settings(IndexSettings, own, where), rest
