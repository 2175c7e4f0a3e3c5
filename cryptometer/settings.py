"""From a TOML table to a frozen dataclass: every field documented, every unknown key an error."""

import difflib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, TypeVar

from cryptometer.errors import ConfigurationError

T = TypeVar("T")


def setting(doc: str, default: Any = MISSING) -> Any:
    """A field of a settings class: what it means, and its default if it has one.

    A number's unit stands last in its name; a duration's name also says which time it is:
    `_community_ms` runs with the community's clock, `_machine_ms` with the machine's.
    """
    metadata = {"doc": doc}
    if isinstance(default, dict | list):
        raise TypeError("defaults are immutable")
    return field(default=default, metadata=metadata)


def read_settings(cls: type[T], table: Mapping[str, object], where: str) -> T:
    """Reads a parsed TOML table into `cls`; nested dataclasses are nested tables.

    Args:
        cls: a frozen dataclass of `setting` fields.
        table: what `tomllib` gave.
        where: the table's name, for messages.

    Raises:
        ConfigurationError: an unknown key (naming the nearest known one), a missing key, or a
            value of another type.
    """
    hints = typing.get_type_hints(cls)
    known = {part.name: part for part in fields(cls)}  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are: {', '.join(known)}"
            raise ConfigurationError(f"{where} has no setting {key!r}; {hint}")
    values: dict[str, object] = {}
    for name, part in known.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where} {name}")
        elif is_dataclass(hints[name]) and part.default is MISSING:
            values[name] = read_settings(hints[name], {}, f"{where} {name}")
        elif part.default is MISSING and part.default_factory is MISSING:
            raise ConfigurationError(f"{where} lacks {name!r}: {_doc(part)}")
    return cls(**values)


def _value(kind: Any, value: object, where: str) -> object:
    if isinstance(kind, types.UnionType):
        kind = next(one for one in kind.__args__ if one is not types.NoneType)
    kind = typing.get_origin(kind) or kind  # dict[str, ...] is a dict
    if is_dataclass(kind) and isinstance(kind, type):
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where} is a table")
        return read_settings(kind, value, where)
    if issubclass(kind, StrEnum):
        if value not in list(kind):
            raise ConfigurationError(f"{where} is one of {', '.join(kind)}, not {value!r}")
        return kind(value)
    if kind is dict:
        if not isinstance(value, dict):
            raise ConfigurationError(f"{where} is a table")
        return value
    if type(value) is not kind:  # a bool is no int here
        raise ConfigurationError(f"{where} is of type {kind.__name__}, not {value!r}")
    return value


def _doc(part: "Field[Any]") -> str:
    return str(part.metadata.get("doc", ""))
