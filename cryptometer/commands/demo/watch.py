"""What an onlooker knows of a running community: from the simulators' logs, the broker and the
gateway's log. Nothing of it is asked when the result is judged: that is the audit's."""

import re
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from cryptometer import records
from cryptometer.chain_records import Batch, StepClose
from cryptometer.commands.demo.processes import Tail
from cryptometer.errors import Rejected
from hal.ports import Connection, Message

BLOCKS_SHOWN = 8
_EVENTS_MAX = 1_000
_BLOCK = re.compile(
    r"block step=(?P<step>\d+) records=(?P<records>\d+) heard=(?P<heard>\d+/\d+)"
    r" late=(?P<late>\d+) (?P<punctual>punctuality_ms=\d+|caught up) size=(?P<size>\d+)"
)
_PUNCTUALITY = "punctuality_ms="


@dataclass(slots=True)
class MeterView:
    """One meter, counted since the start."""

    emitted: int = 0
    signed: int = 0
    lots: int = 0
    closes: int = 0
    sequence: int = -1


@dataclass(frozen=True, slots=True)
class BlockView:
    """One block. `punctual` is in community and in machine time, or says why there is none."""

    step: int
    records: int
    heard: str
    late: int
    punctual: str
    size: int


@dataclass(slots=True)
class Watch:
    """Reads what has come since the last look. Community time is `speed` times the machine's."""

    connection: Connection
    simulators: dict[str, Tail]
    gateway: Tail
    speed: int
    meters: dict[str, MeterView] = field(default_factory=dict)
    blocks: deque[BlockView] = field(default_factory=lambda: deque(maxlen=BLOCKS_SHOWN))
    newest_step: int = -1

    def look(self) -> list[BlockView]:
        """Takes in what is new; returns the new blocks."""
        for name, tail in self.simulators.items():
            view = self.meters.setdefault(name, MeterView())
            view.emitted += sum(not line.startswith("#") for line in tail.lines())
        for event in self.connection.drain(_EVENTS_MAX):
            if isinstance(event, Message):
                self._take(event.payload)
                self.connection.confirm(event.token)
        fresh = [block for line in self.gateway.lines() if (block := _read_block(line, self.speed))]
        for block in fresh:
            self.blocks.append(block)
            self.newest_step = max(self.newest_step, block.step)
        return fresh

    def _take(self, payload: bytes) -> None:
        try:
            body = records.decode(payload).body
        except Rejected:
            return
        if not isinstance(body, Batch | StepClose):
            return
        view = self.meters.get(body.meter)
        if view is None or body.sequence <= view.sequence:
            return  # sent again
        view.sequence = body.sequence
        if isinstance(body, Batch):
            view.lots += len(body.pulses)
            view.signed += sum(body.pulses)
        else:
            view.closes += 1


@dataclass(frozen=True, slots=True)
class Emitted:
    """What a simulator that has ended states.

    Attributes:
        emitted: pulses given to the kernel.
        overflow: pulses that found the line's buffer full, and were not.
        unread: of those emitted, the ones nobody had read when the line was closed.
    """

    emitted: int
    overflow: int
    unread: int


def read_emitted(log: Path) -> Emitted:
    """Reads the last lines of a simulator's log."""
    stated = {"emitted": 0, "overflow": 0, "unread": 0}
    for line in log.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[0] == "#" and words[1] in stated:
            stated[words[1]] = int(words[2])
    return Emitted(**stated)


def _read_block(line: str, speed: int) -> BlockView | None:
    found = _BLOCK.search(line)
    if found is None:
        return None
    punctual = found["punctual"]
    if punctual.startswith(_PUNCTUALITY):
        community_ms = int(punctual.removeprefix(_PUNCTUALITY))
        punctual = f"{community_ms / 1000:.1f} s, real {community_ms // speed} ms"
    return BlockView(
        int(found["step"]),
        int(found["records"]),
        found["heard"],
        int(found["late"]),
        punctual,
        int(found["size"]),
    )
