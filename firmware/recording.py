"""A line as it was recorded: bytes of any logger, or what a tape of this program holds of it. No
file is opened here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from json import loads
from typing import Any

from cryptometer import cbor
from cryptometer.errors import Rejected
from firmware.tape import Answer, decode_said
from hal.index.reading import Reading, Refusal

LINE_BYTES_MAX = 4 * 2**20  # over an hour of 9600 baud: some seconds of a processor
TAPE_BYTES_MAX = 64 * 2**20  # of a tape, whatever of it is the line
SAID_MAX = 10_000  # readings and refusals of a tape


@dataclass(frozen=True, slots=True)
class Recording:
    """A line as it was recorded.

    Attributes:
        data: its bytes.
        looks: where each look at the line ended in them, and its monotonic time (ns); none where
            times are not known.
        said: what the driver made of it at the time.
        source: the table `[source]` under which it was recorded; empty if that is not known.
        is_cut: it is longer than was read.
        is_tape: it is a tape of this program.
    """

    data: bytes = b""
    looks: tuple[tuple[int, int], ...] = ()
    said: tuple[Reading | Refusal, ...] = ()
    source: dict[str, Any] = field(default_factory=dict)
    is_cut: bool = False
    is_tape: bool = False


_SETTINGS = 2  # of a `Life`, the configuration as JSON
_HEX_DUMP = re.compile(rb"\s*(?:[0-9A-Fa-f]{2}[\s,:]*)+")


def recording_of(data: bytes) -> Recording:
    """Bytes as any logger wrote them; also as pairs of hexadecimal digits."""
    if data and _HEX_DUMP.fullmatch(data):
        data = bytes.fromhex(re.sub(rb"[\s,:]", b"", data).decode("ascii"))
    return Recording(data[:LINE_BYTES_MAX], is_cut=len(data) > LINE_BYTES_MAX)


def recording_of_tape(payloads: Iterable[bytes]) -> Recording:
    """What a tape of `capture` or `run --capture` holds of the line, from the payloads of its
    frames. What cannot be read ends it."""
    reel = _Reel()
    taken = 0
    is_cut = False
    for payload in payloads:
        taken += len(payload)
        if len(reel.data) > LINE_BYTES_MAX or len(reel.said) > SAID_MAX or taken > TAPE_BYTES_MAX:
            is_cut = True
            break
        if not reel.take(payload):
            break
    looks = tuple(one for one in reel.looks if one[0] <= LINE_BYTES_MAX)
    data = bytes(reel.data[:LINE_BYTES_MAX])
    said = tuple(reel.said[:SAID_MAX])
    return Recording(data, looks, said, reel.source, is_cut, is_tape=True)


class _Reel:
    """A tape, as far as it concerns the line."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.looks: list[tuple[int, int]] = []
        self.said: list[Reading | Refusal] = []
        self.source: dict[str, Any] = {}
        self._machine_ns = 0
        self._newest_ns = 0  # of all lives: another boot's times begin anew

    def take(self, payload: bytes) -> bool:
        """Takes one payload; whether it could be read."""
        try:
            match cbor.decode(payload):
                case dict() as life:
                    self._machine_ns = 0
                    self.source = _source_of(life)
                case list() as answers:
                    for one in answers:
                        self._answer(one)
                case _:
                    return False
        except Rejected:
            return False
        return True

    def _answer(self, answer: Any) -> None:
        match answer:
            case [Answer.MACHINE, int(passed)]:
                self._machine_ns += passed
            case [Answer.SPOKE, bytes(raw), *said]:
                self._put(raw)
                heard = map(decode_said, said)
                self.said += (one for one in heard if isinstance(one, Reading | Refusal))
            case [Answer.RAW, bytes(raw), *_]:
                self._put(raw)

    def _put(self, raw: bytes) -> None:
        if raw:
            self.data += raw
            self._newest_ns = max(self._newest_ns + len(raw), self._machine_ns)
            self.looks.append((len(self.data), self._newest_ns))


def _source_of(life: dict[int, Any]) -> dict[str, Any]:
    try:
        source = loads(life[_SETTINGS])["source"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return source if isinstance(source, dict) else {}
