"""One way in for bytes or text, from outside or from disk, and what it must refuse.

A target reads one input as the program would, and judges what was let through: it must be written
again to the same bytes, be signed by whoever it says, be no mutated form of a signed record, and
leave everything as it was where it is refused. What is wrong raises FalseAcceptance.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from cryptometer.errors import ConfigurationError, Reason, Rejected
from tests.fuzz.scene import (
    FalseAcceptance,
    World,
    honest,
    rogue,
)

BY_MESSAGE = (Rejected, ConfigurationError)  # where the reader is a command

# What one input may cost. The judging is in it too, and a first call makes whole communities.
CPU_S, CPU_S_PER_BYTE = 2.0, 20e-6
MEMORY_BYTES, MEMORY_PER_BYTE = 16 * 2**20, 160  # an empty list is one byte of CBOR, 64 of memory

Seeds = Callable[[], list[bytes]]


class TooDear(AssertionError):  # noqa: N818 - a verdict on our code, told in its own word
    """An input cost more than its size allows."""


@dataclass(frozen=True, slots=True)
class Target:
    """One way in.

    Attributes:
        name: of its folder in the corpus.
        covers: the functions it reaches, as module.function.
        read: reads an input, judges what it lets through; raises one of `refusals`, or
            FalseAcceptance.
        seeds: valid inputs.
        refusals: what a reader may raise, and nothing else.
    """

    name: str
    covers: tuple[str, ...]
    read: Callable[[bytes], None]
    seeds: Seeds
    refusals: tuple[type[Exception], ...] = (Rejected,)

    def accepts(self, data: bytes, patience: float = 1.0) -> bool:
        """Whether `data` is let through; raises what shows a fault.

        Args:
            data: the input.
            patience: how many times the bound on processor time is granted.

        Raises:
            FalseAcceptance: it should not have been.
            TooDear: it took more processor time than its size allows.
        """
        begun = time.thread_time()
        try:
            self.read(data)
        except self.refusals:
            accepted = False
        else:
            accepted = True
        spent_s = time.thread_time() - begun
        if spent_s > patience * (CPU_S + CPU_S_PER_BYTE * len(data)):
            raise TooDear(f"{len(data)} bytes took {spent_s:.2f} s")
        return accepted


def same(data: bytes, again: bytes) -> None:
    if data != again:
        raise FalseAcceptance(f"{data.hex()} was read as {again.hex()}")


def text_of(data: bytes) -> str:
    """Files of text are read as UTF-8, and refused otherwise, before any of our code sees them."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Rejected(Reason.MALFORMED, "no UTF-8") from None


def in_either(read: Callable[[World], None]) -> None:
    """Reads as either community would; refused if both refuse."""
    refused: Rejected | None = None
    for world in (honest(), rogue()):
        try:
            read(world)
        except Rejected as error:
            refused = error if refused is None else refused
        else:
            return
    assert refused is not None
    raise refused


def of_both(make: Callable[[World], list[bytes]]) -> Seeds:
    return lambda: [*make(honest()), *make(rogue())]


def scratch(name: str, data: bytes) -> Path:
    """A file with this content, readable by its owner only, for readers that open files."""
    file = Path(_folder().name) / name
    file.write_bytes(data)
    file.chmod(0o600)
    return file


@lru_cache(maxsize=1)
def _folder() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="cryptometer-fuzz-")
