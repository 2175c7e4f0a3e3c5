"""Marks that no other protocol makes: they tell a line none of whose messages is good, and a bus on
which others are asked.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from hal.index.linky import HISTORIC, STANDARD
from hal.index.linky import checksum as linky_checksum
from hal.index.modbus_frame import ERROR_BIT
from hal.index.modbus_frame import checksum as modbus_checksum

SEVEN_BITS = bytes(value & 0x7F for value in range(256))  # of each character, without its parity
_GROUP = re.compile(rb"\n?([A-Z0-9+-]{3,9})([ \t])([^\r\n]{0,120})\r?")
_LABELS = frozenset(HISTORIC) | frozenset(STANDARD)
_OBIS_LINE = re.compile(
    rb"[01]-[0-9]:[0-9]{1,2}\.[0-9]{1,2}\.[0-9]{1,2}(?:\*255)?\([^()\r\n]{0,64}\)"
)
# Of P1 alone: the port's version, the clock with its season, and how a telegram ends.
_P1_LINE = re.compile(rb"1-3:0\.2\.8\(|0-0:1\.0\.0\([0-9]{12}[SW]\)|!(?:[0-9A-F]{4}\r?\n)")
_P1_CIPHERED = re.compile(rb"\xdb\x08.{8}\x82", re.DOTALL)
_D0_LINE = re.compile(rb"[0-9A-F]{1,3}\.[0-9]{1,2}(?:\.[0-9]{1,2})?\([^()\r\n]{0,64}\)")
_SML_MARK = b"\x1b\x1b\x1b\x1b"


def marks_in(data: bytes) -> tuple[str, int]:
    """The driver for which most speaks, and how many marks do."""
    bare = data.translate(SEVEN_BITS)
    counts = {
        "linky": sum(_is_group(*one.groups()) for one in _GROUP.finditer(bare)),
        "sml": data.count(_SML_MARK),
        "p1": len(_P1_CIPHERED.findall(data)),
    }
    lines = len(_OBIS_LINE.findall(bare))
    if _P1_LINE.search(bare):
        counts["p1"] += lines
    else:
        counts["d0"] = len(_D0_LINE.findall(bare))
    most = max(counts, key=lambda driver: counts[driver])
    return most, counts[most]


def _is_group(label: bytes, separator: bytes, rest: bytes) -> bool:
    """Whether this is a group of a Linky, by its label and its sum; also if what it came through
    made spaces of its tabulators."""
    if label.decode("ascii") not in _LABELS or len(rest) < 2:
        return False
    if separator == b"\t":
        return rest[-1] == linky_checksum(label + separator + rest[:-1])
    summed = label + separator + rest[:-2], b"%b\t%b\t" % (label, rest[:-2])
    return rest[-1] in map(linky_checksum, summed)


@dataclass(frozen=True, slots=True)
class Bus:
    """What was found of Modbus RTU in a line.

    Attributes:
        covered: bytes of whole frames.
        frames: address, and what kind of frame it is; as often as it was there.
    """

    covered: int
    frames: dict[tuple[int, str], int]


_READS, _MODBUS_REQUEST, _MODBUS_ERROR = (3, 4), 8, 5
_MODBUS_HEAD, _MODBUS_SUM, _MODBUS_REGISTERS_MAX = 3, 2, 125


def modbus_in(data: bytes) -> Bus:
    """Every whole frame that reads registers, or answers to it, under its sum."""
    frames: dict[tuple[int, str], int] = {}
    at = covered = 0
    while at <= len(data) - _MODBUS_ERROR:
        size, kind = next(
            (
                (size, kind)
                for size, kind in _modbus_frames(data, at)
                if at + size <= len(data)
                and modbus_checksum(data[at : at + size - _MODBUS_SUM])
                == data[at + size - _MODBUS_SUM : at + size]
            ),
            (0, ""),
        )
        if size:
            frames[data[at], kind] = frames.get((data[at], kind), 0) + 1
            covered += size
        at += size or 1
    return Bus(covered, frames)


def _modbus_frames(data: bytes, at: int) -> Iterator[tuple[int, str]]:
    """What may begin here: its length, and what it is."""
    address, function, count = data[at : at + _MODBUS_HEAD]
    if not 1 <= address <= 247:
        return
    if function & ~ERROR_BIT not in _READS:
        return
    if function & ERROR_BIT:
        yield _MODBUS_ERROR, "errors"
        return
    if not count % 2 and 1 <= count // 2 <= _MODBUS_REGISTERS_MAX:
        yield _MODBUS_HEAD + count + _MODBUS_SUM, "answers"
    yield _MODBUS_REQUEST, "questions"
