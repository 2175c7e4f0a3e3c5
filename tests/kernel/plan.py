"""What the guest and the machine around it agree on: what a boot is to do, and what it tells."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Self

STATE = Path("/mnt/state")  # in the guest: the device's folder, on the disk of its own
TALK = Path("/mnt/talk")  # a folder that the machine around it shares: each write is there at once
PLAN, STORY, PULSES, SAID = "plan.json", "story", "pulses", "said"
EDGES = "edges"  # of a line beside, as the kernel told them: a time in ns and 1 or 0, a line each
NS_BYTES = 8  # in PULSES: when a pulse began, guest's CLOCK_MONOTONIC, little-endian
PULSES_PORT = 0xE9  # of the processor; each byte that the guest puts there stands in PULSES
# Of the chip; the counter's is also told in wired.c.
LINE, COUNTER_LINE, WITNESS, RECORDED = 3, 4, 5, 6
COUNTER = Path("/sys/bus/counter/devices/counter0/count0")
EVENTS_MAX = 1024  # gpiolib-cdev.c, as hal.gpio_line: told here by the test, not by the product


class Play(StrEnum):
    """What a boot is there for."""

    LIMITS = "limits"  # pulses as fast as they are taken, a full buffer, one that overflows
    CUT = "cut"  # pulses without end, each told before it begins
    REST = "rest"  # no more pulses: the last step is closed, the program ends in order
    RACE = "race"  # edges that no one waits for, on several cores
    BESIDE = "beside"  # pulses while the program is away, and a counter beside the line
    S0 = "s0"  # pulses as a contact of S0 makes them, and some while the program stands still


@dataclass(frozen=True, slots=True)
class Plan:
    """One boot.

    Attributes:
        source: the table `[source]`, TOML.
        edges: that one pulse has, of those that the driver asks for.
        speed: community seconds in a machine second.
        origin_ms: community time when the guest's monotonic clock began.
        sync_ms: `sync_machine_ms`.
        pulses: how many are emitted, where they are counted.
        gap_ms: between two pulses of CUT, at least.
        stalled: pulses of S0 while the program stands still, after the others.
        is_synced: false for a program that skips every fsync, as a defect would.
        is_tuned: false for a configuration that says nothing beyond the source: the system's clock,
            and all that is by default.
    """

    play: Play
    source: str
    edges: int
    speed: int
    origin_ms: int
    sync_ms: int = 1_000
    pulses: int = 4_000
    gap_ms: float = 4.0
    stalled: int = 0
    is_synced: bool = True
    is_tuned: bool = True

    def encode(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def decode(cls, text: str) -> Self:
        fields = json.loads(text)
        return cls(**{**fields, "play": Play(fields["play"])})


def read_story(text: str) -> dict[str, int]:
    """What a boot has told so far: words with a number each; the newest of a word counts, and a
    line that is not whole does not."""
    whole = text[: text.rfind("\n") + 1]
    pairs = [line.split("=") for line in whole.splitlines()]
    return {word: int(number) for word, number in pairs}
