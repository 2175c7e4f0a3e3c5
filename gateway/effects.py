"""What a node asks of its shell: ordered values, done one after another."""

from dataclasses import dataclass
from typing import TypeAlias

from gateway.store import BlockRow


@dataclass(frozen=True, slots=True)
class Publish:
    """Send a message to the broker."""

    topic: str
    payload: bytes
    retain: bool = True


@dataclass(frozen=True, slots=True)
class Confirm:
    """Tell the broker that a message is done with."""

    token: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Sealed:
    """A block was committed and its files are published; the shell calls `Node.published`.

    Attributes:
        since_ms: the later of the step's end and the last close received, UTC ms.
    """

    row: BlockRow
    since_ms: int


@dataclass(frozen=True, slots=True)
class Say:
    """Tell the operator; said once for each cause."""

    text: str


Effect: TypeAlias = Publish | Confirm | Sealed | Say
