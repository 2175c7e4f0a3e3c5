"""Members' consumption as a gateway knows it. It never enters the ledger, and it can be erased."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


class Consumption(Protocol):
    """What a VPP is told of consumption."""

    def of(self, step: int) -> Mapping[str, int]:
        """Consumption of a market step by member, in µWh; who lacks is not known."""
        ...

    def salt(self, member: str, step: int, need_uwh: int) -> bytes:
        """The bytes that hide a member's consumption of a step in what the ledger holds of it, of
        each amount other ones: made once, durable before they are returned."""
        ...

    def forgotten(self, members: Collection[str], step: int) -> frozenset[str]:
        """Those of whom nothing will ever be known of the step, since they were erased after it."""
        ...

    def steps_changed_since(self, mark: int) -> tuple[Sequence[int], int]:
        """The steps for which new or corrected consumption came since a mark, in order, and others
        perhaps; and the mark to ask with the next time. 0 is before everything."""
        ...


@dataclass(frozen=True, slots=True)
class Value:
    """One consumption of one step.

    Attributes:
        energy_uwh: 0 or more.
        is_spread: a part of a longer interval that was divided evenly.
        source: the file's digest, or the meter's name, behind "file:" or "meter:".
        received_ms: when it came, ms since the Unix epoch.
    """

    energy_uwh: int
    is_spread: bool
    source: str
    received_ms: int


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a member's step: the newest value, and those it took the place of, oldest
    first."""

    step: int
    value: Value
    earlier: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Correction:
    """Another value than the one that was known, µWh."""

    step: int
    before_uwh: int
    after_uwh: int


@dataclass(frozen=True, slots=True)
class Filed:
    """What became of values that were given.

    Attributes:
        new: steps of which nothing was known.
        same: steps that had the same value already.
        corrections: the others, in order of step.
    """

    new: int
    same: int
    corrections: tuple[Correction, ...]


@dataclass(frozen=True, slots=True)
class Person:
    """Who a member is, as far as somebody has said."""

    display_name: str = ""
    address: str = ""
    contact: str = ""


@dataclass(frozen=True, slots=True)
class Erased:
    """How much of a member was erased.

    Attributes:
        records: that the member's meters had signed.
    """

    values: int
    salts: int
    person: bool
    tokens: int = 0
    records: int = 0
