"""Settings: every key known, every value of its type, every message a help."""

from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryptometer.errors import ConfigurationError
from cryptometer.settings import read_settings, setting
from tests.core.strategies import examples


class Level(StrEnum):
    LOW = "low"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class Inner:
    depth_mm: int = setting("how deep it lies", 5)


@dataclass(frozen=True, slots=True)
class Strict:
    port: int = setting("the port it listens at")


@dataclass(frozen=True, slots=True)
class Outer:
    """One field of each kind."""

    name: str = setting("what it is called")
    inner: Inner = setting("a table")
    speed: float = setting("how fast it is", 1.5)
    count: int = setting("how many there are", 3)
    wanted: bool = setting("whether it is wanted", False)
    level: Level = setting("how high it is", Level.LOW)
    maybe: Strict | None = setting("a table that may be missing", None)
    title: str | None = setting("what it is also called", None)
    free: dict[str, str] = setting("names that the user chooses", None)


def read(**table: Any) -> Outer:
    return read_settings(Outer, {"name": "n"} | table, "[outer]")


def test_defaults_stand_in_for_what_is_not_given() -> None:
    assert read() == Outer("n", Inner(5), 1.5, 3, False, Level.LOW, None, None)


def test_everything_can_be_given() -> None:
    given_all = read(
        speed=2.0, count=7, wanted=True, level="high", inner={"depth_mm": 9},
        maybe={"port": 1}, title="t", free={"a": "b"},
    )  # fmt: skip
    assert given_all == Outer("n", Inner(9), 2.0, 7, True, Level.HIGH, Strict(1), "t", {"a": "b"})
    assert type(given_all.level) is Level


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"cuont": 1}, ["[outer]", "'cuont'", "did you mean 'count'?"]),
        ({"zzz": 1}, ["'zzz'", "known are: name, inner, speed"]),
        ({"inner": {"depth": 1}}, ["[outer] inner", "did you mean 'depth_mm'?"]),
        ({"maybe": {}}, ["[outer] maybe lacks 'port': the port it listens at"]),
        ({"count": "1"}, ["[outer] count is of type int, not '1'"]),
        ({"count": True}, ["[outer] count is of type int, not True"]),
        ({"count": 1.0}, ["type int"]),
        ({"speed": 1}, ["type float"]),
        ({"wanted": 1}, ["type bool"]),
        ({"name": 1}, ["type str"]),
        ({"title": 1}, ["[outer] title is of type str"]),
        ({"level": "medium"}, ["[outer] level is one of low, high, not 'medium'"]),
        ({"level": 1}, ["one of low, high"]),
        ({"level": ["low"]}, ["one of low, high"]),
        ({"inner": 1}, ["[outer] inner is a table"]),
        ({"maybe": "x"}, ["[outer] maybe is a table"]),
        ({"free": 1}, ["[outer] free is a table"]),
    ],
)
def test_a_wrong_setting_is_refused_with_its_name_and_what_helps(
    table: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read(**table)
    for word in words:
        assert word in str(refused.value), refused.value


def test_a_missing_setting_is_named_with_its_meaning() -> None:
    with pytest.raises(ConfigurationError, match=r"\[outer\] lacks 'name': what it is called"):
        read_settings(Outer, {}, "[outer]")


@pytest.mark.parametrize("default", [{}, []])
def test_a_default_that_could_change_is_a_fault_of_ours(default: Any) -> None:
    with pytest.raises(TypeError, match="immutable"):
        setting("doc", default)


toml = st.recursive(
    st.integers() | st.text(max_size=5) | st.booleans() | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = ["name", "speed", "count", "wanted", "level", "inner", "maybe", "title", "free", "other"]


@examples(300)
@given(st.dictionaries(st.sampled_from(NAMES), toml))
def test_any_table_is_read_or_refused(table: dict[str, Any]) -> None:
    with suppress(ConfigurationError):
        settings = read_settings(Outer, table, "[outer]")
        assert {type(settings.count), type(settings.wanted)} == {int, bool}
