"""The maps of Modbus meters that are shipped, and those of the user."""

from importlib.resources import files
from pathlib import Path

from cryptometer.errors import ConfigurationError
from hal.index.modbus_map import MeterMap, read_map

SUFFIX = ".toml"


def shipped_maps() -> list[str]:
    """The names of the maps that come with the program, sorted."""
    names = (one.name for one in (files("hal.index") / "maps").iterdir())
    return sorted(name.removesuffix(SUFFIX) for name in names if name.endswith(SUFFIX))


def load_map(name: str) -> MeterMap:
    """One of them, or a file of the user's: a name with a slash or an ending is a path.

    Raises:
        ConfigurationError: there is none, or it is wrong.
    """
    if "/" in name or name.endswith(SUFFIX):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read the map {name}: {error}") from None
        return read_map(text, Path(name).stem)
    known = shipped_maps()
    if name not in known:
        raise ConfigurationError(
            f"there is no map {name!r}; there are {', '.join(known)}, and a path leads to another"
        )
    return read_map((files("hal.index") / "maps" / (name + SUFFIX)).read_text("utf-8"), name)
