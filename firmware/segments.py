"""An append-only log in numbered files, a CRC behind each entry. Knows nothing of its content.

An entry is a frame: length and CRC-32 (4 bytes each, big-endian; the CRC covers length and
payload), then the payload. A file ends where its frames end: what follows is a torn write or
damage, and is set aside, not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from hal.ports import Directory

HEAD_BYTES = 8
_DAMAGED = ".damaged"  # a copy of what was cut off, for whoever investigates; never read again
_COPY_ROOM = 4  # times a copy's size that must be free for it: the next snapshot goes first
DAMAGED_KEPT = 8  # such copies; the oldest go first, so that a dying card does not fill itself


@dataclass(frozen=True, slots=True)
class Position:
    """Where an entry begins. Positions of one log compare in the order of its entries."""

    segment: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Bytes at the end of a file that were no entries."""

    name: str
    size: int


def frame(payload: bytes) -> bytes:
    """An entry as it stands in a file."""
    length = len(payload).to_bytes(4, "big")
    return length + crc32(payload, crc32(length)).to_bytes(4, "big") + payload


def payload_size(head: bytes) -> int:
    """How many bytes follow the first HEAD_BYTES of an entry."""
    return int.from_bytes(head[:4], "big")


def is_whole(head: bytes, payload: bytes) -> bool:
    """Whether an entry is what was written."""
    check = int.from_bytes(head[4:], "big")
    # An empty payload is no entry: a hole of zeros after a power cut would be many.
    return 0 < len(payload) == payload_size(head) and check == crc32(payload, crc32(head[:4]))


class SegmentedLog:
    """A log `<prefix>-<number>.log` in a directory. One writer."""

    def __init__(self, directory: Directory, prefix: str) -> None:
        self._directory = directory
        self._prefix = prefix
        self._sizes = {
            int(name[len(prefix) + 1 : -4]): directory.size(name)
            for name in directory.names()
            if name.startswith(prefix + "-") and name.endswith(".log")
        }
        self._dirty: set[int] = set()

    @property
    def segments(self) -> list[int]:
        """Numbers of the segments there are, oldest first."""
        return sorted(self._sizes)

    @property
    def total_bytes(self) -> int:
        return sum(self._sizes.values())

    @property
    def free_bytes(self) -> int:
        """Room left on the file system."""
        return self._directory.free_bytes()

    @property
    def newest_bytes(self) -> int:
        return self._sizes[max(self._sizes)] if self._sizes else 0

    def size(self, segment: int) -> int:
        """Bytes of a segment, as first seen and written to since."""
        return self._sizes[segment]

    @property
    def is_dirty(self) -> bool:
        """Whether something was appended since the last `sync`."""
        return bool(self._dirty)

    def recover(self, segment: int) -> Cut | None:
        """Cuts a segment where its entries end. Before the first append, for every segment that
        may have been written to last."""
        name = self._name(segment)
        data = self._directory.read(name)
        # What an earlier process wrote may not be durable yet: the next `sync` covers it.
        self._dirty.add(segment)
        end = 0
        for position, _ in self._frames(segment, data, 0):
            end = position.offset + position.size
        if end == len(data):
            return None
        self._keep_damaged(name, data[end:])
        self._directory.truncate(name, end)
        self._sizes[segment] = end
        return Cut(name, len(data) - end)

    def append(self, payloads: list[bytes]) -> list[Position]:
        """Adds entries in one write to the newest segment: given once it returns, not durable.

        Raises:
            OSError: the write failed; stop, and recover.
        """
        if not self._sizes:
            self._sizes[0] = 0
        segment = max(self._sizes)
        frames: list[bytes] = []
        positions: list[Position] = []
        offset = self._sizes[segment]
        for payload in payloads:
            frames.append(frame(payload))
            positions.append(Position(segment, offset, HEAD_BYTES + len(payload)))
            offset += HEAD_BYTES + len(payload)
        self._directory.append(self._name(segment), b"".join(frames))
        self._sizes[segment] = offset
        self._dirty.add(segment)
        return positions

    def sync(self) -> None:
        """Makes all appended entries durable.

        Raises:
            OSError: the sync failed. Never retry it: the kernel may have dropped the pages.
        """
        if self._dirty:
            self._directory.sync([self._name(segment) for segment in sorted(self._dirty)])
            self._dirty.clear()

    def roll(self) -> None:
        """Begins a new segment; it exists from its first entry on."""
        self._sizes[max(self._sizes, default=-1) + 1] = 0

    def drop(self, segment: int) -> None:
        """Removes a segment and its entries."""
        self._directory.remove(self._name(segment))
        del self._sizes[segment]
        self._dirty.discard(segment)

    def entries(self, segment: int, offset: int = 0) -> Iterator[tuple[Position, bytes]]:
        """The entries of a segment from `offset` on, up to the first damaged one."""
        if self._sizes[segment]:
            yield from self._frames(segment, self._directory.read(self._name(segment)), offset)

    def read(self, position: Position) -> bytes | None:
        """One entry, or None if it is damaged."""
        name = self._name(position.segment)
        data = self._directory.read(name, position.offset, position.size)
        for _, payload in self._frames(position.segment, data, 0):
            return payload
        return None

    def _frames(self, segment: int, data: bytes, offset: int) -> Iterator[tuple[Position, bytes]]:
        while offset + HEAD_BYTES <= len(data):
            head = data[offset : offset + HEAD_BYTES]
            size = HEAD_BYTES + payload_size(head)
            payload = data[offset + HEAD_BYTES : offset + size]
            if not is_whole(head, payload):
                return
            yield Position(segment, offset, size), payload
            offset += size

    def _keep_damaged(self, name: str, data: bytes) -> None:
        kept = [one for one in self._directory.names() if one.endswith(_DAMAGED)]
        for oldest in kept[: max(0, len(kept) - DAMAGED_KEPT + 1)]:
            self._directory.remove(oldest)
        if self._directory.free_bytes() < _COPY_ROOM * len(data):
            return  # a full card is what tears writes; the copy must not keep us from going on
        self._directory.put(f"{name}.{len(data)}{_DAMAGED}", data)

    def _name(self, segment: int) -> str:
        return f"{self._prefix}-{segment:08d}.log"
